//! Demo videos made on the spot: a coloured shape moves, and a caption says how ([`generate`]), or a label says in which
//! direction ([`generate_motions`]).
//!
//! A set to see training work on without downloading anything, and the source of every video in the tests. The
//! held-out clips show combinations of colour, shape, motion and speed that no training clip shows, one clip a
//! caption, so retrieval on them measures what was understood, not what was memorised.
//!
//! A training run on these must not flip pictures: left and right would change places under captions and labels.

mod combination;
mod encode;
mod files;
mod motion;
mod scene;

pub use combination::COMBINATIONS;
pub use encode::{WriteError, write_video};
pub use motion::{MOTION_CLASSES, MotionConfig, MotionSet, generate_motions};

use crate::data::{Clip, Layout, Source};
use files::{Video, total_bytes, write_all, write_table, write_whole};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// Of the drawing and the files. A set made by another version is made anew.
const VERSION: u32 = 1;

const EXTENSION: &str = "mp4";

/// What set to make.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SyntheticConfig {
    /// Training clips.
    pub clips: usize,
    /// Held-out clips, each with a caption of its own.
    pub heldout: usize,
    /// Width and height, even.
    pub size_px: u32,
    /// Frames per second.
    pub fps: u32,
    /// Length of a clip.
    pub seconds: f64,
    /// Cut each video into files of this many seconds; 0 = one file a video.
    pub chunk_s: f64,
    /// The same seed gives the same set.
    pub seed: u64,
}

impl Default for SyntheticConfig {
    fn default() -> Self {
        Self { clips: 512, heldout: 96, size_px: 96, fps: 12, seconds: 2.0, chunk_s: 0.0, seed: 0 }
    }
}

/// Why a set could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SyntheticError {
    #[error("synthetic videos, {field}: expected {expected}, found {found}")]
    Setting { field: &'static str, expected: String, found: String },
    #[error("cannot {action}: {source}: {}", path.display())]
    File { path: PathBuf, action: &'static str, source: io::Error },
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// The training or the held-out clips.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    Train,
    Heldout,
}

impl Split {
    fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Heldout => "heldout",
        }
    }
}

/// A set on disk.
#[derive(Clone, Debug)]
pub struct SyntheticSet {
    /// Folder that the videos lie in.
    pub root: PathBuf,
    /// Annotation table of the training clips: columns `video,start,end,caption`.
    pub train_csv: PathBuf,
    /// The same of the held-out clips.
    pub heldout_csv: PathBuf,
    pub train: Vec<Clip>,
    pub heldout: Vec<Clip>,
    /// Size of all videos.
    pub bytes: u64,
    /// Whether the set was there already.
    pub reused: bool,
    layout: Layout,
}

impl SyntheticSet {
    /// A split as a source, without reading its table.
    pub fn source(&self, split: Split) -> Source {
        let clips = match split {
            Split::Train => &self.train,
            Split::Heldout => &self.heldout,
        };
        Source {
            name: split.name().into(),
            root: self.root.clone(),
            layout: self.layout.clone(),
            fps: None,
            clips: clips.clone(),
        }
    }
}

/// Written last: a folder with it holds the whole set.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Manifest<C> {
    version: u32,
    config: C,
    /// Size of all videos.
    bytes: u64,
}

impl<C: Clone + PartialEq + Serialize + DeserializeOwned> Manifest<C> {
    /// Size of the videos of the same set, if the manifest says that it is there.
    fn find(path: &Path, version: u32, config: &C) -> Option<u64> {
        let known: Self = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        (known.version == version && known.config == *config).then_some(known.bytes)
    }

    fn remove(path: &Path) -> Result<(), SyntheticError> {
        match std::fs::remove_file(path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(file_error(path, "remove the old manifest")(source))
            }
            _ => Ok(()),
        }
    }

    fn write(path: &Path, version: u32, config: &C, bytes: u64) -> Result<(), SyntheticError> {
        let text = serde_json::to_vec_pretty(&Self { version, config: config.clone(), bytes });
        write_whole(path, &text.map_err(|error| file_error(path, "describe the set")(error.into()))?)
    }
}

