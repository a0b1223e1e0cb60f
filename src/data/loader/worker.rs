//! The decode threads: each takes places of a batch whose clips lie in one file, mostly a single one, and fills them
//! with readable samples.

use super::batch::Filled;
use super::clip::{Entry, Samples, View};
use super::times::{Activity, Times};
use super::{Decoder, LoaderConfig};
use crate::data::failures::SampleFailure;
use crate::data::rng::{Purpose, keyed};
use bytes::BytesMut;
use crossbeam_channel::{Receiver, Sender};
use rand::Rng;
use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

/// Samples tried for one place of a batch: its own, then replacements. So many bad ones in a row are no
/// accident, and far above any share of bad samples that a run survives.
pub(super) const MAX_ATTEMPTS: u32 = 32;

/// What all decode threads share.
pub(super) struct Shared {
    pub samples: Samples,
    pub decoder: Arc<dyn Decoder>,
    pub config: LoaderConfig,
    pub view: View,
    /// Set when the loader goes away.
    pub stop: AtomicBool,
}

impl Shared {
    /// Entries that each clip makes: repetitions in training, views in evaluation.
    pub fn turns(&self) -> u64 {
        let config = &self.config;
        match self.view {
            View::Train => config.repeats as u64,
            View::Eval => (config.views * config.crops) as u64,
        }
    }
}

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
    pub buffer: BytesMut,
}

impl Job {
    /// The same for other places.
    pub fn with(&self, places: Vec<Place>) -> Self {
        Self { places, order: self.order.clone(), entries: self.entries.clone(), ..*self }
    }

    /// The sample for an attempt at a slot: its own, then draws keyed by seed, epoch and place from the epoch's
    /// samples outside this batch; `None` when there is nothing (more) to try.
    fn sample(&self, shared: &Shared, slot: usize, attempt: u32) -> Option<u64> {
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
    fn turn(&self, shared: &Shared, slot: usize) -> u32 {
        ((self.entries.start + slot as u64) % shared.turns()) as u32
    }
}

/// What a decode thread tells the loader about a slot.
#[derive(Debug)]
pub(super) struct Report {
    pub batch: u64,
    pub slot: usize,
    pub event: Event,
}

#[derive(Debug)]
pub(super) enum Event {
    /// A sample could not be read; another one will be tried.
    Bad(SampleFailure),
    /// The slot is filled.
    Done(Filled),
    /// No sample for this slot could be read.
    Empty,
    /// The decoder panicked.
    Panicked { sample: u64, message: String },
}

/// What a decode thread is doing, for the watchdog.
#[derive(Debug, Default)]
struct Board {
    working: Option<Working>,
    /// The thread was given up: its slots belong to others, and it must not report.
    abandoned: bool,
}

#[derive(Debug)]
struct Working {
    /// When the current file was begun.
    since: Instant,
    /// What is being read, without its buffers: to be given to other threads.
    job: Job,
    /// Whose file that is, or the first of those that are read together.
    sample: u64,
}

/// A running decode thread.
#[derive(Debug)]
pub(super) struct Worker {
    board: Arc<Mutex<Board>>,
    pub times: Arc<Times>,
    pub thread: JoinHandle<()>,
}

impl Worker {
    pub fn spawn(
        number: usize,
        shared: &Arc<Shared>,
        jobs: &Receiver<Job>,
        reports: &Sender<Report>,
    ) -> std::io::Result<Self> {
        let (board, times) = (Arc::<Mutex<Board>>::default(), Arc::<Times>::default());
        let (shared, jobs, reports) = (Arc::clone(shared), jobs.clone(), reports.clone());
        let (own_board, own_times) = (Arc::clone(&board), Arc::clone(&times));
        let thread = std::thread::Builder::new().name(format!("decode-{number}")).spawn(move || {
            let mut since = Instant::now();
            while let Ok(job) = jobs.recv() {
                let begun = Instant::now();
                own_times.add(Activity::Waiting, begun - since);
                if shared.stop.load(Ordering::Relaxed)
                    || fill(&shared, &own_board, &own_times, &reports, job).is_none()
                {
                    return;
                }
                since = Instant::now();
                own_times.add(Activity::Busy, since - begun);
            }
        })?;
        Ok(Self { board, times, thread })
    }

