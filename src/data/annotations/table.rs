//! Plain tables of clips: the format for one's own data.
//!
//! - `.csv`, `.tsv`: a header with `video,start,end,caption` in any order; further columns are ignored
//! - `.jsonl`: an object per line with the same keys; `caption` may be a list to choose from
//!
//! Times are seconds, or `hh:mm:ss.ff`.

use super::{AnnotationError, Interner, Place, open, parse_time};
use crate::data::{Captions, Clip};
use serde_json::{Map, Value};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;

const TIME: &str = "seconds or hh:mm:ss.ff";

/// Reads a table in the format its extension names.
///
/// # Errors
/// [`AnnotationError`] with the line of the first row that cannot be read.
pub fn read_table(path: &Path) -> Result<Vec<Clip>, AnnotationError> {
    let extension = path.extension().unwrap_or_default().to_string_lossy();
    match extension.to_ascii_lowercase().as_str() {
        "csv" => read_csv(path, b','),
        "tsv" => read_csv(path, b'\t'),
        "jsonl" => read_jsonl(path),
        _ => Err(AnnotationError::Extension { path: path.to_owned(), found: extension.into_owned() }),
    }
}

/// Rows of a CSV file with a header, by column name.
pub(super) struct CsvRows<'p, const N: usize> {
    path: &'p Path,
    reader: csv::Reader<std::fs::File>,
    columns: [usize; N],
    record: csv::StringRecord,
}

impl<'p, const N: usize> CsvRows<'p, N> {
    /// Opens a file and finds `names` in its header.
    pub fn open(path: &'p Path, delimiter: u8, names: [&'static str; N]) -> Result<Self, AnnotationError> {
        let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(open(path)?);
        let header = reader.headers().map_err(|error| csv_error(path, error))?;
        let mut columns = [0; N];
        for (column, name) in columns.iter_mut().zip(names) {
            let is_it = |found: &str| found.trim_start_matches('\u{feff}').trim() == name;
            *column = header.iter().position(is_it).ok_or_else(|| AnnotationError::Column {
                path: path.to_owned(),
                column: name,
                found: header.iter().map(str::to_owned).collect(),
            })?;
        }
        Ok(CsvRows { path, reader, columns, record: csv::StringRecord::new() })
    }

    /// The next row's fields in the order of `names`.
    pub fn next(&mut self) -> Result<Option<(Place, [&str; N])>, AnnotationError> {
        let more = self.reader.read_record(&mut self.record);
        if !more.map_err(|error| csv_error(self.path, error))? {
            return Ok(None);
        }
        let line = self.record.position().map_or(0, csv::Position::line);
        let fields = self.columns.map(|column| &self.record[column]);
        Ok(Some((Place::Line(line), fields)))
    }
}

fn csv_error(path: &Path, error: csv::Error) -> AnnotationError {
    let line = error.position().map_or(1, csv::Position::line);
    let problem = match error.into_kind() {
        csv::ErrorKind::Io(error) => return AnnotationError::io(path, error),
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("it has {len} fields, the header {expected_len}")
        }
        csv::ErrorKind::Utf8 { err, .. } => format!("not UTF-8: {err}"),
        other => format!("{other:?}"),
    };
    AnnotationError::Row { path: path.to_owned(), place: Place::Line(line), problem }
}

/// Shortens a field for a message.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

fn read_csv(path: &Path, delimiter: u8) -> Result<Vec<Clip>, AnnotationError> {
    let mut rows = CsvRows::open(path, delimiter, ["video", "start", "end", "caption"])?;
    let mut strings = Interner::default();
    let mut clips = Vec::new();
    while let Some((place, [video, start, end, caption])) = rows.next()? {
        let time = |field, text: &str| {
            parse_time(text).ok_or_else(|| AnnotationError::Field {
                path: path.to_owned(),
                place,
                field,
                expected: TIME,
                found: quoted(text),
            })
        };
        let video = strings.video(path, place, video)?;
        let (start, end) = (time("start", start)?, time("end", end)?);
        clips.push(Clip::narrated(video, start, end, Captions::One(strings.intern(caption))));
    }
    Ok(clips)
}

fn read_jsonl(path: &Path) -> Result<Vec<Clip>, AnnotationError> {
    let mut strings = Interner::default();
    let mut clips = Vec::new();
    let mut lines = BufReader::new(open(path)?);
    let mut line = String::new();
    for number in 1.. {
        line.clear();
        let read = lines.read_line(&mut line);
        if read.map_err(|error| AnnotationError::io(path, error))? == 0 {
            break;
        }
        let text = line.trim_start_matches('\u{feff}').trim();
        if text.is_empty() {
            continue;
        }
        let row = JsonRow { path, place: Place::Line(number) };
        clips.push(row.read(text, &mut strings)?);
    }
    Ok(clips)
}

struct JsonRow<'p> {
    path: &'p Path,
    place: Place,
}

impl JsonRow<'_> {
    fn read(&self, line: &str, strings: &mut Interner) -> Result<Clip, AnnotationError> {
        let object: Map<String, Value> = serde_json::from_str(line).map_err(|error| AnnotationError::Row {
            path: self.path.to_owned(),
            place: self.place,
            problem: error.to_string(),
        })?;
        let video = match object.get("video") {
            Some(Value::String(video)) => strings.video(self.path, self.place, video)?,
            other => return Err(self.wrong("video", "a string", other)),
        };
        let (start, end) = (self.time(&object, "start")?, self.time(&object, "end")?);
        Ok(Clip::narrated(video, start, end, self.captions(object.get("caption"), strings)?))
    }

    fn time(&self, object: &Map<String, Value>, key: &'static str) -> Result<f64, AnnotationError> {
        let value = object.get(key);
        let seconds = match value {
            Some(Value::Number(number)) => number.as_f64(),
            Some(Value::String(text)) => parse_time(text),
            _ => None,
        };
        seconds.ok_or_else(|| self.wrong(key, TIME, value))
    }

    fn captions(&self, value: Option<&Value>, strings: &mut Interner) -> Result<Captions, AnnotationError> {
        let expected = "a string or a non-empty list of strings";
        let mut one = |item: &Value| -> Result<Arc<str>, AnnotationError> {
            let text = item.as_str();
            let text = text.ok_or_else(|| self.wrong("caption", expected, Some(item)))?;
            Ok(strings.intern(text))
        };
        match value {
            Some(text @ Value::String(_)) => Ok(Captions::One(one(text)?)),
            Some(Value::Array(list)) if !list.is_empty() => {
                Ok(Captions::Many(list.iter().map(one).collect::<Result<_, _>>()?))
            }
            other => Err(self.wrong("caption", expected, other)),
        }
    }

    fn wrong(&self, field: &'static str, expected: &'static str, found: Option<&Value>) -> AnnotationError {
        AnnotationError::Field {
            path: self.path.to_owned(),
            place: self.place,
            field,
            expected,
            found: found.map_or("nothing".into(), |value| quoted(&value.to_string())),
        }
    }
}
