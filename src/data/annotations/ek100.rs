//! EPIC-Kitchens-100 multi-instance retrieval: `EPIC_100_retrieval_{train,test}.csv`, one row per clip, and
//! `..._sentence.csv`, one row per caption column of the relevancy matrix.
//!
//! Captions and clips meet by `narration_id`. In the published sentence files the text of the last rows (7 of
//! test, 21 of train) is shifted against the ids, so classes always come from the clip with the same id.

use super::table::{CsvRows, quoted};
use super::{AnnotationError, Interner, Place, parse_time, source};
use crate::config::recipe::SourceConfig;
use crate::data::pickle::{NdArray, Pickle, map_file};
use crate::data::relevancy::{ActionClasses, Relevancy};
use crate::data::{Captions, Clip, Source};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// One row of a retrieval CSV.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    pub narration_id: Arc<str>,
    /// `video` is `PARTICIPANT/VIDEO`, as the videos lie on disk: `P01/P01_01`.
    pub clip: Clip,
    pub classes: ActionClasses,
}

/// One row of a sentence CSV: a caption column of the relevancy matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sentence {
    pub narration_id: Arc<str>,
    pub narration: Arc<str>,
    /// Line in the file.
    pub line: u64,
}

/// Everything for retrieval: clips, caption columns and how relevant each is to each.
#[derive(Clone, Debug)]
pub struct Retrieval {
    pub source: Source,
    /// Verb and nouns of each clip.
    pub classes: Vec<ActionClasses>,
    /// Text of each caption column as the sentence file has it: what fine-tuning draws from.
    pub sentences: Vec<Arc<str>>,
    /// Clip whose own narration stands for each caption column: what evaluation re-indexes by.
    pub caption_rows: Vec<usize>,
    /// `[clips, caption columns]`.
    pub relevancy: Relevancy,
}

/// Reads clips, caption columns and relevancies; the last are computed unless the config names a matrix.
///
/// # Errors
/// [`AnnotationError`] as in [`super::load`]; also when `sentences` is not set or belongs to another split, and when
/// the matrix has another shape.
pub fn load_retrieval(config: &SourceConfig) -> Result<Retrieval, AnnotationError> {
    let path = &config.annotations;
    let Some(sentence_path) = &config.sentences else {
        return Err(AnnotationError::Setting {
            path: path.clone(),
            key: "sentences",
            expected: "the EPIC_100_retrieval_*_sentence.csv of this split",
            found: "nothing".into(),
        });
    };
    let segments = read_segments(path)?;
    let sentences = read_sentences(sentence_path)?;
    let rows: HashMap<&str, usize> =
        segments.iter().enumerate().map(|(row, segment)| (&*segment.narration_id, row)).collect();
    let caption_rows = sentences
        .iter()
        .map(|sentence| {
            let row = rows.get(&*sentence.narration_id).copied();
            row.ok_or_else(|| AnnotationError::UnknownNarration {
                path: sentence_path.clone(),
                place: Place::Line(sentence.line),
                id: sentence.narration_id.to_string(),
                segments: path.clone(),
            })
        })
        .collect::<Result<Vec<usize>, _>>()?;

    let (clips, classes): (Vec<Clip>, Vec<ActionClasses>) =
        segments.into_iter().map(|segment| (segment.clip, segment.classes)).unzip();
    let relevancy = match &config.relevancy {
        Some(matrix) => read_relevancy(matrix, clips.len(), caption_rows.len())?,
        None => {
            let of_captions: Vec<_> = caption_rows.iter().map(|&row| &classes[row]).collect();
            Relevancy::from_classes(&classes.iter().collect::<Vec<_>>(), &of_captions)
        }
    };
    Ok(Retrieval {
        source: source(config, clips)?,
        classes,
        sentences: sentences.into_iter().map(|s| s.narration).collect(),
        caption_rows,
        relevancy,
    })
}

