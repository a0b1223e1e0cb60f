//! Grouped sampling: clips of one file drawn together, and what it costs in variety.

use avion::data::layout::FileInfo;
use avion::data::loader::{ClipBatch, DecodeError, Decoder, Loader, LoaderConfig, LoaderError, OpenVideo};
use avion::data::sampler::Position;
use avion::data::{Captions, Clip, Layout, Source};
use avion::video::{CropBox, Read};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What happened to files: opened, or read by so many at once.
#[derive(Clone, Debug, PartialEq)]
enum Event {
    Opened(PathBuf),
    Pass(PathBuf, usize),
}

/// Frames are filled with a value that depends on the file, frame, crop and flip.
#[derive(Clone, Default)]
struct FakeDecoder {
    /// A read of several fails, or hangs, when one of them begins at this frame of any file.
    fails_at: Option<u64>,
    hangs_at: Option<u64>,
    events: Arc<Mutex<Vec<Event>>>,
}

struct FakeVideo {
    path: PathBuf,
    decoder: FakeDecoder,
}

impl Decoder for FakeDecoder {
    fn open(&self, path: &Path) -> Result<Box<dyn OpenVideo>, DecodeError> {
        self.events.lock().unwrap().push(Event::Opened(path.to_owned()));
        Ok(Box::new(FakeVideo { path: path.to_owned(), decoder: self.clone() }))
    }
}

impl OpenVideo for FakeVideo {
    fn size_px(&self) -> [u32; 2] {
        [64, 48]
    }

    fn info(&self) -> FileInfo {
        FileInfo { frames: 150, fps: 10.0 }
    }

