//! Every heavy computation of a step, forward and backward, behind one set of functions.
//!
//! Layers call these, and these call kernels and matrix products; each backward pass is written out by hand. Activations
//! are matrices in memory of our own ([`workspace`]); what enters and leaves a tower (features, their gradients) are
//! Burn's tensors, and a tower is one node of its graph ([`differentiable`]).
//!
//! Axis names: `batch` (clips), `frames`, `patches` (per frame), `tokens` (per clip or caption), `heads`, `head_dim`,
//! `width` (of a tower), `embed` (of the space both towers share). `rows` is `batch * tokens`: activations are kept
//! two-dimensional, `[rows, width]`, so that every linear layer is one matrix product.

pub mod activated;
pub mod block;
pub mod differentiable;
pub mod gemm;
pub mod head;
pub mod linear;
pub mod mlp;
pub mod norm;
pub mod patch_embed;
pub mod pooled_block;
pub mod residual;
pub mod tensor;
pub mod token_embed;
pub mod tubelet_embed;
pub mod workspace;
