//! cuBLASLt on one device.

use super::Buffers;
use super::cache::Cache;
use super::key::{Key, Source};
use super::plan::{Descriptors, Place, Plan, Pointers, Recent, WORKSPACE_BYTES};
use super::search;
use super::tuning::{self, Tuning};
use crate::cuda::gpu::{Gpu, Shared, Work, check, identity, lock};
use crate::cuda::queue::Queue;
use crate::cuda::{Audience, tell};
use cubecl::prelude::*;
use cudarc::cublaslt::{result as lt, sys};
use cudarc::driver::sys as cu;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, Once};

/// The library on one device; lives as long as the process.
pub struct Library {
    pub gpu: &'static Gpu,
    handle: Shared<sys::cublasLtHandle_t>,
    version: usize,
    plans: Mutex<Recent<Plan>>,
    caches: Mutex<HashMap<std::path::PathBuf, Cache>>,
    /// Per stream that products run on: two streams may not share one.
    workspaces: Mutex<HashMap<usize, u64>>,
    /// Only where CubeCL's stream cannot be had.
    own: Mutex<Option<Shared<OwnStream>>>,
}

/// A stream for products, with the events that order it around CubeCL's.
#[derive(Clone, Copy)]
struct OwnStream {
    stream: cu::CUstream,
    before: cu::CUevent,
    after: cu::CUevent,
}

/// The first step of the first run on a machine stands still for this.
fn announce_search(cache: Option<&Cache>) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tell(Audience::User, || {
            let kept = cache.map_or(String::new(), |cache| format!(", and kept in {}", cache.path().display()));
            format!("looking for the fastest algorithm of each large matrix product, about a second each{kept}")
        });
    });
}

static LIBRARIES: LazyLock<Mutex<HashMap<usize, Result<&'static Library, String>>>> = LazyLock::new(Mutex::default);

