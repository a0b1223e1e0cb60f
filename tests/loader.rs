//! The loader from the outside: mostly with a decoder that needs no videos and misbehaves on demand.

use avion::config::recipe::{CaptionChoice, Recipe};
use avion::data::augment::Augment;
use avion::data::layout::FileInfo;
use avion::data::loader::{ClipBatch, DecodeError, Decoder, Loader, LoaderConfig, LoaderError, OpenVideo};
use avion::data::sampler::Position;
use avion::data::sampling::FrameRule;
use avion::data::{Captions, Clip, Layout, Source};
use avion::video::CropBox;
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What the stand-in decoder does with a file, chosen by the beginning of its name.
#[derive(Clone, Copy, PartialEq)]
enum Behaviour {
    Fails,
    Panics,
    Hangs,
    Takes(Duration),
}

type Read = (String, Vec<u64>, CropBox, bool);

/// Gives every frame bytes that depend on all that it was asked for.
#[derive(Default)]
struct FakeDecoder {
    behaviours: HashMap<String, Behaviour>,
    /// Everything read.
    log: Arc<Mutex<Vec<Read>>>,
    reads: Arc<AtomicUsize>,
}

impl FakeDecoder {
    fn with(behaviours: &[(&str, Behaviour)]) -> Self {
        let behaviours = behaviours.iter().map(|(name, b)| (name.to_string(), *b));
        Self { behaviours: behaviours.collect(), ..Self::default() }
    }
}

struct FakeVideo {
    name: String,
    behaviour: Option<Behaviour>,
    log: Arc<Mutex<Vec<Read>>>,
    reads: Arc<AtomicUsize>,
}

impl Decoder for FakeDecoder {
    fn open(&self, path: &Path) -> Result<Box<dyn OpenVideo>, DecodeError> {
        let name = path.display().to_string();
        let stem = path.file_stem().unwrap().to_str().unwrap();
        Ok(Box::new(FakeVideo {
            behaviour: self.behaviours.get(stem).copied(),
            log: Arc::clone(&self.log),
            reads: Arc::clone(&self.reads),
            name,
        }))
    }
}

impl OpenVideo for FakeVideo {
    fn size_px(&self) -> [u32; 2] {
        [64, 48]
    }

    fn info(&self) -> FileInfo {
        FileInfo { frames: 150, fps: 30.0 }
    }

    fn read(
        &mut self,
        frames: &[u64],
        crop: CropBox,
        out_px: u32,
        flip: bool,
        out: &mut [u8],
    ) -> Result<(), DecodeError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        match self.behaviour {
            Some(Behaviour::Fails) => {
                out.fill(255);
                return Err(DecodeError { kind: "broken", reason: format!("broken: {}", self.name) });
            }
            Some(Behaviour::Panics) => panic!("the decoder fell over"),
            Some(Behaviour::Hangs) => std::thread::sleep(Duration::from_secs(4)),
            Some(Behaviour::Takes(time)) => std::thread::sleep(time),
            None => {}
        }
        let frame_bytes = (out_px * out_px * 3) as usize;
        assert_eq!(out.len(), frames.len() * frame_bytes);
        for (out, frame) in out.chunks_exact_mut(frame_bytes).zip(frames) {
            let mut hasher = DefaultHasher::new();
            (&self.name, frame, crop, flip).hash(&mut hasher);
            let digest = hasher.finish().to_le_bytes();
            for (i, byte) in out.iter_mut().enumerate() {
                *byte = digest[i % 8];
            }
        }
        let read = (self.name.clone(), frames.to_vec(), crop, flip);
        self.log.lock().unwrap().push(read);
        Ok(())
    }
}

fn clip(video: &str) -> Clip {
    Clip::narrated(video.into(), 1.0, 4.0, Captions::One(format!("caption of {video}").into()))
}

