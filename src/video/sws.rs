//! Conversion between pixel formats by libswscale, without scaling.

use std::ptr;

use ffmpeg_next::ffi;
use ffmpeg_next::frame::Video as Frame;
use ffmpeg_next::software::scaling::Flags;

use super::orientation::Orientation;
use super::planes::planar_format;

/// How chroma is spread where the target has more of it: FFmpeg's default.
const FILTER: Flags = Flags::BICUBIC;

/// The matrix that libswscale takes for BT.601.
const UNSPECIFIED: i32 = ffi::AVColorSpace::AVCOL_SPC_UNSPECIFIED as i32;

/// Its vector code works on groups of this many pixels. It may write a whole group where a row ends within one,
/// and where the stride leaves no room for that, it leaves the last pixels out.
const GROUP_PX: u32 = 16;

/// Rows of the scratch picture start at multiples of this, for aligned stores.
const ROW_ALIGN_BYTES: usize = 64;

/// Everything that a conversion depends on, except the pixels.
#[derive(Clone, Copy, PartialEq)]
struct Geometry {
    format: ffi::AVPixelFormat,
    to: ffi::AVPixelFormat,
    matrix: i32,
    range: i32,
    width: u32,
    height: u32,
}

/// A libswscale context, kept while the geometry stays the same.
pub struct Converter {
    context: *mut ffi::SwsContext,
    geometry: Option<Geometry>,
    scratch: Vec<u8>,
    planar: Frame,
}

// SAFETY: the context belongs to this value alone and has no ties to a thread.
unsafe impl Send for Converter {}

impl Drop for Converter {
    fn drop(&mut self) {
        // SAFETY: the pointer is null or came from `sws_getContext`.
        unsafe { ffi::sws_freeContext(self.context) }
    }
}

impl Converter {
    pub fn new() -> Converter {
        Converter { context: ptr::null_mut(), geometry: None, scratch: Vec::new(), planar: Frame::empty() }
    }

    /// Writes a whole decoded picture as it is shown, equal to the bit to what the ffmpeg program gives as `rgb24`.
    ///
    /// # Shapes
    /// - `out`: `[height, width, 3]` u8 RGB, after `orientation`
    ///
    /// # Errors
    /// The name of a pixel format that libswscale cannot read.
    pub fn rgb(&mut self, frame: &Frame, orientation: Orientation, out: &mut [u8]) -> Result<(), String> {
        self.prepare(frame, ffi::AVPixelFormat::AV_PIX_FMT_RGB24)?;
        let (width, height) = (frame.width(), frame.height());
        // Straight into `out` only where no group of pixels sticks out of a row.
        let direct = orientation == Orientation::default() && width.is_multiple_of(GROUP_PX);
        let stride = if direct {
            3 * width as usize
        } else {
            let stride = padded_row_bytes(width);
            self.scratch.resize(stride * height as usize + 2 * ROW_ALIGN_BYTES, 0);
            stride
        };
        let target = if direct { out.as_mut_ptr() } else { self.scratch.as_mut_ptr() };
        let targets = [target, ptr::null_mut(), ptr::null_mut(), ptr::null_mut()];
        // SAFETY: the target holds `height` rows of `stride` bytes.
        unsafe { self.scale(frame, targets, [stride as i32, 0, 0, 0])? };
        if !direct {
            let (shown_width, _) = orientation.turn(width, height);
            orientation.place(&self.scratch, stride, out, shown_width as usize);
        }
        Ok(())
    }

    /// The same picture in a format of 8-bit planes, with its matrix and range.
    ///
    /// # Errors
    /// As [`Converter::rgb`].
    pub fn planar(&mut self, frame: &Frame) -> Result<&Frame, String> {
        let to = planar_format(frame.format().into());
        self.prepare(frame, to)?;
        let size = (to.into(), frame.width(), frame.height());
        if (self.planar.format(), self.planar.width(), self.planar.height()) != size {
            self.planar = Frame::new(size.0, size.1, size.2);
        }
        // SAFETY: frame wrappers always hold an allocated AVFrame; the colours are plain values.
        let (planes, strides) = unsafe {
            let (planar, frame) = (&mut *self.planar.as_mut_ptr(), &*frame.as_ptr());
            planar.colorspace = frame.colorspace;
            planar.color_range = frame.color_range;
            let at = |i: usize| (planar.data[i], planar.linesize[i]);
            ([0, 1, 2, 3].map(|i| at(i).0), [0, 1, 2, 3].map(|i| at(i).1))
        };
        if planes[0].is_null() {
            return Err(format_name(frame));
        }
        // SAFETY: the planes were allocated for this format and size.
        unsafe { self.scale(frame, planes, strides)? };
        Ok(&self.planar)
    }

