//! The public face of decoding: open a file, read frames.

use std::path::{Path, PathBuf};

use ffmpeg_next::frame::Video as Frame;

use super::VideoError;
use super::container::Container;
use super::crop::{CropBox, Read};
use super::orientation::Orientation;
use super::scale::Scaler;
use super::seek::Seeker;
use super::sequential::Sequential;

/// Smaller pictures are refused: less than a macroblock a side carries nothing to learn from.
const MIN_SIDE_PX: u32 = 16;

/// Reads frames of one video file on the calling thread.
///
/// Frame `k` is the `k`-th picture of a full decode in order, edit lists applied, turned for display. Files
/// whose index can be trusted are decoded from the key frame before each wanted frame; all others, and those
/// whose decoder contradicts the index, from the start. See `seek.rs` for what is checked.
///
/// Costs: opening probes the file (and reads it once unless it is an unfragmented MP4 or MOV); a file without
/// a trusted index is decoded once to count its frames. No stage (opening, counting, reading) goes on for longer
/// than 120 s.
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
}

/// What is asked for: which frames, the part used of each, the size it gets, and which way round.
#[derive(Clone, Copy)]
struct Request<'a> {
    frames: &'a [u64],
    crop: CropBox,
    width: u32,
    height: u32,
    flip: bool,
}

impl Request<'_> {
    fn frame_bytes(&self) -> usize {
        3 * self.width as usize * self.height as usize
    }
}

impl VideoReader {
    /// # Errors
    /// When the file is missing, unreadable, encrypted, without video or without a single frame, tiny, or
    /// turned by an angle other than a multiple of 90 degrees.
    pub fn open(path: &Path) -> Result<VideoReader, VideoError> {
        let mut container = Container::open(path)?;
        let orientation = container.orientation()?;
        let stored = container.size();
        let (width, height) = stored;
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
        };
        let index = match container.syntax() {
            Ok(syntax) => container.index(syntax)?.map(|index| (syntax, index)),
            Err(reason) => Err(reason),
        };
        match index {
            Ok((syntax, index)) => {
                reader.num_frames = index.0.num_frames();
                reader.fps = container.fps(reader.num_frames);
                reader.seeker = Some(Seeker::new(container, syntax, index)?);
            }
            Err(reason) => {
                reader.count_frames(reason)?;
                reader.fps = container.fps(reader.num_frames);
            }
        }
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

