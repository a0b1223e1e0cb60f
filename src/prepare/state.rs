//! What has been prepared: the manifest, and a journal of what was done since it was written.
//!
//! A chunk is first a file under its name, then a line of the journal, each flushed to the disk. A process that is
//! killed leaves a journal whose last line may be cut off; that chunk is made again. At the end of a run all finished
//! videos go into the manifest, and the journal keeps the unfinished ones, or goes.

use super::error::PrepareError;
use crate::data::manifest::{self, Chunk, FILE, JOURNAL, Outcome, Settings, SourceFile, Video};
use crate::fs::{WriteError, write_atomic};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A video that is not finished: what it is made from and will be, and the chunks that are there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Begun {
    pub video: String,
    pub source: SourceFile,
    pub fps: [u32; 2],
    pub width: u32,
    pub height: u32,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub chunks: BTreeMap<usize, Chunk>,
}

/// How far a video is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    Begun(Begun),
    Done(Video),
}

/// A line of the journal.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Record {
    Settings(Settings),
    Begun(Begun),
    Chunk { video: String, number: usize, chunk: Chunk },
    Done(Video),
}

/// The videos of an output folder; shared by all threads.
#[derive(Debug)]
pub struct State {
    folder: PathBuf,
    pub settings: Settings,
    inner: Mutex<Inner>,
    /// Locked as long as this process works here.
    _lock: Lock,
}

/// A locked folder. Unlocked by word: closing alone leaves it to a child that another thread is just starting, which
/// holds a copy of the handle for a moment.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // The process's end does the same.
        let _ = self.0.unlock();
    }
}

#[derive(Debug)]
struct Inner {
    videos: BTreeMap<String, Stage>,
    journal: File,
    journal_bytes: u64,
}

/// What a folder holds.
#[derive(Debug, Default)]
pub struct Found {
    pub settings: Option<Settings>,
    pub videos: BTreeMap<String, Stage>,
    /// Bytes of the journal that are whole lines.
    journal_bytes: u64,
}

impl Found {
    /// Reads manifest and journal; there may be neither.
    ///
    /// # Errors
    /// When either is damaged, or they were made with different settings.
    pub fn read(folder: &Path) -> Result<Found, PrepareError> {
        let mut found = Found::default();
        let path = folder.join(FILE);
        if path.is_file() {
            let header = manifest::read(&path, |_, video| {
                found.videos.insert(video.video.clone(), Stage::Done(video));
            })?;
            found.settings = Some(header.settings);
        }
        found.replay(&folder.join(JOURNAL))?;
        Ok(found)
    }

    /// The same, if it was made with `settings`.
    ///
    /// # Errors
    /// The settings that differ.
    pub fn with(self, folder: &Path, settings: &Settings) -> Result<Found, PrepareError> {
        if let Some(known) = self.settings.as_ref().filter(|known| *known != settings) {
            let differences = known.differences(settings).join("; ");
            return Err(PrepareError::Settings { path: folder.to_owned(), differences });
        }
        Ok(self)
    }

    fn replay(&mut self, path: &Path) -> Result<(), PrepareError> {
        let text = match std::fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(PrepareError::Read { path: path.to_owned(), source }),
            Ok(text) => text,
        };
        // What follows the last line break was cut off by a kill.
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        self.journal_bytes = whole as u64;
        for (number, line) in text[..whole].split_inclusive(|byte| *byte == b'\n').enumerate() {
            let damaged = |reason: String| PrepareError::Journal { path: path.to_owned(), line: number + 1, reason };
            let record = serde_json::from_slice(line).map_err(|error| damaged(error.to_string()))?;
            match record {
                Record::Settings(settings) => {
                    let known = self.settings.get_or_insert_with(|| settings.clone());
                    if *known != settings {
                        let differences = known.differences(&settings).join(", ");
                        return Err(damaged(format!("its settings are not the manifest's: {differences}")));
                    }
                }
                Record::Begun(begun) => {
                    self.videos.insert(begun.video.clone(), Stage::Begun(begun));
                }
                Record::Chunk { video, number, chunk } => match self.videos.get_mut(&video) {
                    Some(Stage::Begun(begun)) => {
                        begun.chunks.insert(number, chunk);
                    }
                    _ => return Err(damaged(format!("a chunk of {video:?}, which was not begun"))),
                },
                Record::Done(video) => {
                    self.videos.insert(video.video.clone(), Stage::Done(video));
                }
            }
        }
        Ok(())
    }
}

