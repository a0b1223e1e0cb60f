//! NVIDIA's decoder (NVDEC) behind libavcodec's own decoders.
//!
//! libavcodec goes on to read headers and to order pictures; their content is decoded on the device. A picture that is
//! asked for is brought to the host in the format that the CPU decoder gives, so that nothing after this can differ.
//! All other pictures stay there. What NVDEC cannot do ends on the CPU: see [`fell_back`].
//!
//! NVDEC does not tell of damage within a picture, as the CPU decoder does.

use std::ffi::CString;
use std::path::Path;
use std::ptr;
use std::sync::{Once, OnceLock};

use ffmpeg_next::codec::{Context, Id};
use ffmpeg_next::frame::Video as Frame;
use ffmpeg_next::{Codec, ffi};

use super::container::Container;
use super::index::Mistrust;
use super::options::cuda_device;
use ffi::AVPixelFormat as Format;

/// Codecs whose standard defines every bit of a picture: who decodes them makes no difference.
const EXACT: [Id; 4] = [Id::H264, Id::HEVC, Id::VP8, Id::VP9];

/// Why libavcodec itself decodes after all.
pub const DECLINED: &str = "the driver refuses the stream (profile or size, or too little device memory), or its \
                            libnvcuvid is missing (a container needs `video` in NVIDIA_DRIVER_CAPABILITIES)";

/// Says that a file meant for NVDEC is decoded on the CPU: the first aloud.
pub fn fell_back(path: &Path, reason: &str) {
    static FIRST: Once = Once::new();
    FIRST.call_once(|| {
        tracing::warn!(
            "decoding on the CPU instead of NVDEC, {reason}: {}; this is said once, `-v` names all files",
            path.display()
        );
    });
    tracing::debug!("decoding on the CPU instead of NVDEC, {reason}: {}", path.display());
}

/// The device that can decode a stream, as far as its headers tell; `None`, and a word about it, where there is none.
pub fn device_for(container: &Container) -> Option<&'static Device> {
    let found = check(container).and_then(|()| device());
    found.map_err(|reason| fell_back(container.path(), &reason)).ok()
}

fn check(container: &Container) -> Result<(), String> {
    let id = container.stream().parameters().id();
    let name = id.name();
    if !EXACT.contains(&id) {
        return Err(format!("NVDEC's pixels may differ in `{name}`"));
    }
    check_profile(id, container.config())?;
    let (width, height) = container.size();
    if !width.is_multiple_of(2) || !height.is_multiple_of(2) {
        return Err(format!("a side of {width}x{height} is odd"));
    }
    if !ffmpeg_next::decoder::find(id).is_some_and(|codec| has_cuda(&codec)) {
        return Err(format!(
            "this FFmpeg's decoder for `{name}` is built without NVDEC (README.md says what it takes)"
        ));
    }
    Ok(())
}

/// Refuses profiles with tools that NVDEC lacks and that its driver does not ask for (lossless H.264, range extensions
/// of HEVC): their pictures would be wrong without an error.
///
/// The profile is the second byte of `avcC` and the lower bits of that of `hvcC` (ISO/IEC 14496-15).
fn check_profile(id: Id, config: &[u8]) -> Result<(), String> {
    let (profile, plain): (Option<u8>, &[u8]) = match (id, config) {
        // Baseline, Main, High.
        (Id::H264, [1, profile, ..]) => (Some(*profile), &[66, 77, 100]),
        // Main, Main 10.
        (Id::HEVC, [1, profile, ..]) => (Some(profile & 31), &[1, 2]),
        (Id::H264 | Id::HEVC, _) => (None, &[]),
        _ => return Ok(()),
    };
    match profile {
        Some(profile) if plain.contains(&profile) => Ok(()),
        Some(profile) => Err(format!("NVDEC does not know profile {profile} of `{}`", id.name())),
        None => Err(format!("the container does not tell the profile of `{}`", id.name())),
    }
}