    /// # Safety
    /// [`Converter::prepare`] has succeeded for this frame, and the planes hold a picture of the target's format and
    /// of the frame's size.
    unsafe fn scale(&mut self, frame: &Frame, planes: [*mut u8; 4], strides: [i32; 4]) -> Result<(), String> {
        // SAFETY: the context is for this format and size; FFmpeg pads the frame's buffers for its own vector code.
        let rows = unsafe {
            let picture = &*frame.as_ptr();
            ffi::sws_scale(
                self.context,
                picture.data.as_ptr().cast(),
                picture.linesize.as_ptr(),
                0,
                picture.height,
                planes.as_ptr(),
                strides.as_ptr(),
            )
        };
        (rows == frame.height() as i32).then_some(()).ok_or_else(|| format_name(frame))
    }

    /// Makes the context for a frame's format and colours, unless it is there.
    fn prepare(&mut self, frame: &Frame, to: ffi::AVPixelFormat) -> Result<(), String> {
        let format: ffi::AVPixelFormat = frame.format().into();
        // SAFETY: a frame wrapper always holds an allocated AVFrame.
        let (matrix, range) = unsafe { ((*frame.as_ptr()).colorspace as i32, (*frame.as_ptr()).color_range as i32) };
        let (width, height) = (frame.width(), frame.height());
        let geometry = Geometry { format, to, matrix, range, width, height };
        if self.geometry == Some(geometry) {
            return Ok(());
        }
        self.geometry = None;
        // SAFETY: plain values; descriptors are static; the old context is freed once and replaced by null or a new one.
        unsafe {
            ffi::sws_freeContext(self.context);
            self.context = ptr::null_mut();
            let flags = ffi::av_pix_fmt_desc_get(format).as_ref().map_or(u64::MAX, |descriptor| descriptor.flags);
            if flags & (ffi::AV_PIX_FMT_FLAG_BITSTREAM | ffi::AV_PIX_FMT_FLAG_HWACCEL) as u64 != 0 {
                return Err(format_name(frame));
            }
            let (w, h) = (width as i32, height as i32);
            let nothing = ptr::null_mut();
            self.context = ffi::sws_getContext(w, h, format, w, h, to, FILTER.bits(), nothing, nothing, ptr::null());
        }
        if self.context.is_null() {
            return Err(format_name(frame));
        }
        self.set_colours(matrix, range, to);
        self.geometry = Some(geometry);
        Ok(())
    }

    /// Tells libswscale the matrix and range of the frame, as FFmpeg's `scale` filter does: an unspecified
    /// matrix is BT.601, an unspecified range is what the pixel format implies.
    fn set_colours(&mut self, matrix: i32, range: i32, to: ffi::AVPixelFormat) {
        let mut inverse = ptr::null_mut();
        let mut table = ptr::null_mut();
        let (mut in_full, mut out_full) = (0, 0);
        let (mut brightness, mut contrast, mut saturation) = (0, 0, 0);
        // SAFETY: the context is not null; all other pointers are to live locals. The coefficient tables are
        // static in libswscale. Formats without a matrix (RGB) answer with an error that changes nothing.
        unsafe {
            ffi::sws_getColorspaceDetails(
                self.context,
                &mut inverse,
                &mut in_full,
                &mut table,
                &mut out_full,
                &mut brightness,
                &mut contrast,
                &mut saturation,
            );
            if range != ffi::AVColorRange::AVCOL_RANGE_UNSPECIFIED as i32 {
                in_full = i32::from(range == ffi::AVColorRange::AVCOL_RANGE_JPEG as i32);
            }
            // From planes to planes the range stays.
            let rgb = [ffi::AVPixelFormat::AV_PIX_FMT_RGB24, ffi::AVPixelFormat::AV_PIX_FMT_GBRP];
            if !rgb.contains(&to) {
                out_full = in_full;
            }
            let coefficients = ffi::sws_getCoefficients(if matrix < 1 { UNSPECIFIED } else { matrix });
            ffi::sws_setColorspaceDetails(
                self.context,
                coefficients,
                in_full,
                coefficients,
                out_full,
                brightness,
                contrast,
                saturation,
            );
        }
    }
}

fn padded_row_bytes(width: u32) -> usize {
    (3 * width.next_multiple_of(GROUP_PX) as usize).next_multiple_of(ROW_ALIGN_BYTES)
}

fn format_name(frame: &Frame) -> String {
    frame.format().descriptor().map_or("unknown", |descriptor| descriptor.name()).to_owned()
}
