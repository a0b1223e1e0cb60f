//! The decode threads: each takes places of a batch whose clips lie in one file, mostly a single one, and fills them
//! with readable samples.

use super::batch::Filled;
use super::clip::{Entry, Samples, View};
use super::job::{Job, Place};
use super::times::{Activity, Times};
use super::{Decoder, LoaderConfig};
use crate::data::failures::SampleFailure;
use avion_kernels::cuda::pinned::PinnedBuffer;
use crossbeam_channel::{Receiver, Sender};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

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
                if shared.stop.load(Ordering::Relaxed) || fill(&shared, &own_board, &own_times, &reports, job).is_none()
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
fn fill(shared: &Shared, board: &Mutex<Board>, times: &Times, reports: &Sender<Report>, mut job: Job) -> Option<()> {
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

        let without_buffer = |place: &Place| Place { buffer: PinnedBuffer::default(), ..*place };
        let shown = job.with(places.iter().map(without_buffer).collect());
        lock(board).working = Some(Working { since: Instant::now(), job: shown, sample: first });
        let turns: Vec<u32> = places.iter().map(|place| job.turn(shared, place.slot)).collect();
        // Nothing is looked at again after a panic but the buffers, which are then dropped.
        let read = catch_unwind(AssertUnwindSafe(|| {
            let entries = places.iter_mut().zip(samples.iter().zip(&turns));
            let mut entries: Vec<Entry> =
                entries.map(|(place, (&sample, &turn))| Entry { sample, turn, out: &mut place.buffer }).collect();
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
