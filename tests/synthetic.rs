//! Synthetic videos from the drawing to the loader, through real files and the real decoder.
#![cfg(feature = "video")]

mod common;

use avion::config::recipe::{Recipe, SourceConfig, SourceFormat};
use avion::data::Captions;
use avion::data::annotations::{check_labels, load, read_names};
use avion::data::loader::{Loader, LoaderConfig};
use avion::data::sampler::Position;
use avion::data::sampling::FrameRule;
use avion::data::synthetic::{
    MOTION_CLASSES, MotionConfig, Split, SyntheticConfig, SyntheticSet, WriteError, generate, generate_motions,
    write_video,
};
use avion::video::{CropBox, VideoReader};
use std::collections::HashSet;
use std::path::Path;

fn small() -> SyntheticConfig {
    SyntheticConfig { clips: 12, heldout: 6, size_px: 64, ..SyntheticConfig::default() }
}

fn loader_config() -> LoaderConfig {
    LoaderConfig {
        epochs: 1,
        batch_size: 4,
        frames: 4,
        size_px: 64,
        max_bad_share: 0.5,
        workers: 2,
        ..LoaderConfig::default()
    }
}

/// Every file below `folder` with its contents.
fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().display().to_string();
                files.push((name, std::fs::read(path).unwrap()));
            }
        }
    }
    files.sort();
    files
}

/// All frames of a video at its own size: `[frames, size, size, 3]`.
fn decode(path: &Path) -> (VideoReader, Vec<u8>) {
    let mut video = VideoReader::open(path).unwrap();
    let (width, height) = (video.width(), video.height());
    assert_eq!(width, height);
    let frames: Vec<u64> = (0..video.num_frames()).collect();
    let mut out = vec![0; frames.len() * (width * height * 3) as usize];
    let crop = CropBox::full(width, height);
    video.read(&frames, crop, width, false, &mut out).unwrap();
    (video, out)
}

fn mean_difference(a: &[u8], b: &[u8]) -> f64 {
    assert_eq!(a.len(), b.len());
    let sum: u64 = a.iter().zip(b).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    sum as f64 / a.len() as f64
}

#[test]
fn a_written_video_reads_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ramp.mp4");
    // Smooth, and different in every frame.
    let frame = |number: usize| -> Vec<u8> {
        let pixel = |i: usize| [i % 48 * 4, i / 48 * 4, 20 * number].map(|value| value as u8);
        (0..48 * 48).flat_map(pixel).collect()
    };
    let frames: Vec<Vec<u8>> = (0..10).map(frame).collect();
    assert_eq!(write_video(&path, 48, 48, 12.5, &frames).unwrap(), 10);
    let (video, read) = decode(&path);
    assert_eq!(video.num_frames(), 10);
    assert!((video.fps() - 12.5).abs() < 1e-6, "{}", video.fps());
    let difference = mean_difference(&read, &frames.concat());
    assert!(difference < 3.0, "{difference}");
    assert_eq!(contents(folder.path()).len(), 1, "nothing else is left");
}

#[test]
fn what_cannot_be_written_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.mp4");
    let frame = vec![0; 32 * 32 * 3];
    let odd = write_video(&path, 31, 32, 10.0, [&frame]);
    assert!(matches!(odd, Err(WriteError::Shape { .. })));
    let rate = write_video(&path, 32, 32, f64::NAN, [&frame]);
    assert!(matches!(rate, Err(WriteError::Shape { .. })));
    let short = write_video(&path, 32, 32, 10.0, [&frame[..], &frame[1..]]);
    let text = short.unwrap_err().to_string();
    assert!(text.contains("frame 1 has 3071 bytes, expected 3072"), "{text}");
    let nowhere = write_video(&folder.path().join("no/a.mp4"), 32, 32, 10.0, [&frame]);
    assert!(nowhere.is_err());
    assert!(contents(folder.path()).is_empty());
}

#[test]
fn a_set_is_determined_by_its_settings_and_made_once() {
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let make = |folder: &Path, config: &SyntheticConfig| generate(folder, config).unwrap();
    let [first, second] = folders.each_ref().map(|folder| make(folder.path(), &small()));
    assert!(!first.reused && !second.reused);
    assert_eq!(contents(folders[0].path()), contents(folders[1].path()));

    let again = make(folders[0].path(), &small());
    assert!(again.reused);
    assert_eq!((again.bytes, &again.train), (first.bytes, &first.train));

    // A damaged set is made again, and so is one with other settings.
    std::fs::remove_file(first.root.join("heldout_00003.mp4")).unwrap();
    assert!(!make(folders[0].path(), &small()).reused);
    assert_eq!(contents(folders[0].path()), contents(folders[1].path()));
    let other = SyntheticConfig { seed: 1, ..small() };
    assert!(!make(folders[0].path(), &other).reused);
    assert_ne!(contents(folders[0].path()), contents(folders[1].path()));
    assert!(!make(folders[0].path(), &small()).reused);
}

