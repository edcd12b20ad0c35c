//! The chart: offset with its bound, frequency, temperature, and what happened. Pure; one SVG
//! that follows the reader's light or dark, with nothing from elsewhere.
use crate::record::{Mark, Point};
use crate::state::SyncPhase;
use crate::units::UtcTime;
use std::fmt::Write as _;

/// What is drawn.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// First second since 1970.
    pub from_s: i64,
    /// Last second since 1970; after `from_s`.
    pub to_s: i64,
    /// Width in pixels, 280..4000.
    pub width: u32,
    /// The alert threshold, µs.
    pub threshold_us: f64,
}

impl Look {
    /// Begins shortly before the first point, where most of the span would be empty.
    #[must_use]
    pub fn fitted(self, points: &[Point]) -> Self {
        let first = points.first().map_or(self.from_s, Point::seconds);
        let filled = self.to_s - first;
        if first > self.from_s && filled < (self.to_s - self.from_s) / 2 {
            return Self { from_s: first - (filled / 20).max(5), ..self };
        }
        self
    }
}

const LEFT: f64 = 62.0;
const RIGHT: f64 = 14.0;
const STYLE: &str = ".tc{background:#fff;color:#1c2430;--soft:#667085;--grid:#e4e8ee;--line:#0b65c2;\
--band:#0b65c2;--hot:#c2571a;--rate:#6d4fc4;--bad:#c62828;--ok:#1b7f3b;--hold:#b7791f}\
@media(prefers-color-scheme:dark){.tc{background:#12161c;color:#e8edf3;--soft:#98a3b3;--grid:#2a313c;\
--line:#6cb2ff;--band:#6cb2ff;--hot:#ff9d5c;--rate:#b39dff;--bad:#ff6b6b;--ok:#5fd38a;--hold:#e8b04b}}\
.tc text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;fill:var(--soft)}\
.tc .t{font-weight:600;fill:currentColor;font-size:13px}.tc .g{stroke:var(--grid);stroke-width:1}\
.tc .z{stroke:var(--soft);stroke-width:1;opacity:.6}\
.tc .l{fill:none;stroke-width:1.8;stroke-linejoin:round;stroke-linecap:round}\
.tc .b{fill:var(--band);opacity:.16}.tc .h{fill:var(--hold);opacity:.13}.tc .a{fill:var(--bad);opacity:.14}\
.tc .lim{stroke:var(--bad);stroke-width:1;stroke-dasharray:5 4;opacity:.8}";

/// A panel: where it stands, and the range of values it shows.
struct Panel {
    top: f64,
    height: f64,
    low: f64,
    high: f64,
}

impl Panel {
    fn y(&self, value: f64) -> f64 {
        let at = (value - self.low) / (self.high - self.low);
        self.top + self.height * (1.0 - at.clamp(-0.02, 1.02))
    }
}

