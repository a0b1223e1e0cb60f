//! Stochastic gradient descent, with or without (Nesterov) momentum.
//!
//! Numerics as `torch.optim.SGD` with dampening 0: decay is coupled (`g += decay * p`), `b = momentum * b + g`, and
//! `p -= lr * b`, or `p -= lr * (g + momentum * b)` with Nesterov's momentum.
//!
//! Source: Sutskever et al. 2013, "On the importance of initialization and momentum in deep learning".

use super::{BLOCK_VECTORS, Four, LANES, OptimizerBuffers, clear_gradients, store_weights};
use crate::{KernelError, with_float};
use cubecl::prelude::*;

/// Step-wide numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SgdStep {
    /// Learning rate of this step, before a block's own factor.
    pub lr: f32,
    /// 0 for none; there is then no state buffer.
    pub momentum: f32,
    pub nesterov: bool,
}

impl SgdStep {
    /// State buffers it needs.
    pub fn states(&self) -> usize {
        usize::from(self.momentum != 0.0)
    }
}

#[cube(launch_unchecked)]
fn sgd_kernel<C: Float>(
    params: &mut Array<Vector<f32, Four>>,
    grads: &mut Array<Vector<f32, Four>>,
    buffer: &mut Array<Vector<f32, Four>>,
    treatment: &Array<Vector<f32, Four>>,
    stats: &Array<f32>,
    copy: &mut Array<Vector<C, Four>>,
    vectors: u32,
    lr: f32,
    momentum: f32,
    #[comptime] with_momentum: bool,
    #[comptime] nesterov: bool,
    #[comptime] with_copy: bool,
) {
    let i = ABSOLUTE_POS;
    if i < vectors as usize {
        let p = params[i];
        let own = treatment[i / BLOCK_VECTORS];
        let g = grads[i] * Vector::new(stats[1usize]) + Vector::new(own[1usize]) * p;
        clear_gradients(grads, i, own);
        let mut direction = g;
        let mut b = g;
        if comptime!(with_momentum) {
            b = Vector::new(momentum) * buffer[i] + g;
            direction = b;
            if comptime!(nesterov) {
                direction = g + Vector::new(momentum) * b;
            }
        }
        if stats[2usize] > 0.5 {
            if comptime!(with_momentum) {
                buffer[i] = b;
            }
            let p = p - Vector::new(lr * own[0usize]) * direction;
            store_weights::<C>(params, copy, i, p, with_copy);
        }
    }
}

/// One update of every parameter; `state` holds the momentum buffer, or nothing when `momentum` is 0. Leaves weights and
/// buffer as they are when the statistics say the gradient is not finite.
///
/// # Errors
/// [`KernelError::Shape`] when the length is not a multiple of [`super::BLOCK`] or the number of state buffers is off.
pub fn sgd<R: Runtime>(
    client: &ComputeClient<R>,
    buffers: &OptimizerBuffers,
    step: SgdStep,
) -> Result<(), KernelError> {
    buffers.check("sgd", step.states())?;
    let (count, dim) = buffers.grid();
    let (copy, kind) = buffers.copy_or_unused(client);
    // Without momentum the argument is never touched.
    let state = buffers.state.first().cloned().unwrap_or_else(|| client.empty(16));
    with_float!(kind, C => unsafe {
        // SAFETY: every array has the length given, and the kernel checks its position against it.
        sgd_kernel::launch_unchecked::<C, R>(
            client,
            count,
            dim,
            buffers.whole(&buffers.params),
            buffers.whole(&buffers.grads),
            buffers.whole(&state),
            buffers.treatment(),
            buffers.stats(),
            buffers.whole(&copy),
            (buffers.len / LANES) as u32,
            step.lr,
            step.momentum,
            step.states() > 0,
            step.nesterov,
            buffers.copy.is_some(),
        )
    });
    Ok(())
}

/// The same for one element in f64: `(p, b)` after the update.
pub fn reference(p: f64, g: f64, b: f64, lr: f64, decay: f64, step: &SgdStep) -> (f64, f64) {
    let mu = step.momentum as f64;
    let g = g + decay * p;
    let b = mu * b + g;
    let direction = if step.nesterov { g + mu * b } else { b };
    (p - lr * direction, b)
}
