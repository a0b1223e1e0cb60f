//! From luma and chroma to RGB.

pub use avion_kernels::scale_planes::Matrix;
use avion_kernels::scale_planes::{COEFFICIENT_BITS, FRACTION_BITS};

/// How three filtered samples make a pixel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Colour {
    /// Planes of green, blue and red, in libavutil's order.
    Gbr,
    /// Y, Cb and Cr.
    Yuv(Matrix),
}

/// For a matrix by its number in ITU-T H.273, table 4 (also `AVColorSpace`), and a range. A matrix that is
/// unspecified or of another kind counts as BT.601, as in libswscale.
pub fn matrix(number: i32, full_range: bool) -> Matrix {
    // Weights of red and blue in luma.
    let (kr, kb) = match number {
        1 => (0.2126, 0.0722),
        4 => (0.30, 0.11),
        7 => (0.212, 0.087),
        9 | 10 => (0.2627, 0.0593),
        _ => (0.299, 0.114),
    };
    let kg = 1.0 - kr - kb;
    let (luma, chroma, black) = if full_range { (1.0, 1.0, 0) } else { (255.0 / 219.0, 255.0 / 224.0, 16) };
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

#[cfg(test)]
mod tests {
    use super::*;

    fn convert(colour: Colour, samples: [u8; 3]) -> [u8; 3] {
        let rows = samples.map(|sample| [i16::from(sample) << FRACTION_BITS]);
        let mut pixel = [0; 3];
        convert_row(colour, [&rows[0], &rows[1], &rows[2]], &mut pixel);
        pixel
    }

    /// Y, Cb and Cr of a colour, by the definition in ITU-R BT.601 and BT.709.
    fn yuv([r, g, b]: [f64; 3], [kr, kb]: [f64; 2], full: bool) -> [u8; 3] {
        let y = kr * r + (1.0 - kr - kb) * g + kb * b;
        let (u, v) = ((b - y) / (2.0 * (1.0 - kb)), (r - y) / (2.0 * (1.0 - kr)));
        let scaled = if full { [y * 255.0, u * 255.0, v * 255.0] } else { [16.0 + y * 219.0, u * 224.0, v * 224.0] };
        [scaled[0], scaled[1] + 128.0, scaled[2] + 128.0].map(|v| v.round() as u8)
    }

    #[test]
    fn colours_come_back() {
        const BT601: [f64; 2] = [0.299, 0.114];
        let matrices = [(1, [0.2126, 0.0722]), (2, BT601), (5, BT601), (6, BT601), (9, [0.2627, 0.0593])];
        for (number, weights) in matrices {
            for full in [false, true] {
                let colour = Colour::Yuv(matrix(number, full));
                for rgb in [[0.0; 3], [1.0; 3], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.2, 0.5, 0.7]] {
                    let got = convert(colour, yuv(rgb, weights, full));
                    for (got, expected) in got.iter().zip(rgb) {
                        let error = f64::from(*got) - 255.0 * expected;
                        // The rounding of Y, Cb and Cr.
                        assert!(error.abs() < 2.0, "matrix {number}, full {full}: {got}, expected {rgb:?}");
                    }
                }
            }
        }
        let limited = Colour::Yuv(matrix(6, false));
        assert_eq!((convert(limited, [16, 128, 128]), convert(limited, [235, 128, 128])), ([0; 3], [255; 3]));
        assert_eq!((convert(limited, [0, 128, 128]), convert(limited, [255, 128, 128])), ([0; 3], [255; 3]));
        assert_eq!(convert(Colour::Gbr, [10, 20, 30]), [30, 10, 20]);
    }
}
