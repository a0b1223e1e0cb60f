//! What can be wrong with an annotation file.

use crate::data::manifest::ManifestError;
use crate::data::pickle::{NumpyError, PickleError};
use std::path::{Path, PathBuf};

/// Where in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Element of a pickled list, from 0.
    Record(usize),
    /// Line of a text file, from 1.
    Line(u64),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Record(index) => write!(f, "record {index} (from 0)"),
            Place::Line(number) => write!(f, "line {number}"),
        }
    }
}

/// Why annotations could not be read.
#[derive(Debug, thiserror::Error)]
pub enum AnnotationError {
    #[error("cannot read {}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{}: not a readable pickle", path.display())]
    Pickle { path: PathBuf, source: PickleError },
    #[error("{}: no readable relevancy matrix", path.display())]
    Matrix { path: PathBuf, source: NumpyError },
    #[error("{}: {place}: not a well-formed row: {problem}", path.display())]
    Row { path: PathBuf, place: Place, problem: String },
    #[error("{}: {place}: field {field}: expected {expected}, found {found}", path.display())]
    Field { path: PathBuf, place: Place, field: &'static str, expected: &'static str, found: String },
    #[error("{}: {place}: expected a line as the first one, {expected}, found {found}", path.display())]
    Form { path: PathBuf, place: Place, expected: &'static str, found: String },
    #[error(
        "{}: {place}: video {video:?} is of class {label}, expected a label from 0 to {} (`classify.classes` = {classes}); a list \
         that counts from 1 needs `first_label = 1`",
        path.display(), classes.saturating_sub(1)
    )]
    Label { path: PathBuf, place: Place, video: String, label: u32, classes: usize },
    #[error("{}: video {video:?} has no label: expected a source of format = \"kinetics\"", path.display())]
    NoLabel { path: PathBuf, video: String },
    #[error("{}: {place}: the video's name {video:?} {problem}", path.display())]
    VideoName { path: PathBuf, place: Place, video: String, problem: &'static str },
    #[error("{}: the header lacks the column {column:?}; it has {found:?}", path.display())]
    Column { path: PathBuf, column: &'static str, found: Vec<String> },
    #[error("{}: tables end in .csv, .tsv or .jsonl, this file in {found:?}", path.display())]
    Extension { path: PathBuf, found: String },
    #[error("{}: holds no records", path.display())]
    Empty { path: PathBuf },
    #[error("source of {}: {key}: expected {expected}, found {found}", path.display())]
    Setting { path: PathBuf, key: &'static str, expected: &'static str, found: String },
    #[error(
        "{}: {place}: narration_id {id:?} is not in {}; the sentence file must belong to the same split",
        path.display(), segments.display()
    )]
    UnknownNarration { path: PathBuf, place: Place, id: String, segments: PathBuf },
    #[error(
        "{}: relevancy matrix of shape {found:?}, expected [{videos}, {captions}]: [segments, sentences]",
        path.display()
    )]
    Shape { path: PathBuf, videos: usize, captions: usize, found: Vec<usize> },
    #[error("{}: relevancy at {position:?} is {found}, expected a number from 0 to 1", path.display())]
    Relevancy { path: PathBuf, position: [usize; 2], found: f64 },
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

impl AnnotationError {
    pub(super) fn io(path: &Path, source: std::io::Error) -> Self {
        AnnotationError::Io { path: path.to_owned(), source }
    }
}
