//! What may never happen, whatever the servers, the operator and strangers do: judged after each
//! input to the engine. The rules are those of the table in `engine::discipline`.
use leadville_timesync::engine::discipline::{Correction, Limits};
use leadville_timesync::engine::{Engine, Event, Input, Output, Phase};
use leadville_timesync::units::{Nanos, Reading};

/// The most that is told to the kernel as its error, ns.
const KERNEL_MOST: i64 = 16_000_000_000;
/// A stranger's jump is measured this well, ns.
const JUMP_KNOWN: i64 = 40_000_000;
const DAY: i64 = 86_400_000_000_000;

/// A referee beside the engine.
pub struct Rules {
    limits: Limits,
    /// What strangers did to the clock since our last step, ns.
    foreign: Vec<i64>,
    /// The operator's last `step`, raw ns.
    operator: Option<i64>,
    /// When all was well for the last time, raw ns.
    well: i64,
    /// Steps that count: raw ns, ns.
    spent: Vec<(i64, i64)>,
    /// What the kernel is told, and was told when the lock began, ppm.
    told: f64,
    locked_at: Option<f64>,
}

/// How things stood before an input.
pub struct Before {
    settled: bool,
    locked: bool,
    slept: bool,
}

impl Rules {
    pub fn new(limits: Limits, now: Reading, told: f64) -> Self {
        let well = now.raw.as_nanos();
        let (foreign, spent) = (Vec::new(), Vec::new());
        Self { limits, foreign, operator: None, well, spent, told, locked_at: None }
    }

    /// A stranger sets the clock.
    pub fn foreign(&mut self, by: i64) {
        self.foreign.push(by);
    }

    /// Looks before the input is fed.
    pub fn before(&mut self, engine: &Engine, now: Reading, input: &Input<'_>) -> Before {
        if matches!(input, Input::Step) {
            self.operator = Some(now.raw.as_nanos());
        }
        let slept = matches!(input, Input::Slept(_));
        let settled = engine.view(now).settled;
        Before { settled, locked: !engine.locks().is_empty(), slept }
    }

    /// Judges what the engine made of the input.
    pub fn after(&mut self, before: &Before, engine: &Engine, now: Reading, outputs: &[Output]) {
        self.figures(engine, now);
        let locked = !engine.locks().is_empty();
        if locked && !before.locked {
            self.locked_at = Some(self.told);
        } else if !locked {
            self.locked_at = None;
        }
        // A lock that begins with this event holds from when it is told; what came before it is not under it.
        let mut held = locked && before.locked;
        for output in outputs {
            match output {
                Output::Tell(Event::Lock(_, true)) => held = locked,
                Output::Steer(Correction::Frequency(f)) => {
                    let (f, most) = (f.get(), self.limits.max_frequency.get());
                    assert!(f.is_finite() && f.abs() <= most, "the kernel is told {f} ppm");
                    if let Some(at) = self.locked_at.filter(|_| before.locked) {
                        let by = (f - at).abs();
                        let most = self.limits.lock_frequency.get() + 1e-9;
                        assert!(by <= most, "{by} ppm under a lock");
                    }
                    self.told = f;
                }
                Output::Steer(Correction::Step(by)) => {
                    assert!(!held, "a step of {by} under a lock");
                    if before.settled && !before.slept {
                        self.step(*by, engine, now);
                    }
                    self.foreign.clear();
                }
                Output::Steer(Correction::Slew(by)) => {
                    let still = held && *by != Nanos::ZERO;
                    assert!(!still, "a slew of {by} under a lock");
                }
                Output::Kernel(status) => {
                    for error in [status.max_error, status.est_error] {
                        assert!((0..=KERNEL_MOST).contains(&error.get()), "{status:?}");
                    }
                }
                Output::Ask(_) | Output::Tell(_) => {}
            }
        }
        // Under a lock nobody is asked whether the clock should step.
        if engine.view(now).phase == Phase::Synchronised && !locked {
            self.well = now.raw.as_nanos();
        }
    }

    /// A bound is never NaN, negative or nothing.
    fn figures(&self, engine: &Engine, now: Reading) {
        let view = engine.view(now);
        assert!(view.frequency.get().abs() <= self.limits.max_frequency.get(), "{view:?}");
        let Some(e) = view.estimate else { return };
        assert!(e.bound > Nanos::ZERO, "{view:?}");
        assert!(e.frequency.get().is_finite() && e.rate.is_finite(), "{view:?}");
        let unsure = e.frequency_bound.get();
        assert!(unsure.is_finite() && unsure > 0.0, "{view:?}");
        assert!(view.max_error.is_none_or(|m| m >= e.bound), "{view:?}");
    }

    /// After *settled* a step needs a reason.
    fn step(&mut self, by: Nanos, engine: &Engine, now: Reading) {
        let raw = now.raw.as_nanos();
        let undone = (0..self.foreign.len()).any(|from| {
            let jump: i64 = self.foreign[from..].iter().sum();
            (by.get() + jump).abs() < JUMP_KNOWN + jump.abs() / 8
        });
        let ordered = self.operator.is_some_and(|at| raw - at < 60_000_000_000);
        if undone || ordered {
            if ordered {
                self.spent.clear();
            }
            return;
        }
        assert!(by.abs() > self.limits.step_after, "a step of {by} after settled");
        assert!(engine.view(now).verified, "a step of {by} on one operator's word");
        let insisted = Nanos::new(raw - self.well);
        assert!(insisted >= self.limits.insist, "a step of {by} after {insisted}");
        self.spent.push((raw, by.abs().get()));
        self.spent.retain(|(at, _)| raw - at < DAY);
        let sum: i64 = self.spent.iter().map(|s| s.1).sum();
        assert!(sum <= self.limits.budget.get(), "steps of {sum} ns in a day");
    }
}
