//! FlashAttention for Hopper GPUs in CUDA C++: products on whole warpgroups (`wgmma`), copies by the copy engine (TMA).
//!
//! Computes what [`super::forward`] and [`super::backward`] say for heads of 64. Forward is two products of
//! `2 tokens^2 head_dim` operations per head, the backward seven (scores and their gradients are computed twice, once
//! for the queries' gradient and once for the keys' and values'): no sum is shared between blocks, so results repeat to
//! the bit and no f32 copy of the gradient is in memory. At 785 tokens the exponentials cost as much as the products.
//!
//! Sources: FlashAttention-2 (Dao, 2023) for the recurrences; FlashAttention-3 (Shah et al., 2024) for warp
//! specialisation and turns between warpgroups. `hopper/common.cu` describes the design.

use super::AttentionShape;
use crate::column_sum::fold;
use crate::hopper::{self, PTX, WARPGROUP, defines};
use crate::{FloatKind, Handle, with_float};
use cubecl::prelude::*;

/// The head dimension these kernels are written for.
pub const HEAD_DIM: usize = 64;

/// Tokens of a box of a tensor map.
const BOX_ROWS: usize = 16;

const COMMON: &str = include_str!("hopper/common.cu");

/// One of the three kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Pass {
    Forward,
    /// `dQ` and `delta`; runs before [`Pass::KeyValue`], which reads `delta`.
    Query,
    KeyValue,
}

impl Pass {
    const fn text(self) -> &'static str {
        match self {
            Pass::Forward => include_str!("hopper/forward.cu"),
            Pass::Query => include_str!("hopper/query.cu"),
            Pass::KeyValue => include_str!("hopper/key_value.cu"),
        }
    }

    /// Stationary matrices, f32 values per stationary row, f32 values per streamed row, matrices written, and summed over their
    /// columns: as in the kernel's `Layout`.
    fn shared(self) -> [usize; 5] {
        match self {
            Pass::Forward => [1, 0, 0, 1, 0],
            Pass::Query => [3, 1, 0, 1, 1],
            Pass::KeyValue => [2, 0, 2, 2, 2],
        }
    }
}

/// How one kernel is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Variant {
    pass: Pass,
    /// Warpgroups that compute; each owns 64 rows.
    groups: usize,
    /// Rows of a streamed tile.
    streamed: usize,
    /// Tiles in flight.
    stages: usize,
    causal: bool,
    half: bool,
}

impl Variant {
    /// Measured best on an H200. With three groups more warps hide the softmax's latency, but only the forward kernel has
    /// registers for that, and short sequences may waste fewer rows with two.
    fn new(pass: Pass, shape: &AttentionShape) -> Self {
        let padded = |rows| shape.tokens.next_multiple_of(rows);
        let longer = padded(112) <= padded(80);
        let three = shape.tokens >= 512 || padded(3 * 64) < padded(2 * 64);
        let (groups, streamed, stages) = match pass {
            Pass::Forward if three && longer => (3, 112, 5),
            Pass::Forward if three => (3, 80, 4),
            Pass::Forward if longer => (2, 112, 3),
            Pass::Forward => (2, 80, 4),
            Pass::Query | Pass::KeyValue => (2, 80, 4),
        };
        Variant { pass, groups, streamed, stages, causal: shape.causal, half: shape.kind == FloatKind::F16 }
    }

    fn rows(&self) -> usize {
        64 * self.groups
    }
}

impl hopper::Variant for Variant {
    const TEXT: u64 = hopper::hash(&[COMMON, Pass::Forward.text(), Pass::Query.text(), Pass::KeyValue.text()]);

    fn entry(&self) -> &'static str {
        match self.pass {
            Pass::Forward => "avion_attention_forward",
            Pass::Query => "avion_attention_query",
            Pass::KeyValue => "avion_attention_key_value",
        }
    }

    /// Computing warpgroups and the one that copies.
    fn threads(&self) -> u32 {
        WARPGROUP * (self.groups as u32 + 1)
    }

    /// As in the kernel's `Layout`, plus room to align to 1,024.
    fn shared_bytes(&self) -> usize {
        let [stationary, row_values, streamed_values, written, summed] = self.pass.shared();
        let rows = self.rows() * ((stationary + written) * 2 * HEAD_DIM + row_values * 4);
        let sums = summed * self.groups * 4 * HEAD_DIM * 4;
        let tiles = self.stages * self.streamed * (2 * 2 * HEAD_DIM + streamed_values * 4);
        let barriers = (3 * self.stages + 2) * 8;
        rows + sums + tiles + barriers + 1024
    }

    fn source(&self) -> String {
        // Per thread, of the 504 or 512 that the launch bounds leave to one thread of each warpgroup together.
        let (consumer, producer) = if self.groups == 2 { (240, 24) } else { (160, 24) };
        let defines = defines(&[
            ("GROUPS", self.groups),
            ("STREAMED", self.streamed),
            ("STAGES", self.stages),
            ("CAUSAL", usize::from(self.causal)),
            ("HALF", usize::from(self.half)),
            ("BOX_ROWS", BOX_ROWS),
            ("SHARED_BYTES", self.shared_bytes()),
            ("CONSUMER_REGISTERS", consumer),
            ("PRODUCER_REGISTERS", producer),
        ]);
        [&defines, PTX, COMMON, self.pass.text()].concat()
    }
}

