//! Update rules over flat buffers: one launch per step, whatever the number of parameter tensors.
//!
//! | rule | state buffers | bytes per element, with a 16-bit copy and cleared gradients |
//! | --- | --- | --- |
//! | [`adamw`](adamw::adamw) | 2 | reads p, g, m, v; writes p, m, v, g and the copy: 34 |
//! | [`lion`](lion::lion) | 1 | reads p, g, m; writes p, m, g and the copy: 26 |
//! | [`sgd`](sgd::sgd) | 1, or none without momentum | 26, or 18 |
//!
//! All are memory bound. A unit handles four elements: one 16-byte access per buffer, all issued before the first is
//! needed. Decay and learning-rate factor are looked up per block of [`BLOCK`] elements.

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

type Four = Const<4>;
type Two = Const<2>;

/// Buffers of one update. `len` elements each unless said otherwise; `len` is a multiple of [`BLOCK`].
pub struct OptimizerBuffers {
    /// Master weights, f32, updated in place.
    pub params: Handle,
    /// Gradients, f32.
    pub grads: Handle,
    /// The rule's own state, f32, updated in place, all zero before the first step.
    pub state: Vec<Handle>,
    /// `[len / BLOCK, 2]`, f32: learning-rate factor and weight decay of each block.
    pub treatment: Handle,
    /// [`crate::grad_norm`]'s statistics: factor of every gradient, and whether to update at all.
    pub stats: Handle,
    /// A copy of the weights in another type, refreshed in the same pass.
    pub copy: Option<(Handle, FloatKind)>,
    /// Whether the gradients are set to zero, in the same pass; also when the statistics forbid the update.
    pub clear_grads: bool,
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
        unsafe { ArrayArg::from_raw_parts(self.treatment.clone(), self.len / BLOCK * 2) }
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
