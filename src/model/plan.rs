//! What a step keeps for its backward pass, within a budget.
//!
//! The arena's use is a function of sizes alone, so it is walked through beforehand ([`Ledger`]) with the very order of
//! allocations of [`crate::ops::block`]; pieces are then kept greedily, most recomputation saved per byte of peak first.

use crate::ops::block::Keep;
use avion_kernels::FloatKind;
use avion_kernels::attention::AttentionShape;
use std::fmt;

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
    /// Values an embedded token is made of: patch values for frames, 0 where a table is looked up.
    pub patch_values: usize,
    /// Bytes of an activation.
    pub element: usize,
    /// Token `i` sees tokens `0..=i` only.
    pub causal: bool,
    /// Whether the blocks are preceded by a LayerNorm of their own.
    pub norm_before: bool,
    /// Whether drop path is on.
    pub drop_path: bool,
    /// What follows the blocks.
    pub ending: Ending,
    /// What it is called in messages.
    pub name: &'static str,
}

/// What follows the blocks of a tower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// One token a sample goes on, and the last block is computed for it alone.
    OneToken,
    /// All tokens go on.
    AllTokens {
        /// Bytes kept after the blocks until the backward pass.
        kept: u64,
        /// Bytes taken beside them at the most, between the blocks' forward and backward passes.
        beside: u64,
        /// Multiplications and additions of the forward pass after the blocks.
        operations: u64,
    },
}

impl TowerSizes {
    /// Multiplications and additions of a forward pass: products and attention of every block, of the last only what one
    /// token a sample needs where no other goes on.
    pub fn forward_operations(&self) -> f64 {
        let (rows, width) = (self.rows() as f64, self.width as f64);
        let seen = if self.causal { 0.5 } else { 1.0 };
        let block = 24.0 * rows * width * width + 4.0 * seen * rows * self.tokens as f64 * width;
        let last = match self.ending {
            Ending::OneToken => 4.0 * rows * width * width,
            Ending::AllTokens { operations, .. } => operations as f64,
        };
        let embedding = 2.0 * rows * width * self.patch_values as f64;
        self.full_blocks() as f64 * block + last + embedding
    }

    /// Blocks that are computed for every token.
    fn full_blocks(&self) -> usize {
        match self.ending {
            Ending::OneToken => self.layers.saturating_sub(1),
            Ending::AllTokens { .. } => self.layers,
        }
    }

    fn rows(&self) -> u64 {
        (self.batch * self.tokens) as u64
    }

    /// Bytes of `[rows, columns]`.
    fn bytes(&self, columns: usize) -> u64 {
        self.rows() * (columns * self.element) as u64
    }

    /// Bytes of `[rows, width]`.
    fn unit(&self) -> u64 {
        self.bytes(self.width)
    }

    fn stats(&self) -> u64 {
        self.rows() * 8
    }

    fn lse(&self) -> u64 {
        self.rows() * self.heads as u64 * 4
    }

    /// Scratch of the attention's backward pass, f32.
    fn sums(&self) -> u64 {
        let TowerSizes { batch, tokens, width, heads, causal, .. } = *self;
        // Of every kind alike.
        let kind = FloatKind::F32;
        4 * AttentionShape { batch, tokens, heads, head_dim: width / heads, causal, kind }.sums_len() as u64
    }

    fn product_s(&self, columns: usize) -> f64 {
        2.0 * self.rows() as f64 * self.width as f64 * columns as f64 / PRODUCTS
    }

    fn passes_s(&self, units: u64) -> f64 {
        (units * self.unit()) as f64 / PASSES
    }

    fn attention_s(&self) -> f64 {
        let full = 4.0 * self.rows() as f64 * self.tokens as f64 * self.width as f64 / ATTENTION;
        if self.causal { full / 2.0 } else { full }
    }
}

/// What one tower keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TowerPlan {
    /// Of each block that is computed for every token.
    pub blocks: Vec<Keep>,
    /// Keys and values of the last, where of that one token a sample goes on.
    pub last_kv: bool,
}

