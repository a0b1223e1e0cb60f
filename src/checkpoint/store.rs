//! The checkpoints of a run: saving, keeping the last few and the best, finding the newest sound.

use super::error::CheckpointError;
use super::folder::{self, Snapshot};
use super::state::TrainState;
use crate::fs::{WriteError, clean_leftovers, remove_folder, replace_folder, temporary_sibling, write_atomic};
use std::fmt;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

const FOLDER: &str = "checkpoints";
const BEST: &str = "best";
const LOCK: &str = ".lock";

/// The writer of a run's checkpoints; there is one at a time for each run folder.
///
/// A checkpoint is written as a hidden folder and renamed when it is complete and on the disk, so
/// that a kill at any moment leaves the old ones, or the old ones and the new one.
#[derive(Debug)]
pub struct CheckpointStore {
    folder: PathBuf,
    keep: usize,
    /// Held open: the system releases the lock however the process ends.
    _lock: File,
    /// What a killed run left behind and was cleaned up at the start.
    pub cleaned: Vec<PathBuf>,
}

/// The newest sound checkpoint, and newer or unreadable ones that were passed over.
#[derive(Debug)]
pub struct Latest {
    pub found: Option<(PathBuf, TrainState)>,
    pub skipped: Vec<Skipped>,
}

/// A checkpoint that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    pub path: PathBuf,
    pub reason: String,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.reason)
    }
}

/// Which checkpoint of a run to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    /// To go on training.
    Latest,
    /// To evaluate or export; the latest when no best is known.
    Best,
}

impl CheckpointStore {
    /// Opens (or makes) `run_dir/checkpoints`, keeping the newest `keep` (at least 1) and the best.
    /// Cleans up what a killed run left unfinished.
    ///
    /// # Errors
    /// [`CheckpointError::InUse`] when another process writes there, [`CheckpointError::Write`]
    /// when the folder cannot be made or cleaned.
    pub fn new(run_dir: &Path, keep: usize) -> Result<Self, CheckpointError> {
        let folder = run_dir.join(FOLDER);
        let lock = folder.join(LOCK);
        let opened = fs::create_dir_all(&folder).and_then(|()| File::create(&lock));
        let file = opened.map_err(|source| WriteError::new("make", &lock, 0, source))?;
        // Some network file systems cannot lock; then the user has to take care.
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(CheckpointError::InUse { path: run_dir.to_path_buf() });
        }
        let mut store = Self { cleaned: clean_leftovers(&folder)?, folder, keep: keep.max(1), _lock: file };
        store.repair_best()?;
        Ok(store)
    }

    /// Writes a checkpoint, marks it best if it is, and removes what need not be kept.
    /// A checkpoint of the same step is replaced.
    ///
    /// # Errors
    /// [`CheckpointError::Write`]; all earlier checkpoints are then still there.
    pub fn save(&mut self, snapshot: &Snapshot, is_best: bool) -> Result<PathBuf, CheckpointError> {
        let target = self.folder.join(folder_name(snapshot.state.step));
        let sequence = match self.by_age().last() {
            Some((newest, _)) => newest + 1,
            None => 1,
        };
        let fresh = temporary_sibling(&target);
        let written = fs::create_dir(&fresh)
            .map_err(|source| WriteError::new("make", &fresh, 0, source))
            .and_then(|()| folder::write(&fresh, snapshot, sequence))
            .and_then(|()| {
                replace_folder(&fresh, &target).map_err(|source| WriteError::new("write", &target, 0, source))
            });
        if let Err(error) = written {
            // Best effort: what stays is cleaned up at the next start.
            let _ = fs::remove_dir_all(&fresh);
            return Err(error.into());
        }
        if is_best {
            self.mark_best(&target)?;
        }
        self.remove_old()?;
        Ok(target)
    }

    /// Removes every checkpoint.
    ///
    /// # Errors
    /// [`CheckpointError::Write`] naming the folder that could not be removed.
    pub fn clear(&mut self) -> Result<(), CheckpointError> {
        for path in folders(&self.folder)? {
            remove_folder(&path).map_err(|source| WriteError::new("remove", &path, 0, source))?;
        }
        let marker = self.folder.join(BEST);
        match fs::remove_file(&marker) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(WriteError::new("remove", &marker, 0, source).into())
            }
            _ => Ok(()),
        }
    }

    /// As [`latest_valid`] of this run.
    ///
    /// # Errors
    /// [`CheckpointError::Read`] when the folder cannot be read.
    pub fn latest_valid(&self) -> Result<Latest, CheckpointError> {
        latest_in(&self.folder)
    }

    /// The checkpoint that is marked best.
    pub fn best(&self) -> Option<PathBuf> {
        best_in(&self.folder)
    }

    fn mark_best(&self, path: &Path) -> Result<(), CheckpointError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let marker = self.folder.join(BEST);
        Ok(write_atomic(&marker, |out| writeln!(out, "{name}"))?)
    }

    /// A kill after the folder's rename and before the marker's leaves the newest checkpoint best
    /// by its own account but not marked.
    fn repair_best(&mut self) -> Result<(), CheckpointError> {
        let Some((_, newest)) = self.by_age().pop() else {
            return Ok(());
        };
        let Ok(manifest) = folder::read_manifest(&newest) else {
            return Ok(());
        };
        let state = manifest.state;
        let is_best = state.best.is_some_and(|best| best.step == state.step);
        match is_best && self.best().as_deref() != Some(newest.as_path()) {
            true => self.mark_best(&newest),
            false => Ok(()),
        }
    }

    fn remove_old(&self) -> Result<(), CheckpointError> {
        let best = self.best();
        let mut all = self.by_age();
        all.truncate(all.len().saturating_sub(self.keep));
        for (_, path) in all {
            if Some(&path) != best.as_ref() {
                remove_folder(&path).map_err(|source| WriteError::new("remove", &path, 0, source))?;
            }
        }
        Ok(())
    }

    /// Sequence and path of every checkpoint, oldest first; unreadable ones count as oldest.
    fn by_age(&self) -> Vec<(u64, PathBuf)> {
        let mut all: Vec<(u64, PathBuf)> = folders(&self.folder)
            .unwrap_or_default()
            .into_iter()
            .map(|path| {
                let manifest = folder::read_manifest(&path);
                (manifest.map_or(0, |manifest| manifest.sequence), path)
            })
            .collect();
        all.sort();
        all
    }
}

