//! The horizontal pass of scaling: each output from the few samples of a row that it weighs.

use avion_kernels::scale_planes::WEIGHT_BITS;

use super::filter::{Axis, BLOCK, GROUP, Group, ONE};

/// How the columns of an axis are weighed.
#[derive(Debug, Default)]
pub struct Columns {
    #[cfg(target_arch = "x86_64")]
    near: Option<Near>,
}

/// Outputs so close that the samples of four of them, at the same place among their weights, are among [`REACH`] that
/// follow each other: one load and a shuffle instead of a load for each. So it is where a picture is made smaller by up
/// to a factor of two.
#[cfg(target_arch = "x86_64")]
#[derive(Debug)]
struct Near {
    /// Pairs of weights of an output.
    pairs: usize,
    /// Where the samples of each half block begin.
    starts: Vec<[u32; 2]>,
    /// Which bytes of those samples each output takes, two samples of them.
    shuffles: Vec<[u8; 4 * BLOCK]>,
    /// `[blocks, pairs, BLOCK, 2]`.
    weights: Vec<[i16; 2 * BLOCK]>,
}

#[cfg(target_arch = "x86_64")]
const REACH: usize = 8;

impl Columns {
    #[cfg(target_arch = "x86_64")]
    pub fn of(axis: &Axis) -> Columns {
        Columns { near: if is_x86_feature_detected!("avx2") { Near::of(axis) } else { None } }
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub fn of(_: &Axis) -> Columns {
        Columns::default()
    }

    /// Weighs the samples of one row.
    ///
    /// # Shapes
    /// - `samples`: `[axis.padded_len()]`, of [`scale_rows`](super::filter::scale_rows)
    /// - `out`: one value an output of the axis, up to a multiple of [`BLOCK`], with as many bits behind the point
    #[inline(always)]
    pub fn scale(&self, axis: &Axis, samples: &[i16], out: &mut [i16]) {
        for (out, (starts, weights)) in out.as_chunks_mut::<BLOCK>().0.iter_mut().zip(axis.blocks()) {
            *out = block(samples, starts, weights);
        }
    }

    /// The same with vector instructions: left to itself, the compiler multiplies one by one.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    #[inline]
    pub fn scale_avx2(&self, axis: &Axis, samples: &[i16], out: &mut [i16]) {
        let out = out.as_chunks_mut::<BLOCK>().0;
        if let Some(near) = &self.near
            && near.scale_avx2(samples, out)
        {
            return;
        }
        for (out, (starts, weights)) in out.iter_mut().zip(axis.blocks()) {
            *out = block_avx2(samples, starts, weights);
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Near {
    /// `None` where outputs lie too far from each other.
    fn of(axis: &Axis) -> Option<Near> {
        let used = |groups: &[[Group; BLOCK]], lane: usize| {
            let weights = groups.iter().flat_map(|group| group[lane]);
            (1..).zip(weights).filter(|(_, weight)| *weight != 0).last().map_or(0, |(count, _)| count)
        };
        let most = axis.blocks().flat_map(|(_, groups)| (0..BLOCK).map(move |lane| used(groups, lane))).max()?;
        let pairs = usize::max(most, 1).div_ceil(2);
        let mut near = Near { pairs, starts: Vec::new(), shuffles: Vec::new(), weights: Vec::new() };
        for (starts, groups) in axis.blocks() {
            let (mut bases, mut shuffle) = ([0; 2], [0; 4 * BLOCK]);
            for (half, base) in bases.iter_mut().enumerate() {
                // Places past the last output weigh nothing, wherever they begin.
                let lanes = || (4 * half..4 * half + 4).filter(|lane| used(groups, *lane) > 0);
                *base = lanes().map(|lane| starts[lane]).min().unwrap_or(0);
                for lane in lanes() {
                    let offset = (starts[lane] - *base) as usize;
                    if offset + 2 > REACH {
                        return None;
                    }
                    for (byte, place) in shuffle[4 * lane..4 * lane + 4].iter_mut().enumerate() {
                        *place = (2 * offset + byte) as u8;
                    }
                }
            }
            near.starts.push(bases);
            near.shuffles.push(shuffle);
            near.weights.extend((0..pairs).map(|pair| {
                std::array::from_fn(|i| {
                    let (lane, tap) = (i / 2, 2 * pair + i % 2);
                    groups.get(tap / GROUP).map_or(0, |group| group[lane][tap % GROUP])
                })
            }));
        }
        Some(near)
    }

    /// False where outputs have more weights than there is code for.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn scale_avx2(&self, samples: &[i16], out: &mut [[i16; BLOCK]]) -> bool {
        match self.pairs {
            1 => self.pairs_avx2::<1, REACH>(samples, out),
            2 => self.pairs_avx2::<2, { REACH + 2 }>(samples, out),
            3 => self.pairs_avx2::<3, { REACH + 4 }>(samples, out),
            4 => self.pairs_avx2::<4, { REACH + 6 }>(samples, out),
            _ => return false,
        }
        true
    }

    /// Loops by number, and no closures: what takes a closure stays a function of its own, called for every block.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn pairs_avx2<const PAIRS: usize, const WINDOW: usize>(&self, samples: &[i16], out: &mut [[i16; BLOCK]]) {
        use std::arch::x86_64::*;
        let blocks = out.len().min(self.starts.len());
        let (starts, shuffles, out) = (&self.starts[..blocks], &self.shuffles[..blocks], &mut out[..blocks]);
        let weights = &self.weights.as_chunks::<PAIRS>().0[..blocks];
        for block in 0..blocks {
            let low: &[i16; WINDOW] = window(samples, starts[block][0]);
            let high: &[i16; WINDOW] = window(samples, starts[block][1]);
            let shuffle: __m256i = bytemuck::cast(shuffles[block]);
            let mut sums = _mm256_set1_epi32(ONE / 2);
            for pair in 0..PAIRS {
                let both = _mm256_set_m128i(reach(high, 2 * pair), reach(low, 2 * pair));
                let weights: __m256i = bytemuck::cast(weights[block][pair]);
                sums = _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_shuffle_epi8(both, shuffle), weights));
            }
            out[block] = narrow_avx2(sums);
        }
    }
}

