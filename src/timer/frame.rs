//! One notification: bytes in, a frame or the reason why not.
//!
//! All integers are unsigned and big-endian. A low byte of zero is nothing special: widely
//! copied decoders add 2.56 s there.
use std::fmt;

/// A time of the timer, in hundredths of a second since the beep (0 … 655.35 s).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Centis(pub u16);

impl Centis {
    /// Seconds.
    #[must_use]
    pub fn seconds(self) -> f64 {
        f64::from(self.0) / 100.0
    }
    /// As a span.
    #[must_use]
    pub fn span(self) -> crate::units::Nanos {
        crate::units::Nanos::from_millis(i64::from(self.0) * 10)
    }
}

impl fmt::Display for Centis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

/// The body that SHOT, STOP and screen replies share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shot {
    /// Its number in the string, from 1.
    pub shot: u8,
    /// Shots of the string so far.
    pub total: u8,
    /// Since the beep.
    pub time: Centis,
    /// Since the shot before; of shot 1, since the beep.
    pub split: Centis,
    /// Time of the string's first shot.
    pub first: Centis,
    /// Time of the string's last shot; of a live frame, its own.
    pub last: Centis,
}

/// What one notification says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The beep. Only the string number is new; the body is what was left of the last string.
    Start {
        /// The new string's number; `None` in the two-byte form.
        string: Option<u16>,
        /// The previous string's total, first and last.
        stale: Shot,
    },
    /// A shot, as it falls.
    Shot {
        /// The string's number.
        string: u16,
        /// What it says.
        body: Shot,
    },
    /// The string is over; the body repeats its last shot.
    Stop {
        /// The string's number; `None` in the two-byte form.
        string: Option<u16>,
        /// The last shot once more.
        body: Shot,
    },
    /// The reply to `REQ SCREEN HEX`.
    Screen(Shot),
    /// One packet of the reply to `REQ STRING HEX`.
    List {
        /// 0 for the first packet … 16.
        index: u8,
        /// Times since the beep, at most nine.
        times: Vec<Centis>,
    },
    /// Printable ASCII.
    Text(String),
    /// Anything else, kept as it came.
    Unknown,
}

/// What is wrong with a frame that could be read all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// The shot's number is above the total.
    NumberAboveTotal,
    /// A shot without a number.
    NumberZero,
    /// The last shot's time is not its own.
    LastIsNotTime,
    /// The string's first shot is later than this one.
    FirstAfterTime,
    /// Of shot 1, time, split and first are one.
    FirstShotDiffers,
    /// The split is longer than the time.
    SplitAboveTime,
    /// A start with a shot in it.
    StartWithShot,
    /// The times of a list go backwards.
    ListFalls,
    /// More bytes than the kind has.
    LongTail,
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NumberAboveTotal => "shot number above the total",
            Self::NumberZero => "shot number 0",
            Self::LastIsNotTime => "time of the last shot is not this shot's",
            Self::FirstAfterTime => "first shot later than this one",
            Self::FirstShotDiffers => "time, split and first of shot 1 differ",
            Self::SplitAboveTime => "split longer than the time",
            Self::StartWithShot => "start with a shot in it",
            Self::ListFalls => "times of the list go backwards",
            Self::LongTail => "longer than its kind",
        })
    }
}

/// A frame with what is doubtful about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// What it says.
    pub frame: Frame,
    /// What it contradicts in itself.
    pub doubts: Vec<Doubt>,
}

