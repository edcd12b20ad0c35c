//! Densities on equal cells: how one arrival limits the beep, and what many say together.
//!
//! No exponential and no logarithm per cell: every factor is flat but for a ramp at each event,
//! and laid out at the cells' own step, so a frame costs one multiplication per cell.
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
pub const CHANCES: [f64; MOST_RETRIES + 1] = {
    let (mut single, mut burst) = (0.85 * 0.98, 0.4 * 0.02);
    let mut chances = [0.0; MOST_RETRIES + 1];
    let mut m = 0;
    while m <= MOST_RETRIES {
        chances[m] = single + burst;
        single *= 0.15;
        burst *= 0.6;
        m += 1;
    }
    chances
};
/// Cells taken at once.
const LANES: usize = 4;
/// Parts of a bin.
const PARTS: f64 = 4_294_967_296.0;

/// A density over `epoch + d0`, in ms after the link's origin; cell 0 is the latest.
#[derive(Clone, Debug)]
pub struct Cells {
    top: f64,
    step: f64,
    density: Vec<f32>,
    /// Of the density, to sum 1.
    scale: f32,
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
            .map(|(i, p)| (self.top - i as f64 * self.step, f64::from(*p * self.scale) * self.step))
    }

    /// How much lies at or before each cell.
    pub fn tail(&self) -> Tail {
        let mut held = 0.0;
        let mut tail: Vec<f64> = Vec::with_capacity(self.density.len());
        tail.extend(self.iter().map(|(_, p)| if p > 1e-5 { p } else { 0.0 }));
        for p in tail.iter_mut().rev() {
            held += *p;
            *p = held;
        }
        Tail { top: self.top, step: self.step, held: tail }
    }

    /// Multiplies in what a SHOT frame at `early` says (arrival less the timer's time).
    /// Returns its likelihood given what was known, and leaves the density with sum 1.
    pub fn multiply(&mut self, kernel: &Kernel, early: f64, desk: &mut Desk) -> f64 {
        let from = kernel.ready_to_send(desk);
        self.take(kernel, early - from, desk)
    }
    /// The same of a START frame, on the beep that SHOT frames tell of.
    pub fn multiply_start(
        &mut self,
        kernel: &Kernel,
        lag: &Lag,
        early: f64,
        desk: &mut Desk,
    ) -> f64 {
        let from = kernel.ready_to_start(lag, desk);
        self.take(kernel, early - from, desk)
    }

    fn take(&mut self, kernel: &Kernel, early: f64, desk: &mut Desk) -> f64 {
        let base = (early - self.top) / self.step;
        let (first, part) = (base.floor() as i64, (base - base.floor()) as f32);
        kernel.lay(first, self.density.len() + 1, desk);
        let n = self.density.len();
        let (left, right) = (&desk.table[..n], &desk.table[1..=n]);
        let scale = self.scale;
        let product = |p: f32, l: f32, r: f32| {
            let factor = l + (r - l) * part;
            p * scale * if factor > FLOOR { factor } else { FLOOR }
        };
        let (mut sums, mut tops) = ([0.0_f32; LANES], [0.0_f32; LANES]);
        let (cells, last) = self.density.as_chunks_mut::<LANES>();
        let (lefts, rights) = (left.as_chunks::<LANES>(), right.as_chunks::<LANES>());
        for ((p, l), r) in cells.iter_mut().zip(lefts.0).zip(rights.0) {
            *p = lanes(|i| product(p[i], l[i], r[i]));
            sums = lanes(|i| sums[i] + p[i]);
            tops = lanes(|i| if p[i] > tops[i] { p[i] } else { tops[i] });
        }
        for ((p, l), r) in last.iter_mut().zip(lefts.1).zip(rights.1) {
            *p = product(*p, *l, *r);
            sums[0] += *p;
            tops[0] = if *p > tops[0] { *p } else { tops[0] };
        }
        let mass = f64::from(sums.iter().sum::<f32>()) * self.step;
        self.trim(tops.into_iter().fold(0.0, |best, top| if top > best { top } else { best }));
        self.scale = if mass > 0.0 { (1.0 / mass) as f32 } else { 1.0 };
        mass
    }

    fn trim(&mut self, best: f32) {
        let low = best * NEGLIGIBLE;
        let Some(first) = self.density.iter().position(|p| *p > low) else { return };
        let last = self.density.iter().rposition(|p| *p > low).unwrap_or(first);
        self.density.truncate(last + 1);
        if first > 0 {
            self.density.drain(..first);
        }
        self.top -= first as f64 * self.step;
    }
}

