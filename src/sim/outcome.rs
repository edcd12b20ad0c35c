//! What came out of a simulated run.

/// The figures of one run. Errors are the true error of the clock, from the second on at which the scenario is judged.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Outcome {
    /// Name of the scenario.
    pub scenario: String,
    /// Seed of its chances.
    pub seed: u64,
    /// The configured interval between exchanges, seconds.
    pub sync_interval_s: f64,
    /// Simulated hours.
    pub hours: f64,
    /// Root mean square, µs.
    pub rms_us: f64,
    /// Standard deviation (what is left without a constant asymmetry), µs.
    pub sd_us: f64,
    /// 95 of 100 seconds were better, µs.
    pub p95_us: f64,
    /// The worst second, µs.
    pub max_us: f64,
    /// Requests sent in all.
    pub packets: u32,
    /// Requests per server and day.
    pub packets_per_server_day: f64,
    /// Share of the seconds in which the error was inside the stated bound (no bound stated counts as inside).
    pub coverage: f64,
    /// Share of the seconds in which a bound was stated.
    pub stated: f64,
    /// How often, once a minute without servers, it was told for how long 20 ms will be kept.
    pub promises: u32,
    /// How many of these were not kept.
    pub broken: u32,
    /// The first promise of the last time without servers, s from then on.
    pub promised_s: Option<f64>,
    /// Median of the stated bound, µs; `None` when never stated.
    pub bound_median_us: Option<f64>,
    /// That median by the RMS.
    pub width_over_rms: Option<f64>,
    /// Steps of the clock by us.
    pub steps: u32,
    /// Second of the first synchronisation.
    pub first_sync_s: Option<f64>,
    /// Second from which the error stayed below 20 ms for a minute.
    pub within_20ms_s: Option<f64>,
    /// Second from which the error stayed below 1 ms for a minute.
    pub within_1ms_s: Option<f64>,
    /// Worst error of the stated frequency, ppm.
    pub max_freq_error_ppm: f64,
}

/// Watches a run second by second.
#[derive(Debug, Default)]
pub struct Watch {
    errors: Vec<f32>,
    bounds: Vec<f32>,
    inside: u32,
    worst_frequency: f64,
    /// Since when the error has been below 20 ms and below 1 ms; once held for a minute it is kept.
    held: [(Option<f64>, Option<f64>); 2],
    /// Seconds until which promises that were told hold.
    open: Vec<f64>,
    promises: u32,
    broken: u32,
    promised: Option<f64>,
}

/// What a promise is about, s: the default threshold of the alert.
pub const PROMISED: f64 = 0.020;

impl Watch {
    /// Notes the error of the clock (seconds) at second `t`, for the time until steady.
    pub fn steadies(&mut self, t: f64, error: f64) {
        for ((since, kept), limit) in self.held.iter_mut().zip([0.020, 0.001]) {
            if kept.is_some() {
                continue;
            }
            if error.abs() > limit {
                *since = None;
            } else if t - *since.get_or_insert(t) >= 60.0 {
                *kept = *since;
            }
        }
    }
    /// A promise is told at second `t`: the error stays below [`PROMISED`] for so many seconds.
    pub fn promise(&mut self, t: f64, span: f64, first: bool) {
        self.promises += 1;
        self.open.push(t + span);
        if first {
            self.promised = Some(span);
        }
    }
    /// Looks at the promises at second `t`: each is broken once.
    pub fn holds(&mut self, t: f64, error: f64) {
        self.open.retain(|&until| until > t);
        if error.abs() >= PROMISED {
            self.broken += self.open.len() as u32;
            self.open.clear();
        }
    }
    /// What was promised does not hold any more: the clock has lost its time, and says so.
    pub fn taken_back(&mut self) {
        self.open.clear();
    }
    /// Judges one second: the clock's error and the stated bound (seconds), the frequency's error (ppm).
    pub fn judge(&mut self, error: f64, bound: Option<f64>, frequency_error: Option<f64>) {
        self.judge_apart(error, error, bound, frequency_error);
    }
    /// Likewise, where what was stated (`wrong` is its error) is not what the clock shows yet.
    pub fn judge_apart(
        &mut self,
        error: f64,
        wrong: f64,
        bound: Option<f64>,
        frequency_error: Option<f64>,
    ) {
        self.errors.push((error * 1e6) as f32);
        match bound {
            Some(bound) => {
                self.bounds.push((bound * 1e6) as f32);
                self.inside += u32::from(wrong.abs() <= bound);
            }
            None => self.inside += 1,
        }
        if let Some(wrong) = frequency_error {
            self.worst_frequency = self.worst_frequency.max(wrong.abs());
        }
    }
    /// The figures, without those only the run itself knows.
    #[must_use]
    pub fn outcome(mut self) -> Outcome {
        let n = self.errors.len().max(1) as f64;
        let mean = self.errors.iter().map(|&e| f64::from(e)).sum::<f64>() / n;
        let square = self.errors.iter().map(|&e| f64::from(e) * f64::from(e)).sum::<f64>() / n;
        let rms_us = square.sqrt();
        let mut size: Vec<f32> = self.errors.iter().map(|e| e.abs()).collect();
        size.sort_by(f32::total_cmp);
        self.bounds.sort_by(f32::total_cmp);
        let part = |sorted: &[f32], share: f64| {
            sorted
                .get(((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1)))
                .copied()
        };
        let stated = self.bounds.len() as f64 / n;
        let bound_median_us = part(&self.bounds, 0.5).map(f64::from);
        Outcome {
            rms_us,
            sd_us: (square - mean * mean).max(0.0).sqrt(),
            p95_us: part(&size, 0.95).map_or(0.0, f64::from),
            max_us: size.last().copied().map_or(0.0, f64::from),
            coverage: f64::from(self.inside) / n,
            stated,
            promises: self.promises,
            broken: self.broken,
            promised_s: self.promised,
            bound_median_us,
            width_over_rms: bound_median_us.filter(|_| rms_us > 0.0).map(|b| b / rms_us),
            within_20ms_s: self.held[0].1,
            within_1ms_s: self.held[1].1,
            max_freq_error_ppm: self.worst_frequency,
            ..Outcome::default()
        }
    }
}
