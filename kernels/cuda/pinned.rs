//! Host buffers that the device can read while kernels run.
//!
//! A copy from page-locked memory runs at the bus's speed and beside kernels; from ordinary memory the driver copies it
//! piecewise first and the caller waits. Locking pages is slow (about 0.3 ms a MiB), so buffers are kept and reused.
//! On other runtimes, and when locking fails, a buffer is ordinary memory.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

/// Lengths are rounded up to a multiple of this, so that batches of about the same size share buffers.
const GRANULE: usize = 1 << 20;

/// Idle buffers beyond this many are given back to the system.
const IDLE: usize = 16;

/// A source of [`PinnedBuffer`]s, shared by loader threads.
#[derive(Clone)]
pub struct PinnedPool {
    shared: Arc<Shared>,
}

struct Shared {
    idle: Mutex<Vec<Memory>>,
    #[cfg(feature = "cuda")]
    context: Option<crate::cuda::gpu::Shared<cudarc::driver::sys::CUcontext>>,
}

/// `len` bytes to fill and hand to an [`Uploader`](super::upload::Uploader). Returns to its pool when dropped, or once
/// its copy is done.
pub struct PinnedBuffer {
    memory: Memory,
    len: usize,
    pool: Arc<Shared>,
}

enum Memory {
    Plain(Vec<u8>),
    #[cfg(feature = "cuda")]
    Locked {
        start: std::ptr::NonNull<u8>,
        capacity: usize,
    },
}

// SAFETY: each piece of memory has one owner at a time.
unsafe impl Send for Memory {}
// SAFETY: shared references only read.
unsafe impl Sync for Memory {}

impl Memory {
    fn capacity(&self) -> usize {
        match self {
            Memory::Plain(bytes) => bytes.len(),
            #[cfg(feature = "cuda")]
            Memory::Locked { capacity, .. } => *capacity,
        }
    }
}

impl PinnedPool {
    /// Buffers of ordinary memory.
    pub(super) fn plain() -> Self {
        let shared = Shared {
            idle: Mutex::default(),
            #[cfg(feature = "cuda")]
            context: None,
        };
        PinnedPool { shared: Arc::new(shared) }
    }

    /// Buffers locked for a CUDA context.
    #[cfg(feature = "cuda")]
    pub(super) fn locked(context: cudarc::driver::sys::CUcontext) -> Self {
        let context = Some(crate::cuda::gpu::Shared(context));
        PinnedPool { shared: Arc::new(Shared { idle: Mutex::default(), context }) }
    }

    /// A buffer of `len` bytes with unspecified content. From any thread.
    pub fn take(&self, len: usize) -> PinnedBuffer {
        let memory = self.shared.reuse(len).unwrap_or_else(|| self.shared.allocate(len.next_multiple_of(GRANULE)));
        PinnedBuffer { memory, len, pool: self.shared.clone() }
    }
}

impl Shared {
    /// The smallest idle memory that holds `len` bytes and is not more than twice as long as it has to be.
    fn reuse(&self, len: usize) -> Option<Memory> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |memory: &Memory| (len..=2 * len.next_multiple_of(GRANULE)).contains(&memory.capacity());
        let (at, _) = idle.iter().enumerate().filter(|(_, m)| fits(m)).min_by_key(|(_, m)| m.capacity())?;
        Some(idle.swap_remove(at))
    }

    fn allocate(&self, capacity: usize) -> Memory {
        #[cfg(feature = "cuda")]
        {
            self.drop_surplus();
            if let Some(start) = self.context.and_then(|context| lock_pages(context.0, capacity)) {
                return Memory::Locked { start, capacity };
            }
        }
        Memory::Plain(vec![0; capacity])
    }

    /// Gives memory back, except what the pool keeps. Not while a copy's end is being reported: that thread may not
    /// call the driver.
    #[cfg(feature = "cuda")]
    fn drop_surplus(&self) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let surplus = idle.len().saturating_sub(IDLE);
        idle.drain(..surplus).for_each(|memory| self.free(memory));
    }

    fn free(&self, memory: Memory) {
        match memory {
            Memory::Plain(bytes) => drop(bytes),
            #[cfg(feature = "cuda")]
            Memory::Locked { start, .. } => {
                if let Some(context) = self.context {
                    // SAFETY: it came from `lock_pages` and nothing refers to it.
                    let free = || unsafe { cudarc::driver::sys::cuMemFreeHost(start.as_ptr().cast()) };
                    let _ = in_context(context.0, free);
                }
            }
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let idle = std::mem::take(self.idle.get_mut().unwrap_or_else(PoisonError::into_inner));
        idle.into_iter().for_each(|memory| self.free(memory));
    }
}