/// The whole chart as an SVG document.
#[must_use]
pub fn chart(points: &[Point], marks: &[Mark], look: Look) -> String {
    let width = f64::from(look.width.clamp(280, 4_000));
    let (from, to) = (look.from_s, look.to_s.max(look.from_s + 60));
    let x = |s: i64| LEFT + (width - LEFT - RIGHT) * (s - from) as f64 / (to - from) as f64;
    let points: Vec<&Point> =
        points.iter().filter(|p| (from..=to).contains(&p.seconds())).collect();
    let hot = points.iter().any(|p| p.temperature_c.is_some());
    let tall = if width < 520.0 { 130.0 } else { 190.0 };
    let small = if width < 520.0 { 64.0 } else { 78.0 };
    let mut heights = vec![tall, small];
    if hot {
        heights.push(small);
    }
    let bottom: f64 = 30.0 + heights.iter().map(|h| h + 34.0).sum::<f64>();
    let height = bottom + 46.0;
    let mut out = format!(
        "<svg class=\"tc\" xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" \
         width=\"{width:.0}\" height=\"{height:.0}\" role=\"img\" aria-label=\"Offset, frequency and temperature\">\
         <style>{STYLE}</style><rect width=\"100%\" height=\"100%\" fill=\"none\"/>"
    );
    let (first, last) =
        (UtcTime::from_nanos(from * 1_000_000_000), UtcTime::from_nanos(to * 1_000_000_000));
    if points.is_empty() {
        let _ = write!(
            out,
            "<text class=\"t\" x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"middle\">Nothing was measured yet</text></svg>",
            width / 2.0,
            height / 2.0
        );
        return out;
    }
    shade(&mut out, &points, marks, &x, (to, bottom));
    let mut top = 30.0;
    let gap = gap_of(&points);
    // Offset, with the bound around it, in µs or ms.
    let reach = points
        .iter()
        .filter_map(|p| {
            let most = p.low_us.unwrap_or(0.0).abs().max(p.high_us.unwrap_or(0.0).abs());
            Some((p.offset_us?.abs() + p.error_bound_us.unwrap_or(0.0)).max(most))
        })
        .collect::<Vec<_>>();
    let reach = typical(reach).max(20.0);
    let (scale, unit) = if reach >= 1_500.0 { (1e-3, "ms") } else { (1.0, "µs") };
    let step = nice(reach * scale / 2.0);
    let high = (reach * scale / step).ceil() * step;
    let panel = Panel { top, height: tall, low: -high, high };
    frame(&mut out, &panel, width, &format!("Offset from UTC ± bound, {unit}"), step);
    for limit in [-look.threshold_us * scale, look.threshold_us * scale] {
        if limit.abs() < high {
            let y = panel.y(limit);
            let _ = write!(
                out,
                "<line class=\"lim\" x1=\"{LEFT}\" x2=\"{:.0}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>",
                width - RIGHT
            );
        }
    }
    for run in runs(&points, gap, |p| p.offset_us.zip(p.error_bound_us)) {
        let mut path = String::new();
        for (s, (offset, bound)) in &run {
            let _ = write!(path, "{:.1},{:.1} ", x(*s), panel.y((offset + bound) * scale));
        }
        for (s, (offset, bound)) in run.iter().rev() {
            let _ = write!(path, "{:.1},{:.1} ", x(*s), panel.y((offset - bound) * scale));
        }
        let _ = write!(out, "<polygon class=\"b\" points=\"{}\"/>", path.trim_end());
    }
    // What single measurements said, as fine strokes behind the line.
    for p in &points {
        if let (Some(low), Some(high)) = (p.low_us, p.high_us)
            && p.measurements > 1
        {
            let _ = write!(
                out,
                "<line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{1:.1}\" y2=\"{2:.1}\" stroke=\"var(--line)\" opacity=\".35\"/>",
                x(p.seconds()),
                panel.y(high * scale),
                panel.y(low * scale)
            );
        }
    }
    line(&mut out, &panel, &points, gap, &x, "var(--line)", |p| p.offset_us.map(|us| us * scale));
    top += tall + 34.0;
    for (title, colour, value) in [
        (
            "Frequency correction, ppm",
            "var(--rate)",
            (|p| p.frequency_ppm) as fn(&Point) -> Option<f64>,
        ),
        ("Processor, °C", "var(--hot)", |p| p.temperature_c),
    ] {
        if colour == "var(--hot)" && !hot {
            continue;
        }
        let (low, high) = range(points.iter().filter_map(|p| value(p)));
        let step = nice((high - low).max(0.02) / 1.6);
        let (low, high) = ((low / step).floor() * step, (high / step).ceil() * step);
        let high = if high - low < step { low + step } else { high };
        let panel = Panel { top, height: small, low, high };
        frame(&mut out, &panel, width, title, step);
        line(&mut out, &panel, &points, gap, &x, colour, value);
        top += small + 34.0;
    }
    happenings(&mut out, marks, &x, (from, to), bottom);
    times(&mut out, &x, (from, to), width, bottom);
    let _ = write!(
        out,
        "<text x=\"{LEFT}\" y=\"{:.0}\">{}</text></svg>",
        height - 8.0,
        if first.iso(0)[..10] == last.iso(0)[..10] {
            format!("{}, UTC", &first.iso(0)[..10])
        } else {
            format!("{} to {}, UTC", &first.iso(0)[..10], &last.iso(0)[..10])
        }
    );
    out
}

/// The largest but for the outermost 2 %: one spike must not flatten all the rest.
fn typical(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let n = values.len();
    let high = values.get(n.saturating_sub(1 + n / 50)).copied().unwrap_or(0.0);
    high.max(values.last().copied().unwrap_or(0.0).min(high * 3.0))
}

fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) =
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    if low.is_finite() { (low, high) } else { (0.0, 1.0) }
}

/// 1, 2 or 5 times a power of ten, at least `least`.
fn nice(least: f64) -> f64 {
    let power = libm::pow(10.0, libm::log10(least.max(1e-9)).floor());
    let over = least / power;
    power
        * if over <= 1.0 {
            1.0
        } else if over <= 2.0 {
            2.0
        } else if over <= 5.0 {
            5.0
        } else {
            10.0
        }
}

