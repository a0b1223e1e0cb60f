//! What can be wrong with checkpoints and files of weights.

use crate::fs::WriteError;
use std::path::{Path, PathBuf};

/// Why a checkpoint or a file of weights cannot be written, read or used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Torch(#[from] super::torch_file::TorchFileError),
    #[error("cannot read {path}", path = path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error(
        "{path} is in use by another run: wait for it or choose another train.output",
        path = path.display()
    )]
    InUse { path: PathBuf },
    #[error("no usable checkpoint in {path}{}; restore one, name another with --resume, or start over with --fresh",
        reasons(skipped), path = path.display())]
    NoCheckpoint { path: PathBuf, skipped: Vec<super::Skipped> },
    #[error(
        "checkpoint {path} is damaged: {reason}; resume from the run's folder to use an older one",
        path = path.display()
    )]
    Damaged { path: PathBuf, reason: String },
    #[error("{path} is not a file of weights: {reason}", path = path.display())]
    Format { path: PathBuf, reason: String },
    #[error("tensor {tensor}: {reason}")]
    Tensor { tensor: String, reason: String },
    #[error("{path} does not fit the model:{}", lines(problems), path = path.display())]
    Mismatch {
        path: PathBuf,
        /// One line a tensor: its name, what was expected and what was found.
        problems: Vec<String>,
    },
}

impl CheckpointError {
    pub(crate) fn read(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Read { path, source }
    }

    pub(crate) fn format(path: &Path, reason: impl Into<String>) -> Self {
        Self::Format { path: path.to_path_buf(), reason: reason.into() }
    }
}

fn reasons(skipped: &[super::Skipped]) -> String {
    skipped.iter().map(|one| format!("\n  skipped {one}")).collect()
}

/// At most this many tensors are printed: a wrong file mismatches in all of them.
const SHOWN: usize = 12;

fn lines(problems: &[String]) -> String {
    let mut text: String = problems.iter().take(SHOWN).map(|problem| format!("\n  {problem}")).collect();
    if problems.len() > SHOWN {
        text.push_str(&format!("\n  and {} more", problems.len() - SHOWN));
    }
    text
}
