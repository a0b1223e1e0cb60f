//! What a decode thread is given to do, and the samples that it stands for.

use super::clip::View;
use super::worker::Shared;
use crate::data::rng::{Purpose, keyed};
use avion_kernels::cuda::pinned::PinnedBuffer;
use rand::Rng;
use std::ops::Range;
use std::sync::Arc;

/// Samples tried for one place of a batch: its own, then replacements. So many bad ones in a row are no
/// accident, and far above any share of bad samples that a run survives.
pub(super) const MAX_ATTEMPTS: u32 = 32;

/// The samples of an epoch in the order they are visited.
#[derive(Clone, Debug)]
pub(super) enum Order {
    InOrder,
    Shuffled(Arc<[u32]>),
}

impl Order {
    pub fn sample(&self, place: u64) -> u64 {
        match self {
            Self::InOrder => place,
            Self::Shuffled(order) => u64::from(order[place as usize]),
        }
    }
}

/// Places of a batch to fill, read together: their clips lie in one file, unless some are replacements.
#[derive(Debug)]
pub(super) struct Job {
    /// Batches begun before this one's.
    pub batch: u64,
    pub epoch: u64,
    pub order: Order,
    /// The batch's entries, counted over the epoch; each clip makes [`Shared::turns`] of them in a row.
    pub entries: Range<u64>,
    pub places: Vec<Place>,
}

/// A place of a batch.
#[derive(Debug)]
pub(super) struct Place {
    /// Where in the batch.
    pub slot: usize,
    /// Attempts that have failed before.
    pub attempt: u32,
    /// Where the frames go.
    pub buffer: PinnedBuffer,
}

impl Job {
    /// The same for other places.
    pub fn with(&self, places: Vec<Place>) -> Self {
        Self { places, order: self.order.clone(), entries: self.entries.clone(), ..*self }
    }

    /// The sample for an attempt at a slot: its own, then draws keyed by seed, epoch and place from the epoch's
    /// samples outside this batch; `None` when there is nothing (more) to try.
    pub fn sample(&self, shared: &Shared, slot: usize, attempt: u32) -> Option<u64> {
        let turns = shared.turns();
        let place = (self.entries.start + slot as u64) / turns;
        if attempt == 0 {
            return Some(self.order.sample(place));
        }
        if shared.view == View::Eval || attempt >= MAX_ATTEMPTS {
            return None;
        }
        let places = self.entries.start / turns..self.entries.end / turns;
        let covered = places.end - places.start;
        let outside = shared.samples.len - covered;
        let mut rng = keyed(shared.config.seed, self.epoch, place, Purpose::Replacement);
        let mut draw = || {
            if outside == 0 {
                rng.random_range(0..shared.samples.len)
            } else {
                let place = rng.random_range(0..outside);
                place + if place < places.start { 0 } else { covered }
            }
        };
        (1..attempt).for_each(|_| {
            draw();
        });
        Some(self.order.sample(draw()))
    }

    /// Which of its clip's entries the slot is.
    pub fn turn(&self, shared: &Shared, slot: usize) -> u32 {
        ((self.entries.start + slot as u64) % shared.turns()) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::loader::Ffmpeg;
    use crate::data::loader::LoaderConfig;
    use crate::data::loader::clip::Samples;
    use crate::data::sampler::EpochOrder;
    use crate::data::{Captions, Clip, Layout, Source};
    use std::collections::HashSet;
    use std::sync::atomic::AtomicBool;

    fn shared(len: usize, view: View) -> Shared {
        let clip = Clip::narrated("v".into(), 0.0, 1.0, Captions::One("c".into()));
        let source = Source {
            name: "test".into(),
            root: "root".into(),
            layout: Layout::Whole { extension: "mp4".into() },
            fps: None,
            clips: vec![clip; len],
        };
        Shared {
            samples: Samples::new([source].into()),
            decoder: Arc::new(Ffmpeg::default()),
            config: LoaderConfig::default(),
            view,
            stop: AtomicBool::new(false),
        }
    }

    fn job(places: Range<u64>, len: u32) -> Job {
        let order = EpochOrder { seed: 0, epoch: 3, len };
        Job {
            batch: 7,
            epoch: 3,
            order: Order::Shuffled(order.permutation().into()),
            entries: places,
            places: Vec::new(),
        }
    }

    #[test]
    fn replacements_lie_outside_the_batch() {
        let shared = shared(20, View::Train);
        let job = job(8..12, 20);
        let own: HashSet<u64> = (8..12).map(|place| job.order.sample(place)).collect();
        assert_eq!(job.sample(&shared, 2, 0), Some(job.order.sample(10)));
        let replacements: Vec<u64> =
            (1..MAX_ATTEMPTS).map(|attempt| job.sample(&shared, 2, attempt).unwrap()).collect();
        assert!(replacements.iter().all(|sample| !own.contains(sample)));
        let distinct: HashSet<_> = replacements.iter().collect();
        assert!(distinct.len() > 10, "{replacements:?}");
        assert_eq!(job.sample(&shared, 2, MAX_ATTEMPTS), None);
        // The same again, whatever was asked before.
        assert_eq!(job.sample(&shared, 2, 5), Some(replacements[4]));
    }

    #[test]
    fn repetitions_share_their_sample_and_its_replacements() {
        let mut shared = shared(20, View::Train);
        shared.config.repeats = 2;
        // Places 4 and 5 of the order.
        let job = job(8..12, 20);
        let at = |slot: usize, attempt| job.sample(&shared, slot, attempt).unwrap();
        for attempt in 0..4 {
            assert_eq!(at(0, attempt), at(1, attempt));
            assert_eq!(at(2, attempt), at(3, attempt));
        }
        assert_eq!((at(0, 0), at(2, 0)), (job.order.sample(4), job.order.sample(5)));
        assert!((1..9).all(|attempt| ![at(0, 0), at(2, 0)].contains(&at(0, attempt))));
        let turns: Vec<u32> = (0..4).map(|slot| job.turn(&shared, slot)).collect();
        assert_eq!(turns, [0, 1, 0, 1]);
    }

    #[test]
    fn a_set_of_one_batch_replaces_from_itself() {
        let shared = shared(4, View::Train);
        let sample = job(0..4, 4).sample(&shared, 1, 1).unwrap();
        assert!(sample < 4);
    }

    #[test]
    fn evaluation_replaces_nothing() {
        let shared = shared(4, View::Eval);
        let mut job = job(0..4, 4);
        job.order = Order::InOrder;
        assert_eq!(job.sample(&shared, 1, 0), Some(1));
        assert_eq!(job.sample(&shared, 1, 1), None);
    }
}
