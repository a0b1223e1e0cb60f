//! Files that are either the old ones or the new ones, never something between.
//!
//! A file is written under a temporary name in its own folder, flushed to the disk and renamed;
//! the folder is flushed last, so that the new name survives a power cut too. What a killed
//! process leaves behind carries a recognisable name and goes at the next start:
//! see [`clean_leftovers`].

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Why something could not be written. What stood there before is untouched.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error(
        "disk full: {path} needs {needed_bytes} bytes; the file that was there is unchanged. \
         Free some space or write elsewhere",
        path = path.display()
    )]
    DiskFull { path: PathBuf, needed_bytes: u64 },
    #[error("cannot {action} {path}", path = path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

impl WriteError {
    /// Attaches what was being done, and turns a full disk into [`WriteError::DiskFull`].
    pub fn new(action: &'static str, path: &Path, needed_bytes: u64, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path, needed_bytes },
            _ => Self::Io { action, path, source },
        }
    }
}

/// Writes a file in one piece: other processes see the old contents or the new, and so does the
/// next start after a crash. Missing folders are made.
///
/// # Errors
/// [`WriteError::DiskFull`] (naming the bytes asked for until then) and [`WriteError::Io`],
/// also for errors that `write` returns. The old file is then still there.
pub fn write_atomic(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), WriteError> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let temporary = temporary_sibling(path);
    let mut asked = 0;
    let attempt = || {
        fs::create_dir_all(folder)?;
        write_synced(&temporary, &mut asked, write)?;
        fs::rename(&temporary, path)?;
        sync_folder(folder)
    };
    attempt().map_err(|source| {
        // Best effort: the first error is the one to report.
        let _ = fs::remove_file(&temporary);
        WriteError::new("write", path, asked, source)
    })
}

/// Writes a new file and flushes it to the disk. `asked` counts the bytes handed over, written
/// or not.
pub fn write_synced(
    path: &Path,
    asked: &mut u64,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut writer = Counting { inner: BufWriter::with_capacity(1 << 20, File::create(path)?), asked };
    write(&mut writer)?;
    writer.flush()?;
    writer.inner.get_ref().sync_all()
}

/// Flushes a folder's list of names; on systems where folders cannot be opened it does nothing.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    match cfg!(unix) {
        true => File::open(path)?.sync_all(),
        false => Ok(()),
    }
}

/// Moves a finished folder to its name. A folder that has the name already is moved aside first
/// and removed last: killed in between, [`clean_leftovers`] puts it back.
pub fn replace_folder(finished: &Path, target: &Path) -> io::Result<()> {
    let parent = target.parent().unwrap_or(Path::new("."));
    let aside = sibling(target, "old");
    let had_one = target.exists();
    if had_one {
        fs::rename(target, &aside)?;
    }
    if let Err(error) = fs::rename(finished, target) {
        if had_one {
            fs::rename(&aside, target)?;
        }
        return Err(error);
    }
    sync_folder(parent)?;
    match had_one {
        true => fs::remove_dir_all(&aside),
        false => Ok(()),
    }
}

/// Removes a folder so that a kill in between leaves no half of it under its name.
pub fn remove_folder(path: &Path) -> io::Result<()> {
    let doomed = temporary_sibling(path);
    fs::rename(path, &doomed)?;
    fs::remove_dir_all(&doomed)
}

/// A name beside `path` for something unfinished.
pub fn temporary_sibling(path: &Path) -> PathBuf {
    sibling(path, "tmp")
}

/// Clears a folder (not what lies below) of what killed runs left: unfinished files and folders
/// go, a folder that was moved aside comes back when nothing took its place. Call it only where
/// no other process writes. Returns what was there.
///
/// # Errors
/// [`WriteError::Io`] when the folder cannot be read or a leftover not be removed.
pub fn clean_leftovers(folder: &Path) -> Result<Vec<PathBuf>, WriteError> {
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        move |source| WriteError::Io { action: "clean up", path, source }
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed(folder))? {
        let path = entry.map_err(failed(folder))?.path();
        let Some((original, kind)) = path.file_name().and_then(|n| leftover(n.to_str()?)) else {
            continue;
        };
        let original = folder.join(original);
        let clean = match kind {
            Leftover::MovedAside if !original.exists() => fs::rename(&path, &original),
            _ if path.is_dir() => fs::remove_dir_all(&path),
            _ => fs::remove_file(&path),
        };
        clean.map_err(failed(&path))?;
        found.push(path);
    }
    Ok(found)
}

