//! The files of a set: which are there, which can be opened, what they are.

use super::Spread;
use crate::data::layout::{ClipError, ClipFiles, FileInfo};
use crate::data::loader::{DecodeError, Decoder, LoaderConfig, default_workers};
use crate::data::rng::{Purpose, keyed};
use crate::data::sampler::FileSamples;
use crate::data::{Clip, Source};
use rand::seq::SliceRandom;
use serde::Serialize;
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What was found of a set's files.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct FileStats {
    /// Files that clips begin in, there or not.
    pub named: u64,
    /// Of those, looked into; the clips in them are checked as training would.
    pub opened: u64,
    /// Clips whose files are missing, or whose times cannot be: of all clips.
    pub missing: BTreeMap<&'static str, BadClips>,
    /// Clips whose files are there but cannot be used, of those checked. Only decoding shows damage within a stream.
    pub unreadable: BTreeMap<&'static str, BadClips>,
    /// Clips that were checked.
    pub checked: u64,
    /// What could be opened, a file once.
    pub found: Found,
    /// Seconds of an opened file.
    pub durations_s: Option<Spread>,
}

/// Clips that are bad for one reason.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BadClips {
    pub clips: u64,
    /// One of them, in words.
    pub example: String,
}

/// Files that could be opened, counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Found {
    pub files: u64,
    pub bytes: u64,
    /// Files by `WIDTHxHEIGHT` in pixels as shown, by frames a second, and by codec.
    pub sizes: BTreeMap<String, u64>,
    pub fps: BTreeMap<String, u64>,
    pub codecs: BTreeMap<String, u64>,
}

impl FileStats {
    /// Clips that are missing.
    pub fn num_missing(&self) -> u64 {
        self.missing.values().map(|bad| bad.clips).sum()
    }

    /// Clips that cannot be read, of those checked.
    pub fn num_unreadable(&self) -> u64 {
        self.unreadable.values().map(|bad| bad.clips).sum()
    }
}

/// All that threads find.
#[derive(Default)]
struct Finds {
    stats: FileStats,
    /// Clips that nothing is known against.
    usable: Vec<u32>,
    durations_s: Vec<f64>,
    known: HashSet<PathBuf>,
}

/// Looks for the files of all clips, and opens up to `sample` of them drawn by key. Also returns the source with only those
/// clips that nothing was found against.
pub(super) fn look(
    source: &Source,
    loader: &LoaderConfig,
    sample: usize,
    decoder: &dyn Decoder,
    progress: &(dyn Fn(f64) + Sync),
) -> (FileStats, Source) {
    let files = FileSamples::of(std::slice::from_ref(source));
    let groups: Vec<&[u32]> = files.iter().collect();
    let mut drawn: Vec<u32> = (0..groups.len() as u32).collect();
    drawn.shuffle(&mut keyed(0, 0, 0, Purpose::Sample));
    drawn.truncate(sample);
    let drawn: HashSet<u32> = drawn.into_iter().collect();

    let finds = Mutex::new(Finds::default());
    let next = AtomicUsize::new(0);
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(group) = groups.get(number) else { return };
            let open = drawn.contains(&(number as u32));
            look_into(source, group, loader, open.then_some(decoder), &finds);
            if number.is_multiple_of(64) || open {
                progress(number as f64 / groups.len() as f64);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..default_workers() {
            scope.spawn(work);
        }
    });
    let Finds { stats, mut usable, durations_s, .. } = finds.into_inner().unwrap_or_else(PoisonError::into_inner);
    usable.sort_unstable();
    let clips = usable.into_iter().map(|clip| source.clips[clip as usize].clone()).collect();
    let (named, opened) = (groups.len() as u64, drawn.len() as u64);
    let stats = FileStats { named, opened, durations_s: Spread::of(durations_s), ..stats };
    (
        stats,
        Source {
            clips,
            root: source.root.clone(),
            layout: source.layout.clone(),
            name: source.name.clone(),
            ..*source
        },
    )
}

