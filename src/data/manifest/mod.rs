//! The manifest that `avion prepare` leaves beside its videos, and that training reads instead of opening them.
//!
//! `OUTPUT/manifest.jsonl`, JSON, one object a line. The first line is the [`Header`]: the format's version, the
//! settings that all videos were made with, the number of lines that follow. Each further line is a [`Video`]: what
//! it was made from, and its chunks or why there are none. A line that does not say exactly this is an error: a
//! manifest is written in one piece (`fs::write_atomic`), so that one that does not fit has been damaged.
//!
//! Chunk `i` of a video holds the frames that are shown in `[i * chunk_s, (i + 1) * chunk_s)`, frame `k` being shown at
//! `k / fps`; see [`Settings::first_frame`].

mod error;
mod prepared;

pub use error::ManifestError;
pub use prepared::{Absent, JOURNAL, KnownFile, Prepared};

use crate::data::annotations::check_video_name;
use crate::fs::{WriteError, write_atomic};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// Name of the file within the folder of prepared videos.
pub const FILE: &str = "manifest.jsonl";

/// Written by this version of the program, and the only one that it reads.
pub const VERSION: u32 = 1;

/// Ending of prepared videos.
pub const EXTENSION: &str = "mp4";

/// First line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    pub avion_manifest: u32,
    pub settings: Settings,
    /// Lines that follow.
    pub videos: usize,
    /// Whether every video of the input is there, prepared or failed.
    pub complete: bool,
}

/// What prepared videos look like; the same for all of a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// How names follow from paths: `ego4d`, `ek100`, `kinetics` or `plain`.
    pub layout: String,
    /// Seconds a chunk; 0 = a file a video.
    pub chunk_s: u32,
    /// Short side at most, pixels.
    pub short_side: u32,
    /// Frames from key frame to key frame.
    pub gop: u32,
    /// FFmpeg's name of the encoder.
    pub codec: String,
    /// Of libx264 the constant rate factor, of mpeg4 the quantiser.
    pub quality: u32,
    /// Of libx264; empty for mpeg4.
    pub preset: String,
}

impl Settings {
    /// Number of the first frame of a chunk at `fps` (numerator, denominator) frames/s: the first that is shown at or after
    /// `chunk * chunk_s`. Computed from the start of the video with whole numbers, so that nothing drifts.
    pub fn first_frame(&self, chunk: usize, fps: [u32; 2]) -> u64 {
        let seconds = chunk as u128 * u128::from(self.chunk_s);
        let frame = (seconds * u128::from(fps[0])).div_ceil(u128::from(fps[1].max(1)));
        u64::try_from(frame).unwrap_or(u64::MAX)
    }

    /// The chunk that a frame lies in.
    pub fn chunk_of(&self, frame: u64, fps: [u32; 2]) -> usize {
        let seconds = u128::from(self.chunk_s) * u128::from(fps[0]);
        (u128::from(frame) * u128::from(fps[1])).checked_div(seconds).map_or(0, |chunk| chunk as usize)
    }

    /// A chunk's file below the folder, as `data::layout` finds it: `VIDEO/15.mp4`, or `VIDEO.mp4`.
    pub fn file(&self, video: &str, chunk: usize) -> String {
        match self.chunk_s {
            0 => format!("{video}.{EXTENSION}"),
            seconds => format!("{video}/{}.{EXTENSION}", chunk as u64 * u64::from(seconds)),
        }
    }

    /// Each setting that differs from `other`'s, in words: `gop 12, not 16`.
    pub fn differences(&self, other: &Settings) -> Vec<String> {
        let rows: [(&str, &dyn std::fmt::Display, &dyn std::fmt::Display); 7] = [
            ("layout", &self.layout, &other.layout),
            ("chunk-s", &self.chunk_s, &other.chunk_s),
            ("short-side", &self.short_side, &other.short_side),
            ("gop", &self.gop, &other.gop),
            ("codec", &self.codec, &other.codec),
            ("quality", &self.quality, &other.quality),
            ("preset", &self.preset, &other.preset),
        ];
        let texts = rows.map(|(name, mine, theirs)| (name, mine.to_string(), theirs.to_string()));
        let differ = texts.into_iter().filter(|(_, mine, theirs)| mine != theirs);
        differ.map(|(name, mine, theirs)| format!("{name} {mine}, not {theirs}")).collect()
    }
}

/// A video of the input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Video {
    /// Name below the folder, with `/` and without ending; the source's path, where it can have no name.
    pub video: String,
    pub source: SourceFile,
    pub result: Outcome,
}

/// The file that a video was made from; a change of it is a reason to make the video anew.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceFile {
    pub path: String,
    pub bytes: u64,
    /// Last change, nanoseconds since 1970.
    pub modified_ns: u64,
    /// Of the content, or of samples of it: see `prepare::source_file`; empty for a file that could not be read.
    pub hash: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Ready(Ready),
    Failed(Failed),
}

/// A video that can be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ready {
    /// Frames per second, numerator and denominator.
    pub fps: [u32; 2],
    pub width: u32,
    pub height: u32,
    /// Frames shown again, and left out, because the source's own times were uneven or frames of it damaged.
    pub repeated: u64,
    pub dropped: u64,
    /// Packets and pictures of the source that could not be decoded.
    pub decode_errors: u64,
    pub chunks: Vec<Chunk>,
}

