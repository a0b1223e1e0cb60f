//! The order of the samples in an epoch, and the place in it where a run can stop and go on.

use crate::data::rng::{Purpose, keyed};
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

/// The shuffled order of one epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochOrder {
    pub seed: u64,
    pub epoch: u64,
    /// Samples in the set.
    pub len: u32,
}

impl EpochOrder {
    /// Every sample number below `len` once: `[len]`. Four million take 16 MB and
    /// about a third of a second.
    pub fn permutation(&self) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.len).collect();
        // Fisher-Yates.
        order.shuffle(&mut keyed(self.seed, self.epoch, 0, Purpose::Shuffle));
        order
    }
}

/// A batch of a run: all that is needed, beside the seed and the data, to go on exactly there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    pub epoch: u64,
    /// Batches of the epoch that come before.
    pub batch: u64,
}

impl Position {
    /// The batch after this one when an epoch holds `batches`.
    pub fn next(self, batches: u64) -> Self {
        if self.batch + 1 < batches {
            Self { batch: self.batch + 1, ..self }
        } else {
            Self { epoch: self.epoch + 1, batch: 0 }
        }
    }
}

/// Whole batches in an epoch. What is left over waits for another epoch's order.
pub fn full_batches(samples: u64, batch_size: usize) -> u64 {
    samples / batch_size as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn order(seed: u64, epoch: u64, len: u32) -> Vec<u32> {
        EpochOrder { seed, epoch, len }.permutation()
    }

    #[test]
    fn orders_differ_by_seed_and_epoch_only() {
        assert_eq!(order(1, 2, 100), order(1, 2, 100));
        assert_ne!(order(1, 2, 100), order(1, 3, 100));
        assert_ne!(order(1, 2, 100), order(2, 2, 100));
    }

    /// A changed order means that no earlier run can be resumed exactly.
    #[test]
    fn the_order_is_stable() {
        assert_eq!(order(0, 0, 10), [7, 2, 0, 5, 8, 1, 3, 9, 4, 6]);
    }

    /// Over many epochs each sample comes first about equally often.
    #[test]
    fn first_places_are_uniform() {
        let mut firsts = [0u32; 8];
        for epoch in 0..8_000 {
            firsts[order(5, epoch, 8)[0] as usize] += 1;
        }
        // 1000 expected, standard deviation 30.
        assert!(firsts.iter().all(|n| (870..1130).contains(n)), "{firsts:?}");
    }

    #[test]
    fn positions_step_through_batches_then_epochs() {
        let mut at = Position::default();
        let mut seen = Vec::new();
        for _ in 0..5 {
            seen.push((at.epoch, at.batch));
            at = at.next(2);
        }
        assert_eq!(seen, [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]);
        assert_eq!(full_batches(10, 4), 2);
        assert_eq!(full_batches(3, 4), 0);
    }

    #[test]
    fn positions_survive_a_checkpoint() {
        let at = Position { epoch: 3, batch: 41 };
        let json = serde_json::to_string(&at).unwrap();
        assert_eq!(json, r#"{"epoch":3,"batch":41}"#);
        assert_eq!(serde_json::from_str::<Position>(&json).unwrap(), at);
    }

    proptest! {
        #[test]
        fn an_order_holds_every_sample_once(
            seed in any::<u64>(), epoch in any::<u64>(), len in 0u32..3_000,
        ) {
            let mut all = order(seed, epoch, len);
            all.sort_unstable();
            prop_assert!(all.into_iter().eq(0..len));
        }
    }
}
