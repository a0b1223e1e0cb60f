//! Crop, scale and colour conversion in one call of libswscale: no full-size RGB picture is ever made.

use std::ptr;

use ffmpeg_next::ffi;
use ffmpeg_next::frame::Video as Frame;
use ffmpeg_next::software::scaling::Flags;

use super::crop::CropBox;
use super::orientation::Orientation;

/// Bicubic, as AVION's decoder (FFmpeg's default for its `scale` filter).
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
    format: i32,
    matrix: i32,
    range: i32,
    width: u32,
    height: u32,
    out_width: u32,
    out_height: u32,
}

/// A libswscale context, kept while the geometry stays the same.
pub struct Scaler {
    context: *mut ffi::SwsContext,
    geometry: Option<Geometry>,
    scratch: Vec<u8>,
}

// SAFETY: the context belongs to this value alone and has no ties to a thread.
unsafe impl Send for Scaler {}

impl Drop for Scaler {
    fn drop(&mut self) {
        // SAFETY: the pointer is null or came from `sws_getContext`.
        unsafe { ffi::sws_freeContext(self.context) }
    }
}

impl Scaler {
    pub fn new() -> Scaler {
        Scaler { context: ptr::null_mut(), geometry: None, scratch: Vec::new() }
    }

    /// Writes the part `crop` of a decoded picture, in stored coordinates, as it is shown.
    ///
    /// # Shapes
    /// - `crop`: within the frame; see Note [Chroma alignment] in `crop.rs`
    /// - `out`: `[height, width, 3]` u8 RGB, after `orientation`
    ///
    /// # Errors
    /// The name of a pixel format that libswscale cannot read.
    pub fn convert(
        &mut self,
        frame: &Frame,
        crop: CropBox,
        orientation: Orientation,
        width: u32,
        height: u32,
        out: &mut [u8],
    ) -> Result<(), String> {
        let (stored_w, stored_h) = orientation.turn(width, height);
        let (planes, strides) = cropped_planes(frame, crop)?;
        self.prepare(frame, crop, stored_w, stored_h)?;
        let row_bytes = 3 * stored_w as usize;
        // Straight into `out` only where no group of pixels sticks out of a row.
        let direct = orientation == Orientation::default() && stored_w.is_multiple_of(GROUP_PX);
        let stride = if direct {
            row_bytes
        } else {
            let stride = padded_row_bytes(stored_w);
            self.scratch.resize(stride * stored_h as usize + 2 * ROW_ALIGN_BYTES, 0);
            stride
        };
        let target = if direct { out.as_mut_ptr() } else { self.scratch.as_mut_ptr() };
        let targets = [target, ptr::null_mut(), ptr::null_mut(), ptr::null_mut()];
        let out_strides = [stride as i32, 0, 0, 0];
        // SAFETY: the context was made for this crop's size and format; the planes lie within the frame, whose
        // buffers FFmpeg pads for its own vector code; the target holds `stored_h` rows of `stride` bytes.
        let rows = unsafe {
            ffi::sws_scale(
                self.context,
                planes.as_ptr(),
                strides.as_ptr(),
                0,
                crop.height as i32,
                targets.as_ptr(),
                out_strides.as_ptr(),
            )
        };
        if rows != stored_h as i32 {
            return Err(format_name(frame));
        }
        if !direct {
            orientation.place(&self.scratch, stride, out, width as usize);
        }
        Ok(())
    }

    /// Makes the context for a frame's format and colours, unless it is there.
    fn prepare(&mut self, frame: &Frame, crop: CropBox, out_width: u32, out_height: u32) -> Result<(), String> {
        // SAFETY: a frame wrapper always holds an allocated AVFrame.
        let (format, matrix, range) = unsafe {
            let frame = &*frame.as_ptr();
            (frame.format, frame.colorspace as i32, frame.color_range as i32)
        };
        let geometry =
            Geometry { format, matrix, range, width: crop.width, height: crop.height, out_width, out_height };
        if self.geometry == Some(geometry) {
            return Ok(());
        }
        self.geometry = None;
        // SAFETY: plain values; the old context is freed once and replaced by null or a new one.
        unsafe {
            ffi::sws_freeContext(self.context);
            self.context = ffi::sws_getContext(
                crop.width as i32,
                crop.height as i32,
                frame.format().into(),
                out_width as i32,
                out_height as i32,
                ffi::AVPixelFormat::AV_PIX_FMT_RGB24,
                FILTER.bits(),
                ptr::null_mut(),
                ptr::null_mut(),
                ptr::null(),
            );
        }
        if self.context.is_null() {
            return Err(format_name(frame));
        }
        self.set_colours(matrix, range);
        self.geometry = Some(geometry);
        Ok(())
    }

    /// Tells libswscale the matrix and range of the frame, as FFmpeg's `scale` filter does: an unspecified
    /// matrix is BT.601, an unspecified range is what the pixel format implies.
    fn set_colours(&mut self, matrix: i32, range: i32) {
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

type Planes = ([*const u8; 4], [i32; 4]);

/// The planes of a frame, moved to the crop's corner (rounded down to the chroma grid).
fn cropped_planes(frame: &Frame, crop: CropBox) -> Result<Planes, String> {
    // SAFETY: descriptors are static; the frame holds a decoded picture of this format and the crop lies
    // within it, so every moved pointer stays inside its plane.
    unsafe {
        let format = frame.format().into();
        let Some(descriptor) = ffi::av_pix_fmt_desc_get(format).as_ref() else {
            return Err(format_name(frame));
        };
        let unsupported = ffi::AV_PIX_FMT_FLAG_BITSTREAM | ffi::AV_PIX_FMT_FLAG_HWACCEL;
        if descriptor.flags & unsupported as u64 != 0 {
            return Err(format_name(frame));
        }
        let palette = descriptor.flags & ffi::AV_PIX_FMT_FLAG_PAL as u64 != 0;
        let x = crop.x >> descriptor.log2_chroma_w << descriptor.log2_chroma_w;
        let y = crop.y >> descriptor.log2_chroma_h << descriptor.log2_chroma_h;
        let picture = &*frame.as_ptr();
        let mut planes = [ptr::null(); 4];
        let mut strides = [0; 4];
        for plane in 0..4 {
            let data = picture.data[plane].cast_const();
            if data.is_null() || (palette && plane > 0) {
                planes[plane] = data;
                strides[plane] = picture.linesize[plane];
                continue;
            }
            let is_chroma = plane == 1 || plane == 2;
            let row = if is_chroma { y >> descriptor.log2_chroma_h } else { y };
            let column_bytes = ffi::av_image_get_linesize(format, x as i32, plane as i32);
            if column_bytes < 0 {
                return Err(format_name(frame));
            }
            strides[plane] = picture.linesize[plane];
            planes[plane] = data.offset(row as isize * strides[plane] as isize + column_bytes as isize);
        }
        Ok((planes, strides))
    }
}

fn format_name(frame: &Frame) -> String {
    frame.format().descriptor().map_or("unknown", |descriptor| descriptor.name()).to_owned()
}
