//! Mixup (Zhang et al. 2018, arXiv:1710.09412), CutMix (Yun et al. 2019, arXiv:1905.04899) and label smoothing of a
//! batch, as timm's `Mixup` in mode `batch`: clip `i` is mixed with clip `n - 1 - i`, all alike.
//!
//! CutMix replaces a box of rows and columns in all frames. (AVION hands timm five-dimensional batches, of which timm cuts
//! frames and rows, while the labels count rows and columns: SEEDS.md 3.6.)

use crate::config::recipe::AugmentConfig;
use crate::data::rng::{Purpose, keyed};
use crate::data::sampler::Position;
use rand::Rng;
use rand_distr::{Beta, Distribution};
use std::ops::Range;

/// Weights are whole 256ths, so that 16-bit arithmetic mixes bytes exactly as the labels say.
const WHOLE: u16 = 256;

/// A box of every frame, in pixels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CutBox {
    pub rows: Range<usize>,
    pub columns: Range<usize>,
}

/// How the clips and labels of a batch are mixed.
#[derive(Clone, Debug, PartialEq)]
pub struct MixPlan {
    /// CutMix: what comes from the partner. `None`: Mixup.
    pub cut: Option<CutBox>,
    /// Share of the clip's own label and, with Mixup, pixels; 1 = nothing is mixed.
    pub own: f64,
    /// Share of a label that is spread over all classes.
    smoothing: f64,
}

impl MixPlan {
    /// Draws the plan for one batch of a run, of frames of `px` squared. Keyed by seed and position.
    ///
    /// Mixup's share is rounded to 256ths, for the pixels and the labels alike. An alpha that is not above 0 switches
    /// its kind off.
    pub fn draw(config: &AugmentConfig, seed: u64, position: Position, px: usize) -> Self {
        let mut rng = keyed(seed, position.epoch, position.batch, Purpose::Mix);
        let mut plan = Self { cut: None, own: 1.0, smoothing: config.label_smoothing };
        let betas = [config.mixup, config.cutmix].map(|alpha| Beta::new(alpha, alpha).ok().filter(|_| alpha > 0.0));
        if rng.random::<f64>() >= config.mix_probability {
            return plan;
        }
        let switched = rng.random::<f64>() < config.switch_probability;
        match betas {
            [_, Some(cutmix)] if switched || config.mixup <= 0.0 => {
                let cut = CutBox::draw(cutmix.sample(&mut rng), px, &mut rng);
                plan.own = 1.0 - (cut.rows.len() * cut.columns.len()) as f64 / (px * px).max(1) as f64;
                plan.cut = Some(cut);
            }
            [Some(mixup), _] => {
                let own: f64 = mixup.sample(&mut rng);
                plan.own = (own * f64::from(WHOLE)).round() / f64::from(WHOLE);
            }
            _ => {}
        }
        plan
    }

    /// Mixes the clips of a batch `[clips, frames, px, px, 3]` in place; of an odd number, the middle one stays.
    /// Mixed values are rounded to nearest, halves up.
    pub fn apply(&self, batch: &mut [u8], clips: usize, px: usize) {
        if clips == 0 || self.own == 1.0 {
            return;
        }
        let clip_bytes = batch.len() / clips;
        let (first, second) = batch.split_at_mut(clips / 2 * clip_bytes);
        let partners = second[(clips % 2) * clip_bytes..].chunks_exact_mut(clip_bytes).rev();
        for (one, other) in first.chunks_exact_mut(clip_bytes).zip(partners) {
            match &self.cut {
                Some(cut) => cut.swap(one, other, px),
                None => blend(one, other, (self.own * f64::from(WHOLE)) as u16),
            }
        }
    }

    /// The targets of the mixed batch, `[clips, classes]`: `own` of the label, the rest of the partner's, both smoothed
    /// (`1 - s + s / classes` for the class, `s / classes` for the others). Labels must be below `classes`.
    pub fn targets(&self, labels: &[u32], classes: usize) -> Vec<f32> {
        let spread = self.smoothing / classes as f64;
        let mut targets = vec![spread as f32; labels.len() * classes];
        for ((row, own), partner) in targets.chunks_exact_mut(classes).zip(labels).zip(labels.iter().rev()) {
            // In f64 until both are added: where the labels agree they sum to what one alone would be.
            let value = |class: u32| {
                let share = |label: u32, share: f64| if label == class { share } else { 0.0 };
                let shares = share(*own, self.own) + share(*partner, 1.0 - self.own);
                (shares * (1.0 - self.smoothing) + spread) as f32
            };
            for class in [*own, *partner] {
                if let Some(target) = row.get_mut(class as usize) {
                    *target = value(class);
                }
            }
        }
        targets
    }
}

impl CutBox {
    /// timm's `rand_bbox`: the share `1 - own` of the frame, around any pixel, cut at the borders.
    fn draw(own: f64, px: usize, rng: &mut impl Rng) -> Self {
        let half = (px as f64 * (1.0 - own).sqrt()) as usize / 2;
        let mut span = || {
            let centre = rng.random_range(0..px.max(1) as u64) as usize;
            centre.saturating_sub(half)..(centre + half).min(px)
        };
        Self { rows: span(), columns: span() }
    }

    /// Exchanges the box of two clips.
    fn swap(&self, one: &mut [u8], other: &mut [u8], px: usize) {
        let columns = self.columns.start * 3..self.columns.end * 3;
        let frames = |clip: usize| clip / (px * px * 3);
        for frame in 0..frames(one.len()) {
            for row in self.rows.clone() {
                let row = (frame * px + row) * px * 3;
                let (from, to) = (row + columns.start, row + columns.end);
                one[from..to].swap_with_slice(&mut other[from..to]);
            }
        }
    }
}

/// `weight` 256ths of its own and the rest of the other, for both.
fn blend(one: &mut [u8], other: &mut [u8], weight: u16) {
    let rest = WHOLE - weight;
    for (one, other) in one.iter_mut().zip(other) {
        let (a, b) = (u16::from(*one), u16::from(*other));
        // At most 255 * 256 + 128.
        *one = ((a * weight + b * rest + WHOLE / 2) >> 8) as u8;
        *other = ((b * weight + a * rest + WHOLE / 2) >> 8) as u8;
    }
}

#[cfg(test)]
mod tests;
