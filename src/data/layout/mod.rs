//! From an annotated clip to the files it lies in and the frames to read from each.
//!
//! Two steps, as the second needs the opened files: [`ClipFiles::locate`] names the files, and
//! [`ClipFiles::plan`] divides the clip's frames over them. Both follow AVION's loader, except that frame
//! numbers are clamped to the frames a file really has (AVION stops with an index error there).

use crate::data::manifest::{Absent, KnownFile, Prepared};
use crate::data::{Clip, Layout, Source};
use std::num::NonZeroU32;
use std::path::{Component, Path, PathBuf};

/// Longest segment that is looked for, in seconds. A longer one is a unit mistake or a damaged annotation.
const LONGEST_S: f64 = 24.0 * 3600.0;

/// Largest difference between a file's frame rate and the declared one, as a share of the declared one.
/// Larger than the error of a rate estimated from one second of frames, smaller than 24 against 30.
const FPS_TOLERANCE: f64 = 0.1;

/// Frames that a list may count too many: DivX files with packed B-frames say one more than they hold.
const MISCOUNTED: u64 = 1;

/// Why a clip cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ClipError {
    #[error("video name {video:?} does not stay below the source's root: expected a relative path without `..`")]
    UnsafePath { video: String },
    #[error("no such file: {}{}", path.display(), of_line(*line))]
    MissingFile { path: PathBuf, line: Option<NonZeroU32> },
    #[error("chunk missing, segment {start_s} to {end_s} s needs it: {}", path.display())]
    MissingChunk { path: PathBuf, start_s: f64, end_s: f64 },
    #[error(
        "segment from {start_s} to {end_s} s: expected 0 <= start < end, at most a day long: {}",
        path.display()
    )]
    BadSegment { path: PathBuf, start_s: f64, end_s: f64 },
    #[error("segment from {start_s} to {end_s} s has no length: {}", path.display())]
    ZeroLength { path: PathBuf, start_s: f64, end_s: f64 },
    #[error(
        "segment from {start_s} to {end_s} s is shorter than one frame at {fps} frames/s: {}",
        path.display()
    )]
    TooShort { path: PathBuf, start_s: f64, end_s: f64, fps: f64 },
    #[error(
        "segment from {start_s} to {end_s} s lies outside the video, which has {video_s:.3} s: {}",
        path.display()
    )]
    OutOfRange { path: PathBuf, start_s: f64, end_s: f64, video_s: f64 },
    #[error("file has {found} frames/s, expected {expected} (`fps` of the source): {}", path.display())]
    WrongFps { path: PathBuf, found: f64, expected: f64 },
    #[error("file holds no frames: {}", path.display())]
    Empty { path: PathBuf },
    #[error("file has {found} frames, expected {listed}{}: {}", of_line(*line), path.display())]
    FewerFrames { path: PathBuf, found: u64, listed: u32, line: Option<NonZeroU32> },
    #[error(
        "chunk is {} x {} px, the clip's first one {} x {}: {}",
        found[0], found[1], expected[0], expected[1], path.display()
    )]
    SizeMismatch { path: PathBuf, found: [u32; 2], expected: [u32; 2] },
    #[error("not in the manifest of the prepared videos: {}", path.display())]
    NotPrepared { path: PathBuf },
    #[error("could not be prepared: {reason}: {}", path.display())]
    FailedToPrepare { path: PathBuf, reason: String },
    /// From the decoder, whose `reason` names the file.
    #[error("{reason}")]
    Decode { path: PathBuf, kind: &'static str, reason: String },
}