    /// Reads frames, crops, scales (bicubic) and converts them.
    ///
    /// # Shapes
    /// - `frames`: ascending frame numbers, repeats allowed
    /// - `crop`: in display pixels; see [`CropBox`] for its rounding
    /// - `out`: `[frames, out_px, out_px, 3]`, u8 RGB, all written on success
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
        let request = Request { frames, crop, width: out_px, height: out_px, flip };
        self.read_into(&mut [(request, out)])
    }

    /// Does several reads as [`VideoReader::read`] in one pass: each frame is decoded once, however many ask for it.
    ///
    /// # Errors
    /// As [`VideoReader::read`], of any of the reads.
    pub fn read_each(&mut self, reads: &mut [Read], out_px: u32) -> Result<(), VideoError> {
        let mut targets: Vec<(Request, &mut [u8])> = reads
            .iter_mut()
            .map(|Read { frames, crop, flip, out }| {
                (Request { frames, crop: *crop, width: out_px, height: out_px, flip: *flip }, &mut **out)
            })
            .collect();
        self.read_into(&mut targets)
    }

    /// Reads whole frames without scaling: `out` is `[frames, height, width, 3]`, u8 RGB.
    ///
    /// # Errors
    /// As [`VideoReader::read`].
    pub fn read_native(&mut self, frames: &[u64], out: &mut [u8]) -> Result<(), VideoError> {
        let (width, height) = (self.width(), self.height());
        let request = Request { frames, crop: CropBox::full(width, height), width, height, flip: false };
        self.read_into(&mut [(request, out)])
    }

    fn read_into(&mut self, targets: &mut [(Request, &mut [u8])]) -> Result<(), VideoError> {
        for (request, out) in &*targets {
            self.check_request(*request, out)?;
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
        if let Some(seeker) = &mut self.seeker {
            seeker.start_clock();
            let mut emit = |ordinal: u64, frame: &Frame| picture.write(&mut self.scaler, ordinal, frame, targets);
            match seeker.read(&wanted, &mut emit)? {
                None => return Ok(()),
                Some(reason) => {
                    tracing::debug!("decoding in order, {reason}: {}", self.path.display());
                    self.seeker = None;
                }
            }
        }
        let mut pass = match self.sequential.take() {
            Some(pass) if wanted.first().is_some_and(|&k| k >= pass.position()) => pass,
            _ => Sequential::new(Container::open(&self.path)?)?,
        };
        pass.start_clock();
        for &ordinal in &wanted {
            loop {
                let position = pass.position();
                let num_errors = pass.num_errors();
                let Some(frame) = pass.next()? else {
                    self.num_frames = position;
                    self.num_errors = num_errors;
                    return Err(self.beyond_end(ordinal));
                };
                if position == ordinal {
                    picture.write(&mut self.scaler, ordinal, frame, targets)?;
                    break;
                }
            }
        }
        self.sequential = Some(pass);
        Ok(())
    }

    /// Decodes the whole file to learn how many frames it has.
    fn count_frames(&mut self, reason: &str) -> Result<(), VideoError> {
        tracing::debug!("counting frames, {reason}: {}", self.path.display());
        let mut pass = Sequential::new(Container::open(&self.path)?)?;
        while pass.next()?.is_some() {}
        self.num_frames = pass.position();
        self.num_errors = pass.num_errors();
        Ok(())
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

    fn check_request(&self, request: Request, out: &[u8]) -> Result<(), VideoError> {
        let refuse = |reason: String| Err(VideoError::Request { path: self.path.clone(), reason });
        let Request { frames, crop, .. } = request;
        if !frames.is_sorted() {
            return refuse(format!("frame numbers must ascend, got {frames:?}"));
        }
        let (width, height) = (self.width(), self.height());
        if !crop.fits(width, height) {
            return refuse(format!("{crop:?} does not lie within {width}x{height}"));
        }
        let sides = [request.width, request.height];
        if sides.iter().any(|side| !(1..=MAX_OUT_PX).contains(side)) {
            return refuse(format!(
                "output must be 1 to {MAX_OUT_PX} pixels a side, got {}x{}",
                request.width, request.height
            ));
        }
        let expected = frames.len() * request.frame_bytes();
        if out.len() != expected {
            return refuse(format!("output must hold {expected} bytes, got {}", out.len()));
        }
        Ok(())
    }
}

/// Largest side of the output; keeps every byte count far from overflow.
const MAX_OUT_PX: u32 = 16_384;

/// What every decoded picture of a file must look like, and what becomes of it.
struct Picture<'a> {
    path: &'a Path,
    stored: (u32, u32),
    orientation: Orientation,
}

impl Picture<'_> {
    /// Writes one picture to each place of every `[frames, height, width, 3]` that asks for it.
    fn write(
        &self,
        scaler: &mut Scaler,
        ordinal: u64,
        frame: &Frame,
        targets: &mut [(Request, &mut [u8])],
    ) -> Result<(), VideoError> {
        let (width, height) = self.stored;
        if (frame.width(), frame.height()) != self.stored {
            return Err(VideoError::SizeChanged {
                path: self.path.to_owned(),
                frame: ordinal,
                width,
                height,
                found_width: frame.width(),
                found_height: frame.height(),
            });
        }
        let (shown_w, shown_h) = self.orientation.turn(width, height);
        for (request, out) in targets {
            let frame_bytes = request.frame_bytes();
            let first = request.frames.partition_point(|&k| k < ordinal);
            let end = request.frames.partition_point(|&k| k <= ordinal);
            if first == end {
                continue;
            }
            let crop = self.orientation.to_stored(request.crop, shown_w, shown_h);
            let orientation = self.orientation.mirrored(request.flip);
            let places = &mut out[first * frame_bytes..end * frame_bytes];
            let (one, repeats) = places.split_at_mut(frame_bytes);
            scaler
                .convert(frame, crop, orientation, request.width, request.height, one)
                .map_err(|format| VideoError::PixelFormat { path: self.path.to_owned(), format })?;
            for repeat in repeats.chunks_exact_mut(frame_bytes) {
                repeat.copy_from_slice(one);
            }
        }
        Ok(())
    }
}
