//! The loader on files as they come: damaged, missing, of another rate. All are made here.
#![cfg(feature = "video")]

mod common;

use avion::data::loader::{Loader, LoaderConfig, WorkerTimes};
use avion::data::sampler::Position;
use avion::data::sampling::FrameRule;
use avion::data::synthetic::{SyntheticConfig, generate, write_video};
use avion::data::{Captions, Clip, Layout, Source, annotations};
use avion::video::{CropBox, Read, VideoReader};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn video(path: &Path, frames: usize, fps: f64) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let pictures = (0..frames).map(|i| vec![(i * 5) as u8; 64 * 48 * 3]);
    write_video(path, 64, 48, fps, pictures).unwrap();
}

/// A second of silence: a WAV file, whatever its name says.
fn audio_only(path: &Path) {
    let mut wav =
        b"RIFF\x64\x1f\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x40\x1f\0\0\x01\0\x08\0data\x40\x1f\0\0".to_vec();
    wav.resize(wav.len() + 8000, 128);
    std::fs::write(path, wav).unwrap();
}

/// Keeps what stands before the table of contents, at the end of the file.
fn cut_short(path: &Path) {
    let bytes = std::fs::read(path).unwrap();
    std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

fn clip(video: &str, start_s: f64, end_s: f64) -> Clip {
    Clip::narrated(video.into(), start_s, end_s, Captions::One(format!("{video} {start_s}").into()))
}

fn config() -> LoaderConfig {
    LoaderConfig { epochs: 1, frames: 2, size_px: 16, max_bad_share: 1.0, workers: 2, ..LoaderConfig::default() }
}

#[test]
fn each_kind_of_bad_file_is_counted_and_replaced() {
    let root = tempfile::tempdir().unwrap();
    let chunk = |video: &str, start: usize| root.path().join(format!("{video}/{start}.mp4"));
    for name in ["good", "short", "gap", "silent", "empty", "fast", "garbage"] {
        for start in [0, 5, 10] {
            video(&chunk(name, start), 50, 10.0);
        }
    }
    cut_short(&chunk("short", 5));
    std::fs::remove_file(chunk("gap", 5)).unwrap();
    audio_only(&chunk("silent", 5));
    std::fs::write(chunk("empty", 5), "").unwrap();
    video(&chunk("fast", 5), 50, 25.0);
    std::fs::write(chunk("garbage", 5), [0x47; 30_000]).unwrap();
    // In the first chunk, in the damaged one, across all three.
    let times = [(1.0, 3.0), (6.0, 8.0), (4.0, 11.0)];
    let names = ["good", "short", "gap", "silent", "empty", "fast", "garbage"];
    let clips: Vec<Clip> =
        names.iter().flat_map(|name| times.iter().map(move |(start, end)| clip(name, *start, *end))).collect();
    let source = Source {
        name: "s".into(),
        root: root.path().to_owned(),
        layout: Layout::Chunked { chunk_s: 5.0, extension: "mp4".into() },
        fps: Some(10.0),
        clips,
    };
    for group in [1, 3] {
        let config = LoaderConfig { batch_size: 7, group, frames: 8, ..config() };
        let mut loader = Loader::train([source.clone()].into(), config, Position::default()).unwrap();
        for batch in loader.by_ref() {
            let batch = batch.unwrap();
            assert_eq!(batch.samples.len(), 7);
            // Of a damaged video only the first clip can be read.
            assert!(batch.samples.iter().all(|sample| *sample < 3 || sample % 3 == 0), "{:?}", batch.samples);
        }
        let kinds: BTreeMap<_, _> = loader.failures().kinds().collect();
        let expected =
            [("missing-chunk", 2), ("no-video-stream", 2), ("unreadable", 6), ("wrong-fps", 2)].into_iter().collect();
        assert_eq!(kinds, expected, "group {group}");
        let summary = loader.failures().summary();
        for path in ["gap/5.mp4", "silent/5.mp4", "fast/5.mp4"] {
            assert!(summary.contains(path), "{path}:\n{summary}");
        }
        assert!(summary.contains("25 frames/s, expected 10"), "{summary}");
        let times = WorkerTimes::total(loader.times());
        assert_eq!(times.clips, 21);
        assert!(times.busy >= times.opening + times.decoding && times.decoding > Duration::ZERO, "{times}");
    }
}

#[test]
fn lists_that_do_not_fit_their_files_are_named_by_line() {
    let root = tempfile::tempdir().unwrap();
    for name in ["a", "b", "c", "d"] {
        video(&root.path().join(format!("{name}.mp4")), 40, 10.0);
    }
    let list = root.path().join("train.txt");
    // Right; more than listed; one fewer, which is let pass; two fewer; missing.
    std::fs::write(&list, "a 40 0\n\nb 30 0\nc 41 1\nd 42 1\ne 40 1\n").unwrap();
    let clips = annotations::read_kinetics(&list, root.path(), 0).unwrap();
    let layout = Layout::Whole { extension: "mp4".into() };
    let source = Source { name: "s".into(), root: root.path().to_owned(), layout, fps: None, clips };
    let config = LoaderConfig { batch_size: 5, frame_rule: FrameRule::Uniform, ..config() };
    let mut loader = Loader::eval([source].into(), config).unwrap();
    let batch = loader.next().unwrap().unwrap();
    assert_eq!((batch.samples, batch.bad), (vec![0, 1, 2], vec![3, 4]));
    let summary = loader.failures().summary();
    assert!(summary.contains("file has 40 frames, expected 42 (line 5 of the list)"), "{summary}");
    assert!(summary.contains("e.mp4 (line 6 of the list)"), "{summary}");
}

/// What one pass over a file gives is what several give, to the bit: views of a clip, and clips of a chunk.
#[test]
fn one_pass_gives_the_same_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let set = SyntheticConfig { clips: 8, heldout: 1, seconds: 3.0, ..SyntheticConfig::default() };
    let set = generate(folder.path(), &set).unwrap();
    let mut source = set.source(avion::data::synthetic::Split::Train);
    let clips: Vec<Clip> = source.clips.clone();
    source.clips = clips
        .iter()
        .flat_map(|whole| {
            [(0.0, 1.0), (0.5, 2.0), (1.5, 3.0)].map(|(start_s, end_s)| Clip { start_s, end_s, ..whole.clone() })
        })
        .collect();
    let frames = |group| {
        let config = LoaderConfig { batch_size: 24, frames: 4, size_px: 32, flip: 0.5, group, ..config() };
        let batch =
            Loader::train([source.clone()].into(), config, Position::default()).unwrap().next().unwrap().unwrap();
        let bytes = batch.frames.len() / 24;
        let pairs = batch.samples.iter().zip(batch.frames.chunks(bytes)).map(|(sample, clip)| (*sample, clip.to_vec()));
        pairs.collect::<BTreeMap<u64, Vec<u8>>>()
    };
    let alone = frames(1);
    assert_eq!(alone.len(), 24);
    assert_eq!(frames(3), alone);
    // Views: of batches of one there is nothing to share.
    let views = |batch_size| {
        let frame_rule = FrameRule::Dense { stride: 2, jitter: false };
        let config = LoaderConfig { batch_size, frames: 4, size_px: 32, views: 2, crops: 3, frame_rule, ..config() };
        let batches = Loader::eval([source.clone()].into(), config).unwrap();
        batches.flat_map(|batch| batch.unwrap().frames.to_vec()).collect::<Vec<u8>>()
    };
    assert!(views(64) == views(1));
}

