//! FlashAttention-2 on tensor cores: scores never in memory, forward and backward.
//!
//! A plane owns 16 or 32 rows as left operands in registers and walks tiles of the other side, which its cube of four
//! planes keeps double-buffered in shared memory by asynchronous copies. 32 rows halve what is read from shared memory
//! for each product, which is what bounds these kernels; where the registers do not suffice, it is 16. Softmax is in f32
//! registers, and the logarithm of its sum is kept for the backward pass, which recomputes the scores: one kernel for
//! `dQ` (and `delta = rowsum(dO * O)`), one for `dK` and `dV`. No atomics: results repeat to the bit.
//!
//! Arithmetic: `4 tokens^2 head_dim` operations a head forward (half of it if causal), 3.5 times that backward, where
//! the scores and `dP` are computed twice. Bytes: qkv and output once, k and v again for every block of rows (from cache).
//!
//! Source: Dao 2023, arXiv:2307.08691, algorithms 1 and 2.
#![allow(
    clippy::manual_div_ceil,
    clippy::manual_is_multiple_of,
    clippy::collapsible_if,
    reason = "kernels are written in CubeCL's subset of Rust, where these forms are the ones it expands"
)]

#[cfg(feature = "cuda")]
pub mod cuda;
pub mod forward;
mod fragments;
pub mod key;
pub mod query;

use super::AttentionShape;
use crate::{FloatKind, Handle};
use cubecl::{features::MmaConfig, prelude::*};
use half::{bf16, f16};

/// Head widths these kernels are made for.
pub const HEAD_DIMS: [usize; 5] = [32, 64, 80, 96, 128];

/// Up to this many tokens, tiles of 32 keys waste less than tiles of 64.
const SHORT: usize = 128;

/// Units per cube: four planes.
const UNITS: u32 = 128;

/// How a kernel cuts its work: fixed when it is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Plan {
    pub head_dim: u32,
    pub causal: bool,
    /// 16-row tiles that a plane owns.
    pub row_tiles: u32,
    /// Rows of a tile in shared memory; the columns of a tile of scores.
    pub columns: u32,
    /// Of these, columns whose scores are in registers at a time (backward only).
    pub step: u32,
}

impl Plan {
    /// Rows that a cube owns.
    pub fn rows(&self) -> u32 {
        UNITS / 32 * 16 * self.row_tiles
    }

    /// 16-byte chunks from one row of a shared tile to the next: odd, against bank conflicts.
    fn pitch(&self) -> u32 {
        (self.head_dim / 8) | 1
    }

    /// Chunks of a double-buffered tile.
    fn shared_chunks(&self) -> usize {
        (2 * self.columns * self.pitch()) as usize
    }

    /// Shared memory of the largest kernel with this plan: two tiles, two numbers for each of their rows, the barrier.
    fn shared_bytes(&self) -> usize {
        2 * 16 * self.shared_chunks() + 16 * self.columns as usize + 256
    }

    fn new(shape: &AttentionShape, (row_tiles, columns, step): (u32, u32, u32)) -> Self {
        Plan { head_dim: shape.head_dim as u32, causal: shape.causal, row_tiles, columns, step }
    }

    /// The forward kernel's.
    pub fn forward(shape: &AttentionShape) -> Self {
        let columns = if shape.tokens > SHORT { 64 } else { 32 };
        Self::new(
            shape,
            match shape.head_dim {
                32 | 64 => (2, columns, columns),
                80 => (2, 32, 32),
                _ => (1, 32, 32),
            },
        )
    }

    /// The one of the kernel for `dQ`.
    pub fn query(shape: &AttentionShape) -> Self {
        Self::new(
            shape,
            match shape.head_dim {
                32 | 64 => (2, 64, 32),
                _ => (1, 32, 32),
            },
        )
    }

