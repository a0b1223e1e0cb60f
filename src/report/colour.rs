//! From a share to a colour whose lightness rises evenly: differences look as large as they are, in grey too, and to
//! the colour-blind.

/// Matplotlib's *viridis* at 0, 0.1, .., 1 (public domain, CC0). Between them colours are mixed; no channel is then
/// off by more than 3 of 255.
const VIRIDIS: [[u8; 3]; 11] = [
    [68, 1, 84],
    [72, 37, 118],
    [65, 68, 135],
    [53, 96, 141],
    [42, 120, 142],
    [33, 144, 140],
    [34, 168, 132],
    [67, 191, 113],
    [122, 209, 81],
    [187, 223, 39],
    [253, 231, 37],
];

/// The colour of a share in `[0, 1]`; shares beyond are those of the ends, NaN that of 0.
pub(super) fn viridis(share: f32) -> [u8; 3] {
    let steps = VIRIDIS.len() - 1;
    let place = share.clamp(0.0, 1.0) * steps as f32;
    let below = (place as usize).min(steps - 1); // NaN becomes 0
    let mix = if place.is_nan() { 0.0 } else { place - below as f32 };
    std::array::from_fn(|c| {
        let (from, to) = (f32::from(VIRIDIS[below][c]), f32::from(VIRIDIS[below + 1][c]));
        (from + mix * (to - from)).round() as u8
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lightness_rises_evenly() {
        assert_eq!(viridis(-1.0), [68, 1, 84]);
        assert_eq!(viridis(f32::NAN), [68, 1, 84]);
        assert_eq!(viridis(0.5), [33, 144, 140]);
        assert_eq!(viridis(2.0), [253, 231, 37]);
        // CIE L*, from linear sRGB.
        let lightness = |colour: [u8; 3]| {
            let linear = colour.map(|c| ((f64::from(c) / 255.0 + 0.055) / 1.055).powf(2.4));
            116.0 * (0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]).cbrt() - 16.0
        };
        let steps: Vec<f64> = (0..=20).map(|i| lightness(viridis(i as f32 / 20.0))).collect();
        for pair in steps.windows(2) {
            let step = pair[1] - pair[0];
            assert!((2.0..6.5).contains(&step), "{steps:?}");
        }
    }
}
