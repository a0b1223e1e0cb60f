//! The loop: batch, gradients, update, record, evaluate, save.

use super::records::Records;
use super::setup::loader_config;
use super::{StopSignal, TrainError};
use crate::checkpoint::{
    AVERAGE, BestMetric, CheckpointStore, HostTensor, ScheduleState, Snapshot, Tensors, TrainState, UPDATES,
};
use crate::config::recipe::{ModelConfig, Recipe};
use crate::data::Source;
use crate::data::loader::{ClipBatch, Loader, WorkerTimes};
use crate::data::sampler::Position;
use crate::device::{DeviceError, DeviceInfo};
use crate::eval::Evaluation;
use crate::model::MemoryPlan;
use crate::model::params::ParamStore;
use crate::optim::{LrSchedule, Optimizer, UpdateStats};
use crate::report::{BadSamples, Fact, StepRecord};
use crate::task::Task;
use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use cubecl::bytes::Bytes;
use cubecl::prelude::ComputeClient;
use cubecl::server::ServerError;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Counters kept in the checkpoint.
const SKIPPED_STEPS: &str = "skipped_steps";
const BAD_IN_A_ROW: &str = "bad_steps_in_a_row";
const CLIPS: &str = "clips";
const BAD_SAMPLES: &str = "bad_samples";

pub(super) struct Trainer<'a, R: CubeRuntime, K: Task<R>> {
    task: &'a mut K,
    client: &'a ComputeClient<R>,
    optimizer: Optimizer,
    recipe: &'a Recipe,
    recipe_toml: &'a str,
    memory: MemoryPlan,
    loader: Loader,
    schedule: LrSchedule,
    state: TrainState,
    /// Steps after which training ends.
    last_step: u64,
    meter: Meter,
    /// What the decode threads had done when the last step was recorded.
    times_before: WorkerTimes,
    /// Bad samples counted before the last restart.
    bad_before: u64,
    since_save: Instant,
    diverged: Option<Diverged>,
    runtime: std::marker::PhantomData<R>,
}

pub(super) enum Ended {
    Finished { evaluations: Vec<Evaluation> },
    Interrupted { checkpoint: PathBuf },
}

/// What one step gave.
struct Step {
    loss: f32,
    accuracy: f32,
    logit_scale: f32,
    update: UpdateStats,
}

/// A step that is queued and not read back yet: reading waits for the device, so it is done once the next step has been
/// queued and the device has that to do.
struct Queued<'a> {
    reading: Reading<'a>,
    samples: usize,
    lr: f64,
    next: Position,
}

/// Too many steps in a row were not finite.
struct Diverged {
    steps: u64,
    loss: f32,
    grad_norm: f32,
}

type Reading<'a> = Pin<Box<dyn Future<Output = Result<Vec<Bytes>, ServerError>> + Send + 'a>>;

impl<'a, R: CubeRuntime, K: Task<R>> Trainer<'a, R, K> {
    pub fn new(
        task: &'a mut K,
        client: &'a ComputeClient<R>,
        optimizer: Optimizer,
        recipe: &'a Recipe,
        recipe_toml: &'a str,
        memory: MemoryPlan,
        sources: Arc<[Source]>,
        state: Option<TrainState>,
    ) -> Result<Self, TrainError> {
        let state = state.unwrap_or_else(|| TrainState { seed: recipe.seed, ..TrainState::default() });
        let start = Position { epoch: state.epoch, batch: state.batch };
        let loader = Loader::train_into(sources, loader_config(recipe), start, task.host_memory())?;
        let (steps_per_epoch, clips) = (loader.batches_per_epoch(), loader.num_clips());
        let was_clips = state.counters.get(CLIPS).copied();
        if was_clips.is_some_and(|was| was != clips) {
            return Err(TrainError::OtherData {
                was_clips: was_clips.unwrap_or_default(),
                was_batches: state.schedule.steps_per_epoch,
                clips,
                batches: steps_per_epoch,
            });
        }
        let schedule = LrSchedule::new(&recipe.optim, steps_per_epoch, recipe.train.epochs as u64);
        let total_steps = schedule.total_steps();
        let last_step = match recipe.train.max_steps as u64 {
            0 => total_steps,
            limit => limit.min(total_steps),
        };
        let mut state = TrainState { schedule: ScheduleState { steps_per_epoch, total_steps }, ..state };
        state.counters.insert(CLIPS.into(), clips);
        let bad_before = state.counters.get(BAD_SAMPLES).copied().unwrap_or(0);
        Ok(Trainer {
            task,
            client,
            optimizer,
            recipe,
            recipe_toml,
            memory,
            loader,
            schedule,
            state,
            last_step,
            meter: Meter::start(),
            times_before: WorkerTimes::default(),
            bad_before,
            since_save: Instant::now(),
            diverged: None,
            runtime: std::marker::PhantomData,
        })
    }

