//! Antialiased bilinear scaling of 8-bit planes, row by row.
//!
//! # Source
//! Pillow's `Image.resize(size, BILINEAR, box)` (libImaging/Resample.c): a triangle filter, as wide as the
//! reduction demands, over the picture around the box. Where it reaches over the picture's edge, the weights
//! that are left are scaled to a sum of one. Pillow rounds to bytes between its two passes; here 7 more bits are kept.

/// Bits behind the point of a weight.
const WEIGHT_BITS: u32 = 14;

/// A weight of one.
const ONE: i32 = 1 << WEIGHT_BITS;

/// Bits of a filtered sample behind the point.
pub const FRACTION_BITS: u32 = 7;

/// Weights of an output sample come in groups of this many, for the vector unit.
const GROUP: usize = 4;

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

/// Weights of one axis.
#[derive(Debug, Default)]
pub struct Axis {
    /// The first sample that any output uses, and one past the last.
    first: usize,
    end: usize,
    /// Weights an output, a multiple of [`GROUP`].
    taps: usize,
    /// First sample of each output, counted from `first`.
    starts: Vec<u32>,
    /// `[out, taps]`; they add up to [`ONE`]. Those without a sample are 0.
    weights: Vec<i16>,
}

impl Axis {
    pub fn new(span: Span) -> Axis {
        let scale = span.len / span.out as f64;
        // Width of the triangle to either side.
        let support = scale.max(1.0);
        let window = |i: usize| {
            let centre = span.from + (i as f64 + 0.5) * scale;
            let start = (centre - support + 0.5).max(0.0) as usize;
            let end = ((centre + support + 0.5) as usize).min(span.size);
            // A stretch within the plane always leaves one sample.
            let start = start.min(span.size - 1);
            (centre, start, end.max(start + 1))
        };
        let order = |i: usize| window(if span.reverse { span.out - 1 - i } else { i });
        let windows = || (0..span.out).map(order);
        let first = windows().map(|(_, start, _)| start).min().unwrap_or(0);
        let end = windows().map(|(_, _, end)| end).max().unwrap_or(1);
        let taps = windows().map(|(_, start, end)| end - start).max().unwrap_or(1).next_multiple_of(GROUP);
        let mut weights = vec![0; span.out * taps];
        let mut exact = vec![0.0; taps];
        for ((centre, start, end), weights) in windows().zip(weights.chunks_exact_mut(taps)) {
            for (exact, sample) in exact.iter_mut().zip(start..end) {
                *exact = (1.0 - ((sample as f64 + 0.5 - centre) / support).abs()).max(0.0);
            }
            quantise(&exact[..end - start], weights);
        }
        let starts = windows().map(|(_, start, _)| (start - first) as u32).collect();
        Axis { first, end, taps, starts, weights }
    }

    /// The samples of the plane that are used.
    pub fn used(&self) -> std::ops::Range<usize> {
        self.first..self.end
    }

    /// Samples that a row must have for [`scale_columns`]: those used, and room for weights of 0.
    pub fn padded_len(&self) -> usize {
        self.end - self.first + self.taps
    }

    fn at(&self, out: usize) -> (usize, &[i16]) {
        (self.starts[out] as usize, &self.weights[out * self.taps..][..self.taps])
    }
}

/// Scales weights to a sum of exactly [`ONE`]; what rounding leaves goes to the largest.
fn quantise(exact: &[f64], weights: &mut [i16]) {
    let sum: f64 = exact.iter().sum();
    let mut rest = ONE;
    for (weight, exact) in weights.iter_mut().zip(exact) {
        *weight = (exact / sum * f64::from(ONE)).round() as i16;
        rest -= i32::from(*weight);
    }
    if let Some(largest) = weights.iter_mut().max() {
        *largest += rest as i16;
    }
}