/// The same of real files of many codecs and containers, damaged ones among them: the same pictures, or an error in both.
#[test]
fn one_pass_over_real_files_gives_the_same_pictures() {
    let Some(data) = common::shared_data() else { return };
    let mut compared = 0;
    for folder in ["clips", "hard"] {
        for entry in std::fs::read_dir(data.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let Ok(mut video) = VideoReader::open(&path) else { continue };
            let (count, width, height) = (video.num_frames(), video.width(), video.height());
            let at = |share: f64| ((share * count as f64) as u64).min(count - 1);
            // Overlapping in time, one frame asked for twice, and one read that lies before the others.
            let wanted = [[at(0.3), at(0.5)], [at(0.4), at(0.6)], [at(0.5), at(0.5)], [at(0.0), at(0.1)]];
            let crops = [
                CropBox::full(width, height),
                CropBox { x: 0, y: 0, width: width / 2, height: height / 2 },
                CropBox { x: width / 4, y: height / 4, width: width / 2, height: height / 2 },
                CropBox::full(width, height),
            ];
            let mut together = vec![0; 4 * 2 * 40 * 40 * 3];
            let mut reads: Vec<Read> = together
                .chunks_exact_mut(2 * 40 * 40 * 3)
                .zip(&wanted)
                .zip(crops)
                .map(|((out, frames), crop)| Read { frames, crop, flip: crop.x > 0, out })
                .collect();
            let one_pass = video.read_each(&mut reads, 40);
            let mut alone = VideoReader::open(&path).unwrap();
            let mut apart = vec![0; together.len()];
            let several: Result<(), _> = apart
                .chunks_exact_mut(2 * 40 * 40 * 3)
                .zip(&wanted)
                .zip(crops)
                .try_for_each(|((out, frames), crop)| alone.read(frames, crop, 40, crop.x > 0, out));
            assert_eq!(one_pass.is_ok(), several.is_ok(), "{}: {one_pass:?}, {several:?}", path.display());
            if one_pass.is_ok() {
                assert!(together == apart, "{}", path.display());
                compared += 1;
            }
        }
    }
    assert!(compared > 40, "{compared} files");
}

