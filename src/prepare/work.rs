//! One video: decode once from the start, cut at chunk boundaries, encode and publish each chunk.

use super::encode::{Encoder, Format};
use super::error::VideoFailure;
use super::input::Input;
use super::picture::Converter;
use super::progress::Progress;
use super::state::{Begun, State};
use crate::data::manifest::{Chunk, Outcome, Ready, Settings, SourceFile, Video};
use crate::fs::WriteError;
use ffmpeg_next::frame::Video as Frame;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Publishes a chunk: all of it under its name, flushed to the disk, or nothing.
pub type WriteFile<'w> = dyn Fn(&Path, &[u8]) -> Result<(), WriteError> + Sync + 'w;

/// A video to be made.
#[derive(Clone, Debug)]
pub struct Work {
    pub path: PathBuf,
    pub video: String,
    pub source: SourceFile,
    /// What an earlier run has made of the same source.
    pub kept: Option<Begun>,
    /// As the container says; 0 when unknown.
    pub duration_s: f64,
}

/// What a run shares.
pub struct Shared<'a> {
    pub state: &'a State,
    pub progress: &'a Progress,
    pub write: &'a WriteFile<'a>,
    pub stop: &'a (dyn Fn() -> bool + Sync),
}

/// Makes a video and notes it as finished.
pub fn make(work: &Work, shared: &Shared) -> Result<(), VideoFailure> {
    let state = shared.state;
    let mut input = Input::open(&work.path)?;
    let (fps, mut frame) = (input.facts.fps, Frame::empty());
    let none =
        |input: &Input| VideoFailure::bad("no-frames", format!("no picture can be decoded, {} errors", input.errors));
    let Some(first) = input.next(&mut frame)? else {
        return Err(none(&input));
    };
    let converter = Converter::new(input.facts.shape, &state.settings, fps, &frame);
    let Format { width, height, .. } = converter.format;
    let same = |begun: &Begun| (begun.fps, begun.width, begun.height) == (fps, width, height);
    let kept = work.kept.as_ref().filter(|begun| same(begun)).map(|begun| begun.chunks.clone()).unwrap_or_default();
    let video = work.video.clone();
    let begun = Begun { video, source: work.source.clone(), fps, width, height, chunks: kept.clone() };
    state.begin(begun)?;

    let mut cutter =
        Cutter { work, shared, converter, kept, done: BTreeMap::new(), encoder: None, emitted: 0, repeated: 0 };
    let (mut held, mut held_at, mut dropped) = (frame, first, 0);
    let mut frame = Frame::empty();
    while let Some(number) = input.next(&mut frame)? {
        if (shared.stop)() {
            return Err(VideoFailure::Stopped);
        }
        if number > held_at {
            cutter.emit(&mut held, number)?;
        } else {
            // Two pictures at one place: the later one is shown.
            dropped += 1;
        }
        std::mem::swap(&mut held, &mut frame);
        held_at = number;
    }
    if let Some(reason) = input.cut_short() {
        return Err(VideoFailure::bad("truncated", reason));
    }
    cutter.emit(&mut held, held_at + 1)?;
    let (chunks, repeated) = cutter.end()?;
    if input.errors > 0 {
        tracing::warn!(
            "{} errors while decoding, {repeated} frames shown again: {}",
            input.errors,
            work.path.display()
        );
    }
    let chunks: Vec<Chunk> = chunks.into_values().collect();
    tidy(state.folder(), &state.settings, &work.video, chunks.len())?;
    let ready = Ready { fps, width, height, repeated, dropped, decode_errors: input.errors, chunks };
    state.done(Video { video: work.video.clone(), source: work.source.clone(), result: Outcome::Ready(ready) })?;
    Ok(())
}

/// Lays pictures into chunks.
struct Cutter<'a> {
    work: &'a Work,
    shared: &'a Shared<'a>,
    converter: Converter,
    /// Chunks that an earlier run made.
    kept: BTreeMap<usize, Chunk>,
    done: BTreeMap<usize, Chunk>,
    /// The chunk at hand and its number.
    encoder: Option<(usize, Encoder)>,
    /// Frames so far.
    emitted: u64,
    repeated: u64,
}

impl Cutter<'_> {
    /// Shows a picture until frame `end`.
    fn emit(&mut self, frame: &mut Frame, end: u64) -> Result<(), VideoFailure> {
        let settings = &self.shared.state.settings;
        let fps = self.converter.format.fps;
        let mut picture = None;
        self.repeated += (end - self.emitted).saturating_sub(1);
        while self.emitted < end {
            let number = settings.chunk_of(self.emitted, fps);
            if !self.kept.contains_key(&number) {
                let picture = match &mut picture {
                    Some(picture) => picture,
                    None => picture.insert(self.converter.convert(frame)?),
                };
                if self.encoder.is_none() {
                    self.encoder = Some((number, Encoder::new(settings, &self.converter.format)?));
                }
                if let Some((_, encoder)) = &mut self.encoder {
                    encoder.push(picture)?;
                }
            }
            self.emitted += 1;
            self.shared.progress.frames(1, fps);
            if settings.chunk_s > 0 && self.emitted == settings.first_frame(number + 1, fps) {
                self.finish()?;
            }
        }
        Ok(())
    }

    /// Publishes the chunk at hand, if there is one.
    fn finish(&mut self) -> Result<(), VideoFailure> {
        let Some((number, encoder)) = self.encoder.take() else {
            return Ok(());
        };
        let Shared { state, progress, write, stop } = self.shared;
        if stop() {
            return Err(VideoFailure::Stopped);
        }
        let encoded = encoder.finish()?;
        write(&state.folder().join(state.settings.file(&self.work.video, number)), &encoded.file)?;
        state.chunk(&self.work.video, number, encoded.chunk)?;
        progress.bytes(encoded.chunk.bytes);
        self.done.insert(number, encoded.chunk);
        Ok(())
    }

    fn end(mut self) -> Result<(BTreeMap<usize, Chunk>, u64), VideoFailure> {
        self.finish()?;
        self.done.append(&mut self.kept);
        Ok((self.done, self.repeated))
    }
}

/// Removes chunks that do not belong to a finished video, but to an older, longer source; with `chunks` 0 all of it.
pub fn tidy(folder: &Path, settings: &Settings, video: &str, chunks: usize) -> Result<(), WriteError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| WriteError::new("clean up", &path, 0, source)
    };
    let file = folder.join(settings.file(video, 0));
    if settings.chunk_s == 0 {
        return match chunks == 0 && file.exists() {
            true => std::fs::remove_file(&file).map_err(failed(&file)),
            false => Ok(()),
        };
    }
    let Some(place) = file.parent().filter(|place| place.is_dir()) else {
        return Ok(());
    };
    let mut left = false;
    for entry in std::fs::read_dir(place).map_err(failed(place))? {
        let path = entry.map_err(failed(place))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
        let start =
            name.strip_suffix(&format!(".{}", crate::data::manifest::EXTENSION)).and_then(|s| s.parse::<u64>().ok());
        match start {
            // Only what `Settings::file` can have made.
            Some(start) if start >= chunks as u64 * u64::from(settings.chunk_s) && name == format!("{start}.mp4") => {
                std::fs::remove_file(&path).map_err(failed(&path))?;
            }
            _ => left = true,
        }
    }
    if chunks == 0 && !left {
        std::fs::remove_dir(place).map_err(failed(place))?;
    }
    Ok(())
}
