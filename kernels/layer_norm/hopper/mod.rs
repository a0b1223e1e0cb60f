//! LayerNorm on Hopper GPUs in CUDA C++, its rows fetched by the copy engine ahead of time; `common.cu` describes the design.
//!
//! Bytes as in [`super`], and partial sums of one row a block. Without the copy engine a multiprocessor has too little in flight:
//! backward at `[50176, 768]` takes 110 us with the kernel that adds up the sums, and 83 with it; a copy of as many bytes 77 (H200,
//! bf16).

use super::{Backward, NormShape};
use crate::column_sum::fold;
use crate::hopper::{self, PTX, defines};
use crate::{FloatKind, Handle};
use cubecl::prelude::*;

const COMMON: &str = include_str!("common.cu");
const FORWARD: &str = include_str!("forward.cu");
const BACKWARD: &str = include_str!("backward.cu");

/// From a width on that makes copies long enough, to what the registers of a warp have room for with the sums of its columns.
const WIDTHS: std::ops::RangeInclusive<usize> = 384..=1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Pass {
    Forward,
    Backward { fresh: bool, write_normed: bool, d_sum: bool, residue: bool },
}

/// How a kernel is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Variant {
    pass: Pass,
    width: usize,
    half: bool,
}

impl Variant {
    fn new(pass: Pass, shape: &NormShape) -> Self {
        Variant { pass, width: shape.width, half: shape.kind == FloatKind::F16 }
    }

    /// Warps that compute, of a whole number of warpgroups with the one that copies: as many as have registers for their sums.
    fn warps(&self) -> usize {
        match self.pass {
            Pass::Backward { .. } if self.width > 384 => 7,
            _ => 15,
        }
    }

    /// Matrices that are read.
    fn lots(&self) -> usize {
        match self.pass {
            Pass::Forward => 1,
            Pass::Backward { fresh: true, .. } => 2,
            Pass::Backward { residue, .. } => 3 + usize::from(residue),
        }
    }

    /// Lots in flight. More are no faster.
    fn stages(&self) -> usize {
        match self.pass {
            Pass::Forward => 4,
            Pass::Backward { .. } => 3,
        }
    }

    fn blocks<R: Runtime>(&self, client: &ComputeClient<R>, rows: usize) -> u32 {
        hopper::blocks(client, rows.div_ceil(self.warps()))
    }
}

impl hopper::Variant for Variant {
    const TEXT: u64 = hopper::hash(&[COMMON, FORWARD, BACKWARD]);

    fn entry(&self) -> &'static str {
        match self.pass {
            Pass::Forward => "avion_layer_norm_forward",
            Pass::Backward { .. } => "avion_layer_norm_backward",
        }
    }

    fn threads(&self) -> u32 {
        32 * (self.warps() as u32 + 1)
    }

    /// Stages, gains and biases, barriers, and room to align to 128.
    fn shared_bytes(&self) -> usize {
        let stages = self.stages() * self.lots() * self.warps() * self.width * 2;
        stages + 2 * 4 * self.width + 2 * 8 * self.stages() + 128
    }

    fn source(&self) -> String {
        let mut macros = vec![
            ("WIDTH", self.width),
            ("WARPS", self.warps()),
            ("LOTS", self.lots()),
            ("STAGES", self.stages()),
            ("HALF", usize::from(self.half)),
        ];
        let text = match self.pass {
            Pass::Forward => FORWARD,
            Pass::Backward { fresh, write_normed, d_sum, residue } => {
                macros.extend([
                    ("FRESH", usize::from(fresh)),
                    ("WRITE_NORMED", usize::from(write_normed)),
                    ("SUMS", 2 + usize::from(d_sum)),
                    ("RESIDUE", usize::from(residue)),
                ]);
                BACKWARD
            }
        };
        [&defines(&macros), PTX, COMMON, text].concat()
    }
}

/// The CUDA C++ of the variants that training uses, in bf16, and of the largest, with its name: for checks without a GPU. For sm_90a
/// alone.
pub fn sources() -> Vec<(String, String)> {
    let largest = Pass::Backward { fresh: false, write_normed: true, d_sum: true, residue: true };
    let mut variants = Vec::new();
    for width in [384, 512, 768, 1024] {
        variants.push(Variant { pass: Pass::Forward, width, half: false });
        for (fresh, write_normed) in [(false, false), (false, true), (true, true)] {
            for (d_sum, residue) in [(false, false), (false, true), (true, false), (true, true)] {
                let pass = Pass::Backward { fresh, write_normed, d_sum, residue };
                variants.push(Variant { pass, width, half: false });
            }
        }
    }
    variants.extend([640, 896].map(|width| Variant { pass: largest, width, half: false }));
    variants.extend([384, 1024].map(|width| Variant { pass: largest, width, half: true }));
    variants
        .into_iter()
        .map(|variant| {
            let Variant { pass, width, half } = variant;
            let kind = if half { FloatKind::F16 } else { FloatKind::Bf16 };
            (format!("layer_norm::hopper::{pass:?}<{kind:?}> width={width}"), hopper::Variant::source(&variant))
        })
        .collect()
}

/// Whether these kernels take `shape` here: CUDA on compute capability 9.0, half precision, rows of 384 to 1,024 values in steps
/// of 128.
pub fn supported<R: Runtime>(client: &ComputeClient<R>, shape: &NormShape) -> bool {
    let largest = Pass::Backward { fresh: false, write_normed: true, d_sum: true, residue: true };
    let fits = [Pass::Forward, largest]
        .into_iter()
        .all(|pass| hopper::supported(client, hopper::Variant::shared_bytes(&Variant::new(pass, shape))));
    let width = shape.width.is_multiple_of(128) && WIDTHS.contains(&shape.width);
    shape.kind != FloatKind::F32 && width && shape.rows <= i32::MAX as usize / 2 && fits
}

/// As [`super::forward`], for a shape that is [`supported`].
pub(super) fn forward<R: Runtime>(
    client: &ComputeClient<R>,
    shape: &NormShape,
    [x, gain, bias, y, stats]: [&Handle; 5],
) {
    launch(client, shape, Pass::Forward, &[x, gain, bias, y, stats]);
}

/// As [`super::backward`], for a shape that is [`supported`].
pub(super) fn backward<R: Runtime>(client: &ComputeClient<R>, shape: &NormShape, args: &Backward) {
    let Backward { fresh, write_normed, residue, d_sum, .. } = *args;
    let pass = Pass::Backward { fresh, write_normed, d_sum: d_sum.is_some(), residue: residue.is_some() };
    let blocks = Variant::new(pass, shape).blocks(client, shape.rows) as usize;
    let partials = client.empty(blocks * (2 + usize::from(d_sum.is_some())) * shape.width * 4);
    // What the variant does not touch may be anything.
    let residue = residue.unwrap_or(args.gradient);
    launch(
        client,
        shape,
        pass,
        &[args.x, args.stats, args.gain, args.bias, args.dy, args.gradient, residue, &partials],
    );
    fold(client, &partials, blocks, shape.width, [Some(args.d_gain), Some(args.d_bias), d_sum]);
}

fn launch<R: Runtime>(client: &ComputeClient<R>, shape: &NormShape, pass: Pass, buffers: &[&Handle]) {
    let variant = Variant::new(pass, shape);
    let data = vec![shape.rows as u64 | u64::from(shape.eps.to_bits()) << 32];
    // SAFETY: the kernels check rows against their number; the contracts of `super`.
    unsafe { hopper::launch(client, variant, variant.blocks(client, shape.rows), Vec::new(), buffers, data) }
}
