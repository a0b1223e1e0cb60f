//! What a step keeps for its backward pass, within a budget.
//!
//! The arena's use is a function of sizes alone, so a step is walked through beforehand ([`super::walk`]): pieces are kept
//! greedily, most recomputation saved per byte of peak first, and what is then to be held is the slab in which the arena
//! finds a place for every request.

use super::ledger::{Layout, Ledger};
pub use super::sizes::{Ending, Start, TowerSizes};
use super::walk;
use crate::ops::block::Keep;
use avion_kernels::arena::ALIGNMENT;
use std::fmt;

/// A slab is found to this share of what must be in it.
const PRECISION: u64 = 2048;

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
        let last_kv = keep.qkv || !sizes.one_token();
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
    /// Bytes of the one slab in which each of them finds a place: what the arena has to hold.
    pub slab: u64,
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

    /// What is needed where `plans`, one a tower, are kept.
    pub fn of(towers: &[TowerSizes], plans: Vec<TowerPlan>) -> Self {
        Draft::of(towers, plans).finish(towers)
    }

    /// Keeps as much as `budget` bytes for activations allow.
    ///
    /// # Errors
    /// [`DoesNotFit`] when not even keeping block inputs alone does.
    pub fn fit(towers: &[TowerSizes], budget: u64) -> Result<Self, DoesNotFit> {
        let all = Self::uniform(towers, Keep::ALL);
        if all.slab <= budget {
            return Ok(all);
        }
        let least = Self::uniform(towers, Keep::NOTHING);
        if least.slab > budget {
            return Err(DoesNotFit { least: least.slab });
        }
        // A slab is found too slowly to be asked of every candidate. So the peak is held below a target, which is lowered
        // until the slab is within the budget; what was chosen below the new target would be chosen again.
        let mut chosen = vec![Draft::of(towers, least.towers.clone())];
        let mut target = budget;
        while let Some(last) = chosen.last() {
            if let Some(better) = last.better(towers, target) {
                chosen.push(better);
                continue;
            }
            let plan = last.clone().finish(towers);
            if plan.slab <= budget {
                return Ok(plan);
            }
            target = target.saturating_sub(plan.slab - budget).min(plan.peak - 1);
            let below = chosen.iter().position(|draft| draft.peak > target);
            chosen.truncate(below.unwrap_or(chosen.len()));
        }
        Ok(least)
    }
}

/// A plan whose slab has not been looked for.
#[derive(Clone)]
struct Draft {
    towers: Vec<TowerPlan>,
    peak: u64,
    recomputed: f64,
}

impl Draft {
    fn of(towers: &[TowerSizes], plans: Vec<TowerPlan>) -> Self {
        let mut ledger = Ledger::default();
        walk::step(towers, &plans, &mut ledger);
        let recomputed: f64 = towers.iter().zip(&plans).map(|(sizes, plan)| recomputed_s(sizes, plan)).sum();
        // Of a block's forward pass all but the MLP's second product can be computed again.
        let whole = |sizes: &TowerSizes| {
            let again = recomputed_s(sizes, &TowerPlan::uniform(sizes, Keep::NOTHING));
            again + sizes.product_s(4 * sizes.width) * sizes.full_blocks() as f64
        };
        let forward_s: f64 = towers.iter().map(whole).sum();
        Draft { towers: plans, peak: ledger.peak, recomputed: recomputed / forward_s }
    }

    /// With one more piece kept, the one that saves most for what it adds to the peak, up to `target`.
    fn better(&self, towers: &[TowerSizes], target: u64) -> Option<Draft> {
        let weighed = candidates(&self.towers).filter_map(|plans| {
            let candidate = Self::of(towers, plans);
            let saved = self.recomputed - candidate.recomputed;
            let cost = candidate.peak.saturating_sub(self.peak).max(1);
            (candidate.peak <= target).then_some((saved / cost as f64, candidate))
        });
        weighed.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, candidate)| candidate)
    }

    fn finish(self, towers: &[TowerSizes]) -> StepPlan {
        let slab = slab(towers, &self.towers, self.peak);
        let names = towers.iter().map(|sizes| sizes.name).collect();
        StepPlan { towers: self.towers, names, peak: self.peak, slab, recomputed: self.recomputed }
    }
}

