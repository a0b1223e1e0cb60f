//! The reader of a build without FFmpeg: the same calls, and one answer.

use std::convert::Infallible;
use std::path::Path;

use super::{CropBox, Read, ReadOptions, Stages, VideoError};

/// A reader that cannot exist: this build has no video decoder.
pub struct VideoReader {
    never: Infallible,
}

impl VideoReader {
    /// # Errors
    /// Always [`VideoError::NotBuilt`].
    pub fn open(path: &Path) -> Result<VideoReader, VideoError> {
        Err(VideoError::NotBuilt { path: path.to_owned() })
    }

    /// # Errors
    /// Always [`VideoError::NotBuilt`].
    pub fn open_with(path: &Path, _options: ReadOptions) -> Result<VideoReader, VideoError> {
        VideoReader::open(path)
    }

    pub fn by_nvdec(&self) -> bool {
        match self.never {}
    }

    pub fn stages(&self) -> Stages {
        match self.never {}
    }

    pub fn width(&self) -> u32 {
        match self.never {}
    }

    pub fn height(&self) -> u32 {
        match self.never {}
    }

    pub fn fps(&self) -> f64 {
        match self.never {}
    }

    pub fn num_frames(&self) -> u64 {
        match self.never {}
    }

    pub fn read(
        &mut self,
        _frames: &[u64],
        _crop: CropBox,
        _out_px: u32,
        _flip: bool,
        _out: &mut [u8],
    ) -> Result<(), VideoError> {
        match self.never {}
    }

    pub fn read_each(&mut self, _reads: &mut [Read], _out_px: u32) -> Result<(), VideoError> {
        match self.never {}
    }

    pub fn read_native(&mut self, _frames: &[u64], _out: &mut [u8]) -> Result<(), VideoError> {
        match self.never {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_missing() {
        let error = VideoReader::open(Path::new("a.mp4")).err().unwrap();
        assert_eq!(error.kind(), "not-built");
        assert!(error.to_string().contains("feature `video`"));
    }
}
