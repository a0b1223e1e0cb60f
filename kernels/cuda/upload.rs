//! Copies from the host that run beside kernels: while batch `i` is computed, batch `i + 1` travels.
//!
//! A [`Slot`] of device memory goes round in a circle, and its type says where it is:
//!
//! ```text
//! Slot --begin(bytes)--> Pending --finish()--> Filled --release()--> Slot
//! ```
//!
//! - `begin` starts the copy on a stream of its own, as soon as everything that read the slot's last content is done;
//! - `finish` holds back what is queued after it, and nothing before it, until the copy has arrived;
//! - `release` says that the last kernel which reads the content has been queued.
//!
//! With two slots a step looks so: `finish` this batch's, queue the kernel that reads it, `release`; queue the rest of
//! the step; `begin` the other slot with the next batch. Runtimes other than CUDA copy in order, behind the same calls.

use super::pinned::{PinnedBuffer, PinnedPool};
use crate::arena::exact;
use crate::{Handle, KernelError};
use cubecl::bytes::Bytes;
use cubecl::device::Device;
use cubecl::device_handle::DeviceHandle;
use cubecl::prelude::*;
use cubecl::server::ComputeServer;
use cubecl::stream_id::StreamId;
use std::ops::Range;
use std::sync::Arc;

#[cfg(feature = "cuda")]
mod copies;

/// Copies host memory to one device.
pub struct Uploader<R: Runtime> {
    client: ComputeClient<R>,
    device: DeviceHandle<R::Server>,
    pool: PinnedPool,
    #[cfg(feature = "cuda")]
    copies: Option<&'static copies::CopyStream>,
}

/// Device memory of fixed size that nothing is being copied to, and whose readers are all queued.
pub struct Slot(Memory);

/// A slot with a copy under way.
#[must_use = "only `finish` orders kernels after the copy"]
pub struct Pending(Memory);

/// A slot that kernels queued from now on may read.
pub struct Filled(Memory);

/// What is copied: of each `stride` bytes of a buffer's part, the first `width`. They keep their places.
pub struct HostRows {
    bytes: Arc<PinnedBuffer>,
    start: usize,
    rows: usize,
    stride: usize,
    width: usize,
}

struct Memory {
    handle: Handle,
    #[cfg(feature = "cuda")]
    events: Option<copies::Events>,
}

impl<R: Runtime> Uploader<R> {
    /// For the device that `client` belongs to. When CUDA refuses a stream for copies, they go in order with kernels.
    pub fn new(client: &ComputeClient<R>, device: &R::Device) -> Self {
        #[cfg(feature = "cuda")]
        let copies = copies::CopyStream::of(client);
        #[cfg(feature = "cuda")]
        let pool = copies.map_or_else(PinnedPool::plain, |copies| copies.pool());
        #[cfg(not(feature = "cuda"))]
        let pool = PinnedPool::plain();
        Uploader {
            client: client.clone(),
            device: DeviceHandle::new(device.to_id()),
            pool,
            #[cfg(feature = "cuda")]
            copies,
        }
    }

    /// Host buffers to fill, for any thread. Page-locked on CUDA.
    pub fn pool(&self) -> PinnedPool {
        self.pool.clone()
    }

    /// Whether copies run beside kernels.
    pub fn overlaps(&self) -> bool {
        #[cfg(feature = "cuda")]
        return self.copies.is_some();
        #[cfg(not(feature = "cuda"))]
        false
    }

    /// New device memory of `len` bytes.
    pub fn slot(&self, len: usize) -> Slot {
        let handle = exact(&self.client, |client| client.empty(len));
        Slot(Memory {
            #[cfg(feature = "cuda")]
            events: self.copies.and_then(|copies| copies.events()),
            handle,
        })
    }