impl TowerPlan {
    /// The same for every block.
    pub fn uniform(sizes: &TowerSizes, keep: Keep) -> Self {
        // Where there is no such block, nothing is left to decide.
        let last_kv = keep.qkv || sizes.ending != Ending::OneToken;
        TowerPlan { blocks: vec![keep; sizes.full_blocks()], last_kv }
    }
}

/// What a step keeps of its towers, and what it then needs.
#[derive(Debug, Clone, PartialEq)]
pub struct StepPlan {
    /// In the order of their forward passes: video and text, or encoder and decoder.
    pub towers: Vec<TowerPlan>,
    names: Vec<&'static str>,
    /// Bytes of activations at their most.
    pub peak: u64,
    /// Estimated share of the forward pass that is computed again, 0 to 1.
    pub recomputed: f64,
}

/// No plan fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DoesNotFit {
    /// The least activations need, bytes.
    pub least: u64,
}

impl StepPlan {
    /// The same for every block of all towers.
    pub fn uniform(towers: &[TowerSizes], keep: Keep) -> Self {
        Self::of(towers, towers.iter().map(|sizes| TowerPlan::uniform(sizes, keep)).collect())
    }

    /// Keeps as much as `budget` bytes of activations allow.
    ///
    /// # Errors
    /// [`DoesNotFit`] when not even keeping block inputs alone does.
    pub fn fit(towers: &[TowerSizes], budget: u64) -> Result<Self, DoesNotFit> {
        let all = Self::uniform(towers, Keep::ALL);
        if all.peak <= budget {
            return Ok(all);
        }
        let mut plan = Self::uniform(towers, Keep::NOTHING);
        if plan.peak > budget {
            return Err(DoesNotFit { least: plan.peak });
        }
        loop {
            let better = candidates(&plan)
                .filter_map(|plans| {
                    let candidate = Self::of(towers, plans);
                    let saved = plan.recomputed - candidate.recomputed;
                    let cost = candidate.peak.saturating_sub(plan.peak).max(1);
                    (candidate.peak <= budget).then_some((saved / cost as f64, candidate))
                })
                .max_by(|a, b| a.0.total_cmp(&b.0));
            match better {
                Some((_, candidate)) => plan = candidate,
                None => return Ok(plan),
            }
        }
    }

    fn of(towers: &[TowerSizes], plans: Vec<TowerPlan>) -> Self {
        let mut ledger = Ledger::default();
        let pairs = || towers.iter().zip(&plans);
        let kept: Vec<TowerKept> = pairs().map(|(sizes, plan)| forward(sizes, plan, &mut ledger)).collect();
        for ((sizes, plan), kept) in pairs().zip(kept).rev() {
            backward(sizes, plan, kept, &mut ledger);
        }
        let recomputed: f64 = pairs().map(|(sizes, plan)| recomputed_s(sizes, plan)).sum();
        // Of a block's forward pass all but the MLP's second product can be computed again.
        let whole = |sizes: &TowerSizes| {
            let again = recomputed_s(sizes, &TowerPlan::uniform(sizes, Keep::NOTHING));
            again + sizes.product_s(4 * sizes.width) * sizes.full_blocks() as f64
        };
        let forward_s: f64 = towers.iter().map(whole).sum();
        let names = towers.iter().map(|sizes| sizes.name).collect();
        StepPlan { towers: plans, names, peak: ledger.peak, recomputed: recomputed / forward_s }
    }
}

