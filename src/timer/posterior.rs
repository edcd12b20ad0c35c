//! Densities on equal cells: how one arrival limits the beep, and what many say together.
//!
//! No exponential and no logarithm per cell: every factor is piecewise linear and tabulated
//! once at the cells' own step, so a frame costs one multiplication per cell.
use super::lag::{LEAST_MS, Lag, MOST_MS};

/// What the timer cuts off a time, at most, ms.
pub const QUANTUM_MS: f64 = 10.0;
/// Retries looked at.
pub const MOST_RETRIES: usize = 5;
/// Chance of an arrival that nothing explains, per cell.
const FLOOR: f32 = 1e-5;
/// Cells this much below the best are dropped.
const NEGLIGIBLE: f32 = 1e-7;
/// Scatter of a stamp, ms.
const SOFT_MS: f64 = 0.4;
/// Width of a cell, ms, at most.
const STEP_MS: f64 = 0.5;

/// Chance of so many retries: 15 % each, and bursts in which the next is likely again.
pub fn retries() -> [f64; MOST_RETRIES + 1] {
    let (mut single, mut burst) = (0.85 * 0.98, 0.4 * 0.02);
    let mut chances = [0.0; MOST_RETRIES + 1];
    for chance in &mut chances {
        *chance = single + burst;
        single *= 0.15;
        burst *= 0.6;
    }
    chances
}

/// A density over `epoch + d0`, in ms after the link's origin; cell 0 is the latest.
#[derive(Clone, Debug)]
pub struct Cells {
    top: f64,
    step: f64,
    density: Vec<f32>,
}

impl Cells {
    /// Its mean.
    pub fn mean(&self) -> f64 {
        let (mut place, mut held) = (0.0, 0.0);
        for (i, p) in self.density.iter().enumerate() {
            place += i as f64 * f64::from(*p);
            held += f64::from(*p);
        }
        self.top - self.step * place / held
    }

    /// Its variance.
    pub fn variance(&self) -> f64 {
        let mean = self.mean();
        let (mut square, mut held) = (0.0, 0.0);
        for (at, p) in self.iter() {
            square += (at - mean) * (at - mean) * p;
            held += p;
        }
        square / held
    }

    /// The cells' centres with their probabilities.
    pub fn iter(&self) -> impl Iterator<Item = (f64, f64)> {
        self.density
            .iter()
            .enumerate()
            .map(|(i, p)| (self.top - i as f64 * self.step, f64::from(*p) * self.step))
    }

    /// Multiplies in what an arrival at `early` says (arrival less the timer's time).
    /// Returns its likelihood given what was known, and leaves the density with sum 1.
    pub fn multiply(&mut self, kernel: &Kernel, early: f64) -> f64 {
        let base = (early - self.top - kernel.from) / self.step;
        let (first, part) = (base.floor() as i64, (base - base.floor()) as f32);
        let table = &kernel.table;
        let cells = self.density.len() as i64;
        // Cells whose place in the table has a neighbour to its right.
        let begin = (-first).clamp(0, cells) as usize;
        let end = (table.len() as i64 - 1 - first).clamp(begin as i64, cells) as usize;
        let mut sum = 0.0_f32;
        let (before, rest) = self.density.split_at_mut(begin);
        let (within, after) = rest.split_at_mut(end - begin);
        for p in before.iter_mut().chain(after) {
            *p *= FLOOR;
            sum += *p;
        }
        if !within.is_empty() {
            let at = (first + begin as i64) as usize;
            let (left, right) = (&table[at..at + within.len()], &table[at + 1..=at + within.len()]);
            for ((p, l), r) in within.iter_mut().zip(left).zip(right) {
                *p *= l + (r - l) * part;
            }
            // Eight sums that need not wait for one another.
            let mut lanes = [0.0_f32; 8];
            let chunks = within.chunks_exact(8);
            sum += chunks.remainder().iter().sum::<f32>();
            for chunk in chunks {
                for (lane, p) in lanes.iter_mut().zip(chunk) {
                    *lane += p;
                }
            }
            sum += lanes.iter().sum::<f32>();
        }
        let mass = f64::from(sum) * self.step;
        self.trim();
        let scale = if mass > 0.0 { (1.0 / mass) as f32 } else { 1.0 };
        for p in &mut self.density {
            *p *= scale;
        }
        mass
    }