/// One value for each lane, written out: a loop over them would stay one.
fn lanes(value: impl Fn(usize) -> f32) -> [f32; LANES] {
    [value(0), value(1), value(2), value(3)]
}

/// `to += by · from`.
fn add(to: &mut [f32], from: &[f32], by: f32) {
    let (froms, rest) = from[..to.len()].as_chunks::<LANES>();
    let (tos, last) = to.as_chunks_mut::<LANES>();
    for (to, from) in tos.iter_mut().zip(froms) {
        *to = lanes(|i| to[i] + by * from[i]);
    }
    for (to, from) in last.iter_mut().zip(rest) {
        *to += by * from;
    }
}

/// A density summed up from the earliest cell.
#[derive(Debug)]
pub struct Tail {
    top: f64,
    step: f64,
    held: Vec<f64>,
}

impl Tail {
    /// Chance of the cells centred at or before `at`.
    pub fn before(&self, at: f64) -> f64 {
        let cell = ((self.top - at) / self.step).ceil().max(0.0);
        self.held.get(cell as usize).copied().unwrap_or(0.0)
    }
    /// Chance of all.
    pub fn all(&self) -> f64 {
        self.held.first().copied().unwrap_or(0.0)
    }
}

/// Where factors are laid out; kept from frame to frame.
#[derive(Clone, Debug, Default)]
pub struct Desk {
    /// Chance that a frame was not ready yet, cell by cell, down to none.
    lacking: Vec<f32>,
    /// Cell and edge of the SHOT frames that is of, ms.
    send: Option<(f64, f64)>,
    table: Vec<f32>,
}

/// Likelihood of `x = arrival − time − (epoch + d0)` under one interval.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    interval: f64,
    step: f64,
    /// An interval in cells.
    shift: usize,
    soft: f64,
}

impl Kernel {
    /// Under an interval in ms; `coarse`: twelve times wider cells.
    pub fn new(interval: f64, coarse: bool) -> Self {
        let finest = STEP_MS.max(interval / 120.0) * if coarse { 12.0 } else { 1.0 };
        // The interval is a whole number of cells.
        let shift = (interval / finest).ceil();
        Self { interval, step: interval / shift, shift: shift as usize, soft: SOFT_MS }
    }

    /// Widens the edges for a long time on the timer's crystal, ms.
    pub fn soften(&mut self, crystal_ms: f64) {
        if crystal_ms > 0.3 {
            let wanted = [1.5, 4.0, 8.0].iter().filter(|soft| crystal_ms > **soft * 0.5).count();
            self.soft = SOFT_MS + [1.5, 4.0, 8.0, 20.0][wanted];
        }
    }

    fn reach(&self) -> f64 {
        self.interval * (MOST_RETRIES as f64 + 1.0)
    }

    /// The chance that a SHOT frame was not ready by `x`; returns the first cell's `x`.
    fn ready_to_send(&self, desk: &mut Desk) -> f64 {
        let this = Some((self.step, self.soft));
        if desk.send != this {
            desk.send = this;
            let width = QUANTUM_MS + 2.0 * self.soft;
            let (cells, per_cell) = ((width / self.step) as usize + 2, self.step / width);
            let lacking = |k| (1.0 - (k as f64 - 1.0) * per_cell).clamp(0.0, 1.0) as f32;
            desk.lacking.clear();
            desk.lacking.extend((0..cells).map(lacking));
        }
        -self.soft - self.step
    }

    /// The chance that a START frame was not ready by `x`; returns the first cell's `x`.
    fn ready_to_start(&self, lag: &Lag, desk: &mut Desk) -> f64 {
        let from = -MOST_MS - self.step;
        let cells = ((MOST_MS - LEAST_MS + 0.5) / self.step) as usize + 2;
        desk.send = None;
        desk.lacking.clear();
        desk.lacking.extend(lag.below(-from, self.step).take(cells));
        from
    }

