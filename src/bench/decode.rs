//! The loader's work on any folder of videos: open, pick frames, decode, crop, scale.

use super::{Report, Row};
use crate::config::recipe::VideoDecoder;
use crate::video::{ReadOptions, Stages, VideoError, VideoReader, random_resized_crop};
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
    /// From one frame to the next; `None`: the frames are spread over a random second.
    pub stride: Option<u64>,
    /// Decoding threads.
    pub workers: usize,
    /// Clips in all, the videos in turn.
    pub clips: usize,
    /// Height and width of the frames, pixels.
    pub size_px: u32,
    pub read: ReadOptions,
}

/// Endings of files taken for videos.
const VIDEOS: [&str; 6] = ["mp4", "mkv", "avi", "webm", "mov", "m4v"];

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
/// No video in the folder, or none that can be read.
pub fn run(options: &DecodeOptions) -> Result<Report, String> {
    let mut videos = Vec::new();
    find(&options.data, &mut videos).map_err(|e| format!("{}: {e}", options.data.display()))?;
    videos.sort();
    if videos.is_empty() {
        return Err(format!("no video ({}) under {}", VIDEOS.join(", "), options.data.display()));
    }
    let workers = options.workers.max(1);
    let next = AtomicUsize::new(0);
    let seen = Mutex::new(Seen { cpu_s: Some(0.0), ..Seen::default() });
    let start_line = std::sync::Barrier::new(workers + 1);
    let work = || {
        let mut frames = vec![0; options.frames * (options.size_px * options.size_px * 3) as usize];
        let mut clip = |number: usize| clip(&videos[number % videos.len()], number as u64, options, &mut frames);
        for number in 0..WARM_UP {
            let _ = clip(number);
        }
        start_line.wait();
        let mut own = Seen::default();
        let cpu_at_start = thread_cpu_s();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= options.clips {
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
    report(options, videos.len(), workers, seconds, seen)
}

fn report(options: &DecodeOptions, videos: usize, workers: usize, seconds: f64, seen: Seen) -> Result<Report, String> {
    let first = seen.failures.first().map(ToString::to_string);
    if seen.times.is_empty() {
        let first = first.unwrap_or_else(|| "no clip was asked for".into());
        return Err(format!("none of {} clips could be read; the first: {first}", options.clips));
    }
    let clips = seen.times.len() as f64;
    let total_s: f64 = seen.times.iter().sum();
    let mut row = Row::new(format!("a clip of {} frames, one worker", options.frames), seen.times)
        .with("clips_per_s", clips / seconds)
        .with("clips_per_s_per_worker", clips / seconds / workers as f64)
        .with("frames_per_s", clips * options.frames as f64 / seconds);
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
    let mut notes =
        vec![format!("{videos} videos, {workers} workers"), format!("time by stage: {}", shares.join(", "))];
    if options.read.decoder == VideoDecoder::Nvdec {
        notes.push(format!("NVDEC decoded {} of {clips} clips", seen.on_device));
    }
    if let Some(first) = first {
        notes.push(format!("{} clips could not be read; the first: {first}", seen.failures.len()));
    }
    Ok(Report { title: "decode".into(), rows: vec![row], notes, ..Report::default() })
}

/// Reads one clip; where its time went, and whether NVDEC decoded it.
fn clip(path: &Path, seed: u64, options: &DecodeOptions, out: &mut [u8]) -> Result<(Stages, bool), VideoError> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut video = VideoReader::open_with(path, options.read)?;
    let picks = pick(video.num_frames(), video.fps(), options, &mut rng);
    let crop = random_resized_crop(video.width(), video.height(), [0.5, 1.0], [3.0 / 4.0, 4.0 / 3.0], &mut rng);
    video.read(&picks, crop, options.size_px, false, out)?;
    Ok((video.stages(), video.is_on_device()))
}

/// The frames of one clip, as `benches/decode_peers.py` picks them.
fn pick(num_frames: u64, fps: f64, options: &DecodeOptions, rng: &mut impl Rng) -> Vec<u64> {
    let last = num_frames.saturating_sub(1);
    let count = options.frames as u64;
    if let Some(stride) = options.stride {
        let span = count.saturating_sub(1).saturating_mul(stride).saturating_add(1);
        let start = rng.random_range(0..(num_frames.saturating_sub(span) + 1).max(1));
        return (0..count).map(|i| start.saturating_add(i.saturating_mul(stride)).min(last)).collect();
    }
    let span = (fps.round() as u64).max(count).min(last);
    let start = rng.random_range(0..(num_frames.saturating_sub(span)).max(1));
    let place = |i: usize, part: f64| (i as f64 + part) * span as f64 / options.frames as f64;
    (0..options.frames).map(|i| (start + place(i, rng.random()) as u64).min(last)).collect()
}

/// Time that the calling thread has spent on a processor (Linux).
fn thread_cpu_s() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanoseconds: f64 = text.split_whitespace().next()?.parse().ok()?;
    Some(nanoseconds / 1e9)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn options(frames: usize, stride: Option<u64>) -> DecodeOptions {
        let read = ReadOptions::default();
        DecodeOptions { data: PathBuf::new(), frames, stride, workers: 1, clips: 1, size_px: 224, read }
    }

    #[test]
    fn picks_lie_in_their_window() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut starts = std::collections::BTreeSet::new();
        for _ in 0..2000 {
            let second = pick(450, 30.0, &options(4, None), &mut rng);
            assert!(second.is_sorted() && second.len() == 4 && second[3] < 450, "{second:?}");
            assert!(second[3] - second[0] < 30, "{second:?}");
            let strided = pick(300, 30.0, &options(16, Some(4)), &mut rng);
            assert!(strided.windows(2).all(|w| w[1] - w[0] == 4) && strided[15] < 300, "{strided:?}");
            starts.insert(strided[0]);
        }
        assert_eq!((starts.first(), starts.last()), (Some(&0), Some(&239)));
        // Shorter than the window: the last frame repeats.
        assert_eq!(pick(5, 30.0, &options(4, Some(2)), &mut rng), [0, 2, 4, 4]);
        assert!(pick(1, 0.0, &options(4, None), &mut rng).iter().all(|k| *k == 0));
    }
}