/// The CUDA C++ of every variant that a call may launch, with its name: for checks without a GPU. For sm_90a alone.
pub fn sources() -> Vec<(String, String)> {
    let mut sources = Vec::new();
    for (kind, causal) in [(FloatKind::Bf16, false), (FloatKind::Bf16, true)] {
        // Two warpgroups and three, with either tile.
        for tokens in [77, 224, 785, 1568] {
            let shape = AttentionShape { batch: 1, tokens, heads: 1, head_dim: HEAD_DIM, causal, kind };
            for pass in [Pass::Forward, Pass::Query, Pass::KeyValue] {
                let variant = Variant::new(pass, &shape);
                let Variant { groups, streamed, .. } = variant;
                let name = format!("hopper::{pass:?}<{kind:?}> causal={causal} groups={groups} streamed={streamed}");
                sources.push((name, hopper::Variant::source(&variant)));
            }
        }
    }
    sources.sort();
    sources.dedup();
    sources
}

/// Whether these kernels take `shape` here: CUDA on compute capability 9.0, half precision, heads of 64.
pub fn supported<R: Runtime>(client: &ComputeClient<R>, shape: &AttentionShape) -> bool {
    let passes = [Pass::Forward, Pass::Query, Pass::KeyValue];
    let variants = passes.map(|pass| Variant::new(pass, shape));
    shape.head_dim == HEAD_DIM
        && shape.kind != FloatKind::F32
        && shape.tokens <= i32::MAX as usize / 2
        && variants.iter().all(|variant| hopper::supported(client, hopper::Variant::shared_bytes(variant)))
}

/// As [`super::forward`], for shapes that are [`supported`] and checked.
pub(super) fn forward<R: Runtime>(
    client: &ComputeClient<R>,
    shape: &AttentionShape,
    qkv: &Handle,
    output: &Handle,
    lse: &Handle,
) {
    launch(client, shape, Pass::Forward, &[(qkv, 3), (output, 1)], &[lse]);
}

/// As [`super::backward`], for shapes that are [`supported`] and checked.
#[allow(clippy::too_many_arguments)]
pub(super) fn backward<R: Runtime>(
    client: &ComputeClient<R>,
    shape: &AttentionShape,
    qkv: &Handle,
    output: &Handle,
    lse: &Handle,
    d_output: &Handle,
    d_qkv: &Handle,
    delta: &Handle,
    sums: &Handle,
    d_bias: &Handle,
) {
    let mapped = [(qkv, 3), (output, 1), (d_output, 1), (d_qkv, 3)];
    launch(client, shape, Pass::Query, &mapped, &[lse, delta, sums]);
    launch(client, shape, Pass::KeyValue, &[mapped[0], mapped[2], mapped[3]], &[lse, delta, sums]);
    fold(client, sums, shape.sum_rows(), 3 * shape.heads * shape.head_dim, [Some(d_bias), None, None]);
}

/// `mapped` are buffers `[batch, tokens, n, heads, 64]` with their `n`.
fn launch<R: Runtime>(
    client: &ComputeClient<R>,
    shape: &AttentionShape,
    pass: Pass,
    mapped: &[(&Handle, usize)],
    buffers: &[&Handle],
) {
    let variant = Variant::new(pass, shape);
    let row_blocks = shape.tokens.div_ceil(variant.rows()) as u32;
    let blocks = hopper::blocks(client, row_blocks as usize * shape.batch * shape.heads);
    let together = if pass == Pass::Forward && !shape.causal { heads_together(blocks, row_blocks) } else { 0 };
    let data = vec![shape.batch as u64 | (shape.tokens as u64) << 32, shape.heads as u64 | u64::from(together) << 32];
    let kind = with_float!(shape.kind, F => F::as_type_native_unchecked().storage_type());
    let map = |n| hopper::map(kind, [shape.batch, shape.tokens, n * shape.heads], BOX_ROWS);
    let mapped = mapped.iter().map(|(buffer, n)| (*buffer, map(*n))).collect();
    // SAFETY: the kernels check rows against `tokens`, tensor maps do; the caller has checked the buffers' sizes.
    unsafe { hopper::launch(client, variant, blocks, mapped, buffers, data) }
}

/// For how many heads at a time the last rows, which are fewer, come after all others; 0: rows in order.
///
/// Where the numbers of blocks and of a head's row blocks share a factor, some blocks would otherwise meet all the last rows
/// and others none. Few heads at a time, so that their keys are still in the cache. In the backward pass, whose last rows
/// save less, it does not pay.
fn heads_together(blocks: u32, row_blocks: u32) -> u32 {
    let (mut a, mut b) = (blocks, row_blocks);
    while b > 0 {
        (a, b) = (b, a % b);
    }
    match row_blocks {
        0 | 1 => 0,
        _ if a == 1 => 0,
        // With few tokens the keys of more heads fit, and a quarter of the blocks, twice, shares a factor with them again.
        2 => blocks,
        _ => (blocks / 4).max(1),
    }
}