/// Bytes of a slab in which a step whose activations are `peak` bytes at their most fits, with captions of any length. The
/// arena leaves gaps, and shorter captions leave others than longer ones.
fn slab(towers: &[TowerSizes], plans: &[TowerPlan], peak: u64) -> u64 {
    let longest = towers.iter().filter(|sizes| sizes.start == Start::Captions).map(|sizes| sizes.tokens).max();
    let of_length = |tokens| -> Vec<TowerSizes> {
        let cut = |sizes: &TowerSizes| match sizes.start {
            Start::Captions => TowerSizes { tokens, ..*sizes },
            _ => *sizes,
        };
        towers.iter().map(cut).collect()
    };
    let lengths: Vec<Vec<TowerSizes>> = (1..=longest.unwrap_or(1)).rev().map(of_length).collect();
    let fits = |towers: &[TowerSizes], slab| {
        let mut layout = Layout::new(slab);
        walk::step(towers, plans, &mut layout);
        layout.fits
    };
    let part = (peak / PRECISION).max(1).next_multiple_of(ALIGNMENT);
    let mut slab = peak;
    // More room places pieces otherwise, and may be too little for a length that had enough: all are tried again.
    while let Some(short) = lengths.iter().find(|towers| !fits(towers, slab)) {
        let (mut low, mut high) = (0, 1);
        while !fits(short, slab + high * part) {
            (low, high) = (high, 2 * high);
        }
        while high - low > 1 {
            let middle = low.midpoint(high);
            if fits(short, slab + middle * part) { high = middle } else { low = middle }
        }
        slab += high * part;
    }
    slab
}

impl fmt::Display for StepPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
        write!(f, "activations {:.2} GiB at their most, in a slab of {:.2} GiB", gib(self.peak), gib(self.slab))?;
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