/// Runs `action` with `context` current, whichever thread this is.
#[cfg(feature = "cuda")]
fn in_context<T>(context: cudarc::driver::sys::CUcontext, action: impl FnOnce() -> T) -> Option<T> {
    use cudarc::driver::sys as cu;
    let mut popped = std::ptr::null_mut();
    // SAFETY: the context is the device's primary one, which CubeCL holds for the life of the process.
    unsafe {
        (cu::cuCtxPushCurrent_v2(context) == cu::CUresult::CUDA_SUCCESS).then_some(())?;
        let result = action();
        let _ = cu::cuCtxPopCurrent_v2(&mut popped);
        Some(result)
    }
}

/// Page-locked, zeroed memory; `None` when the system refuses.
#[cfg(feature = "cuda")]
fn lock_pages(context: cudarc::driver::sys::CUcontext, capacity: usize) -> Option<std::ptr::NonNull<u8>> {
    use cudarc::driver::sys as cu;
    let mut start = std::ptr::null_mut();
    // SAFETY: on success the driver has written the address of `capacity` bytes, which are then zeroed.
    unsafe {
        let answer = in_context(context, || cu::cuMemHostAlloc(&mut start, capacity, cu::CU_MEMHOSTALLOC_PORTABLE))?;
        let start = std::ptr::NonNull::new(start.cast::<u8>())?;
        (answer == cu::CUresult::CUDA_SUCCESS).then_some(())?;
        start.write_bytes(0, capacity);
        Some(start)
    }
}

impl PinnedBuffer {
    /// Whether the device can copy from it directly.
    pub fn is_locked(&self) -> bool {
        !matches!(self.memory, Memory::Plain(_))
    }

    /// The bytes as ordinary memory, without a copy where it is that already.
    pub(super) fn into_vec(mut self) -> Vec<u8> {
        let len = self.len;
        match &mut self.memory {
            Memory::Plain(bytes) => {
                let mut bytes = std::mem::take(bytes);
                bytes.truncate(len);
                bytes
            }
            #[cfg(feature = "cuda")]
            Memory::Locked { .. } => self.to_vec(),
        }
    }
}

impl Deref for PinnedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.memory {
            Memory::Plain(bytes) => &bytes[..self.len],
            #[cfg(feature = "cuda")]
            // SAFETY: `len` is at most the capacity, and the bytes were initialised when they were allocated.
            Memory::Locked { start, .. } => unsafe { std::slice::from_raw_parts(start.as_ptr(), self.len) },
        }
    }
}

impl DerefMut for PinnedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::Plain(bytes) => &mut bytes[..self.len],
            #[cfg(feature = "cuda")]
            // SAFETY: as above, and this is the only reference.
            Memory::Locked { start, .. } => unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), self.len) },
        }
    }
}

impl Drop for PinnedBuffer {
    fn drop(&mut self) {
        let memory = std::mem::replace(&mut self.memory, Memory::Plain(Vec::new()));
        if matches!(&memory, Memory::Plain(bytes) if bytes.is_empty()) {
            return;
        }
        let mut idle = self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner);
        // Locked memory is always kept: this may run where the driver must not be called.
        if idle.len() < IDLE || !matches!(memory, Memory::Plain(_)) {
            idle.push(memory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_reused() {
        let pool = PinnedPool::plain();
        let mut buffer = pool.take(100);
        assert_eq!((buffer.len(), buffer.is_locked()), (100, false));
        buffer[99] = 7;
        let at = buffer.as_ptr();
        drop(buffer);
        let again = pool.take(1000);
        assert_eq!((again.as_ptr(), again.len(), again[99]), (at, 1000, 7));
        // While that one is out, another has to be a different one.
        assert_ne!(pool.take(100).as_ptr(), at);
    }

    #[test]
    fn a_much_larger_buffer_is_not_wasted_on_a_small_one() {
        let pool = PinnedPool::plain();
        let large = pool.take(8 * GRANULE);
        let at = large.as_ptr();
        drop(large);
        assert_ne!(pool.take(10).as_ptr(), at);
        assert_eq!(pool.take(5 * GRANULE).as_ptr(), at);
    }

    #[test]
    fn a_buffer_becomes_a_vector_of_its_length() {
        let pool = PinnedPool::plain();
        let mut buffer = pool.take(5);
        buffer.copy_from_slice(&[1, 2, 3, 4, 5]);
        assert_eq!(buffer.into_vec(), [1, 2, 3, 4, 5]);
    }
}
