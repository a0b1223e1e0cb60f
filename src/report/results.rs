//! `results.json`: what a run reached, beside chance and its own start.

use super::{ReportError, write_atomic};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The outcome of a run in a few numbers, for a person, a script and a test alike.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// What a random ranking would score.
    pub chance: Scores,
    /// Before the first step.
    pub before: Scores,
    /// After the last.
    pub after: Scores,
    /// Wall time of the whole run.
    pub seconds: f64,
    /// What it ran on, in words.
    pub device: String,
}

/// Retrieval scores, shares in `[0, 1]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// R@1 of captions looking for videos.
    pub t2v_r1: f64,
    /// R@1 of videos looking for captions.
    pub v2t_r1: f64,
    /// Official mAP, mean of both directions.
    pub map: f64,
    /// nDCG, mean of both directions.
    pub ndcg: f64,
}

impl Results {
    /// Writes the file whole or not at all.
    pub fn write(&self, path: &Path) -> Result<(), ReportError> {
        let bad = |source| ReportError::BadJson { path: path.to_owned(), source };
        let mut json = serde_json::to_vec_pretty(self).map_err(bad)?;
        json.push(b'\n');
        write_atomic(path, &json)
    }

    pub fn read(path: &Path) -> Result<Self, ReportError> {
        let json = std::fs::read(path).map_err(ReportError::io("read", path))?;
        serde_json::from_slice(&json).map_err(|source| ReportError::BadJson { path: path.to_owned(), source })
    }
}
