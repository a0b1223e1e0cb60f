//! Decoding with NVDEC: where it is missing, the CPU does the same with a warning; where it is there, every picture is
//! the CPU decoder's.
//!
//! On a machine with an NVIDIA GPU, `cargo test --release --test nvdec -- --ignored --nocapture` compares the two. It
//! needs clips: the `ffmpeg` program makes them, or they lie in `clips` and `hard` of `../shared/data` or
//! `AVION_SHARED_DATA`.
#![cfg(feature = "video")]

mod common;

use avion::config::recipe::VideoDecoder;
use avion::data::synthetic::write_video;
use avion::video::{CropBox, ReadOptions, VideoReader};
use common::clips::{files_in, generate};
use common::shared_data;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const NVDEC: ReadOptions = ReadOptions { fast_loop_filter: false, decoder: VideoDecoder::Nvdec, as_records: false };

/// Frames decoded by one call.
const RUN: usize = 16;

/// A moving pattern, in H.264 where FFmpeg has x264, else in MPEG-4.
fn clip(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    let picture = |k: usize| {
        let pixel = move |i: usize| [i % 160 + k, i / 160 * 2, 9 * k].map(|value| value as u8);
        (0..160 * 96).flat_map(pixel).collect::<Vec<u8>>()
    };
    write_video(&path, 160, 96, 25.0, (0..20).map(picture)).unwrap();
    path
}

fn native(reader: &mut VideoReader, frames: &[u64]) -> Vec<u8> {
    let mut out = vec![0; 3 * frames.len() * reader.width() as usize * reader.height() as usize];
    reader.read_native(frames, &mut out).unwrap();
    out
}

fn scaled(reader: &mut VideoReader, frames: &[u64]) -> Vec<u8> {
    let (width, height) = (reader.width(), reader.height());
    let crop = CropBox { x: 3, y: 5, width: width - 8, height: height - 6 };
    let mut out = vec![0; 3 * frames.len() * 96 * 96];
    reader.read(frames, crop, 96, true, &mut out).unwrap();
    out
}

/// Holds every frame, runs and single ones, against the CPU decoder's. Time on the CPU and with NVDEC, and whether
/// that did it.
fn compare(path: &Path) -> (Duration, Duration, bool) {
    let mut cpu = VideoReader::open(path).unwrap();
    let mut nvdec = VideoReader::open_with(path, NVDEC).unwrap();
    let name = path.display();
    assert_eq!(nvdec.num_frames(), cpu.num_frames(), "{name}");
    let mut times = [Duration::ZERO; 2];
    let all: Vec<u64> = (0..cpu.num_frames()).collect();
    for frames in all.chunks(RUN) {
        let start = Instant::now();
        let expected = native(&mut cpu, frames);
        times[0] += start.elapsed();
        let start = Instant::now();
        let got = native(&mut nvdec, frames);
        times[1] += start.elapsed();
        let picture_bytes = expected.len() / frames.len();
        for ((frame, got), expected) in frames.iter().zip(got.chunks(picture_bytes)).zip(expected.chunks(picture_bytes))
        {
            assert!(got == expected, "{name}: frame {frame} of {}", all.len());
        }
    }
    for frame in [all.len() as u64 - 1, all.len() as u64 / 3, 0] {
        assert!(scaled(&mut nvdec, &[frame]) == scaled(&mut cpu, &[frame]), "{name}: frame {frame}, scaled");
    }
    (times[0], times[1], nvdec.by_nvdec())
}

#[test]
fn pixels_are_the_same_with_or_without_a_device() {
    let folder = tempfile::tempdir().unwrap();
    compare(&clip(folder.path(), "a.mp4"));
    for (name, args) in [("b.avi", "-c:v mpeg4 -g 12"), ("c.mpg", "-c:v mpeg2video -g 12"), ("d.mkv", "-c:v libx264")] {
        if let Some(path) = generate(folder.path(), name, "testsrc2=s=162x92:r=25:d=1", args) {
            let (_, _, on_device) = compare(&path);
            assert!(!on_device || name == "d.mkv", "{name}");
        }
    }
}