/// The newest checkpoint of a run whose files are all as they were written. Nothing is written.
///
/// # Errors
/// [`CheckpointError::Read`] when the folder cannot be read; a run without checkpoints is no error.
pub fn latest_valid(run_dir: &Path) -> Result<Latest, CheckpointError> {
    latest_in(&run_dir.join(FOLDER))
}

/// Finds the checkpoint that a path means: a checkpoint folder itself, a run's folder, or its
/// `checkpoints` folder. Damaged ones that were passed over are returned too. Nothing is written.
///
/// # Errors
/// [`CheckpointError::NoCheckpoint`] with the reasons, [`CheckpointError::Read`].
pub fn locate(path: &Path, pick: Pick) -> Result<(PathBuf, Vec<Skipped>), CheckpointError> {
    if folder::is_checkpoint(path) {
        return Ok((path.to_path_buf(), Vec::new()));
    }
    let below = path.join(FOLDER);
    let folder = if below.is_dir() { &below } else { path };
    let mut skipped = Vec::new();
    if let (Pick::Best, Some(best)) = (pick, best_in(folder)) {
        match folder::verify(&best) {
            Ok(_) => return Ok((best, skipped)),
            Err(error) => skipped.push(skip(best, &error)),
        }
    }
    let latest = latest_in(folder)?;
    for one in latest.skipped {
        if !skipped.contains(&one) {
            skipped.push(one);
        }
    }
    match latest.found {
        Some((found, _)) => Ok((found, skipped)),
        None => Err(CheckpointError::NoCheckpoint { path: path.to_path_buf(), skipped }),
    }
}

fn latest_in(folder: &Path) -> Result<Latest, CheckpointError> {
    let mut skipped = Vec::new();
    let mut candidates = Vec::new();
    for path in folders(folder)? {
        match folder::read_manifest(&path) {
            Ok(manifest) => candidates.push((manifest.sequence, path)),
            Err(error) => skipped.push(skip(path, &error)),
        }
    }
    candidates.sort();
    while let Some((_, path)) = candidates.pop() {
        match folder::verify(&path) {
            Ok(manifest) => {
                let found = Some((path, manifest.state));
                return Ok(Latest { found, skipped });
            }
            Err(error) => skipped.push(skip(path, &error)),
        }
    }
    Ok(Latest { found: None, skipped })
}

fn skip(path: PathBuf, error: &CheckpointError) -> Skipped {
    let reason = match error {
        CheckpointError::Damaged { reason, .. } => reason.clone(),
        other => other.to_string(),
    };
    Skipped { path, reason }
}

fn best_in(folder: &Path) -> Option<PathBuf> {
    let name = fs::read_to_string(folder.join(BEST)).ok()?;
    let path = folder.join(name.trim());
    // A marker that names anything else than a checkpoint here was not written by us.
    (is_folder_name(name.trim()) && path.is_dir()).then_some(path)
}

/// The checkpoint folders of a run, by step.
fn folders(folder: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(CheckpointError::read(folder))? {
        let path = entry.map_err(CheckpointError::read(folder))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_some_and(is_folder_name) && path.is_dir() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn folder_name(step: u64) -> String {
    format!("step-{step:08}")
}

fn is_folder_name(name: &str) -> bool {
    let digits = name.strip_prefix("step-").unwrap_or_default();
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}
