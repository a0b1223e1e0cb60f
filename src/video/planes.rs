//! The 8-bit planes of a decoded picture.

use ffmpeg_next::ffi;
use ffmpeg_next::frame::Video as Frame;

use super::colour::{Colour, matrix};

/// One plane: rows of `stride` bytes, of which the first `width` are samples. The last row may end after those.
#[derive(Clone, Copy)]
pub struct Plane<'a> {
    pub samples: &'a [u8],
    pub stride: usize,
    pub width: usize,
    pub height: usize,
}

/// Three planes of which each has one sample for every pixel, or fewer in the second and third.
#[derive(Clone, Copy)]
pub struct Planes<'a> {
    pub planes: [Plane<'a>; 3],
    /// How many pixels of a row and of a column share a sample of the second and third plane, as powers of two.
    pub chroma_shift: [u32; 2],
    pub colour: Colour,
}

/// How the planes of a pixel format lie, if each sample is a byte.
#[derive(Clone, Copy, PartialEq)]
struct Layout {
    chroma_shift: [u32; 2],
    rgb: bool,
    full_range: bool,
}

/// `None` for formats that must be converted first; an alpha plane is left out.
fn layout(format: ffi::AVPixelFormat) -> Option<Layout> {
    // SAFETY: descriptors are static.
    let descriptor = unsafe { ffi::av_pix_fmt_desc_get(format).as_ref() }?;
    let has = |flag: u32| descriptor.flags & u64::from(flag) != 0;
    let unusable =
        ffi::AV_PIX_FMT_FLAG_BITSTREAM as u32 | ffi::AV_PIX_FMT_FLAG_HWACCEL as u32 | ffi::AV_PIX_FMT_FLAG_PAL as u32;
    if descriptor.nb_components < 3 || !has(ffi::AV_PIX_FMT_FLAG_PLANAR as u32) || has(unusable) {
        return None;
    }
    let rgb = has(ffi::AV_PIX_FMT_FLAG_RGB as u32);
    let planes = if rgb { [2, 0, 1] } else { [0, 1, 2] };
    let whole_bytes = descriptor.comp.iter().zip(planes).all(|(component, plane)| {
        let packed = component.step == 1 && component.offset == 0 && component.shift == 0;
        packed && component.depth == 8 && component.plane == plane
    });
    use ffi::AVPixelFormat as Format;
    // The formats that FFmpeg keeps for JPEG's range.
    let full_range = matches!(
        format,
        Format::AV_PIX_FMT_YUVJ420P
            | Format::AV_PIX_FMT_YUVJ422P
            | Format::AV_PIX_FMT_YUVJ444P
            | Format::AV_PIX_FMT_YUVJ440P
            | Format::AV_PIX_FMT_YUVJ411P
    );
    let chroma_shift = [u32::from(descriptor.log2_chroma_w), u32::from(descriptor.log2_chroma_h)];
    whole_bytes.then_some(Layout { chroma_shift, rgb, full_range })
}

/// The format of 8-bit planes that keeps most of another one.
pub fn planar_format(format: ffi::AVPixelFormat) -> ffi::AVPixelFormat {
    use ffi::AVPixelFormat as Format;
    // SAFETY: descriptors are static.
    let Some(descriptor) = (unsafe { ffi::av_pix_fmt_desc_get(format).as_ref() }) else {
        return Format::AV_PIX_FMT_GBRP;
    };
    let coloured = ffi::AV_PIX_FMT_FLAG_RGB as u64 | ffi::AV_PIX_FMT_FLAG_PAL as u64;
    if descriptor.nb_components < 3 || descriptor.flags & coloured != 0 {
        return Format::AV_PIX_FMT_GBRP;
    }
    match (descriptor.log2_chroma_w, descriptor.log2_chroma_h) {
        (1, 1) => Format::AV_PIX_FMT_YUV420P,
        (1, 0) => Format::AV_PIX_FMT_YUV422P,
        _ => Format::AV_PIX_FMT_YUV444P,
    }
}

impl<'a> Planes<'a> {
    /// The planes of a frame with the matrix and range that it is marked with; `None` when its format must be
    /// converted first.
    pub fn of(frame: &'a Frame) -> Option<Planes<'a>> {
        let layout = layout(frame.format().into())?;
        let (width, height) = (frame.width() as usize, frame.height() as usize);
        let [shift_x, shift_y] = layout.chroma_shift;
        let size = [
            (width, height),
            (width.div_ceil(1 << shift_x), height.div_ceil(1 << shift_y)),
            (width.div_ceil(1 << shift_x), height.div_ceil(1 << shift_y)),
        ];
        let mut planes = [Plane { samples: &[], stride: 0, width: 0, height: 0 }; 3];
        for (at, (plane, (width, height))) in planes.iter_mut().zip(size).enumerate() {
            // SAFETY: a frame wrapper always holds an allocated AVFrame.
            let (data, stride) = unsafe { ((*frame.as_ptr()).data[at], (*frame.as_ptr()).linesize[at]) };
            // Rows from the bottom up have a negative stride.
            let stride = usize::try_from(stride).ok()?;
            if data.is_null() || stride < width || width == 0 || height == 0 {
                return None;
            }
            // SAFETY: the plane holds `height` rows of `stride` bytes, the last at least `width`; it lives, and
            // nobody writes to it, as long as the frame is borrowed.
            let samples = unsafe { std::slice::from_raw_parts(data, stride * (height - 1) + width) };
            *plane = Plane { samples, stride, width, height };
        }
        // SAFETY: as above.
        let (number, range) = unsafe { ((*frame.as_ptr()).colorspace as i32, (*frame.as_ptr()).color_range as i32) };
        let full_range = match range {
            range if range == ffi::AVColorRange::AVCOL_RANGE_JPEG as i32 => true,
            range if range == ffi::AVColorRange::AVCOL_RANGE_MPEG as i32 => false,
            _ => layout.full_range,
        };
        let colour = if layout.rgb { Colour::Gbr } else { Colour::Yuv(matrix(number, full_range)) };
        Some(Planes { planes, chroma_shift: layout.chroma_shift, colour })
    }
}