/// Files without an exact hardware decoder are decoded on the CPU on every machine.
#[test]
fn a_missing_decoder_is_said_once() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.mp4", "b.mp4"] {
        if generate(folder.path(), name, "testsrc2=s=160x96:r=25:d=1", "-c:v mpeg4 -g 12").is_none() {
            clip(folder.path(), name);
        }
    }
    let bench = |decoder: &str, verbose: bool| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_avion"));
        command.env_remove("RUST_LOG").args(["bench", "decode", "--workers", "2", "--clips", "6", "--data"]);
        command.arg(folder.path()).args(["--set", &format!("data.decoder={decoder}")]);
        command.args(verbose.then_some("-v"));
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{}", text(&output.stderr));
        (text(&output.stdout), text(&output.stderr))
    };
    let (report, log) = bench("nvdec", false);
    if !report.contains("NVDEC decoded 6 of 6 clips") {
        assert!(report.contains("NVDEC decoded 0 of 6 clips"), "{report}");
        assert_eq!(log.matches("WARN").count(), 1, "{log}");
        assert_eq!(log.matches("instead of NVDEC").count(), 1, "{log}");
        // And each opening, of 4 clips to warm up and 6, where it is asked for.
        let (_, log) = bench("nvdec", true);
        assert_eq!(log.matches("instead of NVDEC").count(), 1 + 10, "{log}");
    }
    let (report, log) = bench("cpu", false);
    assert!(!report.contains("NVDEC") && !log.contains("NVDEC"), "{report}{log}");
}

/// Name, frames' size and encoder of the clips to compare; 144 px a side are HEVC's least.
const GENERATED: &[(&str, &str, &str)] = &[
    ("h264.mp4", "512x288", "-c:v libx264 -pix_fmt yuv420p"),
    ("h264_open_gop.mp4", "322x182", "-c:v libx264 -pix_fmt yuv420p -x264-params open-gop=1:keyint=20:bframes=5"),
    ("h264_full_range.mp4", "320x180", "-c:v libx264 -pix_fmt yuvj420p -g 12"),
    ("h264_refresh.mkv", "320x192", "-c:v libx264 -pix_fmt yuv420p -x264-params intra-refresh=1:keyint=20"),
    ("hevc.mp4", "512x288", "-c:v libx265 -pix_fmt yuv420p -x265-params keyint=20:open-gop=1:log-level=none"),
    ("hevc_10bit.mp4", "320x180", "-c:v libx265 -pix_fmt yuv420p10le -x265-params keyint=20:log-level=none"),
    ("vp9.webm", "320x180", "-c:v libvpx-vp9 -g 25 -b:v 200k -cpu-used 8 -deadline realtime"),
    ("vp8.webm", "320x180", "-c:v libvpx -g 25 -auto-alt-ref 1 -lag-in-frames 16 -b:v 200k -cpu-used 5"),
];

/// Damage is the CPU's to see: what NVDEC shows of it may differ.
const DAMAGED: [&str; 4] = ["bad_", "derived_", "corrupt", "distorted"];

#[test]
#[ignore = "needs a GPU with NVDEC"]
fn nvdec_gives_the_cpu_decoders_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let made = GENERATED
        .iter()
        .filter_map(|(name, size, args)| generate(folder.path(), name, &format!("testsrc2=s={size}:r=25:d=3"), args));
    let mut clips: Vec<PathBuf> = [clip(folder.path(), "written.mp4")].into_iter().chain(made).collect();
    if let Some(data) = shared_data() {
        for folder in ["clips", "hard"].map(|name| data.join(name)).iter().filter(|folder| folder.is_dir()) {
            clips.extend(files_in(folder));
        }
    }
    let mut num_on_device = 0;
    for path in &clips {
        let name = path.file_name().unwrap().to_string_lossy();
        if DAMAGED.iter().any(|part| name.contains(part)) || VideoReader::open(path).is_err() {
            continue;
        }
        let (cpu, nvdec, on_device) = compare(path);
        num_on_device += usize::from(on_device);
        let by = if on_device { "NVDEC" } else { "CPU" };
        println!("{by:6} {:8.1} ms, CPU alone {:8.1} ms  {name}", 1e3 * nvdec.as_secs_f64(), 1e3 * cpu.as_secs_f64());
        // A machine with NVDEC decodes these.
        let must = GENERATED.iter().any(|(made, ..)| name == *made && !made.starts_with("vp"));
        assert!(on_device || !must, "{name} was not decoded with NVDEC");
    }
    println!("{num_on_device} clips by NVDEC");
    assert!(num_on_device > 0, "NVDEC decoded none of {} clips: run `avion bench decode` to see why", clips.len());
}
