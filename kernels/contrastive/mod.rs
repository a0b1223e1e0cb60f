//! CLIP's symmetric InfoNCE in bounded memory: the loss, the accuracy and the gradient of the logits, from chunks of
//! rows of the products of video and text features that the caller's matrix product makes.
//!
//! `logits = exp(logit_scale) * V T^T`, `loss = (CE(rows) + CE(columns)) / 2` with the diagonal as target. For each chunk
//! of rows [`statistics`] takes the rows' log-sum-exp and merges the chunk into the columns' running maximum and sum;
//! [`finish`] gives loss and accuracy; then, for each chunk again, [`gradient`] turns the products into
//! `d loss / d products` in place (or into a 16-bit buffer). Only one chunk of logits exists at any time.
//!
//! Memory bound. Bytes per product: 8 in `statistics` (rows and columns each read it, side by side in one launch), 8 in
//! `gradient`. Results repeat to the bit, and do not depend on the chunks but for f32 rounding of the columns' sums.
//!
//! Source: Radford et al. 2021, arXiv:2103.00020, figure 3; open_clip `loss.py`, `ClipLoss`. Running maximum and sum:
//! Milakov & Gimelshein 2018, arXiv:1805.02867.

mod finish;
mod gradient;
mod reference;
mod statistics;

pub use finish::finish;
pub use gradient::{Gradient, gradient};
pub use reference::{Reference, reference};
pub use statistics::statistics;

use crate::{Handle, KernelError, launch::CUBES_X, reduce::Split};
use cubecl::prelude::CubeCount;

/// Below every logit, and far enough from f32's limit that differences stay finite.
const LOWEST: f32 = -1.0e30;

/// Some rows of the `[n, n]` products.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    pub first_row: usize,
    pub rows: usize,
    pub n: usize,
}

impl Chunk {
    /// All rows at once.
    pub fn whole(n: usize) -> Self {
        Chunk { first_row: 0, rows: n, n }
    }

    /// The rows `0..n` in chunks of at most `rows`, in the order that [`statistics`] wants them.
    pub fn split(n: usize, rows: usize) -> impl Iterator<Item = Self> {
        let rows = rows.max(1);
        (0..n).step_by(rows).map(move |first_row| Chunk { first_row, rows: rows.min(n - first_row), n })
    }

    fn check(&self, kernel: &'static str) -> Result<(), KernelError> {
        let shape = |what, expected: String, got: String| Err(KernelError::Shape { kernel, what, expected, got });
        if self.rows == 0 || self.first_row + self.rows > self.n {
            let got = format!("{}..{}", self.first_row, self.first_row + self.rows);
            return shape("rows of the chunk", format!("some of 0..{}", self.n), got);
        }
        if self.rows.saturating_mul(self.n) > u32::MAX as usize {
            return shape("products of the chunk", "fewer than 2^32".into(), (self.rows * self.n).to_string());
        }
        Ok(())
    }

    /// Products one access holds.
    fn lanes(&self, split: Split) -> usize {
        match split {
            Split::Cube if self.n.is_multiple_of(4) => 4,
            _ => 1,
        }
    }
}

/// What the forward pass leaves for the backward pass: `[n]` f32 each, in buffers of their own.
#[derive(Debug, Clone)]
pub struct Statistics {
    /// Log-sum-exp of each row of logits.
    pub row_lse: Handle,
    /// Largest logit of each column so far, and the sum of the exponentials relative to it.
    pub column_max: Handle,
    pub column_sum: Handle,
    /// Log-sum-exp of each column, once [`finish`] ran.
    pub column_lse: Handle,
    /// The diagonal logits.
    pub own: Handle,
    /// 1 where no other logit of the row is larger, else 0.
    pub row_hit: Handle,
}

/// A grid of `cubes`, spilling into y; kernels use `CUBE_POS`.
fn cube_grid(cubes: usize) -> CubeCount {
    let x = cubes.clamp(1, CUBES_X as usize);
    CubeCount::Static(x as u32, cubes.div_ceil(x) as u32, 1)
}