#[test]
fn tables_name_the_clips() {
    let folder = tempfile::tempdir().unwrap();
    let set = generate(folder.path(), &small()).unwrap();
    for (table, clips) in [(&set.train_csv, &set.train), (&set.heldout_csv, &set.heldout)] {
        let mut reader = csv::Reader::from_path(table).unwrap();
        assert_eq!(reader.headers().unwrap(), vec!["video", "start", "end", "caption"]);
        let rows: Vec<_> = reader.records().map(Result::unwrap).collect();
        assert_eq!(rows.len(), clips.len());
        for (row, clip) in rows.iter().zip(clips) {
            let Captions::One(caption) = &clip.captions else {
                panic!("one caption a clip");
            };
            assert_eq!(row, vec![&clip.video[..], "0", "2", caption]);
            assert!(set.root.join(&row[0]).is_file());
        }
    }
    let captions = |clips: &[avion::data::Clip]| -> HashSet<String> {
        clips.iter().map(|clip| format!("{:?}", clip.captions)).collect()
    };
    assert_eq!(captions(&set.heldout).len(), 6);
    assert!(captions(&set.heldout).is_disjoint(&captions(&set.train)));
}

#[test]
fn settings_out_of_range_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let fails = |change: fn(&mut SyntheticConfig)| {
        let mut config = small();
        change(&mut config);
        generate(folder.path(), &config).unwrap_err().to_string()
    };
    assert!(fails(|c| c.size_px = 65).contains("size_px"));
    assert!(fails(|c| c.fps = 0).contains("fps"));
    assert!(fails(|c| c.seconds = 0.2).contains("seconds"));
    assert!(fails(|c| c.chunk_s = f64::NAN).contains("chunk_s"));
    assert!(fails(|c| c.heldout = 479).contains("clips and heldout"));
    assert!(contents(folder.path()).is_empty());
}

fn eval(set: &SyntheticSet) -> Vec<Vec<u8>> {
    let sources = [set.source(Split::Heldout)].into();
    let loader = Loader::eval(sources, loader_config()).unwrap();
    let batches = loader.map(|batch| batch.unwrap());
    batches
        .map(|batch| {
            assert!(batch.bad.is_empty());
            batch.frames.to_vec()
        })
        .collect()
}

#[test]
fn chunked_videos_show_the_same_as_whole_ones() {
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let whole = generate(folders[0].path(), &small()).unwrap();
    let config = SyntheticConfig { chunk_s: 0.5, ..small() };
    let chunked = generate(folders[1].path(), &config).unwrap();
    assert!(chunked.root.join("train_00000.mp4/1.5.mp4").is_file());
    let (whole, chunked) = (eval(&whole), eval(&chunked));
    assert_eq!(whole.iter().map(Vec::len).sum::<usize>(), 6 * 4 * 64 * 64 * 3);
    for (whole, chunked) in whole.iter().zip(&chunked) {
        // Coded apart, and the chunked clip ends a frame earlier: nearly the same pictures.
        let difference = mean_difference(whole, chunked);
        assert!(difference < 3.0, "{difference}");
    }
    assert!(mean_difference(&whole[0][..64 * 64 * 3], &whole[0][4 * 64 * 64 * 3..][..64 * 64 * 3]) > 5.0);
}

#[test]
fn damaged_files_are_replaced_the_same_way_each_time() {
    let folder = tempfile::tempdir().unwrap();
    let set = generate(folder.path(), &small()).unwrap();
    let video = |number: usize| set.root.join(format!("train_{number:05}.mp4"));
    let bytes = std::fs::read(video(1)).unwrap();
    std::fs::write(video(1), &bytes[..bytes.len() / 2]).unwrap();
    std::fs::write(video(2), "this is not a video").unwrap();
    std::fs::remove_file(video(3)).unwrap();
    let mut source = set.source(Split::Train);
    source.clips[4].end_s = 0.0;

    let run = |workers, max_bad_share| {
        let config = LoaderConfig { workers, max_bad_share, ..loader_config() };
        Loader::train([source.clone()].into(), config, Position::default()).unwrap()
    };
    let mut loader = run(1, 0.5);
    let batches: Vec<_> = loader.by_ref().map(Result::unwrap).collect();
    assert_eq!(batches.len(), 3);
    let mut bad: Vec<u64> = batches.iter().flat_map(|batch| batch.bad.clone()).collect();
    bad.sort();
    bad.dedup();
    assert_eq!(bad, [1, 2, 3, 4]);
    let summary = loader.failures().summary();
    assert!(summary.contains("missing") && summary.contains("zero-length"), "{summary}");

    for (batch, again) in batches.iter().zip(run(3, 0.5)) {
        let again = again.unwrap();
        assert_eq!(batch.samples, again.samples);
        assert_eq!(batch.captions, again.captions);
        assert_eq!(&batch.frames[..], &again.frames[..]);
    }
    assert!(run(2, 0.3).any(|batch| batch.is_err()));
}

