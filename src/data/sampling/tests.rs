use super::*;
use crate::data::rng::{Purpose, keyed};
use proptest::prelude::*;
use rand::RngCore;
use std::collections::HashSet;

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

const DENSE: FrameRule = FrameRule::Dense { stride: 4, jitter: false };
const JITTERED: FrameRule = FrameRule::Dense { stride: 4, jitter: true };
const WINDOW: FrameRule = FrameRule::Window { stride: 4 };

fn centred(rule: FrameRule, start: u64, end: u64, count: usize) -> Vec<u64> {
    rule.view(start, end, count, 0, 1)
}

/// Draws of 16 frames of a segment that begins at 0.
fn drawn(rule: FrameRule, length: u64, draws: u64) -> Vec<Vec<u64>> {
    (0..draws).map(|n| rule.drawn(0, length, 16, &mut keyed(3, 0, n, Purpose::Frames))).collect()
}

fn firsts(draws: &[Vec<u64>]) -> HashSet<u64> {
    draws.iter().map(|frames| frames[0]).collect()
}

fn every(stride: u64, first: u64, count: u64) -> Vec<u64> {
    (0..count).map(|i| first + stride * i).collect()
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
        FrameRule::Avion.drawn(start, end, 4, &mut rng)
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
    for rule in [FrameRule::Avion, FrameRule::Lavila, DENSE, JITTERED, WINDOW, FrameRule::Uniform] {
        assert_eq!(centred(rule, 7, 7, 4), [7; 4], "{rule:?}");
        assert_eq!(centred(rule, 7, 3, 2), [7; 2], "{rule:?}");
        assert_eq!(rule.drawn(7, 7, 4, &mut keyed(0, 0, 0, Purpose::Frames)), [7; 4], "{rule:?}");
    }
}

/// SEEDS 4.6: start uniform in `[0, n - 17 * 4)`, then every fourth frame, each moved by 0 to 3.
#[test]
fn pre_training_as_avion() {
    let draws = drawn(JITTERED, 78, 2_000);
    let base = |frames: &[u64]| frames.iter().enumerate().map(|(i, f)| f - 4 * i as u64).collect::<Vec<_>>();
    let shifts: HashSet<u64> = draws.iter().flat_map(|frames| base(frames)).collect();
    // Starts 0 to 9 and jitter 0 to 3, independent in each frame.
    assert_eq!(shifts, (0..13).collect());
    for frames in &draws {
        let base = base(frames);
        assert!(base.iter().max().unwrap() - base.iter().min().unwrap() <= 3, "{frames:?}");
    }
    assert!(draws.iter().any(|frames| base(frames).iter().collect::<HashSet<_>>().len() == 4));
    // Up to 68 frames the start is 0.
    assert_eq!(firsts(&drawn(JITTERED, 68, 200)), (0..4).collect());
    // A short segment starts again: stride 1 has no jitter to draw.
    let short = FrameRule::Dense { stride: 1, jitter: true };
    let expected: Vec<u64> = (0..7).chain(0..7).chain(0..2).collect();
    assert_eq!(drawn(short, 7, 1)[0], expected);
}

/// SEEDS 4.6: a window of 64 at a random offset, stride 4, no jitter.
#[test]
fn pre_training_as_the_original() {
    let draws = drawn(DENSE, 70, 500);
    assert_eq!(firsts(&draws), (0..=6).collect());
    assert!(draws.iter().all(|frames| *frames == every(4, frames[0], 16)));
    assert_eq!(firsts(&drawn(DENSE, 64, 50)), HashSet::from([0]));
    // By hand with the reference's loop over 1-based offsets: it stops where offset + 4 < 50 fails.
    let mut expected = every(4, 0, 13);
    expected.extend([48; 3]);
    assert_eq!(drawn(DENSE, 50, 1)[0], expected);
    let mut expected = every(4, 0, 12);
    expected.extend([44; 4]);
    assert_eq!(drawn(DENSE, 49, 1)[0], expected);
}

