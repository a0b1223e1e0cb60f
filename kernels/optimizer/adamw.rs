//! AdamW.
//!
//! Source: Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2; numerics as `torch.optim.AdamW`
//! (decoupled decay first, then `p -= lr / bias1 * m / (sqrt(v) / sqrt(bias2) + eps)`).

use super::{BLOCK_VECTORS, Four, LANES, OptimizerBuffers, clear_gradients, store_weights};
use crate::{KernelError, with_float};
use cubecl::prelude::*;

/// Step-wide numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamwStep {
    /// Learning rate of this step, before a block's own factor.
    pub lr: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
}

#[cube(launch_unchecked)]
fn adamw_kernel<C: Float>(
    params: &mut Array<Vector<f32, Four>>,
    grads: &mut Array<Vector<f32, Four>>,
    moment1: &mut Array<Vector<f32, Four>>,
    moment2: &mut Array<Vector<f32, Four>>,
    treatment: &Array<Vector<f32, Four>>,
    stats: &Array<f32>,
    copy: &mut Array<Vector<C, Four>>,
    vectors: u32,
    lr: f32,
    beta1: f32,
    beta2: f32,
    eps: f32,
    #[comptime] with_copy: bool,
) {
    let i = ABSOLUTE_POS;
    if i < vectors as usize {
        let p = params[i];
        let m = moment1[i];
        let v = moment2[i];
        let g = grads[i] * Vector::new(stats[1usize]);
        let own = treatment[i / BLOCK_VECTORS];
        clear_gradients(grads, i, own);
        let lr = lr * own[0usize];
        let m = Vector::new(beta1) * m + Vector::new(1.0 - beta1) * g;
        let v = Vector::new(beta2) * v + Vector::new(1.0 - beta2) * g * g;
        let denominator = v.sqrt() / Vector::new(stats[5usize]) + Vector::new(eps);
        let decayed = p * Vector::new(1.0 - lr * own[1usize]);
        if stats[2usize] > 0.5 {
            moment1[i] = m;
            moment2[i] = v;
            let p = decayed - Vector::new(lr / stats[4usize]) * m / denominator;
            store_weights::<C>(params, copy, i, p, with_copy);
        }
    }
}

/// One AdamW update of every parameter; `state` holds the first and the second moment, the statistics the bias
/// corrections. Leaves weights and moments as
/// they are when the statistics say the gradient is not finite.
///
/// # Errors
/// [`KernelError::Shape`] when the length is not a multiple of [`super::BLOCK`] or there are not two state buffers.
pub fn adamw<R: Runtime>(
    client: &ComputeClient<R>,
    buffers: &OptimizerBuffers,
    step: AdamwStep,
) -> Result<(), KernelError> {
    buffers.check("adamw", 2)?;
    let (count, dim) = buffers.grid();
    let (copy, kind) = buffers.copy_or_unused(client);
    with_float!(kind, C => unsafe {
        // SAFETY: every array has the length given, and the kernel checks its position against it.
        adamw_kernel::launch_unchecked::<C, R>(
            client,
            count,
            dim,
            buffers.whole(&buffers.params),
            buffers.whole(&buffers.grads),
            buffers.whole(&buffers.state[0]),
            buffers.whole(&buffers.state[1]),
            buffers.treatment(),
            buffers.stats(),
            buffers.whole(&copy),
            (buffers.len / LANES) as u32,
            step.lr,
            step.beta1,
            step.beta2,
            step.eps,
            buffers.copy.is_some(),
        )
    });
    Ok(())
}

/// The same for one element in f64: `(p, m, v)` after update number `count` with learning rate `lr` and decay `decay`.
pub fn reference(
    p: f64,
    g: f64,
    m: f64,
    v: f64,
    [lr, decay]: [f64; 2],
    step: &AdamwStep,
    count: i32,
) -> (f64, f64, f64) {
    let (b1, b2) = (step.beta1 as f64, step.beta2 as f64);
    let m = b1 * m + (1.0 - b1) * g;
    let v = b2 * v + (1.0 - b2) * g * g;
    let bias1 = 1.0 - b1.powi(count);
    let bias2 = 1.0 - b2.powi(count);
    let p = p * (1.0 - lr * decay) - lr / bias1 * m / (v.sqrt() / bias2.sqrt() + step.eps as f64);
    (p, m, v)
}