impl Ready {
    pub fn frames(&self) -> u64 {
        self.chunks.iter().map(|chunk| u64::from(chunk.frames)).sum()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chunk {
    pub frames: u32,
    /// Of the file.
    pub bytes: u64,
    /// Of the file's content.
    pub crc32c: u32,
    /// Key frames are 0, `key_every`, 2 * `key_every`, ...
    pub key_every: u32,
}

/// Why a video could not be prepared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failed {
    /// Short name to count by.
    pub kind: String,
    pub reason: String,
}

/// Reads a manifest, line by line.
///
/// # Errors
/// [`ManifestError`] with the first line that is not as described, and what to do.
pub fn read(path: &Path, mut each: impl FnMut(&Header, Video)) -> Result<Header, ManifestError> {
    let io = |source| ManifestError::Io { path: path.to_owned(), source };
    let mut lines = BufReader::new(File::open(path).map_err(io)?);
    let (mut text, mut number) = (Vec::new(), 0);
    let mut next = |text: &mut Vec<u8>| -> Result<bool, ManifestError> {
        text.clear();
        number += 1;
        Ok(lines.read_until(b'\n', text).map_err(io)? > 0)
    };
    let damaged = |line: usize, reason: String| ManifestError::Damaged { path: path.to_owned(), line, reason };
    if !next(&mut text)? {
        return Err(damaged(1, "the file is empty".into()));
    }
    let header: Header = parse(&text).map_err(|reason| version_or(path, &text, damaged(1, reason)))?;
    if header.avion_manifest != VERSION {
        return Err(ManifestError::Version { path: path.to_owned(), found: header.avion_manifest.into() });
    }
    let mut names = HashSet::new();
    for line in 2.. {
        if !next(&mut text)? {
            break;
        }
        let video: Video = parse(&text).map_err(|reason| damaged(line, reason))?;
        check(&header.settings, &video).map_err(|reason| damaged(line, reason))?;
        if !names.insert(video.video.clone()) {
            return Err(damaged(line, format!("video {:?} stands on an earlier line too", video.video)));
        }
        each(&header, video);
    }
    if names.len() != header.videos {
        let reason = format!("the first line promises {} videos, {} follow", header.videos, names.len());
        return Err(damaged(number, reason));
    }
    Ok(header)
}

/// A header of another version looks damaged, as it has other fields.
fn version_or(path: &Path, text: &[u8], damaged: ManifestError) -> ManifestError {
    let value: Option<serde_json::Value> = serde_json::from_slice(text).ok();
    match value.as_ref().and_then(|value| value.get("avion_manifest")?.as_u64()) {
        Some(found) if found != u64::from(VERSION) => ManifestError::Version { path: path.to_owned(), found },
        _ => damaged,
    }
}

fn parse<T: serde::de::DeserializeOwned>(line: &[u8]) -> Result<T, String> {
    let line = line.strip_suffix(b"\n").ok_or("the line does not end")?;
    serde_json::from_slice(line).map_err(|error| error.to_string())
}

/// Whether what a line says can be true.
fn check(settings: &Settings, video: &Video) -> Result<(), String> {
    // A video that failed may have done so for its name.
    let Outcome::Ready(ready) = &video.result else {
        return Ok(());
    };
    check_video_name(&video.video).map_err(|problem| format!("the name {:?} {problem}", video.video))?;
    let Ready { fps, width, height, chunks, .. } = ready;
    if fps.contains(&0) || f64::from(fps[0]) / f64::from(fps[1]) > 1e4 {
        return Err(format!("{}/{} frames/s: expected a rate above 0", fps[0], fps[1]));
    }
    if [width, height].iter().any(|side| **side == 0 || !side.is_multiple_of(2)) {
        return Err(format!("{width} x {height} px: expected even sizes above 0"));
    }
    if chunks.is_empty() || (settings.chunk_s == 0 && chunks.len() > 1) {
        let expected = if settings.chunk_s == 0 { "1 (chunk_s is 0)" } else { "1 or more" };
        return Err(format!("{} chunks, expected {expected}", chunks.len()));
    }
    for (number, chunk) in chunks.iter().enumerate() {
        let full = settings.first_frame(number + 1, *fps) - settings.first_frame(number, *fps);
        let last = number + 1 == chunks.len();
        let frames = u64::from(chunk.frames);
        let fits =
            if settings.chunk_s == 0 { frames > 0 } else { frames == full || (last && 0 < frames && frames < full) };
        if !fits {
            return Err(format!("chunk {number} of {} has {frames} frames, a full one {full}", chunks.len()));
        }
        if chunk.key_every == 0 || chunk.bytes == 0 {
            return Err(format!("chunk {number}: key_every and bytes must be above 0"));
        }
    }
    Ok(())
}

/// Writes a manifest in one piece.
///
/// # Errors
/// [`WriteError`]; an older manifest is then still there.
pub fn write<'v>(
    path: &Path,
    settings: &Settings,
    complete: bool,
    videos: impl ExactSizeIterator<Item = &'v Video>,
) -> Result<(), WriteError> {
    let header = Header { avion_manifest: VERSION, settings: settings.clone(), videos: videos.len(), complete };
    write_atomic(path, |out| {
        serde_json::to_writer(&mut *out, &header)?;
        out.write_all(b"\n")?;
        for video in videos {
            serde_json::to_writer(&mut *out, video)?;
            out.write_all(b"\n")?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests;
