//! The public face of decoding: open a file, read frames.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ffmpeg_next::frame::Video as Frame;

use super::cache::{self, Known};
use super::container::{Container, Probing};
use super::crop::{CropBox, Read};
use super::hardware;
use super::options::ReadOptions;
use super::orientation::Orientation;
use super::request::{Picture, Request};
use super::scale::Scaler;
use super::seek::Seeker;
use super::sequential::Sequential;
use super::stages::timed;
use super::{Stages, VideoError};
use crate::config::recipe::VideoDecoder;

/// Smaller pictures are refused: less than a macroblock a side carries nothing to learn from.
const MIN_SIDE_PX: u32 = 16;

/// Reads frames of one video file on the calling thread.
///
/// Frame `k` is the `k`-th picture of a full decode in order, edit lists applied, turned for display. Files
/// whose index can be trusted are decoded from the key frame before each wanted frame; all others, and those
/// whose decoder contradicts the index, from the start. See `seek.rs` for what is checked.
///
/// Costs: opening reads the file's table of contents; where that does not tell all (other containers than MP4 and MOV,
/// other codecs than H.264) it probes the file, and reads it once to index it; a file without a trusted index is decoded
/// once to count its frames. What was learnt is kept for the next time (`cache.rs`), and so is the decoder, for the
/// next file of its kind. No stage (opening, counting, reading) goes on for longer than 120 s.
pub struct VideoReader {
    path: PathBuf,
    /// Stored size, before rotation.
    stored: (u32, u32),
    orientation: Orientation,
    fps: f64,
    num_frames: u64,
    /// What the container promised, and how often decoding failed, when the frames were counted.
    declared_frames: u64,
    num_errors: u64,
    seeker: Option<Seeker>,
    sequential: Option<Sequential>,
    scaler: Scaler,
    records: bool,
    stages: Stages,
}

impl Drop for VideoReader {
    fn drop(&mut self) {
        if let Some(seeker) = self.seeker.take() {
            seeker.recycle();
        }
    }
}

impl VideoReader {
    /// # Errors
    /// When the file is missing, unreadable, encrypted, without video or without a single frame, tiny, or
    /// turned by an angle other than a multiple of 90 degrees.
    pub fn open(path: &Path) -> Result<VideoReader, VideoError> {
        VideoReader::open_with(path, ReadOptions::default())
    }

    /// # Errors
    /// As [`VideoReader::open`].
    pub fn open_with(path: &Path, options: ReadOptions) -> Result<VideoReader, VideoError> {
        let mut stages = Stages::default();
        let mut container = timed(&mut stages.open, || Container::open(path, Probing::WhereNeeded))?;
        let orientation = container.orientation()?;
        let stored = container.size();
        let mut reader = VideoReader {
            path: path.to_owned(),
            stored,
            orientation,
            fps: 0.0,
            num_frames: 0,
            declared_frames: container.declared_frames(),
            num_errors: 0,
            seeker: None,
            sequential: None,
            scaler: Scaler::new(),
            records: options.as_records,
            stages,
        };
        let stamp = container.stamp();
        let known = match cache::get(path, stamp) {
            Some(known) => known,
            None => {
                let known = reader.learn(&mut container)?;
                cache::put(path, stamp, known.clone());
                known
            }
        };
        match (known, container.syntax()) {
            (Known::Indexed { index, headers }, Ok(syntax)) => {
                // Sets within the stream may contradict the header that probing was left out for.
                if !container.is_probed() && syntax.has_parameter_sets(&headers) {
                    container = timed(&mut reader.stages.open, || Container::open(path, Probing::Always))?;
                    reader.stored = container.size();
                }
                reader.num_frames = index.num_frames();
                reader.fps = container.fps(reader.num_frames);
                let seeker = || Seeker::new(container, syntax, index, headers, options);
                reader.seeker = Some(timed(&mut reader.stages.open, seeker)?);
            }
            (Known::Counted { num_frames, num_errors }, _) => {
                reader.num_frames = num_frames;
                reader.num_errors = num_errors;
                reader.fps = container.fps(num_frames);
            }
            (Known::Indexed { .. }, Err(_)) => {}
        }
        if reader.seeker.is_none() && options.decoder == VideoDecoder::Nvdec {
            hardware::fell_back(path, "a file that is decoded from the start");
        }
        let (width, height) = reader.stored;
        if reader.num_frames == 0 {
            return Err(VideoError::NoFrames { path: path.to_owned() });
        }
        if width.min(height) < MIN_SIDE_PX {
            return Err(VideoError::Tiny { path: path.to_owned(), width, height, min: MIN_SIDE_PX });
        }
        Ok(reader)
    }

    /// Width in pixels as shown, after rotation; pixels may not be square.
    pub fn width(&self) -> u32 {
        self.orientation.turn(self.stored.0, self.stored.1).0
    }

    /// Height in pixels as shown, after rotation.
    pub fn height(&self) -> u32 {
        self.orientation.turn(self.stored.0, self.stored.1).1
    }

    /// Average frames per second; 0 when the file does not tell (a single picture).
    pub fn fps(&self) -> f64 {
        self.fps
    }

    /// How many frames a full decode gives. A damaged packet that no call has met yet still counts; reading
    /// the frames it should have given then ends with `Corrupt`, and the number is corrected.
    pub fn num_frames(&self) -> u64 {
        self.num_frames
    }

    /// Whether NVDEC decodes, as far as is known: before the first frame it is only intended.
    pub fn by_nvdec(&self) -> bool {
        self.seeker.as_ref().is_some_and(Seeker::by_nvdec)
    }

    /// Where the time went so far.
    pub fn stages(&self) -> Stages {
        self.seeker.as_ref().map_or(self.stages, |seeker| self.stages + seeker.stages)
    }

