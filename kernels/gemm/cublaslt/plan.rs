//! Descriptors and algorithm of one key, and the map that keeps them.

use super::key::{Key, Lie, Source};
use crate::FloatKind;
use cudarc::cublaslt::result::{self as lt, CublasError};
use cudarc::cublaslt::sys;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;

/// Scratch memory an algorithm may use. NVIDIA recommends 32 MiB on Hopper; split sums of wide layers use more.
pub const WORKSPACE_BYTES: usize = 64 << 20;

/// Plans kept; captions of every length in every layer stay well below.
const PLANS: usize = 4096;

/// Device addresses of one product. `source` is read only when the key has one.
#[derive(Debug, Clone, Copy)]
pub struct Pointers {
    pub a: u64,
    pub b: u64,
    pub source: u64,
    pub out: u64,
    pub bias: u64,
}

/// Where a product is queued.
#[derive(Clone, Copy)]
pub struct Place {
    pub handle: sys::cublasLtHandle_t,
    pub workspace: u64,
    pub stream: cudarc::driver::sys::CUstream,
}

/// The library's descriptors of a key.
pub struct Descriptors {
    pub key: Key,
    operation: sys::cublasLtMatmulDesc_t,
    // In cuBLAS's column-major reading the product is `out^T = b^T a^T`: first comes b.
    first: sys::cublasLtMatrixLayout_t,
    second: sys::cublasLtMatrixLayout_t,
    out: sys::cublasLtMatrixLayout_t,
}

// SAFETY: used on CubeCL's device thread alone; dropping them only frees host memory.
unsafe impl Send for Descriptors {}
// SAFETY: as above.
unsafe impl Sync for Descriptors {}

/// A key with its algorithm.
pub struct Plan {
    pub descriptors: Descriptors,
    pub algorithm: sys::cublasLtMatmulAlgo_t,
}

impl Descriptors {
    pub fn new(key: &Key) -> Result<Self, CublasError> {
        use sys::cublasLtMatmulDescAttributes_t::{
            CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_MATMUL_DESC_TRANSA,
            CUBLASLT_MATMUL_DESC_TRANSB,
        };
        let null = std::ptr::null_mut();
        let mut new =
            Descriptors { key: *key, operation: null, first: null.cast(), second: null.cast(), out: null.cast() };
        let (single, f32_type) = (sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, sys::cudaDataType_t::CUDA_R_32F);
        new.operation = lt::create_matmul_desc(single, f32_type)?;
        let (first, second) = (i32::from(key.b.transposed), i32::from(key.a.transposed));
        // Row-major [rows, columns] is column-major [columns, rows]; a transposed operand is stored the other way.
        new.first = layout(key.kind, &key.b, key.n, key.k, key.batch)?;
        new.second = layout(key.kind, &key.a, key.k, key.m, key.batch)?;
        new.out = layout(key.out_kind, &key.out, key.n, key.m, key.batch)?;
        // SAFETY: attributes are given as pointers to values of the size the library documents.
        unsafe {
            let set = |attribute, value: *const i32| {
                lt::set_matmul_desc_attribute(new.operation, attribute, value.cast(), size_of::<i32>())
            };
            set(CUBLASLT_MATMUL_DESC_TRANSA, &raw const first)?;
            set(CUBLASLT_MATMUL_DESC_TRANSB, &raw const second)?;
            if key.bias {
                // The bias runs along the rows of `out^T`: one value per output feature.
                let (epilogue, kind) = (sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS, data_type(key.kind));
                set(CUBLASLT_MATMUL_DESC_EPILOGUE, (&raw const epilogue).cast())?;
                set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, (&raw const kind).cast())?;
            }
        }
        Ok(new)
    }

    fn set_bias(&self, pointers: &Pointers) -> Result<(), CublasError> {
        use sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER;
        if self.key.bias {
            let bias = (&raw const pointers.bias).cast();
            // SAFETY: a pointer to an address, as the library documents.
            unsafe { lt::set_matmul_desc_attribute(self.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias, 8)? };
        }
        Ok(())
    }

    /// Up to `wanted` algorithms, the library's guess at the fastest first.
    pub fn proposals(
        &self,
        handle: sys::cublasLtHandle_t,
        pointers: &Pointers,
        wanted: usize,
    ) -> Result<Vec<sys::cublasLtMatmulAlgo_t>, CublasError> {
        use sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        self.set_bias(pointers)?;
        let preference = lt::create_matmul_pref()?;
        let workspace = WORKSPACE_BYTES;
        let mut found = 0;
        // SAFETY: all-zero bytes are a valid result: `state` 0 is the library's success.
        let nothing: sys::cublasLtMatmulHeuristicResult_t = unsafe { std::mem::zeroed() };
        let mut results = vec![nothing; wanted];
        // SAFETY: live descriptors; room for `wanted` results.
        let answer = unsafe {
            let maximum = CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
            lt::set_matmul_pref_attribute(preference, maximum, (&raw const workspace).cast(), 8).and_then(|()| {
                sys::cublasLtMatmulAlgoGetHeuristic(
                    handle,
                    self.operation,
                    self.first,
                    self.second,
                    self.out,
                    self.out,
                    preference,
                    wanted as i32,
                    results.as_mut_ptr(),
                    &mut found,
                )
                .result()
            })
        };
        // SAFETY: created above.
        unsafe { lt::destroy_matmul_pref(preference)? };
        answer?;
        results.truncate(found.max(0) as usize);
        results.retain(|result| result.state == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS);
        if results.is_empty() {
            return Err(CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED));
        }
        Ok(results.into_iter().map(|result| result.algo).collect())
    }

    /// Whether this device can run `algorithm`, which came from elsewhere, within the workspace.
    pub fn accepts(
        &self,
        handle: sys::cublasLtHandle_t,
        pointers: &Pointers,
        algorithm: &sys::cublasLtMatmulAlgo_t,
    ) -> bool {
        if self.set_bias(pointers).is_err() {
            return false;
        }
        // SAFETY: as in `proposals`.
        let mut result: sys::cublasLtMatmulHeuristicResult_t = unsafe { std::mem::zeroed() };
        let (first, second, out) = (self.first, self.second, self.out);
        // SAFETY: live descriptors and a live result.
        let answer = unsafe {
            sys::cublasLtMatmulAlgoCheck(handle, self.operation, first, second, out, out, algorithm, &mut result)
        };
        let success = sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS;
        answer == success && result.state == success && result.workspaceSize <= WORKSPACE_BYTES
    }

    /// Queues the product, with its result at `pointers.out`.
    ///
    /// # Safety
    /// The pointers reach as far as the key says, until the product is done; the workspace is the stream's own.
    pub unsafe fn multiply(
        &self,
        place: Place,
        algorithm: &sys::cublasLtMatmulAlgo_t,
        pointers: &Pointers,
    ) -> Result<(), CublasError> {
        self.set_bias(pointers)?;
        let (one, beta) = (1.0f32, if self.key.source == Source::Nothing { 0.0f32 } else { 1.0 });
        // SAFETY: as the caller promises.
        unsafe {
            lt::matmul(
                place.handle,
                self.operation,
                (&raw const one).cast(),
                (&raw const beta).cast(),
                pointers.b as *const c_void,
                self.first,
                pointers.a as *const c_void,
                self.second,
                pointers.source as *const c_void,
                self.out,
                pointers.out as *mut c_void,
                self.out,
                algorithm,
                place.workspace as *mut c_void,
                WORKSPACE_BYTES,
                place.stream.cast(),
            )
        }
    }
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        // SAFETY: each was created once or is null.
        unsafe {
            for layout in [self.first, self.second, self.out].into_iter().filter(|layout| !layout.is_null()) {
                let _ = lt::destroy_matrix_layout(layout);
            }
            if !self.operation.is_null() {
                let _ = lt::destroy_matmul_desc(self.operation);
            }
        }
    }
}

