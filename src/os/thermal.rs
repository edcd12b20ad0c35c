//! The processor's thermometer.
use std::path::Path;

/// The temperature in °C from a file that holds millidegrees, as the kernel's do. `None` when it
/// cannot be read or says what no running processor can be.
#[must_use]
pub fn read_celsius_from(path: &Path) -> Option<f64> {
    let celsius = std::fs::read_to_string(path).ok()?.trim().parse::<i32>().ok()?;
    let celsius = f64::from(celsius) / 1_000.0;
    (-60.0..=150.0).contains(&celsius).then_some(celsius)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thermometer_that_is_absent_or_absurd_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let zone = dir.path().join("temp");
        assert_eq!(read_celsius_from(&zone), None);
        for (text, celsius) in [
            ("48312\n", Some(48.312)),
            ("-5000\n", Some(-5.0)),
            ("", None),
            ("warm\n", None),
            ("999999\n", None),
            ("nan\n", None),
        ] {
            std::fs::write(&zone, text).unwrap();
            assert_eq!(read_celsius_from(&zone), celsius, "{text:?}");
        }
    }
}
