//! Ego4D narrations as EgoVLP, LaViLa and AVION share them: a pickled list of tuples
//! `(video_uid, start_s, end_s, caption or [captions], ...)`, 4 million of them in the training file.
//!
//! LaViLa's narrator adds a fifth field (negative log-likelihoods) that nobody reads. Times may be numpy
//! scalars. The list is read record by record: only the clips themselves are kept.

use super::{AnnotationError, Interner, Place};
use crate::data::pickle::{PickleError, Value, for_each_element, map_file, scalar_str};
use crate::data::{Captions, Clip};
use std::borrow::Cow;
use std::path::Path;

/// Reads such a list; clip `i` is record `i`.
///
/// # Errors
/// [`AnnotationError`] for files that are no pickled list, and for the first record with a field of the wrong kind.
pub fn read_ego4d(path: &Path) -> Result<Vec<Clip>, AnnotationError> {
    let data = map_file(path).map_err(|error| AnnotationError::io(path, error))?;
    let mut reader = RecordReader { path, strings: Interner::default(), clips: Vec::new() };
    for_each_element(&data, |record| reader.read(record)).map_err(|problem| match problem {
        Problem::Pickle(source) => AnnotationError::Pickle { path: path.to_owned(), source },
        Problem::Record(error) => *error,
    })?;
    Ok(reader.clips)
}

/// What stops the walk over the list.
enum Problem {
    Pickle(PickleError),
    Record(Box<AnnotationError>),
}

impl From<PickleError> for Problem {
    fn from(error: PickleError) -> Self {
        Problem::Pickle(error)
    }
}

impl From<AnnotationError> for Problem {
    fn from(error: AnnotationError) -> Self {
        Problem::Record(Box::new(error))
    }
}

struct RecordReader<'f> {
    path: &'f Path,
    strings: Interner,
    clips: Vec<Clip>,
}

impl RecordReader<'_> {
    fn read(&mut self, record: Value<'_>) -> Result<(), Problem> {
        let place = Place::Record(self.clips.len());
        let wrong = |field, expected, found: Value<'_>| AnnotationError::Field {
            path: self.path.to_owned(),
            place,
            field,
            expected,
            found: found.describe(),
        };
        let whole = "a tuple (video, start, end, caption, ...)";
        let fields = record.items().filter(|fields| fields.len() >= 4);
        let fields = fields.ok_or_else(|| wrong("(the record)", whole, record))?;
        let field = |index| fields.get(index).unwrap_or(record);
        let time = |index, name| {
            let value = field(index);
            value.as_f64().ok_or_else(|| wrong(name, "a number of seconds", value))
        };
        let start_s = time(1, "start")?;
        let end_s = time(2, "end")?;
        let video = text(field(0)).ok_or_else(|| wrong("video", "a str", field(0)))?;

        let strings = &mut self.strings;
        let one = text(field(3));
        let captions = match (one, field(3).items()) {
            (Some(caption), _) => Captions::One(strings.intern(&caption)),
            (None, Some(list)) if list.len() > 0 => {
                let each = list.map(|caption| match text(caption) {
                    Some(text) => Ok(strings.intern(&text)),
                    None => Err(wrong("caption", "a list of str", caption)),
                });
                Captions::Many(each.collect::<Result<_, _>>()?)
            }
            _ => return Err(wrong("caption", "a str or a non-empty list of str", field(3)).into()),
        };
        let video = strings.video(self.path, place, &video)?;
        self.clips.push(Clip::narrated(video, start_s, end_s, captions));
        Ok(())
    }
}

/// A str or `numpy.str_`.
fn text(value: Value<'_>) -> Option<Cow<'_, str>> {
    match value.as_str() {
        Some(text) => Some(Cow::Borrowed(text)),
        None => scalar_str(value).map(Cow::Owned),
    }
}
