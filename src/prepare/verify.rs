//! Decodes everything that was prepared, and compares it with the manifest.

use super::error::{PrepareError, VideoFailure};
use super::in_parallel;
use super::input::Input;
use super::state::{Begun, Found, Stage};
use crate::data::manifest::{Chunk, Settings};
use crate::fs::WriteError;
use ffmpeg_next::frame::Video as Frame;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// What was found.
#[derive(Debug, Default)]
pub struct Checked {
    pub videos: usize,
    pub chunks: usize,
    pub frames: u64,
    pub bytes: u64,
    /// Videos that an earlier run failed on, and those that are not finished.
    pub failed: usize,
    pub unfinished: usize,
    /// Files that are not as they should be, and what is wrong with each; in order.
    pub wrong: Vec<(PathBuf, String)>,
    pub interrupted: bool,
}

/// Checks every chunk of a folder: that it is there, its bytes, its size in pixels, and after decoding it whole its
/// frames and key frames. With `repair` chunks that differ are removed, so that the next `avion prepare` makes them anew.
///
/// # Errors
/// A folder that holds nothing prepared, a damaged manifest, a file that cannot be removed.
pub fn verify(
    folder: &Path,
    workers: usize,
    repair: bool,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Checked, PrepareError> {
    let found = Found::read(folder)?;
    let settings = found.settings.ok_or_else(|| PrepareError::Nothing { path: folder.to_owned() })?;
    let mut checked = Checked::default();
    let mut begun = Vec::new();
    for stage in found.videos.into_values() {
        checked.unfinished += usize::from(matches!(stage, Stage::Begun(_)));
        match stage.into_begun() {
            Some(video) => begun.push(video),
            None => checked.failed += 1,
        }
    }
    checked.videos = begun.len();
    let chunks: Vec<(&Begun, usize, Chunk)> = begun
        .iter()
        .flat_map(|video| video.chunks.iter().map(move |(number, chunk)| (video, *number, *chunk)))
        .collect();
    checked.chunks = chunks.len();
    let (wrong, frames, bytes) = (Mutex::new(Vec::new()), AtomicU64::new(0), AtomicU64::new(0));
    in_parallel(&chunks, workers, |(video, number, chunk)| {
        if stop() {
            return;
        }
        let path = folder.join(settings.file(&video.video, *number));
        if let Err(problem) = check(&path, video, chunk, &settings) {
            wrong.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((path, problem));
        }
        frames.fetch_add(chunk.frames.into(), Ordering::Relaxed);
        bytes.fetch_add(chunk.bytes, Ordering::Relaxed);
    });
    checked.wrong = wrong.into_inner().unwrap_or_default();
    checked.wrong.sort();
    (checked.frames, checked.bytes) = (frames.into_inner(), bytes.into_inner());
    checked.interrupted = stop();
    if repair {
        for (path, _) in &checked.wrong {
            match std::fs::remove_file(path) {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                    return Err(WriteError::new("remove", path, 0, source).into());
                }
                _ => {}
            }
        }
    }
    Ok(checked)
}

/// What is wrong with a chunk's file, if anything.
fn check(path: &Path, video: &Begun, chunk: &Chunk, settings: &Settings) -> Result<(), String> {
    let file = std::fs::read(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => "missing".to_owned(),
        _ => error.to_string(),
    })?;
    let differ = |what: &str, found: &dyn std::fmt::Display, expected: &dyn std::fmt::Display| {
        Err(format!("{what} {found}, expected {expected}"))
    };
    if file.len() as u64 != chunk.bytes {
        return differ("size in bytes", &file.len(), &chunk.bytes);
    }
    if crc32c::crc32c(&file) != chunk.crc32c {
        return Err("content differs from what was written (CRC-32C)".into());
    }
    drop(file);
    let seen = decode(path).map_err(|failure| match failure {
        VideoFailure::Bad(failed) => failed.reason,
        VideoFailure::Write(error) => error.to_string(),
        VideoFailure::Stopped => "interrupted".into(),
    })?;
    if [seen.width, seen.height] != [video.width, video.height] {
        let text = |width, height| format!("{width} x {height} px");
        return differ("pictures of", &text(seen.width, seen.height), &text(video.width, video.height));
    }
    if seen.frames != u64::from(chunk.frames) || seen.errors > 0 {
        let found = format!("{} with {} errors", seen.frames, seen.errors);
        return differ("frames", &found, &chunk.frames);
    }
    let off = seen.key_frames.iter().zip(0..).find(|(found, number)| **found != number * u64::from(chunk.key_every));
    let expected = chunk.frames.div_ceil(chunk.key_every.max(1));
    if off.is_some() || seen.key_frames.len() != expected as usize {
        let found = format!("{:?}", seen.key_frames);
        return differ("key frames", &found, &format!("one every {}", chunk.key_every));
    }
    if chunk.key_every != settings.gop {
        return differ("key frames every", &chunk.key_every, &settings.gop);
    }
    Ok(())
}

struct Seen {
    width: u32,
    height: u32,
    frames: u64,
    key_frames: Vec<u64>,
    errors: u64,
}

/// Decodes a chunk from the first frame to the last.
fn decode(path: &Path) -> Result<Seen, VideoFailure> {
    let mut input = Input::open(path)?;
    let mut seen = Seen { width: 0, height: 0, frames: 0, key_frames: Vec::new(), errors: 0 };
    let mut frame = Frame::empty();
    while input.next(&mut frame)?.is_some() {
        if seen.frames == 0 {
            (seen.width, seen.height) = (frame.width(), frame.height());
        }
        if frame.is_corrupt() || (frame.width(), frame.height()) != (seen.width, seen.height) {
            seen.errors += 1;
        }
        if frame.is_key() {
            seen.key_frames.push(seen.frames);
        }
        seen.frames += 1;
    }
    seen.errors += input.errors;
    Ok(seen)
}
