//! Attention for any device: no matrix units, no plane operations, no shared memory, no barriers.
//!
//! A unit owns [`Plan::rows`] rows of one head in registers and walks the other side one token at a time, each token's
//! elements loaded once for all its rows: software drivers pay for loads, not for arithmetic, and want many rows; a GPU,
//! whose neighbouring units load the same token, has no registers for many. Forward, the running maximum and sum are those
//! of FlashAttention-2 (Dao 2023, arXiv:2307.08691); backward, one kernel has units of query rows (`dQ`, `delta`), the
//! other units of key rows (`dK`, `dV`).
//!
//! Arithmetic as for [`super::flash`], in f32 whatever the buffers hold. Bytes: as there, once for every unit (from cache).

mod backward;
mod forward;
mod rows;

use super::AttentionShape;
use crate::{Handle, launch::CUBES_X, with_float};
use cubecl::{features::Plane, prelude::*};

/// Largest head width: beyond it a row no longer fits in any GPU's registers.
pub const MAX_HEAD_DIM: usize = 128;

/// How a kernel is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Plan {
    pub head_dim: u32,
    /// Units per cube.
    pub units: u32,
    /// Rows per unit.
    pub rows: u32,
    /// Whether all loops over a row's elements are unrolled, which keeps rows in registers on a GPU. A software driver
    /// has none to keep, and compiles the longer the more loads there are.
    pub in_registers: bool,
}

/// Whether the kernels are made for this head width.
pub fn supported(head_dim: usize) -> bool {
    head_dim > 0 && head_dim <= MAX_HEAD_DIM && head_dim.is_multiple_of(8)
}

impl Plan {
    /// The forward kernel's, on this device.
    pub fn forward<R: Runtime>(client: &ComputeClient<R>, head_dim: usize) -> Self {
        Self::new(client, head_dim, 5)
    }

    /// Those of the kernel for `dQ` and of the one for `dK` and `dV`, which hold more for each row.
    pub fn backward<R: Runtime>(client: &ComputeClient<R>, head_dim: usize) -> [Self; 2] {
        [3, 3].map(|rows| Self::new(client, head_dim, rows))
    }

    /// With `rows` rows a unit for heads of 32 on a device without plane operations: a software driver. More rows would run
    /// faster still, but compile for much longer.
    fn new<R: Runtime>(client: &ComputeClient<R>, head_dim: usize, rows: usize) -> Self {
        let software = !client.features().plane.contains(Plane::Ops);
        let (units, rows) = if software { (8, (rows * 32 / head_dim).clamp(1, 8)) } else { (64, 1) };
        Plan { head_dim: head_dim as u32, units, rows: rows as u32, in_registers: !software }
    }

    /// Units with work, and the cubes for them.
    fn grid(&self, shape: &AttentionShape) -> (u32, CubeCount, CubeDim) {
        let work = shape.tokens.div_ceil(self.rows as usize) * shape.heads * shape.batch;
        let cubes = work.div_ceil(self.units as usize) as u32;
        let x = cubes.min(CUBES_X);
        (work as u32, CubeCount::Static(x, cubes.div_ceil(x), 1), CubeDim::new_1d(self.units))
    }
}

/// [`super::forward`] for a head width that is [`supported`].
#[doc(hidden)]
pub fn forward<R: Runtime>(
    client: &ComputeClient<R>,
    shape: &AttentionShape,
    plan: Plan,
    qkv: &Handle,
    output: &Handle,
    lse: &Handle,
) {
    let (work, count, dim) = plan.grid(shape);
    with_float!(shape.kind, F => unsafe {
        // SAFETY: every array has the length given; rows past the end are clamped on load and not stored.
        forward::forward_kernel::launch_unchecked::<F, R>(
            client,
            count,
            dim,
            ArrayArg::from_raw_parts(qkv.clone(), shape.qkv_len()),
            ArrayArg::from_raw_parts(output.clone(), shape.output_len()),
            ArrayArg::from_raw_parts(lse.clone(), shape.lse_len()),
            shape.tokens as u32,
            shape.heads as u32,
            work,
            shape.causal as u32,
            shape.scale(),
            plan,
        )
    });
}

/// [`super::backward`] for a head width that is [`supported`].
#[doc(hidden)]
pub fn backward<R: Runtime>(
    client: &ComputeClient<R>,
    shape: &AttentionShape,
    [query, key]: [Plan; 2],
    qkv: &Handle,
    output: &Handle,
    lse: &Handle,
    d_output: &Handle,
    d_qkv: &Handle,
    delta: &Handle,
) {
    let (tokens, heads, causal) = (shape.tokens as u32, shape.heads as u32, shape.causal as u32);
    with_float!(shape.kind, F => unsafe {
        let packed = |handle: &Handle| ArrayArg::from_raw_parts(handle.clone(), shape.qkv_len());
        let per_token = |handle: &Handle| ArrayArg::from_raw_parts(handle.clone(), shape.output_len());
        let per_row = |handle: &Handle| ArrayArg::from_raw_parts(handle.clone(), shape.lse_len());
        // SAFETY: as in `forward`.
        let (work, count, dim) = query.grid(shape);
        backward::query_kernel::launch_unchecked::<F, R>(
            client, count, dim, packed(qkv), per_token(output), per_row(lse), per_token(d_output), packed(d_qkv),
            per_row(delta), tokens, heads, work, causal,
            shape.scale(), query,
        );
        let (work, count, dim) = key.grid(shape);
        backward::key_kernel::launch_unchecked::<F, R>(
            client, count, dim, packed(qkv), per_row(lse), per_row(delta), per_token(d_output), packed(d_qkv), tokens,
            heads, work, causal, shape.scale(), key,
        );
    });
}
