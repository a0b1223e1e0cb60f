//! Random erasing (Zhong et al. 2017, arXiv:1708.04896): a box of noise, as timm's mode `pixel` with one box.

use rand::Rng;
use rand_distr::StandardNormal;

/// Area of the box as a share of the frame.
const AREA: [f64; 2] = [0.02, 1.0 / 3.0];

/// Aspect ratio (height / width) of the box.
const ASPECT: [f64; 2] = [0.3, 1.0 / 0.3];

/// How often a box that does not fit is drawn anew.
const TRIES: usize = 100;

/// Fills a box, the same in all frames, with noise. Erased values are normal with the mean and deviation that pixels
/// are normalised with, cut to 0..=255: what is standard normal after normalisation, in AVION and VideoMAE.
#[derive(Clone, Debug, PartialEq)]
pub struct Erasing {
    pub probability: f64,
    /// Of each channel, 0 to 255.
    pub mean: [f32; 3],
    pub std: [f32; 3],
}

impl Erasing {
    /// Changes a clip `[frames, px, px, 3]`.
    pub fn apply(&self, clip: &mut [u8], px: usize, rng: &mut impl Rng) {
        if rng.random::<f64>() >= self.probability {
            return;
        }
        let Some([top, left, height, width]) = draw_box(px, rng) else { return };
        for frame in clip.chunks_exact_mut(px * px * 3) {
            for row in frame.chunks_exact_mut(px * 3).skip(top).take(height) {
                for pixel in row[left * 3..(left + width) * 3].chunks_exact_mut(3) {
                    for (channel, value) in pixel.iter_mut().enumerate() {
                        let noise: f32 = rng.sample(StandardNormal);
                        // The cast cuts.
                        *value = (self.mean[channel] + self.std[channel] * noise).round() as u8;
                    }
                }
            }
        }
    }
}

/// `[top, left, height, width]` of a box smaller than the frame; `None` after too many tries.
fn draw_box(px: usize, rng: &mut impl Rng) -> Option<[usize; 4]> {
    for _ in 0..TRIES {
        let area = rng.random_range(AREA[0]..AREA[1]) * (px * px) as f64;
        let aspect = rng.random_range(ASPECT[0].ln()..ASPECT[1].ln()).exp();
        let height = (area * aspect).sqrt().round() as usize;
        let width = (area / aspect).sqrt().round() as usize;
        if height < px && width < px {
            let top = rng.random_range(0..=(px - height) as u64) as usize;
            let left = rng.random_range(0..=(px - width) as u64) as usize;
            return Some([top, left, height, width]);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    const ERASING: Erasing = Erasing { probability: 0.25, mean: [120.0, 115.0, 100.0], std: [58.0, 57.0, 56.0] };

    #[test]
    fn boxes_keep_their_ranges() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let (mut small, mut large) = (f64::MAX, 0.0f64);
        for _ in 0..5_000 {
            let [top, left, height, width] = draw_box(224, &mut rng).unwrap();
            assert!(top + height <= 224 && left + width <= 224);
            let area = (height * width) as f64 / (224.0 * 224.0);
            let aspect = height as f64 / width as f64;
            assert!((0.018..0.34).contains(&area) && (0.28..3.5).contains(&aspect), "{height} x {width}");
            (small, large) = (small.min(area), large.max(area));
        }
        assert!(small < 0.03 && large > 0.31, "{small} {large}");
        // Nothing fits in a single pixel.
        assert_eq!(draw_box(1, &mut rng).filter(|[_, _, height, width]| height * width > 0), None);
    }

    #[test]
    fn the_same_box_of_noise_in_every_frame() {
        let (px, frame) = (32, 32 * 32 * 3);
        let (mut erased, mut values) = (0, Vec::new());
        for seed in 0..400 {
            // No noise is 7 often enough to blur the box.
            let mut clip = vec![7; 3 * frame];
            ERASING.apply(&mut clip, px, &mut ChaCha8Rng::seed_from_u64(seed));
            let touched = |n: usize| clip[n * frame..][..frame].iter().map(|value| *value != 7).collect::<Vec<_>>();
            let (first, second) = (touched(0), touched(1));
            let count = first.iter().filter(|touched| **touched).count();
            if count == 0 {
                continue;
            }
            erased += 1;
            let differ = first.iter().zip(&second).filter(|(a, b)| a != b).count();
            assert!(differ * 20 < count, "{differ} of {count}");
            assert_ne!(clip[..frame], clip[frame..2 * frame], "each frame has noise of its own");
            values.extend(clip[..frame].chunks(3).map(|pixel| f64::from(pixel[1])).filter(|value| *value != 7.0));
        }
        assert!((70..130).contains(&erased), "{erased}");
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64;
        // Cutting at 0 and 255 takes a little of the deviation.
        assert!((mean - 115.0).abs() < 2.5 && (variance.sqrt() - 56.0).abs() < 2.5, "{mean} {}", variance.sqrt());
    }
}
