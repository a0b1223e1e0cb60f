//! CubeCL kernels for training video-language models, usable with any CubeCL runtime.
//!
//! | kernel | called by | shapes | dtypes | reference |
//! | --- | --- | --- | --- | --- |
//! | [`patch_ingest`] | the vision towers' input | u8 `[batch, frames, height, width, 3]` -> `[batch, tokens, 3 * patch * patch]` | f32, f16, bf16 | `patch_ingest::reference` |
//! | [`attention::flash`] | every block, on tensor cores | `[heads, tokens, 64]` | f16, bf16 | `attention::reference` |
//! | [`gemm::tiled`] | every product, without subgroups | any strides | f32, f16, bf16 | `gemm::reference` |
//! | [`gemm::cublaslt`] | every product, on CUDA | BLAS layouts | f32, f16, bf16 | `gemm::reference` |
//! | [`column_sum`] | bias and norm gradients | `dst[n] += sum over rows of [rows, n]` | f32, f16, bf16 | `column_sum::reference` |
//! | [`flat`] | weight gradients, the compute copy of the weights | accumulate, clear, cast over `[n]` | f32, f16, bf16 | in their test |
//! | [`grad_norm`] | once per step | flat gradient `[n]` -> norm, clip factor, finite flag | f32 | `grad_norm::reference` |
//! | [`adamw`] | once per step | flat parameters, gradients and moments `[n]` | f32, with an f16/bf16 copy | `adamw::reference` |
//!
//! Each kernel lives in a folder or file with its contract, its launcher and a plain f64 reference; the tests under
//! `tests/` compare the two over a grid of shapes on whatever wgpu adapter there is.
//!
//! Arguments are flat [`Handle`]s with lengths (never tensors with strides): on CUDA an `Array` launch costs about
//! 4 us of host time, a `Tensor` launch about 9.

pub mod adamw;
pub mod attention;
pub mod column_sum;
pub mod error;
pub mod flat;
pub mod gemm;
pub mod grad_norm;
pub mod launch;
pub mod patch_ingest;

pub use cubecl::server::Handle;
pub use error::KernelError;
pub use launch::FloatKind;
