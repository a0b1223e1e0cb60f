//! What can go wrong between sources and batches.

use super::job::MAX_ATTEMPTS;
use crate::data::failures::TooManyBad;
use crate::data::sampler::Position;

/// Why batches cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LoaderError {
    #[error("loader setting {field}: expected {expected}, found {found}")]
    Setting { field: &'static str, expected: &'static str, found: String },
    #[error("{clips} clips do not fill a batch of {batch_size}: add clips or lower train.batch_size")]
    TooFewClips { clips: u64, batch_size: usize },
    #[error(
        "cannot go on at batch {} of epoch {}: an epoch has {batches} batches; the set or the batch size has changed",
        position.batch, position.epoch
    )]
    Start { position: Position, batches: u64 },
    #[error(transparent)]
    TooManyBad(#[from] TooManyBad),
    #[error(
        "no readable sample for batch {} of epoch {} in {MAX_ATTEMPTS} attempts:\n{summary}",
        position.batch, position.epoch
    )]
    Exhausted { position: Position, summary: String },
    #[error("the decoder panicked on sample {sample} ({video}): {message}")]
    Panicked { sample: u64, video: String, message: String },
    #[error(
        "{threads} decode threads have hung for more than {timeout_s} s each; is the storage reachable?\n{summary}"
    )]
    Stalled { threads: usize, timeout_s: f64, summary: String },
    #[error("decode threads ended without a report")]
    ThreadsEnded,
    #[error("cannot start a decode thread: {source}")]
    Spawn {
        #[from]
        source: std::io::Error,
    },
}