    /// The one of the kernel for `dK` and `dV`.
    pub fn key(shape: &AttentionShape) -> Self {
        Self::new(
            shape,
            match shape.head_dim {
                32 => (2, 64, 32),
                128 => (1, 32, 16),
                _ => (1, 32, 32),
            },
        )
    }
}

/// Every way these kernels are compiled for a head width, by name.
#[doc(hidden)]
pub fn variants(head_dim: usize, causal: bool) -> Vec<(&'static str, Plan)> {
    let shape = |tokens| AttentionShape { batch: 1, tokens, heads: 1, head_dim, causal, kind: FloatKind::Bf16 };
    let (short, long) = (shape(1), shape(SHORT + 1));
    let mut plans = vec![("forward", Plan::forward(&long)), ("query", Plan::query(&long)), ("key", Plan::key(&long))];
    if Plan::forward(&short) != Plan::forward(&long) {
        plans.push(("forward", Plan::forward(&short)));
    }
    plans
}

/// Runs `$body` with `$E` bound to the half-precision type of `$kind`.
macro_rules! half_type {
    ($kind:expr, $E:ident => $body:expr) => {
        match $kind {
            FloatKind::F16 => {
                type $E = f16;
                $body
            }
            FloatKind::Bf16 => {
                type $E = bf16;
                $body
            }
            FloatKind::F32 => unreachable!("`supported` refuses f32"),
        }
    };
}

/// Whether the device has what the kernels use: 16 x 8 x 16 products of this type, asynchronous copies, planes of 32,
/// and the shared memory.
pub fn supported<R: Runtime>(client: &ComputeClient<R>, shape: &AttentionShape) -> bool {
    let operand = match shape.kind {
        FloatKind::F32 => return false,
        FloatKind::F16 => f16::as_type_native_unchecked().storage_type(),
        FloatKind::Bf16 => bf16::as_type_native_unchecked().storage_type(),
    };
    let config = MmaConfig {
        a_type: operand,
        b_type: operand,
        cd_type: f32::as_type_native_unchecked().storage_type(),
        m: 16,
        n: 8,
        k: 16,
    };
    let (features, hardware) = (client.features(), &client.properties().hardware);
    HEAD_DIMS.contains(&shape.head_dim)
        && features.matmul.mma.contains(&config)
        && features.copy_async
        && hardware.plane_size_min == 32
        && hardware.plane_size_max == 32
        && [Plan::forward(shape), Plan::query(shape), Plan::key(shape)]
            .iter()
            .all(|plan| plan.shared_bytes() <= hardware.max_shared_memory_size)
}

fn grid(shape: &AttentionShape, plan: &Plan) -> CubeCount {
    CubeCount::Static((shape.tokens as u32).div_ceil(plan.rows()), shape.heads as u32, shape.batch as u32)
}

/// Launches `$kernel`, of struct `$Kernel`, on arrays given as `handle, elements, elements of a vector, bytes of an element`.
macro_rules! launch {
    ($kernel:path, $Kernel:path, $client:expr, $shape:expr, $plan:expr, $scale:expr,
     $(($handle:expr, $len:expr, $width:expr, $bytes:expr)),+) => {
        half_type!($shape.kind, E => {
            use $kernel as kernel;
            use $Kernel as Kernel;
            let (count, tokens, heads) = (grid($shape, &$plan), $shape.tokens as u32, $shape.heads as u32);
            #[cfg(feature = "cuda")]
            if let Some(client) = cuda::client($client) {
                let kernel = Kernel::<E, cubecl::cuda::CudaRuntime>::new(
                    cuda::settings(UNITS),
                    client.clone(),
                    $({ let _: &Handle = $handle; ArrayCompilationArg { inplace: None } },)+
                    (), (), (),
                    $plan,
                );
                let buffers = [$(($handle, $len / $width, $bytes * $width)),+];
                // SAFETY: every array has the length given; rows past the end are clamped on load and not stored.
                unsafe { cuda::launch(client, kernel, count, &buffers, (tokens, heads, $scale)) };
                return;
            }
            // SAFETY: likewise.
            unsafe {
                kernel::<E, R>(
                    $client,
                    count,
                    CubeDim::new_1d(UNITS),
                    $(ArrayArg::from_raw_parts($handle.clone(), $len),)+
                    tokens,
                    heads,
                    $scale,
                    $plan,
                )
            }
        })
    };
}