impl ClipError {
    /// Short name that failures are counted under; the decoder's own where it means the same.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::UnsafePath { .. } => "unsafe-path",
            Self::MissingFile { .. } => "missing",
            Self::MissingChunk { .. } => "missing-chunk",
            Self::ZeroLength { .. } => "zero-length",
            Self::TooShort { .. } => "too-short",
            Self::BadSegment { .. } | Self::OutOfRange { .. } => "out-of-range",
            Self::WrongFps { .. } => "wrong-fps",
            Self::Empty { .. } => "no-frames",
            Self::FewerFrames { .. } => "frame-count",
            Self::SizeMismatch { .. } => "size-changed",
            Self::NotPrepared { .. } => "not-prepared",
            Self::FailedToPrepare { .. } => "failed-to-prepare",
            Self::Decode { kind, .. } => kind,
        }
    }

    /// The file (or folder) at fault.
    pub fn path(&self) -> &Path {
        match self {
            Self::UnsafePath { video } => Path::new(video),
            Self::MissingFile { path, .. }
            | Self::MissingChunk { path, .. }
            | Self::BadSegment { path, .. }
            | Self::ZeroLength { path, .. }
            | Self::TooShort { path, .. }
            | Self::OutOfRange { path, .. }
            | Self::WrongFps { path, .. }
            | Self::Empty { path }
            | Self::FewerFrames { path, .. }
            | Self::SizeMismatch { path, .. }
            | Self::NotPrepared { path }
            | Self::FailedToPrepare { path, .. }
            | Self::Decode { path, .. } => path,
        }
    }
}

/// ` (line 12 of the list)`, for clips that a list names.
fn of_line(line: Option<NonZeroU32>) -> String {
    line.map(|line| format!(" (line {line} of the list)")).unwrap_or_default()
}

/// What must be known of an opened file to plan its frames.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FileInfo {
    /// Frames that can be read.
    pub frames: u64,
    /// Frames per second.
    pub fps: f64,
}

/// Frames to read from one of the clip's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePart {
    /// Which of [`ClipFiles::paths`].
    pub file: usize,
    /// Frame numbers within that file, ascending; a video that is shorter than its clip and repeated takes several
    /// parts.
    pub frames: Vec<u64>,
}

/// The files that a clip lies in, in order of time.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipFiles {
    pub paths: Vec<PathBuf>,
    /// Length of a chunk and the number of the first one, where the video is cut into chunks.
    chunks: Option<(f64, u64)>,
    /// What a manifest tells of each file; empty without one.
    known: Vec<KnownFile>,
}

impl ClipFiles {
    /// Finds the files of `clip`. Looks at names only, or at the manifest; opens nothing.
    ///
    /// A clip that ends after the last chunk ends there; every chunk before must exist.
    ///
    /// # Errors
    /// For a name outside the root, a segment without length or outside any video, and missing files.
    pub fn locate(source: &Source, clip: &Clip) -> Result<Self, ClipError> {
        let video = below_root(&clip.video)?;
        let (start_s, end_s) = (clip.start_s, clip.end_s);
        let path = source.root.join(video);
        if clip.whole
            && let Layout::Whole { extension } = &source.layout
        {
            return Self::locate_whole(with_extension(path, extension), clip);
        }
        if clip.whole
            && let Layout::Prepared(prepared) = &source.layout
        {
            return Self::locate_prepared(source, prepared, clip, path);
        }
        // Written so that NaN fails too.
        if !(start_s >= 0.0 && end_s - start_s <= LONGEST_S && end_s.is_finite()) {
            return Err(ClipError::BadSegment { path, start_s, end_s });
        }
        if end_s <= start_s {
            return Err(ClipError::ZeroLength { path, start_s, end_s });
        }
        match &source.layout {
            Layout::Whole { extension } => Self::locate_whole(with_extension(path, extension), clip),
            Layout::Chunked { chunk_s, extension } => {
                // Ego4D's folders are called `UID.mp4`; other data sets leave the extension out.
                let mut folder = with_extension(path.clone(), extension);
                if !folder.is_dir() {
                    folder = path;
                }
                if !folder.is_dir() {
                    return Err(ClipError::MissingFile { path: folder, line: clip.line });
                }
                Self::locate_chunks(&folder, *chunk_s, extension, start_s, end_s)
            }
            Layout::Prepared(prepared) => Self::locate_prepared(source, prepared, clip, path),
        }
    }