    /// Starts to copy `bytes` to the start of `slot`. Costs the caller about 1 us.
    ///
    /// # Errors
    /// [`KernelError::Shape`] when the slot is shorter than `bytes`.
    pub fn begin(&self, slot: Slot, bytes: impl Into<HostRows>) -> Result<Pending, KernelError> {
        let (Slot(memory), bytes) = (slot, bytes.into());
        let len = bytes.reach();
        if len as u64 > memory.handle.size_in_used() {
            return Err(KernelError::Shape {
                kernel: "upload",
                what: "bytes",
                expected: format!("at most {}, the slot's size", memory.handle.size_in_used()),
                got: len.to_string(),
            });
        }
        if len == 0 {
            return Ok(Pending(memory));
        }
        #[cfg(feature = "cuda")]
        if let Some(events) = &memory.events {
            events.copy(memory.handle.clone(), bytes);
            return Ok(Pending(memory));
        }
        let surplus = memory.handle.size_in_used() - len as u64;
        let target = memory.handle.clone().offset_end(surplus).copy_descriptor([len].into(), [1usize].into(), 1);
        let bytes = Bytes::from_bytes_vec(bytes.bytes[bytes.start..][..len].to_vec());
        let stream = StreamId::current();
        self.device.submit(move |server| server.write(vec![(target, bytes)], stream));
        Ok(Pending(memory))
    }

    /// [`Uploader::begin`] and [`Pending::finish`] in one: a copy that later work waits for.
    ///
    /// # Errors
    /// As [`Uploader::begin`].
    pub fn upload(&self, slot: Slot, bytes: impl Into<HostRows>) -> Result<Filled, KernelError> {
        self.begin(slot, bytes).map(Pending::finish)
    }
}

impl HostRows {
    /// All bytes of a part.
    ///
    /// # Errors
    /// [`KernelError::Shape`] when the part is not within the buffer.
    pub fn part(bytes: Arc<PinnedBuffer>, part: Range<usize>) -> Result<Self, KernelError> {
        Self::rows(bytes, part.clone(), part.len(), part.len())
    }

    /// Of a part's rows of `stride` bytes the first `width`.
    ///
    /// # Errors
    /// [`KernelError::Shape`] when the part is not within the buffer, not a whole number of rows, or a row is shorter than
    /// `width`.
    pub fn rows(
        bytes: Arc<PinnedBuffer>,
        part: Range<usize>,
        stride: usize,
        width: usize,
    ) -> Result<Self, KernelError> {
        let error = |what, expected, got| Err(KernelError::Shape { kernel: "upload", what, expected, got });
        if bytes.get(part.clone()).is_none() {
            return error("part", format!("one within {} bytes", bytes.len()), format!("{part:?}"));
        }
        let rows = part.len().checked_div(stride).unwrap_or(0);
        if rows * stride != part.len() || width > stride {
            let got = format!("{} bytes in rows of {stride}, of which {width}", part.len());
            return error("rows", "whole rows, and no more than one of each".into(), got);
        }
        Ok(HostRows { bytes, start: part.start, rows, stride, width })
    }

    /// How far they reach, bytes.
    fn reach(&self) -> usize {
        if self.rows == 0 || self.width == 0 { 0 } else { (self.rows - 1) * self.stride + self.width }
    }
}

impl From<PinnedBuffer> for HostRows {
    fn from(bytes: PinnedBuffer) -> Self {
        let width = bytes.len();
        HostRows { bytes: Arc::new(bytes), start: 0, rows: 1, stride: width, width }
    }
}

impl Pending {
    /// Orders everything queued from now on after the copy.
    pub fn finish(self) -> Filled {
        #[cfg(feature = "cuda")]
        if let Some(events) = &self.0.events {
            events.wait_for_copy();
        }
        Filled(self.0)
    }
}

impl Filled {
    /// The device memory, for kernels.
    pub fn handle(&self) -> &Handle {
        &self.0.handle
    }

    /// To be called when the last kernel that reads the content has been queued.
    pub fn release(self) -> Slot {
        #[cfg(feature = "cuda")]
        if let Some(events) = &self.0.events {
            events.mark_read();
        }
        Slot(self.0)
    }
}

#[cfg(feature = "cuda")]
impl Drop for Memory {
    fn drop(&mut self) {
        if let Some(events) = self.events.take() {
            // The pool may hand the memory to later work, which then has to come after a copy still under way.
            events.retire(self.handle.clone());
        }
    }
}
