//! How files are read.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::config::recipe::VideoDecoder;
use avion_kernels::scale_planes::record_bytes;

/// How a file is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// Leave the loop filter out of pictures that are decoded only because others refer to them. Faster, but what
    /// refers to them inherits the difference: see "Decoding" in `benches/NOTES.md`. NVDEC never leaves it out.
    pub fast_loop_filter: bool,
    /// What decodes files that can be sought; all others are decoded on the CPU. Pixels are the same.
    pub decoder: VideoDecoder,
    /// Leave cropping, scaling and conversion to the device: frames come as records for `avion_kernels::scale_planes`,
    /// which makes the same bytes of them. Not of [`VideoReader::read_native`](super::VideoReader::read_native).
    pub as_records: bool,
}

impl ReadOptions {
    /// Bytes that a frame of `px` a side takes: RGB, or a record.
    pub fn frame_bytes(self, px: usize) -> usize {
        if self.as_records { record_bytes(px) } else { 3 * px * px }
    }

    /// The same for evaluation: exact pictures, finished.
    pub fn for_evaluation(self) -> ReadOptions {
        ReadOptions { fast_loop_filter: false, as_records: false, ..self }
    }
}

/// Number of the CUDA device whose NVDEC decodes: a process drives one.
static CUDA_DEVICE: AtomicUsize = AtomicUsize::new(0);

/// Stands for none.
const NONE: usize = usize::MAX;

/// Says which CUDA device decodes for this process, or that none may; device 0 does if nobody says. No effect once NVDEC
/// has started.
pub fn decode_on(device: Option<usize>) {
    CUDA_DEVICE.store(device.unwrap_or(NONE), Ordering::Relaxed);
}

/// What [`decode_on`] said.
#[cfg(feature = "video")]
pub(super) fn cuda_device() -> Option<usize> {
    Some(CUDA_DEVICE.load(Ordering::Relaxed)).filter(|device| *device != NONE)
}
