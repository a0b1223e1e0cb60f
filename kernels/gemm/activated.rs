//! The two products around an MLP's activation, on Hopper GPUs: the activation, or its derivative, is applied to a tile of
//! the product while the next is multiplied.
//!
//! Bytes, for `rows` of `n` hidden columns of two bytes: the forward pass writes both arrays and reads neither (a product and a
//! pass of its own read one more), the backward pass reads one and writes one (instead of three and two). Operations: of the
//! products, `2 rows n k`.
//!
//! Results repeat to the bit. Sources: AVION's MLP (LaViLa, `openai_model.py`); PyTorch's `Linear` and `GELU`; the division of
//! work is that of CUTLASS's persistent, warp-specialised kernels.

use crate::activation::Activation;
use crate::column_sum::fold;
use crate::hopper::{self, BOX_COLUMNS, PTX, WARPGROUP, defines};
use crate::{FloatKind, Handle, with_float};
use cubecl::prelude::*;

const TEXT: &str = include_str!("activated.cu");

/// Rows and columns of a tile of the product, and the columns of the operands that a stage holds: as in the kernel.
const TILE: [usize; 3] = [128, 192, 64];
const STAGES: usize = 4;

/// Rows of a tile that a warpgroup multiplies; a row of partial sums each.
const GROUP_ROWS: usize = 64;

/// Sizes of a product: `[rows, k]` by `[k, n]`, and the activation applied to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ActivatedShape {
    pub rows: usize,
    pub n: usize,
    pub k: usize,
    pub kind: FloatKind,
    pub activation: Activation,
}

impl ActivatedShape {
    fn tiles(&self) -> usize {
        self.rows.div_ceil(TILE[0]) * self.n.div_ceil(TILE[1])
    }

    fn data(&self) -> Vec<u64> {
        vec![self.rows as u64 | (self.n as u64) << 32, self.k as u64]
    }

    fn map(&self, [rows, columns]: [usize; 2], box_rows: usize) -> cubecl::server::TensorMapMeta {
        let kind = with_float!(self.kind, F => F::as_type_native_unchecked().storage_type());
        hopper::map(kind, [1, rows, columns / BOX_COLUMNS], box_rows)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Pass {
    /// Whether what is activated is written, too.
    Forward { keep: bool },
    /// Whether what was activated becomes the activated values.
    Backward { write: bool },
}

/// How the kernel is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Variant {
    pass: Pass,
    activation: Activation,
    half: bool,
    /// Of the bias, in tiles of columns; 0 in the backward pass.
    biases: usize,
}

impl Variant {
    fn new(pass: Pass, shape: &ActivatedShape) -> Self {
        let biases = if let Pass::Forward { .. } = pass { shape.n.div_ceil(TILE[1]) } else { 0 };
        Variant { pass, activation: shape.activation, half: shape.kind == FloatKind::F16, biases }
    }

    fn backward(&self) -> bool {
        matches!(self.pass, Pass::Backward { .. })
    }
}

impl hopper::Variant for Variant {
    const TEXT: u64 = hopper::hash(&[TEXT]);

    fn entry(&self) -> &'static str {
        "avion_gemm_activated"
    }

    /// Two warpgroups that multiply; one that copies and activates, two in the backward pass.
    fn threads(&self) -> u32 {
        WARPGROUP * if self.backward() { 4 } else { 3 }
    }

    /// Stages, a finished tile, barriers, the bias, and room to align to 1,024.
    fn shared_bytes(&self) -> usize {
        let [rows, columns, deep] = TILE;
        2 * (STAGES * (rows + columns) * deep + rows * columns) + 128 + 4 * columns * self.biases + 1024
    }

    fn source(&self) -> String {
        let (keep, write) = match self.pass {
            Pass::Forward { keep } => (keep, false),
            Pass::Backward { write } => (false, write),
        };
        // Registers per thread: 512 for one of each warpgroup together. Three warpgroups have enough as they are launched.
        let defines = defines(&[
            ("BACKWARD", usize::from(self.backward())),
            ("GELU", usize::from(self.activation == Activation::Gelu)),
            ("KEEP", usize::from(keep)),
            ("WRITE", usize::from(write)),
            ("HALF", usize::from(self.half)),
            ("STAGES", STAGES),
            ("WORKERS", if self.backward() { 6 } else { 3 }),
            ("CONSUMER_REGISTERS", 136),
            ("PRODUCER_REGISTERS", 120),
        ]);
        [&defines, PTX, TEXT].concat()
    }
}

