//! Files that are open during a job, and what is read from each in one pass.

use super::{DecodeError, Decoder, OpenVideo};
use crate::data::layout::ClipError;
use crate::video::{CropBox, Read};
use std::path::{Path, PathBuf};

/// What an entry takes from its files.
pub(super) struct Plan {
    pub crop: CropBox,
    pub flip: bool,
    /// Number of the opened file, and ascending frame numbers within.
    pub parts: Vec<(usize, Vec<u64>)>,
}

/// What an entry takes from one file.
pub(super) struct Part<'a> {
    entry: usize,
    file: usize,
    crop: CropBox,
    flip: bool,
    frames: Vec<u64>,
    out: &'a mut [u8],
}

impl Plan {
    /// Divides an entry's memory for `count` frames among its parts.
    pub fn cut<'a>(self, entry: usize, mut out: &'a mut [u8], count: usize, parts: &mut Vec<Part<'a>>) {
        let frame_bytes = out.len() / count;
        for (file, frames) in self.parts {
            let (own, rest) = std::mem::take(&mut out).split_at_mut(frames.len() * frame_bytes);
            out = rest;
            parts.push(Part { entry, file, crop: self.crop, flip: self.flip, frames, out: own });
        }
    }
}

/// The files of a job, each opened when first needed. What cannot be opened is not tried again.
pub(super) struct Opened<'a> {
    decoder: &'a dyn Decoder,
    videos: Vec<(PathBuf, Result<Box<dyn OpenVideo>, DecodeError>)>,
}

impl<'d> Opened<'d> {
    pub fn new(decoder: &'d dyn Decoder) -> Self {
        Self { decoder, videos: Vec::new() }
    }

    /// The number of a file, and the file.
    pub fn get(&mut self, path: &Path) -> Result<(usize, &mut dyn OpenVideo), ClipError> {
        let known = self.videos.iter().position(|(known, _)| known == path);
        let number = known.unwrap_or_else(|| {
            self.videos.push((path.to_owned(), self.decoder.open(path)));
            self.videos.len() - 1
        });
        match &mut self.videos[number].1 {
            Ok(video) => Ok((number, video.as_mut())),
            Err(error) => Err(failed(path, error.clone())),
        }
    }

    /// Reads all parts, file by file; returns the entries that could not be read, and why.
    pub fn read(&mut self, mut parts: Vec<Part>, size_px: u32, at: &dyn Fn(usize)) -> Vec<(usize, ClipError)> {
        parts.sort_by_key(|part| part.file);
        let mut bad: Vec<(usize, ClipError)> = Vec::new();
        for parts in parts.chunk_by_mut(|a, b| a.file == b.file) {
            let Some((path, Ok(video))) = self.videos.get_mut(parts[0].file) else { continue };
            at(parts[0].entry);
            if parts.len() > 1 {
                let mut reads: Vec<Read> = parts
                    .iter_mut()
                    .map(|part| Read { frames: &part.frames, crop: part.crop, flip: part.flip, out: part.out })
                    .collect();
                if video.read_each(&mut reads, size_px).is_ok() {
                    continue;
                }
                // One by one, to learn whose frames are at fault.
            }
            for part in parts {
                if bad.iter().any(|(entry, _)| *entry == part.entry) {
                    continue;
                }
                at(part.entry);
                if let Err(error) = video.read(&part.frames, part.crop, size_px, part.flip, part.out) {
                    bad.push((part.entry, failed(path, error)));
                }
            }
        }
        bad
    }
}

fn failed(path: &Path, error: DecodeError) -> ClipError {
    ClipError::Decode { path: path.to_owned(), kind: error.kind, reason: error.reason }
}
