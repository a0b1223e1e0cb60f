//! `avion prepare`: raw videos that the tests make, through the library and the program, to what training reads.
#![cfg(feature = "video")]

mod chunks;
#[path = "../common/mod.rs"]
mod common;
mod failures;
mod pictures;
mod program;
mod resume;
mod training;
mod verify;

use avion::data::manifest::{self, Outcome, Ready, Settings, Video};
use avion::data::synthetic::write_video;
use avion::prepare::{self, Options, PrepareError, Summary};
use avion::video::VideoReader;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Blocks of a coded picture: black or white, a bit each.
const COLUMNS: usize = 4;
const ROWS: usize = 4;

/// A picture that says `number` in blocks, `[height, width, 3]`.
fn coded(number: u64, width: usize, height: usize) -> Vec<u8> {
    let mut pixels = Vec::with_capacity(3 * width * height);
    for y in 0..height {
        for x in 0..width {
            let bit = (y * ROWS / height) * COLUMNS + x * COLUMNS / width;
            pixels.extend([if number >> bit & 1 == 1 { 220u8 } else { 30 }; 3]);
        }
    }
    pixels
}

/// What a coded picture says, at any size.
fn decoded(pixels: &[u8], width: usize, height: usize) -> u64 {
    (0..ROWS * COLUMNS)
        .filter(|bit| {
            let (x, y) =
                ((2 * (bit % COLUMNS) + 1) * width / (2 * COLUMNS), (2 * (bit / COLUMNS) + 1) * height / (2 * ROWS));
            pixels[3 * (y * width + x)] > 128
        })
        .fold(0, |number, bit| number | 1 << bit)
}

/// A video of coded pictures 0, 1, 2, ...
fn write_coded(path: &Path, fps: f64, frames: u64) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    write_video(path, 128, 96, fps, (0..frames).map(|number| coded(number, 128, 96))).unwrap();
}

/// What each picture of a video says.
fn codes(path: &Path) -> Vec<u64> {
    let mut video = VideoReader::open(path).unwrap();
    let (width, height) = (video.width() as usize, video.height() as usize);
    let mut pixels = vec![0; 3 * width * height];
    let frames = 0..video.num_frames();
    let read = |frame| {
        video.read_native(&[frame], &mut pixels).unwrap();
        decoded(&pixels, width, height)
    };
    frames.map(read).collect()
}

/// Chunks of 1 s, short side 64.
fn options(input: &Path, output: &Path) -> Options {
    Options {
        input: input.to_owned(),
        output: output.to_owned(),
        layout: None,
        chunk_s: Some(1),
        short_side: 64,
        gop: 8,
        codec: None,
        quality: None,
        preset: "ultrafast".into(),
        workers: 2,
    }
}

fn run(options: &Options) -> Result<Summary, PrepareError> {
    prepare::run(options, &|| false, &prepare::publish)
}

/// Settings and videos by name.
fn manifest_of(folder: &Path) -> (Settings, BTreeMap<String, Video>) {
    let mut videos = BTreeMap::new();
    let path = folder.join(manifest::FILE);
    let header = manifest::read(&path, |_, video| drop(videos.insert(video.video.clone(), video))).unwrap();
    (header.settings, videos)
}

fn ready(video: &Video) -> &Ready {
    match &video.result {
        Outcome::Ready(ready) => ready,
        Outcome::Failed(failed) => panic!("{}: {}", video.video, failed.reason),
    }
}

/// Every file below `folder` with its content.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => {
                    drop(files.insert(path.strip_prefix(folder).unwrap().to_owned(), std::fs::read(&path).unwrap()))
                }
            }
        }
    }
    files
}

/// The names of the video files below `folder`.
fn video_files(folder: &Path) -> Vec<String> {
    let names = contents(folder).into_keys().map(|path| path.display().to_string());
    names.filter(|name| name.ends_with(".mp4")).collect()
}

/// Runs `ffmpeg` quietly; false, and said, where it is not installed or refuses.
fn ffmpeg(args: &str, paths: [&Path; 2]) -> bool {
    let mut command = std::process::Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error", "-y", "-i"]).arg(paths[0]).args(args.split_whitespace()).arg(paths[1]);
    let done = command.status().is_ok_and(|status| status.success());
    if !done {
        println!("SKIPPED: needs ffmpeg to make a video with {args}");
    }
    done
}