/// Weighs the rows of a plane for output row `out`.
///
/// # Shapes
/// - `plane`: rows of `stride` bytes
/// - `columns`: the part of each row to look at
/// - `sums`: at least as long as `columns`; [`FRACTION_BITS`] behind the point
#[inline(always)]
pub fn scale_rows(axis: &Axis, out: usize, plane: &[u8], stride: usize, columns: &Axis, sums: &mut [i16]) {
    let (start, weights) = axis.at(out);
    let used = columns.used();
    let sums = &mut sums[..used.len()];
    let rows = plane[(axis.first + start) * stride..].chunks(stride).map(|row| &row[used.clone()]);
    // Each product is cut off, half a unit too low on average.
    let mut bias = weights.iter().filter(|weight| **weight != 0).count() as i16 / 2;
    let mut is_first = true;
    for (row, &weight) in rows.zip(weights) {
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

/// Weighs the samples of one row. `block` is [`block`] or a version of it for one kind of processor.
///
/// # Shapes
/// - `samples`: `[axis.padded_len()]`, of [`scale_rows`]
/// - `out`: one value an output of the axis, with as many bits behind the point
#[inline(always)]
pub fn scale_columns(
    axis: &Axis,
    samples: &[i16],
    out: &mut [i16],
    block: impl Fn(&[i16], &[u32; BLOCK], &[Group; BLOCK]) -> [i16; BLOCK],
) {
    let groups = axis.weights.as_chunks::<GROUP>().0;
    if axis.taps == GROUP {
        let (blocks, last) = out.as_chunks_mut::<BLOCK>();
        let (starts, last_starts) = axis.starts.as_chunks::<BLOCK>();
        let (groups, last_groups) = groups.as_chunks::<BLOCK>();
        for ((out, starts), groups) in blocks.iter_mut().zip(starts).zip(groups) {
            *out = block(samples, starts, groups);
        }
        for ((out, &start), weights) in last.iter_mut().zip(last_starts).zip(last_groups) {
            *out = rounded(dot(group(samples, start as usize), weights));
        }
        return;
    }
    let weights = groups.chunks_exact(axis.taps / GROUP);
    for ((out, &start), weights) in out.iter_mut().zip(&axis.starts).zip(weights) {
        let starts = (start as usize..).step_by(GROUP);
        let sum = weights.iter().zip(starts).map(|(weights, start)| dot(group(samples, start), weights)).sum();
        *out = rounded(sum);
    }
}

/// Some outputs of one group of weights each.
#[inline(always)]
pub fn block(samples: &[i16], starts: &[u32; BLOCK], weights: &[Group; BLOCK]) -> [i16; BLOCK] {
    std::array::from_fn(|i| rounded(dot(group(samples, starts[i] as usize), &weights[i])))
}

/// The same with vector instructions: left to itself, the compiler multiplies one by one.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
pub fn block_avx2(samples: &[i16], starts: &[u32; BLOCK], weights: &[Group; BLOCK]) -> [i16; BLOCK] {
    use std::arch::x86_64::*;
    let word = |group: Group| bytemuck::cast::<Group, i64>(group);
    // Halves are laid out so that the horizontal addition leaves the outputs in order.
    let half = |at: [usize; 4]| {
        let samples = at.map(|i| word(group(samples, starts[i] as usize)));
        let weights = at.map(|i| word(weights[i]));
        let vector = |[a, b, c, d]: [i64; 4]| _mm256_set_epi64x(d, c, b, a);
        _mm256_madd_epi16(vector(samples), vector(weights))
    };
    let sums = _mm256_hadd_epi32(half([0, 1, 4, 5]), half([2, 3, 6, 7]));
    let sums = _mm256_srai_epi32::<{ WEIGHT_BITS as i32 }>(_mm256_add_epi32(sums, _mm256_set1_epi32(ONE / 2)));
    let out = _mm_packs_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
    bytemuck::cast([_mm_cvtsi128_si64(out), _mm_extract_epi64::<1>(out)])
}

#[inline(always)]
fn group(samples: &[i16], start: usize) -> Group {
    samples.get(start..).and_then(|rest| rest.first_chunk()).copied().unwrap_or_default()
}

#[inline(always)]
fn dot(samples: Group, weights: &Group) -> i32 {
    let product = |i: usize| i32::from(samples[i]) * i32::from(weights[i]);
    (product(0) + product(1)) + (product(2) + product(3))
}

#[inline(always)]
fn rounded(sum: i32) -> i16 {
    ((sum + ONE / 2) >> WEIGHT_BITS) as i16
}