    /// The factors of `len` cells from cell `first` after the first that may be ready: each event
    /// brings what was ready before it and not before the last, with the chance of so many retries.
    fn lay(&self, first: i64, len: usize, desk: &mut Desk) {
        let Desk { lacking, table, .. } = desk;
        if table.len() < len {
            table.resize(len, 0.0);
        }
        let table = &mut table[..len];
        let clip = |at: usize| (at as i64 - first).clamp(0, len as i64) as usize;
        // As if all were ready at once, ...
        let mut end = clip(0);
        table[..end].fill(0.0);
        for (m, chance) in CHANCES.iter().enumerate() {
            let begin = std::mem::replace(&mut end, clip((m + 1) * self.shift));
            table[begin..end].fill(*chance as f32);
        }
        table[end..].fill(0.0);
        // ... less what was not.
        let mut before = 0.0;
        for m in 0..=MOST_RETRIES + 1 {
            let chance = CHANCES.get(m).copied().unwrap_or(0.0) as f32;
            let at = m * self.shift;
            let (begin, end) = (clip(at), clip(at + lacking.len()));
            if begin < end {
                let skipped = (first + begin as i64) as usize - at;
                add(&mut table[begin..end], &lacking[skipped..], before - chance);
            }
            before = chance;
        }
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
        Cells { top, step: self.step, density: vec![1.0; len], scale: 1.0 }
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
    // What falls to each bin and to the one above it.
    let mut pairs = vec![[0.0_f64; 2]; ((high - low) / step) as usize + 1];
    for (weight, cells) in parts {
        let share = weight / total * cells.step * f64::from(cells.scale);
        // From `low`, not from the origin, which may be a day away; in 2⁻³² of a bin.
        let fixed = |ms: f64| (ms / step * PARTS) as u64;
        let (mut place, width) = (fixed(cells.top - low), fixed(cells.step));
        for p in &cells.density {
            let mass = share * f64::from(*p);
            // Shared between the two nearest bins, so that the mean is kept.
            let above = mass * f64::from(place as u32) * (1.0 / PARTS);
            if let Some(pair) = pairs.get_mut((place >> 32) as usize) {
                *pair = [pair[0] + (mass - above), pair[1] + above];
            }
            place = place.wrapping_sub(width);
        }
    }
    let above = std::iter::once(0.0).chain(pairs.iter().map(|pair| pair[1]));
    let here = pairs.iter().map(|pair| pair[0]).chain([0.0]);
    let mut bins: Vec<f64> = here.zip(above).map(|(here, above)| here + above).collect();
    // Single precision sums to 1 only to the seventh digit.
    let held: f64 = bins.iter().sum();
    let mean =
        low + step * bins.iter().enumerate().map(|(i, mass)| i as f64 * mass).sum::<f64>() / held;
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
    fn a_frame_comes_by_the_first_event_after_it_was_ready_or_one_later_for_each_retry() {
        let lag = Lag::known(40.0, 6.0, 9);
        let sent = |x: f64| ((x + SOFT_MS) / (QUANTUM_MS + 2.0 * SOFT_MS)).clamp(0.0, 1.0);
        let started = |x: f64| 1.0 - f64::from(lag.below(-x, 1.0).next().unwrap());
        for (interval, start) in
            [7.5, 15.0, 48.75, 200.0].map(|ms| [(ms, false), (ms, true)]).concat()
        {
            let ready = |x| if start { started(x) } else { sent(x) };
            let kernel = Kernel::new(interval, false);
            let mut cells = kernel.range_of_start(1000.0);
            let all: Vec<_> = cells.iter().map(|(at, _)| at).collect();
            let (early, mut desk) = (1003.3, Desk::default());
            let mass = if start {
                cells.multiply_start(&kernel, &lag, early, &mut desk)
            } else {
                cells.multiply(&kernel, early, &mut desk)
            };
            let mut after = cells.iter().peekable();
            for at in all {
                let event = |m: usize| early - at - m as f64 * interval;
                let wanted: f64 = CHANCES
                    .iter()
                    .enumerate()
                    .map(|(m, chance)| chance * (ready(event(m)) - ready(event(m + 1))))
                    .sum();
                let got =
                    after.next_if(|(cell, _)| (cell - at).abs() < 1e-6).map_or(0.0, |(_, p)| p);
                let got = got * mass / cells.step;
                // Straight between cells.
                assert!((got - wanted).abs() < 0.03, "{interval} {start} {at}: {got} for {wanted}");
            }
        }
    }

    #[test]
    fn one_shot_leaves_the_interval_and_its_retries() {
        let kernel = Kernel::new(48.75, false);
        let mut cells = kernel.range(1000.0);
        cells.multiply(&kernel, 1000.0, &mut Desk::default());
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
            cells.multiply(&kernel, early, &mut Desk::default());
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