impl fmt::Display for StepPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "activations {:.2} GiB at their most", self.peak as f64 / (1u64 << 30) as f64)?;
        for (name, plan) in self.names.iter().zip(&self.towers) {
            let count = |piece: fn(&Keep) -> bool| plan.blocks.iter().filter(|keep| piece(keep)).count();
            let blocks = plan.blocks.len();
            let pieces = [
                ("attention", count(|k| k.attended)),
                ("middle", count(|k| k.middle)),
                ("qkv", count(|k| k.qkv)),
                ("hidden", count(|k| k.hidden)),
                ("activated", count(|k| k.activated)),
                ("norms", count(|k| k.normed)),
            ];
            let words: Vec<String> = pieces.iter().map(|(piece, count)| format!("{piece} {count}/{blocks}")).collect();
            write!(f, "; {name} keeps {}", words.join(", "))?;
        }
        write!(f, "; {:.0}% of the forward pass computed again", 100.0 * self.recomputed)
    }
}

/// The plan with one more piece kept.
fn candidates(plan: &StepPlan) -> impl Iterator<Item = Vec<TowerPlan>> + '_ {
    let pieces: [fn(&mut Keep) -> &mut bool; 6] = [
        |k| &mut k.attended,
        |k| &mut k.middle,
        |k| &mut k.qkv,
        |k| &mut k.hidden,
        |k| &mut k.normed,
        |k| &mut k.activated,
    ];
    let more = move |tower: usize| {
        let blocks = (0..plan.towers[tower].blocks.len()).flat_map(move |block| {
            pieces.into_iter().filter_map(move |piece| {
                let mut plans = plan.towers.clone();
                let kept = piece(&mut plans[tower].blocks[block]);
                (!std::mem::replace(kept, true)).then_some(plans)
            })
        });
        let mut with_kv = plan.towers.clone();
        let kv = (!std::mem::replace(&mut with_kv[tower].last_kv, true)).then_some(with_kv);
        blocks.chain(kv)
    };
    (0..plan.towers.len()).flat_map(more)
}

/// Seconds of recomputation.
fn recomputed_s(sizes: &TowerSizes, plan: &TowerPlan) -> f64 {
    let width = sizes.width;
    let block = |keep: &Keep| {
        let mut seconds = 0.0;
        let norm = if keep.normed { 0.0 } else { sizes.passes_s(2) };
        if !keep.qkv {
            seconds += sizes.product_s(3 * width) + norm;
        }
        if !keep.attended {
            seconds += sizes.attention_s();
        }
        if !keep.middle {
            seconds += sizes.product_s(width) + sizes.passes_s(1);
        }
        if !keep.hidden {
            seconds += sizes.product_s(4 * width) + norm;
        }
        // Made again while something else is read: written, and not read.
        if !keep.activated {
            seconds += sizes.passes_s(4);
        }
        if !keep.normed {
            seconds += sizes.passes_s(2);
        }
        seconds
    };
    let last = if plan.last_kv { 0.0 } else { sizes.product_s(2 * width) + sizes.passes_s(2) };
    plan.blocks.iter().map(block).sum::<f64>() + last
}

/// Bytes in use, and at their most.
#[derive(Default)]
struct Ledger {
    now: u64,
    peak: u64,
}

impl Ledger {
    /// Takes, and returns what was taken.
    fn take(&mut self, bytes: u64) -> u64 {
        self.now += bytes;
        self.peak = self.peak.max(self.now);
        bytes
    }

    fn give(&mut self, bytes: u64) {
        self.now -= bytes;
    }
}

fn when(condition: bool, bytes: u64) -> u64 {
    if condition { bytes } else { 0 }
}

/// Kept by the forward pass: before the blocks, by each, and by the last.
struct TowerKept {
    before: u64,
    blocks: Vec<u64>,
    last: u64,
}

