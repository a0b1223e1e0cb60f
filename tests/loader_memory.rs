//! The loader's memory, in a process of its own: at batch 256 with 16 threads under 3 GiB, and flat.
#![cfg(all(feature = "video", target_os = "linux"))]

mod common;

use avion::data::loader::{Loader, LoaderConfig};
use avion::data::sampler::Position;
use avion::data::synthetic::{Split, SyntheticConfig, generate};
use avion::data::{Captions, Clip, Layout, Source};
use avion::video::VideoReader;
use common::clips::files_in;
use common::shared_data;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Resident memory and its peak, MiB.
fn memory_mib() -> [u64; 2] {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    ["VmRSS:", "VmHWM:"].map(|key| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
    })
}

fn made(folder: &Path) -> Source {
    let set = SyntheticConfig { clips: 512, heldout: 1, size_px: 64, seconds: 1.0, ..SyntheticConfig::default() };
    generate(folder, &set).unwrap().source(Split::Train)
}

/// Seconds of the real clips, one every half second, up to 1080p, H.264, VP8 and MPEG-4.
fn real() -> Option<Source> {
    let root = shared_data()?.join("clips");
    let seconds_of = |path: &PathBuf| {
        let video = VideoReader::open(path).unwrap();
        (video.num_frames() as f64 / video.fps()).floor().max(1.0) as u32
    };
    let clips_of = |path: PathBuf| {
        let name: Arc<str> = path.file_name().unwrap().to_str().unwrap().into();
        let second = move |start: u32| {
            let start = f64::from(start) / 2.0;
            Clip::narrated(Arc::clone(&name), start, start + 1.0, Captions::One("".into()))
        };
        (0..2 * seconds_of(&path) - 1).map(second).collect::<Vec<_>>()
    };
    let clips: Vec<Clip> = files_in(&root).into_iter().flat_map(clips_of).collect();
    let layout = Layout::Whole { extension: "mp4".into() };
    Some(Source { name: "real".into(), root, layout, fps: None, clips })
}

fn run(source: Source, samples: usize) {
    let config = LoaderConfig {
        batch_size: 256,
        frames: 4,
        size_px: 224,
        workers: 16,
        epochs: u64::MAX,
        ..LoaderConfig::default()
    };
    let mut loader = Loader::train([source].into(), config, Position::default()).unwrap();
    let (mut seen, mut settled) = (0, None);
    while seen < samples {
        let batch = loader.next().unwrap().unwrap();
        seen += batch.samples.len();
        drop(batch);
        if seen >= samples / 2 {
            settled.get_or_insert(memory_mib()[0]);
        }
    }
    let ([now, peak], settled) = (memory_mib(), settled.unwrap());
    println!("{seen} samples: {settled} MiB after half of them, {now} MiB now, {peak} MiB at most");
    assert!(peak < 3 * 1024, "{peak} MiB");
    // Which threads hold buffers at the moment changes; what leaks grows with the samples.
    assert!(now < settled + 96, "{settled} MiB, then {now} MiB");
}

#[test]
fn memory_is_bounded() {
    let folder = tempfile::tempdir().unwrap();
    run(made(folder.path()), 2_048);
}

#[test]
#[ignore = "takes a minute or more"]
fn memory_is_flat_over_ten_thousand_samples() {
    let folder = tempfile::tempdir().unwrap();
    run(made(folder.path()), 10_240);
}

#[test]
#[ignore = "takes some minutes"]
fn memory_is_flat_with_real_videos() {
    if let Some(source) = real() {
        run(source, 10_240);
    }
}