#[derive(Debug, PartialEq)]
enum Leftover {
    Unfinished,
    MovedAside,
}

/// `.NAME.tmp-PID-COUNT` or `.NAME.old-PID-COUNT`.
fn sibling(path: &Path, kind: &str) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{kind}-{}-{count}", std::process::id()))
}

/// The original name and the kind of a name that [`sibling`] made.
fn leftover(name: &str) -> Option<(&str, Leftover)> {
    let (original, tail) = name.strip_prefix('.')?.rsplit_once('.')?;
    let (kind, numbers) = tail.split_once('-')?;
    let (process, count) = numbers.split_once('-')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let kind = match kind {
        "tmp" => Leftover::Unfinished,
        "old" => Leftover::MovedAside,
        _ => return None,
    };
    (is_number(process) && is_number(count) && !original.is_empty()).then_some((original, kind))
}

struct Counting<'a> {
    inner: BufWriter<File>,
    asked: &'a mut u64,
}

impl Write for Counting<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // `write_all` comes back with the rest of a short write: count what was taken, and all
        // of what failed.
        let taken = self.inner.write(bytes);
        *self.asked += *taken.as_ref().unwrap_or(&bytes.len()) as u64;
        taken
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn replaces_a_file_and_makes_folders() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/state.json");
        for text in ["old", "new and longer"] {
            write_atomic(&path, |out| out.write_all(text.as_bytes())).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(names(path.parent().unwrap()), ["state.json"]);
    }

    #[test]
    fn a_full_disk_keeps_the_old_file_and_says_what_was_needed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        fs::write(&path, "old").unwrap();
        let error = write_atomic(&path, |out| {
            out.write_all(&[7; 5000])?;
            Err(io::ErrorKind::StorageFull.into())
        })
        .unwrap_err();
        assert!(matches!(error, WriteError::DiskFull { needed_bytes: 5000, .. }));
        let text = error.to_string();
        assert!(text.contains("model.safetensors needs 5000 bytes"), "{text}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(names(folder.path()), ["model.safetensors"]);
    }

    /// The device that is always full gives the real error of a real disk.
    #[cfg(target_os = "linux")]
    #[test]
    fn the_systems_own_error_is_recognised() {
        let mut asked = 0;
        let error = write_synced(Path::new("/dev/full"), &mut asked, |out| out.write_all(&[0; 3 << 20])).unwrap_err();
        let error = WriteError::new("write", Path::new("x"), asked, error);
        assert!(matches!(error, WriteError::DiskFull { .. }), "{error}");
    }

    #[test]
    fn other_errors_name_path_and_cause() {
        let folder = tempfile::tempdir().unwrap();
        let blocked = folder.path().join("file");
        fs::write(&blocked, "").unwrap();
        let error = write_atomic(&blocked.join("x.json"), |_| Ok(())).unwrap_err();
        assert!(error.to_string().starts_with("cannot write "), "{error}");
    }

    #[test]
    fn leftovers_go_and_a_folder_moved_aside_returns() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at(".a.json.tmp-12-0"), "half").unwrap();
        fs::create_dir(at(".step-2.tmp-12-3")).unwrap();
        fs::write(at(".step-2.tmp-12-3/model"), "half").unwrap();
        fs::create_dir(at(".step-1.old-12-1")).unwrap();
        fs::create_dir(at(".step-3.old-12-2")).unwrap();
        fs::create_dir(at("step-3")).unwrap();
        for mine in [".hidden", "a.tmp-1-1", ".notes.tmp-x-1", ".tmp-1-1"] {
            fs::write(at(mine), "mine").unwrap();
        }
        assert_eq!(clean_leftovers(folder.path()).unwrap().len(), 4);
        assert_eq!(names(folder.path()), [".hidden", ".notes.tmp-x-1", ".tmp-1-1", "a.tmp-1-1", "step-1", "step-3"]);
    }

    #[test]
    fn replacing_a_folder_leaves_one() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("step-1");
        for text in ["one", "two"] {
            let fresh = temporary_sibling(&target);
            fs::create_dir(&fresh).unwrap();
            fs::write(fresh.join("model"), text).unwrap();
            replace_folder(&fresh, &target).unwrap();
            assert_eq!(fs::read_to_string(target.join("model")).unwrap(), text);
        }
        assert_eq!(names(folder.path()), ["step-1"]);
        remove_folder(&target).unwrap();
        assert!(names(folder.path()).is_empty());
    }
}