/// A source of `count` clips `0.mp4`, `1.mp4`, ..., whose (empty) files exist.
fn source(root: &Path, count: usize) -> Source {
    for number in 0..count {
        std::fs::write(root.join(format!("{number}.mp4")), "").unwrap();
    }
    Source {
        name: "fake".into(),
        root: root.to_owned(),
        layout: Layout::Whole { extension: "mp4".into() },
        fps: None,
        clips: (0..count).map(|number| clip(&number.to_string())).collect(),
    }
}

fn small() -> LoaderConfig {
    LoaderConfig {
        seed: 11,
        epochs: 3,
        batch_size: 4,
        frames: 2,
        size_px: 8,
        workers: 2,
        max_bad_share: 1.0,
        ..LoaderConfig::default()
    }
}

fn train(source: &Source, config: LoaderConfig, decoder: FakeDecoder) -> Result<Loader, LoaderError> {
    let start = Position::default();
    Loader::train_with([source.clone()].into(), config, start, Arc::new(decoder))
}

fn eval(source: &Source, config: LoaderConfig, decoder: FakeDecoder) -> Loader {
    Loader::eval_with([source.clone()].into(), config, Arc::new(decoder)).unwrap()
}

/// Everything in a batch that must not depend on timing.
type Content = (Vec<u8>, Vec<String>, Vec<u64>, Vec<u64>, Position, Position);

fn content(batch: ClipBatch) -> Content {
    assert_eq!(batch.shape().iter().product::<usize>(), batch.frames.len());
    let captions = batch.captions.iter().map(|c| c.to_string()).collect();
    (batch.frames.to_vec(), captions, batch.samples.clone(), batch.bad.clone(), batch.position, batch.next)
}

fn all(loader: Loader) -> Vec<Content> {
    loader.map(|batch| content(batch.unwrap())).collect()
}

/// Some files slow, some broken, some missing.
fn troubled(root: &Path) -> (Source, impl Fn() -> FakeDecoder) {
    let source = source(root, 23);
    std::fs::remove_file(root.join("5.mp4")).unwrap();
    let decoder = || {
        FakeDecoder::with(&[
            ("1", Behaviour::Takes(Duration::from_millis(20))),
            ("8", Behaviour::Takes(Duration::from_millis(7))),
            ("9", Behaviour::Fails),
            ("14", Behaviour::Takes(Duration::from_millis(12))),
            ("17", Behaviour::Fails),
        ])
    };
    (source, decoder)
}

#[test]
fn batches_are_the_same_for_any_number_of_threads() {
    let root = tempfile::tempdir().unwrap();
    let (source, decoder) = troubled(root.path());
    let run = |workers, prefetch| {
        let config = LoaderConfig { workers, prefetch, ..small() };
        all(train(&source, config, decoder()).unwrap())
    };
    let one = run(1, 1);
    assert_eq!(one.len(), 15);
    assert_eq!(run(2, 2), one);
    assert_eq!(run(5, 4), one);
    // The bad files came up and were replaced.
    let bad: HashSet<u64> = one.iter().flat_map(|batch| batch.3.clone()).collect();
    assert_eq!(bad, HashSet::from([5, 9, 17]));
    for (_, _, samples, ..) in &one {
        assert_eq!(samples.len(), 4);
        assert!(samples.iter().all(|sample| !bad.contains(sample)));
    }
}

#[test]
fn a_run_goes_on_where_it_stopped() {
    let root = tempfile::tempdir().unwrap();
    let (source, decoder) = troubled(root.path());
    let whole = all(train(&source, small(), decoder()).unwrap());
    for stop in [0, 3, 4, 9, 13] {
        let start = whole[stop].5;
        let rest = Loader::train_with([source.clone()].into(), small(), start, Arc::new(decoder()));
        assert_eq!(all(rest.unwrap()), whole[stop + 1..], "after batch {stop}");
    }
    let config = LoaderConfig { seed: 12, ..small() };
    assert_ne!(all(train(&source, config, decoder()).unwrap()), whole);
}

