//! From sources to batches, decoded ahead by a pool of threads.
//!
//! Comes in: [`Source`]s. Goes out: [`ClipBatch`]es, frames as bytes with captions as text or labels. What is in a batch
//! depends on the seed, the data and the [`Position`] only, never on the number of threads or on timing: every
//! draw is keyed (`data::rng`), and a sample that cannot be read is replaced by a keyed draw of another.
//!
//! At most `prefetch` batches are in memory here, besides those the caller holds; their buffers are reused.
//! The threads share nothing but two channels: jobs (slots of a batch) go out, reports come back, and the thread
//! that asks for batches keeps the books.
//!
//! **One queue, no work stealing.** A job takes milliseconds, taking it from the queue 40 ns (measured with 1 to 128
//! threads on two cores), so threads hardly meet there; one that is free takes the oldest job, which is the best balance
//! there is. Queues of their own would only have to be balanced again, and jobs stolen from their far end belong to later
//! batches.
//!
//! **Memory nodes.** Ordinary batch memory is fresh from the system until a decode thread first writes to it; page-locked
//! memory lies on the node of the thread that trains, next to the device it drives. Buffers are used again, so a thread
//! writes finished frames (0.6 MB a clip) to another node now and then, while what it reads and writes dozens of times a
//! clip, the decoder's own pictures, it has allocated itself.
//!
//! **Grouped jobs.** Neighbouring slots whose clips begin in one file are one job, up to `group` clips: the file is
//! opened once and read in one pass. So are the repetitions and the views of a clip.

mod batch;
mod buffer;
mod clip;
mod collect;
mod config;
mod decoder;
mod error;
mod job;
mod pass;
mod times;
mod worker;

pub use batch::ClipBatch;
pub use buffer::FrameBuffer;
pub use config::{LoaderConfig, default_workers, read_options};
pub use decoder::{DecodeError, Decoder, Ffmpeg, OpenVideo};
pub use error::LoaderError;
pub use times::WorkerTimes;

use crate::data::Source;
use crate::data::failures::Failures;
use crate::data::sampler::{EpochOrder, FileSamples, Position, full_batches};
use avion_kernels::cuda::pinned::PinnedPool;
use batch::InFlight;
use clip::{Samples, View};
use crossbeam_channel::{Receiver, Sender};
use job::{Job, Order, Place};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use worker::{Report, Shared, Worker};

/// Clips of a file that are read together in evaluation, where they lie in order of time anyway.
const EVAL_GROUP: usize = 4;

/// How long a loader that goes away waits for threads in the middle of a clip.
const JOIN_WITHIN: Duration = Duration::from_secs(5);

/// Gives batches in order; an iterator that ends with the last epoch, or after an error.
///
/// Dropping it stops the decode threads after the clips they are at.
pub struct Loader {
    shared: Arc<Shared>,
    jobs: Sender<Job>,
    /// Same channel, for replacements of threads that were given up.
    jobs_out: Receiver<Job>,
    reports: Receiver<Report>,
    reports_in: Sender<Report>,
    workers: Vec<Worker>,
    /// Threads given up, and those of them that hung on a single clip.
    given_up: usize,
    stalled: usize,
    pool: PinnedPool,
    clip_bytes: usize,
    as_records: bool,
    in_flight: VecDeque<InFlight>,
    /// Batches begun since the loader was made.
    begun: u64,
    cursor: Position,
    batches: u64,
    epochs: u64,
    order: Option<(u64, Order)>,
    /// Which samples lie in one file, if training groups them.
    files: Option<FileSamples>,
    failures: Failures,
    /// Of threads that were given up.
    lost: WorkerTimes,
    waited: Duration,
    ended: bool,
}

impl Loader {
    /// Shuffled, augmented, whole batches from `start` to the end of `config.epochs`, decoded with FFmpeg.
    ///
    /// # Errors
    /// A setting out of range, fewer clips than a batch, a `start` beyond the epoch.
    pub fn train(sources: Arc<[Source]>, config: LoaderConfig, start: Position) -> Result<Self, LoaderError> {
        Self::train_into(sources, config, start, PinnedPool::plain())
    }

