//! `metrics.jsonl`: the numbers of a run, one JSON object a line, each on disk as soon as it is known.

use super::{ReportError, write_atomic};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// A line of the file; `kind` says which.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Record {
    Step(StepRecord),
    Eval(EvalRecord),
}

impl Record {
    /// Optimizer steps done when this was recorded.
    pub fn step(&self) -> u64 {
        match self {
            Self::Step(record) => record.step,
            Self::Eval(record) => record.step,
        }
    }
}

/// One logged optimizer step. A number that is not finite is written as `null` and read back as NaN.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Counted from 1.
    pub step: u64,
    /// Passes over the training set so far.
    pub epoch: f64,
    #[serde(with = "nullable")]
    pub loss: f64,
    /// Share of right matches within the batch; NaN when the task has none.
    #[serde(with = "nullable")]
    pub accuracy: f64,
    /// Global norm of the gradient before clipping.
    #[serde(with = "nullable")]
    pub grad_norm: f64,
    pub lr: f64,
    /// `ln` of the inverse temperature; NaN when the task has none.
    #[serde(with = "nullable")]
    pub logit_scale: f64,
    /// Wall time of a step, mean since the last record.
    pub step_ms: f64,
    /// Clips trained per second of wall time.
    pub clips_per_s: f64,
    /// Share of wall time spent waiting for data.
    pub data_wait: f64,
    /// Share of the decode threads' time that they spent reading clips, since the last record; the rest they waited
    /// for something to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers_busy: Option<f64>,
    /// Share of that reading that was decoding, crop and scale; the rest is opening files and augmenting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers_decoding: Option<f64>,
    /// Device memory in use, when the device tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Samples that could not be read so far.
    #[serde(default)]
    pub bad_samples: u64,
}

/// One evaluation of one set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EvalRecord {
    /// Optimizer steps done; 0 = before training.
    pub step: u64,
    pub epoch: f64,
    /// Name of the evaluation set.
    pub set: String,
    pub seconds: f64,
    /// Scores by name, such as `map_avg`.
    pub scores: BTreeMap<String, f64>,
}

/// Writer of `metrics.jsonl`.
#[derive(Debug)]
pub struct MetricsLog {
    file: File,
    path: PathBuf,
}

impl MetricsLog {
    /// Starts an empty file.
    pub fn create(path: &Path) -> Result<Self, ReportError> {
        write_atomic(path, b"")?;
        Self::open(path)
    }

    /// Continues a file after `step`: records of later steps, which will be made again, are dropped, and so is a last
    /// line that a crash cut short. A missing file is started.
    ///
    /// # Errors
    /// The file cannot be read or written, or a line before the last is no record.
    pub fn resume(path: &Path, step: u64) -> Result<Self, ReportError> {
        if !path.exists() {
            return Self::create(path);
        }
        let mut kept = Vec::new();
        for record in read_metrics(path)? {
            if record.step() <= step {
                append_line(&record, path, &mut kept)?;
            }
        }
        write_atomic(path, &kept)?;
        Self::open(path)
    }

    /// Appends a record with one write, so that the file is whole after each.
    pub fn write(&mut self, record: &Record) -> Result<(), ReportError> {
        let mut line = Vec::new();
        append_line(record, &self.path, &mut line)?;
        self.file.write_all(&line).and_then(|()| self.file.flush()).map_err(ReportError::io("write", &self.path))
    }

    fn open(path: &Path) -> Result<Self, ReportError> {
        let file = OpenOptions::new().append(true).open(path);
        Ok(Self { file: file.map_err(ReportError::io("open", path))?, path: path.to_owned() })
    }
}

/// All records of a file. A last line without its end is a torn write and is left out.
///
/// # Errors
/// The file cannot be read, or a whole line is no record.
pub fn read_metrics(path: &Path) -> Result<Vec<Record>, ReportError> {
    let bytes = std::fs::read(path).map_err(ReportError::io("read", path))?;
    let whole = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |i| i + 1);
    bytes[..whole]
        .split(|&b| b == b'\n')
        .enumerate()
        .filter(|(_, line)| !line.iter().all(u8::is_ascii_whitespace))
        .map(|(index, line)| {
            serde_json::from_slice(line).map_err(|source| ReportError::BadRecord {
                path: path.to_owned(),
                line: index + 1,
                source,
            })
        })
        .collect()
}

fn append_line(record: &Record, path: &Path, out: &mut Vec<u8>) -> Result<(), ReportError> {
    serde_json::to_writer(&mut *out, record)
        .map_err(|source| ReportError::BadJson { path: path.to_owned(), source })?;
    out.push(b'\n');
    Ok(())
}

/// JSON has no NaN: `null` stands for every number that is not finite.
mod nullable {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        value.is_finite().then_some(value).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
    }
}