#[test]
fn epochs_hold_whole_batches_of_distinct_samples() {
    let root = tempfile::tempdir().unwrap();
    let loader = train(&source(root.path(), 10), small(), FakeDecoder::default()).unwrap();
    assert_eq!((loader.batches_per_epoch(), loader.num_clips()), (2, 10));
    let batches = all(loader);
    let at: Vec<_> = batches.iter().map(|b| (b.4.epoch, b.4.batch)).collect();
    assert_eq!(at, [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]);
    let epoch = |number: usize| {
        let samples: Vec<u64> = batches[number * 2..][..2].iter().flat_map(|b| b.2.clone()).collect();
        assert_eq!(samples.iter().collect::<HashSet<_>>().len(), 8);
        samples
    };
    assert_ne!(epoch(0), epoch(1));
    assert_ne!(epoch(1), epoch(2));
    // The caption is the sample's.
    for (_, captions, samples, ..) in &batches {
        for (caption, sample) in captions.iter().zip(samples) {
            assert_eq!(*caption, format!("caption of {sample}"));
        }
    }
}

#[test]
fn no_more_than_prefetch_is_decoded_ahead() {
    let root = tempfile::tempdir().unwrap();
    let source = source(root.path(), 40);
    let decoder = FakeDecoder::default();
    let reads = Arc::clone(&decoder.reads);
    let mut loader = train(&source, small(), decoder).unwrap();
    let settles_at = |expected: usize| {
        let deadline = Instant::now() + Duration::from_secs(5);
        while reads.load(Ordering::SeqCst) < expected && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(reads.load(Ordering::SeqCst), expected);
    };
    settles_at(8);
    let first = loader.next().unwrap().unwrap();
    settles_at(12);
    drop(first);
    // Buffers are used again: at most the two ahead and the one in hand.
    let addresses: HashSet<usize> = loader.map(|batch| batch.unwrap().frames.as_ptr() as usize).collect();
    assert!(addresses.len() <= 3, "{}", addresses.len());
}

#[test]
fn a_run_stops_when_too_many_are_bad() {
    let root = tempfile::tempdir().unwrap();
    let mut source = source(root.path(), 40);
    for number in 0..4 {
        std::fs::remove_file(root.path().join(format!("{number}.mp4"))).unwrap();
    }
    source.clips[4].end_s = source.clips[4].start_s;
    source.clips[5].start_s = 99.0;
    source.clips[5].end_s = 100.0;
    let run = |max_bad_share| {
        let config = LoaderConfig { max_bad_share, epochs: 1, ..small() };
        let mut loader = train(&source, config, FakeDecoder::with(&[("6", Behaviour::Fails)])).unwrap();
        let last = loader.by_ref().last().unwrap();
        assert!(loader.next().is_none());
        (last.err(), loader)
    };
    // 7 of 40 is 0.175.
    let (error, loader) = run(0.175);
    assert!(error.is_none());
    let kinds: Vec<_> = loader.failures().kinds().collect();
    assert_eq!(kinds, [("broken", 1), ("missing", 4), ("out-of-range", 1), ("zero-length", 1)]);
    assert_eq!(loader.failures().tried(), 40);

    let (error, _) = run(0.17);
    let Some(LoaderError::TooManyBad(error)) = error else {
        panic!("expected TooManyBad, found {error:?}");
    };
    assert_eq!((error.bad, error.allowed), (7, 6));
    let text = error.to_string();
    assert!(text.contains("missing") && text.contains(".mp4"), "{text}");
}

#[test]
fn a_set_of_bad_files_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    let mut source = source(root.path(), 8);
    source.root = root.path().join("elsewhere");
    let mut loader = train(&source, small(), FakeDecoder::default()).unwrap();
    let error = loader.next().unwrap().unwrap_err();
    assert!(matches!(error, LoaderError::Exhausted { .. }), "{error}");
    assert!(error.to_string().contains("no such file"), "{error}");
    assert!(loader.next().is_none());
}

