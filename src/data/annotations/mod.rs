//! Annotation files: who does what, where, from when to when.
//!
//! In goes a [`SourceConfig`], out comes a [`Source`]: [`load`] for any format,
//! [`ek100::load_retrieval`] when EPIC-Kitchens-100's relevancies are needed too. Captions are kept exactly
//! as written. What a file says about times is kept as well, even an end before its start: whether a
//! segment can be decoded is for the loader to find out and count. Fields that cannot be read are errors.

mod ego4d;
pub mod ek100;
mod error;
mod kinetics;
mod table;
mod time;

pub use ego4d::read_ego4d;
pub use error::{AnnotationError, Place};
pub use kinetics::{check_labels, read_kinetics, read_names};
pub use table::read_table;
pub use time::parse_time;

use crate::config::recipe::{SourceConfig, SourceFormat};
use crate::data::layout::ClipFiles;
use crate::data::manifest::{FILE, ManifestError, Prepared};
use crate::data::{Clip, Layout, Source};
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// Reads the clips of one source in the format its config names.
///
/// # Errors
/// [`AnnotationError`] names the file, the record or line, the field, what was expected and what was found.
pub fn load(config: &SourceConfig) -> Result<Source, AnnotationError> {
    let path = &config.annotations;
    let clips = match config.format {
        SourceFormat::Ego4d => read_ego4d(path)?,
        SourceFormat::Table => read_table(path)?,
        SourceFormat::Ek100 => {
            let segments = ek100::read_segments(path)?;
            segments.into_iter().map(|segment| segment.clip).collect()
        }
        SourceFormat::Kinetics => read_kinetics(path, &config.root, config.first_label)?,
    };
    source(config, clips)
}

/// Puts clips and config together.
fn source(config: &SourceConfig, clips: Vec<Clip>) -> Result<Source, AnnotationError> {
    let path = &config.annotations;
    if clips.is_empty() {
        return Err(AnnotationError::Empty { path: path.clone() });
    }
    let setting = |key, expected, found: f64| AnnotationError::Setting {
        path: path.clone(),
        key,
        expected,
        found: found.to_string(),
    };
    let not_negative = |x: f64| x.is_finite() && x >= 0.0;
    if !not_negative(config.chunk_s) {
        let expected = "the seconds in a chunk, or 0 for whole files";
        return Err(setting("chunk_s", expected, config.chunk_s));
    }
    if !not_negative(config.fps) {
        let expected = "frames per second, or 0 to read them from each file";
        return Err(setting("fps", expected, config.fps));
    }
    if config.format == SourceFormat::Kinetics && config.chunk_s > 0.0 {
        let expected = "0: the clips of a labelled list are whole files";
        return Err(setting("chunk_s", expected, config.chunk_s));
    }
    let extension = config.extension.clone();
    let layout = match Prepared::find(&config.root)? {
        Some(prepared) => {
            let found = prepared.settings.chunk_s;
            if f64::from(found) != config.chunk_s {
                let (path, expected) = (config.root.join(FILE), config.chunk_s);
                return Err(ManifestError::ChunkLength { path, found, expected }.into());
            }
            Layout::Prepared(Arc::new(prepared))
        }
        None if config.chunk_s == 0.0 => Layout::Whole { extension },
        None => Layout::Chunked { chunk_s: config.chunk_s, extension },
    };
    let source = Source {
        name: config.label(),
        root: config.root.clone(),
        // A manifest knows each video's.
        fps: (config.fps > 0.0 && !matches!(layout, Layout::Prepared(_))).then_some(config.fps),
        layout,
        clips,
    };
    if let Layout::Prepared(_) = source.layout {
        report_absent(&source);
    }
    Ok(source)
}

/// Says at once what the manifest knows of clips that cannot be read; training meets and counts them one by one.
fn report_absent(source: &Source) {
    let mut kinds: BTreeMap<&str, (u64, String)> = BTreeMap::new();
    for error in source.clips.iter().filter_map(|clip| ClipFiles::locate(source, clip).err()) {
        kinds.entry(error.kind()).or_insert_with(|| (0, error.to_string())).0 += 1;
    }
    let clips = source.clips.len();
    match kinds.is_empty() {
        true => tracing::info!("{}: prepared videos, all {clips} clips lie in them", source.name),
        false => {
            let bad: u64 = kinds.values().map(|(count, _)| count).sum();
            tracing::warn!("{}: prepared videos; {bad} of {clips} clips cannot be read:", source.name);
            for (kind, (count, example)) in kinds {
                tracing::warn!("  {count:>8}  {kind}  e.g. {example}");
            }
        }
    }
}

/// Checks that a video's name stays below the folder it is joined to, on every operating system.
///
/// # Errors
/// The rule that the name breaks.
pub fn check_video_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("is empty");
    }
    if name.contains(['\0', '\\']) {
        return Err("contains a NUL or a backslash");
    }
    let drive = name.as_bytes().get(1) == Some(&b':');
    if name.starts_with('/') || drive {
        return Err("is an absolute path");
    }
    if name.split('/').any(|part| part == "..") {
        return Err("leaves the data root through '..'");
    }
    Ok(())
}

/// Equal strings share one allocation: files of millions of records repeat videos and captions.
#[derive(Default)]
struct Interner {
    known: HashSet<Arc<str>>,
    /// Rows of one video mostly follow each other.
    last_video: Option<Arc<str>>,
}

impl Interner {
    fn intern(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.known.get(text) {
            return known.clone();
        }
        let new: Arc<str> = text.into();
        self.known.insert(new.clone());
        new
    }

    /// The same for a video's name, after [`check_video_name`].
    fn video(&mut self, path: &Path, place: Place, name: &str) -> Result<Arc<str>, AnnotationError> {
        if let Some(last) = &self.last_video
            && **last == *name
        {
            return Ok(last.clone());
        }
        match check_video_name(name) {
            Ok(()) => {
                let video = self.intern(name);
                self.last_video = Some(video.clone());
                Ok(video)
            }
            Err(problem) => {
                Err(AnnotationError::VideoName { path: path.to_owned(), place, video: name.into(), problem })
            }
        }
    }
}

fn open(path: &Path) -> Result<File, AnnotationError> {
    File::open(path).map_err(|error| AnnotationError::io(path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn video_names_stay_below_the_root() {
        for good in ["a", "P01/P01_01", "3c0dffd0-e38e", "a..b.mp4", "./a", "x/.../y", "clé.mp4"] {
            assert_eq!(check_video_name(good), Ok(()), "{good}");
        }
        for bad in
            ["", "/etc/passwd", "..", "a/../../b", "../a", "a/..", "..\\a", "C:\\a", "C:/a", "\\\\host\\a", "a\0b"]
        {
            assert!(check_video_name(bad).is_err(), "{bad:?}");
        }
    }
}