fn has_cuda(codec: &Codec) -> bool {
    // SAFETY: a codec is static, and so are its configurations; null ends them.
    let config = |at: i32| unsafe { ffi::avcodec_get_hw_config(codec.as_ptr(), at).as_ref() };
    (0..).map_while(config).any(|config| {
        config.device_type == ffi::AVHWDeviceType::AV_HWDEVICE_TYPE_CUDA
            && config.methods & ffi::AV_CODEC_HW_CONFIG_METHOD_HW_DEVICE_CTX as i32 != 0
    })
}

/// FFmpeg's handle on a CUDA device.
pub struct Device(*mut ffi::AVBufferRef);

// SAFETY: buffers count references atomically, and FFmpeg's device contexts may be used by any thread once made.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

impl Device {
    /// Lets a decoder that is not open yet decode here.
    pub fn attach(&self, context: &mut Context) {
        // SAFETY: the context is alive and not open; it gets a reference of its own, which it frees.
        unsafe { (*context.as_mut_ptr()).hw_device_ctx = ffi::av_buffer_ref(self.0) };
    }
}

/// The device that decodes for this process; kept until it ends.
fn device() -> Result<&'static Device, String> {
    static DEVICE: OnceLock<Result<Device, String>> = OnceLock::new();
    DEVICE.get_or_init(|| open(cuda_device().ok_or("the run's device is not CUDA")?)).as_ref().map_err(Clone::clone)
}

fn open(index: usize) -> Result<Device, String> {
    #[cfg(feature = "cuda")]
    if let Some(device) = crate::device::shared_cuda(index).and_then(within) {
        return Ok(device);
    }
    let name = CString::new(index.to_string()).map_err(|error| error.to_string())?;
    let mut device = ptr::null_mut();
    let kind = ffi::AVHWDeviceType::AV_HWDEVICE_TYPE_CUDA;
    // SAFETY: the name lives through the call, which writes a reference or null.
    let result = unsafe { ffi::av_hwdevice_ctx_create(&mut device, kind, name.as_ptr(), ptr::null_mut(), 0) };
    if result < 0 || device.is_null() {
        // FFmpeg's own word is `EPERM` for a missing driver.
        return Err(format!("FFmpeg finds no NVIDIA driver, or no CUDA device {index} (`nvidia-smi` lists them)"));
    }
    Ok(Device(device))
}

/// Start of FFmpeg's `AVCUDADeviceContext` (hwcontext_cuda.h), which bindings leave out: it needs CUDA's headers.
#[cfg(feature = "cuda")]
#[repr(C)]
struct CudaDevice {
    context: *mut std::ffi::c_void,
    stream: *mut std::ffi::c_void,
}

/// A device within the context that computes: kernels of two contexts would take turns. `None` when FFmpeg refuses.
#[cfg(feature = "cuda")]
fn within(shared: crate::device::SharedCuda) -> Option<Device> {
    // SAFETY: a new device context of this kind begins as `CudaDevice` says; context and stream are never released.
    unsafe {
        let mut device = ffi::av_hwdevice_ctx_alloc(ffi::AVHWDeviceType::AV_HWDEVICE_TYPE_CUDA);
        if device.is_null() {
            return None;
        }
        let fields = (*(*device).data.cast::<ffi::AVHWDeviceContext>()).hwctx.cast::<CudaDevice>();
        (*fields).context = shared.context;
        (*fields).stream = shared.stream;
        if ffi::av_hwdevice_ctx_init(device) < 0 {
            ffi::av_buffer_unref(&mut device);
            return None;
        }
        Some(Device(device))
    }
}

/// Whether a picture lies on the device.
pub fn is_on_device(frame: &Frame) -> bool {
    frame.format() == Format::AV_PIX_FMT_CUDA.into()
}

/// Pictures on their way from the device, in memory that is kept.
pub struct Download {
    /// As the device has it: chroma interleaved, more than 8 bits at the upper end of 16.
    host: Frame,
    planar: Frame,
}

impl Download {
    pub fn new() -> Download {
        Download { host: Frame::empty(), planar: Frame::empty() }
    }

