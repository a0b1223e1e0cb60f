//! From annotation files and videos to batches of frames with captions or labels.
//!
//! ```text
//! annotation file -> Clip -> Source -> (epoch order, crop, frames, changes drawn by key) -> ClipBatch
//! ```

pub mod annotations;
pub mod augment;
pub mod failures;
pub mod folder;
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

use std::num::NonZeroU32;
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
    /// Line of the list that names the clip, from 1.
    pub line: Option<NonZeroU32>,
    /// Frames that the list says the video has.
    pub listed_frames: Option<NonZeroU32>,
}

impl Clip {
    /// A stretch of a video with what is said about it.
    pub fn narrated(video: Arc<str>, start_s: f64, end_s: f64, captions: Captions) -> Self {
        Self { video, start_s, end_s, whole: false, captions, label: None, line: None, listed_frames: None }
    }

    /// A whole video of a class.
    pub fn labelled(video: Arc<str>, label: u32) -> Self {
        let none = Captions::Many(Vec::new());
        Self { whole: true, label: Some(label), ..Self::narrated(video, 0.0, 0.0, none) }
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

impl Layout {
    /// The chunk that a clip begins in; 0 in whole files.
    pub fn chunk_of(&self, clip: &Clip) -> u64 {
        match self {
            Self::Whole { .. } => 0,
            // Saturates, so that any number an annotation holds gives some chunk.
            Self::Chunked { chunk_s, .. } => (clip.start_s / chunk_s) as u64,
            Self::Prepared(prepared) => match prepared.settings.chunk_s {
                0 => 0,
                chunk_s => (clip.start_s / f64::from(chunk_s)) as u64,
            },
        }
    }
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