impl Library {
    /// The library on a client's device; `None` when its runtime is not CUDA, an error when it cannot be used there.
    /// Found out once per device, before anything is queued.
    pub fn of<R: Runtime>(client: &ComputeClient<R>) -> Option<Result<&'static Library, String>> {
        let identity = identity(client);
        if let Some(known) = lock(&LIBRARIES).get(&identity) {
            return Some(known.clone());
        }
        let opened = Gpu::of(client)?.and_then(Library::open);
        Some(lock(&LIBRARIES).entry(identity).or_insert(opened).clone())
    }

    fn open(gpu: &'static Gpu) -> Result<&'static Library, String> {
        // SAFETY: looks for a file.
        if !unsafe { sys::is_culib_present() } {
            return Err("libcublasLt was not found; it comes with CUDA's libraries".into());
        }
        let opened = gpu.submit_blocking(|_| {
            let handle = lt::create_handle().map_err(|error| format!("libcublasLt cannot be started: {error}"))?;
            // SAFETY: a plain query.
            Ok((Shared(handle), unsafe { sys::cublasLtGetVersion() }))
        })?;
        let (handle, version) = opened;
        let (plans, caches, workspaces, own) = Default::default();
        Ok(Box::leak(Box::new(Library { gpu, handle, version, plans, caches, workspaces, own })))
    }

    /// The plan of a key. A new key waits for the device thread, and for the device where algorithms are timed.
    pub fn plan(&'static self, key: &Key, buffers: &Buffers, steady: bool) -> Result<Arc<Plan>, String> {
        if let Some(plan) = lock(&self.plans).get(key) {
            return Ok(plan);
        }
        let (key, buffers) = (*key, buffers.clone());
        let plan = self.gpu.submit_blocking(move |work| {
            let pointers = buffers.pointers(work)?;
            self.make_plan(&key, &pointers, work.queue, steady)
        })?;
        let plan = Arc::new(plan);
        lock(&self.plans).insert(key, plan.clone());
        Ok(plan)
    }

    fn make_plan(&self, key: &Key, pointers: &Pointers, queue: Queue, steady: bool) -> Result<Plan, String> {
        let refused = |error| format!("libcublasLt does not take {key}: {error}");
        let descriptors = Descriptors::new(key).map_err(refused)?;
        let folder = match tuning::current() {
            Tuning::Timed { cache } if tuning::worthwhile(key.work(), steady) => cache,
            _ => {
                let first = descriptors.proposals(self.handle.0, pointers, 1).map_err(refused)?[0];
                return Ok(Plan { descriptors, algorithm: first });
            }
        };
        let mut caches = lock(&self.caches);
        let cache = folder.map(|folder| {
            caches
                .entry(folder)
                .or_insert_with_key(|folder| Cache::read(folder, self.version, &self.gpu.name, self.gpu.driver))
        });
        let known = cache.as_ref().and_then(|cache| cache.get(key)).map(|data| sys::cublasLtMatmulAlgo_t { data });
        if let Some(algorithm) = known.filter(|algorithm| descriptors.accepts(self.handle.0, pointers, algorithm)) {
            return Ok(Plan { descriptors, algorithm });
        }
        announce_search(cache.as_deref());
        let proposals = descriptors.proposals(self.handle.0, pointers, search::PROPOSALS).map_err(refused)?;
        let place = self.enter(queue)?;
        let fastest = search::fastest(&descriptors, place, pointers, &proposals);
        self.leave(queue)?;
        let algorithm = match fastest {
            Ok(fastest) => {
                crate::cuda::say(|| format!("cuBLASLt {key}: {fastest}"));
                if let Some(cache) = cache {
                    cache.put(key, fastest.algorithm.data);
                }
                fastest.algorithm
            }
            Err(why) => {
                crate::cuda::say(|| format!("cuBLASLt {key}: algorithms were not timed: {why}"));
                proposals[0]
            }
        };
        Ok(Plan { descriptors, algorithm })
    }

    /// Queues a product after everything CubeCL has queued so far and before everything it queues later. On CubeCL's
    /// device thread.
    pub fn multiply(&self, plan: &Plan, pointers: &Pointers, queue: Queue) -> Result<(), String> {
        let place = self.enter(queue)?;
        // SAFETY: the buffers were compared with the operands' reach; the workspace belongs to this stream.
        let queued = unsafe { plan.descriptors.multiply(place, &plan.algorithm, pointers) };
        queued.map_err(|error| format!("{}: {error}", plan.descriptors.key))?;
        self.leave(queue)
    }

    /// The stream for products, ordered after CubeCL's work.
    fn enter(&self, queue: Queue) -> Result<Place, String> {
        let stream = match queue.stream {
            Some(stream) => stream,
            None => {
                let own = self.own_stream()?;
                queue.record(own.before)?;
                // SAFETY: live handles.
                check(unsafe { cu::cuStreamWaitEvent(own.stream, own.before, 0) })?;
                own.stream
            }
        };
        Ok(Place { handle: self.handle.0, workspace: self.workspace(stream)?, stream })
    }

    /// Orders CubeCL's later work after the products.
    fn leave(&self, queue: Queue) -> Result<(), String> {
        if queue.stream.is_some() {
            return Ok(());
        }
        let own = self.own_stream()?;
        // SAFETY: live handles.
        check(unsafe { cu::cuEventRecord(own.after, own.stream) })?;
        queue.wait(own.after)
    }

    fn own_stream(&self) -> Result<OwnStream, String> {
        let mut own = lock(&self.own);
        if let Some(Shared(own)) = *own {
            return Ok(own);
        }
        let null = std::ptr::null_mut();
        let mut new = OwnStream { stream: null, before: null.cast(), after: null.cast() };
        let untimed = cu::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
        // SAFETY: the driver writes handles into locals.
        unsafe {
            check(cu::cuStreamCreate(&mut new.stream, cu::CUstream_flags::CU_STREAM_NON_BLOCKING as u32))?;
            check(cu::cuEventCreate(&mut new.before, untimed))?;
            check(cu::cuEventCreate(&mut new.after, untimed))?;
        }
        *own = Some(Shared(new));
        Ok(new)
    }

    fn workspace(&self, stream: cu::CUstream) -> Result<u64, String> {
        let mut workspaces = lock(&self.workspaces);
        if let Some(workspace) = workspaces.get(&(stream as usize)) {
            return Ok(*workspace);
        }
        let mut workspace = 0;
        // SAFETY: the driver writes an address into a local.
        check(unsafe { cu::cuMemAlloc_v2(&mut workspace, WORKSPACE_BYTES) })?;
        workspaces.insert(stream as usize, workspace);
        Ok(workspace)
    }
}

impl Buffers {
    /// Addresses, for work queued by the same task.
    pub fn pointers(self, work: &mut Work) -> Result<Pointers, String> {
        let mut optional = |handle: Option<_>| handle.map(|handle| work.pointer(handle)).transpose();
        let (bias, residual) = (optional(self.bias)?.unwrap_or(0), optional(self.residual)?);
        let (a, b, out) = (work.pointer(self.a)?, work.pointer(self.b)?, work.pointer(self.out)?);
        // Without a residual the source is `out`, read when accumulating.
        let pointers = Pointers { a, b, source: residual.unwrap_or(out), out, bias };
        if !(a | b | pointers.source | out | bias).is_multiple_of(16) {
            return Err(format!("an operand does not start at a multiple of 16 bytes: {pointers:x?}"));
        }
        Ok(pointers)
    }
}

impl Pointers {
    /// Whether a run would change what the next run reads.
    pub fn feeds_itself(&self, key: &Key) -> bool {
        self.a == self.out || self.b == self.out || (key.source != Source::Nothing && self.source == self.out)
    }
}
