//! Lists of labelled videos: a line each, `path frames label` (AVION, TSN) or `path label` (VideoMAE).
//!
//! Kinetics, Something-Something v2, UCF101 and HMDB51 are listed so. Fields are separated by spaces or tabs, or by
//! commas where one stands before the first line's label. They are told apart from the right, so that a path may hold
//! spaces; quotes around it are taken off. Where every path is `... NUMBER` with no extension, `path label` cannot be
//! told from `path frames label`, and is read as the latter. The first line decides the form of all lines.
//!
//! A video is as long as its file, whatever number of frames the list gives. But a file with fewer frames than listed is
//! cut short or another one, and a bad sample; one frame less is let pass, as DivX files with packed B-frames (HMDB51)
//! say one more than they hold, and lists are made from what files say. More frames than listed are no harm: all that was
//! listed is there. An absolute path must lie below the source's root.

use super::table::quoted;
use super::{AnnotationError, Interner, Place, open};
use crate::data::{Clip, Source};
use std::io::{BufRead, BufReader};
use std::num::NonZeroU32;
use std::path::Path;

/// What separates fields, and whether there is a number of frames.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Form {
    comma: bool,
    frames: bool,
}

impl Form {
    fn describe(self) -> &'static str {
        match (self.comma, self.frames) {
            (false, false) => "path label",
            (false, true) => "path frames label",
            (true, false) => "path,label",
            (true, true) => "path,frames,label",
        }
    }
}

/// Reads such a list; clip `i` is line `i`, empty lines aside. `first_label` is the label of class 0.
///
/// # Errors
/// [`AnnotationError`] with the line of the first that cannot be read.
pub fn read_kinetics(path: &Path, root: &Path, first_label: usize) -> Result<Vec<Clip>, AnnotationError> {
    let mut strings = Interner::default();
    let mut clips = Vec::new();
    let mut lines = BufReader::new(open(path)?);
    let (mut text, mut form) = (String::new(), None);
    for number in 1u64.. {
        text.clear();
        if lines.read_line(&mut text).map_err(|error| AnnotationError::io(path, error))? == 0 {
            break;
        }
        let line = text.trim_start_matches('\u{feff}').trim();
        if line.is_empty() {
            continue;
        }
        let row = Row { path, place: Place::Line(number), line };
        let form = *form.get_or_insert_with(|| row.form());
        let (video, listed_frames, label) = row.read(form, first_label)?;
        let video = strings.video(path, row.place, below(root, video))?;
        let line = u32::try_from(number).ok().and_then(NonZeroU32::new);
        clips.push(Clip { line, listed_frames, ..Clip::labelled(video, label) });
    }
    Ok(clips)
}

/// An absolute path relative to the root that it lies below; other paths as they are.
fn below<'v>(root: &Path, video: &'v str) -> &'v str {
    let relative = Path::new(video).strip_prefix(root).ok().filter(|_| video.starts_with('/'));
    relative.and_then(Path::to_str).unwrap_or(video)
}

struct Row<'a> {
    path: &'a Path,
    place: Place,
    line: &'a str,
}

impl<'a> Row<'a> {
    /// The form that the line looks like.
    fn form(&self) -> Form {
        let before_label = self.line.trim_end_matches(|c: char| !is_separator(c)).trim_end_matches(char::is_whitespace);
        let comma = before_label.ends_with(',');
        let frames = split_last(self.line, comma)
            .and_then(|(rest, _)| split_last(rest, comma))
            .is_some_and(|(path, frames)| !path.is_empty() && frames.parse::<u64>().is_ok());
        Form { comma, frames }
    }

    /// Path, number of frames and label.
    fn read(&self, form: Form, first_label: usize) -> Result<(&'a str, Option<NonZeroU32>, u32), AnnotationError> {
        let other_form = || AnnotationError::Form {
            path: self.path.to_owned(),
            place: self.place,
            expected: form.describe(),
            found: quoted(self.line),
        };
        let (rest, label) = split_last(self.line, form.comma).ok_or_else(other_form)?;
        let label = label.parse::<u32>().ok().and_then(|label| label.checked_sub(u32::try_from(first_label).ok()?));
        let label = label.ok_or_else(|| {
            let expected = match first_label {
                0 => "a class number, 0 or more",
                _ => "a class number, first_label or more",
            };
            self.wrong("label", expected)
        })?;
        let (mut video, mut listed) = (rest, None);
        if form.frames {
            let (path, frames) = split_last(rest, form.comma).ok_or_else(other_form)?;
            let frames = frames.parse::<u64>().map_err(|_| other_form())?;
            let frames = u32::try_from(frames).ok().and_then(NonZeroU32::new);
            (video, listed) = (path, Some(frames.ok_or_else(|| self.wrong("frames", "1 to 4,294,967,295"))?));
        } else if self.form() != form {
            return Err(other_form());
        }
        let quotes = ["\"", "'"].into_iter().find_map(|quote| video.strip_prefix(quote)?.strip_suffix(quote));
        Ok((quotes.unwrap_or(video), listed, label))
    }

    fn wrong(&self, field: &'static str, expected: &'static str) -> AnnotationError {
        let found = quoted(self.line);
        AnnotationError::Field { path: self.path.to_owned(), place: self.place, field, expected, found }
    }
}

fn is_separator(c: char) -> bool {
    c == ',' || c.is_whitespace()
}

/// What stands before and after the last separator.
fn split_last(line: &str, comma: bool) -> Option<(&str, &str)> {
    let (before, after) = if comma { line.rsplit_once(',') } else { line.rsplit_once(char::is_whitespace) }?;
    Some((before.trim(), after.trim()))
}

/// Checks that every clip of a source, read from `path`, has a label below `classes`.
///
/// # Errors
/// [`AnnotationError::Label`] and `NoLabel` for the first clip that has none.
pub fn check_labels(path: &Path, source: &Source, classes: usize) -> Result<(), AnnotationError> {
    for (index, clip) in source.clips.iter().enumerate() {
        let video = || clip.video.to_string();
        match clip.label {
            Some(label) if (label as usize) < classes => {}
            Some(label) => {
                let place = place_of(path, index)?;
                return Err(AnnotationError::Label { path: path.to_owned(), place, video: video(), label, classes });
            }
            None => return Err(AnnotationError::NoLabel { path: path.to_owned(), video: video() }),
        }
    }
    Ok(())
}

/// The line of clip `index`.
fn place_of(path: &Path, index: usize) -> Result<Place, AnnotationError> {
    let lines = BufReader::new(open(path)?).lines();
    let full = |line: &std::io::Result<String>| line.as_ref().is_ok_and(|line| !line.trim().is_empty());
    let at = lines.enumerate().filter(|(_, line)| full(line)).nth(index);
    Ok(at.map_or(Place::Record(index), |(number, _)| Place::Line(number as u64 + 1)))
}

/// Reads the names of `classes` classes, one a line.
///
/// # Errors
/// [`AnnotationError::Setting`] when there are more or fewer.
pub fn read_names(path: &Path, classes: usize) -> Result<Vec<String>, AnnotationError> {
    let text = std::fs::read_to_string(path).map_err(|error| AnnotationError::io(path, error))?;
    let names: Vec<String> = text.trim_start_matches('\u{feff}').lines().map(|line| line.trim().to_owned()).collect();
    if names.len() != classes {
        let found = format!("{} lines for classify.classes = {classes}", names.len());
        let expected = "a class name a line, as many as there are classes";
        return Err(AnnotationError::Setting { path: path.to_owned(), key: "data.labels", expected, found });
    }
    Ok(names)
}
