//! Host buffers that the device can read while kernels run.
//!
//! A copy from page-locked memory runs at the bus's speed and beside kernels; from ordinary memory the driver copies it
//! piecewise first and the caller waits. Locking pages is slow (about 0.3 ms a MiB), so buffers are kept and reused.
//! On other runtimes, and when locking fails, a buffer is ordinary memory.

use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

/// Lengths are rounded up to a multiple of this, so that batches of about the same size share buffers.
const GRANULE: usize = 1 << 20;

/// Idle buffers beyond this many, or this many bytes of locked ones, are given back to the system.
const IDLE: usize = 16;
#[cfg(feature = "cuda")]
const IDLE_BYTES: usize = 2 << 30;

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

/// Bytes to fill and hand to an [`Uploader`](super::upload::Uploader): the whole of a piece of memory, or a part that no
/// other buffer has. The memory returns to its pool when the last buffer of it is dropped, or once its copy is done.
#[derive(Default)]
pub struct PinnedBuffer {
    /// `None` without bytes.
    lease: Option<Arc<Lease>>,
    range: Range<usize>,
}

/// Memory that is out of its pool.
struct Lease {
    memory: Memory,
    pool: Arc<Shared>,
}

/// Initialised bytes, allocated by [`Shared::allocate`] and to be freed by [`Shared::free`].
#[derive(Clone, Copy)]
struct Memory {
    start: NonNull<u8>,
    capacity: usize,
    is_locked: bool,
}

// SAFETY: plain bytes, which any thread may own.
unsafe impl Send for Memory {}
// SAFETY: who reaches the bytes has a range of them alone (`PinnedBuffer`), and needs it mutably to write.
unsafe impl Sync for Memory {}

impl PinnedPool {
    /// Buffers of ordinary memory.
    pub fn plain() -> Self {
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
        let lease = Lease { memory, pool: self.shared.clone() };
        PinnedBuffer { lease: Some(Arc::new(lease)), range: 0..len }
    }
}

