//! From a decoded picture to one that is encoded: upright, of square pixels, scaled, 8 bit 4:2:0.

use super::encode::{Colours, Format, MPEG4};
use super::error::VideoFailure;
use crate::data::manifest::Settings;
use crate::video::orientation::Orientation;
use ffmpeg_next::format::Pixel;
use ffmpeg_next::frame::Video as Frame;
use ffmpeg_next::software::scaling::{Context, Flags};
use ffmpeg_next::{Error, ffi};

/// As FFmpeg's `scale` filter; exact rounding costs little beside the encoder.
const FILTER: Flags = Flags::BICUBIC.union(Flags::ACCURATE_RND);

/// How a source's pictures are stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    pub width: u32,
    pub height: u32,
    /// Width over height of a pixel.
    pub aspect: f64,
    pub orientation: Orientation,
}

impl Shape {
    /// Size as stored, of square pixels, the short side at most `short_side`, both sides even. Nothing is enlarged, but
    /// for the width of pixels that are wider than high.
    pub fn scaled(&self, short_side: u32) -> [u32; 2] {
        // The odd last column or row is cut off.
        let [width, height] = [self.width, self.height].map(|side| side & !1);
        let (wide, high) = (f64::from(width) * self.aspect, f64::from(height));
        let scale = (f64::from(short_side) / wide.min(high)).min(1.0);
        [wide, high].map(|side| ((side * scale / 2.0).round() as u32 * 2).max(16))
    }
}

/// Makes pictures of one [`Format`].
pub struct Converter {
    shape: Shape,
    /// As stored, before it is turned.
    size: [u32; 2],
    pub format: Format,
    scaler: Option<Context>,
}

impl Converter {
    /// `first` is any picture of the source: it has the colours.
    pub fn new(shape: Shape, settings: &Settings, fps: [u32; 2], first: &Frame) -> Self {
        let size = shape.scaled(settings.short_side);
        let (width, height) = shape.orientation.turn(size[0], size[1]);
        let (mut pixel, mut colours) = colours(first);
        if pixel == Pixel::YUVJ420P && settings.codec == MPEG4 {
            // It takes no such format, and the scaler makes a limited range of it.
            (pixel, colours.range) = (Pixel::YUV420P, ffi::AVColorRange::AVCOL_RANGE_MPEG);
        }
        Self { shape, size, format: Format { width, height, pixel, fps, colours }, scaler: None }
    }

    /// # Errors
    /// A format that libswscale cannot read.
    pub fn convert(&mut self, frame: &mut Frame) -> Result<Frame, VideoFailure> {
        let refused = |frame: &Frame| {
            let name = frame.format().descriptor().map_or("unknown", |descriptor| descriptor.name());
            VideoFailure::bad("pixel-format", format!("cannot convert pictures of format {name}"))
        };
        // A picture of another size in the middle is brought to the size of all.
        let (width, height) = (frame.width() & !1, frame.height() & !1);
        if width == 0 || height == 0 {
            return Err(refused(frame));
        }
        frame.set_width(width);
        frame.set_height(height);
        let input = (frame.format(), width, height);
        let fits = |scaler: &Context| {
            let known = scaler.input();
            (known.format, known.width, known.height) == input
        };
        if !self.scaler.as_ref().is_some_and(fits) {
            let [out_width, out_height] = self.size;
            let made = Context::get(input.0, width, height, self.format.pixel, out_width, out_height, FILTER);
            self.scaler = Some(made.map_err(|_| refused(frame))?);
        }
        let mut scaled = Frame::empty();
        let done = self.scaler.as_mut().map_or(Err(Error::Bug), |scaler| scaler.run(frame, &mut scaled));
        done.map_err(|_| refused(frame))?;
        if self.shape.orientation != Orientation::default() {
            scaled = turned(&scaled, self.shape.orientation, self.format.width, self.format.height);
        }
        Ok(scaled)
    }
}

/// Format and colours of the chunks of a source: its own. libswscale then changes neither matrix nor range; only RGB
/// becomes BT.601.
fn colours(frame: &Frame) -> (Pixel, Colours) {
    // SAFETY: a frame wrapper holds an allocated AVFrame; descriptors are static.
    let (mut colours, rgb) = unsafe {
        let raw = &*frame.as_ptr();
        let descriptor = ffi::av_pix_fmt_desc_get(frame.format().into()).as_ref();
        let rgb = descriptor.is_some_and(|d| d.flags & ffi::AV_PIX_FMT_FLAG_RGB as u64 != 0);
        let colours = Colours {
            primaries: raw.color_primaries,
            transfer: raw.color_trc,
            matrix: raw.colorspace,
            range: raw.color_range,
            chroma: raw.chroma_location,
        };
        (colours, rgb)
    };
    if rgb {
        colours.matrix = ffi::AVColorSpace::AVCOL_SPC_SMPTE170M;
        colours.range = ffi::AVColorRange::AVCOL_RANGE_MPEG;
        return (Pixel::YUV420P, colours);
    }
    let full_by_format = matches!(
        frame.format(),
        Pixel::YUVJ420P | Pixel::YUVJ422P | Pixel::YUVJ444P | Pixel::YUVJ440P | Pixel::YUVJ411P
    );
    if full_by_format {
        colours.range = ffi::AVColorRange::AVCOL_RANGE_JPEG;
    }
    // The scaler keeps the range only where both formats imply the same.
    let pixel = if full_by_format { Pixel::YUVJ420P } else { Pixel::YUV420P };
    (pixel, colours)
}

/// Lays a stored picture out for display, plane by plane.
fn turned(stored: &Frame, orientation: Orientation, width: u32, height: u32) -> Frame {
    let mut shown = Frame::new(stored.format(), width, height);
    for plane in 0..stored.planes().min(3) {
        let [width, height] = [shown.plane_width(plane), shown.plane_height(plane)].map(|side| side as usize);
        let (from_stride, stride) = (stored.stride(plane), shown.stride(plane));
        let from = stored.data(plane);
        for (y, row) in shown.data_mut(plane).chunks_mut(stride).take(height).enumerate() {
            let y = if orientation.flip_y { height - 1 - y } else { y };
            for (x, pixel) in row[..width].iter_mut().enumerate() {
                let x = if orientation.flip_x { width - 1 - x } else { x };
                let (row, column) = if orientation.transpose { (x, y) } else { (y, x) };
                *pixel = from[row * from_stride + column];
            }
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_square_even_and_never_larger() {
        let size =
            |width, height, aspect| Shape { width, height, aspect, orientation: Orientation::default() }.scaled(288);
        assert_eq!(size(1920, 1080, 1.0), [512, 288]);
        assert_eq!(size(1080, 1920, 1.0), [288, 512]);
        assert_eq!(size(321, 241, 1.0), [320, 240]);
        assert_eq!(size(340, 256, 64.0 / 51.0), [426, 256]);
        assert_eq!(size(720, 576, 16.0 / 15.0), [384, 288]);
        assert_eq!(size(16, 4000, 1.0), [16, 4000]);
        assert_eq!(size(17, 33, 0.5), [16, 32]);
    }
}