/// [`super::forward`] for a shape that is [`supported`].
pub(super) fn forward<R: Runtime>(
    client: &ComputeClient<R>,
    shape: &AttentionShape,
    qkv: &Handle,
    output: &Handle,
    lse: &Handle,
) {
    forward_as(client, shape, Plan::forward(shape), qkv, output, lse);
}

/// The same with a plan of the caller's: to compare plans.
#[doc(hidden)]
pub fn forward_as<R: Runtime>(
    client: &ComputeClient<R>,
    shape: &AttentionShape,
    plan: Plan,
    qkv: &Handle,
    output: &Handle,
    lse: &Handle,
) {
    launch!(
        forward::forward_kernel::launch_unchecked,
        forward::forward_kernel::ForwardKernel,
        client,
        shape,
        plan,
        shape.scale() * core::f32::consts::LOG2_E,
        (qkv, shape.qkv_len(), 2, 2),
        (qkv, shape.qkv_len(), 8, 2),
        (output, shape.output_len(), 2, 2),
        (lse, shape.lse_len(), 1, 4)
    );
}

/// [`super::backward`] for a shape that is [`supported`].
pub(super) fn backward<R: Runtime>(
    client: &ComputeClient<R>,
    shape: &AttentionShape,
    qkv: &Handle,
    output: &Handle,
    lse: &Handle,
    d_output: &Handle,
    d_qkv: &Handle,
    delta: &Handle,
) {
    query_as(client, shape, Plan::query(shape), qkv, output, lse, d_output, d_qkv, delta);
    key_as(client, shape, Plan::key(shape), qkv, lse, d_output, d_qkv, delta);
}

/// The first kernel of [`backward`]: the query part of `d_qkv`, and `delta`.
#[doc(hidden)]
pub fn query_as<R: Runtime>(
    client: &ComputeClient<R>,
    shape: &AttentionShape,
    plan: Plan,
    qkv: &Handle,
    output: &Handle,
    lse: &Handle,
    d_output: &Handle,
    d_qkv: &Handle,
    delta: &Handle,
) {
    launch!(
        query::query_kernel::launch_unchecked,
        query::query_kernel::QueryKernel,
        client,
        shape,
        plan,
        shape.scale(),
        (qkv, shape.qkv_len(), 2, 2),
        (qkv, shape.qkv_len(), 8, 2),
        (output, shape.output_len(), 2, 2),
        (lse, shape.lse_len(), 1, 4),
        (d_output, shape.output_len(), 2, 2),
        (d_qkv, shape.qkv_len(), 2, 2),
        (delta, shape.lse_len(), 1, 4)
    );
}

/// The second: the key and value parts.
#[doc(hidden)]
pub fn key_as<R: Runtime>(
    client: &ComputeClient<R>,
    shape: &AttentionShape,
    plan: Plan,
    qkv: &Handle,
    lse: &Handle,
    d_output: &Handle,
    d_qkv: &Handle,
    delta: &Handle,
) {
    launch!(
        key::key_kernel::launch_unchecked,
        key::key_kernel::KeyKernel,
        client,
        shape,
        plan,
        shape.scale(),
        (qkv, shape.qkv_len(), 2, 2),
        (qkv, shape.qkv_len(), 8, 2),
        (lse, shape.lse_len(), 1, 4),
        (delta, shape.lse_len(), 1, 4),
        (d_output, shape.output_len(), 8, 2),
        (d_qkv, shape.qkv_len(), 2, 2)
    );
}
