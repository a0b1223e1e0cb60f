//! Which part of the picture a clip uses: drawn for training, central for evaluation.

use rand::Rng;

/// Rectangle in display pixels (after rotation), inside the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CropBox {
    pub x: u32,
    pub y: u32,
    pub width: u32,
    pub height: u32,
}

impl CropBox {
    /// The whole picture.
    pub fn full(width: u32, height: u32) -> CropBox {
        CropBox { x: 0, y: 0, width, height }
    }

    /// Whether the rectangle has an area and lies within `width` x `height`.
    pub fn fits(&self, width: u32, height: u32) -> bool {
        let inside = |start: u32, len: u32, limit: u32| len > 0 && len <= limit && start <= limit - len;
        inside(self.x, self.width, width) && inside(self.y, self.height, height)
    }
}

/// One of several reads from a file: which frames (ascending), the part of each, whether it is flipped left to right,
/// and where they go, `[frames, out_px, out_px, 3]`.
#[derive(Debug)]
pub struct Read<'a> {
    pub frames: &'a [u64],
    pub crop: CropBox,
    pub flip: bool,
    pub out: &'a mut [u8],
}

/// How often a drawn rectangle may fail to fit (torchvision's `RandomResizedCrop`, AVION's decoder).
const TRIES: u32 = 10;

/// A rectangle of random area and aspect ratio at a random place.
///
/// The area is `width * height * U(scale)`, the aspect ratio (width / height) `exp(U(ln ratio))`; after ten
/// rectangles that do not fit, the largest central one of an allowed ratio is used. Offsets are uniform in
/// `0..=width - w` as in torchvision (AVION's decoder goes one further and clamps).
///
/// `scale` and `ratio` are `[lowest, highest]`.
///
/// # Source
/// torchvision `RandomResizedCrop.get_params`; AVION's decord fork, `use_rrc`.
pub fn random_resized_crop(width: u32, height: u32, scale: [f64; 2], ratio: [f64; 2], rng: &mut impl Rng) -> CropBox {
    let (full_w, full_h) = (f64::from(width), f64::from(height));
    for _ in 0..TRIES {
        let area = full_w * full_h * uniform(scale, rng);
        let aspect = uniform([ratio[0].ln(), ratio[1].ln()], rng).exp();
        let w = (area * aspect).sqrt().round() as u32;
        let h = (area / aspect).sqrt().round() as u32;
        if (1..=width).contains(&w) && (1..=height).contains(&h) {
            return CropBox {
                x: rng.random_range(0..=width - w),
                y: rng.random_range(0..=height - h),
                width: w,
                height: h,
            };
        }
    }
    let aspect = full_w / full_h;
    let (w, h) = if aspect < ratio[0] {
        (width, (full_w / ratio[0]).round() as u32)
    } else if aspect > ratio[1] {
        ((full_h * ratio[1]).round() as u32, height)
    } else {
        (width, height)
    };
    central(width, height, w.clamp(1, width), h.clamp(1, height))
}

/// The central square of the short side, offsets rounded down (AVION's `use_rcc`, used for all evaluation).
pub fn center_square(width: u32, height: u32) -> CropBox {
    let side = width.min(height);
    central(width, height, side, side)
}

/// The square number `index` of `count` along the long side, as large as the short side: the first at its start, the
/// last at its end, the others evenly between, rounded down; a single one is [`center_square`].
///
/// VideoMAE scales the short side to the model's size first and takes three squares of that size (SEEDS.md 4.6); here the
/// same part of the picture is cut out, then scaled. Its centre there is rounded up, by less than a pixel of the original.
pub fn square_along(width: u32, height: u32, index: u32, count: u32) -> CropBox {
    let square = center_square(width, height);
    if count < 2 {
        return square;
    }
    let at = |room: u32| (u64::from(room) * u64::from(index) / u64::from(count - 1)) as u32;
    CropBox { x: at(width - square.width), y: at(height - square.height), ..square }
}

/// Sides of a multi-scale crop as shares of the short side.
const SCALES: [f64; 4] = [1.0, 0.875, 0.75, 0.66];

/// Places of a multi-scale crop, in quarters of the room that it leaves: corners and centre, then what TSN adds,
/// `[x, y]`.
const PLACES: [[u32; 2]; 13] =
    [[0, 0], [4, 0], [0, 4], [4, 4], [2, 2], [0, 2], [4, 2], [2, 4], [2, 0], [1, 1], [3, 1], [1, 3], [3, 3]];

/// A crop of one of 10 sizes at one of 13 places: VideoMAE's pre-training.
///
/// Width and height are next to each other in [`SCALES`], and exactly `out_px` where less than 3 pixels off. A place is a
/// multiple of a quarter of the room, rounded down.
///
/// # Source
/// TSN `GroupMultiScaleCrop` (Wang et al. 2016); AVION's decord fork, `use_msc`: SEEDS.md 4.7.
pub fn multi_scale_crop(width: u32, height: u32, out_px: u32, rng: &mut impl Rng) -> CropBox {
    let short = width.min(height);
    let sides = SCALES.map(|scale| {
        let side = ((f64::from(short) * scale) as u32).max(1);
        // A picture a little smaller than `out_px` has no such crop.
        if side.abs_diff(out_px) < 3 { out_px.min(short) } else { side }
    });
    let near = |i: usize| (0..SCALES.len()).filter(move |j| i.abs_diff(*j) <= 1).map(move |j| (i, j));
    let pairs: Vec<(usize, usize)> = (0..SCALES.len()).flat_map(near).collect();
    let (tall, wide) = pairs[rng.random_range(0..pairs.len() as u64) as usize];
    let (w, h) = (sides[wide], sides[tall]);
    let [x, y] = PLACES[rng.random_range(0..PLACES.len() as u64) as usize];
    CropBox { x: x * ((width - w) / 4), y: y * ((height - h) / 4), width: w, height: h }
}

