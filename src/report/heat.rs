//! Heat maps over frames: where a model looks.

use super::colour::viridis;
use super::picture::Picture;
use super::{ReportError, check_picture};

/// Lays a heat map over a frame: bilinear between the middles of the map's cells, as viridis from `least` (dark) to
/// `largest` (yellow). Give all frames of a clip the same span, that of [`heat_span`] over all maps, to compare them.
///
/// # Shapes
/// `rgb`: `[height, width, 3]`; `heat`: `[rows, columns]`; `opacity`: 0 = the frame alone, 1 = the map alone.
///
/// # Errors
/// Sizes that do not fit, a value or a span that is not finite, an opacity outside `[0, 1]`.
pub fn overlay_heat(
    rgb: &[u8],
    width: usize,
    height: usize,
    heat: &[f32],
    (rows, columns): (usize, usize),
    (least, largest): (f32, f32),
    opacity: f32,
) -> Result<Picture, ReportError> {
    check_picture(rgb, width, height)?;
    let bad = |reason: String| Err(ReportError::BadHeatMap { rows, columns, reason });
    if rows.checked_mul(columns) != Some(heat.len()) || heat.is_empty() {
        return bad(format!("it has {} entries, expected rows x columns, not 0", heat.len()));
    }
    if let Some(at) = heat.iter().position(|value| !value.is_finite()) {
        return bad(format!("row {}, column {} is {}", at / columns, at % columns, heat[at]));
    }
    if !(least.is_finite() && largest.is_finite() && least <= largest) {
        return bad(format!("its span is {least} to {largest}, expected finite and rising"));
    }
    if !(0.0..=1.0).contains(&opacity) {
        return bad(format!("its opacity is {opacity}, expected 0 to 1"));
    }
    let across: Vec<Mix> = (0..width).map(|x| Mix::of(x, width, columns)).collect();
    let range = f64::from(largest) - f64::from(least);
    let mut blended = Vec::with_capacity(rgb.len());
    for (y, line) in rgb.chunks_exact(3 * width).enumerate() {
        let down = Mix::of(y, height, rows);
        for (pixel, across) in line.chunks_exact(3).zip(&across) {
            let row = |row: usize| across.mix(heat[row * columns + across.low], heat[row * columns + across.high]);
            let value = down.mix(row(down.low), row(down.high));
            // A map that is the same everywhere has no warm place.
            let share = if range > 0.0 { (f64::from(value) - f64::from(least)) / range } else { 0.0 };
            let colour = viridis(share as f32);
            let blend = |(&from, to): (&u8, u8)| f32::from(from) * (1.0 - opacity) + f32::from(to) * opacity;
            blended.extend(pixel.iter().zip(colour).map(|pair| blend(pair).round() as u8));
        }
    }
    Ok(Picture { rgb: blended, width, height })
}

/// The least and the largest of all values that are finite; 0 and 0 when none is.
pub fn heat_span(heat: &[f32]) -> (f32, f32) {
    let finite = || heat.iter().copied().filter(|value| value.is_finite());
    let least = finite().reduce(f32::min).unwrap_or(0.0);
    (least, finite().reduce(f32::max).unwrap_or(0.0))
}

/// The two cells whose middles lie around a pixel, and the share of the second.
struct Mix {
    low: usize,
    high: usize,
    share: f32,
}

impl Mix {
    /// Pixel `at` of `pixels`, over `cells`; beyond the outer middles the outer cells go on.
    fn of(at: usize, pixels: usize, cells: usize) -> Self {
        let last = (cells - 1) as f32;
        let place = ((at as f32 + 0.5) / pixels as f32 * cells as f32 - 0.5).clamp(0.0, last);
        let low = (place as usize).min(cells - 1);
        Self { low, high: (low + 1).min(cells - 1), share: place - low as f32 }
    }

    fn mix(&self, low: f32, high: f32) -> f32 {
        low + self.share * (high - low)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_drawn_between_the_middles_of_their_cells() {
        let black = [0u8; 8 * 3];
        let picture = overlay_heat(&black, 8, 1, &[0.0, 1.0], (1, 2), (0.0, 1.0), 1.0).unwrap();
        // Middles at pixels 2 and 6: shares at pixel centres .5, 1.5, .. are 0, 0, .125, .375, ...
        let expected: Vec<u8> =
            [0.0, 0.0, 0.125, 0.375, 0.625, 0.875, 1.0, 1.0].into_iter().flat_map(viridis).collect();
        assert_eq!(picture.rgb, expected);
        let down = overlay_heat(&black, 1, 8, &[3.0, 5.0], (2, 1), (3.0, 5.0), 1.0).unwrap();
        assert_eq!(down.rgb, expected);
    }

    #[test]
    fn opacity_mixes_and_a_flat_map_is_cold() {
        let grey = [100u8; 3];
        let at = |opacity| overlay_heat(&grey, 1, 1, &[7.0], (1, 1), heat_span(&[7.0]), opacity).unwrap().rgb;
        assert_eq!(at(0.0), grey);
        assert_eq!(at(1.0), viridis(0.0));
        assert_eq!(at(0.5), [84, 51, 92]);
        assert_eq!(heat_span(&[f32::NAN, 2.0, -1.0]), (-1.0, 2.0));
        assert_eq!(heat_span(&[]), (0.0, 0.0));
    }

    #[test]
    fn bad_maps_are_named() {
        let text = |heat: &[f32], span, opacity| {
            overlay_heat(&[0; 3], 1, 1, heat, (1, 2), span, opacity).unwrap_err().to_string()
        };
        assert!(text(&[0.0], (0.0, 1.0), 0.5).contains("1 x 2") && text(&[0.0], (0.0, 1.0), 0.5).contains("1 entries"));
        assert!(text(&[0.0, f32::NAN], (0.0, 1.0), 0.5).contains("row 0, column 1 is NaN"));
        assert!(text(&[0.0, 1.0], (1.0, 0.0), 0.5).contains("span is 1 to 0"));
        assert!(text(&[0.0, 1.0], (0.0, 1.0), 1.5).contains("opacity is 1.5"));
    }
}