    /// [`Loader::train`] into the memory of a pool, such as one that the device can copy from.
    ///
    /// # Errors
    /// As [`Loader::train`].
    pub fn train_into(
        sources: Arc<[Source]>,
        config: LoaderConfig,
        start: Position,
        pool: PinnedPool,
    ) -> Result<Self, LoaderError> {
        let decoder = Arc::new(Ffmpeg { options: config.read });
        Self::new(sources, config, start, decoder, View::Train, pool)
    }

    /// [`Loader::train`] with another decoder.
    pub fn train_with(
        sources: Arc<[Source]>,
        config: LoaderConfig,
        start: Position,
        decoder: Arc<dyn Decoder>,
    ) -> Result<Self, LoaderError> {
        Self::new(sources, config, start, decoder, View::Train, PinnedPool::plain())
    }

    /// Every clip once, in order, not augmented, decoded with FFmpeg: centred, or in `config.views` times `config.crops`
    /// views that follow each other, across batches too. The last batch may be smaller. Clips that cannot be read are
    /// left out and listed in the batch's `bad`.
    ///
    /// # Errors
    /// A setting out of range.
    pub fn eval(sources: Arc<[Source]>, config: LoaderConfig) -> Result<Self, LoaderError> {
        let options = config.read.for_evaluation();
        Self::eval_with(sources, config, Arc::new(Ffmpeg { options }))
    }

    /// [`Loader::eval`] with another decoder.
    pub fn eval_with(
        sources: Arc<[Source]>,
        config: LoaderConfig,
        decoder: Arc<dyn Decoder>,
    ) -> Result<Self, LoaderError> {
        Self::new(sources, config, Position::default(), decoder, View::Eval, PinnedPool::plain())
    }

    fn new(
        sources: Arc<[Source]>,
        config: LoaderConfig,
        start: Position,
        decoder: Arc<dyn Decoder>,
        view: View,
        pool: PinnedPool,
    ) -> Result<Self, LoaderError> {
        config.check(&sources)?;
        let samples = Samples::new(sources);
        let read = match view {
            View::Train => config.read,
            View::Eval => config.read.for_evaluation(),
        };
        let clip_bytes = config.clip_bytes(read)?;
        let (batches, epochs) = match view {
            View::Train => (full_batches(samples.len, config.batch_size / config.repeats), config.epochs),
            View::Eval => ((samples.len * (config.views * config.crops) as u64).div_ceil(config.batch_size as u64), 1),
        };
        if view == View::Train && batches == 0 {
            let batch_size = config.batch_size / config.repeats;
            return Err(LoaderError::TooFewClips { clips: samples.len, batch_size });
        }
        if view == View::Train && start.batch >= batches {
            return Err(LoaderError::Start { position: start, batches });
        }
        let files = (view == View::Train && config.group > 1).then(|| samples.files());
        let (jobs, jobs_out) = crossbeam_channel::unbounded();
        let (reports_in, reports) = crossbeam_channel::unbounded();
        let mut loader = Self {
            pool,
            failures: Failures::new(samples.len, config.max_bad_share),
            shared: Arc::new(Shared { samples, decoder, config, view, stop: AtomicBool::new(false) }),
            jobs,
            jobs_out,
            reports,
            reports_in,
            workers: Vec::new(),
            given_up: 0,
            stalled: 0,
            clip_bytes,
            as_records: read.as_records,
            in_flight: VecDeque::new(),
            begun: 0,
            cursor: start,
            batches,
            epochs: if batches == 0 { 0 } else { epochs },
            order: None,
            files,
            lost: WorkerTimes::default(),
            waited: Duration::ZERO,
            ended: false,
        };
        for _ in 0..loader.shared.config.threads() {
            loader.spawn_worker()?;
        }
        loader.fill();
        Ok(loader)
    }

    /// Batches in an epoch.
    pub fn batches_per_epoch(&self) -> u64 {
        self.batches
    }