#[test]
fn evaluation_is_in_order_centred_and_complete() {
    let root = tempfile::tempdir().unwrap();
    let source = source(root.path(), 10);
    std::fs::remove_file(root.path().join("5.mp4")).unwrap();
    let decoder = FakeDecoder::with(&[("1", Behaviour::Takes(Duration::from_millis(20)))]);
    let log = Arc::clone(&decoder.log);
    let batches = all(eval(&source, small(), decoder));
    let samples: Vec<_> = batches.iter().map(|batch| batch.2.clone()).collect();
    assert_eq!(samples, [vec![0, 1, 2, 3], vec![4, 6, 7], vec![8, 9]]);
    let bad: Vec<_> = batches.iter().map(|batch| batch.3.clone()).collect();
    assert_eq!(bad, [vec![], vec![5], vec![]]);
    assert_eq!(batches[1].1, ["caption of 4", "caption of 6", "caption of 7"]);
    let centre = CropBox { x: 8, y: 0, width: 48, height: 48 };
    for (_, frames, crop, flip) in log.lock().unwrap().iter() {
        // The middles of the halves of frames 30..120.
        assert_eq!((&frames[..], *crop, *flip), (&[52, 97][..], centre, false));
    }
    // The frames that were closed up are those of their samples.
    let config = LoaderConfig { batch_size: 1, ..small() };
    let single = all(eval(&source, config, FakeDecoder::default()));
    let clip_bytes = 2 * 8 * 8 * 3;
    assert_eq!(single[7].2, [7]);
    assert_eq!(batches[1].0[2 * clip_bytes..], single[7].0);
}

#[test]
fn training_draws_frames_crop_and_flip() {
    let root = tempfile::tempdir().unwrap();
    let source = source(root.path(), 40);
    let log = |flip| {
        let decoder = FakeDecoder::default();
        let log = Arc::clone(&decoder.log);
        all(train(&source, LoaderConfig { flip, ..small() }, decoder).unwrap());
        log.lock().unwrap().clone()
    };
    assert!(log(0.0).iter().all(|(.., flip)| !flip));
    assert!(log(1.0).iter().all(|(.., flip)| *flip));
    let reads = log(0.5);
    let flips = reads.iter().filter(|(.., flip)| *flip).count();
    assert!((40..80).contains(&flips), "{flips} of {}", reads.len());
    for (_, frames, crop, _) in &reads {
        assert!(frames[0] >= 30 && frames[0] <= frames[1] && frames[1] < 120);
        let share = f64::from(crop.width * crop.height) / (64.0 * 48.0);
        assert!((0.45..=1.0).contains(&share), "{crop:?}");
    }
    let distinct: HashSet<_> = reads.iter().map(|(_, frames, crop, _)| (frames, crop)).collect();
    assert!(distinct.len() > 100, "{}", distinct.len());
}

#[test]
fn one_crop_serves_all_chunks_of_a_clip() {
    let root = tempfile::tempdir().unwrap();
    for name in ["v/0.mp4", "v/5.mp4", "v/10.mp4"] {
        let path = root.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "").unwrap();
    }
    let chunked = Source {
        layout: Layout::Chunked { chunk_s: 5.0, extension: "mp4".into() },
        clips: vec![Clip { end_s: 14.0, ..clip("v") }],
        ..source(root.path(), 0)
    };
    let decoder = FakeDecoder::default();
    let log = Arc::clone(&decoder.log);
    // One thread, so that the log has the reads of a clip one after another.
    let config = LoaderConfig { batch_size: 1, frames: 8, flip: 0.5, workers: 1, ..small() };
    assert_eq!(all(train(&chunked, config, decoder).unwrap()).len(), 3);
    let log = log.lock().unwrap();
    assert_eq!(log.len(), 9);
    let mut crops = HashSet::new();
    for clip in log.chunks(3) {
        assert!(clip.iter().all(|read| (read.2, read.3) == (clip[0].2, clip[0].3)));
        assert_eq!(clip.iter().map(|read| read.1.len()).sum::<usize>(), 8);
        crops.insert(clip[0].2);
    }
    assert!(crops.len() > 1, "a new crop each epoch");
}