/// Looks for the files of clips; with a decoder, opens them and plans the clips' frames as training does.
fn look_into(
    source: &Source,
    clips: &[u32],
    loader: &LoaderConfig,
    decoder: Option<&dyn Decoder>,
    finds: &Mutex<Finds>,
) {
    let mut opened = BTreeMap::new();
    for number in clips {
        let clip = &source.clips[*number as usize];
        let files = match ClipFiles::locate(source, clip) {
            Ok(files) => files,
            Err(error) => {
                note(&mut locked(finds).stats.missing, &error);
                continue;
            }
        };
        let planned = decoder.map(|decoder| {
            plan(source, clip, &files, loader, |path| {
                let known = opened.entry(path.to_owned()).or_insert_with(|| open(decoder, path, finds));
                known.clone()
            })
        });
        let finds = &mut *locked(finds);
        finds.stats.checked += u64::from(planned.is_some());
        match planned {
            Some(Err(error)) => note(&mut finds.stats.unreadable, &error),
            Some(Ok(())) | None => finds.usable.push(*number),
        }
    }
}

/// Whether the loader could plan the clip's frames.
fn plan(
    source: &Source,
    clip: &Clip,
    files: &ClipFiles,
    loader: &LoaderConfig,
    mut open: impl FnMut(&Path) -> Result<(FileInfo, [u32; 2]), DecodeError>,
) -> Result<(), ClipError> {
    let mut look = |file: usize| {
        let path = &files.paths[file];
        open(path).map_err(|DecodeError { kind, reason }| ClipError::Decode { path: path.clone(), kind, reason })
    };
    let choose = |start, end| loader.frame_rule.view(start, end, loader.frames, 0, 1);
    let parts = files.plan(clip, source.fps, loader.frames, choose, |file| Ok(look(file)?.0))?;
    let expected = look(0)?.1;
    for part in parts {
        let found = look(part.file)?.1;
        if found != expected {
            return Err(ClipError::SizeMismatch { path: files.paths[part.file].clone(), found, expected });
        }
    }
    Ok(())
}

/// Opens a file, and counts it if it is new.
fn open(decoder: &dyn Decoder, path: &Path, finds: &Mutex<Finds>) -> Result<(FileInfo, [u32; 2]), DecodeError> {
    let video = decoder.open(path)?;
    let (info, [width, height]) = (video.info(), video.size_px());
    drop(video);
    let (codec, bytes) = (codec(path), std::fs::metadata(path).map_or(0, |metadata| metadata.len()));
    let finds = &mut *locked(finds);
    if finds.known.insert(path.to_owned()) {
        let found = &mut finds.stats.found;
        found.files += 1;
        found.bytes += bytes;
        *found.sizes.entry(format!("{width}x{height}")).or_default() += 1;
        *found.fps.entry(rate(info.fps)).or_default() += 1;
        *found.codecs.entry(codec).or_default() += 1;
        if info.fps > 0.0 {
            finds.durations_s.push(info.frames as f64 / info.fps);
        }
    }
    Ok((info, [width, height]))
}

/// Two digits, none where they are zeros.
fn rate(fps: f64) -> String {
    format!("{fps:.2}").trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(feature = "video")]
fn codec(path: &Path) -> String {
    use ffmpeg_next::{format, media};
    let name = format::input(path).ok().and_then(|input| {
        let stream = input.streams().best(media::Type::Video)?;
        Some(stream.parameters().id().name().to_owned())
    });
    name.unwrap_or_else(|| "unknown".into())
}

#[cfg(not(feature = "video"))]
fn codec(_: &Path) -> String {
    "unknown".into()
}

fn note(bad: &mut BTreeMap<&'static str, BadClips>, error: &ClipError) {
    bad.entry(error.kind()).or_insert_with(|| BadClips { clips: 0, example: error.to_string() }).clips += 1;
}

fn locked(finds: &Mutex<Finds>) -> MutexGuard<'_, Finds> {
    // Counts that a thread was adding to when it died are off by one, no worse.
    finds.lock().unwrap_or_else(PoisonError::into_inner)
}
