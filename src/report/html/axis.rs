//! Axes with round ticks, and the shortest labels that tell the ticks apart.

/// A span of numbers along one side of a chart.
pub(super) struct Axis {
    pub from: f64,
    pub to: f64,
    pub log: bool,
    pub ticks: Vec<f64>,
    /// Distance of the ticks; decides the digits of their labels.
    pub step: f64,
}

impl Axis {
    /// Widened to round numbers.
    pub fn linear(least: f64, largest: f64, ticks: usize) -> Self {
        let pad = if largest > least { 0.0 } else { largest.abs().max(1e-9) / 2.0 };
        let (least, largest) = (least - pad, largest + pad);
        let step = round_step((largest - least) / ticks as f64);
        let from = (least / step + 1e-9).floor();
        let to = (largest / step - 1e-9).ceil();
        Self {
            from: from * step,
            to: to * step,
            log: false,
            ticks: (0..=(to - from) as u32).map(|i| (from + f64::from(i)) * step).collect(),
            step,
        }
    }

    /// Not widened: ticks where round numbers fall.
    pub fn exact(from: f64, to: f64, ticks: usize) -> Self {
        let step = round_step((to - from) / ticks as f64).max(1.0);
        let first = (from / step).ceil();
        Self {
            from,
            to,
            log: false,
            ticks: (0..).map(|i| (first + f64::from(i)) * step).take_while(|&tick| tick <= to).collect(),
            step,
        }
    }

    /// Widened to decades; within two, also 2 and 5 times each.
    pub fn log(least: f64, largest: f64) -> Self {
        let (first, last) = (least.log10(), largest.log10());
        let parts: &[f64] = match last - first {
            span if span <= 2.0 => &[1.0, 2.0, 5.0],
            _ => &[1.0],
        };
        let mut ticks: Vec<f64> = (first.floor() as i32..=last.ceil() as i32)
            .flat_map(|decade| parts.iter().map(move |part| part * 10f64.powi(decade)))
            .collect();
        let from = ticks.iter().rposition(|&t| t <= least).unwrap_or(0);
        let to = ticks.iter().position(|&t| t >= largest && t > ticks[from]).unwrap_or(ticks.len() - 1);
        ticks = ticks[from..=to].to_vec();
        let crowd = ticks.len().div_ceil(6);
        Self {
            from: ticks[0],
            to: ticks[ticks.len() - 1],
            log: true,
            ticks: ticks.into_iter().step_by(crowd).collect(),
            step: 1.0,
        }
    }

    /// 0 at the start of the axis, 1 at its end.
    pub fn share(&self, value: f64) -> f64 {
        let share = if self.log {
            (value / self.from).ln() / (self.to / self.from).ln()
        } else {
            (value - self.from) / (self.to - self.from)
        };
        share.clamp(0.0, 1.0)
    }
}

/// The nearest larger of 1, 2, 5 times a power of ten.
fn round_step(step: f64) -> f64 {
    let decade = 10f64.powf(step.max(1e-300).log10().floor());
    let part = step / decade;
    let rounded = [1.0, 2.0, 5.0].into_iter().find(|&r| part <= r + 1e-9);
    decade * rounded.unwrap_or(10.0)
}

/// A number with the digits that a step of this size needs: `0.25`, `1.2k`, `3e-5`.
pub(super) fn short(value: f64, step: f64) -> String {
    let size = value.abs();
    let text = if size == 0.0 {
        "0".to_owned()
    } else if size < 1e-3 {
        format!("{value:.1e}").replace(".0e", "e")
    } else if size >= 1e4 {
        let (unit, name) = if size >= 1e6 { (1e6, "M") } else { (1e3, "k") };
        let digits = digits_for(step / unit).min(2);
        format!("{:.digits$}{name}", value / unit)
    } else {
        format!("{value:.*}", digits_for(step))
    };
    text.replace('-', "−")
}

fn digits_for(step: f64) -> usize {
    (-(step.max(1e-12) * 1.0001).log10().floor()).clamp(0.0, 6.0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers() {
        let axis = Axis::linear(0.13, 4.16, 4);
        assert_eq!((axis.from, axis.to), (0.0, 6.0));
        assert_eq!(axis.ticks, [0.0, 2.0, 4.0, 6.0]);
        let flat = Axis::linear(3e-5, 3e-5, 4);
        assert!(flat.from < 3e-5 && flat.to > 3e-5 && flat.share(3e-5) > 0.2);
        let log = Axis::log(0.03, 900.0);
        assert_eq!((log.from, log.to), (0.01, 1000.0));
        assert!((log.share(1.0) - 0.4).abs() < 1e-9);
        let one = Axis::log(1.0, 1.0);
        assert!(one.to > one.from);
    }

    #[test]
    fn labels_are_short() {
        assert_eq!(short(0.0, 0.05), "0");
        assert_eq!(short(0.25, 0.05), "0.25");
        assert_eq!(short(48_000.0, 1_000.0), "48k");
        assert_eq!(short(1_250_000.0, 50_000.0), "1.25M");
        assert_eq!(short(3e-5, 1e-5), "3e−5");
        assert_eq!(short(-2.5, 0.5), "−2.5");
    }
}