impl State {
    /// Opens a folder, which is made if it is not there, for a preparation with `settings`.
    ///
    /// # Errors
    /// Another process at work there, other settings, a damaged manifest or journal.
    pub fn open(folder: &Path, settings: Settings) -> Result<State, PrepareError> {
        let io = |source| WriteError::new("write to", folder, 0, source);
        std::fs::create_dir_all(folder).map_err(io)?;
        let lock = File::open(folder).map_err(io)?;
        // Disks that know no locks are used without.
        if let Err(std::fs::TryLockError::WouldBlock) = lock.try_lock() {
            return Err(PrepareError::Locked { path: folder.to_owned() });
        }
        let found = Found::read(folder)?.with(folder, &settings)?;
        let path = folder.join(JOURNAL);
        let open = || {
            let journal = File::options().create(true).append(true).open(&path)?;
            journal.set_len(found.journal_bytes)?;
            Ok(journal)
        };
        let journal = open().map_err(|source| WriteError::new("write", &path, 0, source))?;
        let inner = Inner { videos: found.videos, journal, journal_bytes: found.journal_bytes };
        let state = State { folder: folder.to_owned(), settings, inner: Mutex::new(inner), _lock: Lock(lock) };
        if found.journal_bytes == 0 {
            state.append(&Record::Settings(state.settings.clone()), |_| ())?;
        }
        Ok(state)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change is whole before the lock goes.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn stage(&self, video: &str) -> Option<Stage> {
        self.lock().videos.get(video).cloned()
    }

    /// Calls with every video, in order of names.
    pub fn each(&self, mut call: impl FnMut(&str, &Stage)) {
        self.lock().videos.iter().for_each(|(video, stage)| call(video, stage));
    }

    /// Forgets failures of videos that the input no longer has.
    pub fn forget_failed(&self, has: impl Fn(&str) -> bool) {
        let failed = |stage: &Stage| matches!(stage, Stage::Done(Video { result: Outcome::Failed(_), .. }));
        self.lock().videos.retain(|video, stage| has(video) || !failed(stage));
    }

    /// Notes a video whose chunks follow, or some of them.
    pub fn begin(&self, begun: Begun) -> Result<(), WriteError> {
        let stage = Stage::Begun(begun.clone());
        let name = begun.video.clone();
        self.append(&Record::Begun(begun), |videos| {
            videos.insert(name, stage);
        })
    }

    /// Notes a chunk that is on the disk.
    pub fn chunk(&self, video: &str, number: usize, chunk: Chunk) -> Result<(), WriteError> {
        self.append(&Record::Chunk { video: video.to_owned(), number, chunk }, |videos| {
            if let Some(Stage::Begun(begun)) = videos.get_mut(video) {
                begun.chunks.insert(number, chunk);
            }
        })
    }

    /// Notes a video that is finished or has failed.
    pub fn done(&self, video: Video) -> Result<(), WriteError> {
        let (name, stage) = (video.video.clone(), Stage::Done(video.clone()));
        self.append(&Record::Done(video), |videos| {
            videos.insert(name, stage);
        })
    }

    fn append(&self, record: &Record, change: impl FnOnce(&mut BTreeMap<String, Stage>)) -> Result<(), WriteError> {
        let path = self.folder.join(JOURNAL);
        let mut line = serde_json::to_vec(record).map_err(|error| WriteError::new("write", &path, 0, error.into()))?;
        line.push(b'\n');
        let mut inner = self.lock();
        let written = inner.journal.write_all(&line).and_then(|()| inner.journal.sync_data());
        if let Err(source) = written {
            // Half a line in the middle would be damage: best effort, the error is reported.
            let _ = inner.journal.set_len(inner.journal_bytes);
            return Err(WriteError::new("write", &path, line.len() as u64, source));
        }
        inner.journal_bytes += line.len() as u64;
        change(&mut inner.videos);
        Ok(())
    }

    /// Writes the manifest, and leaves of the journal only what is unfinished. `complete`: nothing of the input is missing.
    ///
    /// # Errors
    /// [`WriteError`]; manifest and journal together then still say all.
    pub fn close(self, complete: bool) -> Result<(), WriteError> {
        let inner = self.inner.into_inner().unwrap_or_else(PoisonError::into_inner);
        let (mut done, mut begun) = (Vec::new(), Vec::new());
        for stage in inner.videos.values() {
            match stage {
                Stage::Done(video) => done.push(video),
                Stage::Begun(video) => begun.push(video.clone()),
            }
        }
        manifest::write(&self.folder.join(FILE), &self.settings, complete && begun.is_empty(), done.into_iter())?;
        let path = self.folder.join(JOURNAL);
        if begun.is_empty() {
            return std::fs::remove_file(&path).map_err(|source| WriteError::new("remove", &path, 0, source));
        }
        write_atomic(&path, |out| {
            for record in [Record::Settings(self.settings)].into_iter().chain(begun.into_iter().map(Record::Begun)) {
                serde_json::to_writer(&mut *out, &record)?;
                out.write_all(b"\n")?;
            }
            Ok(())
        })
    }
}

impl Stage {
    pub fn source(&self) -> &SourceFile {
        match self {
            Self::Begun(begun) => &begun.source,
            Self::Done(video) => &video.source,
        }
    }

    /// The chunks that are said to be on the disk, as those of an unfinished video; `None` after a failure.
    pub fn into_begun(self) -> Option<Begun> {
        match self {
            Self::Begun(begun) => Some(begun),
            Self::Done(Video { video, source, result: Outcome::Ready(ready) }) => {
                let chunks = ready.chunks.into_iter().enumerate().collect();
                Some(Begun { video, source, fps: ready.fps, width: ready.width, height: ready.height, chunks })
            }
            Self::Done(_) => None,
        }
    }
}
