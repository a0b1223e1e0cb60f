//! Antialiased bilinear scaling of 8-bit planes, row by row.
//!
//! # Source
//! Pillow's `Image.resize(size, BILINEAR, box)` (libImaging/Resample.c): a triangle filter, as wide as the
//! reduction demands, over the picture around the box. Where it reaches over the picture's edge, the weights
//! that are left are scaled to a sum of one. Pillow rounds to bytes between its two passes; here 7 more bits are kept.

// Shared with the device's version of this arithmetic, which must give the same bytes.
use avion_kernels::scale_planes::WEIGHT_BITS;

/// A weight of one.
pub const ONE: i32 = 1 << WEIGHT_BITS;

/// Weights of an output sample come in groups of this many, for the vector unit.
pub const GROUP: usize = 4;

pub type Group = [i16; GROUP];

/// Outputs that are computed side by side.
pub const BLOCK: usize = 8;

/// A stretch of a plane's rows or columns, and what becomes of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// Samples of the whole plane along this axis.
    pub size: usize,
    /// Where the stretch begins, and its length; both may end in a fraction.
    pub from: f64,
    pub len: f64,
    /// Samples that it gives.
    pub out: usize,
    /// Last one first.
    pub reverse: bool,
}

/// Weights of one axis, for [`BLOCK`] outputs side by side. Those past the last output, and those without a sample,
/// are 0.
#[derive(Debug, Default)]
pub struct Axis {
    /// The first sample that any output uses, and one past the last.
    first: usize,
    end: usize,
    num_outputs: usize,
    /// Groups of weights an output.
    groups: usize,
    /// First sample of each output, counted from `first`.
    starts: Vec<[u32; BLOCK]>,
    /// `[blocks, groups, BLOCK, GROUP]`; those of an output add up to [`ONE`].
    weights: Vec<[Group; BLOCK]>,
}

impl Axis {
    pub fn new(span: Span) -> Axis {
        let scale = span.len / span.out as f64;
        // Width of the triangle to either side.
        let support = scale.max(1.0);
        let window = |i: usize| {
            let i = if span.reverse { span.out - 1 - i } else { i };
            let centre = span.from + (i as f64 + 0.5) * scale;
            let start = (centre - support + 0.5).max(0.0) as usize;
            let end = ((centre + support + 0.5) as usize).min(span.size);
            // A stretch within the plane always leaves one sample.
            let start = start.min(span.size - 1);
            (centre, start, end.max(start + 1))
        };
        let windows = || (0..span.out).map(window);
        let first = windows().map(|(_, start, _)| start).min().unwrap_or(0);
        let end = windows().map(|(_, _, end)| end).max().unwrap_or(1);
        let groups = windows().map(|(_, start, end)| end - start).max().unwrap_or(1).div_ceil(GROUP);
        let blocks = span.out.div_ceil(BLOCK);
        let mut axis = Axis {
            first,
            end,
            num_outputs: span.out,
            groups,
            starts: vec![[0; BLOCK]; blocks],
            weights: vec![[[0; GROUP]; BLOCK]; blocks * groups],
        };
        let (mut exact, mut weights) = (Vec::new(), Vec::new());
        for (out, (centre, start, end)) in windows().enumerate() {
            axis.starts[out / BLOCK][out % BLOCK] = (start - first) as u32;
            let triangle = |sample: usize| (1.0 - ((sample as f64 + 0.5 - centre) / support).abs()).max(0.0);
            exact.clear();
            exact.extend((start..end).map(triangle));
            quantise(&exact, &mut weights);
            for (tap, weight) in weights.iter().enumerate() {
                axis.weights[out / BLOCK * groups + tap / GROUP][out % BLOCK][tap % GROUP] = *weight;
            }
        }
        axis
    }

    /// The samples of the plane that are used.
    pub fn used(&self) -> std::ops::Range<usize> {
        self.first..self.end
    }

    /// Of each output: its first sample, counted from the first used; what the sum of its weighted rows starts with; its
    /// weights.
    pub fn outputs(&self) -> impl Iterator<Item = (usize, u16, impl Iterator<Item = i16> + Clone)> {
        (0..self.num_outputs).map(|out| {
            let (start, weights) = self.at(out);
            (start, half_of_rest(weights.clone()), weights)
        })
    }

    /// Samples that a row must have for the horizontal pass: those used, and room for weights of 0.
    pub fn padded_len(&self) -> usize {
        self.end - self.first + self.groups * GROUP + BLOCK
    }

