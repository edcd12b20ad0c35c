//! What the radio finds: adapters, scans, and which devices are our timers.
use super::link::{self, Stage, Wish};
use super::watched::Watched;
use super::{Bridge, Done};
use crate::config::Timer;
use crate::os::bluez::Refused;
use crate::units::{Nanos, RawTime};

/// A scan is as long as that, then pauses.
const SCAN: Nanos = Nanos::from_secs(8);
const SCAN_PAUSE: Nanos = Nanos::from_secs(2);
/// While another timer is listened to, the radio is left to it for longer.
const SCAN_PAUSE_LISTENING: Nanos = Nanos::from_secs(3);

/// Where the scan stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scan {
    /// Not before that instant, if any.
    Idle(Option<RawTime>),
    /// A call is under way.
    Changing,
    /// On until that instant.
    On(RawTime),
}

impl Bridge {
    /// The adapters in use, best first.
    fn adapters(&self) -> Vec<String> {
        let Some(bluez) = &self.bluez else { return Vec::new() };
        let wanted = &self.config.bluetooth.adapter;
        let named = |path: &str| wanted.is_empty() || path.rsplit('/').next() == Some(wanted);
        bluez
            .tree
            .adapters
            .iter()
            .filter(|(path, adapter)| adapter.powered && named(path))
            .map(|(path, _)| path.clone())
            .collect()
    }

    /// What is missing when no adapter can be used.
    fn without(&self, adapters: &[String]) -> Option<String> {
        let any = self.bluez.as_ref().is_some_and(|b| !b.tree.adapters.is_empty());
        let wanted = self.config.bluetooth.adapter.as_str();
        match (adapters.is_empty(), any, wanted) {
            (false, ..) => None,
            (true, true, "") => Some(
                "Bluetooth is switched off: sudo rfkill unblock bluetooth, then bluetoothctl power on".into(),
            ),
            (true, true, _) => Some(format!(
                "{wanted} is absent or switched off: look at bluetoothctl list, or leave bluetooth.adapter empty"
            )),
            (true, false, _) => {
                Some("no Bluetooth adapter: plug one in, or remove dtoverlay=disable-bt".into())
            }
        }
    }

    /// Looks at what BlueZ knows: who is found, who is lost.
    pub(super) async fn look(&mut self, now: RawTime) {
        if !self.answered {
            return;
        }
        let adapters = self.adapters();
        self.in_trouble(self.without(&adapters));
        let Some(bluez) = self.bluez.take() else { return };
        let mut claimed: Vec<String> = Vec::new();
        for i in 0..self.watched.len() {
            let w = &self.watched[i];
            let fits = bluez.tree.devices.iter().filter(|(path, d)| {
                let mine = if w.address.is_empty() {
                    link::is_this(&w.timer, d)
                } else {
                    d.address.eq_ignore_ascii_case(&w.address)
                };
                mine && adapters.contains(&d.adapter) && !claimed.contains(path)
            });
            let best = fits.max_by_key(|(_, d)| (d.connected, d.rssi.unwrap_or(i16::MIN)));
            let best = best.map(|(path, d)| (path.clone(), d.clone()));
            let found = best.as_ref().filter(|(_, d)| {
                // By name only what is really there: old objects are kept for years.
                !w.address.is_empty() || d.connected || d.rssi.is_some()
            });
            let (path, device) = match found {
                Some((path, device)) => (Some(path.as_str()), Some(device)),
                None => (None, None),
            };
            claimed.extend(path.map(str::to_owned));
            let before = self.watched[i].link.stage;
            let lost = self.watched[i].link.look(&bluez.tree, path, now);
            if let Some(device) = device {
                if let Some(rssi) = device.rssi.filter(|_| !device.connected) {
                    self.watched[i].rssi = Some((rssi, now));
                }
                if self.watched[i].address.is_empty() {
                    self.watched[i].found(&device.address, &self.kept);
                }
            }
            if lost {
                self.lost(i, now).await;
            } else if before != self.watched[i].link.stage {
                self.publish();
            }
        }
        // Without a configuration every timer nearby gets a bay of its own.
        if self.config.timer.is_empty() {
            let more = bluez.tree.devices.iter().find(|(path, d)| {
                link::is_timer(d)
                    && (d.rssi.is_some() || d.connected)
                    && adapters.contains(&d.adapter)
                    && !claimed.contains(path)
                    && !self.watched.iter().any(|w| w.address == d.address)
            });
            if let Some((_, d)) = more.filter(|_| self.watched.len() < 16) {
                let timer =
                    Timer { name: d.name.clone(), address: d.address.clone(), ..Timer::default() };
                let mut w = Watched::new(timer, self.config.bluetooth.reconnect_at_most);
                w.found(&d.address, &self.kept);
                self.watched.push(w);
            }
        }
        self.bluez = Some(bluez);
    }