/// Ego4D-like data with 2% of the files damaged, for ten minutes (or `AVION_LOADER_SECONDS`): the counts must be right.
#[test]
#[ignore = "takes ten minutes"]
fn ten_minutes_with_damaged_files() {
    let seconds = std::env::var("AVION_LOADER_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(600.0);
    let folder = tempfile::tempdir().unwrap();
    let set = SyntheticConfig {
        clips: 80,
        heldout: 1,
        size_px: 192,
        fps: 30,
        seconds: 45.0,
        chunk_s: 15.0,
        ..SyntheticConfig::default()
    };
    let set = generate(folder.path(), &set).unwrap();
    let source = set.source(avion::data::synthetic::Split::Train);
    // Of 240 files five: 2%.
    let path =
        |video: usize, chunk: usize| set.root.join(&*source.clips[video].video).join(format!("{}.mp4", chunk * 15));
    std::fs::remove_file(path(3, 1)).unwrap();
    cut_short(&path(10, 0));
    std::fs::write(path(20, 2), [0x47; 50_000]).unwrap();
    std::fs::write(path(30, 1), "").unwrap();
    audio_only(&path(40, 0));
    let bad = [(3, 1), (10, 0), (20, 2), (30, 1), (40, 0)];
    // A narration every three seconds, and one across the first border.
    let times: Vec<(f64, f64)> =
        (0..15).map(|i| (3.0 * f64::from(i) + 0.4, 3.0 * f64::from(i) + 1.6)).chain([(14.2, 15.8)]).collect();
    let mut expected = BTreeMap::from([("missing-chunk", 0), ("unreadable", 0), ("no-video-stream", 0)]);
    let mut clips = Vec::new();
    for (video, whole) in source.clips.iter().enumerate() {
        for (start_s, end_s) in &times {
            let (first, last) = ((start_s / 15.0) as usize, (end_s / 15.0) as usize);
            for (_, chunk) in bad.iter().filter(|(at, chunk)| *at == video && (first..=last).contains(chunk)) {
                let kind = match video {
                    // A clip that runs into a missing chunk ends before it.
                    3 if first < *chunk => continue,
                    3 => "missing-chunk",
                    40 => "no-video-stream",
                    _ => "unreadable",
                };
                *expected.get_mut(kind).unwrap() += 1;
            }
            clips.push(Clip { start_s: *start_s, end_s: *end_s, ..whole.clone() });
        }
    }
    let source = Source { clips, fps: Some(30.0), ..source };
    let config = LoaderConfig {
        batch_size: 64,
        frames: 4,
        size_px: 224,
        epochs: u64::MAX,
        group: 4,
        workers: 0,
        max_bad_share: 0.05,
        ..LoaderConfig::default()
    };
    let sources: Arc<[Source]> = [source].into();
    let mut loader = Loader::train(sources, config, Position::default()).unwrap();
    let (begin, mut clips, mut epochs) = (Instant::now(), 0, 0);
    while begin.elapsed().as_secs_f64() < seconds {
        let batch = loader.next().unwrap().unwrap();
        clips += batch.samples.len();
        epochs = batch.next.epoch;
    }
    let found: BTreeMap<_, _> = loader.failures().kinds().collect();
    println!("{clips} clips in {epochs} epochs, {:.0} s: bad {found:?}", begin.elapsed().as_secs_f64());
    println!("{}", WorkerTimes::total(loader.times()));
    assert!(epochs >= 4, "too slow to see every clip");
    assert_eq!(loader.failures().tried(), loader.num_clips());
    assert_eq!(found, expected);
}
