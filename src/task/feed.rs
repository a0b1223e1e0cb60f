//! Frames on their way to the device: two places, one being read, one being filled.

use crate::config::Geometry;
use crate::config::recipe::Recipe;
use crate::data::loader::{ClipBatch, read_options};
use crate::device::DeviceError;
use crate::ops::tensor::{T, contiguous, from_handle};
use crate::ops::workspace::Workspace;
use avion_kernels::cuda::pinned::PinnedPool;
use avion_kernels::cuda::upload::{Filled, HostRows, Pending, Slot, Uploader};
use avion_kernels::scale_planes::{record_bytes, scale_planes, used_bytes};
use avion_kernels::{Handle, KernelError, arena};
use burn::tensor::{DType, Tensor};
use burn_cubecl::CubeRuntime;
use cubecl::client::ComputeClient;
use std::ops::Range;

/// Which frames: the batch's number and the first clip of a chunk.
type Key = (u64, usize);

/// A batch in the parts that are on the device at once.
pub fn chunks(clips: usize, at_once: usize) -> Vec<Range<usize>> {
    (0..clips).step_by(at_once).map(|first| first..(first + at_once).min(clips)).collect()
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
    client: ComputeClient<R>,
    uploader: Uploader<R>,
    slot_bytes: usize,
    free: Vec<Slot>,
    coming: Option<(Key, Pending)>,
    /// Width and height of a frame.
    px: usize,
    /// Where frames are made of records, `[frames, px, px, 3]`; there when records are to come.
    made: Option<Handle>,
}

/// A chunk's frames on the device.
pub struct Arrived {
    pixels: Handle,
    /// The slot that they lie in, unless they were made of what lies there.
    slot: Option<Filled>,
}

impl Arrived {
    /// u8 `[clips, frames, px, px, 3]`, for kernels.
    pub fn handle(&self) -> &Handle {
        &self.pixels
    }
}

impl<R: CubeRuntime> Feed<R> {
    /// For chunks of up to `recipe.train.clips_at_once()` clips.
    pub fn new(recipe: &Recipe, client: &ComputeClient<R>, device: &R::Device) -> Self {
        let px = Geometry::of(recipe.model.size).image_px;
        let frames = recipe.train.clips_at_once() * recipe.model.frames;
        let finished = (frames * px * px * 3).next_multiple_of(4);
        let read = read_options(&recipe.data);
        let slot_bytes = (frames * read.frame_bytes(px)).next_multiple_of(4);
        let uploader = Uploader::new(client, device);
        Feed {
            free: (0..2).map(|_| uploader.slot(slot_bytes)).collect(),
            client: client.clone(),
            uploader,
            slot_bytes,
            coming: None,
            px,
            made: read.as_records.then(|| arena::exact(client, |client| client.empty(finished))),
        }
    }

    /// Memory for batches, that the device copies from.
    pub fn pool(&self) -> PinnedPool {
        self.uploader.pool()
    }

    /// Starts to bring the frames of some clips, unless they are already coming.
    ///
    /// # Errors
    /// What the device reports.
    pub fn prefetch(&mut self, batch: &ClipBatch, clips: &Range<usize>) -> Result<(), DeviceError> {
        let key = ((batch.position.epoch << 40) | batch.position.batch, clips.start);
        if self.coming.as_ref().is_some_and(|(coming, _)| *coming == key) {
            return Ok(());
        }
        if let Some((_, unwanted)) = self.coming.take() {
            self.free.push(unwanted.finish().release());
        }
        let slot = self.free.pop().unwrap_or_else(|| self.uploader.slot(self.slot_bytes));
        let bytes = batch.frames.len() / batch.samples.len();
        let (shared, part) = (batch.frames.share(), clips.start * bytes..clips.end * bytes);
        let rows = if batch.as_records {
            let record = record_bytes(self.px);
            let used = batch.frames[part.clone()].chunks(record).map(used_bytes).max();
            HostRows::rows(shared, part, record, used.unwrap_or(record))
        } else {
            HostRows::part(shared, part)
        };
        let pending = rows.and_then(|rows| self.uploader.begin(slot, rows)).map_err(failed)?;
        self.coming = Some((key, pending));
        Ok(())
    }

    /// The frames on the device, for kernels queued from now on; to be given back when the last has been queued, and
    /// before others are taken.
    ///
    /// # Errors
    /// What the device reports.
    pub fn take(&mut self, batch: &ClipBatch, clips: &Range<usize>) -> Result<Arrived, DeviceError> {
        self.prefetch(batch, clips)?;
        let filled = match self.coming.take() {
            Some((_, pending)) => pending.finish(),
            None => unreachable!("just started"),
        };
        match &self.made {
            None if batch.as_records => {
                let detail = "the batch holds records, and the recipe says data.scale_on_device = false".into();
                Err(DeviceError::Failed { detail })
            }
            Some(made) if batch.as_records => {
                let frames = clips.len() * batch.num_frames;
                scale_planes(&self.client, filled.handle().clone(), frames, self.px, made.clone()).map_err(failed)?;
                self.free.push(filled.release());
                Ok(Arrived { pixels: made.clone(), slot: None })
            }
            _ => Ok(Arrived { pixels: filled.handle().clone(), slot: Some(filled) }),
        }
    }

    pub fn give_back(&mut self, arrived: Arrived) {
        self.free.extend(arrived.slot.map(Filled::release));
    }
}

fn failed(error: KernelError) -> DeviceError {
    DeviceError::Failed { detail: error.to_string() }
}
