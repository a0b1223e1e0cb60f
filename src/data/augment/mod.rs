//! Changes made to training clips after decoding, as VideoMAE fine-tunes: RandAugment, random erasing and, over a whole
//! batch, Mixup, CutMix and label smoothing ([`MixPlan`]).
//!
//! Clips are RGB bytes, `[frames, px, px, 3]`; whatever is drawn is drawn once a clip. As in AVION, they come after the
//! crop and the flip (the original does RandAugment before the crop).

mod colour;
mod erase;
mod geometry;
mod mix;
mod rand_augment;

pub use erase::Erasing;
pub use mix::{CutBox, MixPlan};
pub use rand_augment::RandAugment;

use crate::config::recipe::Recipe;
use crate::data::rng::Purpose;
use crate::model::shape::pixel_norm;
use rand_chacha::ChaCha8Rng;

/// What is done to each training clip.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Augment {
    pub rand_augment: Option<RandAugment>,
    pub erasing: Option<Erasing>,
}

impl Augment {
    /// What a recipe says.
    pub fn of(recipe: &Recipe) -> Self {
        let augment = &recipe.augment;
        let rand_augment = RandAugment {
            operations: augment.randaugment,
            magnitude: augment.randaugment_magnitude,
            probability: augment.randaugment_probability,
            std: augment.randaugment_std,
        };
        let norm = pixel_norm(recipe.data.normalization);
        let erasing = Erasing { probability: augment.erasing, mean: norm.mean, std: norm.std };
        Self {
            rand_augment: (augment.randaugment > 0).then_some(rand_augment),
            erasing: (augment.erasing > 0.0).then_some(erasing),
        }
    }

    /// Changes a clip `[frames, px, px, 3]` in place. `draw` gives the clip's generator for a purpose.
    pub fn apply(&self, clip: &mut [u8], px: usize, draw: impl Fn(Purpose) -> ChaCha8Rng) {
        if let Some(rand_augment) = &self.rand_augment {
            rand_augment.apply(clip, px, &mut draw(Purpose::RandAugment));
        }
        if let Some(erasing) = &self.erasing {
            erasing.apply(clip, px, &mut draw(Purpose::Erase));
        }
    }
}
