//! `avion bench`: what this machine gives, measured the way training uses it.

pub mod clips;
pub mod decode;
pub mod io;
pub mod kernels;
mod masking;
pub mod step;

use crate::device::DeviceError;
use avion_kernels::Handle;
use cubecl::prelude::*;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

/// One thing measured.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub name: String,
    /// Milliseconds of one call: the middle of all samples, and the ends of their middle half.
    pub median_ms: f64,
    pub quartiles_ms: [f64; 2],
    /// Calls in one unit of the report (launches in a step); 1 where the row stands for itself.
    pub calls: f64,
    /// Further figures by name, such as `tflop_per_s`.
    pub figures: BTreeMap<&'static str, f64>,
}

/// Everything one `avion bench` measured.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    pub title: String,
    pub device: String,
    pub rows: Vec<Row>,
    /// What follows from the rows, in words.
    pub notes: Vec<String>,
}

impl Row {
    /// `samples` in seconds a call.
    pub fn new(name: impl Into<String>, mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = (share * (samples.len().saturating_sub(1)) as f64).round() as usize;
            samples.get(place).map_or(f64::NAN, |s| 1e3 * s)
        };
        Row {
            name: name.into(),
            median_ms: at(0.5),
            quartiles_ms: [at(0.25), at(0.75)],
            calls: 1.0,
            figures: BTreeMap::new(),
        }
    }

    pub fn with(mut self, name: &'static str, value: f64) -> Self {
        self.figures.insert(name, value);
        self
    }

    /// Adds the rate of `operations` a call, in TFLOP/s.
    pub fn operations(self, operations: f64) -> Self {
        let rate = operations / self.median_ms / 1e9;
        self.with("tflop_per_s", rate)
    }

    /// Adds the rate of `bytes` a call, in GB/s.
    pub fn bytes(self, bytes: f64) -> Self {
        let rate = bytes / self.median_ms / 1e6;
        self.with("gb_per_s", rate)
    }

    pub fn calls(mut self, calls: f64) -> Self {
        self.calls = calls;
        self
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} on {}", self.title, self.device)?;
        let width = self.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
        for row in &self.rows {
            let name = format!("{:width$}", row.name);
            write!(
                f,
                "  {name}  {:>10.3} ms  ({:.3} .. {:.3})",
                row.median_ms, row.quartiles_ms[0], row.quartiles_ms[1]
            )?;
            if row.calls != 1.0 {
                write!(f, "  x {:>5.1} = {:>8.2} ms", row.calls, row.calls * row.median_ms)?;
            }
            for (figure, value) in &row.figures {
                write!(f, "  {} {}", shown(*value), figure.replace("_per_s", "/s").replace('_', " "))?;
            }
            writeln!(f)?;
        }
        for note in &self.notes {
            writeln!(f, "{note}")?;
        }
        Ok(())
    }
}

fn shown(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 1.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

/// Waits until the device has done all that was queued.
pub(crate) fn wait<R: Runtime>(client: &ComputeClient<R>, small: &Handle) -> Result<(), DeviceError> {
    client.read_one(small.clone()).map(|_| ()).map_err(DeviceError::from_server)
}

/// Seconds a call of `queue`: several samples of a run of calls each, after two to warm up. A run is long enough that
/// waiting for its end does not show.
///
/// # Errors
/// What the device reports.
pub fn time<R: Runtime>(client: &ComputeClient<R>, mut queue: impl FnMut()) -> Result<Vec<f64>, DeviceError> {
    const SAMPLES: usize = 9;
    const RUN_S: f64 = 0.02;
    const MOST: usize = 200;
    let small = client.create_from_slice(&[0; 4]);
    for _ in 0..2 {
        queue();
    }
    wait(client, &small)?;
    let start = Instant::now();
    queue();
    wait(client, &small)?;
    let calls = ((RUN_S / start.elapsed().as_secs_f64().max(1e-6)) as usize).clamp(1, MOST);
    let mut samples = Vec::new();
    for _ in 0..SAMPLES {
        let start = Instant::now();
        for _ in 0..calls {
            queue();
        }
        wait(client, &small)?;
        samples.push(start.elapsed().as_secs_f64() / calls as f64);
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_and_the_middle_half_are_those_of_the_samples() {
        let row = Row::new("x", vec![0.005, 0.001, 0.003, 0.002, 0.004]).operations(6e9).bytes(3e6).calls(2.0);
        assert_eq!((row.median_ms, row.quartiles_ms), (3.0, [2.0, 4.0]));
        assert_eq!((row.figures["tflop_per_s"], row.figures["gb_per_s"]), (2.0, 1.0));
        let report = Report { title: "t".into(), device: "d".into(), rows: vec![row], notes: vec!["n".into()] };
        let text = report.to_string();
        assert!(text.contains("x   2.0 =     6.00 ms") && text.contains("2.0 tflop/s"), "{text}");
    }
}
