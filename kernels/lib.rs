//! CubeCL kernels for training video-language models, usable with any CubeCL runtime.
//!
//! | kernel | called by | shapes | dtypes | reference |
//! | --- | --- | --- | --- | --- |
//! | [`patch_ingest`] | the vision towers' input | u8 `[batch, frames, height, width, 3]` -> `[batch, tokens, 3 * patch * patch]` | f32, f16, bf16 | `patch_ingest::reference` |
//! | [`ingest_wgsl`] | the same with a crop, on wgpu: hand-written WGSL | u8 frames -> tokens | f32 | `ingest_wgsl::reference` |
//! | [`scale_planes`] | the loader's frames, if they are to be scaled here | planes of a crop -> u8 `[frames, px, px, 3]` | u8 | `scale_planes::reference` |
//! | [`embedding`] | the text tower's input | ids `[rows]` -> `[rows, width]`; gradient grouped by token | f32, f16, bf16 | `embedding::reference` |
//! | [`layer_norm`] | every block, with the residual's gradient; `hopper`: in CUDA C++, widths in steps of 128 | `[rows, width]` | f32, f16, bf16 | `layer_norm::reference` |
//! | [`attention`] | every block | `[batch, tokens, 3, heads, head_dim]` -> `[batch, tokens, heads * head_dim]` | f32, f16, bf16 | `attention::reference` |
//! | [`attention::pooled`] | a tower's last block | one query a sample | f32, f16, bf16 | in its test |
//! | [`activation`] | every MLP | `[rows, columns]`, with the bias's gradient | f32, f16, bf16 | `activation::reference` |
//! | [`residual`] | drop path, positions, products without an epilogue | `[rows, columns]` | f32, f16, bf16 | `residual::reference` |
//! | [`gemm::tiled`] | every product, without subgroups | any strides | f32, f16, bf16 | `gemm::reference` |
//! | [`gemm::hopper`] | on Hopper, an MLP's products with its activation; other large ones but weight gradients | `[m, k]` by `[n, k]` or `[k, n]` | f16, bf16 | in its test |
//! | [`gemm::cublaslt`] | every other product, on CUDA | BLAS layouts | f32, f16, bf16 | `gemm::reference` |
//! | [`column_sum`] | bias gradients | `dst[n] += sum over rows of [rows, n]` | f32, f16, bf16 | `column_sum::reference` |
//! | [`rows`] | the heads | `[rows, width]`: gather, add, normalise | f32, f16, bf16 | `rows::reference` |
//! | [`contrastive`] | the loss | products `[chunk, n]` -> loss, accuracy, gradients | f32, gradients also f16, bf16 | `contrastive::reference` |
//! | [`masking`] | VideoMAE: which tokens are seen, their patches, the decoder's ends, the pixel loss | `[clips, visible + decoded]` tokens | f32, f16, bf16 | `masking::on_host`, `masking::*reference` |
//! | [`pool`] | the classifier's input | `[batch, tokens, width]` -> `[batch, width]` | f32, f16, bf16 | `pool::reference` |
//! | [`soft_cross_entropy`] | fine-tuning's loss | logits and targets `[batch, classes]` -> loss, accuracy, gradient | f32, f16, bf16 | `soft_cross_entropy::reference` |
//! | [`flat`] | the compute copy of the weights | accumulate, clear, cast over `[n]` | f32, f16, bf16 | in their test |
//! | [`grad_norm`] | once per step | flat gradient `[n]` -> norm, clip factor, finite flag | f32 | `grad_norm::reference` |
//! | [`optimizer`] | once per step: AdamW, Lion, SGD | flat parameters, gradients and state `[n]` | f32, with an f16/bf16 copy | `reference` of each |
//!
//! Beside them: [`arena`], memory for activations that the host cuts up itself, and [`cuda`], what only CUDA has: streams
//! ordered with CubeCL's, page-locked memory, copies beside kernels.
//!
//! Each kernel lives in a folder or file with its contract, its launcher and a plain f64 reference; the tests under
//! `tests/` compare the two over a grid of shapes on whatever wgpu adapter there is.
//!
//! Arguments are flat [`Handle`]s with lengths (never tensors with strides): on CUDA an `Array` launch costs about
//! 4 us of host time, a `Tensor` launch about 9.

pub mod activation;
pub mod arena;
pub mod attention;
pub mod column_sum;
pub mod contrastive;
pub mod cuda;
pub mod embedding;
pub mod error;
pub mod flat;
pub mod gemm;
pub mod grad_norm;
#[cfg(feature = "cuda")]
mod hopper;
pub mod ingest_wgsl;
pub mod launch;
pub mod layer_norm;
pub mod masking;
pub mod optimizer;
pub mod patch_ingest;
pub mod pool;
pub mod reduce;
pub mod residual;
pub mod rows;
pub mod scale_planes;
pub mod soft_cross_entropy;
mod walk;

pub use cubecl::server::Handle;
pub use error::KernelError;
pub use launch::FloatKind;