    /// The picture as the CPU decoder gives it, whose format `format` is. Only pixels and colours come with it.
    pub fn picture(&mut self, frame: &Frame, format: Format) -> Result<&Frame, Mistrust> {
        // SAFETY: a frame on the device holds a reference to its pool.
        let (host_format, offset) = unsafe {
            let frame = &*frame.as_ptr();
            let Some(pool) = frame.hw_frames_ctx.as_ref() else {
                return Err("a picture of no device");
            };
            let pool = &*pool.data.cast::<ffi::AVHWFramesContext>();
            (pool.sw_format, frame.crop_left | frame.crop_top)
        };
        // libavcodec cuts these off on the CPU alone.
        if offset != 0 {
            return Err("a picture on the device that begins within its surface");
        }
        fit(&mut self.host, host_format, frame)?;
        // SAFETY: both frames are alive; the target has the pool's format and the picture's size.
        if unsafe { ffi::av_hwframe_transfer_data(self.host.as_mut_ptr(), frame.as_ptr(), 0) } < 0 {
            return Err("a picture that does not leave the device");
        }
        copy_colours(frame, &mut self.host);
        if host_format == format {
            return Ok(&self.host);
        }
        spread(&self.host, &mut self.planar, format)?;
        Ok(&self.planar)
    }
}

/// Writes a picture with interleaved chroma as planes.
fn spread(host: &Frame, planar: &mut Frame, format: Format) -> Result<(), Mistrust> {
    use Format::*;
    let host_format = host.format().into();
    let is_wide = match (host_format, format) {
        (AV_PIX_FMT_NV12, AV_PIX_FMT_YUV420P | AV_PIX_FMT_YUVJ420P) => false,
        (AV_PIX_FMT_P010LE, AV_PIX_FMT_YUV420P10LE) => true,
        _ => return Err("a picture on the device in another format than expected"),
    };
    fit(planar, format, host)?;
    copy_colours(host, planar);
    let sample_bytes = if is_wide { 2 } else { 1 };
    let row_bytes = host.width() as usize * sample_bytes;
    let luma = host.data(0).chunks(host.stride(0));
    let stride = planar.stride(0);
    for (from, to) in luma.zip(planar.data_mut(0).chunks_mut(stride)) {
        if is_wide { narrow(&from[..row_bytes], to) } else { to[..row_bytes].copy_from_slice(&from[..row_bytes]) }
    }
    let row_bytes = host.width().div_ceil(2) as usize * sample_bytes;
    for (at, plane) in [1, 2].into_iter().enumerate() {
        let stride = planar.stride(plane);
        for (from, to) in host.data(1).chunks(host.stride(1)).zip(planar.data_mut(plane).chunks_mut(stride)) {
            let (from, to) = (&from[..2 * row_bytes], &mut to[..row_bytes]);
            if is_wide {
                for (pair, sample) in from.as_chunks::<4>().0.iter().zip(to.as_chunks_mut::<2>().0) {
                    narrow(&pair[2 * at..][..2], sample);
                }
            } else {
                for (pair, sample) in from.as_chunks::<2>().0.iter().zip(to) {
                    *sample = pair[at];
                }
            }
        }
    }
    Ok(())
}

/// Moves 10 bits from the upper end of 16 to the lower.
fn narrow(from: &[u8], to: &mut [u8]) {
    for (from, to) in from.as_chunks::<2>().0.iter().zip(to.as_chunks_mut::<2>().0) {
        *to = (u16::from_le_bytes(*from) >> 6).to_le_bytes();
    }
}

/// Makes `target` a picture of a format and of a frame's size, unless it is one.
fn fit(target: &mut Frame, format: Format, like: &Frame) -> Result<(), Mistrust> {
    let size = (format.into(), like.width(), like.height());
    if (target.format(), target.width(), target.height()) != size {
        *target = Frame::new(size.0, size.1, size.2);
    }
    // SAFETY: a frame wrapper always holds an allocated AVFrame.
    let allocated = unsafe { !(*target.as_ptr()).data[0].is_null() };
    allocated.then_some(()).ok_or("no memory for a picture")
}

fn copy_colours(from: &Frame, to: &mut Frame) {
    // SAFETY: frame wrappers always hold an allocated AVFrame; the colours are plain values.
    unsafe {
        let (to, from) = (&mut *to.as_mut_ptr(), &*from.as_ptr());
        to.colorspace = from.colorspace;
        to.color_range = from.color_range;
    }
}

#[cfg(test)]
mod tests;