    /// Blocks of [`BLOCK`] outputs: the first sample of each, counted from the first used, and groups of weights.
    pub fn blocks(&self) -> impl Iterator<Item = (&[u32; BLOCK], &[[Group; BLOCK]])> {
        self.starts.iter().zip(self.weights.chunks_exact(self.groups.max(1)))
    }

    /// The first sample of an output, counted from the first used, and its weights.
    fn at(&self, out: usize) -> (usize, impl Iterator<Item = i16> + Clone) {
        let (block, lane) = (out / BLOCK, out % BLOCK);
        let groups = &self.weights[block * self.groups..][..self.groups];
        (self.starts[block][lane] as usize, groups.iter().flat_map(move |block| block[lane]))
    }
}

/// Scales weights to a sum of exactly [`ONE`]; what rounding leaves goes to the largest.
fn quantise(exact: &[f64], weights: &mut Vec<i16>) {
    let sum: f64 = exact.iter().sum();
    weights.clear();
    weights.extend(exact.iter().map(|exact| (exact / sum * f64::from(ONE)).round() as i16));
    let rest = ONE - weights.iter().map(|weight| i32::from(*weight)).sum::<i32>();
    if let Some(largest) = weights.iter_mut().max() {
        *largest += rest as i16;
    }
}

/// What a sum of products starts with, each of which is cut off: half a unit too low on average.
fn half_of_rest(weights: impl Iterator<Item = i16>) -> u16 {
    weights.filter(|weight| *weight != 0).count() as u16 / 2
}

