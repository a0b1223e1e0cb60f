//! What is asked of a reader, and how a decoded picture answers it.

use std::path::Path;

use avion_kernels::scale_planes::{is_supported, record_bytes};
use ffmpeg_next::frame::Video as Frame;

use super::VideoError;
use super::crop::CropBox;
use super::orientation::Orientation;
use super::scale::Scaler;

/// Largest side of the output; keeps every byte count far from overflow.
const MAX_OUT_PX: u32 = 16_384;

/// What is asked for: which frames, the part used of each, the size it gets, and which way round.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    pub frames: &'a [u64],
    /// The whole picture as it is, without scaling, where `None`.
    pub crop: Option<CropBox>,
    pub width: u32,
    pub height: u32,
    pub flip: bool,
    pub record: bool,
}

impl Request<'_> {
    pub fn frame_bytes(&self) -> usize {
        if self.record {
            return record_bytes(self.width as usize);
        }
        3 * self.width as usize * self.height as usize
    }

    /// What does not fit pictures of this width and height, or the place for them.
    pub fn check(&self, [width, height]: [u32; 2], out: &[u8]) -> Result<(), String> {
        let Request { frames, crop, .. } = *self;
        if !frames.is_sorted() {
            return Err(format!("frame numbers must ascend, got {frames:?}"));
        }
        if let Some(crop) = crop.filter(|crop| !crop.fits(width, height)) {
            return Err(format!("{crop:?} does not lie within {width}x{height}"));
        }
        let sides = [self.width, self.height];
        if sides.iter().any(|side| !(1..=MAX_OUT_PX).contains(side)) {
            return Err(format!("output must be 1 to {MAX_OUT_PX} pixels a side, got {}x{}", self.width, self.height));
        }
        if self.record && !is_supported(self.width as usize) {
            return Err(format!("{} pixels a side cannot be made on a device", self.width));
        }
        let expected = frames.len() * self.frame_bytes();
        if out.len() != expected {
            return Err(format!("output must hold {expected} bytes, got {}", out.len()));
        }
        Ok(())
    }
}

/// What every decoded picture of a file must look like, and what becomes of it.
pub struct Picture<'a> {
    pub path: &'a Path,
    pub stored: (u32, u32),
    pub orientation: Orientation,
}

impl Picture<'_> {
    /// Writes one picture to each place of every `[frames, height, width, 3]` that asks for it.
    pub fn write(
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
            let crop = request.crop.map(|crop| self.orientation.to_stored(crop, shown_w, shown_h));
            let orientation = self.orientation.mirrored(request.flip);
            let places = &mut out[first * frame_bytes..end * frame_bytes];
            let (one, repeats) = places.split_at_mut(frame_bytes);
            let written = match crop {
                Some(crop) if request.record => scaler.record(frame, crop, orientation, request.width, one),
                Some(crop) => scaler.part(frame, crop, orientation, request.width, request.height, one),
                None => scaler.whole(frame, orientation, one),
            };
            written.map_err(|format| VideoError::PixelFormat { path: self.path.to_owned(), format })?;
            for repeat in repeats.chunks_exact_mut(frame_bytes) {
                repeat.copy_from_slice(one);
            }
        }
        Ok(())
    }
}