    fn read(&mut self, frames: &[u64], crop: CropBox, _: u32, flip: bool, out: &mut [u8]) -> Result<(), DecodeError> {
        let within = |at: Option<u64>| at.is_some_and(|at| frames.iter().any(|frame| (at..at + 10).contains(frame)));
        if within(self.decoder.hangs_at) {
            std::thread::sleep(Duration::from_secs(2));
        }
        if within(self.decoder.fails_at) {
            return Err(DecodeError { kind: "broken", reason: format!("broken: {}", self.path.display()) });
        }
        let text = self.path.display().to_string();
        let file = text.bytes().fold(7u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        let bytes = out.len() / frames.len();
        for (out, frame) in out.chunks_exact_mut(bytes).zip(frames) {
            out.fill((file + frame * 3 + u64::from(crop.x + crop.width * 5) + u64::from(flip)) as u8);
        }
        Ok(())
    }

    fn read_each(&mut self, reads: &mut [Read], out_px: u32) -> Result<(), DecodeError> {
        self.decoder.events.lock().unwrap().push(Event::Pass(self.path.clone(), reads.len()));
        reads.iter_mut().try_for_each(|read| self.read(read.frames, read.crop, out_px, read.flip, read.out))
    }
}

/// `videos` videos of three chunks of 15 s, `clips` clips in each chunk, one a second, listed in no order.
fn source(root: &Path, videos: usize, clips: usize) -> Source {
    let mut list = Vec::new();
    for video in 0..videos {
        let folder = root.join(format!("v{video}.mp4"));
        std::fs::create_dir_all(&folder).unwrap();
        for chunk in 0..3 {
            std::fs::write(folder.join(format!("{}.mp4", chunk * 15)), "").unwrap();
            for clip in 0..clips {
                let start = (chunk * 15 + clip) as f64;
                list.push(Clip::narrated(
                    format!("v{video}").into(),
                    start,
                    start + 1.0,
                    Captions::One(format!("{video} {start}").into()),
                ));
            }
        }
    }
    // Coprime to the length: every clip once.
    let len = list.len();
    let clips = (0..len).map(|i| list[i * 101 % len].clone()).collect();
    Source {
        name: "fake".into(),
        root: root.to_owned(),
        layout: Layout::Chunked { chunk_s: 15.0, extension: "mp4".into() },
        fps: None,
        clips,
    }
}

fn config(group: usize) -> LoaderConfig {
    LoaderConfig {
        seed: 3,
        epochs: 2,
        batch_size: 16,
        frames: 2,
        size_px: 4,
        workers: 3,
        max_bad_share: 1.0,
        flip: 0.5,
        group,
        ..LoaderConfig::default()
    }
}

fn train(source: &Source, config: LoaderConfig, start: Position, decoder: &FakeDecoder) -> Loader {
    Loader::train_with([source.clone()].into(), config, start, Arc::new(decoder.clone())).unwrap()
}

type Content = (Vec<u8>, Vec<String>, Vec<u64>, Vec<u64>, Position);

fn all(loader: Loader) -> Vec<Content> {
    let content = |batch: Result<ClipBatch, LoaderError>| {
        let ClipBatch { frames, captions, samples, bad, next, .. } = batch.unwrap();
        (frames.to_vec(), captions.iter().map(|c| c.to_string()).collect(), samples, bad, next)
    };
    loader.map(content).collect()
}

#[test]
fn groups_do_not_depend_on_threads_and_resume_exactly() {
    let root = tempfile::tempdir().unwrap();
    let source = source(root.path(), 5, 8);
    let decoder = FakeDecoder { fails_at: Some(40), ..FakeDecoder::default() };
    let run = |workers, prefetch, start| {
        let config = LoaderConfig { workers, prefetch, ..config(4) };
        all(train(&source, config, start, &decoder))
    };
    let whole = run(1, 1, Position::default());
    assert_eq!(whole.len(), 2 * (5 * 3 * 8 / 16));
    assert_eq!(run(6, 3, Position::default()), whole);
    for stop in [0, 5, 6, 11] {
        assert_eq!(run(2, 2, whole[stop].4), whole[stop + 1..], "after batch {stop}");
    }
    for epoch in whole.chunks(7) {
        let samples: Vec<u64> = epoch.iter().flat_map(|batch| batch.2.clone()).collect();
        assert_eq!(samples.len(), 112);
    }
}

/// What a clip gives does not depend on its neighbours: neither its pixels nor whether it is bad.
#[test]
fn grouping_changes_the_order_only() {
    let root = tempfile::tempdir().unwrap();
    let source = source(root.path(), 4, 8);
    let decoder = FakeDecoder { fails_at: Some(40), ..FakeDecoder::default() };
    // One batch holds all, so that what is replaced by what can be compared.
    let by_sample = |group| {
        let config = LoaderConfig { batch_size: 96, epochs: 1, ..config(group) };
        let mut loader = train(&source, config, Position::default(), &decoder);
        let batch = loader.next().unwrap().unwrap();
        let bad: HashSet<u64> = batch.bad.iter().copied().collect();
        let clip = batch.frames.len() / 96;
        let clips = batch.samples.iter().zip(batch.frames.chunks(clip)).filter(|(sample, _)| !bad.contains(sample));
        let mut clips: Vec<(u64, Vec<u8>)> = clips.map(|(sample, frames)| (*sample, frames.to_vec())).collect();
        clips.sort();
        clips.dedup();
        let kinds: Vec<_> = loader.failures().kinds().collect();
        (clips, bad, kinds)
    };
    let (clips, bad, kinds) = by_sample(1);
    assert!(!bad.is_empty());
    assert_eq!(by_sample(4), (clips.clone(), bad.clone(), kinds.clone()));
    assert_eq!(by_sample(100), (clips, bad, kinds));
}

#[test]
fn a_group_opens_its_file_once_and_reads_it_in_one_pass() {
    let root = tempfile::tempdir().unwrap();
    let source = source(root.path(), 4, 8);
    let count = |group, repeats| {
        let decoder = FakeDecoder::default();
        let config = LoaderConfig { epochs: 1, repeats, ..config(group) };
        all(train(&source, config, Position::default(), &decoder));
        let events = decoder.events.lock().unwrap().clone();
        let opened = events.iter().filter(|event| matches!(event, Event::Opened(_))).count();
        let largest = events.iter().filter_map(|event| match event {
            Event::Pass(_, reads) => Some(*reads),
            Event::Opened(_) => None,
        });
        (opened, largest.max().unwrap_or(1))
    };
    let (alone, _) = count(1, 1);
    assert!((80..=96).contains(&alone), "{alone}"); // neighbours by chance share a file too, where they are let
    assert_eq!(count(1, 1).1, 1);
    // 12 files of 8 clips in groups of 4, cut anywhere: 2 or 3 pieces a file, and some are cut by the batch's end.
    let (grouped, largest) = count(4, 1);
    assert!((24..=42).contains(&grouped) && largest == 4, "{grouped} {largest}");
    // Repetitions lie in one file by themselves: 8 distinct clips a batch.
    let (repeated, largest) = count(1, 2);
    assert!(repeated <= 96 && largest == 2, "{repeated} {largest}");
}

#[test]
fn a_hang_in_a_group_costs_only_the_clip_that_hangs() {
    let root = tempfile::tempdir().unwrap();
    let source = source(root.path(), 2, 8);
    let config = LoaderConfig { timeout: Duration::from_millis(300), epochs: 1, workers: 6, ..config(4) };
    // Clips of a chunk's first 8 s do not ask for frames 100 to 109: make one that does.
    let mut source = source;
    (source.clips[5].start_s, source.clips[5].end_s) = (10.2, 10.9);
    let slow = FakeDecoder { hangs_at: Some(100), ..FakeDecoder::default() };
    let mut loader = train(&source, config.clone(), Position::default(), &slow);
    let found: Vec<Vec<u64>> = loader.by_ref().map(|batch| batch.unwrap().samples).collect();
    assert_eq!(loader.failures().kinds().collect::<Vec<_>>(), [("timeout", 1)]);
    let broken = FakeDecoder { fails_at: Some(100), ..FakeDecoder::default() };
    let expected = all(train(&source, config, Position::default(), &broken));
    assert!(expected.iter().any(|batch| batch.3 == [5]));
    assert_eq!(found, expected.into_iter().map(|batch| batch.2).collect::<Vec<_>>());
}

/// Share of the clips of a batch that have another of their video, and of their chunk, in it: a large set of 2,000
/// chunks of five clips, as Ego4D has, and batches of 256.
#[test]
fn what_grouping_does_to_a_batch() {
    let root = tempfile::tempdir().unwrap();
    let source = source(root.path(), 670, 5);
    let measure = |group| {
        let config = LoaderConfig { batch_size: 256, epochs: 1, ..config(group) };
        let (mut video, mut chunk, mut clips) = (0, 0, 0);
        for batch in train(&source, config, Position::default(), &FakeDecoder::default()).take(20) {
            let batch = batch.unwrap();
            let of = |sample: &u64| &source.clips[*sample as usize];
            let shares = |same: &dyn Fn(&Clip, &Clip) -> bool| {
                let has = |a: &&u64| batch.samples.iter().any(|b| b != *a && same(of(a), of(b)));
                batch.samples.iter().filter(has).count()
            };
            video += shares(&|a, b| a.video == b.video);
            chunk += shares(&|a, b| a.video == b.video && (a.start_s / 15.0) as u64 == (b.start_s / 15.0) as u64);
            clips += batch.samples.len();
        }
        [video, chunk].map(|count| f64::from(count as u32) / clips as f64)
    };
    let shares = [1, 2, 4].map(measure);
    for (group, [video, chunk]) in [1, 2, 4].into_iter().zip(shares) {
        println!("group {group}: {:.1}% share their video, {:.1}% their chunk", 100.0 * video, 100.0 * chunk);
    }
    let [[_, alone], [_, two], [_, four]] = shares;
    assert!(alone < 0.15 && two > 0.6 && four > 0.7, "{shares:?}");
}
