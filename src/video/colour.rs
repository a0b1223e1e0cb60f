//! From luma and chroma to RGB.

use super::filter::FRACTION_BITS;

/// Bits behind the point of a coefficient.
const COEFFICIENT_BITS: u32 = 13;

/// How three filtered samples make a pixel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Colour {
    /// Planes of green, blue and red, in libavutil's order.
    Gbr,
    /// Y, Cb and Cr.
    Yuv(Matrix),
}

/// `R = y (Y - black) + rv (Cr - 128)` and so on, for samples and results of 0 to 255.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Matrix {
    black: i32,
    y: i32,
    rv: i32,
    gu: i32,
    gv: i32,
    bu: i32,
}

impl Matrix {
    /// For a matrix by its number in ITU-T H.273, table 4 (also `AVColorSpace`), and a range. A matrix that is
    /// unspecified or of another kind counts as BT.601, as in libswscale.
    pub fn new(matrix: i32, full_range: bool) -> Matrix {
        // Weights of red and blue in luma.
        let (kr, kb) = match matrix {
            1 => (0.2126, 0.0722),
            4 => (0.30, 0.11),
            7 => (0.212, 0.087),
            9 | 10 => (0.2627, 0.0593),
            _ => (0.299, 0.114),
        };
        let kg = 1.0 - kr - kb;
        let (luma, chroma, black) =
            if full_range { (1.0, 1.0, 0) } else { (255.0 / 219.0, 255.0 / 224.0, 16) };
        let fixed = |value: f64| (value * f64::from(1 << COEFFICIENT_BITS)).round() as i32;
        Matrix {
            black: black << FRACTION_BITS,
            y: fixed(luma),
            rv: fixed(2.0 * (1.0 - kr) * chroma),
            gu: fixed(-2.0 * (1.0 - kb) * kb / kg * chroma),
            gv: fixed(-2.0 * (1.0 - kr) * kr / kg * chroma),
            bu: fixed(2.0 * (1.0 - kb) * chroma),
        }
    }
}

/// Converts one row.
///
/// # Shapes
/// - `samples`: three rows of filtered samples, each `[width]`
/// - `out`: `[width, 3]` u8 RGB
#[inline(always)]
pub fn convert_row(colour: Colour, [first, second, third]: [&[i16]; 3], out: &mut [u8]) {
    let pixels = out.as_chunks_mut::<3>().0;
    let samples = first.iter().zip(second).zip(third);
    match colour {
        Colour::Gbr => {
            for (pixel, ((&g, &b), &r)) in pixels.iter_mut().zip(samples) {
                let byte = |v: i16| ((i32::from(v) + (1 << (FRACTION_BITS - 1))) >> FRACTION_BITS) as u8;
                *pixel = [byte(r), byte(g), byte(b)];
            }
        }
        Colour::Yuv(Matrix { black, y, rv, gu, gv, bu }) => {
            const SHIFT: u32 = FRACTION_BITS + COEFFICIENT_BITS;
            const MIDDLE: i32 = 128 << FRACTION_BITS;
            for (pixel, ((&luma, &u), &v)) in pixels.iter_mut().zip(samples) {
                let luma = y * (i32::from(luma) - black) + (1 << (SHIFT - 1));
                let (u, v) = (i32::from(u) - MIDDLE, i32::from(v) - MIDDLE);
                let byte = |sum: i32| (sum >> SHIFT).clamp(0, 255) as u8;
                *pixel = [byte(luma + rv * v), byte(luma + gu * u + gv * v), byte(luma + bu * u)];
            }
        }
    }
}
