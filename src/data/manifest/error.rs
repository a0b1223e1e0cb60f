//! What can be wrong with a manifest, or with the files it speaks of.

use super::VERSION;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("cannot read {}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error(
        "{}: line {line} is damaged: {reason}. Put a copy of the file in its place, or delete it and run the same \
         `avion prepare` command again, which makes all videos anew",
        path.display()
    )]
    Damaged { path: PathBuf, line: usize, reason: String },
    #[error(
        "{}: made by another version of avion: format {found}, this one reads {VERSION}. Use that version, or prepare \
         the videos again into another folder",
        path.display()
    )]
    Version { path: PathBuf, found: u64 },
    #[error(
        "{}: {wrong} of {files} video files are not as the manifest says: {examples}. Run the `avion prepare` command that \
         made them again: it makes these anew, and leaves the others",
        path.display()
    )]
    Files { path: PathBuf, wrong: usize, files: usize, examples: String },
    #[error(
        "{} was prepared in chunks of {found} s, the recipe says chunk_s = {expected}: set it to {found}",
        path.display()
    )]
    ChunkLength { path: PathBuf, found: u32, expected: f64 },
    #[error(
        "{} holds videos of an `avion prepare` that did not end, and no manifest: run the same command again, it goes \
         on where it stopped",
        folder.display()
    )]
    Unfinished { folder: PathBuf },
}
