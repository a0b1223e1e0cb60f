//! One CUDA device as CubeCL runs it: tasks on its device thread, and what went wrong in them.
//!
//! CubeCL serves each device from one thread. A task submitted to it runs in order with kernels launched by the same
//! caller and costs that caller about 1 us; waiting for an answer costs about 7.

use super::queue::Queue;
use cubecl::cuda::{CudaDevice, CudaRuntime};
use cubecl::device::Device;
use cubecl::device_handle::DeviceHandle;
use cubecl::prelude::*;
use cubecl::server::{ComputeServer, Handle};
use cubecl::stream_id::StreamId;
use cudarc::driver::{result, sys as cu};
use std::any::Any;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

/// CubeCL's CUDA server.
pub type Server = <CudaRuntime as Runtime>::Server;

/// A value that may move between threads though its type does not say so.
#[derive(Clone, Copy)]
pub struct Shared<T>(pub T);

// SAFETY: only wraps handles of the driver and of cuBLASLt, which are thread-safe.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

impl<T: Copy> Shared<T> {
    /// The value; a closure that calls this owns the whole, not the field alone.
    pub fn get(&self) -> T {
        self.0
    }
}

/// The driver's answer, as words when it is not success.
pub fn check(answer: cu::CUresult) -> Result<(), String> {
    answer.result().map_err(|error| format!("{error:?}"))
}

/// A lock that a panic elsewhere does not spoil.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A device; there is one per device for the whole process.
pub struct Gpu {
    device: DeviceHandle<Server>,
    context: Shared<cu::CUcontext>,
    pub name: String,
    /// Newest CUDA version the driver supports, as `1000 * major + 10 * minor`.
    pub driver: i32,
    queues: Mutex<HashMap<u64, Queue>>,
    failed: AtomicBool,
    failure: Mutex<Option<String>>,
}

/// By address of the client's properties, which the server shares with all of its clients.
static GPUS: LazyLock<Mutex<HashMap<usize, Result<&'static Gpu, String>>>> = LazyLock::new(Mutex::default);

/// What tells one server's clients from another's.
pub fn identity<R: Runtime>(client: &ComputeClient<R>) -> usize {
    std::ptr::from_ref(client.properties()) as usize
}

impl Gpu {
    /// The device of a client; `None` when its runtime is not CUDA, an error when the driver cannot be asked.
    pub fn of<R: Runtime>(client: &ComputeClient<R>) -> Option<Result<&'static Gpu, String>> {
        let client = (client as &dyn Any).downcast_ref::<ComputeClient<CudaRuntime>>()?;
        Some(lock(&GPUS).entry(identity(client)).or_insert_with(|| Gpu::open(client)).clone())
    }

    fn open(client: &ComputeClient<CudaRuntime>) -> Result<&'static Gpu, String> {
        let described = client
            .exclusive(|| {
                let (mut context, mut device, mut driver) = (std::ptr::null_mut(), 0, 0);
                // SAFETY: plain queries into locals; CubeCL has made its context current on this thread.
                unsafe {
                    check(cu::cuCtxGetCurrent(&mut context))?;
                    check(cu::cuCtxGetDevice(&mut device))?;
                    check(cu::cuDriverGetVersion(&mut driver))?;
                }
                let text = |error| format!("{error:?}");
                let count = result::device::get_count().map_err(text)?;
                let index =
                    (0..count).find(|i| result::device::get(*i) == Ok(device)).ok_or("the device is unknown")?;
                let name = result::device::get_name(device).map_err(text)?;
                Ok::<_, String>((Shared(context), index as usize, driver, name))
            })
            .map_err(|error| error.to_string())?;
        let (context, index, driver, name) = described?;
        let device = DeviceHandle::new(CudaDevice::new(index).to_id());
        let (queues, failed, failure) = (Mutex::default(), AtomicBool::new(false), Mutex::default());
        Ok(Box::leak(Box::new(Gpu { device, context, name, driver, queues, failed, failure })))
    }

    pub fn context(&self) -> cu::CUcontext {
        self.context.0
    }

    /// Runs `task` on the device thread, in order with this thread's kernels, without waiting. A failure is kept for
    /// [`Gpu::take_failure`].
    pub fn submit(
        &'static self,
        what: &'static str,
        task: impl FnOnce(&mut Work) -> Result<(), String> + Send + 'static,
    ) {
        self.device.submit(move |server| {
            let run = AssertUnwindSafe(|| task(&mut Work::new(self, server)?));
            // CubeCL would only log a panic.
            let outcome = catch_unwind(run).unwrap_or_else(|_| Err("a panic".into()));
            if let Err(why) = outcome {
                self.fail(format!("{what}: {why}"));
            }
        });
    }

    /// Runs `task` on the device thread and waits for its answer (not for the device).
    pub fn submit_blocking<T: Send>(
        &'static self,
        task: impl FnOnce(&mut Work) -> Result<T, String> + Send,
    ) -> Result<T, String> {
        let run = move |server: &mut Server| task(&mut Work::new(self, server)?);
        self.device.submit_blocking(run).unwrap_or_else(|_| Err("a panic on the device thread".into()))
    }

    /// Hands queued tasks to the device thread now; by itself it waits until 32 have come together.
    pub fn flush(&self) {
        self.device.flush_queue();
    }

    fn fail(&self, why: String) {
        lock(&self.failure).get_or_insert(why);
        self.failed.store(true, Ordering::Release);
    }

    /// The first failure since the last [`Gpu::take_failure`], left in place.
    pub fn failure(&self) -> Option<String> {
        if self.failed.load(Ordering::Acquire) { lock(&self.failure).clone() } else { None }
    }

    /// The first failure since the last call.
    pub fn take_failure(&self) -> Option<String> {
        if self.failed.swap(false, Ordering::AcqRel) { lock(&self.failure).take() } else { None }
    }
}

/// What a task on the device thread works with.
pub struct Work<'a> {
    server: &'a mut Server,
    id: StreamId,
    pub queue: Queue,
}

impl<'a> Work<'a> {
    fn new(gpu: &Gpu, server: &'a mut Server) -> Result<Self, String> {
        let id = StreamId::current();
        let known = lock(&gpu.queues).get(&id.value).copied();
        let queue = match known {
            Some(queue) => queue,
            None => {
                // Any request makes the server create the stream; this one does nothing else.
                let _ = server.memory_usage(id);
                let queue = Queue::of(server, id, gpu.context(), gpu.driver)?;
                lock(&gpu.queues).insert(id.value, queue);
                queue
            }
        };
        Ok(Work { server, id, queue })
    }

    /// Where a buffer lies. It stays there for work queued on CubeCL's stream before this task ends.
    pub fn pointer(&mut self, handle: Handle) -> Result<u64, String> {
        let resource = self.server.get_resource(handle.binding(), self.id).map_err(|error| error.to_string())?;
        Ok(resource.resource().ptr)
    }
}
