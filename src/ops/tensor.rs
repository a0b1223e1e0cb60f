//! The two backends everything runs on, and the way between tensors and their buffers.

use avion_kernels::FloatKind;
use burn::backend::Autodiff;
use burn::tensor::{DType, Shape, Tensor, TensorPrimitive};
use burn_cubecl::{CubeBackend, CubeRuntime, tensor::CubeTensor};
use cubecl::prelude::ComputeClient;
use cubecl::server::Handle;

/// Tensors on runtime `R` without gradients. Elements carry their type at run time: f32 weights and bf16 activations
/// live on this one backend. Fusion is off on purpose: the hot path is made of our own fused operations.
/// Booleans are u32, the one width every shading language stores.
pub type Inner<R> = CubeBackend<R, f32, i32, u32>;

/// The same with gradients.
pub type Ad<R> = Autodiff<Inner<R>>;

/// A tensor of `D` dimensions without gradients.
pub type T<R, const D: usize> = Tensor<Inner<R>, D>;

/// A tensor of `D` dimensions in the autodiff graph.
pub type AdT<R, const D: usize> = Tensor<Ad<R>, D>;

/// The buffer behind a tensor.
pub fn primitive<R: CubeRuntime, const D: usize>(tensor: T<R, D>) -> CubeTensor<R> {
    match tensor.into_primitive() {
        TensorPrimitive::Float(primitive) => primitive,
        TensorPrimitive::QFloat(_) => unreachable!("no quantised tensor is ever made"),
    }
}

/// A tensor over a buffer.
pub fn tensor<R: CubeRuntime, const D: usize>(primitive: CubeTensor<R>) -> T<R, D> {
    Tensor::from_primitive(TensorPrimitive::Float(primitive))
}

/// A contiguous tensor over `handle`, whose contents are `shape` elements of `dtype`.
pub fn from_handle<R: CubeRuntime, const D: usize>(
    client: &ComputeClient<R>,
    device: &R::Device,
    handle: Handle,
    shape: [usize; D],
    dtype: DType,
) -> T<R, D> {
    tensor(CubeTensor::new_contiguous(client.clone(), device.clone(), Shape::new(shape), handle, dtype))
}

/// A tensor's buffer with its elements in row-major order and no padding between rows.
pub fn contiguous<R: CubeRuntime, const D: usize>(tensor: T<R, D>) -> CubeTensor<R> {
    burn_cubecl::kernel::into_contiguous(primitive(tensor))
}

/// Makes a strided view dense, so that what follows reads whole rows.
pub fn dense<R: CubeRuntime, const D: usize>(x: T<R, D>) -> T<R, D> {
    tensor(contiguous(x))
}

/// The kernels' name for an element type; `None` when no kernel handles it.
pub fn float_kind(dtype: DType) -> Option<FloatKind> {
    match dtype {
        DType::F32 => Some(FloatKind::F32),
        DType::F16 => Some(FloatKind::F16),
        DType::BF16 => Some(FloatKind::Bf16),
        _ => None,
    }
}

/// Casts, and does nothing when the type is already right.
pub fn cast<R: CubeRuntime, const D: usize>(x: T<R, D>, dtype: DType) -> T<R, D> {
    if x.dtype() == dtype { x } else { tensor(burn_cubecl::kernel::cast(primitive(x), dtype)) }
}
