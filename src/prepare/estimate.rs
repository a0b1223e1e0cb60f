//! What a preparation would take: a few seconds of a few videos, encoded and thrown away.

use super::encode::Encoder;
use super::error::{PrepareError, VideoFailure};
use super::input::Input;
use super::look::{Looked, look_at_all};
use super::picture::Converter;
use super::plan::Plan;
use super::state::Found;
use super::work::Work;
use super::{Options, free_bytes, size};
use crate::data::manifest::Settings;
use crate::report::format_duration;
use ffmpeg_next::frame::Video as Frame;
use std::time::{Duration, Instant};

/// Videos that are sampled, seconds of each, and where: past what often is a title.
const SAMPLED_VIDEOS: usize = 6;
const SAMPLE_S: f64 = 4.0;
const SAMPLE_AT: f64 = 0.4;

/// What is to be expected.
#[derive(Debug)]
pub struct Estimate {
    pub settings: Settings,
    pub videos: usize,
    /// There already.
    pub found: usize,
    /// Cannot even be opened, with the first reason.
    pub failed: usize,
    pub first_failure: Option<String>,
    /// Of the videos to be made.
    pub seconds: f64,
    /// Videos of the sample, and what it showed; `None` when nothing could be sampled.
    pub sampled: usize,
    pub time: Option<Duration>,
    pub bytes: Option<u64>,
    pub free: Option<u64>,
    pub workers: usize,
}

/// Looks at all videos, and encodes samples of some. Writes nothing.
///
/// # Errors
/// As [`super::run`] before it begins.
pub fn estimate(options: &Options, stop: &(dyn Fn() -> bool + Sync)) -> Result<Estimate, PrepareError> {
    let plan = Plan::of(options)?;
    let known = Found::read(&options.output)?.with(&options.output, &plan.settings)?.videos;
    let known = |video: &str| known.get(video).cloned();
    let (mut found, mut failures, mut works) = (0, Vec::new(), Vec::new());
    for looked in look_at_all(&plan, options, &known, stop) {
        match looked {
            Looked::Finished => found += 1,
            Looked::Work(work) => works.push(work),
            Looked::Bad(work, failed) | Looked::Away(work, failed) => {
                failures.push(format!("{}: {}", work.path.display(), failed.reason))
            }
        }
    }
    failures.sort();
    works.sort_by(|a, b| b.duration_s.total_cmp(&a.duration_s));
    let seconds = works.iter().map(|work| work.duration_s).sum::<f64>();
    let step = works.len().div_ceil(SAMPLED_VIDEOS).max(1);
    let samples: Vec<Sample> =
        works.iter().step_by(step).filter_map(|work| sample(work, &plan.settings).ok()).collect();
    let of_samples = |value: fn(&Sample) -> f64| {
        let sampled_s: f64 = samples.iter().map(|sample| sample.seconds).sum();
        (sampled_s > 0.0).then(|| samples.iter().map(value).sum::<f64>() / sampled_s)
    };
    let workers = options.workers.min(works.len()).max(1);
    let longest_s = works.first().map_or(0.0, |work| work.duration_s);
    let time = of_samples(|sample| sample.took_s).map(|per_s| per_s * (seconds / workers as f64).max(longest_s));
    Ok(Estimate {
        settings: plan.settings,
        videos: plan.videos.len(),
        found,
        failed: failures.len(),
        first_failure: failures.into_iter().next(),
        seconds,
        sampled: samples.len(),
        time: time.and_then(|time_s| Duration::try_from_secs_f64(time_s).ok()),
        bytes: of_samples(|sample| sample.bytes as f64).map(|per_s| (per_s * seconds) as u64),
        free: free_bytes(&options.output),
        workers,
    })
}

struct Sample {
    seconds: f64,
    took_s: f64,
    bytes: u64,
}

fn sample(work: &Work, settings: &Settings) -> Result<Sample, VideoFailure> {
    let mut input = Input::open(&work.path)?;
    if work.duration_s > 2.0 * SAMPLE_S {
        input.skip_to(work.duration_s * SAMPLE_AT);
    }
    let (mut frame, fps) = (Frame::empty(), input.facts.fps);
    let rate = f64::from(fps[0]) / f64::from(fps[1]);
    let start = Instant::now();
    let mut making: Option<(Converter, Encoder)> = None;
    while let Some(number) = input.next(&mut frame)? {
        if number as f64 >= SAMPLE_S * rate {
            break;
        }
        let (converter, encoder) = match &mut making {
            Some(making) => making,
            None => {
                let converter = Converter::new(input.facts.shape, settings, fps, &frame);
                let encoder = Encoder::new(settings, &converter.format)?;
                making.insert((converter, encoder))
            }
        };
        encoder.push(&mut converter.convert(&mut frame)?)?;
    }
    let Some((_, encoder)) = making else {
        return Err(VideoFailure::bad("no-frames", "no picture can be decoded"));
    };
    let seconds = f64::from(encoder.frames()) / rate;
    let bytes = encoder.finish()?.chunk.bytes;
    Ok(Sample { seconds, took_s: start.elapsed().as_secs_f64(), bytes })
}

impl std::fmt::Display for Estimate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Settings { layout, chunk_s, short_side, gop, codec, quality, preset } = &self.settings;
        let chunks = if *chunk_s == 0 { "whole files".to_owned() } else { format!("chunks of {chunk_s} s") };
        writeln!(f, "layout {layout}, {chunks}, short side {short_side} px, a key frame every {gop}")?;
        writeln!(f, "{codec} {preset} at quality {quality}")?;
        let to_make = self.videos - self.found - self.failed;
        writeln!(f, "{to_make} videos to make, {:.2} h; {} are there", self.seconds / 3600.0, self.found)?;
        if let Some(first) = &self.first_failure {
            writeln!(f, "{} cannot be opened; the first: {first}", self.failed)?;
        }
        if let (Some(time), Some(bytes)) = (self.time, self.bytes) {
            let time = format_duration(time);
            writeln!(f, "about {time} with {} workers, from samples of {} videos", self.workers, self.sampled)?;
            write!(f, "about {}", size(bytes as f64))?;
            match self.free {
                Some(free) if free < bytes => writeln!(f, "; only {} are free", size(free as f64))?,
                Some(free) => writeln!(f, ", {} are free", size(free as f64))?,
                None => writeln!(f)?,
            }
        }
        Ok(())
    }
}
