//! Products on Hopper GPUs, with what is applied to a tile of them while the next is multiplied: a bias, a residual, an MLP's
//! activation or its derivative. In CUDA C++; `common.cu` describes the design.
//!
//! Operations: `2 m n k`. Bytes, where an activation of two bytes an element would be a pass of its own: forward writes two arrays
//! and reads none instead of one, backward reads one and writes one instead of two and two.
//!
//! Results repeat to the bit. Sources: PyTorch's `Linear` and `GELU`; the division of work is that of CUTLASS's persistent,
//! warp-specialised kernels.

use crate::activation::{Activation, ROWS_PER_SUM};
use crate::column_sum::fold;
use crate::hopper::{self, BOX_COLUMNS, PTX, WARPGROUP, defines};
use crate::walk::multiprocessors;
use crate::{FloatKind, Handle, with_float};
use cubecl::prelude::*;
use cubecl::server::TensorMapMeta;

const TEXTS: [&str; 4] =
    [include_str!("common.cu"), include_str!("activation.cu"), include_str!("workers.cu"), include_str!("product.cu")];

/// Rows of a tile, and columns of the operands that a stage holds: as in the kernel.
const TILE_ROWS: usize = 128;
const DEPTH: usize = 64;

/// Rows of a tile that a warpgroup multiplies and that a box of the output has.
const GROUP_ROWS: usize = 64;
const _: () = assert!(GROUP_ROWS == ROWS_PER_SUM);

/// Sizes of a product: `[m, k]` by `[k, n]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProductShape {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub kind: FloatKind,
}

impl ProductShape {
    fn tiles(&self, tile: Tile) -> usize {
        self.m.div_ceil(TILE_ROWS) * self.n.div_ceil(tile.columns())
    }

    fn map(&self, rows: usize, columns: usize, box_rows: usize) -> TensorMapMeta {
        let kind = with_float!(self.kind, F => F::as_type_native_unchecked().storage_type());
        hopper::map(kind, [1, rows, columns / BOX_COLUMNS], box_rows)
    }

    /// The share of this GPU's work that is not for columns, rows and blocks that are not there.
    fn efficiency(&self, tile: Tile, multiprocessors: usize) -> f64 {
        let rounds = self.tiles(tile).div_ceil(multiprocessors);
        (self.m * self.n) as f64 / (rounds * multiprocessors * TILE_ROWS * tile.columns()) as f64
    }

    /// The tile that wastes least; of two equals the wide one, which reads shared memory less often for the same product.
    fn tile(&self, multiprocessors: usize) -> Tile {
        let [narrow, wide] = [Tile::Narrow, Tile::Wide].map(|tile| self.efficiency(tile, multiprocessors));
        if wide >= narrow { Tile::Wide } else { Tile::Narrow }
    }
}

/// Columns of a bias that shared memory has room for, in whole tiles of either width.
const LONGEST_BIAS: usize = 4416;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Tile {
    /// 192 columns.
    Narrow,
    /// 256 columns.
    Wide,
}

impl Tile {
    fn columns(self) -> usize {
        match self {
            Tile::Narrow => 192,
            Tile::Wide => 256,
        }
    }

