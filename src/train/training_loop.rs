//! The loop: batch, gradients, update, record, evaluate, save.

use super::records::Records;
use super::setup::loader_config;
use super::{StopSignal, TrainError};
use crate::checkpoint::{BestMetric, CheckpointStore, HostTensor, ScheduleState, Snapshot, Tensors, TrainState};
use crate::config::memory_estimate;
use crate::config::recipe::{ModelConfig, Recipe};
use crate::data::Source;
use crate::data::loader::{ClipBatch, Loader};
use crate::data::sampler::Position;
use crate::device::{DeviceError, DeviceInfo};
use crate::eval::Evaluation;
use crate::model::params::ParamStore;
use crate::ops::tensor::T;
use crate::optim::{LrSchedule, Optimizer, UpdateStats};
use crate::report::{BadSamples, Fact, StepRecord};
use crate::task::Task;
use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Counters kept in the checkpoint.
const UPDATES: &str = "updates";
const SKIPPED_STEPS: &str = "skipped_steps";
const BAD_IN_A_ROW: &str = "bad_steps_in_a_row";
const CLIPS: &str = "clips";
const BAD_SAMPLES: &str = "bad_samples";

pub(super) struct Trainer<'a, R: CubeRuntime, K: Task<R>> {
    task: &'a K,
    optimizer: Optimizer,
    recipe: &'a Recipe,
    recipe_toml: &'a str,
    loader: Loader,
    schedule: LrSchedule,
    state: TrainState,
    /// Steps after which training ends.
    last_step: u64,
    meter: Meter,
    /// Bad samples counted before the last restart.
    bad_before: u64,
    since_save: Instant,
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
    update: UpdateStats,
    lr: f64,
}