/// The CUDA C++ of every variant, with its name: for checks without a GPU. For sm_90a alone.
pub fn sources() -> Vec<(String, String)> {
    let passes = [false, true].map(|yes| [Pass::Forward { keep: yes }, Pass::Backward { write: yes }]);
    let mut sources = Vec::new();
    for pass in passes.into_iter().flatten() {
        for activation in [Activation::Gelu, Activation::QuickGelu] {
            let variant = Variant { pass, activation, half: false, biases: 16 };
            sources.push((format!("activated::{pass:?}<Bf16> {activation:?}"), hopper::Variant::source(&variant)));
        }
    }
    sources
}

/// Whether [`forward`] and [`backward`] take `shape` here: CUDA on compute capability 9.0, half precision, whole boxes of
/// 64 columns, and room for the bias in shared memory (4,416 columns).
pub fn supported<R: Runtime>(client: &ComputeClient<R>, shape: &ActivatedShape) -> bool {
    let variant = Variant::new(Pass::Forward { keep: true }, shape);
    shape.kind != FloatKind::F32
        && [shape.n, shape.k].iter().all(|columns| *columns > 0 && columns.is_multiple_of(BOX_COLUMNS))
        && (1..=i32::MAX as usize / 2).contains(&shape.rows)
        && hopper::supported(client, hopper::Variant::shared_bytes(&variant))
}

/// `hidden = x weight^T + bias`, rounded, and `activated = activation(hidden)`.
///
/// # Shapes
/// For a shape that is [`supported`]; all of its kind, without gaps.
/// - `x`: `[rows, k]`; `weight`: `[n, k]`; `bias`: `[n]`
/// - `hidden`, if wanted, and `activated`: `[rows, n]`
pub fn forward<R: Runtime>(
    client: &ComputeClient<R>,
    shape: &ActivatedShape,
    x: &Handle,
    weight: &Handle,
    bias: &Handle,
    hidden: Option<&Handle>,
    activated: &Handle,
) {
    let ActivatedShape { rows, n, k, .. } = *shape;
    let out = shape.map([rows, n], GROUP_ROWS);
    let mapped = vec![
        (x, shape.map([rows, k], TILE[0])),
        (weight, shape.map([n, k], TILE[1])),
        (hidden.unwrap_or(activated), out.clone()),
        (activated, out),
    ];
    let variant = Variant::new(Pass::Forward { keep: hidden.is_some() }, shape);
    let blocks = hopper::blocks(client, shape.tiles());
    // The last is not read.
    let buffers = [bias, bias];
    // SAFETY: tensor maps check rows and columns; the contract above.
    unsafe { hopper::launch(client, variant, blocks, mapped, &buffers, shape.data()) }
}

/// `d_hidden = (dy weight) activation'(hidden)`; adds its column sums to `d_bias`. With `write_activated`, `hidden` becomes
/// `activation(hidden)`.
///
/// # Shapes
/// For a shape that is [`supported`]; all but `d_bias` of its kind, without gaps.
/// - `dy`: `[rows, k]`; `weight`: `[k, n]`; `hidden`, `d_hidden`: `[rows, n]`
/// - `d_bias`: `[n]`, f32
pub fn backward<R: Runtime>(
    client: &ComputeClient<R>,
    shape: &ActivatedShape,
    dy: &Handle,
    weight: &Handle,
    hidden: &Handle,
    d_hidden: &Handle,
    d_bias: &Handle,
    write_activated: bool,
) {
    let ActivatedShape { rows, n, k, .. } = *shape;
    let out = shape.map([rows, n], GROUP_ROWS);
    let mapped = vec![
        (dy, shape.map([rows, k], TILE[0])),
        (weight, shape.map([k, n], TILE[2])),
        (hidden, out.clone()),
        (d_hidden, out),
    ];
    let variant = Variant::new(Pass::Backward { write: write_activated }, shape);
    let blocks = hopper::blocks(client, shape.tiles());
    let partial_rows = rows.div_ceil(GROUP_ROWS);
    let partials = client.empty(partial_rows * n * 4);
    // The first is not read.
    let buffers = [d_bias, &partials];
    // SAFETY: tensor maps check rows and columns, the kernel those of `hidden` and `partials`; the contract above.
    unsafe { hopper::launch(client, variant, blocks, mapped, &buffers, shape.data()) }
    fold(client, &partials, partial_rows, n, [Some(d_bias), None, None]);
}
