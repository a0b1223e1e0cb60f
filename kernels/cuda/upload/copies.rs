//! The CUDA side of [`Uploader`](super::Uploader): a stream for copies and two events per slot.

use super::HostRows;
use crate::cuda::gpu::{Gpu, Shared, check, identity, lock};
use crate::cuda::pinned::{PinnedBuffer, PinnedPool};
use crate::{Handle, cuda};
use cubecl::prelude::*;
use cudarc::driver::sys as cu;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, LazyLock, Mutex};

/// A device's stream for copies and the memory they come from. Lives as long as the process, so that the last owner of
/// the memory is never a thread of the driver.
pub struct CopyStream {
    gpu: &'static Gpu,
    stream: Shared<cu::CUstream>,
    pool: PinnedPool,
}

static STREAMS: LazyLock<Mutex<HashMap<usize, Option<&'static CopyStream>>>> = LazyLock::new(Mutex::default);

impl CopyStream {
    /// The stream of a client's device; `None` without CUDA or when the driver refuses.
    pub fn of<R: Runtime>(client: &ComputeClient<R>) -> Option<&'static CopyStream> {
        let gpu = Gpu::of(client)?.ok()?;
        *lock(&STREAMS).entry(identity(client)).or_insert_with(|| CopyStream::open(gpu))
    }

    fn open(gpu: &'static Gpu) -> Option<&'static CopyStream> {
        let opened = gpu.submit_blocking(|_| {
            let mut stream = std::ptr::null_mut();
            // SAFETY: the driver writes a handle into a local; CubeCL's context is current on this thread.
            check(unsafe { cu::cuStreamCreate(&mut stream, cu::CUstream_flags::CU_STREAM_NON_BLOCKING as u32) })?;
            Ok(Shared(stream))
        });
        match opened {
            Ok(stream) => {
                Some(Box::leak(Box::new(CopyStream { gpu, stream, pool: PinnedPool::locked(gpu.context()) })))
            }
            Err(why) => {
                cuda::say(|| format!("uploads go in order with kernels: {why}"));
                None
            }
        }
    }

    pub fn pool(&self) -> PinnedPool {
        self.pool.clone()
    }

    /// The events of a new slot, whose memory earlier work may still use.
    pub fn events(&'static self) -> Option<Events> {
        let created = self.gpu.submit_blocking(|work| {
            let (mut copied, mut read) = (std::ptr::null_mut(), std::ptr::null_mut());
            let untimed = cu::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
            // SAFETY: the driver writes handles into locals.
            unsafe {
                check(cu::cuEventCreate(&mut copied, untimed))?;
                check(cu::cuEventCreate(&mut read, untimed))?;
            }
            work.queue.record(read)?;
            Ok(Shared((copied, read)))
        });
        created.ok().map(|events| Events { home: self, events })
    }
}

/// When a slot's content has arrived, and when it has been read.
pub struct Events {
    home: &'static CopyStream,
    events: Shared<(cu::CUevent, cu::CUevent)>,
}

impl Events {
    /// Queues the copy behind the readers of the last content; when it is done, the bytes are let go.
    pub fn copy(&self, target: Handle, from: HostRows) {
        let (stream, events) = (self.home.stream, self.events);
        self.home.gpu.submit("upload", move |work| {
            let (stream, (copied, read)) = (stream.get(), events.get());
            let target = work.pointer(target)?;
            let HostRows { bytes, start, rows, stride, width } = from;
            let source = bytes[start..].as_ptr();
            // SAFETY: the rows lie within the bytes, and the caller has compared their reach with the target's length;
            // the bytes stay until `done` runs, after the copy.
            unsafe {
                check(cu::cuStreamWaitEvent(stream, read, 0))?;
                if rows == 1 {
                    check(cu::cuMemcpyHtoDAsync_v2(target, source.cast(), width, stream))?;
                } else {
                    let copy = cu::CUDA_MEMCPY2D {
                        srcXInBytes: 0,
                        srcY: 0,
                        srcMemoryType: cu::CUmemorytype::CU_MEMORYTYPE_HOST,
                        srcHost: source.cast(),
                        srcDevice: 0,
                        srcArray: std::ptr::null_mut(),
                        srcPitch: stride,
                        dstXInBytes: 0,
                        dstY: 0,
                        dstMemoryType: cu::CUmemorytype::CU_MEMORYTYPE_DEVICE,
                        dstHost: std::ptr::null_mut(),
                        dstDevice: target,
                        dstArray: std::ptr::null_mut(),
                        dstPitch: stride,
                        WidthInBytes: width,
                        Height: rows,
                    };
                    check(cu::cuMemcpy2DAsync_v2(&copy, stream))?;
                }
                let bytes = Box::into_raw(Box::new(bytes));
                check(cu::cuEventRecord(copied, stream))?;
                check(cu::cuLaunchHostFunc(stream, Some(done), bytes.cast()))
            }
        });
        // The device thread would wait for more tasks, and the copy's time to overlap would pass.
        self.home.gpu.flush();
    }

    pub fn wait_for_copy(&self) {
        let events = self.events;
        self.home.gpu.submit("upload", move |work| {
            let (copied, _) = events.get();
            work.queue.wait(copied)
        });
    }

    pub fn mark_read(&self) {
        let events = self.events;
        self.home.gpu.submit("upload", move |work| {
            let (_, read) = events.get();
            work.queue.record(read)
        });
    }

    /// Orders later work after the slot's copy and lets go of its memory.
    pub fn retire(self, handle: Handle) {
        let events = self.events;
        self.home.gpu.submit("upload", move |work| {
            let (copied, read) = events.get();
            work.queue.wait(copied)?;
            drop(handle);
            // SAFETY: created in `events`; the driver keeps what queued work still needs.
            unsafe {
                check(cu::cuEventDestroy_v2(copied))?;
                check(cu::cuEventDestroy_v2(read))
            }
        });
    }
}

/// Runs on a thread of the driver once a copy is done. Must not call the driver: it only returns memory to the pool,
/// which never frees locked memory then.
unsafe extern "C" fn done(bytes: *mut c_void) {
    // SAFETY: the box was leaked for this one call.
    drop(unsafe { Box::from_raw(bytes.cast::<Arc<PinnedBuffer>>()) });
}
