//! The videos in a folder.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

/// Endings of files that are taken for videos, in any case.
pub const VIDEO_ENDINGS: [&str; 13] =
    ["mp4", "mkv", "avi", "webm", "mov", "m4v", "mpg", "mpeg", "ts", "flv", "wmv", "3gp", "ogv"];

/// The videos of a folder, to any depth, in order; without those of the folder `skip`, whose path is canonical.
///
/// # Errors
/// The first folder that cannot be read, and why.
pub fn videos(folder: &Path, skip: Option<&Path>) -> Result<Vec<PathBuf>, (PathBuf, io::Error)> {
    let mut paths = Vec::new();
    walk(folder, skip, &mut HashSet::new(), &mut paths)?;
    paths.sort();
    Ok(paths)
}

fn walk(
    folder: &Path,
    skip: Option<&Path>,
    seen: &mut HashSet<PathBuf>,
    paths: &mut Vec<PathBuf>,
) -> Result<(), (PathBuf, io::Error)> {
    let read = |source| (folder.to_owned(), source);
    // Links may lead in circles.
    let real = folder.canonicalize().map_err(read)?;
    if skip == Some(&*real) || !seen.insert(real) {
        return Ok(());
    }
    for entry in std::fs::read_dir(folder).map_err(read)? {
        let path = entry.map_err(read)?.path();
        if path.is_dir() {
            walk(&path, skip, seen, paths)?;
        } else if path
            .extension()
            .and_then(OsStr::to_str)
            .is_some_and(|ending| VIDEO_ENDINGS.contains(&&*ending.to_lowercase()))
        {
            paths.push(path);
        }
    }
    Ok(())
}