#[test]
fn captions_follow_the_source() {
    let root = tempfile::tempdir().unwrap();
    let mut many = source(root.path(), 4);
    for clip in &mut many.clips {
        clip.captions = Captions::Many(["a", "b", "c"].map(Into::into).into());
    }
    let captions = |captions: Vec<CaptionChoice>| -> Vec<String> {
        let config = LoaderConfig { captions, ..small() };
        let batches = all(train(&many, config, FakeDecoder::default()).unwrap());
        batches.into_iter().flat_map(|batch| batch.1).collect()
    };
    let joined = captions(vec![CaptionChoice::Concat]);
    assert!(joined.iter().all(|caption| caption == "a. b. c"));
    let drawn = captions(Vec::new());
    assert_eq!(drawn, captions(vec![CaptionChoice::Random]));
    assert_eq!(drawn.iter().collect::<HashSet<_>>().len(), 3, "{drawn:?}");
}

#[test]
fn a_panic_is_an_error_not_a_hang() {
    let root = tempfile::tempdir().unwrap();
    let source = source(root.path(), 4);
    let decoder = FakeDecoder::with(&[("2", Behaviour::Panics)]);
    let mut loader = train(&source, small(), decoder).unwrap();
    let error = loader.next().unwrap().unwrap_err();
    let text = error.to_string();
    assert!(text.contains("sample 2") && text.contains("fell over"), "{text}");
    assert!(loader.next().is_none());
}

#[test]
fn a_clip_that_hangs_is_replaced() {
    let root = tempfile::tempdir().unwrap();
    let source = source(root.path(), 12);
    let config = LoaderConfig { timeout: Duration::from_millis(500), epochs: 1, ..small() };
    let begin = Instant::now();
    let decoder = || FakeDecoder::with(&[("2", Behaviour::Hangs)]);
    let mut loader = train(&source, config.clone(), decoder()).unwrap();
    let batches: Vec<_> = loader.by_ref().map(|b| content(b.unwrap())).collect();
    assert_eq!(batches.len(), 3);
    assert!(begin.elapsed() < Duration::from_secs(3));
    assert!(loader.waited() > Duration::from_millis(400));
    assert_eq!(loader.failures().kinds().collect::<Vec<_>>(), [("timeout", 1)]);
    assert!(batches.iter().all(|batch| !batch.2.contains(&2)));
    // All but the slot that hung is as it would have been.
    let failing = FakeDecoder::with(&[("2", Behaviour::Fails)]);
    assert_eq!(batches, all(train(&source, config.clone(), failing).unwrap()));

    let mut left_out = eval(&source, config, decoder());
    assert_eq!(left_out.next().unwrap().unwrap().bad, [2]);
}

#[test]
fn a_store_that_hangs_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    let source = source(root.path(), 12);
    let names: Vec<String> = (0..12).map(|number| number.to_string()).collect();
    let hang: Vec<_> = names.iter().map(|name| (&**name, Behaviour::Hangs)).collect();
    let config = LoaderConfig { timeout: Duration::from_millis(100), ..small() };
    let mut loader = train(&source, config, FakeDecoder::with(&hang)).unwrap();
    let error = loader.next().unwrap().unwrap_err();
    assert!(matches!(error, LoaderError::Stalled { .. }), "{error}");
}

#[test]
fn dropping_the_loader_ends_its_threads() {
    let root = tempfile::tempdir().unwrap();
    let source = source(root.path(), 400);
    let names: Vec<String> = (0..400).map(|number| number.to_string()).collect();
    let slow = Behaviour::Takes(Duration::from_millis(20));
    let slow: Vec<_> = names.iter().map(|name| (&**name, slow)).collect();
    let decoder = Arc::new(FakeDecoder::with(&slow));
    let config = LoaderConfig { batch_size: 100, prefetch: 4, ..small() };
    let start = Position::default();
    let shared: Arc<dyn Decoder> = Arc::clone(&decoder) as _;
    let loader = Loader::train_with([source].into(), config, start, shared).unwrap();
    std::thread::sleep(Duration::from_millis(30));
    let begin = Instant::now();
    drop(loader);
    // All of the batches ahead would take 4 s.
    assert!(begin.elapsed() < Duration::from_secs(2));
    assert_eq!(Arc::strong_count(&decoder), 1);
}