/// SEEDS 4.6, its example with start 10.
#[test]
fn fine_tuning_windows() {
    let spread_10 = [10, 14, 18, 22, 27, 31, 35, 39, 44, 48, 52, 56, 61, 65, 69, 73];
    assert_eq!(spread(10, 74, 16), spread_10);
    let draws = drawn(WINDOW, 80, 800);
    assert_eq!(firsts(&draws), (0..16).collect());
    let from_10 = draws.iter().find(|frames| frames[0] == 10).unwrap();
    assert_eq!(**from_10, spread_10);
    let mut padded = every(4, 0, 8);
    padded.extend([29; 8]);
    assert_eq!(drawn(WINDOW, 30, 1)[0], padded);
    assert_eq!(drawn(WINDOW, 64, 1)[0], every(4, 0, 16));
}

/// SEEDS 4.6: five starts `int(i max((F - 64) / 4, 0))`, of a video padded to 64.
#[test]
fn test_views_cover_the_video() {
    for rule in [DENSE, JITTERED, WINDOW] {
        let view = |length, i| rule.view(0, length, 16, i, 5);
        for (i, start) in [0, 59, 118, 177, 236].into_iter().enumerate() {
            assert_eq!(view(300, i), every(4, start, 16));
        }
        // (65 - 64) / 4 = 0.25 a view.
        assert_eq!((0..5).map(|i| view(65, i)[0]).collect::<Vec<_>>(), [0, 0, 0, 0, 1]);
        let mut padded = every(4, 0, 13);
        padded.extend([49; 3]);
        assert_eq!(view(50, 4), padded);
        // One view is central.
        assert_eq!(rule.view(100, 400, 16, 0, 1), every(4, 218, 16));
    }
}

/// TSN: `n / T` frames a piece.
#[test]
fn uniform_pieces() {
    assert_eq!(centred(FrameRule::Uniform, 0, 100, 8), [6, 18, 31, 43, 56, 68, 81, 93]);
    assert_eq!(centred(FrameRule::Uniform, 10, 13, 4), [10, 11, 11, 12]);
    for frames in drawn(FrameRule::Uniform, 170, 100) {
        assert!(frames.iter().zip(0..).all(|(frame, i)| (10 * i..10 * i + 10).contains(frame)), "{frames:?}");
    }
    let seen: HashSet<u64> = drawn(FrameRule::Uniform, 170, 300).into_iter().flatten().collect();
    assert_eq!(seen, (0..160).collect());
    assert_eq!(drawn(FrameRule::Uniform, 8, 1)[0], [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7]);
}

fn rules() -> impl Strategy<Value = FrameRule> {
    let stride = 1u64..9;
    prop_oneof![
        Just(FrameRule::Avion),
        Just(FrameRule::Lavila),
        Just(FrameRule::Uniform),
        (stride.clone(), any::<bool>()).prop_map(|(stride, jitter)| FrameRule::Dense { stride, jitter }),
        stride.prop_map(|stride| FrameRule::Window { stride }),
    ]
}

proptest! {
    #[test]
    fn frames_ascend_within_the_segment(
        rule in rules(),
        start in 0u64..5_000_000,
        length in 1u64..20_000,
        count in 1usize..40,
        seed in any::<u64>(),
        views in 1usize..7,
    ) {
        let end = start + length;
        let mut rng = keyed(seed, 0, 0, Purpose::Frames);
        let drawn = rule.drawn(start, end, count, &mut rng);
        let starts_again = matches!(rule, FrameRule::Dense { stride, jitter: true } if length < stride * (count as u64 + 1));
        prop_assert!(starts_again || drawn.is_sorted());
        let fixed = (0..views).map(|view| rule.view(start, end, count, view, views)).collect::<Vec<_>>();
        prop_assert!(fixed.iter().all(|frames| frames.is_sorted()));
        prop_assert!(fixed.is_sorted());
        for frames in fixed.iter().chain([&drawn]) {
            prop_assert_eq!(frames.len(), count);
            prop_assert!(frames.iter().all(|frame| (start..end).contains(frame)));
        }
    }
}