/// Reads a retrieval CSV (or `EPIC_100_{train,validation}.csv`, which has the same columns).
///
/// # Errors
/// [`AnnotationError`] with the line of the first row that cannot be read.
pub fn read_segments(path: &Path) -> Result<Vec<Segment>, AnnotationError> {
    let columns = [
        "narration_id",
        "participant_id",
        "video_id",
        "start_timestamp",
        "stop_timestamp",
        "narration",
        "verb_class",
        "all_noun_classes",
    ];
    let mut rows = CsvRows::open(path, b',', columns)?;
    let mut strings = Interner::default();
    let mut segments = Vec::new();
    while let Some((place, fields)) = rows.next()? {
        let [id, participant, video, start, stop, narration, verb, nouns] = fields;
        let wrong = |field, expected, found: &str| AnnotationError::Field {
            path: path.to_owned(),
            place,
            field,
            expected,
            found: quoted(found),
        };
        let time = |field, text: &str| parse_time(text).ok_or_else(|| wrong(field, "hh:mm:ss.ff", text));
        let verb_class = verb.parse();
        let verb_class = verb_class.map_err(|_| wrong("verb_class", "a class number", verb))?;
        let noun_classes =
            parse_classes(nouns).ok_or_else(|| wrong("all_noun_classes", "a list of class numbers", nouns))?;
        segments.push(Segment {
            narration_id: id.into(),
            clip: Clip::narrated(
                strings.video(path, place, &format!("{participant}/{video}"))?,
                time("start_timestamp", start)?,
                time("stop_timestamp", stop)?,
                Captions::One(strings.intern(narration)),
            ),
            classes: ActionClasses::new(verb_class, noun_classes),
        });
    }
    Ok(segments)
}

/// Reads a sentence CSV.
///
/// # Errors
/// [`AnnotationError`] with the line of the first row that cannot be read.
pub fn read_sentences(path: &Path) -> Result<Vec<Sentence>, AnnotationError> {
    let mut rows = CsvRows::open(path, b',', ["narration_id", "narration"])?;
    let mut sentences = Vec::new();
    while let Some((place, [id, narration])) = rows.next()? {
        let Place::Line(line) = place else { continue };
        sentences.push(Sentence { narration_id: id.into(), narration: narration.into(), line });
    }
    if sentences.is_empty() {
        return Err(AnnotationError::Empty { path: path.to_owned() });
    }
    Ok(sentences)
}

/// Reads a relevancy matrix from a numpy pickle, such as the published `caption_relevancy_*.pkl`.
///
/// # Errors
/// [`AnnotationError`] when the file is no pickled array of shape `[videos, captions]` with numbers from 0 to 1.
pub fn read_relevancy(path: &Path, videos: usize, captions: usize) -> Result<Relevancy, AnnotationError> {
    let data = map_file(path).map_err(|error| AnnotationError::io(path, error))?;
    let pickle = Pickle::parse(&data).map_err(|source| AnnotationError::Pickle { path: path.to_owned(), source })?;
    let array = NdArray::from_value(pickle.root())
        .map_err(|source| AnnotationError::Matrix { path: path.to_owned(), source })?;
    if array.shape != [videos, captions] {
        return Err(AnnotationError::Shape { path: path.to_owned(), videos, captions, found: array.shape });
    }
    let values = array.to_f64();
    if let Some(bad) = values.iter().position(|value| !(0.0..=1.0).contains(value)) {
        return Err(AnnotationError::Relevancy {
            path: path.to_owned(),
            position: [bad / captions, bad % captions],
            found: values[bad],
        });
    }
    Ok(Relevancy::dense(values, captions))
}

/// Class numbers from a Python list such as `[0, 2]`.
fn parse_classes(text: &str) -> Option<Vec<u32>> {
    let inner = text.trim().strip_prefix('[')?.strip_suffix(']')?.trim();
    if inner.is_empty() {
        return Some(Vec::new());
    }
    let numbers = inner.split(',').map(|number| number.trim().parse().ok());
    numbers.collect()
}