fn forward(sizes: &TowerSizes, plan: &TowerPlan, ledger: &mut Ledger) -> TowerKept {
    let (u, stats, lse) = (sizes.unit(), sizes.stats(), sizes.lse());
    let patches = ledger.take(sizes.bytes(sizes.patch_values));
    let mut before = ledger.take(u);
    ledger.give(patches);
    if sizes.norm_before {
        before += ledger.take(stats);
        ledger.take(u); // the first block's input
    } else {
        before = 0;
    }
    let blocks = plan.blocks.iter().map(|keep| {
        let start = ledger.now;
        ledger.take(2 * stats + u); // normed
        ledger.take(3 * u); // qkv
        ledger.give(when(!keep.normed, u));
        ledger.take(u + lse); // attended
        ledger.give(when(!keep.qkv, 3 * u));
        ledger.take(u); // middle
        ledger.give(when(!keep.attended, u + lse));
        ledger.take(u); // normed
        ledger.take(4 * u); // hidden
        ledger.give(when(!keep.normed, u));
        ledger.take(4 * u); // activated
        ledger.give(when(!keep.hidden, 4 * u));
        ledger.take(u); // output
        ledger.give(when(!keep.activated, 4 * u) + when(!keep.middle, u));
        ledger.now - start - u
    });
    let blocks = blocks.collect();
    let start = ledger.now;
    if let Ending::AllTokens { kept, beside, .. } = sizes.ending {
        ledger.take(kept + beside);
        ledger.give(beside);
        return TowerKept { before, blocks, last: kept };
    }
    ledger.take(stats + u);
    ledger.take(2 * u);
    ledger.give(u);
    ledger.take(lse + 16 * sizes.width as u64 * (sizes.batch * sizes.element) as u64);
    ledger.give(when(!plan.last_kv, 2 * u));
    TowerKept { before, blocks, last: ledger.now - start }
}

fn backward(sizes: &TowerSizes, plan: &TowerPlan, kept: TowerKept, ledger: &mut Ledger) {
    let u = sizes.unit();
    let branch = when(sizes.drop_path, u);
    if let Ending::AllTokens { .. } = sizes.ending {
        ledger.take(u); // the stream's gradient
        ledger.give(kept.last + u); // and the blocks' output
        blocks_backward(sizes, plan, kept, ledger, branch, 0);
        return;
    }
    // The last block: keys and values, their gradients, the gradient of the norm's output, the stream's.
    if !plan.last_kv {
        ledger.take(3 * u);
        ledger.give(u);
    }
    ledger.take(2 * u);
    ledger.give(2 * u);
    let residue = when(sizes.element < 4, u);
    ledger.take(2 * u + residue);
    ledger.give(3 * u);
    ledger.give(kept.last.saturating_sub(when(plan.last_kv, 2 * u)) + u); // and its input
    blocks_backward(sizes, plan, kept, ledger, branch, residue);
}

