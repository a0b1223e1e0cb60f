//! Frames on their way to the device: two places, one being read, one being filled.

use crate::data::loader::ClipBatch;
use crate::device::DeviceError;
use crate::ops::tensor::{T, contiguous, from_handle};
use crate::ops::workspace::Workspace;
use avion_kernels::cuda::upload::{Filled, Pending, Slot, Uploader};
use avion_kernels::{Handle, KernelError};
use burn::tensor::{DType, Tensor};
use burn_cubecl::CubeRuntime;
use std::ops::Range;

/// Which frames: the batch's number and the first clip of a chunk.
pub type Key = (u64, usize);

/// A batch in the parts that are on the device at once.
pub fn chunks(clips: usize, at_once: usize) -> Vec<Range<usize>> {
    (0..clips).step_by(at_once).map(|first| first..(first + at_once).min(clips)).collect()
}

/// Tells batches apart.
pub fn number(batch: &ClipBatch) -> u64 {
    (batch.position.epoch << 40) | batch.position.batch
}

/// The bytes of some clips of a batch.
pub fn frames_of<'a>(batch: &'a ClipBatch, clips: &Range<usize>) -> &'a [u8] {
    let bytes = batch.frames.len() / batch.samples.len();
    &batch.frames[clips.start * bytes..clips.end * bytes]
}

/// Loss and score of a batch from those of its parts, all of one size: f32 `[2]` each, on the device.
pub fn mean_of<R: CubeRuntime>(ws: &Workspace<R>, parts: Vec<Handle>) -> Handle {
    match <[Handle; 1]>::try_from(parts) {
        Ok([whole]) => whole,
        Err(parts) => {
            let row = |part| -> T<R, 2> { from_handle(&ws.client, &ws.device, part, [1, 2], DType::F32) };
            let rows = Tensor::cat(parts.into_iter().map(row).collect(), 0);
            contiguous(rows.mean_dim(0)).handle
        }
    }
}

/// Uploads chunks of frames in the order they are wanted, each while the one before is worked on.
pub struct Feed<R: CubeRuntime> {
    uploader: Uploader<R>,
    slot_bytes: usize,
    free: Vec<Slot>,
    coming: Option<(Key, Pending)>,
}

impl<R: CubeRuntime> Feed<R> {
    /// `slot_bytes`: of the largest chunk, padded to whole words.
    pub fn new(uploader: Uploader<R>, slot_bytes: usize) -> Self {
        let free = (0..2).map(|_| uploader.slot(slot_bytes)).collect();
        Feed { uploader, slot_bytes, free, coming: None }
    }

    /// Starts to bring `frames`, unless they are already coming.
    ///
    /// # Errors
    /// What the device reports.
    pub fn prefetch(&mut self, key: Key, frames: &[u8]) -> Result<(), DeviceError> {
        if self.coming.as_ref().is_some_and(|(coming, _)| *coming == key) {
            return Ok(());
        }
        if let Some((_, unwanted)) = self.coming.take() {
            self.free.push(unwanted.finish().release());
        }
        let slot = self.free.pop().unwrap_or_else(|| self.uploader.slot(self.slot_bytes));
        let mut buffer = self.uploader.pool().take(frames.len());
        buffer.copy_from_slice(frames);
        let pending = self.uploader.begin(slot, buffer).map_err(failed)?;
        self.coming = Some((key, pending));
        Ok(())
    }

    /// `frames` on the device, for kernels queued from now on; to be given back when the last has been queued.
    ///
    /// # Errors
    /// What the device reports.
    pub fn take(&mut self, key: Key, frames: &[u8]) -> Result<Filled, DeviceError> {
        self.prefetch(key, frames)?;
        match self.coming.take() {
            Some((_, pending)) => Ok(pending.finish()),
            None => unreachable!("just started"),
        }
    }

    pub fn give_back(&mut self, filled: Filled) {
        self.free.push(filled.release());
    }
}

fn failed(error: KernelError) -> DeviceError {
    DeviceError::Failed { detail: error.to_string() }
}
