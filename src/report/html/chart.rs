//! Line charts as SVG: axes, grid, labels; coloured by the page's style, so they suit light and dark.

use super::axis::{Axis, short};
use super::{escape, percent};
use std::fmt::Write;

pub(super) struct Chart<'a> {
    pub title: &'a str,
    pub series: Vec<Series<'a>>,
    pub scale: Scale,
}

pub(super) struct Series<'a> {
    /// Shown in the legend; may be empty when there is one series.
    name: &'a str,
    /// (step, value), steps rising. Values may be NaN.
    points: Vec<(f64, f64)>,
    /// Draw the points faintly, and a smoothed curve over them.
    noisy: bool,
}

/// What the vertical axis spans.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    /// The values.
    Fit,
    /// Zero to the largest value.
    FromZero,
    /// Shares in `[0, 1]`, in per cent.
    Share,
    /// The values, in decades.
    Log,
}

// The drawing area, in units of the view box.
const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 210.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 24.0;
/// More points than this cannot be told apart at this size; runs of them become their mean, least and largest.
const MAX_POINTS: usize = 240;
/// Steps between labels of the vertical axis, at most.
const TICKS: usize = 5;

impl<'a> Series<'a> {
    pub fn noisy(name: &'a str, points: Vec<(f64, f64)>) -> Self {
        Self { name, points, noisy: true }
    }

    pub fn exact(name: &'a str, points: Vec<(f64, f64)>) -> Self {
        Self { name, points, noisy: false }
    }

    fn finite(&self) -> impl Iterator<Item = f64> + '_ {
        self.points.iter().map(|p| p.1).filter(|v| v.is_finite())
    }
}

impl Chart<'_> {
    pub fn render(&self, page: &mut String) {
        let lost: usize = self.series.iter().map(|s| s.points.len() - s.finite().count()).sum();
        let _ = write!(page, "<figure class=\"chart\"><figcaption>{}", escape(self.title));
        match &self.series[..] {
            [only] => {
                if let Some(value) = only.finite().last() {
                    let _ = write!(page, " <span class=\"last\">{}</span>", self.value(value));
                }
            }
            several => {
                for (index, series) in several.iter().enumerate() {
                    let name = escape(series.name);
                    let _ = write!(page, " <span class=\"name\"><i class=\"key s{index}\"></i>{name}</span>");
                }
            }
        }
        if lost > 0 {
            let _ = write!(page, " <strong class=\"wrong\">{lost} not finite</strong>");
        }
        page.push_str("</figcaption>\n");
        match self.frame() {
            Some(frame) => self.draw(&frame, page),
            None => page.push_str("<p class=\"legend\">nothing finite was logged</p>"),
        }
        page.push_str("</figure>\n");
    }

    /// What the axes span; `None` without a finite value.
    fn frame(&self) -> Option<Frame> {
        let steps = self.series.iter().flat_map(|s| &s.points).map(|p| p.0);
        let values = || {
            let positive_only = self.scale == Scale::Log;
            let all = self.series.iter().flat_map(Series::finite);
            all.filter(move |v| !positive_only || *v > 0.0)
        };
        let least = values().fold(f64::INFINITY, f64::min);
        let largest = values().fold(f64::NEG_INFINITY, f64::max);
        if !least.is_finite() || !largest.is_finite() {
            return None;
        }
        let y = match self.scale {
            Scale::Share => Axis::linear(0.0, largest.max(1e-3), TICKS),
            Scale::FromZero => Axis::linear(least.min(0.0), largest, TICKS),
            Scale::Fit => Axis::linear(least, largest, TICKS),
            Scale::Log => Axis::log(least, largest),
        };
        let last = steps.fold(0.0, f64::max);
        Some(Frame { x: Axis::exact(0.0, last.max(1.0), 6), y })
    }

    fn draw(&self, frame: &Frame, page: &mut String) {
        let _ = writeln!(
            page,
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
            escape(&self.description())
        );
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for &tick in &frame.y.ticks {
            let y = frame.y(tick);
            let label = self.tick(tick, frame.y.step);
            let _ = writeln!(
                page,
                "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{right}\"/><text class=\"y\" x=\"{:.1}\" y=\"{:.1}\">{label}</text>",
                LEFT - 6.0,
                y + 3.5
            );
        }
        for &tick in &frame.x.ticks {
            let x = frame.x(tick);
            let _ = writeln!(
                page,
                "<path class=\"axis\" d=\"M{x:.1} {bottom}v4\"/><text class=\"x\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>",
                bottom + 16.0,
                short(tick, frame.x.step)
            );
        }
        let _ = writeln!(page, "<path class=\"axis\" d=\"M{LEFT} {bottom}H{right}\"/>");
        for (index, series) in self.series.iter().enumerate() {
            series.draw(index, frame, page);
        }
        page.push_str("</svg>\n");
    }

    fn description(&self) -> String {
        let spans: Vec<String> = self
            .series
            .iter()
            .filter_map(|series| {
                let (first, last) = (series.finite().next()?, series.finite().last()?);
                let (first, last) = (self.value(first), self.value(last));
                Some(format!("{} from {first} to {last}", series.name))
            })
            .collect();
        format!("{}: {}", self.title, spans.join(", "))
    }

    fn value(&self, value: f64) -> String {
        match self.scale {
            Scale::Share => percent(value),
            _ => short(value, value.abs() / 100.0),
        }
    }

    fn tick(&self, tick: f64, step: f64) -> String {
        match self.scale {
            Scale::Share => format!("{}%", short(tick * 100.0, step * 100.0)),
            Scale::Log => short(tick, tick),
            _ => short(tick, step),
        }
    }
}