    fn trim(&mut self) {
        let best = self.density.iter().copied().fold(0.0, f32::max);
        let low = best * NEGLIGIBLE;
        let Some(first) = self.density.iter().position(|p| *p > low) else { return };
        let last = self.density.iter().rposition(|p| *p > low).unwrap_or(first);
        self.density.truncate(last + 1);
        self.density.drain(..first);
        self.top -= first as f64 * self.step;
    }
}

/// Likelihood of `x = arrival − time − (epoch + d0)` under one interval.
#[derive(Clone, Debug)]
pub struct Kernel {
    interval: f64,
    step: f64,
    soft: f64,
    from: f64,
    table: Vec<f32>,
}

impl Kernel {
    /// Of a SHOT frame under an interval in ms; `coarse`: twelve times wider cells.
    pub fn new(interval: f64, coarse: bool) -> Self {
        let finest = STEP_MS.max(interval / 120.0) * if coarse { 12.0 } else { 1.0 };
        // The interval is a whole number of cells.
        let step = interval / (interval / finest).ceil();
        let mut kernel = Self { interval, step, soft: SOFT_MS, from: 0.0, table: Vec::new() };
        kernel.tabulate_shot();
        kernel
    }

    /// Widens the edges for a long time on the timer's crystal, ms.
    pub fn soften(&mut self, crystal_ms: f64) {
        let wanted = [0.0, 1.5, 4.0, 8.0].iter().filter(|soft| crystal_ms > **soft * 0.5).count();
        let soft = SOFT_MS + [0.0, 1.5, 4.0, 8.0, 20.0][wanted];
        if (soft - self.soft).abs() > 1e-9 && crystal_ms > 0.3 {
            self.soft = soft;
            self.tabulate_shot();
        }
    }

    fn reach(&self) -> f64 {
        self.interval * (MOST_RETRIES as f64 + 1.0)
    }

    fn tabulate_shot(&mut self) {
        let (soft, width) = (self.soft, QUANTUM_MS + 2.0 * self.soft);
        self.from = -soft - self.step;
        let len = ((self.reach() + width) / self.step) as usize + 3;
        self.tabulate(len, |x| ((x + soft) / width).clamp(0.0, 1.0));
    }

    /// The table from the chance `ready(x)` that the frame was ready by `x`.
    fn tabulate(&mut self, len: usize, ready: impl Fn(f64) -> f64) {
        let shift = (self.interval / self.step).round() as usize;
        let by: Vec<f32> =
            (0..len).map(|k| ready(self.from + k as f64 * self.step) as f32).collect();
        let chances = retries();
        self.table.clear();
        self.table.extend(by.iter().map(|f| f * chances[0] as f32));
        for m in 0..=MOST_RETRIES {
            let next = chances.get(m + 1).copied().unwrap_or(0.0);
            let drop = (chances[m] - next) as f32;
            let later = (m + 1) * shift;
            if later < len {
                for (t, f) in self.table[later..].iter_mut().zip(&by) {
                    *t -= drop * f;
                }
            }
        }
        for t in &mut self.table {
            *t = t.max(FLOOR);
        }
    }

    /// Of a START frame, on the beep that SHOT frames tell of.
    pub fn of_start(&self, lag: &Lag) -> Self {
        let from = -MOST_MS - self.step;
        let mut kernel = Self { from, table: Vec::new(), ..*self };
        let len = ((self.reach() + MOST_MS - LEAST_MS) / self.step) as usize + 3;
        kernel.tabulate(len, |x| lag.at_least(-x));
        kernel
    }

    /// Everything a shot at `early` leaves possible, all alike.
    pub fn range(&self, early: f64) -> Cells {
        self.cells(early + SOFT_MS, self.reach() + QUANTUM_MS + SOFT_MS)
    }
    /// Everything a start at `early` leaves possible, all alike.
    pub fn range_of_start(&self, early: f64) -> Cells {
        self.cells(early + MOST_MS, self.reach() + MOST_MS - LEAST_MS)
    }
    fn cells(&self, top: f64, span: f64) -> Cells {
        let len = (span / self.step).ceil() as usize + 1;
        Cells { top, step: self.step, density: vec![1.0; len] }
    }
}

/// Value and bound of a mixture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// The value, ms after the link's origin.
    pub value_ms: f64,
    /// Half the width about it that holds the wanted chance.
    pub bound_ms: f64,
}

