//! Products of rows with rows on the processor: enough for scoring features, where no device is needed.
//!
//! Each number is summed in one fixed order, whatever the block it lies in, so results do not depend on threads.

/// Partial sums of a product; as many as fill the vector registers of any processor.
const LANES: usize = 8;
/// Rows multiplied with a row at once, so that its numbers are loaded once for all.
const AT_ONCE: usize = 4;
/// Bytes of `b` that stay in a core's cache while all of `a` passes.
const BLOCK_BYTES: usize = 256 << 10;

/// `out[i * columns + j] = a[i] . b[j]`.
///
/// # Shapes
/// `a`: `[rows, width]`, `b`: `[columns, width]`, `out`: `[rows, columns]`, all row-major.
pub fn rows_by_rows(a: &[f32], b: &[f32], width: usize, out: &mut [f32]) {
    let columns = b.len() / width;
    let block = (BLOCK_BYTES / (4 * width)).next_multiple_of(AT_ONCE).max(AT_ONCE);
    for first in (0..columns).step_by(block) {
        let last = (first + block).min(columns);
        for (row, out) in a.chunks_exact(width).zip(out.chunks_exact_mut(columns)) {
            let b = &b[first * width..last * width];
            let mut blocks = b.chunks_exact(AT_ONCE * width);
            let mut outs = out[first..last].chunks_exact_mut(AT_ONCE);
            for (b, out) in (&mut blocks).zip(&mut outs) {
                let rows: [&[f32]; AT_ONCE] = std::array::from_fn(|i| &b[i * width..][..width]);
                out.copy_from_slice(&dots(row, rows));
            }
            for (b, out) in blocks.remainder().chunks_exact(width).zip(outs.into_remainder()) {
                [*out] = dots(row, [b]);
            }
        }
    }
}

/// Scalar products of `a` with each of `rows`, all equally long.
fn dots<const N: usize>(a: &[f32], rows: [&[f32]; N]) -> [f32; N] {
    let whole = a.len() / LANES * LANES;
    let mut sums = [[0.0f32; LANES]; N];
    for at in (0..whole).step_by(LANES) {
        let a = &a[at..at + LANES];
        for (sums, row) in sums.iter_mut().zip(&rows) {
            let row = &row[at..at + LANES];
            for lane in 0..LANES {
                sums[lane] += a[lane] * row[lane];
            }
        }
    }
    std::array::from_fn(|n| {
        let rest: f32 = a[whole..].iter().zip(&rows[n][whole..]).map(|(a, b)| a * b).sum();
        sums[n].iter().sum::<f32>() + rest
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_equal_sums_in_f64_over_odd_shapes() {
        let numbers = |n: usize, seed: usize| -> Vec<f32> {
            (0..n).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.5 - 1.0).collect()
        };
        for (rows, columns, width) in [(1, 1, 1), (2, 3, 7), (5, 4, 8), (3, 9, 33), (2, 130, 1031), (1, 7, 9000)] {
            let (a, b) = (numbers(rows * width, 1), numbers(columns * width, 2));
            let mut out = vec![f32::NAN; rows * columns];
            rows_by_rows(&a, &b, width, &mut out);
            for (at, found) in out.iter().enumerate() {
                let (a, b) = (&a[at / columns * width..][..width], &b[at % columns * width..][..width]);
                let expected: f64 = a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
                assert!((f64::from(*found) - expected).abs() < 1e-6 * (width as f64), "{rows} {columns} {width}");
                assert_eq!(found.to_bits(), dots(a, [b])[0].to_bits()); // the block does not matter
            }
        }
    }
}