fn data_type(kind: FloatKind) -> sys::cudaDataType_t {
    match kind {
        FloatKind::F32 => sys::cudaDataType_t::CUDA_R_32F,
        FloatKind::F16 => sys::cudaDataType_t::CUDA_R_16F,
        FloatKind::Bf16 => sys::cudaDataType_t::CUDA_R_16BF,
    }
}

/// Layout of a batch of operands that are column-major `[rows, columns]` when not transposed.
fn layout(
    kind: FloatKind,
    lie: &Lie,
    rows: usize,
    columns: usize,
    batch: usize,
) -> Result<sys::cublasLtMatrixLayout_t, CublasError> {
    use sys::cublasLtMatrixLayoutAttribute_t::{
        CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
    };
    let (rows, columns) = if lie.transposed { (columns, rows) } else { (rows, columns) };
    let layout = lt::create_matrix_layout(data_type(kind), rows as u64, columns as u64, lie.leading as i64)?;
    if batch > 1 {
        let (count, stride) = (batch as i32, lie.stride as i64);
        // SAFETY: pointers to values of the size the library documents.
        unsafe {
            let (count_of, stride_of) =
                (CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET);
            lt::set_matrix_layout_attribute(layout, count_of, (&raw const count).cast(), 4)?;
            lt::set_matrix_layout_attribute(layout, stride_of, (&raw const stride).cast(), 8)?;
        }
    }
    Ok(layout)
}

/// The most recently used values by key.
pub struct Recent<V> {
    values: HashMap<Key, (u64, Arc<V>)>,
    uses: u64,
}

impl<V> Default for Recent<V> {
    fn default() -> Self {
        Recent { values: HashMap::new(), uses: 0 }
    }
}

impl<V> Recent<V> {
    pub fn get(&mut self, key: &Key) -> Option<Arc<V>> {
        let (used, value) = self.values.get_mut(key)?;
        self.uses += 1;
        *used = self.uses;
        Some(value.clone())
    }

    /// When full, the older half goes first.
    pub fn insert(&mut self, key: Key, value: Arc<V>) {
        if self.values.len() >= PLANS {
            let mut uses: Vec<u64> = self.values.values().map(|(used, _)| *used).collect();
            let (_, &mut middle, _) = uses.select_nth_unstable(PLANS / 2);
            self.values.retain(|_, (used, _)| *used > middle);
        }
        self.uses += 1;
        self.values.insert(key, (self.uses, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::cublaslt::key::tests::key;

    #[test]
    fn what_was_used_lately_is_kept() {
        let mut recent = Recent::default();
        for m in 1..=PLANS {
            recent.insert(key(m, 8, 8), Arc::new(m));
        }
        assert_eq!(recent.get(&key(1, 8, 8)).as_deref(), Some(&1));
        recent.insert(key(PLANS + 1, 8, 8), Arc::new(0));
        assert!(recent.values.len() <= PLANS / 2 + 1);
        assert!(recent.get(&key(1, 8, 8)).is_some() && recent.get(&key(PLANS + 1, 8, 8)).is_some());
        assert!(recent.get(&key(2, 8, 8)).is_none());
    }
}
