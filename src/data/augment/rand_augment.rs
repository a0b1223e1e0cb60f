//! RandAugment (Cubuk et al. 2019, arXiv:1909.13719) as VideoMAE uses it: timm's `rand-m7-n4-mstd0.5-inc1`.

use super::{colour, geometry};
use rand::Rng;
use rand::seq::IndexedRandom;
use rand_distr::StandardNormal;

/// Strength at which each operation is at its strongest.
const STRONGEST: f64 = 10.0;

/// A few random operations of random strength.
#[derive(Clone, Debug, PartialEq)]
pub struct RandAugment {
    /// Drawn per clip, with replacement.
    pub operations: usize,
    /// Mean strength, 0 to 10.
    pub magnitude: f64,
    /// That each operation drawn is done.
    pub probability: f64,
    /// Of the strength.
    pub std: f64,
}

/// timm's set of "increasing" operations: the strength tells how much changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    AutoContrast,
    Equalize,
    Invert,
    Rotate,
    Posterize,
    Solarize,
    SolarizeAdd,
    Colour,
    Contrast,
    Brightness,
    Sharpness,
    ShearX,
    ShearY,
    TranslateX,
    TranslateY,
}

impl Operation {
    const ALL: [Self; 15] = [
        Self::AutoContrast,
        Self::Equalize,
        Self::Invert,
        Self::Rotate,
        Self::Posterize,
        Self::Solarize,
        Self::SolarizeAdd,
        Self::Colour,
        Self::Contrast,
        Self::Brightness,
        Self::Sharpness,
        Self::ShearX,
        Self::ShearY,
        Self::TranslateX,
        Self::TranslateY,
    ];

    /// Changes one frame; `share` is the strength in `[0, 1]`, `sign` 1 or -1. The scales are timm's.
    fn apply(self, frame: &mut [u8], px: usize, share: f64, sign: f64, scratch: &mut Vec<u8>) {
        let enhanced = (1.0 + sign * 0.9 * share) as f32;
        match self {
            Self::AutoContrast => colour::auto_contrast(frame),
            Self::Equalize => colour::equalize(frame),
            Self::Invert => colour::map(frame, |value| 255 - value),
            Self::Posterize => colour::posterize(frame, 4 - (share * 4.0) as u32),
            Self::Solarize => colour::solarize(frame, 256 - (share * 256.0) as u32),
            Self::SolarizeAdd => colour::solarize_add(frame, (share * 110.0) as u8),
            Self::Colour => colour::saturation(frame, enhanced),
            Self::Contrast => colour::contrast(frame, enhanced),
            Self::Brightness => colour::brightness(frame, enhanced),
            Self::Sharpness => colour::sharpness(frame, px, enhanced, scratch),
            Self::Rotate => geometry::rotate(frame, px, sign * 30.0 * share, scratch),
            Self::ShearX => geometry::transform(frame, px, [1.0, sign * 0.3 * share, 0.0, 0.0, 1.0, 0.0], scratch),
            Self::ShearY => geometry::transform(frame, px, [1.0, 0.0, 0.0, sign * 0.3 * share, 1.0, 0.0], scratch),
            Self::TranslateX => {
                let shift = sign * 0.45 * share * px as f64;
                geometry::transform(frame, px, [1.0, 0.0, shift, 0.0, 1.0, 0.0], scratch);
            }
            Self::TranslateY => {
                let shift = sign * 0.45 * share * px as f64;
                geometry::transform(frame, px, [1.0, 0.0, 0.0, 0.0, 1.0, shift], scratch);
            }
        }
    }
}

impl RandAugment {
    /// Changes a clip `[frames, px, px, 3]`: the same operations, strengths and directions for all frames.
    pub fn apply(&self, clip: &mut [u8], px: usize, rng: &mut impl Rng) {
        let mut scratch = Vec::new();
        for _ in 0..self.operations {
            // Always as many draws, so that what follows does not depend on what is left out.
            let operation = Operation::ALL.choose(rng).copied();
            let done = rng.random::<f64>() < self.probability;
            let noise: f64 = rng.sample(StandardNormal);
            let sign = if rng.random() { 1.0 } else { -1.0 };
            let Some(operation) = operation.filter(|_| done) else { continue };
            let strength = (self.magnitude + self.std * noise).clamp(0.0, STRONGEST);
            for frame in clip.chunks_exact_mut(px * px * 3) {
                operation.apply(frame, px, strength / STRONGEST, sign, &mut scratch);
            }
        }
    }
}

#[cfg(test)]
mod tests;
