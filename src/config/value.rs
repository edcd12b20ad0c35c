//! Values as people write them: "5min", "20ms", "60:09:C3:00:00:01".
use crate::units::{Nanos, Ppm};
use serde::de::{Deserialize, Deserializer, Error, Visitor};
use std::fmt;
use std::path::PathBuf;

/// Units from the longest down; each is `(name, nanoseconds)`.
const UNITS: [(&str, i64); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("min", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Reads a span of time: a number with its unit (d, h, min, s, ms, us, ns), or several of them
/// ("1h30min"). Decimal fractions are exact to a nanosecond.
///
/// # Errors
/// Says in a sentence what is wrong.
pub fn parse_span(text: &str) -> Result<Nanos, String> {
    let example =
        "write a number and its unit (d, h, min, s, ms, us), such as \"5min\" or \"20ms\"";
    let (negative, mut rest) = match text.trim().strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.trim()),
    };
    if rest.is_empty() {
        return Err(format!("\"{text}\" is not a span of time: {example}"));
    }
    let mut total: i64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let after = after.trim_start();
        let letters = after.find(|c: char| !c.is_alphabetic()).unwrap_or(after.len());
        let (unit, next) = after.split_at(letters);
        rest = next.trim_start();
        if number.is_empty() || number.starts_with('.') || number.ends_with('.') {
            return Err(format!("\"{text}\" is not a span of time: {example}"));
        }
        let scale = match unit {
            "" => return Err(format!("\"{text}\" has no unit: {example}")),
            "µs" | "μs" => 1_000,
            "sec" | "second" | "seconds" => 1_000_000_000,
            "m" | "minute" | "minutes" => 60_000_000_000,
            "hour" | "hours" => 3_600_000_000_000,
            "day" | "days" => 86_400_000_000_000,
            _ => UNITS
                .iter()
                .find(|(name, _)| *name == unit)
                .map(|&(_, scale)| scale)
                .ok_or_else(|| format!("\"{text}\" has the unknown unit {unit}: {example}"))?,
        };
        total = exact(number, scale)
            .and_then(|part| total.checked_add(part))
            .ok_or_else(|| format!("\"{text}\" cannot be kept: too long, or finer than 1 ns"))?;
    }
    Ok(Nanos::new(if negative { -total } else { total }))
}

/// `number` (digits, at most one point) times `scale`, if it is a whole number of nanoseconds.
fn exact(number: &str, scale: i64) -> Option<i64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let divisor = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let product = digits.checked_mul(i128::from(scale))?;
    (product % divisor == 0).then_some(product / divisor).and_then(|ns| i64::try_from(ns).ok())
}

/// Writes a span as [`parse_span`] reads it, in the largest unit that leaves no fraction.
#[must_use]
pub fn write_span(span: Nanos) -> String {
    let ns = span.get();
    let scale = |unit: &&(&str, i64)| ns % unit.1 == 0;
    match UNITS.iter().filter(|unit| unit.0 != "d" || ns > UNITS[0].1).find(scale) {
        Some((name, unit)) if ns != 0 => format!("{}{name}", ns / unit),
        _ => "0s".into(),
    }
}

/// A text with what a sentence calls it when something else stands there.
struct Text(&'static str);

impl Visitor<'_> for Text {
    type Value = String;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
        Ok(text.into())
    }
}

const SPAN: &str = "a span of time with its unit in quotes, such as \"5min\" or \"20ms\"";

/// A span within bounds (ns).
pub fn span<'de, D: Deserializer<'de>, const LOW: i64, const HIGH: i64>(
    from: D,
) -> Result<Nanos, D::Error> {
    let span = parse_span(&from.deserialize_str(Text(SPAN))?).map_err(Error::custom)?;
    within(span, LOW, HIGH).map_err(Error::custom)
}

/// A span within bounds (ns), or an empty text for none.
pub fn optional_span<'de, D: Deserializer<'de>, const LOW: i64, const HIGH: i64>(
    from: D,
) -> Result<Option<Nanos>, D::Error> {
    let text = from.deserialize_str(Text(SPAN))?;
    if text.is_empty() {
        return Ok(None);
    }
    let span = parse_span(&text).map_err(Error::custom)?;
    within(span, LOW, HIGH).map(Some).map_err(Error::custom)
}

