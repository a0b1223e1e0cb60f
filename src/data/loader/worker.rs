//! The decode threads: each takes one place of a batch at a time and fills it with a readable sample.

use super::batch::Filled;
use super::clip::{Samples, View};
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
    fn sample(&self, place: u64) -> u64 {
        match self {
            Self::InOrder => place,
            Self::Shuffled(order) => u64::from(order[place as usize]),
        }
    }
}

/// A place of a batch to fill.
#[derive(Debug)]
pub(super) struct Job {
    /// Number of the batch since the loader began, and of the slot within it.
    pub batch: u64,
    pub slot: usize,
    pub epoch: u64,
    pub order: Order,
    /// Entries of the epoch that the batch covers; slot 0 is the first. The clip at each place of the order makes
    /// [`Shared::turns`] entries in a row.
    pub entries: Range<u64>,
    /// Attempts that have failed before this job.
    pub attempt: u32,
    /// Where the frames go.
    pub buffer: BytesMut,
}

impl Job {
    /// The sample for an attempt: the slot's own, then draws keyed by seed, epoch and place from the epoch's
    /// samples outside this batch; `None` when there is nothing (more) to try.
    fn sample(&self, shared: &Shared, attempt: u32) -> Option<u64> {
        let turns = shared.turns();
        let place = (self.entries.start + self.slot as u64) / turns;
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
}

impl Job {
    /// Which of its clip's entries the slot is.
    fn turn(&self, shared: &Shared) -> u32 {
        ((self.entries.start + self.slot as u64) % shared.turns()) as u32
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
    /// The thread was given up: its slot belongs to another one, and it must not report.
    abandoned: bool,
}

#[derive(Debug)]
struct Working {
    since: Instant,
    /// The job without its buffer, to be given to another thread.
    job: Job,
    sample: u64,
}

/// A running decode thread.
#[derive(Debug)]
pub(super) struct Worker {
    board: Arc<Mutex<Board>>,
    pub thread: JoinHandle<()>,
}

impl Worker {
    pub fn spawn(
        number: usize,
        shared: &Arc<Shared>,
        jobs: &Receiver<Job>,
        reports: &Sender<Report>,
    ) -> std::io::Result<Self> {
        let board = Arc::new(Mutex::default());
        let (shared, jobs, reports) = (Arc::clone(shared), jobs.clone(), reports.clone());
        let own_board = Arc::clone(&board);
        let thread = std::thread::Builder::new().name(format!("decode-{number}")).spawn(move || {
            while let Ok(job) = jobs.recv() {
                if shared.stop.load(Ordering::Relaxed) || fill(&shared, &own_board, &reports, job).is_none() {
                    return;
                }
            }
        })?;
        Ok(Self { board, thread })
    }

    /// If the thread has worked on one sample since before `deadline`, gives it up: returns its job (the buffer
    /// empty) and the sample. The thread ends once the decoder comes back.
    pub fn give_up_if_stalled(&self, deadline: Instant) -> Option<(Job, u64)> {
        let mut board = lock(&self.board);
        let working = board.working.take_if(|working| working.since < deadline)?;
        board.abandoned = true;
        Some((working.job, working.sample))
    }
}

fn lock(board: &Mutex<Board>) -> MutexGuard<'_, Board> {
    // Every change to a board is a single assignment, so it is whole even after a panic.
    board.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does one job. `None` when the thread must end: it was given up, or nobody listens.
fn fill(shared: &Shared, board: &Mutex<Board>, reports: &Sender<Report>, mut job: Job) -> Option<()> {
    let (batch, slot) = (job.batch, job.slot);
    let report = |event| reports.send(Report { batch, slot, event }).ok();
    let mut buffer = std::mem::take(&mut job.buffer);
    loop {
        let Some(sample) = job.sample(shared, job.attempt) else {
            return report(Event::Empty);
        };
        let (epoch, turn) = (job.epoch, job.turn(shared));
        job.attempt += 1;
        lock(board).working = Some(Working { since: Instant::now(), job, sample });
        // Nothing is looked at again after a panic but the buffer, which is then dropped.
        let read = catch_unwind(AssertUnwindSafe(|| {
            let Shared { samples, decoder, config, view, .. } = shared;
            samples.read(&**decoder, config, *view, epoch, sample, turn, &mut buffer)
        }));
        job = {
            let mut board = lock(board);
            if board.abandoned {
                return None;
            }
            board.working.take()?.job
        };
        match read {
            Ok(Ok(words)) => return report(Event::Done(Filled { buffer, sample, turn, words })),
            Ok(Err(error)) => report(Event::Bad(SampleFailure::new(sample, &error)))?,
            Err(panic) => {
                return report(Event::Panicked { sample, message: panic_message(&*panic) });
            }
        }
    }
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
            decoder: Arc::new(Ffmpeg::default()),
            config: LoaderConfig::default(),
            view,
            stop: AtomicBool::new(false),
        }
    }

    fn job(slot: usize, places: Range<u64>, len: u32) -> Job {
        let order = EpochOrder { seed: 0, epoch: 3, len };
        Job {
            batch: 7,
            slot,
            epoch: 3,
            order: Order::Shuffled(order.permutation().into()),
            entries: places,
            attempt: 0,
            buffer: BytesMut::new(),
        }
    }

    #[test]
    fn replacements_lie_outside_the_batch() {
        let shared = shared(20, View::Train);
        let job = job(2, 8..12, 20);
        let own: HashSet<u64> = (8..12).map(|place| job.order.sample(place)).collect();
        assert_eq!(job.sample(&shared, 0), Some(job.order.sample(10)));
        let replacements: Vec<u64> = (1..MAX_ATTEMPTS).map(|attempt| job.sample(&shared, attempt).unwrap()).collect();
        assert!(replacements.iter().all(|sample| !own.contains(sample)));
        let distinct: HashSet<_> = replacements.iter().collect();
        assert!(distinct.len() > 10, "{replacements:?}");
        assert_eq!(job.sample(&shared, MAX_ATTEMPTS), None);
        // The same again, whatever was asked before.
        assert_eq!(job.sample(&shared, 5), Some(replacements[4]));
    }

    #[test]
    fn repetitions_share_their_sample_and_its_replacements() {
        let mut shared = shared(20, View::Train);
        shared.config.repeats = 2;
        // Places 4 and 5 of the order.
        let jobs: Vec<Job> = (0..4).map(|slot| job(slot, 8..12, 20)).collect();
        let at = |slot: usize, attempt| jobs[slot].sample(&shared, attempt).unwrap();
        for attempt in 0..4 {
            assert_eq!(at(0, attempt), at(1, attempt));
            assert_eq!(at(2, attempt), at(3, attempt));
        }
        assert_eq!((at(0, 0), at(2, 0)), (jobs[0].order.sample(4), jobs[0].order.sample(5)));
        assert!((1..9).all(|attempt| ![at(0, 0), at(2, 0)].contains(&at(0, attempt))));
        let turns: Vec<u32> = jobs.iter().map(|job| job.turn(&shared)).collect();
        assert_eq!(turns, [0, 1, 0, 1]);
    }

    #[test]
    fn a_set_of_one_batch_replaces_from_itself() {
        let shared = shared(4, View::Train);
        let sample = job(1, 0..4, 4).sample(&shared, 1).unwrap();
        assert!(sample < 4);
    }

    #[test]
    fn evaluation_replaces_nothing() {
        let shared = shared(4, View::Eval);
        let mut job = job(1, 0..4, 4);
        job.order = Order::InOrder;
        assert_eq!(job.sample(&shared, 0), Some(1));
        assert_eq!(job.sample(&shared, 1), None);
    }
}