    /// Clips of all sources.
    pub fn num_clips(&self) -> u64 {
        self.shared.samples.len
    }

    /// Time that the caller has spent waiting for batches so far.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// What the decode threads have done so far, a value each; threads that were given up are summed up at the end.
    pub fn times(&self) -> Vec<WorkerTimes> {
        let lost = (self.given_up > 0).then_some(self.lost);
        self.workers.iter().map(|worker| worker.times.read()).chain(lost).collect()
    }

    /// Bad samples in the batches given out so far.
    pub fn failures(&self) -> &Failures {
        &self.failures
    }

    fn spawn_worker(&mut self) -> Result<(), LoaderError> {
        let number = self.workers.len() + self.given_up;
        let worker = Worker::spawn(number, &self.shared, &self.jobs_out, &self.reports_in)?;
        self.workers.push(worker);
        Ok(())
    }

    /// Begins batches until `prefetch` are on their way.
    fn fill(&mut self) {
        while self.in_flight.len() < self.shared.config.prefetch && self.cursor.epoch < self.epochs {
            self.begin_batch();
        }
    }

    fn begin_batch(&mut self) {
        let position = self.cursor;
        let order = self.order_of(position.epoch);
        let Shared { samples, config, .. } = &*self.shared;
        let start = position.batch * config.batch_size as u64;
        let entries = start..(start + config.batch_size as u64).min(samples.len * self.shared.turns());
        let slots = (entries.end - entries.start) as usize;
        let job = |places| Job {
            batch: self.begun,
            epoch: position.epoch,
            order: order.clone(),
            entries: entries.clone(),
            places,
        };
        let turns = self.shared.turns();
        let sample = |slot: usize| order.sample((entries.start + slot as u64) / turns);
        let group = match self.shared.view {
            View::Train => config.group,
            View::Eval => EVAL_GROUP,
        };
        let most = group.saturating_mul(turns as usize);
        let mut places: Vec<Place> = Vec::new();
        for (slot, buffer) in buffer::cut(&self.pool, slots, self.clip_bytes).into_iter().enumerate() {
            let joins = places
                .first()
                .is_some_and(|first| places.len() < most && samples.same_file(sample(first.slot), sample(slot)));
            if !joins && !places.is_empty() {
                // Cannot fail: `self` holds a receiver.
                let _ = self.jobs.send(job(std::mem::take(&mut places)));
            }
            places.push(Place { slot, attempt: 0, buffer });
        }
        let _ = self.jobs.send(job(places));
        self.begun += 1;
        self.cursor = position.next(self.batches);
        self.in_flight.push_back(InFlight::new(position, self.cursor, slots));
    }

    fn order_of(&mut self, epoch: u64) -> Order {
        if let Some((known, order)) = &self.order
            && *known == epoch
        {
            return order.clone();
        }
        let order = match self.shared.view {
            View::Eval => Order::InOrder,
            View::Train => {
                let order = EpochOrder { seed: self.shared.config.seed, epoch, len: self.shared.samples.len as u32 };
                let samples = match &self.files {
                    Some(files) => order.grouped(files, self.shared.config.group as u32),
                    None => order.permutation(),
                };
                Order::Shuffled(samples.into())
            }
        };
        self.order = Some((epoch, order.clone()));
        order
    }
}

impl Iterator for Loader {
    type Item = Result<ClipBatch, LoaderError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let result = self.take().transpose();
        self.ended = !matches!(result, Some(Ok(_)));
        result
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        while self.jobs_out.try_recv().is_ok() {}
        // Ends the threads that wait for a job.
        self.jobs = crossbeam_channel::unbounded().0;
        let deadline = Instant::now() + JOIN_WITHIN;
        for worker in self.workers.drain(..) {
            while !worker.thread.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
            if worker.thread.is_finished() {
                // A panic outside the decoder was reported by the thread's own panic message.
                let _ = worker.thread.join();
            } else {
                tracing::warn!("a decode thread hangs and is left behind");
            }
        }
    }
}
