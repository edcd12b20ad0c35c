//! A light of the board that says how the clock is. The kernel blinks: it costs no wake-up.
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What the light says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Light {
    /// The time is verified.
    Solid,
    /// The time is carried on without a server.
    SlowBlink,
    /// The time is unknown, or nobody confirms it.
    FastBlink,
}

impl Light {
    /// How long it is dark and lit in turn, ms.
    const fn half_period_ms(self) -> Option<u32> {
        match self {
            Self::Solid => None,
            Self::SlowBlink => Some(1_000),
            Self::FastBlink => Some(125),
        }
    }
}

/// "none mmc0 [heartbeat] timer": the one in force stands in brackets.
fn chosen(triggers: &str) -> &str {
    let now = triggers.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    now.map_or("none", |(now, _)| now)
}

/// A light of the board, as `ACT`. Goes back to what it did before when dropped.
#[derive(Debug)]
pub struct Led {
    dir: PathBuf,
    trigger_before: String,
    shown: Option<Light>,
}

impl Led {
    /// Takes the light `name` of `/sys/class/leds`.
    ///
    /// # Errors
    /// A sentence when there is no such light or it may not be written.
    pub fn open(name: &str) -> io::Result<Self> {
        Self::open_in(Path::new("/sys/class/leds"), name)
    }

    fn open_in(leds: &Path, name: &str) -> io::Result<Self> {
        let about = |e: io::Error| io::Error::new(e.kind(), format!("the light {name}: {e}"));
        if name.is_empty() || name.contains('/') || name.starts_with('.') {
            return Err(about(io::Error::new(io::ErrorKind::InvalidInput, "not the name of one")));
        }
        let dir = leds.join(name);
        let triggers = fs::read_to_string(dir.join("trigger")).map_err(about)?;
        if !triggers.split_whitespace().any(|t| t.trim_matches(['[', ']']) == "timer") {
            let why = "the kernel cannot make it blink; sudo modprobe ledtrig-timer";
            return Err(about(io::Error::new(io::ErrorKind::Unsupported, why)));
        }
        let trigger_before = chosen(&triggers).to_owned();
        fs::OpenOptions::new().write(true).open(dir.join("trigger")).map_err(about)?;
        Ok(Self { dir, trigger_before, shown: None })
    }

    /// Shows `light`; writes nothing when it does already.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn show(&mut self, light: Light) -> io::Result<()> {
        if self.shown == Some(light) {
            return Ok(());
        }
        let write = |file: &str, text: &str| fs::write(self.dir.join(file), text);
        match light.half_period_ms() {
            None => {
                write("trigger", "none")?;
                let brightest = fs::read_to_string(self.dir.join("max_brightness"));
                write("brightness", brightest.as_deref().map_or("255", str::trim))?;
            }
            Some(ms) => {
                // The files of the blinking appear with its trigger, and are root's until udev was
                // there: what failed then is tried again, and the trigger must not make them anew.
                if chosen(&fs::read_to_string(self.dir.join("trigger"))?) != "timer" {
                    write("trigger", "timer")?;
                }
                write("delay_on", &ms.to_string())?;
                write("delay_off", &ms.to_string())?;
            }
        }
        self.shown = Some(light);
        Ok(())
    }
}

impl Drop for Led {
    fn drop(&mut self) {
        let _ = fs::write(self.dir.join("trigger"), &self.trigger_before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_light_says_how_the_clock_is_and_goes_back_to_its_old_work() {
        let leds = tempfile::tempdir().unwrap();
        let act = leds.path().join("ACT");
        fs::create_dir(&act).unwrap();
        fs::write(act.join("trigger"), "none timer [mmc0] heartbeat\n").unwrap();
        fs::write(act.join("max_brightness"), "1\n").unwrap();
        let read = |file: &str| fs::read_to_string(act.join(file)).unwrap_or_default();
        let mut led = Led::open_in(leds.path(), "ACT").unwrap();
        led.show(Light::FastBlink).unwrap();
        assert_eq!((read("trigger").as_str(), read("delay_on").as_str()), ("timer", "125"));
        led.show(Light::SlowBlink).unwrap();
        assert_eq!((read("delay_on").as_str(), read("delay_off").as_str()), ("1000", "1000"));
        led.show(Light::Solid).unwrap();
        assert_eq!((read("trigger").as_str(), read("brightness").as_str()), ("none", "1"));
        fs::write(act.join("brightness"), "untouched").unwrap();
        led.show(Light::Solid).unwrap();
        assert_eq!(read("brightness"), "untouched");
        drop(led);
        assert_eq!(read("trigger"), "mmc0");
    }

    #[test]
    fn what_udev_has_not_given_us_yet_is_tried_again_without_a_new_trigger() {
        let leds = tempfile::tempdir().unwrap();
        let act = leds.path().join("ACT");
        fs::create_dir_all(act.join("delay_on")).unwrap();
        fs::write(act.join("trigger"), "none timer [mmc0]\n").unwrap();
        let mut led = Led::open_in(leds.path(), "ACT").unwrap();
        assert!(led.show(Light::SlowBlink).is_err(), "the file may not be written yet");
        let triggers = "none [timer] mmc0\n";
        fs::write(act.join("trigger"), triggers).unwrap();
        fs::remove_dir(act.join("delay_on")).unwrap();
        led.show(Light::SlowBlink).unwrap();
        assert_eq!(fs::read_to_string(act.join("trigger")).unwrap(), triggers, "chosen twice");
        assert_eq!(fs::read_to_string(act.join("delay_on")).unwrap(), "1000");
        drop(led);
        assert_eq!(fs::read_to_string(act.join("trigger")).unwrap(), "mmc0");
    }

    #[test]
    fn a_kernel_that_cannot_blink_is_named_with_what_to_do() {
        let leds = tempfile::tempdir().unwrap();
        fs::create_dir(leds.path().join("ACT")).unwrap();
        fs::write(leds.path().join("ACT/trigger"), "[none] mmc0\n").unwrap();
        let e = Led::open_in(leds.path(), "ACT").unwrap_err();
        assert!(e.to_string().contains("ledtrig-timer"), "{e}");
    }

    #[test]
    fn a_light_that_is_not_there_is_a_sentence() {
        let leds = tempfile::tempdir().unwrap();
        for name in ["ACT", "", "../ACT", "a/b"] {
            let e = Led::open_in(leds.path(), name).unwrap_err();
            assert!(e.to_string().starts_with("the light"), "{e}");
        }
    }
}
