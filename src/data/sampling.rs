//! Which frames of a segment a clip is made of.
//!
//! The formulas are AVION's and LaViLa's, to the rounding: the same segment gives the same frames.

use rand::Rng;

/// How a segment is divided into the frames of a clip.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FrameRule {
    /// The middle of equal pieces, moved within the piece in training.
    #[default]
    Avion,
    /// LaViLa's (and EgoVLP's): pieces with rounded borders; any frame of the piece in training.
    Lavila,
}

impl FrameRule {
    /// `count` frame numbers of the segment `[start, end)`, ascending; they repeat where the segment is
    /// shorter than `count`. With `jitter` they are drawn, without they are fixed.
    ///
    /// A segment that holds no frame counts as one frame long.
    pub fn frames(self, start: u64, end: u64, count: usize, jitter: Option<&mut impl Rng>) -> Vec<u64> {
        let last = end.max(start + 1) - 1;
        let end = last + 1;
        let mut frames = match self {
            Self::Avion => avion(start, end, count, jitter),
            Self::Lavila => lavila(start, end, count, jitter),
        };
        for frame in &mut frames {
            *frame = (*frame).clamp(start, last);
        }
        frames
    }
}

/// AVION `get_frame_ids`: centres of `count` equal pieces of `[start, end]`; jitter adds
/// `(u - 0.5) (end - start - 1) / count`; truncated toward zero.
fn avion(start: u64, end: u64, count: usize, mut jitter: Option<&mut impl Rng>) -> Vec<u64> {
    let (first, last, pieces) = (start as f64, end as f64, count as f64);
    let step = (last - first) / pieces;
    // numpy's linspace: `i * step + start`, but the last border exactly `end`.
    let border = |i: usize| {
        if i == count { last } else { i as f64 * step + first }
    };
    (0..count)
        .map(|i| {
            let centre = 0.5 * border(i) + 0.5 * border(i + 1);
            let shift = match &mut jitter {
                Some(rng) => (rng.random::<f64>() - 0.5) * ((last - first - 1.0) / pieces),
                None => 0.0,
            };
            (centre + shift) as u64
        })
        .collect()
}

/// LaViLa `get_frame_ids`: borders `round(i (end - start - 1) / count) + start`; the middle of two
/// borders, or any integer from one to the other, both included. numpy rounds halves to even.
fn lavila(start: u64, end: u64, count: usize, mut jitter: Option<&mut impl Rng>) -> Vec<u64> {
    let piece = (end - start - 1) as f64 / count as f64;
    let border = |i: usize| (piece * i as f64).round_ties_even() as u64 + start;
    (0..count)
        .map(|i| {
            let (low, high) = (border(i), border(i + 1).min(end));
            match &mut jitter {
                Some(rng) => rng.random_range(low..=high),
                None => (low + high) / 2,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::rng::{Purpose, keyed};
    use proptest::prelude::*;
    use rand::RngCore;
    use rand_chacha::ChaCha8Rng;

    /// Gives the chosen uniform numbers in turn.
    struct Fixed(Vec<f64>);

    impl RngCore for Fixed {
        fn next_u32(&mut self) -> u32 {
            (self.next_u64() >> 32) as u32
        }
        fn next_u64(&mut self) -> u64 {
            // rand makes an f64 of the upper 53 bits.
            ((self.0.remove(0) * (1u64 << 53) as f64) as u64) << 11
        }
        fn fill_bytes(&mut self, _: &mut [u8]) {
            unreachable!("frame sampling draws numbers only")
        }
    }

    fn centred(rule: FrameRule, start: u64, end: u64, count: usize) -> Vec<u64> {
        rule.frames(start, end, count, None::<&mut ChaCha8Rng>)
    }

    #[test]
    fn avion_centres() {
        let odd: Vec<u64> = (95..126).step_by(2).collect();
        assert_eq!(centred(FrameRule::Avion, 0, 100, 4), [12, 37, 62, 87]);
        assert_eq!(centred(FrameRule::Avion, 30, 61, 4), [33, 41, 49, 57]);
        assert_eq!(centred(FrameRule::Avion, 95, 126, 16), odd);
    }

    #[test]
    fn avion_jitter() {
        let drawn = |start, end| {
            let mut rng = Fixed(vec![0.0, 0.25, 0.75, 0.999]);
            FrameRule::Avion.frames(start, end, 4, Some(&mut rng))
        };
        assert_eq!(drawn(30, 61), [30, 39, 51, 60]);
        assert_eq!(drawn(0, 100), [0, 31, 68, 99]);
    }

    #[test]
    fn lavila_centres() {
        assert_eq!(centred(FrameRule::Lavila, 0, 100, 4), [12, 37, 62, 86]);
        assert_eq!(centred(FrameRule::Lavila, 30, 61, 4), [34, 41, 48, 56]);
        assert_eq!(
            centred(FrameRule::Lavila, 95, 126, 16),
            [96, 98, 100, 102, 103, 105, 107, 109, 111, 113, 115, 116, 118, 120, 122, 124]
        );
    }

    #[test]
    fn a_segment_without_frames_repeats_its_first() {
        assert_eq!(centred(FrameRule::Avion, 7, 7, 4), [7; 4]);
        assert_eq!(centred(FrameRule::Lavila, 7, 7, 4), [7; 4]);
        assert_eq!(centred(FrameRule::Avion, 7, 3, 2), [7; 2]);
    }

    proptest! {
        #[test]
        fn frames_ascend_within_the_segment(
            start in 0u64..5_000_000,
            length in 1u64..20_000,
            count in 1usize..40,
            seed in any::<u64>(),
            jitter in any::<bool>(),
            lavila in any::<bool>(),
        ) {
            let rule = if lavila { FrameRule::Lavila } else { FrameRule::Avion };
            let mut rng = keyed(seed, 0, 0, Purpose::Frames);
            let frames = rule.frames(start, start + length, count, jitter.then_some(&mut rng));
            prop_assert_eq!(frames.len(), count);
            prop_assert!(frames.is_sorted());
            prop_assert!(frames[0] >= start && frames[count - 1] < start + length);
        }
    }
}
