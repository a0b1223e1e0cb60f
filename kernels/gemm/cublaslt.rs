//! Products on NVIDIA GPUs through cuBLASLt, in order with CubeCL's own work and without waiting for the device.
//!
//! CubeCL keeps its CUDA stream to itself, so a second stream is ordered around it with events: recorded on the whole
//! context before the product and waited for by the product's stream, then the other way round
//! (`cuCtxRecordEvent`, `cuCtxWaitEvent`; drivers of CUDA 12.5 and later). Measured host cost: 20-50 us a call.
//!
//! bf16 and f16 operands go to tensor cores with f32 sums; f32 operands are multiplied in f32, not TF32. An algorithm is
//! looked up once per shape and kept with its descriptors.

use super::tiled::Matrix;
use super::{Operand, Problem};
use crate::FloatKind;
use cubecl::cuda::CudaRuntime;
use cubecl::prelude::*;
use cudarc::cublaslt::{result as lt, sys};
use cudarc::driver::sys as cu;
use std::any::Any;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{LazyLock, Mutex, PoisonError};

/// Scratch memory an algorithm may use.
const WORKSPACE_BYTES: usize = 64 << 20;

/// First CUDA version whose driver orders streams by context events.
const ORDERING_SINCE: i32 = 12_050;

/// How an operand lies, as BLAS says it: row-major or transposed, with a leading dimension and one stride per matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Lie {
    transposed: bool,
    leading: usize,
    stride: usize,
}

impl Lie {
    /// `None` when the layout has gaps in both dimensions, or a batch that no single stride describes.
    fn of(operand: &Operand, rows: usize, columns: usize, problem: &Problem) -> Option<Self> {
        let (transposed, leading) = match (operand.rows, operand.columns) {
            (row, 1) if row >= columns || rows == 1 => (false, row.max(columns)),
            (1, column) if column >= rows || columns == 1 => (true, column.max(rows)),
            _ => return None,
        };
        let stride = match (problem.outer, problem.inner) {
            (_, 1) => operand.outer,
            (1, _) => operand.inner,
            (_, inner) if operand.outer == inner * operand.inner => operand.inner,
            _ => return None,
        };
        Some(Lie { transposed, leading, stride })
    }
}

/// Everything an algorithm depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    m: usize,
    n: usize,
    k: usize,
    batch: usize,
    a: Lie,
    b: Lie,
    out: Lie,
    kind: FloatKind,
    out_kind: FloatKind,
}

/// Descriptors and algorithm of one key.
struct Plan {
    operation: sys::cublasLtMatmulDesc_t,
    // In cuBLAS's column-major reading the product is `out^T = b^T a^T`: first comes b.
    first: sys::cublasLtMatrixLayout_t,
    second: sys::cublasLtMatrixLayout_t,
    out: sys::cublasLtMatrixLayout_t,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

/// cuBLASLt on one CUDA context.
struct Context {
    handle: sys::cublasLtHandle_t,
    context: cu::CUcontext,
    stream: cu::CUstream,
    before: cu::CUevent,
    after: cu::CUevent,
    workspace: cu::CUdeviceptr,
    plans: HashMap<Key, Plan>,
}

// SAFETY: the handles are used under a lock, on CubeCL's device thread with their context current.
unsafe impl Send for Context {}

/// One per context; `None` where cuBLASLt cannot be used.
static CONTEXTS: LazyLock<Mutex<HashMap<usize, Option<Context>>>> = LazyLock::new(Mutex::default);

/// Why the library did not take a product, in words for a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Declined {
    /// The runtime is not CUDA, or the operands' layout is not BLAS's.
    NotApplicable,
    /// The library or the driver cannot be used, or refused.
    Unavailable(String),
}

