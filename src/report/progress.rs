//! The one line that says how a run is doing.

use super::{Scored, StepRecord};
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

/// How far a run goes.
#[derive(Clone, Copy, Debug)]
pub struct ProgressPlan {
    /// Optimizer steps of the whole run.
    pub total_steps: u64,
    /// Clips per optimizer step.
    pub batch_size: usize,
    /// What the steps count beside the loss.
    pub scored: Scored,
    /// Loss, accuracy and rates are means that forget with this many clips, whatever the batch size.
    pub horizon_samples: usize,
}

/// Draws the line: in place on a terminal, one line per update elsewhere.
///
/// ```text
/// step 1200/48000  epoch 1.23  loss 2.4813  acc 41.2%  grad 0.93  lr 3.0e-5  412 ms/step  4970 clips/s
/// data-wait 3%  mem 61.2 GiB  ETA 5h12m                                          (all on one line)
/// ```
pub struct Progress<W: Write> {
    out: W,
    /// Columns of the terminal; `None` = not a terminal.
    columns: Option<usize>,
    plan: ProgressPlan,
    smooth: Option<Smooth>,
    /// Whether `smooth` holds the first record alone, whose steps also compiled kernels and timed algorithms: the second
    /// has the rates to itself.
    warming_up: bool,
    last_step: u64,
    drawn: bool,
}

/// Exponential means over clips.
struct Smooth {
    loss: f64,
    accuracy: f64,
    step_ms: f64,
    clips_per_s: f64,
    data_wait: f64,
}

impl Progress<io::Stderr> {
    /// Draws on stderr, after `first_step` steps of an earlier run.
    pub fn stderr(plan: ProgressPlan, first_step: u64) -> Self {
        let out = io::stderr();
        let columns = out
            .is_terminal()
            .then(|| terminal_size::terminal_size_of(&out).map_or(80, |(width, _)| usize::from(width.0)));
        Self::new(out, columns, plan, first_step)
    }
}

impl<W: Write> Progress<W> {
    /// Draws on `out`; `columns` is its width if it is a terminal.
    pub fn new(out: W, columns: Option<usize>, plan: ProgressPlan, first_step: u64) -> Self {
        Self { out, columns, plan, smooth: None, warming_up: true, last_step: first_step, drawn: false }
    }

    /// Takes in a logged step and redraws. Failing to draw never fails a run.
    pub fn update(&mut self, record: &StepRecord) {
        let steps = record.step.saturating_sub(self.last_step).max(1);
        self.last_step = record.step;
        let clips = steps as f64 * self.plan.batch_size as f64;
        let forget = 1.0 - (-clips / self.plan.horizon_samples.max(1) as f64).exp();
        self.smooth = Some(match self.smooth.take() {
            None => Smooth::first(record),
            Some(smooth) if std::mem::take(&mut self.warming_up) => {
                Smooth { loss: smooth.loss, accuracy: smooth.accuracy, ..Smooth::first(record) }.then(record, forget)
            }
            Some(smooth) => smooth.then(record, forget),
        });
        let fields = self.fields(record);
        let line = match self.columns {
            None => join(&fields),
            Some(columns) => fit(fields, columns.saturating_sub(1)),
        };
        let _ = match self.columns {
            None => writeln!(self.out, "{line}"),
            Some(_) => write!(self.out, "\r{line}\x1b[K"),
        };
        let _ = self.out.flush();
        self.drawn = self.columns.is_some();
    }

    /// Prints a message above the line.
    pub fn message(&mut self, text: &str) {
        self.clear();
        let _ = writeln!(self.out, "{text}");
    }