#[test]
fn motion_sets_are_labelled_lists_of_readable_videos() {
    let folder = tempfile::tempdir().unwrap();
    let config = MotionConfig { train: 10, labelled: 8, test: 6, size_px: 48, ..MotionConfig::default() };
    let set = generate_motions(folder.path(), &config).unwrap();
    let before = contents(folder.path());
    let lists = [(&set.train_list, 10), (&set.labelled_list, 8), (&set.test_list, 6)];
    let sources = lists.map(|(list, count)| {
        let format = SourceFormat::Kinetics;
        let config =
            SourceConfig { format, annotations: list.clone(), root: set.root.clone(), ..SourceConfig::default() };
        let source = load(&config).unwrap();
        assert_eq!(source.clips.len(), count);
        check_labels(list, &source, MOTION_CLASSES.len()).unwrap();
        source
    });
    assert_eq!(read_names(&set.names, 8).unwrap(), MOTION_CLASSES);
    let labels: HashSet<_> = sources[1].clips.iter().map(|clip| clip.label).collect();
    assert_eq!(labels.len(), 8);
    let train: HashSet<_> = sources[0].clips.iter().map(|clip| clip.video.clone()).collect();
    assert!(sources[2].clips.iter().all(|clip| !train.contains(&clip.video)));
    // Views of whole videos, through the real decoder.
    let loader = LoaderConfig {
        frames: 16,
        size_px: 48,
        frame_rule: FrameRule::Dense { stride: 1, jitter: false },
        views: 3,
        batch_size: 9,
        ..loader_config()
    };
    let batches: Vec<_> = Loader::eval([sources[2].clone()].into(), loader).unwrap().map(Result::unwrap).collect();
    assert_eq!(batches.iter().map(|batch| batch.samples.len()).collect::<Vec<_>>(), [9, 9]);
    let clip = |view: usize| &batches[0].frames[view * 16 * 48 * 48 * 3..][..16 * 48 * 48 * 3];
    // Of 24 frames, the views begin at 0, 4 and 8: frame 4 of the first is frame 0 of the second.
    let frame = 48 * 48 * 3;
    assert_eq!(clip(0)[4 * frame..][..frame], clip(1)[..frame]);
    assert_eq!(clip(1)[4 * frame..][..frame], clip(2)[..frame]);
    assert_ne!(clip(0), clip(1));
    // Nothing is made twice; another set is.
    assert!(generate_motions(folder.path(), &config).unwrap().reused);
    assert_eq!(contents(folder.path()), before);
    let other = MotionConfig { seed: 1, ..config };
    assert!(!generate_motions(folder.path(), &other).unwrap().reused);
    assert_ne!(contents(folder.path()), before);
}

/// Clips of Kinetics-400 in AVION's list, as VideoMAE fine-tunes on them.
#[test]
fn real_kinetics_clips_load_with_labels() {
    let Some(shared) = common::shared_data() else { return };
    let source = SourceConfig {
        format: SourceFormat::Kinetics,
        annotations: shared.join("kinetics/avion_list_of_clips.txt"),
        root: shared.clone(),
        ..SourceConfig::default()
    };
    let source = load(&source).unwrap();
    let recipe = Recipe::load("videomae-vitb16-k400-finetune", &[]).unwrap().recipe;
    let config = LoaderConfig::default().with_recipe(&recipe);
    let config = LoaderConfig { batch_size: 4, size_px: 64, epochs: 2, max_bad_share: 0.0, ..config };
    let mut labels = Vec::new();
    for batch in Loader::train([source.clone()].into(), config.clone(), Position::default()).unwrap() {
        let batch = batch.unwrap();
        let mut sorted = batch.labels.clone();
        sorted.sort();
        assert_eq!(sorted, [6, 129, 375, 375]);
        labels.push(batch.labels);
    }
    assert_eq!(labels.len(), 2);
    let views: usize = Loader::eval([source].into(), config).unwrap().map(|batch| batch.unwrap().samples.len()).sum();
    assert_eq!(views, 4 * 15);
}
