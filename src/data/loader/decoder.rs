//! What the loader needs of a video decoder, and FFmpeg's behind it.

use crate::data::layout::FileInfo;
use crate::video::{CropBox, Read, ReadOptions, VideoError, VideoReader};
use std::path::Path;

/// Why a file could not be opened or read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// Short name that failures are counted under.
    pub kind: &'static str,
    /// What went wrong, the path included.
    pub reason: String,
}

/// Opens videos. One is shared by all decode threads.
pub trait Decoder: Send + Sync {
    fn open(&self, path: &Path) -> Result<Box<dyn OpenVideo>, DecodeError>;
}

/// A video opened by one thread.
pub trait OpenVideo {
    /// Width and height, pixels.
    fn size_px(&self) -> [u32; 2];

    fn info(&self) -> FileInfo;

    /// Decodes `frames` (ascending, possibly repeated), each cropped, scaled to `out_px` square and flipped
    /// left to right if asked, into `out`: `[frames, out_px, out_px, 3]`, RGB.
    fn read(
        &mut self,
        frames: &[u64],
        crop: CropBox,
        out_px: u32,
        flip: bool,
        out: &mut [u8],
    ) -> Result<(), DecodeError>;

    /// Does several reads, in one pass over the file where the decoder can: each frame is then decoded once, however
    /// many ask for it. After an error, all that was to be written is undefined.
    fn read_each(&mut self, reads: &mut [Read], out_px: u32) -> Result<(), DecodeError> {
        reads.iter_mut().try_for_each(|read| self.read(read.frames, read.crop, out_px, read.flip, read.out))
    }
}

/// Decodes with FFmpeg's libraries.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ffmpeg {
    pub options: ReadOptions,
}

impl Decoder for Ffmpeg {
    fn open(&self, path: &Path) -> Result<Box<dyn OpenVideo>, DecodeError> {
        Ok(Box::new(VideoReader::open_with(path, self.options)?))
    }
}

impl OpenVideo for VideoReader {
    fn size_px(&self) -> [u32; 2] {
        [self.width(), self.height()]
    }

    fn info(&self) -> FileInfo {
        FileInfo { frames: self.num_frames(), fps: self.fps() }
    }

    fn read(
        &mut self,
        frames: &[u64],
        crop: CropBox,
        out_px: u32,
        flip: bool,
        out: &mut [u8],
    ) -> Result<(), DecodeError> {
        Ok(Self::read(self, frames, crop, out_px, flip, out)?)
    }

    fn read_each(&mut self, reads: &mut [Read], out_px: u32) -> Result<(), DecodeError> {
        Ok(Self::read_each(self, reads, out_px)?)
    }
}

impl From<VideoError> for DecodeError {
    fn from(error: VideoError) -> Self {
        Self { kind: error.kind(), reason: error.to_string() }
    }
}
