//! The loader's work on any folder of videos: open, pick frames of a random one-second window, decode, crop, scale.

use super::{Report, Row};
use crate::data::loader::{DecodeError, Decoder};
use crate::video::random_resized_crop;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// What to measure.
#[derive(Clone, Debug)]
pub struct DecodeOptions {
    /// Folder with videos, searched to any depth.
    pub data: PathBuf,
    /// Frames a clip.
    pub frames: usize,
    /// Decoding threads.
    pub workers: usize,
    /// Clips in all.
    pub clips: usize,
    /// Height and width of the frames, pixels.
    pub size_px: u32,
}

/// Endings of files taken for videos.
const VIDEOS: [&str; 6] = ["mp4", "mkv", "avi", "webm", "mov", "m4v"];

/// # Errors
/// No video in the folder, or none that can be read.
pub fn run(options: &DecodeOptions, decoder: &dyn Decoder) -> Result<Report, String> {
    let mut videos = Vec::new();
    find(&options.data, &mut videos).map_err(|e| format!("{}: {e}", options.data.display()))?;
    videos.sort();
    if videos.is_empty() {
        return Err(format!("no video ({}) under {}", VIDEOS.join(", "), options.data.display()));
    }
    let next = AtomicUsize::new(0);
    let (times, failures) = (Mutex::new(Vec::new()), Mutex::new(Vec::<String>::new()));
    let work = || {
        let mut frames = vec![0; options.frames * (options.size_px * options.size_px * 3) as usize];
        loop {
            let clip = next.fetch_add(1, Ordering::Relaxed);
            if clip >= options.clips {
                return;
            }
            let start = Instant::now();
            match sample(decoder, &videos[clip % videos.len()], clip as u64, options, &mut frames) {
                Ok(()) => locked(&times).push(start.elapsed().as_secs_f64()),
                Err(error) => locked(&failures).push(error.reason),
            }
        }
    };
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..options.workers.max(1) {
            scope.spawn(work);
        }
    });
    let seconds = start.elapsed().as_secs_f64();
    let times = times.into_inner().unwrap_or_default();
    let failures = failures.into_inner().unwrap_or_default();
    if times.is_empty() {
        return Err(format!("none of {} videos could be read; the first: {}", videos.len(), failures[0]));
    }
    let clips = times.len() as f64;
    let row = Row::new(format!("a clip of {} frames, one worker", options.frames), times)
        .with("clips_per_s", clips / seconds)
        .with("clips_per_s_per_worker", clips / seconds / options.workers.max(1) as f64)
        .with("frames_per_s", clips * options.frames as f64 / seconds);
    let mut notes = vec![format!("{} videos, {} workers", videos.len(), options.workers)];
    if let Some(first) = failures.first() {
        notes.push(format!("{} clips could not be read; the first: {first}", failures.len()));
    }
    Ok(Report { title: "decode".into(), rows: vec![row], notes, ..Report::default() })
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn sample(
    decoder: &dyn Decoder,
    path: &Path,
    seed: u64,
    options: &DecodeOptions,
    out: &mut [u8],
) -> Result<(), DecodeError> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut video = decoder.open(path)?;
    let info = video.info();
    let last = info.frames.saturating_sub(1);
    let span = (info.fps.round() as u64).max(options.frames as u64).min(last);
    let start = rng.random_range(0..(info.frames.saturating_sub(span)).max(1));
    let picks: Vec<u64> = (0..options.frames)
        .map(|i| {
            let place = (i as f64 + rng.random::<f64>()) * span as f64 / options.frames as f64;
            (start + place as u64).min(last)
        })
        .collect();
    let [width, height] = video.size_px();
    let crop = random_resized_crop(width, height, [0.5, 1.0], [3.0 / 4.0, 4.0 / 3.0], &mut rng);
    video.read(&picks, crop, options.size_px, false, out)
}

fn find(folder: &Path, videos: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, videos)?;
        } else if path.extension().and_then(|e| e.to_str()).is_some_and(|e| VIDEOS.contains(&e.to_lowercase().as_str()))
        {
            videos.push(path);
        }
    }
    Ok(())
}
