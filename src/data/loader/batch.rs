//! A batch, as it is given out and while it is decoded.

use super::FrameBuffer;
use crate::data::failures::SampleFailure;
use crate::data::sampler::Position;
use avion_kernels::cuda::pinned::PinnedBuffer;
use std::sync::Arc;
use std::time::Duration;

/// Decoded clips with their captions or labels. In evaluation with several views, each entry is a view of a clip.
#[derive(Debug)]
pub struct ClipBatch {
    /// RGB bytes, `[clips, frames, height, width, 3]`. The memory is reused once the batch is dropped.
    pub frames: FrameBuffer,
    /// Whether the device makes the frames: `frames` then holds `[clips, frames, record_bytes(size_px)]`, records for
    /// `avion_kernels::scale_planes`.
    pub as_records: bool,
    /// `[clips]`; empty texts for clips without captions.
    pub captions: Vec<Arc<str>>,
    /// Classes: `[clips]`, or empty unless every clip of the sources has one.
    pub labels: Vec<u32>,
    /// Number of each clip over all sources: `[clips]`.
    pub samples: Vec<u64>,
    /// Evaluation: which view of its clip each is, stretch number times `crops` plus crop number. Training: which
    /// repetition. `[clips]`.
    pub views: Vec<u32>,
    /// Samples that could not be read, one entry for each time that was tried: in training replaced by others, in
    /// evaluation left out.
    pub bad: Vec<u64>,
    /// Frames in a clip.
    pub num_frames: usize,
    /// Width and height of a frame.
    pub size_px: usize,
    /// This batch.
    pub position: Position,
    /// The batch after it: where to go on after training on this one.
    pub next: Position,
    /// Time that the caller waited for this batch.
    pub wait: Duration,
}

impl ClipBatch {
    /// `[clips, frames, height, width, 3]`.
    pub fn shape(&self) -> [usize; 5] {
        let clips = self.samples.len();
        [clips, self.num_frames, self.size_px, self.size_px, 3]
    }
}

/// A batch on its way.
pub(super) struct InFlight {
    pub position: Position,
    pub next: Position,
    pub slots: Vec<Slot>,
    /// Slots without an outcome yet.
    pub pending: usize,
}

/// A place in a batch on its way.
#[derive(Default)]
pub(super) struct Slot {
    /// Samples that could not be read, in the order they were tried.
    pub failures: Vec<SampleFailure>,
    pub filled: Option<Filled>,
}

/// A decoded clip.
#[derive(Debug)]
pub(super) struct Filled {
    pub buffer: PinnedBuffer,
    pub sample: u64,
    /// Its view or repetition.
    pub turn: u32,
    pub words: Words,
}

/// What is known of a clip besides its pictures.
#[derive(Debug)]
pub(super) struct Words {
    pub caption: Arc<str>,
    pub label: Option<u32>,
}

impl InFlight {
    pub fn new(position: Position, next: Position, slots: usize) -> Self {
        Self { position, next, slots: (0..slots).map(|_| Slot::default()).collect(), pending: slots }
    }
}