    /// What is about to happen, for the log.
    pub fn announcement(&self, info: &DeviceInfo, dtype: DType) -> String {
        let recipe = self.recipe;
        format!(
            "{}: {} clips, {} steps of {} clips ({} at once) from step {}, {} on {}, lr {:e} {:?}, {}\n{}",
            recipe.name,
            self.loader.num_clips(),
            self.last_step,
            recipe.train.batch_size,
            recipe.train.clips_at_once(),
            self.state.step,
            dtype.name(),
            info.name,
            recipe.optim.lr,
            recipe.optim.schedule,
            recipe.output_dir().display(),
            self.memory,
        )
    }

    /// Seconds the run has taken over all restarts.
    pub fn running_s(&self) -> f64 {
        self.state.trained_s + self.since_save.elapsed().as_secs_f64()
    }

    /// What all decode threads together have done since the start or the last restart.
    pub fn worker_times(&self) -> WorkerTimes {
        WorkerTimes::total(self.loader.times())
    }

    /// Says how busy the decode threads were: all of them at `info`, each at `debug`.
    pub fn log_worker_times(&self) {
        let times = self.loader.times();
        tracing::info!("{} decode threads: {}", times.len(), WorkerTimes::total(times.iter().copied()));
        for (number, thread) in times.iter().enumerate() {
            tracing::debug!("decode thread {number}: {thread}");
        }
    }

    pub fn bad_samples(&self) -> BadSamples {
        let failures = self.loader.failures();
        let example = |(kind, count): (&'static str, u64)| Fact::new(kind, count.to_string());
        BadSamples {
            samples: failures.tried(),
            skipped: self.bad_before + failures.bad(),
            examples: failures.kinds().map(example).collect(),
        }
    }

    /// Trains to the last step, or until asked to stop.
    pub fn run(
        &mut self,
        store: &mut CheckpointStore,
        records: &mut Records,
        stop: &StopSignal,
    ) -> Result<Ended, TrainError> {
        let mut evaluations = Vec::new();
        if self.state.step == 0 && self.recipe.eval.before_training {
            match self.evaluate(records, stop)? {
                Some(scored) => evaluations = scored,
                None => return Ok(Ended::Interrupted { checkpoint: self.save(store, false)? }),
            }
        }
        records.plan(self.last_step);
        self.meter = Meter::start();
        let mut batch = self.next_batch(self.state.step)?;
        let mut queued: Option<Queued<'a>> = None;
        while let Some(current) = batch.take() {
            let number = self.state.step + u64::from(queued.is_some());
            let epoch_ended = current.next.epoch > current.position.epoch;
            let step = self.queue(&current, number)?;
            drop(current);
            // While the device works on this step: the outcome of the one before, and the batch after.
            if let Some(before) = queued.replace(step) {
                self.settle(before, records)?;
            }
            if self.diverged.is_some() {
                // The step just queued has changed the weights already, if it could.
                self.settle_last(&mut queued, store, records)?;
            }
            let finished = number + 1 == self.last_step;
            let due = self.evaluation_due(epoch_ended, number + 1, finished);
            let save = epoch_ended || finished || self.checkpoint_due(number + 1) || stop.raised();
            if save || due {
                self.settle_last(&mut queued, store, records)?;
            }
            if save {
                let checkpoint = self.save(store, false)?;
                if stop.raised() && !finished {
                    return Ok(Ended::Interrupted { checkpoint });
                }
            }
            if due {
                // Saved above: an evaluation that fails or is interrupted costs no training.
                let Some(scored) = self.evaluate(records, stop)? else {
                    return Ok(Ended::Interrupted { checkpoint: self.save(store, false)? });
                };
                evaluations = scored;
                if self.note_best(&evaluations) {
                    self.save(store, true)?;
                }
            }
            batch = self.next_batch(number + 1)?;
        }
        if evaluations.is_empty() && !self.recipe.data.eval.is_empty() {
            // A finished run started again, or one stopped in its last evaluation.
            let Some(scored) = self.evaluate(records, stop)? else {
                return Ok(Ended::Interrupted { checkpoint: self.save(store, false)? });
            };
            evaluations = scored;
            let best = self.note_best(&evaluations);
            self.save(store, best)?;
        }
        Ok(Ended::Finished { evaluations })
    }

    /// The batch of step `number` (from 0), on its way to the device; `None` when there are no more steps.
    fn next_batch(&mut self, number: u64) -> Result<Option<ClipBatch>, TrainError> {
        if number >= self.last_step {
            return Ok(None);
        }
        let Some(batch) = self.loader.next() else {
            return Err(TrainError::EndedEarly { step: number, last_step: self.last_step });
        };
        let mut batch = batch?;
        self.task.prepare(&mut batch);
        self.task.prefetch(&batch)?;
        Ok(Some(batch))
    }

    /// Queues one optimizer step and the reading of its outcome.
    fn queue(&mut self, batch: &ClipBatch, number: u64) -> Result<Queued<'a>, TrainError> {
        let lr = self.schedule.lr(number);
        let result = self.task.gradients(batch, number)?;
        let params = self.task.params();
        self.optimizer.step(params, lr, self.task.gradient_factor())?;
        self.task.constrain();
        let mut handles = vec![result, self.optimizer.stats_handle()];
        handles.extend(self.task.logit_scale());
        let reading = self.client.read_async(handles);
        Ok(Queued { reading: Box::pin(reading), samples: batch.samples.len(), lr, next: batch.next })
    }

