//! What may be written to the timer: ASCII, no terminator.

/// Ask for the string's times; after STOP only.
pub const REQ_STRING: &str = "REQ STRING HEX";

/// Settles a command's spelling, or says why the timer does not know it.
///
/// # Errors
/// A sentence with the form that was expected.
pub fn checked(text: &str) -> Result<String, String> {
    let upper = text.trim().to_ascii_uppercase();
    let words: Vec<&str> = upper.split_ascii_whitespace().collect();
    let number = |text: &str, digits: usize, low: u32, high: u32| -> Result<String, String> {
        let n = text.parse::<u32>().ok().filter(|n| (low..=high).contains(n));
        let wrong = || format!("{text} is not a number from {low} to {high}");
        n.map(|n| format!("{n:0digits$}")).ok_or_else(wrong)
    };
    Ok(match words[..] {
        ["COM", "START" | "STOP"]
        | ["REQ", "SCREEN" | "STRING", "TEXT" | "HEX"]
        | ["REQ", "SETTINGS"] => words.join(" "),
        ["SET", "SENSITIVITY", n] => format!("SET SENSITIVITY {}", number(n, 2, 1, 10)?),
        ["SET", "ECHO", "DELAY", n] => format!("SET ECHO DELAY {}", number(n, 3, 5, 100)?),
        ["SET", "BEEP", "VOLUME", n] => format!("SET BEEP VOLUME {}", number(n, 1, 0, 3)?),
        ["SET", "PRESET", n] => format!("SET PRESET {}", number(n, 1, 1, 5)?),
        ["SET", "DELAY", kind, low, high] => format!(
            "SET DELAY {} {} {}",
            number(kind, 1, 0, 2)?,
            number(low, 4, 0, 9999)?,
            number(high, 3, 0, 999)?
        ),
        ["SET", "PAR", "TYPE", n] => format!("SET PAR TYPE {}", number(n, 1, 0, 3)?),
        ["SET", "PAR", "TIME", n, time] => {
            format!("SET PAR TIME {} {}", number(n, 1, 1, 3)?, number(time, 5, 0, 99_999)?)
        }
        _ => {
            return Err(format!(
                "the timer knows no {:?}; it knows COM START, COM STOP, SET SENSITIVITY 01..10, \
                 SET ECHO DELAY 005..100, SET BEEP VOLUME 0..3, SET PRESET 1..5, \
                 SET DELAY 0..2 YYYY ZZZ, SET PAR TYPE 0..3, SET PAR TIME 1..3 YYYYY, \
                 REQ SCREEN TEXT|HEX, REQ STRING TEXT|HEX and REQ SETTINGS",
                text.trim()
            ));
        }
    })
}

/// The timer takes it only while no string runs.
#[must_use]
pub fn needs_stopped(command: &str) -> bool {
    command.starts_with("SET ") || command.starts_with("REQ STRING")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_commands_get_their_digits() {
        assert_eq!(checked("set sensitivity 5").unwrap(), "SET SENSITIVITY 05");
        assert_eq!(checked("SET ECHO  DELAY 20").unwrap(), "SET ECHO DELAY 020");
        assert_eq!(checked("SET DELAY 2 0150 400").unwrap(), "SET DELAY 2 0150 400");
        assert_eq!(checked("SET PAR TIME 1 150").unwrap(), "SET PAR TIME 1 00150");
        assert_eq!(checked(" req string hex ").unwrap(), REQ_STRING);
    }

    #[test]
    fn unknown_ones_are_refused_with_the_list() {
        for bad in ["", "SET SENSITIVITY", "SET SENSITIVITY 11", "FORMAT C:", "SET PRESET -1"] {
            assert!(checked(bad).is_err(), "{bad}");
        }
        assert!(checked("SET SENSITIVITY 11").unwrap_err().contains("from 1 to 10"));
    }
}