impl Series<'_> {
    fn draw(&self, index: usize, frame: &Frame, page: &mut String) {
        let drawn = condense(&self.points);
        if self.noisy {
            for run in drawn.split(|p| !frame.shows(p.mean)) {
                let upper = run.iter().map(|p| (p.step, p.largest));
                let lower = run.iter().rev().map(|p| (p.step, p.least));
                if self.points.len() > MAX_POINTS {
                    path("band", index, frame, upper.chain(lower), page);
                } else {
                    path("raw", index, frame, upper, page);
                }
            }
        }
        let means: Vec<(f64, f64)> = drawn.iter().map(|p| (p.step, p.mean)).collect();
        let means = if self.noisy { smooth(&means) } else { means };
        for run in means.split(|p| !frame.shows(p.1)) {
            match run {
                [only] => {
                    let (x, y) = (frame.x(only.0), frame.y(only.1));
                    let _ = writeln!(page, "<circle class=\"dot s{index}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\"/>");
                }
                run => path("line", index, frame, run.iter().copied(), page),
            }
        }
        for (step, _) in self.points.iter().filter(|p| !p.1.is_finite()) {
            let x = frame.x(*step);
            let _ = writeln!(page, "<path class=\"lost\" d=\"M{x:.1} {TOP}v8\"/>");
        }
    }
}

fn path(class: &str, index: usize, frame: &Frame, points: impl Iterator<Item = (f64, f64)>, page: &mut String) {
    let mut d = String::new();
    for (step, value) in points {
        let letter = if d.is_empty() { 'M' } else { 'L' };
        let _ = write!(d, "{letter}{:.1} {:.1}", frame.x(step), frame.y(value));
    }
    if !d.is_empty() {
        let _ = writeln!(page, "<path class=\"{class} s{index}\" d=\"{d}\"/>");
    }
}

/// A run of points that share a place in the drawing.
struct Bucket {
    step: f64,
    mean: f64,
    least: f64,
    largest: f64,
}

fn condense(points: &[(f64, f64)]) -> Vec<Bucket> {
    let size = points.len().div_ceil(MAX_POINTS).max(1);
    points
        .chunks(size)
        .map(|chunk| {
            let finite = || chunk.iter().map(|p| p.1).filter(|v| v.is_finite());
            Bucket {
                step: chunk.iter().map(|p| p.0).sum::<f64>() / chunk.len() as f64,
                mean: finite().sum::<f64>() / finite().count() as f64, // NaN when nothing is finite: a gap
                least: finite().fold(f64::INFINITY, f64::min),
                largest: finite().fold(f64::NEG_INFINITY, f64::max),
            }
        })
        .collect()
}

/// Exponential mean over a hundredth of the curve to either side: both directions, so that it does not lag.
fn smooth(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let keep = 1.0 - 1.0 / (points.len() as f64 / 100.0).max(1.0);
    let mut forward = vec![0.0; points.len()];
    let mut backward = vec![0.0; points.len()];
    exponential_mean(keep, points.iter().zip(&mut forward));
    exponential_mean(keep, points.iter().zip(&mut backward).rev());
    let means = forward.iter().zip(&backward).map(|(f, b)| (f + b) / 2.0);
    points.iter().map(|p| p.0).zip(means).collect()
}

/// Unbiased at its start; leaves values that are not finite in their place.
fn exponential_mean<'p>(keep: f64, points: impl Iterator<Item = (&'p (f64, f64), &'p mut f64)>) {
    let (mut sum, mut weight) = (0.0, 0.0);
    for (&(_, value), mean) in points {
        *mean = value;
        if value.is_finite() {
            sum = keep * sum + (1.0 - keep) * value;
            weight = keep * weight + (1.0 - keep);
            *mean = sum / weight;
        }
    }
}

struct Frame {
    x: Axis,
    y: Axis,
}

impl Frame {
    fn x(&self, step: f64) -> f64 {
        LEFT + self.x.share(step) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.y.share(value) * (HEIGHT - TOP - BOTTOM)
    }

    fn shows(&self, value: f64) -> bool {
        value.is_finite() && (!self.y.log || value > 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_curves_keep_their_extremes() {
        let mut points: Vec<(f64, f64)> = (0..10_000).map(|i| (f64::from(i), 1.0)).collect();
        points[5_000].1 = 9.0;
        points[7_000].1 = f64::NAN;
        let condensed = condense(&points);
        assert!(condensed.len() <= MAX_POINTS);
        assert!(condensed.iter().any(|b| b.largest == 9.0));
        assert!(condensed.iter().all(|b| b.mean.is_finite()));
    }
}
