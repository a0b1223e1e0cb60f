//! Why a preparation, or one video of it, stopped.

use crate::data::manifest::{Failed, ManifestError};
use crate::fs::WriteError;
use ffmpeg_next as ffmpeg;
use std::path::PathBuf;

/// Why a preparation cannot begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}: line {line}: {problem}", path.display())]
    List { path: PathBuf, line: usize, problem: String },
    #[error("no videos (files ending in {endings}) below {}", path.display())]
    NoVideos { path: PathBuf, endings: String },
    #[error("--output must be another folder than --input: {}", path.display())]
    SameFolder { path: PathBuf },
    #[error("{option}: expected {expected}, found {found}")]
    Option { option: &'static str, expected: String, found: String },
    #[error("this FFmpeg has no encoder {codec}; `--codec auto` takes what there is")]
    NoEncoder { codec: String },
    #[error(
        "{} was prepared with other settings: {differences}. Give the same ones, or another --output",
        path.display()
    )]
    Settings { path: PathBuf, differences: String },
    #[error("another `avion prepare` is at work in {}", path.display())]
    Locked { path: PathBuf },
    #[error("nothing has been prepared in {}: it holds neither a manifest nor a journal", path.display())]
    Nothing { path: PathBuf },
    #[error("{}: line {line} is damaged: {reason}. Delete the file: what it lists is then made anew", path.display())]
    Journal { path: PathBuf, line: usize, reason: String },
    #[error(
        "disk full: {} needs {needed} more for the {videos} videos that are left, {free} are free. What is finished stays; \
         free some space and run the same command again",
        path.display()
    )]
    DiskFull { path: PathBuf, needed: String, free: String, videos: usize },
    #[error("all {failed} videos failed; the first: {reason}")]
    AllFailed { failed: usize, reason: String },
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

/// Why one video was not prepared.
#[derive(Debug)]
pub enum VideoFailure {
    /// It is at fault: counted, and the next one taken.
    Bad(Failed),
    /// The disk is at fault: everything stops.
    Write(WriteError),
    /// The run was asked to stop.
    Stopped,
}

/// A fault of a video: its kind, to count by, and the reason.
pub fn fault(kind: &str, reason: impl Into<String>) -> Failed {
    Failed { kind: kind.into(), reason: reason.into() }
}

impl VideoFailure {
    pub fn bad(kind: &str, reason: impl Into<String>) -> Self {
        Self::Bad(fault(kind, reason))
    }

    /// What FFmpeg refused to do.
    pub fn refused(kind: &str, action: &str, error: ffmpeg::Error) -> Self {
        Self::bad(kind, format!("cannot {action}: {error}"))
    }
}

impl From<WriteError> for VideoFailure {
    fn from(error: WriteError) -> Self {
        Self::Write(error)
    }
}

impl From<Failed> for VideoFailure {
    fn from(failed: Failed) -> Self {
        Self::Bad(failed)
    }
}
