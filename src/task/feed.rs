//! Frames on their way to the device: two places, one being read, one being filled.

use crate::device::DeviceError;
use avion_kernels::KernelError;
use avion_kernels::cuda::upload::{Filled, Pending, Slot, Uploader};
use burn_cubecl::CubeRuntime;

/// Which frames: the batch's number and the first clip of a chunk.
pub type Key = (u64, usize);

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
