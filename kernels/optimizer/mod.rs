//! Update rules over flat buffers: one launch per step, whatever the number of parameter tensors.
//!
//! | rule | state buffers | bytes per element, with a 16-bit copy | with cleared gradients |
//! | --- | --- | --- | --- |
//! | [`adamw`](adamw::adamw) | 2 | reads p, g, m, v; writes p, m, v and the copy: 30 | writes g too: 34 |
//! | [`lion`](lion::lion) | 1 | reads p, g, m; writes p, m and the copy: 22 | 26 |
//! | [`sgd`](sgd::sgd) | 1, or none without momentum | 22, or 14 | 26, or 18 |
//!
//! All are memory bound. A unit handles four elements: one 16-byte access per buffer, all issued before the first is
//! needed. Decay, learning-rate factor, and whether gradients are cleared, are looked up per block of [`BLOCK`] elements.

pub mod adamw;
pub mod lion;
pub mod sgd;

use crate::{FloatKind, Handle, KernelError, launch::grid};
use cubecl::prelude::*;

/// Elements that share one entry of the treatment table: every parameter starts at a multiple of this.
pub const BLOCK: usize = 256;

/// Elements one unit handles.
const LANES: usize = 4;
/// Vectors of a block.
const BLOCK_VECTORS: usize = BLOCK / LANES;

/// Columns of the treatment table: what one 16-byte access loads.
pub const TREATMENTS: usize = 4;

type Four = Const<4>;

/// Buffers of one update. `len` elements each unless said otherwise; `len` is a multiple of [`BLOCK`].
pub struct OptimizerBuffers {
    /// Master weights, f32, updated in place.
    pub params: Handle,
    /// Gradients, f32.
    pub grads: Handle,
    /// The rule's own state, f32, updated in place, all zero before the first step.
    pub state: Vec<Handle>,
    /// `[len / BLOCK, TREATMENTS]`, f32: of each block the learning-rate factor, the weight decay, 1 where the gradients are
    /// set to zero in the same pass, also when the statistics forbid the update, and 0 where they are left; the last column
    /// is not used.
    pub treatment: Handle,
    /// [`crate::grad_norm`]'s statistics: factor of every gradient, and whether to update at all.
    pub stats: Handle,
    /// A copy of the weights in another type, refreshed in the same pass.
    pub copy: Option<(Handle, FloatKind)>,
    pub len: usize,
}

impl OptimizerBuffers {
    fn check(&self, kernel: &'static str, states: usize) -> Result<(), KernelError> {
        let shape =
            |what, expected, got: usize| Err(KernelError::Shape { kernel, what, expected, got: got.to_string() });
        if !self.len.is_multiple_of(BLOCK) {
            return shape("elements", format!("a multiple of {BLOCK}"), self.len);
        }
        if self.state.len() != states {
            return shape("state buffers", states.to_string(), self.state.len());
        }
        let (treatment, expected) = (self.treatment.size_in_used() as usize / 4, self.len / BLOCK * TREATMENTS);
        if treatment < expected {
            return shape("treatment", format!("at least {expected} values"), treatment);
        }
        Ok(())
    }

    fn grid(&self) -> (CubeCount, CubeDim) {
        grid(self.len / LANES)
    }

    /// An array of the whole length.
    ///
    /// # Safety
    /// `handle` holds `len` elements, and the kernel checks its position against the length.
    unsafe fn whole<R: Runtime>(&self, handle: &Handle) -> ArrayArg<R> {
        // SAFETY: passed on to the caller.
        unsafe { ArrayArg::from_raw_parts(handle.clone(), self.len) }
    }

    /// # Safety
    /// As for [`whole`](Self::whole).
    unsafe fn treatment<R: Runtime>(&self) -> ArrayArg<R> {
        // SAFETY: passed on to the caller.
        unsafe { ArrayArg::from_raw_parts(self.treatment.clone(), self.len / BLOCK * TREATMENTS) }
    }

    /// # Safety
    /// As for [`whole`](Self::whole).
    unsafe fn stats<R: Runtime>(&self) -> ArrayArg<R> {
        // SAFETY: passed on to the caller.
        unsafe { ArrayArg::from_raw_parts(self.stats.clone(), crate::grad_norm::STATS_LEN) }
    }

    /// The copy and its type. Without one, a buffer that the kernel never touches: an argument must be bound, and no
    /// buffer may be bound twice.
    fn copy_or_unused<R: Runtime>(&self, client: &ComputeClient<R>) -> (Handle, FloatKind) {
        self.copy.clone().unwrap_or_else(|| (client.empty(16), FloatKind::F32))
    }
}

/// Ends the step of one vector: the new weights and their copy.
#[cube]
fn store_weights<C: Float>(
    params: &mut Array<Vector<f32, Four>>,
    copy: &mut Array<Vector<C, Four>>,
    i: usize,
    p: Vector<f32, Four>,
    #[comptime] with_copy: bool,
) {
    params[i] = p;
    if comptime!(with_copy) {
        copy[i] = Vector::cast_from(p);
    }
}

/// Sets the gradients of one vector, which have been read, to zero where its block's treatment, `own`, says so. Before the
/// update: after it, AdamW's kernel takes 38 registers on sm_90a instead of 32, and fewer of its threads run at once.
#[cube]
fn clear_gradients(grads: &mut Array<Vector<f32, Four>>, i: usize, own: Vector<f32, Four>) {
    if own[2usize] > 0.5 {
        grads[i] = Vector::new(0.0);
    }
}