    /// Settles what is still queued; then the weights are those of the last step counted.
    ///
    /// # Errors
    /// [`TrainError::NotFinite`] after too many bad steps in a row, with a checkpoint saved.
    fn settle_last(
        &mut self,
        queued: &mut Option<Queued<'a>>,
        store: &mut CheckpointStore,
        records: &mut Records,
    ) -> Result<(), TrainError> {
        if let Some(last) = queued.take() {
            self.settle(last, records)?;
        }
        let Some(Diverged { steps, loss, grad_norm }) = self.diverged.take() else { return Ok(()) };
        let (step, last_good) = (self.state.step, self.state.step.saturating_sub(self.counter(BAD_IN_A_ROW)));
        // Whoever resumes, with other settings, gets as many tries again.
        self.state.counters.insert(BAD_IN_A_ROW.into(), 0);
        let checkpoint = self.save(store, false)?;
        Err(TrainError::NotFinite { steps, step, last_good, loss, grad_norm, checkpoint })
    }

    /// Waits for a queued step, counts it and writes it down.
    fn settle(&mut self, queued: Queued<'a>, records: &mut Records) -> Result<(), TrainError> {
        let read = cubecl::future::block_on(queued.reading).map_err(DeviceError::from_server)?;
        if let Some(detail) = avion_kernels::cuda::take_failure(self.client) {
            return Err(DeviceError::Failed { detail }.into());
        }
        let floats: Vec<&[f32]> = read.iter().map(|bytes| bytemuck::cast_slice(bytes)).collect();
        let [[loss, accuracy], stats, logit_scale @ ..] = floats.as_slice() else {
            return Err(DeviceError::Failed { detail: "a step's outcome was not what was asked for".into() }.into());
        };
        let update = UpdateStats::read(stats)?;
        let logit_scale = logit_scale.first().and_then(|value| value.first()).copied().unwrap_or(f32::NAN);
        let step = Step { loss: *loss, accuracy: *accuracy, logit_scale, update };
        self.account(queued.next, &step);
        self.record(&step, queued.samples, queued.lr, records)
    }

