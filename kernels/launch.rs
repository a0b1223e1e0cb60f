//! What every launcher needs: element kinds and grids that fit every runtime's limits.

use cubecl::prelude::*;

/// Units per cube of the elementwise kernels. 256 is the smallest limit a WebGPU device may report.
pub const UNITS: u32 = 256;

/// Cubes along x before a grid spills into y: below WebGPU's limit of 65,535 per dimension.
pub const CUBES_X: u32 = 32_768;

/// A floating-point element type known at run time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FloatKind {
    F32,
    F16,
    Bf16,
}

impl FloatKind {
    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            FloatKind::F32 => 4,
            FloatKind::F16 | FloatKind::Bf16 => 2,
        }
    }
}

/// Grid of one-dimensional cubes of [`UNITS`] that covers `units`; kernels check `ABSOLUTE_POS` against their length.
pub fn grid(units: usize) -> (CubeCount, CubeDim) {
    let cubes = units.div_ceil(UNITS as usize).max(1) as u32;
    let x = cubes.min(CUBES_X);
    let y = cubes.div_ceil(x);
    (CubeCount::Static(x, y, 1), CubeDim::new_1d(UNITS))
}

/// Runs `$body` with `$F` bound to the element type of `$kind`.
#[macro_export]
macro_rules! with_float {
    ($kind:expr, $F:ident => $body:expr) => {
        match $kind {
            $crate::FloatKind::F32 => {
                type $F = f32;
                $body
            }
            $crate::FloatKind::F16 => {
                type $F = half::f16;
                $body
            }
            $crate::FloatKind::Bf16 => {
                type $F = half::bf16;
                $body
            }
        }
    };
}
