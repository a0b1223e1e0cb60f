//! From annotation files and videos to batches of frames and captions.
//!
//! ```text
//! annotation file -> Clip -> Source -> (epoch order, crop, frames drawn by key) -> ClipBatch
//! ```

pub mod annotations;
pub mod failures;
pub mod layout;
pub mod loader;
pub mod pickle;
pub mod relevancy;
pub mod rng;
pub mod sampler;
pub mod sampling;
#[cfg(feature = "video")]
pub mod synthetic;

use std::path::PathBuf;
use std::sync::Arc;

/// One annotated stretch of a video.
#[derive(Clone, Debug, PartialEq)]
pub struct Clip {
    /// The video's name below the source's root, as the annotation gives it.
    pub video: Arc<str>,
    /// `[start_s, end_s)` within the video, seconds.
    pub start_s: f64,
    pub end_s: f64,
    pub captions: Captions,
}

/// The caption of a clip, or several to choose from.
#[derive(Clone, Debug, PartialEq)]
pub enum Captions {
    One(Arc<str>),
    Many(Vec<Arc<str>>),
}

/// How a source's videos lie on disk.
#[derive(Clone, Debug, PartialEq)]
pub enum Layout {
    /// `root/VIDEO` (the extension appended when the name has none).
    Whole { extension: String },
    /// `root/VIDEO/0.mp4`, `root/VIDEO/15.mp4`, ...: a folder per video, one file per `chunk_s` seconds.
    Chunked { chunk_s: f64, extension: String },
}

/// A set of annotated clips and where their videos lie.
#[derive(Clone, Debug)]
pub struct Source {
    pub name: String,
    pub root: PathBuf,
    pub layout: Layout,
    /// Frames per second of every video; `None` = ask each file.
    pub fps: Option<f64>,
    pub clips: Vec<Clip>,
}