/// The plans with one more piece kept.
fn candidates(plans: &[TowerPlan]) -> impl Iterator<Item = Vec<TowerPlan>> + '_ {
    let pieces: [fn(&mut Keep) -> &mut bool; 6] = [
        |k| &mut k.attended,
        |k| &mut k.middle,
        |k| &mut k.qkv,
        |k| &mut k.hidden,
        |k| &mut k.normed,
        |k| &mut k.activated,
    ];
    let more = move |tower: usize| {
        let blocks = (0..plans[tower].blocks.len()).flat_map(move |block| {
            pieces.into_iter().filter_map(move |piece| {
                let mut plans = plans.to_vec();
                let kept = piece(&mut plans[tower].blocks[block]);
                (!std::mem::replace(kept, true)).then_some(plans)
            })
        });
        let mut with_kv = plans.to_vec();
        let kv = (!std::mem::replace(&mut with_kv[tower].last_kv, true)).then_some(with_kv);
        blocks.chain(kv)
    };
    (0..plans.len()).flat_map(more)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::rng::{Purpose, keyed};
    use rand::Rng;

    const GIB: u64 = 1 << 30;

    fn vision() -> TowerSizes {
        TowerSizes {
            batch: 256,
            tokens: 785,
            width: 768,
            layers: 12,
            heads: 12,
            element: 2,
            causal: false,
            drop_path: false,
            start: Start::Frames { values: 768, positions: 785 },
            ending: Ending::OneToken { embed: 256 },
            name: "video",
        }
    }

    fn text() -> TowerSizes {
        let sizes = TowerSizes { tokens: 32, width: 512, heads: 8, ..vision() };
        TowerSizes { causal: true, start: Start::Captions, name: "text", ..sizes }
    }

    fn classifier() -> TowerSizes {
        let (start, ending) = (Start::Tubelets { values: 1536 }, Ending::Mean { classes: 400 });
        TowerSizes { tokens: 1568, batch: 16, drop_path: true, start, ending, ..vision() }
    }

    fn masked() -> [TowerSizes; 2] {
        let (start, ending) = (Start::Tubelets { values: 1536 }, Ending::Bridge { narrow: 384 });
        let encoder = TowerSizes { batch: 64, tokens: 160, start, ending, ..vision() };
        let ending = Ending::Prediction { rows: 64 * 1408, values: 1536 };
        let (tokens, start) = (1568, Start::Tower);
        [encoder, TowerSizes { tokens, width: 384, layers: 4, heads: 6, start, ending, ..encoder }]
    }

    /// Every kind of step.
    fn steps() -> [Vec<TowerSizes>; 3] {
        [vec![TowerSizes { drop_path: true, ..vision() }, text()], masked().to_vec(), vec![classifier()]]
    }

    /// Plans that keep each piece with probability `share`.
    fn random(towers: &[TowerSizes], share: f64, seed: u64) -> Vec<TowerPlan> {
        let mut rng = keyed(seed, 0, 0, Purpose::Synthetic);
        let mut yes = move || rng.random_bool(share);
        let mut keep =
            || Keep { qkv: yes(), attended: yes(), middle: yes(), hidden: yes(), activated: yes(), normed: yes() };
        let plan = |sizes: &TowerSizes| TowerPlan {
            blocks: (0..sizes.full_blocks()).map(|_| keep()).collect(),
            ..TowerPlan::uniform(sizes, Keep::NOTHING)
        };
        towers.iter().map(plan).collect()
    }

    /// Whatever is taken is given back: a walk that leaves something would predict growth.
    #[test]
    fn a_step_returns_everything() {
        for towers in steps() {
            for (share, seed) in [(0.0, 0), (1.0, 0), (0.5, 1), (0.5, 2), (0.2, 3)] {
                let mut ledger = Ledger::default();
                walk::step(&towers, &random(&towers, share, seed), &mut ledger);
                assert!(ledger.now == 0 && ledger.peak > 0, "{share} {towers:?}");
            }
        }
    }

    /// One step after the other finds a place in the slab, whatever is kept and however long captions are; and the slab is
    /// hardly larger than what must be in it.
    #[test]
    fn steps_fit_in_the_slab() {
        for towers in steps() {
            for (share, seed) in [(0.0, 0), (1.0, 0), (0.5, 1), (0.5, 2), (0.2, 3), (0.8, 4)] {
                let plan = StepPlan::of(&towers, random(&towers, share, seed));
                for tokens in [32, 31, 20, 12, 5, 1] {
                    let cut = |sizes: &TowerSizes| match sizes.causal {
                        true => TowerSizes { tokens, ..*sizes },
                        false => *sizes,
                    };
                    let towers: Vec<TowerSizes> = towers.iter().map(cut).collect();
                    let mut layout = Layout::new(plan.slab);
                    for _ in 0..2 {
                        walk::step(&towers, &plan.towers, &mut layout);
                        assert!(layout.fits, "{tokens}: {plan}");
                    }
                }
                let excess = plan.slab as f64 / plan.peak as f64;
                assert!((1.0..1.06).contains(&excess), "{excess}: {plan}");
            }
        }
    }

    #[test]
    fn a_budget_is_met_and_used() {
        let least = StepPlan::uniform(&[vision(), text()], Keep::NOTHING);
        let most = StepPlan::uniform(&[vision(), text()], Keep::ALL);
        assert!(least.slab < 9 * GIB && most.peak > 32 * GIB, "{least} | {most}");
        assert!(least.recomputed > 0.6 && most.recomputed == 0.0, "{least} | {most}");
        let mut before = least.recomputed;
        for gib in [10, 14, 18, 24, 32] {
            let plan = StepPlan::fit(&[vision(), text()], gib * GIB).unwrap();
            // A piece is at most four units.
            assert!(plan.slab <= gib * GIB && plan.slab + 5 * vision().unit() > gib * GIB, "{gib}: {plan}");
            assert!(plan.recomputed < before);
            before = plan.recomputed;
        }
        assert_eq!(StepPlan::fit(&[vision(), text()], 64 * GIB), Ok(most));
        assert_eq!(StepPlan::fit(&[vision(), text()], GIB), Err(DoesNotFit { least: least.slab }));
    }

    /// The attention costs most per byte: it goes first.
    #[test]
    fn the_attention_is_kept_first() {
        let plan = StepPlan::fit(&[vision(), text()], 12 * GIB).unwrap();
        assert!(plan.towers[0].blocks.iter().all(|keep| keep.attended), "{plan}");
    }
}
