//! The loader's work on any folder of videos: open, pick frames, decode, crop, scale.

use super::clips::{Sample, Work};
use super::{Report, Row};
use crate::config::recipe::VideoDecoder;
use crate::video::{ReadOptions, Stages, VideoError, VideoReader};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// What to measure.
#[derive(Clone, Debug)]
pub struct DecodeOptions {
    pub work: Work,
    /// Decoding threads.
    pub workers: usize,
    /// Height and width of the frames, pixels.
    pub size_px: u32,
    pub read: ReadOptions,
}

/// Clips that a worker reads before the clock starts.
const WARM_UP: usize = 2;

/// What the workers have seen.
#[derive(Default)]
struct Seen {
    /// Seconds of each clip.
    times: Vec<f64>,
    stages: Stages,
    /// On a processor, of all workers; `None` where the system does not tell.
    cpu_s: Option<f64>,
    /// Clips that NVDEC decoded.
    on_device: usize,
    failures: Vec<VideoError>,
}

/// # Errors
/// None of the clips can be read.
pub fn run(options: &DecodeOptions) -> Result<Report, String> {
    let workers = options.workers.max(1);
    let next = AtomicUsize::new(0);
    let seen = Mutex::new(Seen { cpu_s: Some(0.0), ..Seen::default() });
    let start_line = std::sync::Barrier::new(workers + 1);
    let work = || {
        let mut frames = vec![0; options.work.frames() * options.read.frame_bytes(options.size_px as usize)];
        let mut clip = |number: usize| clip(number, options, &mut frames);
        for number in 0..WARM_UP {
            let _ = clip(number);
        }
        start_line.wait();
        let mut own = Seen::default();
        let cpu_at_start = thread_cpu_s();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= options.work.clips() {
                break;
            }
            let start = Instant::now();
            match clip(number) {
                Ok((stages, on_device)) => {
                    own.times.push(start.elapsed().as_secs_f64());
                    own.stages += stages;
                    own.on_device += usize::from(on_device);
                }
                Err(error) => own.failures.push(error),
            }
        }
        let cpu = thread_cpu_s().zip(cpu_at_start).map(|(end, start)| end - start);
        let mut all = seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        all.times.extend(own.times);
        all.stages += own.stages;
        all.on_device += own.on_device;
        all.failures.extend(own.failures);
        all.cpu_s = all.cpu_s.zip(cpu).map(|(all, own)| all + own);
    };
    let start = std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(work);
        }
        start_line.wait();
        Instant::now()
    });
    let seconds = start.elapsed().as_secs_f64();
    let seen = seen.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    report(options, workers, seconds, seen)
}

fn report(options: &DecodeOptions, workers: usize, seconds: f64, seen: Seen) -> Result<Report, String> {
    let first = seen.failures.first().map(ToString::to_string);
    if seen.times.is_empty() {
        let first = first.unwrap_or_else(|| "no clip was asked for".into());
        return Err(format!("none of {} clips could be read; the first: {first}", options.work.clips()));
    }
    let clips = seen.times.len() as f64;
    let total_s: f64 = seen.times.iter().sum();
    let mut row = Row::new(format!("a clip of {} frames, one worker", options.work.frames()), seen.times)
        .with("clips_per_s", clips / seconds)
        .with("clips_per_s_per_worker", clips / seconds / workers as f64)
        .with("frames_per_s", clips * options.work.frames() as f64 / seconds);
    if let Some(cpu_s) = seen.cpu_s {
        row = row.with("cpu_ms_per_clip", 1e3 * cpu_s / clips);
    }
    let shares = seen.stages.named().map(|(name, time)| (name, time.as_secs_f64() / total_s));
    for (name, share) in [
        ("share_open", shares[0].1),
        ("share_index", shares[1].1),
        ("share_seek", shares[2].1),
        ("share_demux", shares[3].1),
        ("share_decode", shares[4].1),
        ("share_convert", shares[5].1),
    ] {
        row = row.with(name, share);
    }
    let shares: Vec<String> = shares.iter().map(|(name, share)| format!("{name} {:.1}%", 100.0 * share)).collect();
    let mut notes = vec![
        format!("{} videos, {workers} workers", options.work.videos()),
        format!("time by stage: {}", shares.join(", ")),
    ];
    if options.read.decoder == VideoDecoder::Nvdec {
        notes.push(format!("NVDEC decoded {} of {clips} clips", seen.on_device));
    }
    if let Some(first) = first {
        notes.push(format!("{} clips could not be read; the first: {first}", seen.failures.len()));
    }
    Ok(Report { title: "decode".into(), rows: vec![row], notes, ..Report::default() })
}

/// Reads one clip; where its time went, and whether NVDEC decoded it.
fn clip(number: usize, options: &DecodeOptions, out: &mut [u8]) -> Result<(Stages, bool), VideoError> {
    let mut video = VideoReader::open_with(options.work.video(number), options.read)?;
    let Sample { frames, crop } = options.work.sample(number, &video);
    video.read(&frames, crop, options.size_px, false, out)?;
    Ok((video.stages(), video.by_nvdec()))
}

/// Time that the calling thread has spent on a processor (Linux).
fn thread_cpu_s() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanoseconds: f64 = text.split_whitespace().next()?.parse().ok()?;
    Some(nanoseconds / 1e9)
}