/// Points further apart than this are not joined.
fn gap_of(points: &[&Point]) -> i64 {
    let mut steps: Vec<i64> = points.windows(2).map(|w| w[1].seconds() - w[0].seconds()).collect();
    steps.sort_unstable();
    let usual = steps.get(steps.len() / 2).copied().unwrap_or(0);
    (usual * 4).max(900)
}

/// Neighbouring points that have a value.
fn runs<T: Copy>(
    points: &[&Point],
    gap: i64,
    value: impl Fn(&Point) -> Option<T>,
) -> Vec<Vec<(i64, T)>> {
    let mut all: Vec<Vec<(i64, T)>> = Vec::new();
    let mut open = false;
    for p in points {
        let s = p.seconds();
        let Some(v) = value(p) else {
            open = false;
            continue;
        };
        let near = all.last().and_then(|run| run.last()).is_some_and(|(last, _)| s - last <= gap);
        match all.last_mut() {
            Some(run) if open && near => run.push((s, v)),
            _ => all.push(vec![(s, v)]),
        }
        open = true;
    }
    all
}

fn line(
    out: &mut String,
    panel: &Panel,
    points: &[&Point],
    gap: i64,
    x: &impl Fn(i64) -> f64,
    colour: &str,
    value: impl Fn(&Point) -> Option<f64>,
) {
    for run in runs(points, gap, value) {
        if let [(s, v)] = run[..] {
            let _ = write!(
                out,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"2\" fill=\"{colour}\"/>",
                x(s),
                panel.y(v)
            );
            continue;
        }
        let path: Vec<String> =
            run.iter().map(|(s, v)| format!("{:.1},{:.1}", x(*s), panel.y(*v))).collect();
        let _ = write!(
            out,
            "<polyline class=\"l\" stroke=\"{colour}\" points=\"{}\"/>",
            path.join(" ")
        );
    }
}

fn frame(out: &mut String, panel: &Panel, width: f64, title: &str, step: f64) {
    let _ =
        write!(out, "<text class=\"t\" x=\"{LEFT}\" y=\"{:.0}\">{title}</text>", panel.top - 9.0);
    let decimals = (-libm::log10(step)).ceil().clamp(0.0, 4.0) as usize;
    let ticks = ((panel.high - panel.low) / step).round() as i64;
    for n in 0..=ticks {
        let value = panel.low + step * n as f64;
        let (class, value) = if value.abs() < step * 1e-6 { ("z", 0.0) } else { ("g", value) };
        let y = panel.y(value);
        let _ = write!(
            out,
            "<line class=\"{class}\" x1=\"{LEFT}\" x2=\"{:.0}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            width - RIGHT,
            LEFT - 8.0,
            y + 4.0,
            format!("{value:.decimals$}").replace('-', "−")
        );
    }
}

/// Holdover in amber, alerts in red, over the whole height.
fn shade(
    out: &mut String,
    points: &[&Point],
    marks: &[Mark],
    x: &impl Fn(i64) -> f64,
    end: (i64, f64),
) {
    let mut band = |class: &str, from: i64, to: i64| {
        let (left, right) = (x(from).max(LEFT), x(to).min(x(end.0)));
        if right > LEFT {
            let _ = write!(
                out,
                "<rect class=\"{class}\" x=\"{left:.1}\" y=\"22\" width=\"{:.1}\" height=\"{:.1}\"/>",
                (right - left).max(2.0),
                end.1 - 34.0
            );
        }
    };
    let mut since = None;
    for p in points {
        match (p.state, since) {
            (SyncPhase::Synchronised, Some(from)) => {
                band("h", from, p.seconds());
                since = None;
            }
            (SyncPhase::Synchronised, None) | (_, Some(_)) => {}
            (_, None) => since = Some(p.seconds()),
        }
    }
    if let Some(from) = since {
        band("h", from, points.last().map_or(from, |p| p.seconds()));
    }
    let mut since = None;
    for mark in marks {
        match (mark.kind.as_str(), since) {
            ("alert", None) => since = Some(mark.seconds()),
            ("alert_cleared", Some(from)) => {
                band("a", from, mark.seconds());
                since = None;
            }
            _ => {}
        }
    }
    if let Some(from) = since {
        band("a", from, end.0);
    }
}

