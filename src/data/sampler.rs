//! The order of the samples in an epoch, and the place in it where a run can stop and go on.

use crate::data::Source;
use crate::data::rng::{Purpose, keyed};
use rand::Rng;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

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

/// The samples of a set by the file that they lie in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSamples {
    /// Those of one file follow each other, by start.
    samples: Vec<u32>,
    /// Where each file's end.
    ends: Vec<u32>,
}

impl FileSamples {
    /// The samples of sources, numbered through, by the video file or chunk that they begin in. Looks at no disk.
    pub fn of(sources: &[Source]) -> Self {
        let mut videos: HashMap<(usize, &str), u32> = HashMap::new();
        let mut samples = Vec::new();
        for (number, source) in sources.iter().enumerate() {
            for clip in &source.clips {
                let next = videos.len() as u32;
                let video = *videos.entry((number, &clip.video)).or_insert(next);
                samples.push((video, source.layout.chunk_of(clip), clip.start_s, samples.len() as u32));
            }
        }
        samples.sort_unstable_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)).then(a.2.total_cmp(&b.2)).then(a.3.cmp(&b.3)));
        Self::from_sorted(samples.into_iter().map(|(video, chunk, _, sample)| ((video, chunk), sample)))
    }

    /// From `(file, sample)`, those of a file in a row.
    fn from_sorted<F: PartialEq>(pairs: impl IntoIterator<Item = (F, u32)>) -> Self {
        let (mut samples, mut ends, mut last) = (Vec::new(), Vec::new(), None);
        for (file, sample) in pairs {
            if last.as_ref().is_some_and(|last| *last != file) {
                ends.push(samples.len() as u32);
            }
            samples.push(sample);
            last = Some(file);
        }
        ends.extend(last.map(|_| samples.len() as u32));
        Self { samples, ends }
    }

    /// The samples of each file, by start.
    pub fn iter(&self) -> impl Iterator<Item = &[u32]> {
        let starts = std::iter::once(&0).chain(&self.ends);
        starts.zip(&self.ends).map(|(start, end)| &self.samples[*start as usize..*end as usize])
    }

    /// Files that hold samples.
    pub fn num_files(&self) -> usize {
        self.ends.len()
    }
}

impl EpochOrder {
    /// Every sample once, in groups of up to `group` that lie in one file and follow each other in time: the groups are
    /// shuffled, not the samples. Each file is cut into groups at another place each epoch, so that clips do not always
    /// meet the same neighbours: `[len]`.
    ///
    /// `group` 1 gives an order as even as [`permutation`](Self::permutation)'s, but another one.
    pub fn grouped(&self, files: &FileSamples, group: u32) -> Vec<u32> {
        let mut rng = keyed(self.seed, self.epoch, 0, Purpose::Shuffle);
        let group = group.max(1);
        let mut groups = Vec::with_capacity(files.samples.len() / group as usize + files.ends.len());
        let mut start = 0;
        for &end in &files.ends {
            // A file that is one group has nothing to cut.
            let mut cut = if end - start > group { start + rng.random_range(1..=group) } else { end };
            while start < end {
                groups.push(start..cut);
                start = cut;
                cut = start.saturating_add(group).min(end);
            }
        }
        groups.shuffle(&mut rng);
        groups.into_iter().flat_map(|group| &files.samples[group.start as usize..group.end as usize]).copied().collect()
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
    use crate::data::{Captions, Clip, Layout};
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

    /// `sizes` files, their samples numbered through.
    fn files(sizes: &[u32]) -> FileSamples {
        let file_of = sizes.iter().enumerate().flat_map(|(file, &n)| vec![file; n as usize]);
        FileSamples::from_sorted(file_of.zip(0..))
    }

    #[test]
    fn samples_are_found_by_their_file() {
        let clip = |video: &str, start| Clip::narrated(video.into(), start, start + 1.0, Captions::One("c".into()));
        let source = |chunk_s: f64, clips: &[(&str, f64)]| Source {
            name: "s".into(),
            root: "r".into(),
            layout: match chunk_s {
                0.0 => Layout::Whole { extension: "mp4".into() },
                chunk_s => Layout::Chunked { chunk_s, extension: "mp4".into() },
            },
            fps: None,
            clips: clips.iter().map(|(video, start)| clip(video, *start)).collect(),
        };
        let times = [("a", 16.0), ("b", 1.0), ("a", 3.0), ("a", 15.0), ("a", f64::NAN)];
        let files = FileSamples::of(&[source(15.0, &times), source(0.0, &times[..3])]);
        // A time that is none counts as the first chunk, and comes last in it.
        let found: Vec<&[u32]> = files.iter().collect();
        assert_eq!(found, [&[2, 4][..], &[3, 0], &[1], &[7, 5], &[6]]);
        assert_eq!(FileSamples::of(&[]).num_files(), 0);
    }

    #[test]
    fn groups_are_cut_elsewhere_each_epoch() {
        let files = files(&[10, 1, 3]);
        assert_eq!(files.num_files(), 3);
        let order = |epoch| EpochOrder { seed: 4, epoch, len: 14 }.grouped(&files, 4);
        assert_eq!(order(0), order(0));
        let neighbours = |epoch| order(epoch).windows(2).filter(|w| w[0] + 1 == w[1]).map(|w| w[0]).collect::<Vec<_>>();
        let distinct: std::collections::HashSet<_> = (0..20).map(neighbours).collect();
        assert!(distinct.len() > 3, "{distinct:?}");
    }

    proptest! {
        #[test]
        fn a_grouped_order_holds_every_sample_once_and_keeps_files_together(
            seed in any::<u64>(), epoch in any::<u64>(), group in 1u32..9,
            sizes in proptest::collection::vec(1u32..30, 0..40),
        ) {
            let len: u32 = sizes.iter().sum();
            let order = EpochOrder { seed, epoch, len }.grouped(&files(&sizes), group);
            let mut all = order.clone();
            all.sort_unstable();
            prop_assert!(all.into_iter().eq(0..len));
            // A file of n samples is cut into at most ceil(n / group) + 1 pieces.
            let breaks = order.windows(2).filter(|w| w[0] + 1 != w[1]).count() + 1;
            let most: u32 = sizes.iter().map(|n| n.div_ceil(group) + 1).sum();
            prop_assert!(order.is_empty() || breaks <= most as usize, "{breaks} pieces, {most} at most");
        }

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
