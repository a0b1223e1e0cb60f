//! The definition, in f64.

use super::record::{GBR, HEADER, KIND, MATRIX, PLANES, STRIDES, TABLES};
use super::{COEFFICIENT_BITS, FRACTION_BITS, WEIGHT_BITS, record_bytes};

/// The values of the frame of one record before they are rounded to bytes: `[px, px, 3]`, 0 to 255.
pub fn reference(record: &[u8], px: usize) -> Vec<f64> {
    assert_eq!(record.len(), record_bytes(px));
    let words: Vec<u32> = record.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
    let word = |at: u32| words[at as usize];
    if word(KIND) == 0 {
        return record[4 * HEADER..][..3 * px * px].iter().map(|byte| f64::from(*byte)).collect();
    }
    // First sample and weights of an output.
    let entry = |table: u32, output: usize| {
        let pairs = word(table) as usize;
        let entry = &words[table as usize + 1 + output * (pairs + 1)..][..pairs + 1];
        let weights: Vec<f64> = entry[1..]
            .iter()
            .flat_map(|pair| [pair & 0xFFFF, pair >> 16])
            .map(|weight| f64::from(weight) / f64::from(1 << WEIGHT_BITS))
            .collect();
        ((entry[0] & 0xFFFF) as usize, weights)
    };
    let sample = |plane: u32, y: usize, x: usize| {
        let (tables, stride) = if plane == 0 { (TABLES, STRIDES) } else { (TABLES + 2, STRIDES + 1) };
        let (rows, columns) = (entry(word(tables), y), entry(word(tables + 1), x));
        let mut sum = 0.0;
        for (row, vertical) in (rows.0..).zip(rows.1).filter(|(_, weight)| *weight > 0.0) {
            for (column, horizontal) in (columns.0..).zip(&columns.1).filter(|(_, weight)| **weight > 0.0) {
                let at = 4 * (word(PLANES + plane) as usize + row * word(stride) as usize) + column;
                sum += vertical * horizontal * f64::from(record[at]);
            }
        }
        sum
    };
    let coefficient = |at: u32| f64::from(word(MATRIX + at)) / f64::from(1 << COEFFICIENT_BITS);
    let black = f64::from(word(MATRIX)) / f64::from(1 << FRACTION_BITS);
    let mut out = Vec::with_capacity(3 * px * px);
    for y in 0..px {
        for x in 0..px {
            let [first, second, third] = [0, 1, 2].map(|plane| sample(plane, y, x));
            if word(GBR) == 1 {
                out.extend([third, first, second]);
                continue;
            }
            let (luma, u, v) = (coefficient(1) * (first - black), second - 128.0, third - 128.0);
            let pixel =
                [luma + coefficient(2) * v, luma - coefficient(3) * u - coefficient(4) * v, luma + coefficient(5) * u];
            out.extend(pixel.map(|value| value.clamp(0.0, 255.0)));
        }
    }
    out
}