/// A lane of signs under the panels, each with its words as a tooltip.
fn happenings(
    out: &mut String,
    marks: &[Mark],
    x: &impl Fn(i64) -> f64,
    span: (i64, i64),
    bottom: f64,
) {
    let y = bottom - 18.0;
    for mark in marks.iter().filter(|m| (span.0..=span.1).contains(&m.seconds())) {
        let at = x(mark.seconds());
        let sign = match mark.kind.as_str() {
            "step" | "foreign_step" => format!(
                "<path d=\"M{at:.1} {:.1}l5 9h-10z\" fill=\"var(--bad)\"/><line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"22\" y2=\"{:.1}\" stroke=\"var(--bad)\" stroke-dasharray=\"2 3\" opacity=\".7\"/>",
                y - 5.0,
                y - 5.0
            ),
            "alert" => {
                format!("<circle cx=\"{at:.1}\" cy=\"{y:.1}\" r=\"4.5\" fill=\"var(--bad)\"/>")
            }
            "alert_cleared" => format!(
                "<circle cx=\"{at:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"none\" stroke=\"var(--ok)\" stroke-width=\"2\"/>"
            ),
            "string" => format!(
                "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"3\" height=\"10\" fill=\"var(--line)\"/>",
                at - 1.5,
                y - 5.0
            ),
            "lock" | "unlock" => format!(
                "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"7\" height=\"7\" fill=\"none\" stroke=\"var(--soft)\" stroke-width=\"1.5\"/>",
                at - 3.5,
                y - 3.5
            ),
            _ => continue,
        };
        let _ = write!(
            out,
            "<g>{sign}<title>{} {}: {}</title></g>",
            &mark.time.get(11..16).unwrap_or(""),
            escape(&mark.kind.replace('_', " ")),
            escape(&mark.text)
        );
    }
}

fn times(out: &mut String, x: &impl Fn(i64) -> f64, span: (i64, i64), width: f64, bottom: f64) {
    const STEPS: [i64; 16] = [
        10, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200, 86_400,
        172_800, 604_800,
    ];
    let most = ((width - LEFT) / 68.0).max(2.0);
    let fits = |s: &&i64| (span.1 - span.0) as f64 / **s as f64 <= most;
    let step = STEPS.iter().find(fits).copied().unwrap_or(604_800 * 4);
    let mut s = span.0.div_euclid(step) * step;
    while s <= span.1 {
        if s >= span.0 {
            let iso = UtcTime::from_nanos(s * 1_000_000_000).iso(0);
            let text = match step {
                86_400.. => &iso[5..10],
                60.. => &iso[11..16],
                _ => &iso[11..19],
            };
            let at = x(s);
            // Some 7 pixels a sign: the last words must not run over the edge.
            let middle = at.min(width - 2.0 - 3.6 * text.len() as f64);
            let _ = write!(
                out,
                "<line class=\"g\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"22\" y2=\"{:.1}\" opacity=\".6\"/>\
                 <text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{text}</text>",
                bottom - 8.0,
                bottom + 8.0
            );
        }
        s += step;
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(s: i64) -> Point {
        Point {
            time: UtcTime::from_nanos((1_795_000_000 + s) * 1_000_000_000).iso(0),
            offset_us: Some(libm::sin(s as f64 / 4_000.0) * 400.0),
            error_bound_us: Some(900.0),
            frequency_ppm: Some(7.0),
            state: SyncPhase::Synchronised,
            measurements: 1,
            ..Point::default()
        }
    }

    fn look() -> Look {
        Look { from_s: 1_795_000_000, to_s: 1_795_086_400, width: 960, threshold_us: 20_000.0 }
    }

    #[test]
    fn a_day_is_one_line_and_a_pause_breaks_it() {
        let mut points: Vec<Point> = (0..288).map(|n| point(n * 300)).collect();
        let whole = chart(&points, &[], look());
        assert_eq!(whole.matches("class=\"b\"").count(), 1);
        points.drain(100..120);
        let broken = chart(&points, &[], look());
        assert_eq!(broken.matches("class=\"b\"").count(), 2);
        assert!(whole.len() < 60_000 && !whole.contains("NaN") && !whole.contains("inf"));
    }

    #[test]
    fn words_of_strangers_cannot_leave_their_place() {
        let marks = [Mark {
            time: point(60).time,
            kind: "lock".into(),
            text: "</title><script>alert(1)</script>".into(),
        }];
        let drawn = chart(&[point(0), point(300)], &marks, look());
        assert!(drawn.contains("&lt;script&gt;") && !drawn.contains("<script"));
    }

    #[test]
    fn nothing_measured_and_one_point_are_drawn_too() {
        assert!(chart(&[], &[], look()).contains("Nothing was measured"));
        assert!(chart(&[point(9)], &[], look()).contains("<circle"));
        let unknown = Point { time: point(5).time, ..Point::default() };
        assert!(chart(&[unknown], &[], look()).ends_with("</svg>"));
    }
}