impl Decoded {
    /// The frame contradicts itself: its values are shown but prove nothing.
    #[must_use]
    pub fn suspect(&self) -> bool {
        self.doubts.iter().any(|d| *d != Doubt::LongTail)
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn body(bytes: &[u8]) -> Shot {
    Shot {
        shot: bytes[2],
        total: bytes[3],
        time: Centis(u16_at(bytes, 4)),
        split: Centis(u16_at(bytes, 6)),
        first: Centis(u16_at(bytes, 8)),
        last: Centis(u16_at(bytes, 10)),
    }
}

fn doubts_of(b: &Shot) -> Vec<Doubt> {
    let mut doubts = Vec::new();
    let mut note = |wrong: bool, doubt| {
        if wrong {
            doubts.push(doubt);
        }
    };
    note(b.shot == 0, Doubt::NumberZero);
    note(b.shot > b.total, Doubt::NumberAboveTotal);
    note(b.shot == b.total && b.time != b.last, Doubt::LastIsNotTime);
    note(b.first > b.time, Doubt::FirstAfterTime);
    note(b.split > b.time, Doubt::SplitAboveTime);
    note(b.shot == 1 && (b.split != b.time || b.first != b.time), Doubt::FirstShotDiffers);
    doubts
}

/// Reads one notification. Never fails: what cannot be read is [`Frame::Unknown`].
#[must_use]
pub fn decode(bytes: &[u8]) -> Decoded {
    let sure = |frame| Decoded { frame, doubts: Vec::new() };
    let nothing = Shot::default();
    match *bytes {
        [0x01, 0x05] => sure(Frame::Start { string: None, stale: nothing }),
        [0x01, 0x08] => sure(Frame::Stop { string: None, body: nothing }),
        [0x01, state, ..] if bytes.len() == 12 && matches!(state, 0x01 | 0x03 | 0x05 | 0x08) => {
            let shot = body(bytes);
            // Before the first string the screen is empty.
            let doubts = if shot == nothing { Vec::new() } else { doubts_of(&shot) };
            Decoded { frame: Frame::Screen(shot), doubts }
        }
        [0x01, state, ..] if bytes.len() >= 14 => push(state, bytes),
        [code @ 0x0A..=0x1A, count @ 0..=9, ..] if bytes.len() >= 2 + 2 * usize::from(count) => {
            let used = 2 + 2 * usize::from(count);
            let times: Vec<_> =
                bytes[2..used].chunks_exact(2).map(|b| Centis(u16_at(b, 0))).collect();
            let mut doubts = Vec::new();
            if times.windows(2).any(|w| w[0] > w[1]) {
                doubts.push(Doubt::ListFalls);
            }
            if bytes.len() > used {
                doubts.push(Doubt::LongTail);
            }
            Decoded { frame: Frame::List { index: code - 0x0A, times }, doubts }
        }
        [0x20..=0x7E, ..]
            if bytes.iter().all(|b| matches!(b, 0x20..=0x7E | b'\r' | b'\n' | b'\t')) =>
        {
            sure(Frame::Text(String::from_utf8_lossy(bytes).trim_end().to_owned()))
        }
        _ => sure(Frame::Unknown),
    }
}

fn push(state: u8, bytes: &[u8]) -> Decoded {
    let shot = body(bytes);
    let string = u16_at(bytes, 12);
    let (frame, mut doubts) = match state {
        0x03 => (Frame::Shot { string, body: shot }, doubts_of(&shot)),
        0x05 => {
            let with_shot = shot.shot != 0 || shot.time.0 != 0 || shot.split.0 != 0;
            let doubts = if with_shot { vec![Doubt::StartWithShot] } else { Vec::new() };
            (Frame::Start { string: Some(string), stale: shot }, doubts)
        }
        0x08 => {
            // A string stopped without a shot has an empty body, or the last one's leftovers.
            let doubts = if shot.shot == 0 { Vec::new() } else { doubts_of(&shot) };
            (Frame::Stop { string: Some(string), body: shot }, doubts)
        }
        _ => return Decoded { frame: Frame::Unknown, doubts: Vec::new() },
    };
    if bytes.len() > 14 {
        doubts.push(Doubt::LongTail);
    }
    Decoded { frame, doubts }
}

/// Lower-case hex, as frames are kept and shown.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Bytes from hex; spaces, colons, dashes and a leading `0x` are tolerated.
///
/// # Errors
/// A sentence naming what is wrong.
pub fn from_hex(text: &str) -> Result<Vec<u8>, String> {
    let text = text.trim();
    let text = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    let mut digits = Vec::with_capacity(text.len());
    for c in text.chars().filter(|c| !matches!(c, ' ' | ':' | '-')) {
        let digit = c.to_digit(16).ok_or_else(|| format!("{c:?} is no hex digit"))?;
        digits.push(digit as u8);
    }
    if digits.is_empty() {
        return Err("no hex".into());
    }
    if digits.len() % 2 == 1 {
        return Err(format!("odd number of hex digits ({})", digits.len()));
    }
    Ok(digits.chunks_exact(2).map(|d| d[0] << 4 | d[1]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Decoded {
        decode(&from_hex(text).unwrap())
    }

    #[test]
    fn a_low_byte_of_zero_adds_nothing() {
        let Frame::Shot { body, .. } = read("01030101010001000100010000 07").frame else {
            panic!()
        };
        assert_eq!(body.time, Centis(256));
    }

    #[test]
    fn ten_minutes_are_not_negative() {
        let Frame::Shot { body, .. } = read("01030101ea60ea60ea60ea600007").frame else { panic!() };
        assert!((body.time.seconds() - 600.0).abs() < 1e-9);
    }

    #[test]
    fn the_screen_reply_has_no_string_number() {
        let read = read("01010505015a0021007c015a");
        assert_eq!(read.doubts, []);
        let Frame::Screen(s) = read.frame else { panic!() };
        assert_eq!((s.shot, s.total), (5, 5));
        assert_eq!([s.time, s.split, s.first, s.last].map(|c| c.0), [346, 33, 124, 346]);
    }

    #[test]
    fn an_unknown_state_is_not_guessed() {
        assert_eq!(read("0104010100e500e500e500e50001").frame, Frame::Unknown);
        assert_eq!(read("0103010100e500e500e500e500").frame, Frame::Unknown);
        assert_eq!(read("0103").frame, Frame::Unknown);
        assert_eq!(decode(&[]).frame, Frame::Unknown);
    }

    #[test]
    fn short_forms_and_long_tails_are_tolerated() {
        assert!(matches!(read("0105").frame, Frame::Start { string: None, .. }));
        assert!(matches!(read("0108").frame, Frame::Stop { string: None, .. }));
        let long = read("0103010100e500e500e500e50001ffff");
        assert!(matches!(long.frame, Frame::Shot { string: 1, .. }));
        assert!(!long.suspect() && long.doubts == [Doubt::LongTail]);
    }

    #[test]
    fn a_list_packet_carries_cumulative_times() {
        let Frame::List { index, times } = read("0b03 0049 0080 00b8").frame else { panic!() };
        assert_eq!(index, 1);
        assert_eq!(times, [Centis(73), Centis(128), Centis(184)]);
        assert_eq!(read("0a03 0049 0080").frame, Frame::Unknown); // cut short
        assert_eq!(read("0a0a").frame, Frame::Unknown);
    }

    #[test]
    fn text_is_printable_ascii() {
        assert_eq!(decode(b"SHOT 5 3.46\r\n").frame, Frame::Text("SHOT 5 3.46".into()));
        assert_eq!(decode(&[0x41, 0xFF]).frame, Frame::Unknown);
    }

    #[test]
    fn every_flipped_bit_in_the_times_of_a_last_shot_is_doubted() {
        let good = from_hex("010304040151009900490151 0004").unwrap();
        for bit in 4 * 8..6 * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bad).suspect(), "bit {bit}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = decode(&bytes);
        }
        #[test]
        fn hex_and_back(bytes in proptest::collection::vec(proptest::num::u8::ANY, 1..40)) {
            proptest::prop_assert_eq!(from_hex(&hex(&bytes)).unwrap(), bytes);
        }
    }
}