/// `out = a b`, or `out += a b` when `accumulate`. Queued, not waited for.
///
/// # Errors
/// [`Declined`]: nothing was queued, and another kernel has to take the product.
pub fn cublaslt<R: Runtime>(
    client: &ComputeClient<R>,
    problem: Problem,
    (a, b, kind): (Matrix, Matrix, FloatKind),
    (out, out_kind): (Matrix, FloatKind),
    accumulate: bool,
) -> Result<(), Declined> {
    let client = (client as &dyn Any).downcast_ref::<ComputeClient<CudaRuntime>>().ok_or(Declined::NotApplicable)?;
    let Problem { m, n, k, outer, inner } = problem;
    let lie = |x: &Matrix, rows, columns| Lie::of(&x.operand, rows, columns, &problem).ok_or(Declined::NotApplicable);
    let key = Key {
        m,
        n,
        k,
        batch: outer * inner,
        a: lie(&a, m, k)?,
        b: lie(&b, k, n)?,
        out: lie(&out, m, n)?,
        kind,
        out_kind,
    };
    let offsets = [&a, &b, &out].map(|x| x.operand.offset as u64);
    let plain = !key.out.transposed && offsets == [0; 3];
    let in_bounds = problem.check("a", &a.operand, m, k, a.len).is_ok()
        && problem.check("b", &b.operand, k, n, b.len).is_ok()
        && problem.check("out", &out.operand, m, n, out.len).is_ok();
    if !plain || !in_bounds || m * n * k * key.batch == 0 {
        return Err(Declined::NotApplicable);
    }
    let inside = client.clone();
    let queued = client.exclusive(move || {
        let pointer = |x: Matrix| inside.get_resource(x.handle).map(|r| r.resource().ptr).map_err(|e| e.to_string());
        let pointers = [pointer(a)?, pointer(b)?, pointer(out)?];
        let mut contexts = CONTEXTS.lock().unwrap_or_else(PoisonError::into_inner);
        let mut current = std::ptr::null_mut();
        // SAFETY: plain query; CubeCL has made its context current on this thread.
        unsafe { cu::cuCtxGetCurrent(&mut current) }.result().map_err(|e| format!("{e:?}"))?;
        let context = contexts.entry(current as usize).or_insert_with(|| Context::new(current).ok());
        let context = context.as_mut().ok_or("cuBLASLt could not be started")?;
        context.multiply(key, pointers, accumulate)
    });
    match queued {
        Ok(result) => result.map_err(Declined::Unavailable),
        Err(error) => Err(Declined::Unavailable(error.to_string())),
    }
}

impl Context {
    fn new(context: cu::CUcontext) -> Result<Self, String> {
        // SAFETY: each call gets pointers to live locals; results are checked; handles live as long as the process.
        unsafe {
            if !sys::is_culib_present() {
                return Err("libcublasLt was not found".into());
            }
            let mut version = 0;
            cu::cuDriverGetVersion(&mut version).result().map_err(|e| format!("{e:?}"))?;
            if version < ORDERING_SINCE {
                return Err(format!("the driver supports CUDA {version}, and ordering needs {ORDERING_SINCE}"));
            }
            let (mut stream, mut before, mut after) =
                (std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut());
            let mut workspace = 0;
            let non_blocking = cu::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
            let untimed = cu::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
            let driver = |result: cu::CUresult| result.result().map_err(|e| format!("{e:?}"));
            driver(cu::cuStreamCreate(&mut stream, non_blocking))?;
            driver(cu::cuEventCreate(&mut before, untimed))?;
            driver(cu::cuEventCreate(&mut after, untimed))?;
            driver(cu::cuMemAlloc_v2(&mut workspace, WORKSPACE_BYTES))?;
            let handle = lt::create_handle().map_err(|e| format!("{e:?}"))?;
            Ok(Context { handle, context, stream, before, after, workspace, plans: HashMap::new() })
        }
    }

    /// Queues a product on the library's stream, after everything queued so far and before everything queued later.
    fn multiply(&mut self, key: Key, [a, b, out]: [u64; 3], accumulate: bool) -> Result<(), String> {
        if !self.plans.contains_key(&key) {
            let plan = self.plan(&key).map_err(|e| format!("{e:?}"))?;
            self.plans.insert(key, plan);
        }
        let plan = self.plans.get(&key).ok_or("the plan was just made")?;
        let (one, beta) = (1.0f32, if accumulate { 1.0f32 } else { 0.0 });
        let driver = |result: cu::CUresult| result.result().map_err(|e| format!("{e:?}"));
        // SAFETY: descriptors belong to this context; the pointers were checked against the operands' reach; the
        // workspace is used by this stream alone.
        unsafe {
            driver(cu::cuCtxRecordEvent(self.context, self.before))?;
            driver(cu::cuStreamWaitEvent(self.stream, self.before, 0))?;
            lt::matmul(
                self.handle,
                plan.operation,
                (&raw const one).cast(),
                (&raw const beta).cast(),
                b as *const c_void,
                plan.first,
                a as *const c_void,
                plan.second,
                out as *const c_void,
                plan.out,
                out as *mut c_void,
                plan.out,
                &raw const plan.algorithm,
                self.workspace as *mut c_void,
                WORKSPACE_BYTES,
                self.stream.cast(),
            )
            .map_err(|e| format!("{e:?}"))?;
            driver(cu::cuEventRecord(self.after, self.stream))?;
            driver(cu::cuCtxWaitEvent(self.context, self.after))
        }
    }