#[test]
fn settings_out_of_range_are_named() {
    let root = tempfile::tempdir().unwrap();
    let source = source(root.path(), 8);
    let fails = |change: fn(&mut LoaderConfig)| {
        let mut config = small();
        change(&mut config);
        let result = train(&source, config, FakeDecoder::default());
        result.err().expect("the setting is out of range").to_string()
    };
    assert!(fails(|c| c.batch_size = 0).contains("batch_size"));
    assert!(fails(|c| c.frames = 0).contains("frames"));
    assert!(fails(|c| c.size_px = 0).contains("size_px"));
    assert!(fails(|c| c.prefetch = 0).contains("prefetch"));
    assert!(fails(|c| c.crop_scale = [0.5, 1.5]).contains("crop_scale"));
    assert!(fails(|c| c.crop_ratio = [2.0, 1.0]).contains("crop_ratio"));
    assert!(fails(|c| c.flip = f64::NAN).contains("flip"));
    assert!(fails(|c| c.repeats = 3).contains("repeats"));
    assert!(fails(|c| c.repeats = 0).contains("repeats"));
    assert!(fails(|c| c.views = 0).contains("views"));
    assert!(fails(|c| c.crops = 1000).contains("crops"));
    assert!(fails(|c| c.frame_rule = FrameRule::Window { stride: 0 }).contains("stride"));
    assert!(fails(|c| c.max_bad_share = 2.0).contains("max_bad_share"));
    assert!(fails(|c| c.frames = usize::MAX / 2).contains("fits in memory"));
    assert!(fails(|c| c.batch_size = 9).contains("8 clips do not fill a batch of 9"));

    let start = Position { epoch: 1, batch: 2 };
    let decoder = Arc::new(FakeDecoder::default());
    let late = Loader::train_with([source.clone()].into(), small(), start, decoder);
    let text = late.err().unwrap().to_string();
    assert!(text.contains("batch 2 of epoch 1") && text.contains("2 batches"), "{text}");

    let empty = Source { clips: Vec::new(), ..source };
    assert_eq!(all(eval(&empty, small(), FakeDecoder::default())).len(), 0);
}

/// A source of `count` labelled videos `0.mp4`, `1.mp4`, ...: class `number % 3`.
fn labelled(root: &Path, count: usize) -> Source {
    let clip = |number: usize| Clip::labelled(number.to_string().into(), number as u32 % 3);
    Source { clips: (0..count).map(clip).collect(), ..source(root, count) }
}

#[test]
fn labels_come_with_their_clips() {
    let root = tempfile::tempdir().unwrap();
    let source = labelled(root.path(), 10);
    std::fs::remove_file(root.path().join("4.mp4")).unwrap();
    let mut batches = 0;
    for batch in train(&source, small(), FakeDecoder::default()).unwrap() {
        let batch = batch.unwrap();
        let expected: Vec<u32> = batch.samples.iter().map(|sample| *sample as u32 % 3).collect();
        assert_eq!(batch.labels, expected);
        assert_eq!(batch.views, [0; 4]);
        batches += 1;
    }
    assert_eq!(batches, 6);
    let left_out: Vec<u32> = eval(&source, small(), FakeDecoder::default()).flat_map(|b| b.unwrap().labels).collect();
    assert_eq!(left_out, [0, 1, 2, 0, 2, 0, 1, 2, 0]);
    // One clip without a label, and there are none.
    let mut mixed = source.clone();
    mixed.clips[3].label = None;
    assert!(train(&mixed, small(), FakeDecoder::default()).unwrap().all(|batch| batch.unwrap().labels.is_empty()));
}

