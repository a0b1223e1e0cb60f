//! What is fed to which reader. Two drivers share it: `tests/fuzz/engine.rs` in the usual test run, and libFuzzer
//! (`tools/fuzz`), guided by coverage.

pub mod checkpoints;
pub mod data;
#[cfg(feature = "video")]
pub mod prepared;
pub mod recipes;
#[cfg(feature = "video")]
pub mod video;

use crate::data::{repository, shared_data};
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Inputs are cut to this length: long enough for any header, short enough for thousands of tries a second.
const MAX_LEN: usize = 64 << 10;

/// A reader, what it is first given, and how it is treated.
pub struct Target {
    pub name: &'static str,
    pub seeds: Vec<Vec<u8>>,
    /// Longest that one input may take.
    pub limit: Duration,
    pub max_len: usize,
    run: Box<dyn FnMut(&[u8]) -> String>,
}

impl Target {
    /// `run` returns what came of an input in words: the error's text, or what was found.
    pub fn new(name: &'static str, seeds: Vec<Vec<u8>>, run: impl FnMut(&[u8]) -> String + 'static) -> Self {
        Self { name, seeds, limit: Duration::from_secs(20), max_len: MAX_LEN, run: Box::new(run) }
    }

    /// As [`Target::new`]; `run` gets the path of a file with the input.
    fn on_file(
        name: &'static str,
        seeds: Vec<Vec<u8>>,
        file: &'static str,
        mut run: impl FnMut(&Path) -> String + 'static,
    ) -> Self {
        let folder = tempfile::Builder::new().prefix(&format!("fuzz-{name}-")).tempdir().unwrap();
        Self::new(name, seeds, move |input| {
            let path = folder.path().join(file);
            std::fs::write(&path, input).unwrap();
            let text = run(&path);
            // A file that is written over is flushed by some file systems, which takes a millisecond.
            let _ = std::fs::remove_file(&path);
            // The folder's name is another one in each run.
            text.replace(&*folder.path().to_string_lossy(), "")
        })
    }

    pub fn run(&mut self, input: &[u8]) -> String {
        (self.run)(input)
    }
}

/// What came of an input, in words.
fn outcome<T: Debug, E: std::error::Error>(result: Result<T, E>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(error) => match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
    }
}

fn fixtures(folder: &str) -> PathBuf {
    repository().join("tests/fixtures").join(folder)
}

/// Real files, where there are any.
fn shared(folder: &str, endings: &[&str], max_len: usize) -> Vec<Vec<u8>> {
    shared_data().map(|data| files(&data.join(folder), endings, max_len)).unwrap_or_default()
}

/// The files of a folder with one of these endings, up to a length; none where there is no folder.
fn files(folder: &Path, endings: &[&str], max_len: usize) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut paths: Vec<PathBuf> =
        entries.filter(|path| endings.iter().any(|end| path.to_string_lossy().ends_with(end))).collect();
    paths.sort();
    let read = paths.iter().filter_map(|path| std::fs::read(path).ok());
    read.filter(|bytes| bytes.len() <= max_len).collect()
}
