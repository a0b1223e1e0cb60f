//! Randomness by key: any draw can be repeated anywhere, in any order.
//!
//! There is no global generator whose state depends on what was drawn before. Whoever needs a random
//! number names what it is for, so results depend neither on the number of workers nor on timing, and
//! a resumed run equals an uninterrupted one.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// What a random number is for. The values are part of every result: never renumber them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Order of the samples in an epoch.
    Shuffle = 1,
    /// Jitter of the frames taken from a clip.
    Frames = 2,
    /// The random-resized crop.
    Crop = 3,
    /// The horizontal flip.
    Flip = 4,
    /// Which of several captions is used.
    Caption = 5,
    /// Which sample takes the place of one that cannot be read.
    Replacement = 6,
    /// Initial weights.
    Init = 7,
    /// Residual branches skipped.
    DropPath = 8,
    /// Patches masked or dropped.
    Mask = 9,
    /// Generated demo and test videos.
    Synthetic = 10,
    /// RandAugment's operations and strengths.
    RandAugment = 11,
    /// The box that is erased, and its noise.
    Erase = 12,
    /// How the clips of a batch are mixed.
    Mix = 13,
    /// Features dropped before a classifier's head.
    Dropout = 14,
    /// Files and clips that are looked at when data is described.
    Sample = 15,
}

/// The generator for one purpose of one sample (or step, or parameter) in one epoch.
///
/// The four values fill the 32-byte ChaCha key, so two different keys give unrelated streams.
pub fn keyed(seed: u64, epoch: u64, sample: u64, purpose: Purpose) -> ChaCha8Rng {
    keyed_repeat(seed, epoch, sample, purpose, 0)
}

/// As [`keyed`], for one of several appearances of a sample; number 0 is the same as [`keyed`].
pub fn keyed_repeat(seed: u64, epoch: u64, sample: u64, purpose: Purpose, repeat: u32) -> ChaCha8Rng {
    let mut key = [0; 32];
    // The upper half of the last word is 0 for all that appears once.
    let last = purpose as u64 | u64::from(repeat) << 32;
    for (bytes, value) in key.chunks_exact_mut(8).zip([seed, epoch, sample, last]) {
        bytes.copy_from_slice(&value.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::RngCore;
    use std::collections::HashSet;

    #[test]
    fn the_same_key_gives_the_same_stream() {
        let draw = || {
            let mut rng = keyed(1, 2, 3, Purpose::Crop);
            [rng.next_u64(), rng.next_u64()]
        };
        assert_eq!(draw(), draw());
    }

    #[test]
    fn every_part_of_the_key_matters() {
        let mut seen = HashSet::new();
        for seed in 0..3 {
            for epoch in 0..3 {
                for sample in 0..3 {
                    for purpose in [Purpose::Shuffle, Purpose::Crop, Purpose::Flip] {
                        assert!(seen.insert(keyed(seed, epoch, sample, purpose).next_u64()));
                        for repeat in 1..3 {
                            assert!(seen.insert(keyed_repeat(seed, epoch, sample, purpose, repeat).next_u64()));
                        }
                    }
                }
            }
        }
    }

    /// ChaCha with 8 rounds, worked out apart; another value means that no earlier run can be repeated.
    #[test]
    fn the_stream_is_stable() {
        assert_eq!(keyed(17, 3, 1_000_000, Purpose::Shuffle).next_u64(), 0x767c_5566_a9de_86d8);
    }
}