#[test]
fn repeated_clips_are_drawn_independently() {
    let root = tempfile::tempdir().unwrap();
    let source = labelled(root.path(), 20);
    let config = LoaderConfig { batch_size: 8, repeats: 2, flip: 0.5, ..small() };
    let run = |config: &LoaderConfig| train(&source, config.clone(), FakeDecoder::default()).unwrap();
    assert_eq!(run(&config).batches_per_epoch(), 5);
    let (mut epoch, mut differ) = (Vec::new(), 0);
    for batch in run(&config).take(5) {
        let batch = batch.unwrap();
        assert_eq!(batch.views, [0, 1, 0, 1, 0, 1, 0, 1]);
        let clip = |slot: usize| &batch.frames[slot * 2 * 8 * 8 * 3..][..2 * 8 * 8 * 3];
        for pair in (0..8).step_by(2) {
            assert_eq!(batch.samples[pair], batch.samples[pair + 1]);
            differ += usize::from(clip(pair) != clip(pair + 1));
            epoch.push(batch.samples[pair]);
        }
    }
    assert_eq!(epoch.iter().collect::<HashSet<_>>().len(), 20, "each clip once an epoch, {epoch:?}");
    assert!(differ > 18, "{differ}");
    // The first repetition is what a run without repetitions sees, in the same order.
    let once = LoaderConfig { batch_size: 4, repeats: 1, ..config.clone() };
    for (twice, once) in run(&config).zip(run(&once)) {
        let (twice, once) = (twice.unwrap(), once.unwrap());
        let firsts = twice.frames.chunks(2 * 8 * 8 * 3).step_by(2).flatten();
        assert!(firsts.eq(once.frames.iter()));
        assert_eq!(twice.next, once.next);
    }
}

#[test]
fn repeats_and_changes_do_not_depend_on_threads_and_resume() {
    let root = tempfile::tempdir().unwrap();
    let (narrated, decoder) = troubled(root.path());
    let clips = (0..narrated.clips.len()).map(|number| Clip::labelled(number.to_string().into(), number as u32));
    let source = Source { clips: clips.collect(), ..narrated };
    let mut recipe = Recipe::load("videomae-vitb16-k400-finetune", &[]).unwrap().recipe;
    recipe.augment.erasing = 0.5;
    let config = LoaderConfig::default().with_recipe(&recipe);
    assert_eq!((config.frames, config.frame_rule), (16, FrameRule::Window { stride: 4 }));
    assert_eq!((config.views, config.crops, config.flip), (5, 3, 0.5));
    let config = LoaderConfig { batch_size: 6, repeats: 3, size_px: 16, epochs: 2, max_bad_share: 1.0, ..config };
    let run = |workers, prefetch, start| {
        let config = LoaderConfig { workers, prefetch, ..config.clone() };
        all(Loader::train_with([source.clone()].into(), config, start, Arc::new(decoder())).unwrap())
    };
    let whole = run(1, 1, Position::default());
    assert_eq!(whole.len(), 22);
    assert_eq!(run(5, 4, Position::default()), whole);
    for stop in [0, 4, 10, 17] {
        assert_eq!(run(2, 2, whole[stop].5), whole[stop + 1..], "after batch {stop}");
    }
    // The decoder paints frames in one colour: RandAugment and noise were at work.
    let plain = LoaderConfig { augment: Augment::default(), ..config };
    let unchanged = all(Loader::train_with([source].into(), plain, Position::default(), Arc::new(decoder())).unwrap());
    let changed = whole.iter().zip(&unchanged).filter(|(a, b)| a.0 != b.0).count();
    assert_eq!(changed, 22);
    assert!(whole.iter().zip(&unchanged).all(|(a, b)| a.2 == b.2));
}

