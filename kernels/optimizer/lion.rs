//! Lion: the sign of an interpolated momentum, with decoupled decay. One state buffer.
//!
//! `p -= lr * (sign(beta1 m + (1 - beta1) g) + decay p)`, then `m = beta2 m + (1 - beta2) g`.
//!
//! Source: Chen et al. 2023, arXiv:2302.06675, algorithm 2 (betas 0.9 and 0.99 there; learning rates 3 to 10 times
//! smaller than AdamW's, decay as much larger).

use super::{BLOCK_VECTORS, Four, LANES, OptimizerBuffers, clear_gradients, store_weights};
use crate::{KernelError, with_float};
use cubecl::prelude::*;

/// Step-wide numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LionStep {
    /// Learning rate of this step, before a block's own factor.
    pub lr: f32,
    pub beta1: f32,
    pub beta2: f32,
}

#[cube(launch_unchecked)]
fn lion_kernel<C: Float>(
    params: &mut Array<Vector<f32, Four>>,
    grads: &mut Array<Vector<f32, Four>>,
    momentum: &mut Array<Vector<f32, Four>>,
    treatment: &Array<Vector<f32, Four>>,
    stats: &Array<f32>,
    copy: &mut Array<Vector<C, Four>>,
    vectors: u32,
    lr: f32,
    beta1: f32,
    beta2: f32,
    #[comptime] with_copy: bool,
) {
    let i = ABSOLUTE_POS;
    if i < vectors as usize {
        let p = params[i];
        let m = momentum[i];
        let g = grads[i] * Vector::new(stats[1usize]);
        let own = treatment[i / BLOCK_VECTORS];
        clear_gradients(grads, i, own);
        let lr = lr * own[0usize];
        let direction = Vector::<f32, Four>::new(beta1) * m + Vector::new(1.0 - beta1) * g;
        let mut sign = Vector::<f32, Four>::new(0.0);
        #[unroll]
        for lane in 0..LANES {
            let d = direction[lane];
            sign[lane] = select(d > 0.0, f32::new(1.0), select(d < 0.0, f32::new(-1.0), f32::new(0.0)));
        }
        if stats[2usize] > 0.5 {
            momentum[i] = Vector::new(beta2) * m + Vector::new(1.0 - beta2) * g;
            let p = p * Vector::new(1.0 - lr * own[1usize]) - Vector::new(lr) * sign;
            store_weights::<C>(params, copy, i, p, with_copy);
        }
    }
}

/// One Lion update of every parameter; `state` holds the momentum. Leaves weights and momentum as they are when the
/// statistics say the gradient is not finite.
///
/// # Errors
/// [`KernelError::Shape`] when the length is not a multiple of [`super::BLOCK`] or there is not one state buffer.
pub fn lion<R: Runtime>(
    client: &ComputeClient<R>,
    buffers: &OptimizerBuffers,
    step: LionStep,
) -> Result<(), KernelError> {
    buffers.check("lion", 1)?;
    let (count, dim) = buffers.grid();
    let (copy, kind) = buffers.copy_or_unused(client);
    with_float!(kind, C => unsafe {
        // SAFETY: every array has the length given, and the kernel checks its position against it.
        lion_kernel::launch_unchecked::<C, R>(
            client,
            count,
            dim,
            buffers.whole(&buffers.params),
            buffers.whole(&buffers.grads),
            buffers.whole(&buffers.state[0]),
            buffers.treatment(),
            buffers.stats(),
            buffers.whole(&copy),
            (buffers.len / LANES) as u32,
            step.lr,
            step.beta1,
            step.beta2,
            buffers.copy.is_some(),
        )
    });
    Ok(())
}

/// The same for one element in f64: `(p, m)` after the update, and the number whose sign it took.
pub fn reference(p: f64, g: f64, m: f64, lr: f64, decay: f64, step: &LionStep) -> (f64, f64, f64) {
    let (b1, b2) = (step.beta1 as f64, step.beta2 as f64);
    let direction = b1 * m + (1.0 - b1) * g;
    let sign = if direction == 0.0 { 0.0 } else { direction.signum() };
    (p * (1.0 - lr * decay) - lr * sign, b2 * m + (1.0 - b2) * g, direction)
}