    fn plan(&self, key: &Key) -> Result<Plan, cudarc::cublaslt::result::CublasError> {
        use sys::cublasLtMatmulDescAttributes_t::{CUBLASLT_MATMUL_DESC_TRANSA, CUBLASLT_MATMUL_DESC_TRANSB};
        use sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        let (single, f32_type) = (sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, sys::cudaDataType_t::CUDA_R_32F);
        let operation = lt::create_matmul_desc(single, f32_type)?;
        let (first, second) = (i32::from(key.b.transposed), i32::from(key.a.transposed));
        let preference = lt::create_matmul_pref()?;
        let workspace = WORKSPACE_BYTES;
        // SAFETY: attributes are given as pointers to values of the size the library documents.
        let algorithm = unsafe {
            lt::set_matmul_desc_attribute(operation, CUBLASLT_MATMUL_DESC_TRANSA, (&raw const first).cast(), 4)?;
            lt::set_matmul_desc_attribute(operation, CUBLASLT_MATMUL_DESC_TRANSB, (&raw const second).cast(), 4)?;
            let maximum = CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
            lt::set_matmul_pref_attribute(preference, maximum, (&raw const workspace).cast(), 8)?;
            // Row-major [rows, columns] is column-major [columns, rows]; a transposed operand is stored the other way.
            let first = layout(key.kind, &key.b, key.n, key.k, key.batch)?;
            let second = layout(key.kind, &key.a, key.k, key.m, key.batch)?;
            let out = layout(key.out_kind, &key.out, key.n, key.m, key.batch)?;
            let found = lt::get_matmul_algo_heuristic(self.handle, operation, first, second, out, out, preference);
            lt::destroy_matmul_pref(preference)?;
            Plan { operation, first, second, out, algorithm: found?.algo }
        };
        Ok(algorithm)
    }
}

/// Layout of a batch of operands that are column-major `[rows, columns]` when not transposed.
///
/// # Safety
/// As the library's calls: none beyond valid handles.
unsafe fn layout(
    kind: FloatKind,
    lie: &Lie,
    rows: usize,
    columns: usize,
    batch: usize,
) -> Result<sys::cublasLtMatrixLayout_t, cudarc::cublaslt::result::CublasError> {
    use sys::cublasLtMatrixLayoutAttribute_t::{
        CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
    };
    let data_type = match kind {
        FloatKind::F32 => sys::cudaDataType_t::CUDA_R_32F,
        FloatKind::F16 => sys::cudaDataType_t::CUDA_R_16F,
        FloatKind::Bf16 => sys::cudaDataType_t::CUDA_R_16BF,
    };
    let (rows, columns) = if lie.transposed { (columns, rows) } else { (rows, columns) };
    let layout = lt::create_matrix_layout(data_type, rows as u64, columns as u64, lie.leading as i64)?;
    if batch > 1 {
        let (count, stride) = (batch as i32, lie.stride as i64);
        // SAFETY: pointers to values of the size the library documents.
        unsafe {
            let count_of = CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT;
            let stride_of = CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET;
            lt::set_matrix_layout_attribute(layout, count_of, (&raw const count).cast(), 4)?;
            lt::set_matrix_layout_attribute(layout, stride_of, (&raw const stride).cast(), 8)?;
        }
    }
    Ok(layout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_told_apart() {
        let single = Problem::single(4, 5, 6);
        let row_major = Lie::of(&Operand::matrix(6), 4, 6, &single).unwrap();
        assert_eq!(row_major, Lie { transposed: false, leading: 6, stride: 0 });
        // A weight [5, 6] read as [6, 5].
        let transposed = Lie::of(&Operand::matrix(6).transposed(), 6, 5, &single).unwrap();
        assert_eq!(transposed, Lie { transposed: true, leading: 6, stride: 0 });
        let gaps = Operand { rows: 12, columns: 2, ..Operand::matrix(6) };
        assert_eq!(Lie::of(&gaps, 4, 6, &single), None);
    }

    #[test]
    fn a_batch_of_two_dimensions_collapses_only_when_it_is_dense() {
        let problem = Problem { outer: 3, inner: 2, ..Problem::single(4, 5, 6) };
        let dense = Operand { outer: 48, inner: 24, ..Operand::matrix(6) };
        assert_eq!(Lie::of(&dense, 4, 6, &problem).unwrap().stride, 24);
        // Heads interleaved with tokens.
        let interleaved = Operand { outer: 48, inner: 6, rows: 12, ..Operand::matrix(6) };
        assert_eq!(Lie::of(&interleaved, 4, 6, &problem), None);
    }
}