#[test]
fn evaluation_expands_clips_into_views() {
    let root = tempfile::tempdir().unwrap();
    let source = labelled(root.path(), 3);
    std::fs::remove_file(root.path().join("1.mp4")).unwrap();
    let config = LoaderConfig {
        batch_size: 4,
        frame_rule: FrameRule::Dense { stride: 4, jitter: false },
        frames: 16,
        views: 2,
        crops: 3,
        ..small()
    };
    let decoder = FakeDecoder::default();
    let log = Arc::clone(&decoder.log);
    // One thread, so that the log is in order.
    let batches: Vec<ClipBatch> =
        eval(&source, LoaderConfig { workers: 1, ..config }, decoder).map(Result::unwrap).collect();
    assert_eq!(batches.len(), 5);
    let entries: Vec<_> = batches.iter().flat_map(|batch| batch.samples.iter().zip(&batch.views)).collect();
    let expected: Vec<(u64, u32)> = [0, 2].into_iter().flat_map(|clip| (0..6).map(move |view| (clip, view))).collect();
    assert!(entries.iter().map(|(clip, view)| (**clip, **view)).eq(expected), "{entries:?}");
    assert_eq!(
        batches.iter().flat_map(|batch| batch.labels.clone()).collect::<Vec<_>>(),
        [0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2]
    );
    assert_eq!(batches.iter().map(|batch| batch.bad.len()).sum::<usize>(), 6);
    // Frames 0 and 86 of 150 - 64; squares of 48 at 0, 8 and 16 of 64 pixels.
    let views: Vec<(u64, u32)> = log.lock().unwrap().iter().map(|(_, frames, crop, _)| (frames[0], crop.x)).collect();
    assert_eq!(views[..6], [(0, 0), (0, 8), (0, 16), (86, 0), (86, 8), (86, 16)]);
}

#[test]
fn a_short_video_starts_again_and_is_read_in_parts() {
    let root = tempfile::tempdir().unwrap();
    let source = labelled(root.path(), 1);
    let decoder = FakeDecoder::default();
    let log = Arc::clone(&decoder.log);
    // 150 frames in steps of 20: 0 to 140 with jitter, then again.
    let config = LoaderConfig {
        batch_size: 1,
        frames: 16,
        epochs: 1,
        frame_rule: FrameRule::Dense { stride: 20, jitter: true },
        ..small()
    };
    assert_eq!(all(train(&source, config, decoder).unwrap()).len(), 1);
    let parts: Vec<Vec<u64>> = log.lock().unwrap().iter().map(|read| read.1.clone()).collect();
    assert!(parts.len() >= 2 && parts.iter().all(|part| part.is_sorted()), "{parts:?}");
    assert_eq!(parts.iter().map(Vec::len).sum::<usize>(), 16);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Whatever the sizes: every sample at most once an epoch, and a resumed run equals the rest of a whole one.
    #[test]
    fn any_run_can_be_resumed(
        clips in 1usize..30,
        batch_size in 1usize..8,
        seed in any::<u64>(),
        stop in any::<prop::sample::Index>(),
    ) {
        prop_assume!(clips >= batch_size);
        let root = tempfile::tempdir().unwrap();
        let source = source(root.path(), clips);
        let config = LoaderConfig { seed, batch_size, epochs: 2, ..small() };
        let whole = all(train(&source, config.clone(), FakeDecoder::default()).unwrap());
        prop_assert_eq!(whole.len(), 2 * (clips / batch_size));
        for epoch in 0..2 {
            let samples = whole.iter().filter(|b| b.4.epoch == epoch).flat_map(|b| &b.2);
            let samples: Vec<_> = samples.collect();
            let distinct: HashSet<_> = samples.iter().collect();
            prop_assert_eq!(distinct.len(), samples.len());
        }
        let stop = stop.index(whole.len());
        let decoder = Arc::new(FakeDecoder::default());
        let rest = Loader::train_with([source].into(), config, whole[stop].5, decoder).unwrap();
        prop_assert_eq!(all(rest), &whole[stop + 1..]);
    }
}