/// Weighs the rows of a plane for output row `out`.
///
/// # Shapes
/// - `plane`: rows of `stride` bytes
/// - `columns`: the part of each row to look at
/// - `sums`: at least as long as `columns`; [`FRACTION_BITS`](avion_kernels::scale_planes::FRACTION_BITS) behind the point
#[inline(always)]
pub fn scale_rows(axis: &Axis, out: usize, plane: &[u8], stride: usize, columns: &Axis, sums: &mut [i16]) {
    let (start, weights) = axis.at(out);
    let used = columns.used();
    let sums = &mut sums[..used.len()];
    let rows = plane[(axis.first + start) * stride..].chunks(stride).map(|row| &row[used.clone()]);
    let mut bias = half_of_rest(weights.clone()) as i16;
    let mut is_first = true;
    for (row, weight) in rows.zip(weights) {
        if weight == 0 {
            continue;
        }
        let weight = 2 * weight as u16;
        let product = |sample: u8| ((u32::from(u16::from(sample) << 8) * u32::from(weight)) >> 16) as i16;
        if std::mem::take(&mut is_first) {
            for (sum, &sample) in sums.iter_mut().zip(row) {
                *sum = product(sample) + bias;
            }
            bias = 0;
        } else {
            for (sum, &sample) in sums.iter_mut().zip(row) {
                *sum += product(sample);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::video::columns::Columns;
    use avion_kernels::scale_planes::FRACTION_BITS;

    /// Pillow's definition in f64, without rounding: `plane` is `[height, width]`.
    fn exact(plane: &[u8], columns: Span, rows: Span) -> Vec<f64> {
        let weights = |span: Span, out: usize| {
            let scale = span.len / span.out as f64;
            let support = scale.max(1.0);
            let centre = span.from + (out as f64 + 0.5) * scale;
            let at = move |i: usize| (1.0 - ((i as f64 + 0.5 - centre) / support).abs()).max(0.0);
            let sum: f64 = (0..span.size).map(at).sum();
            (0..span.size).map(|i| at(i) / sum).collect::<Vec<_>>()
        };
        let mut out = Vec::new();
        for y in 0..rows.out {
            let row_weights = weights(rows, y);
            for x in 0..columns.out {
                let column_weights = weights(columns, x);
                let row = |y: usize| plane[y * columns.size..][..columns.size].iter();
                let sum = |y: usize| row(y).zip(&column_weights).map(|(s, w)| f64::from(*s) * w).sum::<f64>();
                out.push(row_weights.iter().enumerate().map(|(y, w)| w * sum(y)).sum());
            }
        }
        out
    }

    /// What this module makes of a plane, in levels; checks that all kinds of processors agree.
    fn scaled(plane: &[u8], columns: Span, rows: Span) -> Vec<f64> {
        let (axes, mut out) = ([Axis::new(columns), Axis::new(rows)], Vec::new());
        // With the outputs' samples near each other, if they are, and as if they were not.
        let passes = [Columns::of(&axes[0]), Columns::default()];
        let mut sums = vec![0; axes[0].padded_len()];
        let mut row = vec![0; columns.out.next_multiple_of(BLOCK)];
        for y in 0..rows.out {
            scale_rows(&axes[1], y, plane, columns.size, &axes[0], &mut sums);
            passes[0].scale(&axes[0], &sums, &mut row);
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") {
                for pass in &passes {
                    let mut again = vec![0; row.len()];
                    // SAFETY: the processor has AVX2.
                    unsafe { pass.scale_avx2(&axes[0], &sums, &mut again) };
                    assert_eq!(row, again);
                }
            }
            out.extend(row[..columns.out].iter().map(|v| f64::from(*v) / f64::from(1 << FRACTION_BITS)));
        }
        out
    }

    fn span(size: usize, from: f64, len: f64, out: usize) -> Span {
        Span { size, from, len, out, reverse: false }
    }

    #[test]
    fn equals_the_definition() {
        let noise = |i: usize| (i as u32).wrapping_mul(2654435761).rotate_left(9) as u8;
        for (columns, rows) in [
            (span(33, 0.0, 33.0, 33), span(17, 0.0, 17.0, 17)),
            (span(33, 1.5, 30.0, 7), span(17, 2.0, 9.5, 23)),
            (span(200, 20.0, 170.0, 11), span(90, 0.5, 89.0, 4)),
            (span(200, 3.5, 150.0, 112), span(20, 0.0, 20.0, 15)),
            (span(130, 1.0, 121.0, 61), span(20, 0.0, 20.0, 15)),
            (span(90, 0.0, 89.5, 77), span(20, 0.0, 20.0, 20)),
            (span(5, 0.0, 5.0, 64), span(3, 1.0, 1.0, 9)),
            (span(1, 0.0, 1.0, 3), span(1, 0.0, 0.5, 1)),
            (span(64, 63.0, 1.0, 16), span(64, 0.0, 1.0, 16)),
        ] {
            let plane: Vec<u8> = (0..columns.size * rows.size).map(noise).collect();
            let (got, expected) = (scaled(&plane, columns, rows), exact(&plane, columns, rows));
            assert_eq!(got.len(), expected.len());
            for (got, expected) in got.iter().zip(&expected) {
                assert!((got - expected).abs() < 0.15, "{columns:?} {rows:?}: {got}, expected {expected}");
            }
            let mirrored = scaled(&plane, Span { reverse: true, ..columns }, rows);
            for (row, mirrored) in got.chunks(columns.out).zip(mirrored.chunks(columns.out)) {
                assert!(row.iter().eq(mirrored.iter().rev()));
            }
        }
    }

    #[test]
    fn flat_planes_stay_flat() {
        for level in [0, 1, 128, 254, 255] {
            let plane = vec![level; 50 * 40];
            let got = scaled(&plane, span(50, 3.0, 44.0, 13), span(40, 0.0, 40.0, 31));
            assert!(got.iter().all(|v| (v - f64::from(level)).abs() < 0.1), "{level}: {got:?}");
        }
    }

    /// `tests/fixtures/scaling/make_scaling_fixture.py`.
    #[test]
    fn equals_pillow() {
        let fixture = include_str!("../../tests/fixtures/scaling/pillow.json");
        let fixture: serde_json::Value = serde_json::from_str(fixture).unwrap();
        let cases = fixture["cases"].as_array().unwrap();
        assert!(cases.len() >= 5);
        for case in cases {
            let numbers =
                |key: &str| case[key].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect::<Vec<_>>();
            let plane: Vec<u8> = numbers("plane").iter().map(|v| *v as u8).collect();
            let (size, corners, out) = (numbers("size"), numbers("box"), numbers("out"));
            let along = |axis: usize| {
                let len = corners[2 + axis] - corners[axis];
                span(size[axis] as usize, corners[axis], len, out[axis] as usize)
            };
            let (got, expected) = (scaled(&plane, along(0), along(1)), numbers("scaled"));
            assert_eq!(got.len(), expected.len());
            for (got, expected) in got.iter().zip(&expected) {
                // Pillow rounds after each of its two passes.
                assert!((got - expected).abs() < 1.1, "{:?}: {got}, Pillow says {expected}", case["box"]);
            }
        }
    }
}