impl Shared {
    /// The smallest idle memory that holds `len` bytes and is not more than twice as long as it has to be.
    fn reuse(&self, len: usize) -> Option<Memory> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |memory: &Memory| (len..=2 * len.next_multiple_of(GRANULE)).contains(&memory.capacity);
        let (at, _) = idle.iter().enumerate().filter(|(_, m)| fits(m)).min_by_key(|(_, m)| m.capacity)?;
        Some(idle.swap_remove(at))
    }

    fn allocate(&self, capacity: usize) -> Memory {
        #[cfg(feature = "cuda")]
        {
            self.drop_surplus();
            if let Some(start) = self.context.and_then(|context| lock_pages(context.0, capacity)) {
                return Memory { start, capacity, is_locked: true };
            }
            if self.context.is_some() {
                crate::cuda::say(|| {
                    format!("the system refuses {capacity} bytes of page-locked memory: uploads take longer")
                });
            }
        }
        let bytes = Box::leak(vec![0; capacity].into_boxed_slice());
        Memory { start: NonNull::from(bytes).cast(), capacity, is_locked: false }
    }

    /// Gives memory back, except what the pool keeps. Not while a copy's end is being reported: that thread may not
    /// call the driver.
    #[cfg(feature = "cuda")]
    fn drop_surplus(&self) {
        let surplus: Vec<Memory> = {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            // The oldest go first.
            let mut kept = 0;
            let fits = |memory: &&Memory| {
                kept += memory.capacity;
                kept <= IDLE_BYTES
            };
            let keep = idle.iter().rev().take(IDLE).take_while(fits).count();
            let surplus = idle.len() - keep;
            idle.drain(..surplus).collect()
        };
        // Freeing may wait for the device, and so for a copy whose end is reported by a thread that wants the lock.
        surplus.into_iter().for_each(|memory| self.free(memory));
    }

    fn free(&self, memory: Memory) {
        let Memory { start, capacity, is_locked } = memory;
        if !is_locked {
            let bytes = NonNull::slice_from_raw_parts(start, capacity);
            // SAFETY: leaked by `allocate` as a box of this length, and nothing refers to it.
            drop(unsafe { Box::from_raw(bytes.as_ptr()) });
            return;
        }
        #[cfg(feature = "cuda")]
        if let Some(context) = self.context {
            // SAFETY: it came from `lock_pages` and nothing refers to it.
            let free = || unsafe { cudarc::driver::sys::cuMemFreeHost(start.as_ptr().cast()) };
            let _ = in_context(context.0, free);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut idle = self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner);
        // Locked memory is always kept: this may run where the driver must not be called.
        if idle.len() < IDLE || self.memory.is_locked {
            idle.push(self.memory);
        } else {
            drop(idle);
            self.pool.free(self.memory);
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
        self.lease.as_ref().is_some_and(|lease| lease.memory.is_locked)
    }

    /// Cuts off the first `len` bytes, or as many as there are.
    pub fn split_to(&mut self, len: usize) -> PinnedBuffer {
        let end = self.range.start + len.min(self.range.len());
        let first = PinnedBuffer { lease: self.lease.clone(), range: self.range.start..end };
        self.range.start = end;
        first
    }

    /// Puts neighbours together again, `other` after `self`.
    ///
    /// # Errors
    /// `other` as it was, when it is not the memory that follows.
    pub fn unsplit(&mut self, other: PinnedBuffer) -> Result<(), PinnedBuffer> {
        let same = match (&self.lease, &other.lease) {
            (Some(own), Some(others)) => Arc::ptr_eq(own, others),
            _ => false,
        };
        if !same || self.range.end != other.range.start {
            return Err(other);
        }
        self.range.end = other.range.end;
        Ok(())
    }

    fn start(&self) -> NonNull<u8> {
        match &self.lease {
            // SAFETY: ranges begin within the memory, or at its end.
            Some(lease) => unsafe { lease.memory.start.add(self.range.start) },
            None => NonNull::dangling(),
        }
    }
}

impl Deref for PinnedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the range lies within initialised memory that the lease keeps, and belongs to this buffer alone:
        // a new lease has one buffer, and cutting and joining keep ranges apart.
        unsafe { std::slice::from_raw_parts(self.start().as_ptr(), self.range.len()) }
    }
}

impl DerefMut for PinnedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.start().as_ptr(), self.range.len()) }
    }
}

impl std::fmt::Debug for PinnedBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PinnedBuffer").field("len", &self.len()).field("is_locked", &self.is_locked()).finish()
    }
}

impl std::fmt::Debug for PinnedPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PinnedPool")
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
    fn parts_join_again_and_the_memory_waits_for_the_last() {
        let pool = PinnedPool::plain();
        let mut rest = pool.take(10);
        let at = rest.as_ptr();
        let mut first = rest.split_to(4);
        let second = rest.split_to(3);
        let tail = rest.split_to(9);
        assert_eq!([first.len(), second.len(), tail.len(), rest.len()], [4, 3, 3, 0]);
        first.fill(1);
        let mut second = std::thread::spawn(move || {
            let mut second = second;
            second.fill(2);
            second
        })
        .join()
        .unwrap();
        // Not a neighbour, and not of this memory.
        let tail = first.unsplit(tail).unwrap_err();
        let other = first.unsplit(pool.take(4)).unwrap_err();
        assert_ne!(other.as_ptr(), at);
        second.unsplit(tail).unwrap();
        first.unsplit(second).unwrap();
        assert_eq!((first.len(), first.as_ptr(), &first[..7]), (10, at, &[1, 1, 1, 1, 2, 2, 2][..]));
        assert_eq!(pool.shared.idle.lock().unwrap().len(), 0);
        drop((first, rest));
        assert_eq!(pool.shared.idle.lock().unwrap().len(), 1);
        assert!(PinnedBuffer::default().is_empty() && PinnedBuffer::default().unsplit(pool.take(1)).is_err());
    }
}
