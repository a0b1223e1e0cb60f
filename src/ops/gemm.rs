//! Matrix products: which implementation takes them.
//!
//! Devices without subgroups (Mesa's software Vulkan) get our register-tiled kernel, which reads any strides in place;
//! the others get CubeCL's. Sums are f32 everywhere.

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
    if !prefers_tiled(&a) {
        return tensor(by_cubecl(a, b, out));
    }
    let mut shape: Vec<usize> = a.meta.shape().iter().copied().collect();
    shape[D - 1] = b.meta.shape()[D - 1];
    let len = shape.iter().product::<usize>();
    let y = CubeTensor::new_contiguous(
        a.client.clone(),
        a.device.clone(),
        Shape::from(shape),
        a.client.empty(len * out.size()),
        out,
    );
    by_tiles(a, b, y.clone());
    tensor(y)
}

/// Adds `a b` to a weight's gradient. `a`: `[out, rows]`, `b`: `[rows, in]`, for a weight `[out, in]`.
pub fn gemm_accumulate<R: CubeRuntime>(a: T<R, 2>, b: T<R, 2>, weight: &Weight<R>) {
    weight.accumulate(gemm(a, b, DType::F32));
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
    let rank = a.meta.shape().num_dims();
    let (shape_a, shape_b) = (a.meta.shape().clone(), b.meta.shape().clone());
    let batch = |dim: usize| if rank == 4 { shape_a[dim] } else { 1 };
    let problem =
        Problem { m: shape_a[rank - 2], k: shape_a[rank - 1], n: shape_b[rank - 1], outer: batch(0), inner: batch(1) };
    let client = out.client.clone();
    let (kind, out_kind) = (kind(&a), kind(&out));
    let launched = tiled(&client, problem, 1.0, (matrix(a), matrix(b), kind), (matrix(out), out_kind));
    if let Err(error) = launched {
        unreachable!("operands come from tensors that hold them: {error}");
    }
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
