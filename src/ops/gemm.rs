//! Matrix products: which implementation takes them.
//!
//! CUDA devices get cuBLASLt; devices without subgroups (Mesa's software Vulkan) our register-tiled kernel, which reads
//! any strides in place; the rest, and layouts the others do not take, CubeCL's. Sums are f32 everywhere.

use super::tensor::{T, float_kind, primitive, tensor};
use crate::model::params::Weight;
use avion_kernels::FloatKind;
use avion_kernels::gemm::tiled::{Matrix, tiled};
use avion_kernels::gemm::{Operand, Problem};
use burn::tensor::{DType, Shape};
use burn_cubecl::kernel::matmul::{MatmulStrategy, matmul};
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::features::Plane;

/// `a b`, with the result in `out`; either operand may be a transposed view.
///
/// # Shapes
/// - `a`: `[m, k]` or `[outer, inner, m, k]`, `b`: `[k, n]` or `[outer, inner, k, n]`, of one element type
/// - returns `[m, n]` or `[outer, inner, m, n]`
pub fn gemm<R: CubeRuntime, const D: usize>(a: T<R, D>, b: T<R, D>, out: DType) -> T<R, D> {
    let (a, b) = (primitive(a), primitive(b));
    debug_assert_eq!(a.dtype, b.dtype, "both operands are read with the first one's type");
    let mut shape: Vec<usize> = a.meta.shape().iter().copied().collect();
    shape[D - 1] = b.meta.shape()[D - 1];
    let len = shape.iter().product::<usize>();
    let new = |shape| {
        let handle = a.client.empty(len * out.size());
        CubeTensor::new_contiguous(a.client.clone(), a.device.clone(), Shape::from(shape), handle, out)
    };
    if prefers_tiled(&a) {
        let y = new(shape);
        by_tiles(a, b, y.clone());
        return tensor(y);
    }
    #[cfg(feature = "cuda")]
    {
        let y = new(shape);
        if by_cublaslt(&a, &b, &y, false) {
            return tensor(y);
        }
    }
    tensor(by_cubecl(a, b, out))
}

/// Adds `a b` to a weight's gradient. `a`: `[out, rows]`, `b`: `[rows, in]`, for a weight `[out, in]`.
pub fn gemm_accumulate<R: CubeRuntime>(a: T<R, 2>, b: T<R, 2>, weight: &Weight<R>) {
    #[cfg(feature = "cuda")]
    if by_cublaslt(&primitive(a.clone()), &primitive(b.clone()), &weight.gradient(), true) {
        return;
    }
    weight.accumulate(gemm(a, b, DType::F32));
}

/// Queues the product on cuBLASLt; false when something else has to take it.
#[cfg(feature = "cuda")]
fn by_cublaslt<R: CubeRuntime>(a: &CubeTensor<R>, b: &CubeTensor<R>, out: &CubeTensor<R>, accumulate: bool) -> bool {
    use avion_kernels::gemm::cublaslt::{Declined, cublaslt};
    use std::sync::Once;
    static WARNED: Once = Once::new();
    let operands = (matrix(a.clone()), matrix(b.clone()), kind(a));
    match cublaslt(&out.client, problem(a, b), operands, (matrix(out.clone()), kind(out)), accumulate) {
        Ok(()) => true,
        Err(Declined::NotApplicable) => false,
        Err(Declined::Unavailable(why)) => {
            WARNED
                .call_once(|| tracing::warn!("cuBLASLt is not used ({why}); CubeCL's slower products take its place"));
            false
        }
    }
}

fn prefers_tiled<R: CubeRuntime>(a: &CubeTensor<R>) -> bool {
    !a.client.features().plane.contains(Plane::Ops)
}

fn by_cubecl<R: CubeRuntime>(a: CubeTensor<R>, b: CubeTensor<R>, out: DType) -> CubeTensor<R> {
    let shapes = (a.meta.shape().clone(), b.meta.shape().clone());
    match matmul(a, b, None, MatmulStrategy::default(), out) {
        Ok(y) => y,
        // The chooser's last resort takes any problem in a type the device has; device selection checks the type.
        Err(error) => unreachable!("matrix product {shapes:?} was refused: {error:?}"),
    }
}

fn by_tiles<R: CubeRuntime>(a: CubeTensor<R>, b: CubeTensor<R>, out: CubeTensor<R>) {
    let (problem, kind, out_kind) = (problem(&a, &b), kind(&a), kind(&out));
    let client = out.client.clone();
    let launched = tiled(&client, problem, 1.0, (matrix(a), matrix(b), kind), (matrix(out), out_kind));
    if let Err(error) = launched {
        unreachable!("operands come from tensors that hold them: {error}");
    }
}

fn problem<R: CubeRuntime>(a: &CubeTensor<R>, b: &CubeTensor<R>) -> Problem {
    let (shape, rank) = (a.meta.shape(), a.meta.shape().num_dims());
    let batch = |dim: usize| if rank == 4 { shape[dim] } else { 1 };
    Problem { m: shape[rank - 2], k: shape[rank - 1], n: b.meta.shape()[rank - 1], outer: batch(0), inner: batch(1) }
}

fn matrix<R: CubeRuntime>(x: CubeTensor<R>) -> Matrix {
    let (strides, rank) = (x.meta.strides().clone(), x.meta.shape().num_dims());
    let batch = |dim: usize| if rank == 4 { strides[dim] } else { 0 };
    let operand =
        Operand { offset: 0, outer: batch(0), inner: batch(1), rows: strides[rank - 2], columns: strides[rank - 1] };
    Matrix { len: x.handle.size_in_used() as usize / x.dtype.size(), handle: x.handle, operand }
}

fn kind<R: CubeRuntime>(x: &CubeTensor<R>) -> FloatKind {
    float_kind(x.dtype).unwrap_or_else(|| unreachable!("products of {:?} are never asked for", x.dtype))
}