/// Sums up weighted densities. The value is the mean, moved by `towards_middle` (0…1) to the
/// middle of the shortest interval of that chance: one shot's posterior has a long tail of
/// retries, and a bound about the bare mean would be a tenth wider for it.
pub fn summary<'a>(
    parts: impl Iterator<Item = (f64, &'a Cells)> + Clone,
    chance: f64,
    towards_middle: f64,
) -> Option<Summary> {
    let parts = parts.filter(|(weight, _)| *weight > 1e-3);
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    let mut total = 0.0;
    for (weight, cells) in parts.clone() {
        low = low.min(cells.top - cells.step * cells.density.len() as f64);
        high = high.max(cells.top + cells.step);
        total += weight;
    }
    if total <= 0.0 {
        return None;
    }
    let step = ((high - low) / 400.0).max(STEP_MS);
    let mut bins = vec![0.0_f64; ((high - low) / step) as usize + 2];
    // From `low`, not from the origin: single precision sums to 1 only to the seventh digit,
    // and the origin may be a day away.
    let (mut mean, mut held) = (0.0, 0.0);
    for (weight, cells) in parts {
        let share = weight / total;
        for (at, p) in cells.iter() {
            let mass = share * p;
            mean += (at - low) * mass;
            held += mass;
            // Shared between the two nearest bins, so that the mean is kept.
            let place = (at - low) / step;
            let (bin, part) = (place as usize, place.fract());
            bins[bin] += mass * (1.0 - part);
            bins[bin + 1] += mass * part;
        }
    }
    let mean = low + mean / held;
    for bin in &mut bins {
        *bin /= held;
    }
    let (mut right, mut inside) = (0, 0.0);
    let mut shortest = (0, bins.len());
    for left in 0..bins.len() {
        while inside < chance && right < bins.len() {
            inside += bins[right];
            right += 1;
        }
        if inside < chance {
            break;
        }
        if right - left < shortest.1 - shortest.0 {
            shortest = (left, right);
        }
        inside -= bins[left];
    }
    let middle = low + step * (shortest.0 + shortest.1 - 1) as f64 / 2.0;
    let value = mean + towards_middle * (middle - mean);
    // Outwards from the value; the last bin is taken in part.
    let mut a = ((value - low) / step).floor() as i64;
    let mut b = a + 1;
    let mass = |bin: i64| usize::try_from(bin).ok().and_then(|i| bins.get(i)).copied();
    let (mut held, mut bound) = (0.0, 0.0);
    while held < chance && (a >= 0 || b < bins.len() as i64) {
        let (below, above) = (value - (low + a as f64 * step), low + b as f64 * step - value);
        let (next, reach) = if below <= above { (mass(a), below) } else { (mass(b), above) };
        let next = next.unwrap_or(0.0);
        if held + next >= chance {
            // From half a bin before this bin's centre to half a bin after it.
            bound = reach + step * ((chance - held) / next - 0.5);
            break;
        }
        held += next;
        bound = reach + step * 0.5;
        if below <= above { a -= 1 } else { b += 1 }
    }
    Some(Summary { value_ms: value, bound_ms: bound })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_shot_leaves_the_interval_and_its_retries() {
        let kernel = Kernel::new(48.75, false);
        let mut cells = kernel.range(1000.0);
        cells.multiply(&kernel, 1000.0);
        let (mean, square) =
            cells.iter().fold((0.0, 0.0), |(m, s), (at, p)| (m + at * p, s + at * at * p));
        assert!((1000.0 - mean - 38.5).abs() < 1.5, "{mean}");
        assert!(((square - mean * mean).sqrt() - 27.5).abs() < 1.5);
    }

    #[test]
    fn a_summary_holds_the_chance_it_names() {
        let kernel = Kernel::new(48.75, false);
        let mut cells = kernel.range(0.0);
        for early in [0.0, 12.0, 33.0, 4.0] {
            cells.multiply(&kernel, early);
        }
        let s = summary([(1.0, &cells)].into_iter(), 0.95, 0.5).unwrap();
        let held: f64 = cells
            .iter()
            .filter(|(at, _)| (at - s.value_ms).abs() <= s.bound_ms)
            .map(|(_, p)| p)
            .sum();
        assert!((0.93..0.985).contains(&held), "{held}");
    }
}