    /// Stages that fit into shared memory.
    fn stages(self) -> usize {
        match self {
            Tile::Narrow => 4,
            Tile::Wide => 3,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Epilogue {
    Plain,
    Residual,
    /// Whether what is activated is written, too.
    Activated(Activation, bool),
    /// Whether what was activated becomes the activated values.
    Derivative(Activation, bool),
}

/// How the kernel is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Variant {
    epilogue: Epilogue,
    tile: Tile,
    /// Whether b is `[k, n]`.
    k_first: bool,
    half: bool,
    bias: bool,
}

impl Variant {
    fn backward(&self) -> bool {
        matches!(self.epilogue, Epilogue::Derivative(..))
    }
}

impl hopper::Variant for Variant {
    const TEXT: u64 = hopper::hash(&TEXTS);

    fn entry(&self) -> &'static str {
        "avion_gemm"
    }

    /// Two warpgroups that multiply, and one that copies and finishes; for the derivative, two.
    fn threads(&self) -> u32 {
        WARPGROUP * if self.backward() { 4 } else { 3 }
    }

    /// Stages, a finished tile, barriers, the bias, and room to align to 1,024.
    fn shared_bytes(&self) -> usize {
        let columns = self.tile.columns();
        let stages = self.tile.stages() * (TILE_ROWS + columns) * DEPTH;
        let bias = if self.bias { LONGEST_BIAS } else { 0 };
        2 * (stages + TILE_ROWS * columns) + 128 + 4 * bias + 1024
    }

    fn source(&self) -> String {
        let (epilogue, activation, keep, write) = match self.epilogue {
            Epilogue::Plain => (0, None, false, false),
            Epilogue::Residual => (1, None, false, false),
            Epilogue::Activated(activation, keep) => (2, Some(activation), keep, false),
            Epilogue::Derivative(activation, write) => (3, Some(activation), false, write),
        };
        // Registers per thread: 512 for one of each warpgroup together. Three warpgroups have enough as they are launched.
        let defines = defines(&[
            ("TILE_N", self.tile.columns()),
            ("STAGES", self.tile.stages()),
            ("K_FIRST", usize::from(self.k_first)),
            ("BIAS", usize::from(self.bias)),
            ("EPILOGUE", epilogue),
            ("KEEP", usize::from(keep)),
            ("WRITE", usize::from(write)),
            ("HALF", usize::from(self.half)),
            ("GELU", usize::from(activation == Some(Activation::Gelu))),
            ("CONSUMER_REGISTERS", 136),
            ("PRODUCER_REGISTERS", 120),
        ]);
        [&[&defines, PTX][..], &TEXTS].concat().concat()
    }
}

/// The CUDA C++ of the variants that training uses, in bf16, with its name: for checks without a GPU. For sm_90a alone.
pub fn sources() -> Vec<(String, String)> {
    let both = [Activation::Gelu, Activation::QuickGelu];
    let mut variants = Vec::new();
    for tile in [Tile::Narrow, Tile::Wide] {
        let base = Variant { epilogue: Epilogue::Plain, tile, k_first: false, half: false, bias: true };
        let without = [false, true].map(|k_first| Variant { k_first, bias: false, ..base });
        let activated = both.into_iter().flat_map(|f| [false, true].map(|keep| Epilogue::Activated(f, keep)));
        let forward = [Epilogue::Plain, Epilogue::Residual].into_iter().chain(activated);
        variants.extend(forward.map(|epilogue| Variant { epilogue, ..base }).chain(without));
    }
    let derivatives = both.into_iter().flat_map(|f| [false, true].map(|write| Epilogue::Derivative(f, write)));
    variants.extend(derivatives.map(derivative_variant));
    let name = |v: &Variant| {
        let Variant { epilogue, tile, k_first, bias, .. } = v;
        format!("gemm::hopper::{epilogue:?}<Bf16> tile={} k_first={k_first} bias={bias}", tile.columns())
    };
    variants.iter().map(|variant| (name(variant), hopper::Variant::source(variant))).collect()
}

/// Wide tiles leave no registers for the workers that the derivative takes.
fn derivative_variant(epilogue: Epilogue) -> Variant {
    Variant { epilogue, tile: Tile::Narrow, k_first: true, half: false, bias: false }
}

/// Whether these kernels take `shape` here: CUDA on compute capability 9.0, half precision, whole boxes of 64 columns, and room
/// in shared memory for a bias of `n` (4,352 columns).
pub fn supported<R: Runtime>(client: &ComputeClient<R>, shape: &ProductShape) -> bool {
    let fits = || {
        [Tile::Narrow, Tile::Wide].into_iter().all(|tile| {
            let variant = Variant { epilogue: Epilogue::Plain, tile, k_first: false, half: false, bias: true };
            let bias = shape.n.next_multiple_of(tile.columns());
            bias <= LONGEST_BIAS && hopper::supported(client, hopper::Variant::shared_bytes(&variant))
        })
    };
    shape.kind != FloatKind::F32
        && [shape.n, shape.k].iter().all(|columns| *columns > 0 && columns.is_multiple_of(BOX_COLUMNS))
        && (1..=i32::MAX as usize / 2).contains(&shape.m)
        && fits()
}

/// Whether a product without an activation is as fast here as by cuBLASLt after its search: where tiles fill the GPU. cuBLASLt has
/// smaller tiles, too, and adds up parts of `k`.
pub fn worthwhile<R: Runtime>(client: &ComputeClient<R>, shape: &ProductShape) -> bool {
    let multiprocessors = multiprocessors(client);
    supported(client, shape) && shape.efficiency(shape.tile(multiprocessors), multiprocessors) >= 0.93
}

/// `out = a b + bias + residual`, rounded once.
///
/// # Shapes
/// For a shape that is [`supported`]; all of its kind, without gaps.
/// - `a`: `[m, k]`; `b`: `[k, n]` with `k_first`, else `[n, k]`; `bias`: `[n]`; `residual`, `out`: `[m, n]`, which may be the
///   same buffer
pub fn product<R: Runtime>(
    client: &ComputeClient<R>,
    shape: &ProductShape,
    a: &Handle,
    (b, k_first): (&Handle, bool),
    bias: Option<&Handle>,
    residual: Option<&Handle>,
    out: &Handle,
) {
    let epilogue = if residual.is_some() { Epilogue::Residual } else { Epilogue::Plain };
    let beside = residual.unwrap_or(out);
    launch(client, shape, epilogue, k_first, [a, b, beside, out], bias, None);
}

/// `hidden = x weight^T + bias`, rounded, and `activated = activation(hidden)`.
///
/// # Shapes
/// For a shape that is [`supported`]; all of its kind, without gaps.
/// - `x`: `[m, k]`; `weight`: `[n, k]`; `bias`: `[n]`
/// - `hidden`, if wanted, and `activated`: `[m, n]`
pub fn activated<R: Runtime>(
    client: &ComputeClient<R>,
    shape: &ProductShape,
    activation: Activation,
    [x, weight, bias]: [&Handle; 3],
    hidden: Option<&Handle>,
    activated: &Handle,
) {
    let epilogue = Epilogue::Activated(activation, hidden.is_some());
    let beside = hidden.unwrap_or(activated);
    launch(client, shape, epilogue, false, [x, weight, beside, activated], Some(bias), None);
}

/// `d_hidden = (dy weight) activation'(hidden)`; adds its column sums to `d_bias`. With `write_activated`, `hidden` becomes
/// `activation(hidden)`.
///
/// # Shapes
/// For a shape that is [`supported`]; all but `d_bias` of its kind, without gaps.
/// - `dy`: `[m, k]`; `weight`: `[k, n]`; `hidden`, `d_hidden`: `[m, n]`
/// - `d_bias`: `[n]`, f32; `sums`: f32, [`crate::activation::sums_len`], scratch
pub fn activation_gradient<R: Runtime>(
    client: &ComputeClient<R>,
    shape: &ProductShape,
    activation: Activation,
    [dy, weight, hidden]: [&Handle; 3],
    d_hidden: &Handle,
    (d_bias, sums): (&Handle, &Handle),
    write_activated: bool,
) {
    let epilogue = Epilogue::Derivative(activation, write_activated);
    launch(client, shape, epilogue, true, [dy, weight, hidden, d_hidden], None, Some(sums));
    fold(client, sums, shape.m.div_ceil(GROUP_ROWS), shape.n, [Some(d_bias), None, None]);
}

/// `matrices`: a, b, what the epilogue needs beside them, and the output.
fn launch<R: Runtime>(
    client: &ComputeClient<R>,
    shape: &ProductShape,
    epilogue: Epilogue,
    k_first: bool,
    matrices: [&Handle; 4],
    bias: Option<&Handle>,
    sums: Option<&Handle>,
) {
    let ProductShape { m, n, k, kind } = *shape;
    debug_assert!(supported(client, shape), "{shape:?}");
    let half = kind == FloatKind::F16;
    let variant = match epilogue {
        Epilogue::Derivative(..) => Variant { half, ..derivative_variant(epilogue) },
        _ => Variant { epilogue, tile: shape.tile(multiprocessors(client)), k_first, half, bias: bias.is_some() },
    };
    let b = if k_first { shape.map(k, n, DEPTH) } else { shape.map(n, k, variant.tile.columns()) };
    let out = shape.map(m, n, GROUP_ROWS);
    let maps = [shape.map(m, k, TILE_ROWS), b, out.clone(), out];
    // A place that the variant does not read may hold anything.
    let buffers = [bias.unwrap_or(matrices[3]), sums.unwrap_or(matrices[3])];
    let blocks = hopper::blocks(client, shape.tiles(variant.tile));
    let data = vec![m as u64 | (n as u64) << 32, k as u64];
    // SAFETY: tensor maps check rows and columns, and the kernel those of `hidden` and `sums`; the callers' contracts.
    unsafe { hopper::launch(client, variant, blocks, matrices.into_iter().zip(maps).collect(), &buffers, data) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tile_is_the_one_that_wastes_less() {
        let tile = |m, n| {
            let shape = ProductShape { m, n, k: 768, kind: FloatKind::Bf16 };
            let tile = shape.tile(132);
            (tile, (shape.efficiency(tile, 132) * 100.0).round())
        };
        assert_eq!(tile(50_176, 768), (Tile::Wide, 99.0));
        assert_eq!(tile(50_176, 1152), (Tile::Narrow, 99.0));
        assert_eq!(tile(28_784, 4096), (Tile::Wide, 97.0));
        assert_eq!(tile(10_240, 3072), (Tile::Narrow, 97.0));
        // Those of `tests/against_reference/hopper_products.rs` there.
        assert_eq!([tile(16_941, 512), tile(16_941, 576)], [(Tile::Wide, 67.0), (Tile::Narrow, 75.0)]);
    }
}