    /// If the thread has worked on one file since before `deadline`, gives it up: returns its job (the buffers empty)
    /// and a sample of the file. The thread ends once the decoder comes back.
    pub fn give_up_if_stalled(&self, deadline: Instant) -> Option<(Job, u64)> {
        let mut board = lock(&self.board);
        let working = board.working.take_if(|working| working.since < deadline)?;
        board.abandoned = true;
        Some((working.job, working.sample))
    }
}

fn lock(board: &Mutex<Board>) -> MutexGuard<'_, Board> {
    // What a board says is whole after every single assignment, so also after a panic.
    board.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does one job. `None` when the thread must end: it was given up, or nobody listens.
fn fill(
    shared: &Shared,
    board: &Mutex<Board>,
    times: &Times,
    reports: &Sender<Report>,
    mut job: Job,
) -> Option<()> {
    let batch = job.batch;
    let report = |slot, event| reports.send(Report { batch, slot, event }).ok();
    while !job.places.is_empty() {
        let mut places = std::mem::take(&mut job.places);
        // Places for which nothing is left to try.
        let mut samples = Vec::with_capacity(places.len());
        let mut empty = Vec::new();
        places.retain(|place| match job.sample(shared, place.slot, place.attempt) {
            Some(sample) => {
                samples.push(sample);
                true
            }
            None => {
                empty.push(place.slot);
                false
            }
        });
        for slot in empty {
            report(slot, Event::Empty)?;
        }
        let Some(&first) = samples.first() else { return Some(()) };

        let without_buffer = |place: &Place| Place { buffer: BytesMut::new(), ..*place };
        let shown = job.with(places.iter().map(without_buffer).collect());
        lock(board).working = Some(Working { since: Instant::now(), job: shown, sample: first });
        let turns: Vec<u32> = places.iter().map(|place| job.turn(shared, place.slot)).collect();
        // Nothing is looked at again after a panic but the buffers, which are then dropped.
        let read = catch_unwind(AssertUnwindSafe(|| {
            let entries = places.iter_mut().zip(samples.iter().zip(&turns));
            let mut entries: Vec<Entry> = entries
                .map(|(place, (&sample, &turn))| Entry { sample, turn, out: &mut place.buffer })
                .collect();
            let at = |entry: usize| {
                if let Some(working) = &mut lock(board).working {
                    (working.since, working.sample) = (Instant::now(), samples[entry]);
                }
            };
            shared.samples.read(shared, job.epoch, &mut entries, times, &at)
        }));
        let sample_at_work = {
            let mut board = lock(board);
            if board.abandoned {
                return None;
            }
            board.working.take()?.sample
        };
        let outcomes = match read {
            Ok(outcomes) => outcomes,
            Err(panic) => {
                let message = panic_message(&*panic);
                return report(places[0].slot, Event::Panicked { sample: sample_at_work, message });
            }
        };
        for ((place, outcome), (sample, turn)) in places.into_iter().zip(outcomes).zip(samples.into_iter().zip(turns)) {
            let Place { slot, attempt, buffer } = place;
            match outcome {
                Ok(words) => {
                    times.count_clip();
                    report(slot, Event::Done(Filled { buffer, sample, turn, words }))?;
                }
                Err(error) => {
                    report(slot, Event::Bad(SampleFailure::new(sample, &error)))?;
                    job.places.push(Place { slot, attempt: attempt + 1, buffer });
                }
            }
        }
    }
    Some(())
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "no message".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::loader::Ffmpeg;
    use crate::data::sampler::EpochOrder;
    use crate::data::{Captions, Clip, Layout, Source};
    use std::collections::HashSet;

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
            decoder: Arc::new(Ffmpeg),
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
