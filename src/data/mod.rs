//! From annotation files and videos to batches of frames with captions or labels.
//!
//! ```text
//! annotation file -> Clip -> Source -> (epoch order, crop, frames, changes drawn by key) -> ClipBatch
//! ```

pub mod annotations;
pub mod augment;
pub mod failures;
pub mod layout;
pub mod loader;
pub mod manifest;
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
    /// The clip is the whole video, however long; the times are then 0.
    pub whole: bool,
    pub captions: Captions,
    /// Class of a labelled clip, from 0.
    pub label: Option<u32>,
}

impl Clip {
    /// A stretch of a video with what is said about it.
    pub fn narrated(video: Arc<str>, start_s: f64, end_s: f64, captions: Captions) -> Self {
        Self { video, start_s, end_s, whole: false, captions, label: None }
    }

    /// A whole video of a class.
    pub fn labelled(video: Arc<str>, label: u32) -> Self {
        Self { video, start_s: 0.0, end_s: 0.0, whole: true, captions: Captions::Many(Vec::new()), label: Some(label) }
    }
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
    /// As `avion prepare` left them, with a manifest that tells what there is.
    Prepared(Arc<manifest::Prepared>),
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
