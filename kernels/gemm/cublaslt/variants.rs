//! Algorithms beside the ones the library proposes.
//!
//! The proposals (at most 8 in version 13.1) leave out settings that are often faster on Hopper. Measured on an H200,
//! `[200960, 768] x [768, 2304]` with a bias in bf16: the first proposal 1.13 ms, the best 1.06, the best variation 0.92.

use cudarc::cublaslt::sys::{self, cublasLtMatmulAlgo_t as Algorithm};
use sys::cublasLtMatmulAlgoCapAttributes_t as Cap;
use sys::cublasLtMatmulAlgoConfigAttributes_t::{self as Config, *};

/// Ways to cut a long sum, where the output alone has too few tiles for the device.
const SPLITS: [u32; 12] = [2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 16, 22];

/// Sums shorter than this are not cut.
const LONG_SUM: usize = 16_384;

/// The same algorithm with each other value of an implementation's private switch.
pub fn custom_options(algorithm: &Algorithm) -> Vec<Algorithm> {
    let most = capability(algorithm, Cap::CUBLASLT_ALGO_CAP_CUSTOM_OPTION_MAX).first().copied().unwrap_or(0);
    changed(algorithm, CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION, 0..=most.min(31))
}

/// The same algorithm with tiles handed out in another order, or with thread blocks clustered otherwise.
pub fn orders(algorithm: &Algorithm) -> Vec<Algorithm> {
    use sys::cublasLtClusterShape_t::*;
    let clusters = [CUBLASLT_CLUSTER_SHAPE_1x1x1, CUBLASLT_CLUSTER_SHAPE_2x1x1, CUBLASLT_CLUSTER_SHAPE_1x2x1];
    let mut all = changed(algorithm, CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING, 0..=1);
    all.extend(changed(algorithm, CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, clusters.map(|shape| shape as u32)));
    all
}

/// The same algorithm with the sum over `k` cut into more or fewer parts.
pub fn splits(algorithm: &Algorithm, k: usize) -> Vec<Algorithm> {
    let parts = if k < LONG_SUM { &[] } else { &SPLITS[..] };
    changed(algorithm, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, parts.iter().copied())
}

/// The same algorithm with each other tile its implementation has.
pub fn tiles(algorithm: &Algorithm) -> Vec<Algorithm> {
    changed(algorithm, CUBLASLT_ALGO_CONFIG_TILE_ID, capability(algorithm, Cap::CUBLASLT_ALGO_CAP_TILE_IDS))
}

fn changed(algorithm: &Algorithm, attribute: Config, values: impl IntoIterator<Item = u32>) -> Vec<Algorithm> {
    let with = |value: u32| {
        let (mut new, short) = (*algorithm, value as u16);
        // The library documents 16 bits for a cluster's shape and 32 for the rest.
        let (value, size) = match attribute {
            CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID => ((&raw const short).cast(), 2),
            _ => ((&raw const value).cast(), 4),
        };
        // SAFETY: a live algorithm, and a pointer to a value of the size given.
        let answer = unsafe { sys::cublasLtMatmulAlgoConfigSetAttribute(&mut new, attribute, value, size) };
        (answer == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS).then_some(new)
    };
    values.into_iter().filter_map(with).collect()
}

/// A capability of an algorithm's implementation; empty when the library does not tell.
fn capability(algorithm: &Algorithm, attribute: Cap) -> Vec<u32> {
    let (mut values, mut written) = (vec![0u32; 2048], 0);
    let size = match attribute {
        Cap::CUBLASLT_ALGO_CAP_TILE_IDS => size_of_val(&values[..]),
        _ => size_of::<u32>(),
    };
    // SAFETY: a live algorithm, and room for `size` bytes.
    let answer = unsafe {
        let start = values.as_mut_ptr().cast();
        sys::cublasLtMatmulAlgoCapGetAttribute(algorithm, attribute, start, size, &mut written)
    };
    let known = answer == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS;
    values.truncate(if known { written / size_of::<u32>() } else { 0 });
    values
}