    fn locate_prepared(source: &Source, prepared: &Prepared, clip: &Clip, path: PathBuf) -> Result<Self, ClipError> {
        let (start_s, end_s) = (clip.start_s, clip.end_s);
        let stretch = (!clip.whole).then_some((start_s, end_s));
        let known = prepared.files(&clip.video, stretch).map_err(|absent| match absent {
            Absent::Unknown => ClipError::NotPrepared { path },
            Absent::Failed { reason } => ClipError::FailedToPrepare { path, reason },
            Absent::Beyond { video_s } => ClipError::OutOfRange { path, start_s, end_s, video_s },
        })?;
        let paths = known.iter().map(|file| source.root.join(&file.path)).collect();
        let chunk_s = f64::from(prepared.settings.chunk_s);
        let chunks = (chunk_s > 0.0 && !clip.whole).then(|| (chunk_s, (start_s / chunk_s) as u64));
        Ok(Self { paths, chunks, known })
    }

    fn locate_whole(path: PathBuf, clip: &Clip) -> Result<Self, ClipError> {
        if !path.is_file() {
            return Err(ClipError::MissingFile { path, line: clip.line });
        }
        Ok(Self { paths: vec![path], chunks: None, known: Vec::new() })
    }

    fn locate_chunks(
        folder: &Path,
        chunk_s: f64,
        extension: &str,
        start_s: f64,
        end_s: f64,
    ) -> Result<Self, ClipError> {
        let extension = extension.trim_start_matches('.');
        let file = |chunk: u64| folder.join(format!("{}.{extension}", chunk as f64 * chunk_s));
        let missing = |path| ClipError::MissingChunk { path, start_s, end_s };
        let first = (start_s / chunk_s) as u64;
        let last = (end_s / chunk_s) as u64;
        let last = (first..=last).rev().find(|chunk| file(*chunk).is_file()).ok_or_else(|| missing(file(first)))?;
        let paths: Vec<PathBuf> = (first..=last).map(file).collect();
        if let Some(path) = paths.iter().find(|path| !path.is_file()) {
            return Err(missing(path.clone()));
        }
        Ok(Self { paths, chunks: Some((chunk_s, first)), known: Vec::new() })
    }

    /// Divides `count` frames of `clip` over its files; only files that give a frame are named.
    ///
    /// `choose` is asked once for the `count` frames of a segment `[start, end)`. `fps` is the declared frame rate,
    /// `None` to take the first file's; a whole video's does not matter, unless it is declared. `info` opens a file, given its
    /// index in `paths`; it is asked only for files that matter, and never for those that a manifest tells of.
    ///
    /// # Errors
    /// Those of `info`; a wrong frame rate; a segment shorter than a frame or beyond the video's end.
    ///
    /// # Source
    /// AVION `video_loader`: SEEDS.md 4.6.
    pub fn plan(
        &self,
        clip: &Clip,
        fps: Option<f64>,
        count: usize,
        choose: impl FnOnce(u64, u64) -> Vec<u64>,
        mut info: impl FnMut(usize) -> Result<FileInfo, ClipError>,
    ) -> Result<Vec<FilePart>, ClipError> {
        let mut info = |file: usize| match self.known.get(file) {
            Some(known) => Ok(known.info),
            None => info(file),
        };
        if clip.whole {
            let found = info(0)?;
            if found.frames == 0 || fps.is_some() {
                self.check(0, found, fps)?;
            }
            if let Some(listed) = clip.listed_frames.map(NonZeroU32::get)
                && found.frames + MISCOUNTED < u64::from(listed)
            {
                let (path, found, line) = (self.paths[0].clone(), found.frames, clip.line);
                return Err(ClipError::FewerFrames { path, found, listed, line });
            }
            return Ok(in_one_file(choose(0, found.frames)));
        }
        let mut checked = |file: usize| {
            let found = info(file)?;
            self.check(file, found, fps)?;
            Ok::<_, ClipError>(found)
        };
        let first = checked(0)?;
        let fps = fps.unwrap_or(first.fps);
        let out_of_range = |video_s| ClipError::OutOfRange {
            path: self.paths[0].clone(),
            start_s: clip.start_s,
            end_s: clip.end_s,
            video_s,
        };
        let start = round(clip.start_s * fps);

        let Some((chunk_s, first_chunk)) = self.chunks else {
            if start >= first.frames {
                return Err(out_of_range(first.frames as f64 / fps));
            }
            // A segment of fewer frames than asked for is lengthened.
            let length = (((clip.end_s - clip.start_s) * fps) as u64).max(count as u64);
            let end = (start + length).min(first.frames);
            return Ok(in_one_file(choose(start, end)));
        };

        if (clip.end_s - clip.start_s) * fps < 1.0 {
            return Err(ClipError::TooShort {
                path: self.paths[0].clone(),
                start_s: clip.start_s,
                end_s: clip.end_s,
                fps,
            });
        }
        let last_file = self.paths.len() - 1;
        let begin_s = |file: usize| (first_chunk + file as u64) as f64 * chunk_s;
        let last_frame_s = begin_s(last_file) + (checked(last_file)?.frames - 1) as f64 / fps;
        let end = round(clip.end_s.min(last_frame_s) * fps);
        if start > end {
            return Err(out_of_range(last_frame_s + 1.0 / fps));
        }

        let mut parts = Vec::new();
        for frame in choose(start, end) {
            // The chunk from `begin_s` on holds the frames from `int(begin_s * fps)` on; a manifest knows better.
            let begin = |file: usize| match self.known.get(file) {
                Some(known) => known.first_frame,
                None => (begin_s(file) * fps) as u64,
            };
            let file = (0..last_file).find(|file| frame < begin(file + 1)).unwrap_or(last_file);
            let frame = match self.known.get(file) {
                Some(known) => frame.saturating_sub(known.first_frame),
                None => (frame as f64 - begin_s(file) * fps) as u64,
            };
            let frame = frame.min(checked(file)?.frames - 1);
            push(&mut parts, file, frame);
        }
        Ok(parts)
    }

