//! What values must and should be to one another.
use super::{Config, MAX_SERVERS, ServerEntry, write_span};
use std::collections::BTreeSet;

impl Config {
    /// The first value that contradicts another: its key, and a sentence.
    pub(super) fn contradiction(&self) -> Option<(String, String)> {
        self.servers_wrong().or_else(|| self.limits_wrong()).or_else(|| self.timers_wrong())
    }

    fn servers_wrong(&self) -> Option<(String, String)> {
        let ntp = &self.ntp;
        let key = |key: &str| format!("ntp.{key}");
        if ntp.enabled && ntp.servers.is_empty() {
            let sentence = "no server is named; name 1 to 16, or say enabled = false";
            return Some((key("servers"), sentence.into()));
        }
        if ntp.servers.len() > MAX_SERVERS {
            let n = ntp.servers.len();
            let sentence = format!("{n} servers are named, but at most {MAX_SERVERS} are possible");
            return Some((key("servers"), sentence));
        }
        let mut seen = BTreeSet::new();
        for (index, server) in ntp.servers.iter().enumerate() {
            if !seen.insert((server.host().to_ascii_lowercase(), server.port())) {
                let sentence = format!("{} is named twice", server.text());
                return Some((key(&format!("servers.{index}")), sentence));
            }
        }
        let most = ntp.servers.iter().map(|s| if s.is_pool() { 4 } else { 1 }).sum::<u32>().max(2);
        if ntp.enabled && ntp.min_agreeing > most {
            let sentence = format!("{} can never agree: only {most} are asked", ntp.min_agreeing);
            return Some((key("min_agreeing"), sentence));
        }
        if ntp.timeout > ntp.sync_interval {
            let interval = write_span(ntp.sync_interval);
            return Some((key("timeout"), format!("it is longer than sync_interval ({interval})")));
        }
        None
    }

    fn limits_wrong(&self) -> Option<(String, String)> {
        let alert = &self.alert;
        let threshold = write_span(alert.drift_threshold);
        if alert.clear_below >= alert.drift_threshold {
            let sentence = format!("it must be less than drift_threshold ({threshold})");
            return Some(("alert.clear_below".into(), sentence));
        }
        if alert.severe <= alert.drift_threshold {
            let sentence = format!("it must be more than drift_threshold ({threshold})");
            return Some(("alert.severe".into(), sentence));
        }
        if self.clock.late_step_above < self.clock.step_above {
            let sentence =
                format!("it is less than step_above ({})", write_span(self.clock.step_above));
            return Some(("clock.late_step_above".into(), sentence));
        }
        if self.serve.enabled && self.serve.allow.is_empty() {
            return Some((
                "serve.allow".into(),
                "no network is named, so nobody is answered".into(),
            ));
        }
        if !self.gps.sock.as_os_str().is_empty() && self.gps.sock == self.control.socket {
            return Some(("gps.sock".into(), "it is the control socket ([control] socket)".into()));
        }
        let custom = self.simulation.mode == super::Mode::CustomSequence;
        if custom && self.simulation.custom_sequence.is_empty() {
            let sentence = "mode custom_sequence needs at least one time";
            return Some(("simulation.custom_sequence".into(), sentence.into()));
        }
        let topic = &self.mqtt.prefix;
        if topic.contains(['+', '#']) || topic.starts_with('/') || topic.ends_with('/') {
            let sentence = "a topic may neither hold + or # nor begin or end with /";
            return Some(("mqtt.prefix".into(), sentence.into()));
        }
        None
    }

    fn timers_wrong(&self) -> Option<(String, String)> {
        let (mut names, mut addresses) = (BTreeSet::new(), BTreeSet::new());
        for (index, timer) in self.timer.iter().enumerate() {
            let key = |key: &str| format!("timer.{index}.{key}");
            if !names.insert(&timer.name) {
                return Some((key("name"), format!("two timers are named {}", timer.name)));
            }
            if !timer.address.is_empty() && !addresses.insert(&timer.address) {
                return Some((key("address"), format!("two timers have {}", timer.address)));
            }
            if timer.d0_min > timer.d0_max {
                let sentence = format!("it is more than d0_max ({})", write_span(timer.d0_max));
                return Some((key("d0_min"), sentence));
            }
            if timer.d0.is_some_and(|d0| d0 < timer.d0_min || d0 > timer.d0_max) {
                let (low, high) = (write_span(timer.d0_min), write_span(timer.d0_max));
                let sentence = format!("it is not between d0_min ({low}) and d0_max ({high})");
                return Some((key("d0"), sentence));
            }
        }
        let anybody = |t: &&super::Timer| t.enabled && t.address.is_empty() && t.r#match.is_empty();
        if self.timer.iter().filter(anybody).count() > 1 {
            let sentence = "two timers have neither address nor match: which is which?";
            return Some(("timer".into(), sentence.into()));
        }
        None
    }

    /// Advice about a configuration that is right but could be better; one sentence each.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.ntp.enabled {
            self.server_notes(&mut notes);
        } else if !self.gps.sock.as_os_str().is_empty() {
            notes.push(
                "No server is asked ([ntp] enabled = false): nobody can tell when the receiver is \
                 wrong."
                    .into(),
            );
        } else {
            notes.push(
                "No server is asked ([ntp] enabled = false): the time is only what people set."
                    .into(),
            );
        }
        if !self.clock.steer {
            notes.push("The clock is only watched ([clock] steer = false).".into());
        }
        let usual = Self::default();
        if self.clock.max_slew_ppm != usual.clock.max_slew_ppm {
            notes.push(
                "The kernel slews at 500 ppm; [clock] max_slew_ppm changes nothing so far.".into(),
            );
        }
        if self.ntp.max_retries != usual.ntp.max_retries {
            notes.push(
                "Lost replies are asked for again by rules of their own; [ntp] max_retries changes \
                 nothing."
                    .into(),
            );
        }
        if !self.timer.is_empty() && !self.bluetooth.enabled {
            notes.push(
                "Timers are named, but not listened to ([bluetooth] enabled = false).".into(),
            );
        }
        if self.web.enabled && self.web.listen.ip().is_unspecified() {
            notes.push(
                "The page is open to every network this computer is in ([web] listen).".into(),
            );
        }
        if self.web.phone_time && !self.web.listen.ip().is_loopback() {
            notes.push(
                "Whoever reaches the page may start the time with a phone's ([web] phone_time)."
                    .into(),
            );
        }
        notes
    }

    fn server_notes(&self, notes: &mut Vec<String>) {
        let servers = &self.ntp.servers;
        let pool = servers.iter().any(ServerEntry::is_pool);
        if servers.len() < 3 && !pool {
            let n = match servers.len() {
                1 => "Only one server is named: nobody can tell when it is wrong",
                _ => "Only two servers are named: when they differ, nobody can tell which is wrong",
            };
            notes.push(format!("{n}. Name three or more."));
        }
        let operators: BTreeSet<String> = servers.iter().map(ServerEntry::operator).collect();
        if let (1, true, false) = (operators.len(), servers.len() > 1, pool)
            && let Some(operator) = operators.first()
        {
            notes.push(format!(
                "All servers are {operator}'s: they may be wrong together. Name another's as well."
            ));
        }
        let smeared: Vec<&str> =
            servers.iter().filter(|s| s.smeared()).map(ServerEntry::text).collect();
        if !smeared.is_empty() && smeared.len() < servers.len() {
            notes.push(format!(
                "{} smears leap seconds and the others do not: it is left out near a leap second.",
                smeared.join(", ")
            ));
        }
    }
}
