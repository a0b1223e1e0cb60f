//! Sizes of a tower's pass: what it computes, and how many bytes its activations have.

use avion_kernels::FloatKind;
use avion_kernels::attention::AttentionShape;

/// Rates that weigh recomputation against memory: products and attention in operations a second, passes over memory in
/// bytes a second. Only their ratios matter; these are an H200's in bf16.
const PRODUCTS: f64 = 600e12;
const ATTENTION: f64 = 250e12;
const PASSES: f64 = 3.5e12;

/// Sizes of one tower's pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TowerSizes {
    pub batch: usize,
    pub tokens: usize,
    pub width: usize,
    pub layers: usize,
    pub heads: usize,
    /// Bytes of an activation.
    pub element: usize,
    /// Token `i` sees tokens `0..=i` only.
    pub causal: bool,
    /// Whether drop path is on.
    pub drop_path: bool,
    /// What the first block's input is made of.
    pub start: Start,
    /// What follows the blocks.
    pub ending: Ending,
    /// What it is called in messages.
    pub name: &'static str,
}

/// What the input of a tower's first block is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Patches of `values` numbers each, a table of `positions` rows added, and a LayerNorm of its own.
    Frames { values: usize, positions: usize },
    /// Tubelets of `values` numbers each.
    Tubelets { values: usize },
    /// Captions of `tokens` tokens or fewer: each batch's are as long as its longest.
    Captions,
    /// What the tower before made.
    Tower,
}

/// What follows the blocks of a tower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// One token a sample goes on, the last block is computed for it alone, and it is projected to `embed` columns.
    OneToken { embed: usize },
    /// All tokens go on to the next tower, through a norm and a product that makes them `narrow` columns wide.
    Bridge { narrow: usize },
    /// The last `rows` rows of the batch, a norm and a product predict `values` numbers each.
    Prediction { rows: usize, values: usize },
    /// The mean of a sample's tokens, a norm and a linear layer.
    Mean { classes: usize },
}

impl TowerSizes {
    /// Multiplications and additions of a forward pass: products and attention of every block, of the last only what one
    /// token a sample needs where no other goes on.
    pub fn forward_operations(&self) -> f64 {
        let (rows, width) = (self.rows() as f64, self.width as f64);
        let seen = if self.causal { 0.5 } else { 1.0 };
        let block = 24.0 * rows * width * width + 4.0 * seen * rows * self.tokens as f64 * width;
        let last = match self.ending {
            Ending::OneToken { .. } => 4.0 * rows * width * width,
            Ending::Bridge { narrow } => 2.0 * rows * width * narrow as f64,
            Ending::Prediction { rows, values } => 2.0 * rows as f64 * width * values as f64,
            Ending::Mean { classes } => 2.0 * self.batch as f64 * width * classes as f64,
        };
        let embedding = match self.start {
            Start::Frames { values, .. } | Start::Tubelets { values } => 2.0 * rows * width * values as f64,
            Start::Captions | Start::Tower => 0.0,
        };
        self.full_blocks() as f64 * block + last + embedding
    }

    /// Whether one token a sample goes on.
    pub(super) fn one_token(&self) -> bool {
        matches!(self.ending, Ending::OneToken { .. })
    }

    /// Blocks that are computed for every token.
    pub(super) fn full_blocks(&self) -> usize {
        self.layers - usize::from(self.one_token() && self.layers > 0)
    }

    pub(super) fn rows(&self) -> usize {
        self.batch * self.tokens
    }

    /// Bytes of `[rows, columns]`.
    pub(super) fn bytes(&self, rows: usize, columns: usize) -> u64 {
        (rows * columns * self.element) as u64
    }

    /// Bytes of `[batch * tokens, width]`.
    pub(super) fn unit(&self) -> u64 {
        self.bytes(self.rows(), self.width)
    }

    /// Bytes of the attention's `[batch, heads, tokens]`, f32.
    pub(super) fn lse(&self) -> u64 {
        (self.rows() * self.heads * 4) as u64
    }

    /// Scratch of the attention's backward pass, f32.
    pub(super) fn sums(&self) -> u64 {
        let TowerSizes { batch, tokens, width, heads, causal, .. } = *self;
        // Of every kind alike.
        let kind = FloatKind::F32;
        4 * AttentionShape { batch, tokens, heads, head_dim: width / heads, causal, kind }.sums_len() as u64
    }

    /// Seconds of the product that makes `columns` of each row's `width`.
    pub(super) fn product_s(&self, columns: usize) -> f64 {
        2.0 * self.rows() as f64 * self.width as f64 * columns as f64 / PRODUCTS
    }

    pub(super) fn passes_s(&self, units: u64) -> f64 {
        (units * self.unit()) as f64 / PASSES
    }

    pub(super) fn attention_s(&self) -> f64 {
        let full = 4.0 * self.rows() as f64 * self.tokens as f64 * self.width as f64 / ATTENTION;
        if self.causal { full / 2.0 } else { full }
    }
}

/// Bytes of a LayerNorm's statistics, `[rows, 2]`, f32.
pub(super) fn stats(rows: usize) -> u64 {
    8 * rows as u64
}