    /// Removes the line, so that something else can be printed; the next update draws it again.
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.drawn) {
            let _ = write!(self.out, "\r\x1b[K");
            let _ = self.out.flush();
        }
    }

    /// Leaves the line as it is and goes to the next.
    pub fn finish(&mut self) {
        if std::mem::take(&mut self.drawn) {
            let _ = writeln!(self.out);
        }
    }

    /// Parts of the line with the order in which they give way on a narrow terminal: 0 never does.
    fn fields(&self, record: &StepRecord) -> Vec<(u8, String)> {
        let Some(smooth) = &self.smooth else {
            return Vec::new();
        };
        let total = self.plan.total_steps;
        let left = total.saturating_sub(record.step);
        let eta = Duration::try_from_secs_f64(left as f64 * smooth.step_ms / 1e3);
        let eta = eta.map_or_else(|_| "?".to_owned(), format_duration);
        let mut fields = vec![
            (0, format!("step {}/{total}", record.step)),
            (6, format!("epoch {:.2}", record.epoch)),
            (0, format!("loss {:.4}", smooth.loss)),
            (5, format!("{} {:.1}%", self.plan.scored.short(), smooth.accuracy * 100.0)),
            (8, format!("grad {:.2}", record.grad_norm)),
            (9, format!("lr {:.1e}", record.lr)),
            (4, format!("{:.0} ms/step", smooth.step_ms)),
            (2, format!("{} clips/s", rate(smooth.clips_per_s))),
            (3, format!("data-wait {:.0}%", smooth.data_wait * 100.0)),
        ];
        if smooth.accuracy.is_nan() {
            fields.retain(|(_, field)| !field.starts_with(self.plan.scored.short())); // nothing to count
        }
        if let Some(bytes) = record.memory_bytes {
            let gib = bytes as f64 / f64::from(1 << 30);
            fields.push((7, format!("mem {gib:.1} GiB")));
        }
        if record.bad_samples > 0 {
            fields.push((1, format!("bad {}", record.bad_samples)));
        }
        fields.push((0, format!("ETA {eta}")));
        fields
    }
}

impl Smooth {
    fn first(record: &StepRecord) -> Self {
        Self {
            loss: record.loss,
            accuracy: record.accuracy,
            step_ms: record.step_ms,
            clips_per_s: record.clips_per_s,
            data_wait: record.data_wait,
        }
    }

    fn then(self, record: &StepRecord, forget: f64) -> Self {
        let mix = |old: f64, new: f64| match (old.is_finite(), new.is_finite()) {
            (true, true) => old + forget * (new - old),
            // A bad step must show, and the next good one must not carry it on.
            _ => new,
        };
        Self {
            loss: mix(self.loss, record.loss),
            accuracy: mix(self.accuracy, record.accuracy),
            step_ms: mix(self.step_ms, record.step_ms),
            clips_per_s: mix(self.clips_per_s, record.clips_per_s),
            data_wait: mix(self.data_wait, record.data_wait),
        }
    }
}

fn join(fields: &[(u8, String)]) -> String {
    let parts: Vec<&str> = fields.iter().map(|(_, part)| part.as_str()).collect();
    parts.join("  ")
}

/// Drops the parts that matter least until the rest fits.
fn fit(mut fields: Vec<(u8, String)>, columns: usize) -> String {
    loop {
        let line = join(&fields);
        let least = fields.iter().map(|&(order, _)| order).max().unwrap_or(0);
        if line.len() <= columns {
            return line;
        }
        if least == 0 {
            return line.chars().take(columns).collect();
        }
        fields.retain(|&(order, _)| order != least);
    }
}

fn rate(per_s: f64) -> String {
    if per_s < 10.0 { format!("{per_s:.2}") } else { format!("{per_s:.0}") }
}

/// `48s`, `12m30s`, `5h12m`, `3d04h`.
pub(crate) fn format_duration(duration: Duration) -> String {
    let s = duration.as_secs_f64().round() as u64;
    let (m, h, d) = (s / 60, s / 3600, s / 86_400);
    match (d, h, m) {
        (1.., ..) => format!("{d}d{:02}h", h % 24),
        (_, 1.., _) => format!("{h}h{:02}m", m % 60),
        (_, _, 1..) => format!("{m}m{:02}s", s % 60),
        _ => format!("{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        let text = |s| format_duration(Duration::from_secs_f64(s));
        assert_eq!(text(0.4), "0s");
        assert_eq!(text(59.7), "1m00s");
        assert_eq!(text(750.0), "12m30s");
        assert_eq!(text(5.2 * 3600.0), "5h12m");
        assert_eq!(text(3.2 * 86_400.0), "3d04h");
    }

    #[test]
    fn narrow_terminals_lose_the_least_important_part_first() {
        let fields = || vec![(0, "step 1/2".into()), (2, "x".into()), (1, "y".into())];
        assert_eq!(fit(fields(), 14), "step 1/2  x  y");
        assert_eq!(fit(fields(), 13), "step 1/2  y");
        assert_eq!(fit(fields(), 9), "step 1/2");
        assert_eq!(fit(fields(), 4), "step");
    }
}