    /// Counts the step, and notes when too many in a row were not finite.
    fn account(&mut self, next: Position, step: &Step) {
        self.state.step += 1;
        self.state.epoch = next.epoch;
        self.state.batch = next.batch;
        self.state.counters.insert(UPDATES.into(), step.update.updates);
        if step.update.applied && step.loss.is_finite() {
            self.state.counters.insert(BAD_IN_A_ROW.into(), 0);
            return;
        }
        self.add(SKIPPED_STEPS, 1);
        self.add(BAD_IN_A_ROW, 1);
        let in_a_row = self.counter(BAD_IN_A_ROW);
        tracing::warn!(
            "step {}: loss {} and gradient norm {} are not both finite; the weights were {} ({in_a_row} in a row)",
            self.state.step,
            step.loss,
            step.update.grad_norm,
            if step.update.applied { "updated all the same" } else { "left as they were" },
        );
        if in_a_row >= self.recipe.train.max_bad_steps.max(1) as u64 {
            let (loss, grad_norm) = (step.loss, step.update.grad_norm);
            self.diverged = Some(Diverged { steps: in_a_row, loss, grad_norm });
        }
    }

    fn record(&mut self, step: &Step, samples: usize, lr: f64, records: &mut Records) -> Result<(), TrainError> {
        self.meter.add(samples, self.loader.waited());
        let last = self.state.step == self.last_step;
        if !last && !self.state.step.is_multiple_of(self.recipe.train.log_every.max(1) as u64) {
            return Ok(());
        }
        let rates = self.meter.take();
        let times = self.worker_times();
        let recent = times.since(std::mem::replace(&mut self.times_before, times));
        tracing::debug!("decode threads since the last record: {recent}");
        records.step(StepRecord {
            step: self.state.step,
            epoch: self.epochs_done(),
            loss: step.loss.into(),
            accuracy: step.accuracy.into(),
            grad_norm: step.update.grad_norm.into(),
            lr,
            logit_scale: step.logit_scale.into(),
            step_ms: rates.step_ms,
            clips_per_s: rates.clips_per_s,
            data_wait: rates.data_wait,
            workers_busy: recent.busy_share(),
            workers_decoding: recent.decoding_share(),
            memory_bytes: memory_in_use(self.task.params()),
            bad_samples: self.bad_before + self.loader.failures().bad(),
        })
    }

    /// `None` when asked to stop meanwhile.
    fn evaluate(&mut self, records: &mut Records, stop: &StopSignal) -> Result<Option<Vec<Evaluation>>, TrainError> {
        let Some(evaluations) = self.task.evaluate(&|| stop.raised())? else { return Ok(None) };
        for evaluation in &evaluations {
            records.evaluation(self.state.step, self.epochs_done(), evaluation)?;
        }
        self.meter.pause_ended(self.loader.waited());
        Ok(Some(evaluations))
    }

    /// Whether this is the best score of the first evaluation set so far.
    fn note_best(&mut self, evaluations: &[Evaluation]) -> bool {
        let Some((first, (score, value))) = evaluations.first().and_then(|e| Some((e, e.headline()?))) else {
            return false;
        };
        let name = format!("{}/{score}", first.set);
        let better = self.state.best.as_ref().is_none_or(|best| best.name != name || value > best.value);
        if better {
            self.state.best = Some(BestMetric { name, value, step: self.state.step });
        }
        better
    }

    /// After `step` steps; `epoch_ended` with the last of them.
    fn evaluation_due(&self, epoch_ended: bool, step: u64, finished: bool) -> bool {
        let every = self.recipe.eval.every_epochs as u64;
        let epochs = step / self.state.schedule.steps_per_epoch.max(1);
        let due = epoch_ended && every > 0 && epochs.is_multiple_of(every);
        !self.recipe.data.eval.is_empty() && (finished || due)
    }

    fn checkpoint_due(&self, step: u64) -> bool {
        let every = self.recipe.train.checkpoint_every as u64;
        every > 0 && step.is_multiple_of(every)
    }

