//! Clips a second that this machine decodes, beside those that a recipe's steps take.

use super::StatsError;
use crate::config::recipe::Recipe;
use crate::data::Source;
use crate::data::loader::{Decoder, Loader, LoaderConfig, LoaderError, WorkerTimes, default_workers};
use crate::data::sampler::Position;
use crate::report::{Record, StepRecord, read_metrics};
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Records of a run that are looked at, the last ones.
const RECENT: usize = 100;

/// How long a step takes while it does not wait for data.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepTime {
    pub ms: f64,
    /// Where it is known from.
    pub from: String,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Feed {
    /// One thread alone.
    pub one_thread: Rate,
    /// As many as training would use.
    pub all_threads: Rate,
    /// What the recipe needs; `None` when the time of a step is not known.
    pub need: Option<Need>,
}

/// Clips a second of a number of threads.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rate {
    pub threads: usize,
    pub seconds: f64,
    pub clips: u64,
    pub clips_per_s: f64,
    /// Of one thread, its waiting left out.
    pub clips_per_s_per_thread: f64,
    /// Shares of the reading: finding and opening files, decoding and scaling, augmenting.
    pub opening: f64,
    pub decoding: f64,
    pub changing: f64,
    /// Clips that could not be read and were replaced.
    pub bad: u64,
}

/// What a recipe's steps take.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Need {
    pub step: StepTime,
    /// Clips of a step.
    pub clips: u64,
    pub clips_per_s: f64,
    /// Decode threads that give as many, at the rate of one of `all_threads`.
    pub threads: f64,
    /// Whether `all_threads` give as many.
    pub enough: bool,
}

/// The middle step time of a run's last records, waiting for data left out; `None` without a run.
pub fn recorded_step_time(metrics: &Path) -> Option<StepTime> {
    let records = read_metrics(metrics).ok()?;
    let steps = records.iter().rev().filter_map(|record| match record {
        Record::Step(StepRecord { step_ms, data_wait, .. }) => Some(step_ms * (1.0 - data_wait)),
        Record::Eval(_) => None,
    });
    let mut times: Vec<f64> = steps.take(RECENT).filter(|ms| ms.is_finite() && *ms > 0.0).collect();
    times.sort_unstable_by(f64::total_cmp);
    let ms = *times.get(times.len() / 2)?;
    let from = format!("{} steps recorded in {}, waiting left out", times.len(), metrics.display());
    Some(StepTime { ms, from })
}

/// Loads training batches with one thread, then with all; `None` when no clip can be read.
pub(super) fn measure(
    recipe: &Recipe,
    sources: Arc<[Source]>,
    loader: &LoaderConfig,
    options: &super::StatsOptions,
    decoder: &Arc<dyn Decoder>,
    progress: &(dyn Fn(&str, f64) + Sync),
) -> Result<Option<Feed>, StatsError> {
    let clips: usize = sources.iter().map(|source| source.clips.len()).sum();
    if clips == 0 {
        return Ok(None);
    }
    let threads = match loader.workers {
        0 => default_workers(),
        threads => threads,
    };
    let rate = |threads: usize| {
        // Small batches, enough of them ahead that no thread waits.
        let groups = (8usize).div_ceil(loader.group).max(1);
        let distinct = (groups * loader.group).min(clips);
        let prefetch = (4 * threads).div_ceil(groups).max(2);
        let config = LoaderConfig {
            batch_size: distinct * loader.repeats,
            workers: threads,
            prefetch,
            epochs: u64::MAX,
            max_bad_share: 1.0,
            ..loader.clone()
        };
        let what = format!("decoding with {threads} {}", if threads == 1 { "thread" } else { "threads" });
        run(Arc::clone(&sources), config, options.measure, decoder, &|share| progress(&what, share))
    };
    let measured = rate(1).and_then(|one| Ok((one, rate(threads)?)));
    let (one_thread, all_threads) = match measured {
        Ok(rates) => rates,
        Err(error @ LoaderError::Exhausted { .. }) => {
            tracing::warn!("the decoding rate cannot be measured: {error}");
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    let need = options.step.clone().map(|step| {
        let clips = recipe.train.batch_size as u64;
        let clips_per_s = clips as f64 / (step.ms / 1e3);
        let each = all_threads.clips_per_s / all_threads.threads as f64;
        let enough = all_threads.clips_per_s >= clips_per_s;
        Need { step, clips, clips_per_s, threads: clips_per_s / each, enough }
    });
    Ok(Some(Feed { one_thread, all_threads, need }))
}

fn run(
    sources: Arc<[Source]>,
    config: LoaderConfig,
    time: Duration,
    decoder: &Arc<dyn Decoder>,
    progress: &dyn Fn(f64),
) -> Result<Rate, LoaderError> {
    let threads = config.workers;
    let begin = Instant::now();
    let mut loader = Loader::train_with(sources, config, Position::default(), Arc::clone(decoder))?;
    while begin.elapsed() < time
        && let Some(batch) = loader.next()
    {
        batch?;
        progress(begin.elapsed().as_secs_f64() / time.as_secs_f64());
    }
    let seconds = begin.elapsed().as_secs_f64();
    let times = WorkerTimes::total(loader.times());
    let share = |part: Duration| part.as_secs_f64() / times.busy.as_secs_f64().max(1e-9);
    Ok(Rate {
        threads,
        seconds,
        clips: times.clips,
        clips_per_s: times.clips as f64 / seconds,
        clips_per_s_per_thread: times.clips_per_busy_s().unwrap_or(0.0),
        opening: share(times.opening),
        decoding: share(times.decoding),
        changing: share(times.changing),
        bad: loader.failures().bad(),
    })
}
