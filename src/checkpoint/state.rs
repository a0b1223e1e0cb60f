//! What a checkpoint knows besides tensors: `state.json`.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the folder's layout; readers refuse others.
pub(super) const FORMAT: u32 = 1;

/// Where a run stands. With the weights, the moments and the recipe it is all that a resumed run
/// needs to go on exactly as if it had not stopped.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainState {
    /// Optimizer steps done.
    pub step: u64,
    /// The epoch that the next batch belongs to, from 0.
    pub epoch: u64,
    /// The next batch within that epoch, from 0.
    pub batch: u64,
    /// Everything random is keyed by this seed and by epoch, sample and purpose, so that no
    /// generator state is needed beside it.
    pub seed: u64,
    pub schedule: ScheduleState,
    /// Whatever else is counted: clips seen, clips skipped, bad steps in a row, ...
    pub counters: BTreeMap<String, u64>,
    /// Seconds of training so far, over all restarts.
    pub trained_s: f64,
    /// The best evaluation so far; survives resuming.
    pub best: Option<BestMetric>,
}

/// Counter of the updates that the optimizer applied.
pub const UPDATES: &str = "updates";

impl TrainState {
    /// Updates applied: steps whose gradient was finite.
    pub fn updates(&self) -> u64 {
        self.counters.get(UPDATES).copied().unwrap_or(0)
    }
}

/// What the learning rate depends on besides the step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleState {
    pub steps_per_epoch: u64,
    pub total_steps: u64,
}

/// The score that `best` goes by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BestMetric {
    /// Such as `ek100-mir/map`.
    pub name: String,
    pub value: f64,
    /// The step whose checkpoint scored it.
    pub step: u64,
}

/// `state.json`: the state, and what is needed to trust the folder's other files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Layout of the folder.
    pub format: u32,
    /// The avion that wrote it.
    pub crate_version: String,
    /// Counts the saves of a run. After resuming from an older checkpoint the newest save may
    /// have a smaller step than others, but never a smaller sequence.
    pub sequence: u64,
    /// CRC-32 of `recipe.toml`, hexadecimal: equal recipes at a glance.
    pub recipe_hash: String,
    pub state: TrainState,
    pub files: BTreeMap<String, FileSum>,
}

/// Size and checksum of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSum {
    pub bytes: u64,
    /// CRC-32 (IEEE): finds truncation and flipped bits, not malice.
    pub crc32: u32,
}

/// The hash that [`Manifest::recipe_hash`] holds.
pub fn recipe_hash(recipe_toml: &str) -> String {
    format!("{:08x}", crc32fast::hash(recipe_toml.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A resumed run compares new scores with the best so far: a last digit lost in the file would
    /// make an equal score look better. Needs serde_json's `float_roundtrip`.
    #[test]
    fn scores_survive_json_to_the_last_bit() {
        let mut bits = 0x3fd5_5555_5555_5555u64;
        for _ in 0..5000 {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let value = f64::from_bits(bits >> 12 | 0x3fe0_0000_0000_0000);
            let best = BestMetric { name: "map".into(), value, step: 1 };
            let text = serde_json::to_string(&best).unwrap();
            let back: BestMetric = serde_json::from_str(&text).unwrap();
            assert_eq!(back, best, "{text}");
        }
    }
}
