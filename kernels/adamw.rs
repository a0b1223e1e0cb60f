//! AdamW over flat buffers: one launch per step, whatever the number of parameter tensors.
//!
//! Bytes per element: reads p, g, m, v and writes p, m, v (28), plus 2 for a low-precision copy of p; memory bound.
//!
//! Source: Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2; numerics as `torch.optim.AdamW`
//! (decoupled decay first, then `p -= lr / bias1 * m / (sqrt(v) / sqrt(bias2) + eps)`).

use crate::{FloatKind, Handle, KernelError, launch::grid, with_float};
use cubecl::prelude::*;

/// Elements that share one entry of the group table: every parameter starts at a multiple of this.
pub const BLOCK: usize = 256;

/// Step-wide numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamwStep {
    /// Learning rate of this step, before a group's own factor.
    pub lr: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    /// Updates applied before this one, plus one: sets the bias corrections.
    pub step: u32,
}

impl AdamwStep {
    fn corrections(&self) -> (f32, f32) {
        let bias = |beta: f32| 1.0 - (beta as f64).powi(self.step as i32);
        (bias(self.beta1) as f32, bias(self.beta2).sqrt() as f32)
    }
}

/// Buffers of one update. `len` elements each; `len` is a multiple of [`BLOCK`].
pub struct AdamwBuffers {
    /// Master weights, f32, updated in place.
    pub params: Handle,
    /// Gradients, f32.
    pub grads: Handle,
    /// First and second moments, f32, updated in place.
    pub moment1: Handle,
    pub moment2: Handle,
    /// Group of each block of [`BLOCK`] elements: `[len / BLOCK]`, u32.
    pub groups: Handle,
    /// `[num_groups, 2]`, f32: learning-rate factor, weight decay.
    pub hyper: Handle,
    pub num_groups: usize,
    /// [`crate::grad_norm`]'s statistics: factor of every gradient, and whether to update at all.
    pub stats: Handle,
    /// A copy of the weights in another type, refreshed in the same pass.
    pub copy: Option<(Handle, FloatKind)>,
    pub len: usize,
}

/// New weight of element `i`; moments are updated in place.
#[cube]
fn update_element(
    params: &Array<f32>,
    grads: &Array<f32>,
    moment1: &mut Array<f32>,
    moment2: &mut Array<f32>,
    groups: &Array<u32>,
    hyper: &Array<f32>,
    scale: f32,
    i: usize,
    lr: f32,
    beta1: f32,
    beta2: f32,
    eps: f32,
    bias1: f32,
    sqrt_bias2: f32,
) -> f32 {
    let group = groups[i / BLOCK] as usize;
    let lr = lr * hyper[group * 2usize];
    let decay = hyper[group * 2usize + 1usize];
    let g = grads[i] * scale;
    let m = beta1 * moment1[i] + (1.0 - beta1) * g;
    let v = beta2 * moment2[i] + (1.0 - beta2) * g * g;
    moment1[i] = m;
    moment2[i] = v;
    let denominator = v.sqrt() / sqrt_bias2 + eps;
    let decayed = params[i] * (1.0 - lr * decay);
    decayed - (lr / bias1) * m / denominator
}

#[cube(launch_unchecked)]
fn adamw_kernel<C: Float>(
    params: &mut Array<f32>,
    grads: &Array<f32>,
    moment1: &mut Array<f32>,
    moment2: &mut Array<f32>,
    groups: &Array<u32>,
    hyper: &Array<f32>,
    stats: &Array<f32>,
    copy: &mut Array<C>,
    len: u32,
    lr: f32,
    beta1: f32,
    beta2: f32,
    eps: f32,
    bias1: f32,
    sqrt_bias2: f32,
    #[comptime] with_copy: bool,
) {
    let i = ABSOLUTE_POS;
    if i < len as usize && stats[2usize] > 0.5 {
        let p = update_element(
            params,
            grads,
            moment1,
            moment2,
            groups,
            hyper,
            stats[1usize],
            i,
            lr,
            beta1,
            beta2,
            eps,
            bias1,
            sqrt_bias2,
        );
        params[i] = p;
        if comptime!(with_copy) {
            copy[i] = C::cast_from(p);
        }
    }
}

/// One AdamW update of every parameter. Does nothing when the statistics say the gradient is not finite.
///
/// # Errors
/// [`KernelError::Shape`] when `len` is not a multiple of [`BLOCK`].
pub fn adamw<R: Runtime>(client: &ComputeClient<R>, buffers: AdamwBuffers, step: AdamwStep) -> Result<(), KernelError> {
    let len = buffers.len;
    if !len.is_multiple_of(BLOCK) {
        return Err(KernelError::Shape {
            kernel: "adamw",
            what: "elements",
            expected: format!("a multiple of {BLOCK}"),
            got: len.to_string(),
        });
    }
    let (count, dim) = grid(len);
    let (bias1, sqrt_bias2) = step.corrections();
    let with_copy = buffers.copy.is_some();
    // Without a copy the argument is never touched; a buffer of its own keeps the weights from being bound twice.
    let (copy, kind, copy_len) = match buffers.copy {
        Some((handle, kind)) => (handle, kind, len),
        None => (client.empty(4), FloatKind::F32, 1),
    };
    with_float!(kind, C => unsafe {
        // SAFETY: every array has the length given, and the kernel checks its position against `len`.
        adamw_kernel::launch_unchecked::<C, R>(
            client,
            count,
            dim,
            ArrayArg::from_raw_parts(buffers.params, len),
            ArrayArg::from_raw_parts(buffers.grads, len),
            ArrayArg::from_raw_parts(buffers.moment1, len),
            ArrayArg::from_raw_parts(buffers.moment2, len),
            ArrayArg::from_raw_parts(buffers.groups, len / BLOCK),
            ArrayArg::from_raw_parts(buffers.hyper, buffers.num_groups * 2),
            ArrayArg::from_raw_parts(buffers.stats, crate::grad_norm::STATS_LEN),
            ArrayArg::from_raw_parts(copy, copy_len),
            len as u32,
            step.lr,
            step.beta1,
            step.beta2,
            step.eps,
            bias1,
            sqrt_bias2,
            with_copy,
        )
    });
    Ok(())
}

/// The same for one element in f64: `(p, m, v)` after the update with learning rate `lr` and decay `decay`.
pub fn reference(p: f64, g: f64, m: f64, v: f64, lr: f64, decay: f64, step: &AdamwStep) -> (f64, f64, f64) {
    let (b1, b2) = (step.beta1 as f64, step.beta2 as f64);
    let m = b1 * m + (1.0 - b1) * g;
    let v = b2 * v + (1.0 - b2) * g * g;
    let bias1 = 1.0 - b1.powi(step.step as i32);
    let bias2 = 1.0 - b2.powi(step.step as i32);
    let p = p * (1.0 - lr * decay) - lr / bias1 * m / (v.sqrt() / bias2.sqrt() + step.eps as f64);
    (p, m, v)
}