/// Up to 150 rising spans of at most ten minutes.
pub fn spans<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Nanos>, D::Error> {
    struct Item(Nanos);
    impl<'de> Deserialize<'de> for Item {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            span::<D, 0, { 600 * 1_000_000_000 }>(from).map(Self)
        }
    }
    let spans: Vec<Nanos> = Vec::<Item>::deserialize(from)?.into_iter().map(|i| i.0).collect();
    if spans.len() > 150 {
        return Err(Error::custom(format!("at most 150 times are possible, not {}", spans.len())));
    }
    if spans.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err(Error::custom("the times must rise from one shot to the next"));
    }
    Ok(spans)
}

fn within(span: Nanos, low: i64, high: i64) -> Result<Nanos, String> {
    let (is, low, high) = (span.get(), Nanos::new(low), Nanos::new(high));
    if (low.get()..=high.get()).contains(&is) {
        return Ok(span);
    }
    let wrong = if is < low.get() { "too short" } else { "too long" };
    let (low, high) = (write_span(low), write_span(high));
    Err(format!("\"{}\" is {wrong}: it must be from \"{low}\" to \"{high}\"", write_span(span)))
}

/// A whole number within bounds.
pub fn bounded<'de, D: Deserializer<'de>, const LOW: i64, const HIGH: i64>(
    from: D,
) -> Result<u32, D::Error> {
    struct Whole;
    impl Visitor<'_> for Whole {
        type Value = i64;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a whole number")
        }
        fn visit_i64<E: Error>(self, n: i64) -> Result<i64, E> {
            Ok(n)
        }
        fn visit_u64<E: Error>(self, n: u64) -> Result<i64, E> {
            Ok(i64::try_from(n).unwrap_or(i64::MAX))
        }
    }
    let n = from.deserialize_i64(Whole)?;
    match u32::try_from(n) {
        Ok(small) if (LOW..=HIGH).contains(&n) => Ok(small),
        _ => Err(Error::custom(format!("{n} is out of bounds: it must be from {LOW} to {HIGH}"))),
    }
}

/// A rate within bounds (ppm).
pub fn ppm<'de, D: Deserializer<'de>, const LOW: i64, const HIGH: i64>(
    from: D,
) -> Result<Ppm, D::Error> {
    struct Number;
    impl Visitor<'_> for Number {
        type Value = f64;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number of parts per million")
        }
        fn visit_f64<E: Error>(self, n: f64) -> Result<f64, E> {
            Ok(n)
        }
        fn visit_i64<E: Error>(self, n: i64) -> Result<f64, E> {
            Ok(n as f64)
        }
    }
    let n = from.deserialize_f64(Number)?;
    if n >= LOW as f64 && n <= HIGH as f64 {
        Ok(Ppm::new(n))
    } else {
        Err(Error::custom(format!("{n} is out of bounds: it must be from {LOW} to {HIGH}")))
    }
}

/// A text of so many characters, none of them a control character.
pub fn length<'de, D: Deserializer<'de>, const LOW: usize, const HIGH: usize>(
    from: D,
) -> Result<String, D::Error> {
    let text = from.deserialize_str(Text("a text in quotes"))?;
    let n = text.chars().count();
    if text.chars().any(char::is_control) {
        Err(Error::custom("the text holds control characters"))
    } else if n < LOW {
        Err(Error::custom("the text must not be empty"))
    } else if n > HIGH {
        Err(Error::custom(format!("the text has {n} characters; at most {HIGH} are possible")))
    } else {
        Ok(text)
    }
}

/// A path that does not depend on where the program was started.
pub fn absolute_path<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
    absolute(from.deserialize_str(Text(PATH))?).map_err(Error::custom)
}

/// The same, or nothing.
pub fn optional_path<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
    let text = from.deserialize_str(Text(PATH))?;
    if text.is_empty() { Ok(PathBuf::new()) } else { absolute(text).map_err(Error::custom) }
}

const PATH: &str = "a path in quotes";

fn absolute(text: String) -> Result<PathBuf, String> {
    if text.starts_with('/') && !text.contains('\0') {
        Ok(text.into())
    } else {
        Err(format!("\"{text}\" must be an absolute path (beginning with /)"))
    }
}

/// Six bytes in hexadecimal with colons, made capitals; or nothing.
pub fn bluetooth_address<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let text = from.deserialize_str(Text("a Bluetooth address such as \"60:09:C3:00:00:01\""))?;
    let byte = |part: &str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
    if text.is_empty() || (text.split(':').count() == 6 && text.split(':').all(byte)) {
        Ok(text.to_ascii_uppercase())
    } else {
        Err(Error::custom(format!(
            "\"{text}\" is not a Bluetooth address: write six bytes, such as \"60:09:C3:00:00:01\""
        )))
    }
}