/// The blocks that are computed for every token, and what comes before them.
fn blocks_backward(
    sizes: &TowerSizes,
    plan: &TowerPlan,
    kept: TowerKept,
    ledger: &mut Ledger,
    branch: u64,
    residue: u64,
) {
    let (u, stats, lse) = (sizes.unit(), sizes.stats(), sizes.lse());
    // A product of a norm's output, `columns` units wide, with the norm again where it was not kept.
    let again = |ledger: &mut Ledger, keep: &Keep, columns: u64| {
        let norm = when(!keep.normed, stats + u);
        ledger.take(norm + columns * u);
        ledger.give(norm);
    };
    for (keep, left) in plan.blocks.iter().zip(&kept.blocks).rev() {
        if !keep.middle {
            if !keep.attended {
                if !keep.qkv {
                    again(ledger, keep, 3);
                }
                ledger.take(u + lse);
            }
            ledger.take(u);
        }
        if !keep.hidden {
            again(ledger, keep, 4);
        }
        ledger.take(branch + 4 * u); // gradient of the hidden layer
        ledger.give(4 * u + when(keep.activated, 4 * u) + branch); // hidden
        ledger.take(u); // gradient of the norm's output
        ledger.give(6 * u + when(keep.normed, u)); // that, the hidden layer's, middle
        let have_attended = keep.attended || !keep.middle;
        let have_qkv = keep.qkv || (!keep.middle && !keep.attended);
        if !have_qkv {
            again(ledger, keep, 3);
        }
        if !have_attended {
            ledger.take(u + lse);
        }
        ledger.take(branch + u); // gradient of the attention's output
        ledger.give(branch);
        let sums = sizes.sums();
        ledger.take(3 * u + lse + sums); // gradient of qkv
        ledger.give(5 * u + 2 * lse + sums); // qkv, attended with its sums, the gradient of the output
        ledger.take(u); // gradient of the norm's output
        ledger.give(4 * u + when(keep.normed, u));
        // What is left of the kept pieces: the norms' statistics; then the input.
        let pieces = when(keep.qkv, 3 * u)
            + when(keep.attended, u + lse)
            + when(keep.middle, u)
            + when(keep.hidden, 4 * u)
            + when(keep.activated, 4 * u)
            + when(keep.normed, 2 * u);
        ledger.give(left - pieces + u);
    }
    ledger.give(residue); // of the stream's gradient
    // The embedding: gradient before the norm, then the patches again.
    if sizes.norm_before {
        ledger.take(u);
        ledger.give(u + kept.before);
    }
    let patches = ledger.take(sizes.bytes(sizes.patch_values));
    ledger.give(patches + u);
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn vision() -> TowerSizes {
        TowerSizes {
            batch: 256,
            tokens: 785,
            width: 768,
            layers: 12,
            heads: 12,
            patch_values: 768,
            element: 2,
            causal: false,
            norm_before: true,
            drop_path: false,
            ending: Ending::OneToken,
            name: "video",
        }
    }

    fn text() -> TowerSizes {
        let sizes = TowerSizes { tokens: 32, width: 512, heads: 8, patch_values: 0, ..vision() };
        TowerSizes { causal: true, norm_before: false, name: "text", ..sizes }
    }

    fn classifier() -> TowerSizes {
        let ending = Ending::AllTokens { kept: 100, beside: 1 << 20, operations: 0 };
        TowerSizes { norm_before: false, ending, ..vision() }
    }

    /// Whatever is taken is given back: a walk that leaves something would predict growth.
    #[test]
    fn a_step_returns_everything() {
        for keep in
            [Keep::ALL, Keep::NOTHING, Keep { attended: true, ..Keep::NOTHING }, Keep { middle: false, ..Keep::ALL }]
        {
            for drop_path in [false, true] {
                for sizes in [TowerSizes { drop_path, ..vision() }, text(), classifier()] {
                    let mut ledger = Ledger::default();
                    let plan = TowerPlan::uniform(&sizes, keep);
                    let kept = forward(&sizes, &plan, &mut ledger);
                    backward(&sizes, &plan, kept, &mut ledger);
                    assert_eq!(ledger.now, 0, "{keep:?} {sizes:?}");
                }
            }
        }
    }

    #[test]
    fn a_budget_is_met_and_used() {
        let least = StepPlan::uniform(&[vision(), text()], Keep::NOTHING);
        let most = StepPlan::uniform(&[vision(), text()], Keep::ALL);
        assert!(least.peak < 9 * GIB && most.peak > 32 * GIB, "{least} | {most}");
        assert!(least.recomputed > 0.6 && most.recomputed == 0.0, "{least} | {most}");
        let mut before = least.recomputed;
        for gib in [10, 14, 18, 24, 32] {
            let plan = StepPlan::fit(&[vision(), text()], gib * GIB).unwrap();
            // A piece is at most four units.
            assert!(plan.peak <= gib * GIB && plan.peak + 5 * vision().unit() > gib * GIB, "{gib}: {plan}");
            assert!(plan.recomputed < before);
            before = plan.recomputed;
        }
        assert_eq!(StepPlan::fit(&[vision(), text()], 64 * GIB), Ok(most));
        assert_eq!(StepPlan::fit(&[vision(), text()], GIB), Err(DoesNotFit { least: least.peak }));
    }

    /// The attention costs most per byte: it goes first.
    #[test]
    fn the_attention_is_kept_first() {
        let plan = StepPlan::fit(&[vision(), text()], 12 * GIB).unwrap();
        assert!(plan.towers[0].blocks.iter().all(|keep| keep.attended), "{plan}");
    }
}
