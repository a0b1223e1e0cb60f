//! What training knows of prepared videos before it opens one.

use super::{Chunk, FILE, ManifestError, Outcome, Settings};
use crate::data::layout::FileInfo;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Files that an error names.
const EXAMPLES: usize = 5;

/// Threads that look at files: on network disks each look takes long and costs no processor.
const LOOKERS: usize = 32;

/// What a preparation that goes on, or was killed, has done since the manifest was written: see `prepare::state`.
pub const JOURNAL: &str = "prepare.journal";

/// The videos of a folder that `avion prepare` made, by name.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    pub settings: Settings,
    videos: HashMap<Box<str>, Entry>,
}

#[derive(Clone, Debug, PartialEq)]
enum Entry {
    Ready { fps: [u32; 2], frames: u64, chunks: Box<[Chunk]> },
    Failed { reason: Box<str> },
}

/// Why a video, or a stretch of it, is not there.
#[derive(Clone, Debug, PartialEq)]
pub enum Absent {
    Unknown,
    Failed {
        reason: String,
    },
    /// The stretch begins after the video's end.
    Beyond {
        video_s: f64,
    },
}

/// A chunk file as the manifest describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct KnownFile {
    /// Below the folder.
    pub path: PathBuf,
    pub info: FileInfo,
    /// Number of its first frame in the whole video.
    pub first_frame: u64,
}

impl Prepared {
    /// Reads the manifest of a folder, if it holds one, and checks that every file is there in its size.
    ///
    /// # Errors
    /// A damaged manifest, files that differ from it, a preparation that did not end.
    pub fn find(folder: &Path) -> Result<Option<Prepared>, ManifestError> {
        let path = folder.join(FILE);
        if !path.is_file() {
            return match folder.join(JOURNAL).is_file() {
                true => Err(ManifestError::Unfinished { folder: folder.to_owned() }),
                false => Ok(None),
            };
        }
        let mut videos = HashMap::new();
        let header = super::read(&path, |_, video| {
            let entry = match video.result {
                Outcome::Ready(ready) => {
                    Entry::Ready { fps: ready.fps, frames: ready.frames(), chunks: ready.chunks.into() }
                }
                Outcome::Failed(failed) => Entry::Failed { reason: failed.reason.into() },
            };
            videos.insert(video.video.into_boxed_str(), entry);
        })?;
        if !header.complete {
            tracing::warn!(
                "{}: the preparation is not complete; run the same `avion prepare` command again",
                path.display()
            );
        }
        let prepared = Prepared { settings: header.settings, videos };
        prepared.check_files(folder)?;
        Ok(Some(prepared))
    }

    /// The files of the stretch `[start_s, end_s)` of a video, or of all of it.
    ///
    /// # Errors
    /// [`Absent`].
    pub fn files(&self, video: &str, stretch: Option<(f64, f64)>) -> Result<Vec<KnownFile>, Absent> {
        let (name, entry) = self.entry(video).ok_or(Absent::Unknown)?;
        let (fps, frames, chunks) = match entry {
            Entry::Ready { fps, frames, chunks } => (*fps, *frames, chunks),
            Entry::Failed { reason } => return Err(Absent::Failed { reason: reason.to_string() }),
        };
        let rate = f64::from(fps[0]) / f64::from(fps[1]);
        let video_s = frames as f64 / rate;
        let (first, last) = match (stretch, self.settings.chunk_s) {
            (None, _) | (_, 0) => (0, chunks.len() - 1),
            (Some((start_s, end_s)), seconds) => {
                let chunk = |time_s: f64| (time_s / f64::from(seconds)) as usize;
                (chunk(start_s), chunk(end_s).min(chunks.len() - 1))
            }
        };
        if first >= chunks.len() || stretch.is_some_and(|(start_s, _)| start_s >= video_s) {
            return Err(Absent::Beyond { video_s });
        }
        let known = |chunk: usize| KnownFile {
            path: self.settings.file(name, chunk).into(),
            info: FileInfo { frames: chunks[chunk].frames.into(), fps: rate },
            first_frame: self.settings.first_frame(chunk, fps),
        };
        Ok((first..=last).map(known).collect())
    }

    /// By name as annotations have it: with or without an ending.
    fn entry(&self, video: &str) -> Option<(&str, &Entry)> {
        let video = video.strip_prefix("./").unwrap_or(video);
        let known = |name: &str| self.videos.get_key_value(name).map(|(name, entry)| (&**name, entry));
        known(video).or_else(|| {
            let (stem, ending) = video.rsplit_once('.')?;
            known(stem).filter(|_| !ending.contains('/'))
        })
    }

    /// Looks at the size of every file.
    fn check_files(&self, folder: &Path) -> Result<(), ManifestError> {
        let ready = self.videos.iter().filter_map(|(name, entry)| match entry {
            Entry::Ready { chunks, .. } => Some((name, chunks)),
            Entry::Failed { .. } => None,
        });
        let mut ready: Vec<_> = ready.collect();
        ready.sort_by_key(|(name, _)| *name);
        let (next, wrong, files) = (AtomicUsize::new(0), Mutex::new(Vec::new()), AtomicUsize::new(0));
        let look = || {
            while let Some((name, chunks)) = ready.get(next.fetch_add(1, Ordering::Relaxed)) {
                files.fetch_add(chunks.len(), Ordering::Relaxed);
                for (number, chunk) in chunks.iter().enumerate() {
                    let file = self.settings.file(name, number);
                    let found = std::fs::metadata(folder.join(&file)).map(|found| found.len());
                    let problem = match found {
                        Ok(bytes) if bytes == chunk.bytes => continue,
                        Ok(bytes) => format!("{file} has {bytes} bytes instead of {}", chunk.bytes),
                        Err(error) if error.kind() == std::io::ErrorKind::NotFound => format!("{file} is missing"),
                        Err(error) => format!("{file}: {error}"),
                    };
                    wrong.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(problem);
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..LOOKERS.min(ready.len()) {
                scope.spawn(look);
            }
            look();
        });
        let mut wrong = wrong.into_inner().unwrap_or_default();
        if wrong.is_empty() {
            return Ok(());
        }
        wrong.sort();
        Err(ManifestError::Files {
            path: folder.join(FILE),
            wrong: wrong.len(),
            files: files.into_inner(),
            examples: wrong[..wrong.len().min(EXAMPLES)].join("; "),
        })
    }
}