    /// Writes a checkpoint of everything the rest of the run depends on.
    fn save(&mut self, store: &mut CheckpointStore, best: bool) -> Result<PathBuf, TrainError> {
        let params = self.task.params();
        let weights = by_name(params, "", params.read(params.values())?)?;
        let mut optimizer = Tensors::new();
        for (part, values) in self.optimizer.state(params)? {
            optimizer.extend(by_name(params, &format!("{part}."), values)?);
        }
        if let Some(average) = self.task.average() {
            optimizer.extend(by_name(params, AVERAGE, average.read(params)?)?);
        }
        self.state.trained_s = self.running_s();
        self.since_save = Instant::now();
        self.state.counters.insert(BAD_SAMPLES.into(), self.bad_before + self.loader.failures().bad());
        let metadata = model_metadata(&self.recipe.model);
        let snapshot = Snapshot {
            weights: &weights,
            optimizer: &optimizer,
            state: &self.state,
            recipe: self.recipe_toml,
            metadata: &metadata,
        };
        let saved = store.save(&snapshot, best)?;
        self.meter.pause_ended(self.loader.waited());
        Ok(saved)
    }

    /// Passes over the data so far.
    fn epochs_done(&self) -> f64 {
        self.state.step as f64 / self.state.schedule.steps_per_epoch.max(1) as f64
    }

    fn counter(&self, name: &str) -> u64 {
        self.state.counters.get(name).copied().unwrap_or(0)
    }

    fn add(&mut self, name: &str, count: u64) {
        *self.state.counters.entry(name.to_owned()).or_insert(0) += count;
    }
}

/// What another program must know to use the weights, in the recipe's own words.
fn model_metadata(model: &ModelConfig) -> BTreeMap<String, String> {
    fn word(value: impl serde::Serialize) -> String {
        serde_json::to_value(value).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
    }
    BTreeMap::from([
        ("activation".to_owned(), word(model.activation)),
        ("size".to_owned(), word(model.size)),
        ("vision_norm_eps".to_owned(), model.vision_norm_eps.to_string()),
        ("text_norm_eps".to_owned(), model.text_norm_eps.to_string()),
    ])
}

fn by_name<R: CubeRuntime>(params: &ParamStore<R>, prefix: &str, values: Vec<Vec<f32>>) -> Result<Tensors, TrainError> {
    let named = params.specs().iter().zip(values).map(|(spec, value)| {
        let tensor = HostTensor::from_f32(&spec.shape, &value).map_err(|detail| DeviceError::Failed { detail })?;
        Ok((format!("{prefix}{}", spec.name), tensor))
    });
    named.collect()
}

/// Bytes the runtime has reserved on the device for this thread's work.
fn memory_in_use<R: CubeRuntime>(params: &ParamStore<R>) -> Option<u64> {
    params.client.memory_usage().ok().map(|usage| usage.bytes_reserved)
}

/// Rates since the last record, pauses for evaluation and saving left out.
struct Meter {
    since: Instant,
    waited_before: Duration,
    waited: Duration,
    clips: usize,
    steps: u32,
    busy: Duration,
}

struct Rates {
    step_ms: f64,
    clips_per_s: f64,
    data_wait: f64,
}

impl Meter {
    fn start() -> Self {
        Meter {
            since: Instant::now(),
            waited_before: Duration::ZERO,
            waited: Duration::ZERO,
            clips: 0,
            steps: 0,
            busy: Duration::ZERO,
        }
    }

    /// Notes a step; `waited` is the loader's total.
    fn add(&mut self, clips: usize, waited: Duration) {
        self.busy += self.since.elapsed();
        self.since = Instant::now();
        self.waited += waited.saturating_sub(self.waited_before);
        self.waited_before = waited;
        self.clips += clips;
        self.steps += 1;
    }

    /// Whatever happened since the last step was no training.
    fn pause_ended(&mut self, waited: Duration) {
        self.since = Instant::now();
        self.waited_before = waited;
    }

    fn take(&mut self) -> Rates {
        let seconds = self.busy.as_secs_f64().max(1e-9);
        let rates = Rates {
            step_ms: 1e3 * seconds / self.steps.max(1) as f64,
            clips_per_s: self.clips as f64 / seconds,
            data_wait: (self.waited.as_secs_f64() / seconds).min(1.0),
        };
        (self.clips, self.steps, self.busy, self.waited) = (0, 0, Duration::ZERO, Duration::ZERO);
        rates
    }
}