impl<'a, R: CubeRuntime, K: Task<R>> Trainer<'a, R, K> {
    pub fn new(
        task: &'a K,
        optimizer: Optimizer,
        recipe: &'a Recipe,
        recipe_toml: &'a str,
        sources: Arc<[Source]>,
        state: Option<TrainState>,
    ) -> Result<Self, TrainError> {
        let state = state.unwrap_or_else(|| TrainState { seed: recipe.seed, ..TrainState::default() });
        let start = Position { epoch: state.epoch, batch: state.batch };
        let loader = Loader::train(sources, loader_config(recipe), start)?;
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
            optimizer,
            recipe,
            recipe_toml,
            loader,
            schedule,
            state,
            last_step,
            meter: Meter::start(),
            bad_before,
            since_save: Instant::now(),
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
            memory_estimate(recipe),
        )
    }

    /// Seconds the run has taken over all restarts.
    pub fn running_s(&self) -> f64 {
        self.state.trained_s + self.since_save.elapsed().as_secs_f64()
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
        while self.state.step < self.last_step {
            let Some(batch) = self.loader.next() else {
                return Err(TrainError::EndedEarly { step: self.state.step, last_step: self.last_step });
            };
            let batch = batch?;
            let step = self.step(&batch)?;
            self.account(&batch, &step, store)?;
            self.record(&batch, &step, records)?;

            let epoch_ended = batch.next.epoch > batch.position.epoch;
            let finished = self.state.step == self.last_step;
            drop(batch);
            let due = self.evaluation_due(epoch_ended, finished);
            if epoch_ended || finished || self.checkpoint_due() || stop.raised() {
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

    /// One optimizer step.
    fn step(&mut self, batch: &ClipBatch) -> Result<Step, TrainError> {
        let params = self.task.params();
        let lr = self.schedule.lr(self.state.step);
        let update = self.counter(UPDATES) as u32 + 1;
        params.clear_gradients();
        let scalars = self.task.gradients(batch, self.state.step);
        self.optimizer.step(params, lr, update)?;
        self.task.constrain();
        let [loss, accuracy] = read_pair::<R>(scalars)?;
        let update = self.optimizer.stats(params)?;
        Ok(Step { loss, accuracy, update, lr })
    }

    /// Counts the step, and stops the run after too many that were not finite.
    fn account(&mut self, batch: &ClipBatch, step: &Step, store: &mut CheckpointStore) -> Result<(), TrainError> {
        self.state.step += 1;
        self.state.epoch = batch.next.epoch;
        self.state.batch = batch.next.batch;
        if step.update.applied {
            self.add(UPDATES, 1);
        }
        if step.update.applied && step.loss.is_finite() {
            self.state.counters.insert(BAD_IN_A_ROW.into(), 0);
            return Ok(());
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
        if in_a_row < self.recipe.train.max_bad_steps.max(1) as u64 {
            return Ok(());
        }
        let last_good = self.state.step - in_a_row;
        // Whoever resumes, with other settings, gets as many tries again.
        self.state.counters.insert(BAD_IN_A_ROW.into(), 0);
        let checkpoint = self.save(store, false)?;
        let (loss, grad_norm) = (step.loss, step.update.grad_norm);
        Err(TrainError::NotFinite { steps: in_a_row, step: self.state.step, last_good, loss, grad_norm, checkpoint })
    }

    fn record(&mut self, batch: &ClipBatch, step: &Step, records: &mut Records) -> Result<(), TrainError> {
        self.meter.add(batch.samples.len(), self.loader.waited());
        let last = self.state.step == self.last_step;
        if !last && !self.state.step.is_multiple_of(self.recipe.train.log_every.max(1) as u64) {
            return Ok(());
        }
        let rates = self.meter.take();
        let logit_scale = self.task.logit_scale()?.map_or(f64::NAN, f64::from);
        records.step(StepRecord {
            step: self.state.step,
            epoch: self.epochs_done(),
            loss: step.loss.into(),
            accuracy: step.accuracy.into(),
            grad_norm: step.update.grad_norm.into(),
            lr: step.lr,
            logit_scale,
            step_ms: rates.step_ms,
            clips_per_s: rates.clips_per_s,
            data_wait: rates.data_wait,
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
        let Some((first, value)) = evaluations.first().and_then(|e| Some((e, *e.scores.get("map_avg")?))) else {
            return false;
        };
        let name = format!("{}/map_avg", first.set);
        let better = self.state.best.as_ref().is_none_or(|best| best.name != name || value > best.value);
        if better {
            self.state.best = Some(BestMetric { name, value, step: self.state.step });
        }
        better
    }

    fn evaluation_due(&self, epoch_ended: bool, finished: bool) -> bool {
        let every = self.recipe.eval.every_epochs as u64;
        let due = epoch_ended && every > 0 && self.state.epoch.is_multiple_of(every);
        !self.recipe.data.eval.is_empty() && (finished || due)
    }

    fn checkpoint_due(&self) -> bool {
        let every = self.recipe.train.checkpoint_every as u64;
        every > 0 && self.state.step.is_multiple_of(every)
    }

    /// Writes a checkpoint of everything the rest of the run depends on.
    fn save(&mut self, store: &mut CheckpointStore, best: bool) -> Result<PathBuf, TrainError> {
        let params = self.task.params();
        let weights = by_name(params, "", params.read(params.values())?)?;
        let [first, second] = self.optimizer.moments(params)?;
        let mut optimizer = by_name(params, "moment1.", first)?;
        optimizer.extend(by_name(params, "moment2.", second)?);
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

fn read_pair<R: CubeRuntime>(scalars: T<R, 1>) -> Result<[f32; 2], DeviceError> {
    let data = scalars.try_into_data().map_err(|e| DeviceError::from_server(format!("{e:?}")))?;
    let values: Vec<f32> = data.to_vec().map_err(|e| DeviceError::Failed { detail: format!("{e:?}") })?;
    values.try_into().map_err(|_| DeviceError::Failed { detail: "loss and accuracy were not two numbers".into() })
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