fn central(width: u32, height: u32, w: u32, h: u32) -> CropBox {
    CropBox { x: (width - w) / 2, y: (height - h) / 2, width: w, height: h }
}

fn uniform([low, high]: [f64; 2], rng: &mut impl Rng) -> f64 {
    low + (high - low) * rng.random::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;
    use std::collections::BTreeSet;

    #[test]
    fn drawn_crops_fit_and_fill_their_ranges() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let (mut left, mut right, mut sum) = (false, false, 0.0);
        let num_draws = 20_000;
        for _ in 0..num_draws {
            let crop = random_resized_crop(320, 240, [0.5, 1.0], [3.0 / 4.0, 4.0 / 3.0], &mut rng);
            assert!(crop.fits(320, 240), "{crop:?}");
            let area = f64::from(crop.width) * f64::from(crop.height) / (320.0 * 240.0);
            assert!((0.49..=1.0).contains(&area), "{crop:?}");
            let aspect = f64::from(crop.width) / f64::from(crop.height);
            assert!((0.74..=1.35).contains(&aspect), "{crop:?}");
            left |= crop.width < 320 && crop.x == 0;
            right |= crop.width < 320 && crop.x + crop.width == 320;
            sum += area;
        }
        assert!(left && right, "an edge is never reached");
        // Draws that do not fit are the large ones, so the mean lies below the 0.75 of U(0.5, 1).
        let mean = sum / f64::from(num_draws);
        assert!((0.66..0.75).contains(&mean), "{mean}");
    }

    #[test]
    fn falls_back_to_the_centre() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let wide = random_resized_crop(1000, 100, [1.0, 1.0], [0.75, 1.5], &mut rng);
        let expected = CropBox { x: 425, y: 0, width: 150, height: 100 };
        assert_eq!(wide, expected);
        let tall = random_resized_crop(90, 1000, [1.0, 1.0], [0.75, 1.5], &mut rng);
        let expected = CropBox { x: 0, y: 440, width: 90, height: 120 };
        assert_eq!(tall, expected);
        let fixed = random_resized_crop(64, 48, [2.0, 2.0], [0.5, 2.0], &mut rng);
        assert_eq!(fixed, CropBox::full(64, 48));
    }

    #[test]
    fn multi_scale_crops_are_the_ten_sizes_at_thirteen_places() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut sizes = BTreeSet::new();
        for _ in 0..4_000 {
            let crop = multi_scale_crop(340, 256, 224, &mut rng);
            assert!(crop.fits(340, 256), "{crop:?}");
            sizes.insert((crop.width, crop.height));
        }
        // 256, 224, 192 and int(168.96) = 168, next to each other.
        let side = [256, 224, 192, 168];
        let near =
            (0..4).flat_map(|i| (0..4).map(move |j| (i, j))).filter(|(i, j): &(usize, usize)| i.abs_diff(*j) < 2);
        assert_eq!(sizes, near.map(|(i, j)| (side[i], side[j])).collect());
        // 84 / 4 = 21 and 32 / 4 = 8 pixels a step.
        let at: BTreeSet<(u32, u32)> = (0..4_000)
            .map(|_| multi_scale_crop(340, 256, 224, &mut rng))
            .filter(|crop| (crop.width, crop.height) == (256, 224))
            .map(|crop| (crop.x / 21, crop.y / 8))
            .collect();
        assert_eq!(at, PLACES.map(|[x, y]| (x, y)).into());
    }

    #[test]
    fn multi_scale_crops_snap_to_the_output() {
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        for (short, out, expected) in [(226, 224, 224), (222, 224, 222), (256, 226, 226), (256, 227, 224)] {
            let crops = (0..200).map(|_| multi_scale_crop(400, short, out, &mut rng));
            let sides: BTreeSet<u32> = crops.flat_map(|crop| [crop.width, crop.height]).collect();
            assert!(sides.contains(&expected) && sides.iter().all(|side| *side <= short), "{short} {out}: {sides:?}");
        }
        assert_eq!(multi_scale_crop(1, 1, 224, &mut rng), CropBox::full(1, 1));
    }

    #[test]
    fn squares_along_the_long_side() {
        let square = |x, y| CropBox { x, y, width: 240, height: 240 };
        let wide = [0, 1, 2].map(|i| square_along(321, 240, i, 3));
        assert_eq!(wide, [square(0, 0), square(40, 0), square(81, 0)]);
        let tall = [0, 1, 2].map(|i| square_along(240, 321, i, 3));
        assert_eq!(tall, [square(0, 0), square(0, 40), square(0, 81)]);
        assert_eq!(square_along(321, 240, 0, 1), center_square(321, 240));
    }

    #[test]
    fn the_same_seed_draws_the_same_crops() {
        let draw = || {
            let mut rng = ChaCha8Rng::seed_from_u64(7);
            [(); 8].map(|()| random_resized_crop(511, 287, [0.08, 1.0], [0.75, 1.3], &mut rng))
        };
        assert_eq!(draw(), draw());
    }

    #[test]
    fn center_square_rounds_down() {
        let expected = CropBox { x: 2, y: 0, width: 3, height: 3 };
        assert_eq!(center_square(8, 3), expected);
        assert_eq!(center_square(3, 8).y, 2);
        assert_eq!(center_square(5, 5), CropBox::full(5, 5));
    }
}