    pub(super) fn wants_scan(&self) -> bool {
        let Some(bluez) = &self.bluez else { return false };
        let now = self.now();
        let busy = self.watched.iter().any(|w| {
            matches!(w.link.stage, Stage::Connecting | Stage::Resolving(_) | Stage::Subscribing)
        });
        let wanted = self.scan_until.is_some_and(|until| now < until)
            || self.watched.iter().any(|w| w.link.wish(&bluez.tree, now) == Wish::Scan);
        // A string on a live link has the radio to itself, unless another one waits for its link.
        let runs = |w: &Watched| w.bay.strings().current().is_some();
        let shooting = self.watched.iter().any(|w| runs(w) && w.link.is_listening());
        let cut = self.watched.iter().any(|w| runs(w) && !w.link.is_listening());
        wanted && !busy && (cut || !shooting) && !self.adapters().is_empty()
    }

    pub(super) fn scan(&mut self, now: RawTime) {
        match self.scan {
            Scan::On(until) if now >= until || !self.wants_scan() => self.end_scan(),
            Scan::Idle(not_before)
                if not_before.is_none_or(|at| now >= at) && self.wants_scan() =>
            {
                let adapters = self.adapters();
                let Some(bluez) = self.bluez.as_ref().filter(|_| !adapters.is_empty()) else {
                    return;
                };
                let (caller, done) = (bluez.caller(), self.done.clone());
                self.scan = Scan::Changing;
                self.scanned.clone_from(&adapters);
                tokio::task::spawn_local(async move {
                    let mut begun = Ok(());
                    let mut any = false;
                    for adapter in adapters {
                        match caller.start_discovery(&adapter).await {
                            Ok(()) => any = true,
                            Err(e) => begun = Err(e),
                        }
                    }
                    let _ = done.send(Done::Scanning(if any { Ok(()) } else { begun }));
                });
            }
            _ => {}
        }
    }

    pub(super) fn end_scan(&mut self) {
        let adapters = std::mem::take(&mut self.scanned);
        let Some(bluez) = self.bluez.as_ref().filter(|_| !adapters.is_empty()) else {
            self.scan = Scan::Idle(None);
            return;
        };
        let (caller, done) = (bluez.caller(), self.done.clone());
        self.scan = Scan::Changing;
        tokio::task::spawn_local(async move {
            for adapter in adapters {
                let _ = caller.stop_discovery(&adapter).await;
            }
            let _ = done.send(Done::ScanEnded);
        });
    }

    /// What came of beginning a scan.
    pub(super) fn scanning(&mut self, begun: Result<(), Refused>, now: RawTime) {
        let Err(e) = begun else {
            self.scan = Scan::On(now + SCAN);
            return;
        };
        tracing::debug!("scanning failed: {}", e.text);
        if e.is_denied() {
            let text = "not allowed to scan: the daemon's user must be in group bluetooth";
            self.in_trouble(Some(text.into()));
        }
        self.scan = Scan::Idle(Some(now + SCAN_PAUSE));
    }

    pub(super) fn scan_ended(&mut self, now: RawTime) {
        let listening = self.watched.iter().any(|w| w.link.is_listening());
        let pause = if listening { SCAN_PAUSE_LISTENING } else { SCAN_PAUSE };
        self.scan = Scan::Idle(Some(now + pause));
    }
}