/// So many samples from a start on; rows are padded, so that they are there.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn window<const LEN: usize>(samples: &[i16], start: u32) -> &[i16; LEN] {
    let start = start as usize;
    match samples.get(start..start + LEN).map(<&[i16; LEN]>::try_from) {
        Some(Ok(window)) => window,
        _ => const { &[0; LEN] },
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn reach<const LEN: usize>(window: &[i16; LEN], at: usize) -> std::arch::x86_64::__m128i {
    match window[at..].first_chunk::<REACH>() {
        Some(samples) => bytemuck::cast(*samples),
        None => bytemuck::cast([0i16; REACH]),
    }
}

/// Sums with the weights' bits behind the point, as outputs.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn narrow_avx2(sums: std::arch::x86_64::__m256i) -> [i16; BLOCK] {
    use std::arch::x86_64::*;
    let sums = _mm256_srai_epi32::<{ WEIGHT_BITS as i32 }>(sums);
    bytemuck::cast(_mm_packs_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums)))
}

/// The outputs of one block from its groups of weights.
#[inline(always)]
fn block(samples: &[i16], starts: &[u32; BLOCK], weights: &[[Group; BLOCK]]) -> [i16; BLOCK] {
    std::array::from_fn(|lane| {
        let mut sum = ONE / 2;
        for (weights, at) in weights.iter().zip((0..).step_by(GROUP)) {
            let samples = group(samples, starts[lane] as usize + at);
            for (sample, weight) in samples.iter().zip(&weights[lane]) {
                sum += i32::from(*sample) * i32::from(*weight);
            }
        }
        (sum >> WEIGHT_BITS) as i16
    })
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn block_avx2(samples: &[i16], starts: &[u32; BLOCK], weights: &[[Group; BLOCK]]) -> [i16; BLOCK] {
    use std::arch::x86_64::*;
    let mut sums = _mm256_set1_epi32(ONE / 2);
    for (weights, at) in weights.iter().zip((0..).step_by(GROUP)) {
        let mut halves = [_mm256_setzero_si256(); 2];
        // So laid out that the horizontal addition leaves the outputs in order. A loop rather than a closure, which
        // may be left a function of its own.
        for (half, [a, b, c, d]) in halves.iter_mut().zip([[0, 1, 4, 5], [2, 3, 6, 7]]) {
            let sample = |i: usize| bytemuck::cast::<Group, i64>(group(samples, starts[i] as usize + at));
            let weight = |i: usize| bytemuck::cast::<Group, i64>(weights[i]);
            let samples = _mm256_set_epi64x(sample(d), sample(c), sample(b), sample(a));
            let weights = _mm256_set_epi64x(weight(d), weight(c), weight(b), weight(a));
            *half = _mm256_madd_epi16(samples, weights);
        }
        sums = _mm256_add_epi32(sums, _mm256_hadd_epi32(halves[0], halves[1]));
    }
    narrow_avx2(sums)
}

#[inline(always)]
fn group(samples: &[i16], start: usize) -> Group {
    match samples.get(start..start + GROUP) {
        Some(&[a, b, c, d]) => [a, b, c, d],
        _ => [0; GROUP],
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use crate::video::filter::Span;

    #[test]
    fn outputs_are_near_each_other_down_to_half_the_size() {
        if !is_x86_feature_detected!("avx2") {
            println!("SKIPPED: needs AVX2");
            return;
        }
        let pairs = |len: f64, reverse: bool| {
            let columns = Columns::of(&Axis::new(Span { size: 1000, from: 3.3, len, out: 101, reverse }));
            columns.near.map(|near| near.pairs)
        };
        for reverse in [false, true] {
            assert_eq!(
                [30.0, 101.0, 150.0, 199.0].map(|len| pairs(len, reverse)),
                [Some(1), Some(1), Some(2), Some(2)]
            );
            assert_eq!(pairs(900.0, reverse), None);
        }
    }
}
