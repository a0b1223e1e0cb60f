//! What a synthetic clip shows, and which combinations are kept for evaluation.

use super::SyntheticError;
use crate::data::rng::{Purpose, keyed};
use rand::seq::SliceRandom;
use std::collections::HashSet;

/// Names and RGB values; far apart in hue or brightness, so that they survive colour jitter and
/// 4:2:0 subsampling.
pub(super) const COLOURS: [(&str, [f32; 3]); 8] = [
    ("red", [215.0, 35.0, 35.0]),
    ("green", [40.0, 165.0, 60.0]),
    ("blue", [45.0, 75.0, 225.0]),
    ("yellow", [235.0, 220.0, 50.0]),
    ("orange", [240.0, 135.0, 25.0]),
    ("purple", [140.0, 50.0, 185.0]),
    ("pink", [250.0, 150.0, 200.0]),
    ("white", [245.0, 245.0, 245.0]),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Circle,
    Square,
    Triangle,
    Star,
    Ring,
}

pub(super) const SHAPES: [(&str, Shape); 5] = [
    ("circle", Shape::Circle),
    ("square", Shape::Square),
    ("triangle", Shape::Triangle),
    ("star", Shape::Star),
    ("ring", Shape::Ring),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Motion {
    Left,
    Right,
    Up,
    Down,
    Circle,
    ZigZag,
}

pub(super) const MOTIONS: [(&str, Motion); 6] = [
    ("left", Motion::Left),
    ("right", Motion::Right),
    ("up", Motion::Up),
    ("down", Motion::Down),
    ("in a circle", Motion::Circle),
    ("in a zigzag", Motion::ZigZag),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speed {
    Slow,
    Fast,
}

pub(super) const SPEEDS: [(&str, Speed); 2] = [("slowly", Speed::Slow), ("quickly", Speed::Fast)];

/// How many values each of colour, shape, motion and speed has.
const SIZES: [usize; 4] = [COLOURS.len(), SHAPES.len(), MOTIONS.len(), SPEEDS.len()];

/// Number of combinations, and so of captions.
pub const COMBINATIONS: usize = SIZES[0] * SIZES[1] * SIZES[2] * SIZES[3];

/// A colour, shape, motion and speed, by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Combination(pub [usize; 4]);

impl Combination {
    fn all() -> Vec<Self> {
        let split = |mut number: usize| {
            SIZES.map(|size| {
                let index = number % size;
                number /= size;
                index
            })
        };
        (0..COMBINATIONS).map(|number| Self(split(number))).collect()
    }

    /// "a red square moves left slowly"
    pub fn caption(self) -> String {
        let Self([colour, shape, motion, speed]) = self;
        let colour = COLOURS[colour].0;
        let article = if colour.starts_with('o') { "an" } else { "a" };
        let (shape, motion, speed) = (SHAPES[shape].0, MOTIONS[motion].0, SPEEDS[speed].0);
        format!("{article} {colour} {shape} moves {motion} {speed}")
    }

    /// Its four values, told apart.
    fn values(self) -> impl Iterator<Item = (usize, usize)> {
        self.0.into_iter().enumerate()
    }
}

/// Combinations of `clips` training clips and of `heldout` held-out ones. The held-out ones are distinct and never
/// seen in training, but each of their colours, shapes, motions and speeds is; in training, combinations
/// come about equally often.
///
/// # Errors
/// When so few clips, or so few combinations, cannot show every value.
pub(super) fn split(
    seed: u64,
    clips: usize,
    heldout: usize,
) -> Result<(Vec<Combination>, Vec<Combination>), SyntheticError> {
    let mut all = Combination::all();
    all.shuffle(&mut keyed(seed, 0, 0, Purpose::Synthetic));
    let mut rest = all.split_off(heldout.min(all.len()));

    // First those that show the most values not shown yet, so that few clips are enough to show all.
    let mut shown = HashSet::new();
    let mut train = Vec::with_capacity(rest.len());
    loop {
        let new = |c: &Combination| c.values().filter(|value| !shown.contains(value)).count();
        let best = (0..rest.len()).max_by_key(|i| (new(&rest[*i]), std::cmp::Reverse(*i)));
        match best {
            Some(best) if new(&rest[best]) > 0 => {
                let combination = rest.remove(best);
                shown.extend(combination.values());
                train.push(combination);
            }
            _ => break,
        }
    }
    let needed = train.len();
    if heldout > COMBINATIONS || shown.len() < SIZES.iter().sum() || clips < needed {
        return Err(SyntheticError::Setting {
            field: "clips and heldout",
            expected: format!(
                "at least {needed} clips, and enough of {COMBINATIONS} combinations left to show every colour, shape, motion and speed"
            ),
            found: format!("{clips} clips, {heldout} held out"),
        });
    }
    train.extend(rest);
    let train = train.into_iter().cycle().take(clips).collect();
    Ok((train, all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captions_are_distinct_english() {
        let captions: HashSet<String> = Combination::all().iter().map(|c| c.caption()).collect();
        assert_eq!(captions.len(), 480);
        assert!(captions.contains("a red square moves left slowly"));
        assert!(captions.contains("an orange ring moves in a circle quickly"));
    }

    #[test]
    fn heldout_combinations_are_new_but_their_parts_are_not() {
        for (clips, heldout) in [(8, 4), (100, 96), (1000, 200)] {
            let (train, held) = split(3, clips, heldout).unwrap();
            assert_eq!((train.len(), held.len()), (clips, heldout));
            let seen: HashSet<_> = train.iter().collect();
            let distinct: HashSet<_> = held.iter().collect();
            assert_eq!(distinct.len(), heldout);
            assert!(distinct.is_disjoint(&seen));
            let parts: HashSet<_> = train.iter().flat_map(|c| c.values()).collect();
            assert_eq!(parts.len(), 21);
        }
    }

    #[test]
    fn training_is_balanced() {
        let (train, _) = split(0, 800, 80).unwrap();
        let mut counts = std::collections::HashMap::new();
        for combination in train {
            *counts.entry(combination).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 400);
        assert!(counts.values().all(|n| *n == 2));
    }

    #[test]
    fn impossible_splits_are_refused() {
        for (clips, heldout) in [(7, 4), (100, 480), (100, 479), (100, 1000)] {
            assert!(split(0, clips, heldout).is_err(), "{clips} {heldout}");
        }
    }
}