/// Makes the set in `folder`: `videos/`, `train.csv`, `heldout.csv`, `manifest.json`. Does nothing if the
/// same set is there, whole, already. Uses all cores.
///
/// # Errors
/// Settings out of range, files that cannot be written, an FFmpeg without a suitable encoder.
pub fn generate(folder: &Path, config: &SyntheticConfig) -> Result<SyntheticSet, SyntheticError> {
    config.check()?;
    let (train, heldout) = combination::split(config.seed, config.clips, config.heldout)?;
    let root = folder.join("videos");
    let videos: Vec<Video> = [(Split::Train, &train), (Split::Heldout, &heldout)]
        .into_iter()
        .flat_map(|(split, combinations)| {
            combinations.iter().enumerate().map(move |(number, combination)| (split, number, *combination))
        })
        .map(|(split, number, combination)| Video::plan(config, &root, split, number, combination))
        .collect();
    let clips = |split| {
        let own = videos.iter().filter(move |video| video.split == split);
        own.map(|video| video.clip(config)).collect::<Vec<Clip>>()
    };
    let mut set = SyntheticSet {
        train_csv: folder.join("train.csv"),
        heldout_csv: folder.join("heldout.csv"),
        train: clips(Split::Train),
        heldout: clips(Split::Heldout),
        bytes: 0,
        reused: true,
        layout: config.layout(),
        root,
    };

    let manifest = folder.join("manifest.json");
    if let Some(known) = Manifest::find(&manifest, VERSION, config)
        && set.train_csv.is_file()
        && set.heldout_csv.is_file()
        && total_bytes(&videos).is_ok_and(|bytes| bytes == known)
    {
        set.bytes = known;
        return Ok(set);
    }

    Manifest::<SyntheticConfig>::remove(&manifest)?;
    write_all(config, &videos)?;
    set.bytes = total_bytes(&videos)?;
    set.reused = false;
    write_table(&set.train_csv, config, &videos, Split::Train)?;
    write_table(&set.heldout_csv, config, &videos, Split::Heldout)?;
    Manifest::write(&manifest, VERSION, config, set.bytes)?;
    Ok(set)
}

impl SyntheticConfig {
    fn check(&self) -> Result<(), SyntheticError> {
        let require = |holds: bool, field, expected: &str, found: &dyn std::fmt::Display| {
            if holds {
                return Ok(());
            }
            Err(SyntheticError::Setting { field, expected: expected.to_owned(), found: found.to_string() })
        };
        let size = self.size_px;
        require(
            (32..=1024).contains(&size) && size.is_multiple_of(2),
            "size_px",
            "an even number from 32 to 1024",
            &size,
        )?;
        require((1..=120).contains(&self.fps), "fps", "1 to 120", &self.fps)?;
        require(
            (0.1..=600.0).contains(&self.seconds) && self.num_frames() >= 4,
            "seconds",
            "0.1 to 600, and at least 4 frames",
            &self.seconds,
        )?;
        let whole = self.chunk_s == 0.0;
        require(
            whole || (self.chunk_s >= 1.0 / f64::from(self.fps) && self.chunk_s.is_finite()),
            "chunk_s",
            "0, or at least a frame",
            &self.chunk_s,
        )
    }

    fn num_frames(&self) -> usize {
        (self.seconds * f64::from(self.fps)).round() as usize
    }

    fn layout(&self) -> Layout {
        let extension = EXTENSION.to_owned();
        if self.chunk_s == 0.0 {
            Layout::Whole { extension }
        } else {
            Layout::Chunked { chunk_s: self.chunk_s, extension }
        }
    }
}

fn file_error(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> SyntheticError {
    let path = path.to_owned();
    move |source| SyntheticError::File { path, action, source }
}