    fn check(&self, file: usize, found: FileInfo, fps: Option<f64>) -> Result<(), ClipError> {
        let path = || self.paths[file].clone();
        if found.frames == 0 {
            return Err(ClipError::Empty { path: path() });
        }
        let expected = fps.unwrap_or(found.fps);
        if !(found.fps.is_finite() && found.fps > 0.0) {
            return Err(ClipError::WrongFps { path: path(), found: found.fps, expected });
        }
        // Below a second of frames, the rate that a file states is often a guess.
        if found.frames as f64 >= expected && (found.fps - expected).abs() > FPS_TOLERANCE * expected {
            return Err(ClipError::WrongFps { path: path(), found: found.fps, expected });
        }
        Ok(())
    }
}

fn in_one_file(frames: Vec<u64>) -> Vec<FilePart> {
    let mut parts = Vec::new();
    frames.into_iter().for_each(|frame| push(&mut parts, 0, frame));
    parts
}

/// Appends a frame to the last part, or begins one where the file changes or time goes back.
fn push(parts: &mut Vec<FilePart>, file: usize, frame: u64) {
    match parts.last_mut() {
        Some(part) if part.file == file && part.frames.last() <= Some(&frame) => part.frames.push(frame),
        _ => parts.push(FilePart { file, frames: vec![frame] }),
    }
}

/// numpy's `round`: halves to even.
fn round(value: f64) -> u64 {
    value.round_ties_even() as u64
}

/// `video` as a path, if it is sure to stay below the folder that it is joined to.
fn below_root(video: &str) -> Result<&Path, ClipError> {
    let path = Path::new(video);
    let plain = |part| matches!(part, Component::Normal(_));
    if video.is_empty() || video.contains('\0') || !path.components().all(plain) {
        return Err(ClipError::UnsafePath { video: video.to_owned() });
    }
    Ok(path)
}

/// `path` with `extension` appended when it has none.
fn with_extension(path: PathBuf, extension: &str) -> PathBuf {
    let extension = extension.trim_start_matches('.');
    if path.extension().is_some() || extension.is_empty() {
        return path;
    }
    let mut name = path.into_os_string();
    name.push(".");
    name.push(extension);
    name.into()
}

#[cfg(test)]
mod tests;