    /// Reads frames, crops, scales (bilinear, antialiased: Note [Scaling] in `scale.rs`) and converts them.
    ///
    /// # Shapes
    /// - `frames`: ascending frame numbers, repeats allowed
    /// - `crop`: in display pixels
    /// - `out`: `[frames, out_px, out_px, 3]`, u8 RGB, or `[frames, record_bytes(out_px)]`; all written on success
    ///
    /// # Errors
    /// `Request` for arguments that do not fit, `TooShort` for a frame beyond the end, `Corrupt` when decoding
    /// ends early, `SizeChanged`, `PixelFormat`, `Timeout`. The content of `out` is then undefined.
    pub fn read(
        &mut self,
        frames: &[u64],
        crop: CropBox,
        out_px: u32,
        flip: bool,
        out: &mut [u8],
    ) -> Result<(), VideoError> {
        let request = Request { frames, crop: Some(crop), width: out_px, height: out_px, flip, record: self.records };
        self.read_into(&mut [(request, out)])
    }

    /// Does several reads as [`VideoReader::read`] in one pass: each frame is decoded once, however many ask for it.
    ///
    /// # Errors
    /// As [`VideoReader::read`], of any of the reads.
    pub fn read_each(&mut self, reads: &mut [Read], out_px: u32) -> Result<(), VideoError> {
        let record = self.records;
        let mut targets: Vec<(Request, &mut [u8])> = reads
            .iter_mut()
            .map(|Read { frames, crop, flip, out }| {
                let (crop, flip) = (Some(*crop), *flip);
                (Request { frames, crop, width: out_px, height: out_px, flip, record }, &mut **out)
            })
            .collect();
        self.read_into(&mut targets)
    }

    /// Reads whole frames without scaling: `out` is `[frames, height, width, 3]`, u8 RGB, equal to the bit to what the
    /// ffmpeg program gives as `rgb24` with its default settings.
    ///
    /// # Errors
    /// As [`VideoReader::read`].
    pub fn read_native(&mut self, frames: &[u64], out: &mut [u8]) -> Result<(), VideoError> {
        let (width, height) = (self.width(), self.height());
        let request = Request { frames, crop: None, width, height, flip: false, record: false };
        self.read_into(&mut [(request, out)])
    }

    fn read_into(&mut self, targets: &mut [(Request, &mut [u8])]) -> Result<(), VideoError> {
        for (request, out) in &*targets {
            request.check([self.width(), self.height()], out).map_err(|reason| self.refused(reason))?;
        }
        let mut wanted: Vec<u64> = targets.iter().flat_map(|(request, _)| request.frames).copied().collect();
        wanted.sort_unstable();
        wanted.dedup();
        let Some(&last) = wanted.last() else {
            return Ok(());
        };
        if last >= self.num_frames {
            return Err(self.beyond_end(last));
        }
        let picture = Picture { path: &self.path, stored: self.stored, orientation: self.orientation };
        while let Some(seeker) = &mut self.seeker {
            seeker.start_clock();
            let mut emit = |ordinal: u64, frame: &Frame| picture.write(&mut self.scaler, ordinal, frame, targets);
            let Some(reason) = seeker.read(&wanted, &mut emit)? else {
                return Ok(());
            };
            // The CPU decoder has the last word on whether the index can be trusted.
            if !seeker.leave_device(reason)? {
                tracing::debug!("decoding in order, {reason}: {}", self.path.display());
                self.stages += seeker.stages;
                self.seeker = None;
            }
        }
        let mut pass = match self.sequential.take() {
            Some(pass) if wanted.first().is_some_and(|&k| k >= pass.position()) => pass,
            _ => timed(&mut self.stages.open, || Sequential::new(&self.path))?,
        };
        pass.start_clock();
        for &ordinal in &wanted {
            loop {
                let position = pass.position();
                let num_errors = pass.num_errors();
                let Some(frame) = timed(&mut self.stages.decode, || pass.next())? else {
                    self.num_frames = position;
                    self.num_errors = num_errors;
                    return Err(self.beyond_end(ordinal));
                };
                if position == ordinal {
                    timed(&mut self.stages.convert, || picture.write(&mut self.scaler, ordinal, frame, targets))?;
                    break;
                }
            }
        }
        self.sequential = Some(pass);
        Ok(())
    }

    /// Indexes the file, or decodes all of it to learn how many frames it has.
    fn learn(&mut self, container: &mut Container) -> Result<Known, VideoError> {
        timed(&mut self.stages.index, || {
            let index = match container.syntax() {
                Ok(syntax) => container.index(syntax)?,
                Err(reason) => Err(reason),
            };
            let reason = match index {
                Ok((index, headers)) => return Ok(Known::Indexed { index: Arc::new(index), headers: headers.into() }),
                Err(reason) => reason,
            };
            tracing::debug!("counting frames, {reason}: {}", self.path.display());
            let mut pass = Sequential::new(&self.path)?;
            while pass.next()?.is_some() {}
            Ok(Known::Counted { num_frames: pass.position(), num_errors: pass.num_errors() })
        })
    }

    fn refused(&self, reason: String) -> VideoError {
        VideoError::Request { path: self.path.clone(), reason }
    }

    fn beyond_end(&self, frame: u64) -> VideoError {
        if self.num_errors > 0 {
            return VideoError::Corrupt {
                path: self.path.clone(),
                frame,
                decoded: self.num_frames,
                num_frames: self.declared_frames.max(self.num_frames),
                num_errors: self.num_errors,
            };
        }
        VideoError::TooShort { path: self.path.clone(), frame, num_frames: self.num_frames }
    }
}
