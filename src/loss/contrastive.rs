//! CLIP's symmetric InfoNCE over a batch of video and text features.
//!
//! `logits = exp(logit_scale) * V T^T`, `loss = (CE(rows) + CE(columns)) / 2` with the diagonal as target.
//! Source: Radford et al. 2021, arXiv:2103.00020, figure 3; open_clip `loss.py`, `ClipLoss`.

use crate::ops::gemm::gemm;
use crate::ops::tensor::T;
use burn::tensor::{DType, Tensor};
use burn_cubecl::CubeRuntime;

/// Loss, accuracy and gradients, all on the device.
pub struct Contrastive<R: CubeRuntime> {
    /// `[1]`, mean over both directions.
    pub loss: T<R, 1>,
    /// `[1]`, share of clips whose own caption has the largest logit.
    pub accuracy: T<R, 1>,
    /// Gradients of the loss: `[batch, embed]` twice, and `[1]` for the logit scale.
    pub d_video: T<R, 2>,
    pub d_text: T<R, 2>,
    pub d_logit_scale: T<R, 1>,
}

/// # Shapes
/// - `video`, `text`: `[batch, embed]`, rows of length 1, f32
/// - `logit_scale`: `[1]`, natural logarithm of the factor
pub fn contrastive<R: CubeRuntime>(video: T<R, 2>, text: T<R, 2>, logit_scale: T<R, 1>) -> Contrastive<R> {
    let batch = video.dims()[0];
    let scale = logit_scale.exp().reshape([1, 1]);
    let logits = gemm(video.clone(), text.clone().transpose(), DType::F32) * scale.clone();
    let target = Tensor::eye(batch, &logits.device());
    let own = (logits.clone() * target.clone()).sum_dim(1); // [batch, 1]

    let (row_probability, row_log_sum) = softmax(logits.clone(), 1);
    let (column_probability, column_log_sum) = softmax(logits.clone(), 0);
    let loss = (row_log_sum.sum() + column_log_sum.sum() - own.clone().sum() * 2.0) / (2.0 * batch as f64);
    // 1 where no other caption has a larger logit, else 0.
    let beaten = (logits.clone().max_dim(1) - own).sign();
    let accuracy = beaten.sum() * (-1.0 / batch as f64) + 1.0;

    let d_logits = (row_probability + column_probability - target * 2.0) / (2.0 * batch as f64);
    let d_logit_scale = (d_logits.clone() * logits).sum();
    let d_logits = d_logits * scale;
    Contrastive {
        loss,
        accuracy,
        d_video: gemm(d_logits.clone(), text, DType::F32),
        d_text: gemm(d_logits.transpose(), video, DType::F32),
        d_logit_scale,
    }
}

/// Softmax over `dim` and the logarithm of its denominator.
fn softmax<R: CubeRuntime>(x: T<R, 2>, dim: usize) -> (T<R, 2>, T<R, 2>) {
    let max = x.clone().max_dim(dim);
    let weights = (x - max.clone()).exp();
    let sum = weights.clone().sum_dim(dim);
    (weights / sum.clone(), sum.log() + max)
}
