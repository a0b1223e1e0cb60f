//! The videos of a folder or a list, and what each is to be called.

use super::error::PrepareError;
use crate::data::annotations::check_video_name;
use crate::data::folder::{VIDEO_ENDINGS, videos};
use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// At least this share of the names must look like a data set's for it to be recognised.
const RECOGNISED: f64 = 0.9;

/// How names follow from paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `UID`, wherever the file lies.
    Ego4d,
    /// `P01/P01_01`, wherever the file lies.
    Ek100,
    /// `CLASS/NAME`: the file and the folder that it lies in.
    Kinetics,
    /// The path below the input.
    Plain,
}

impl Layout {
    pub fn name(self) -> &'static str {
        match self {
            Self::Ego4d => "ego4d",
            Self::Ek100 => "ek100",
            Self::Kinetics => "kinetics",
            Self::Plain => "plain",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Ego4d, Self::Ek100, Self::Kinetics, Self::Plain].into_iter().find(|layout| layout.name() == name)
    }

    /// The layout that most names look like.
    pub fn recognise(paths: &[PathBuf]) -> Self {
        let share = |fits: fn(&str) -> bool| {
            let stems = paths.iter().filter_map(|path| path.file_stem()?.to_str());
            stems.filter(|stem| fits(stem)).count() as f64 / paths.len().max(1) as f64
        };
        let known = [(Self::Ego4d, is_uid as fn(&str) -> bool), (Self::Ek100, is_epic), (Self::Kinetics, is_kinetics)];
        known.into_iter().find(|(_, fits)| share(*fits) >= RECOGNISED).map_or(Self::Plain, |(layout, _)| layout)
    }

    /// The name of the video in `path`, which lies below `root`.
    fn video(self, path: &Path, root: &Path) -> Option<String> {
        let stem = path.file_stem()?.to_str()?;
        Some(match self {
            Self::Ego4d => stem.to_owned(),
            Self::Ek100 => format!("{}/{stem}", stem.split('_').next()?),
            Self::Kinetics => match path.parent().and_then(Path::file_name) {
                Some(class) => format!("{}/{stem}", class.to_str()?),
                None => stem.to_owned(),
            },
            Self::Plain => {
                let parts = path.strip_prefix(root).ok()?.with_extension("");
                let parts: Option<Vec<&str>> = parts.iter().map(OsStr::to_str).collect();
                parts?.join("/")
            }
        })
    }
}

/// Ego4D: `3c0dffd0-e38e-4643-bc48-d513943dc20b`.
fn is_uid(stem: &str) -> bool {
    let parts: Vec<&str> = stem.split('-').collect();
    let hex = |part: &&str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
    parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12]) && parts.iter().all(hex)
}

/// EPIC-Kitchens: `P01_01`, `P01_101`.
fn is_epic(stem: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    stem.strip_prefix('P').and_then(|rest| rest.split_once('_')).is_some_and(|(p, v)| digits(p) && digits(v))
}

/// Kinetics: `NAME_000012_000022`, seconds of the original.
fn is_kinetics(stem: &str) -> bool {
    let mut parts = stem.rsplitn(3, '_');
    let number = |part: Option<&str>| part.is_some_and(|p| p.len() == 6 && p.bytes().all(|b| b.is_ascii_digit()));
    number(parts.next()) && number(parts.next()) && parts.next().is_some()
}

/// The videos of an input, in order, and the folder that names are relative to.
pub fn find(input: &Path, output: &Path) -> Result<(Vec<PathBuf>, PathBuf), PrepareError> {
    let read = |source| PrepareError::Read { path: input.to_owned(), source };
    let metadata = std::fs::metadata(input).map_err(read)?;
    let (paths, root) = if metadata.is_dir() {
        let skip = output.canonicalize().ok();
        if skip == input.canonicalize().ok() {
            return Err(PrepareError::SameFolder { path: output.to_owned() });
        }
        // The output may lie below the input.
        let paths = videos(input, skip.as_deref());
        (paths.map_err(|(path, source)| PrepareError::Read { path, source })?, input.to_owned())
    } else {
        let mut paths = read_list(input)?;
        let root = common_folder(&paths);
        paths.sort();
        paths.dedup();
        (paths, root)
    };
    if paths.is_empty() {
        return Err(PrepareError::NoVideos { path: input.to_owned(), endings: VIDEO_ENDINGS.join(", ") });
    }
    Ok((paths, root))
}

/// A path a line, relative ones to the list's folder; empty lines and those that begin with `#` do not count.
fn read_list(list: &Path) -> Result<Vec<PathBuf>, PrepareError> {
    let text = std::fs::read(list).map_err(|source| PrepareError::Read { path: list.to_owned(), source })?;
    let folder = list.parent().unwrap_or(Path::new(""));
    let mut paths = Vec::new();
    for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = std::str::from_utf8(line).map_err(|_| PrepareError::List {
            path: list.to_owned(),
            line: number + 1,
            problem: "not UTF-8: a list holds a path of a video a line".into(),
        })?;
        let line = line.trim_start_matches('\u{feff}').trim();
        if !line.is_empty() && !line.starts_with('#') {
            paths.push(folder.join(line));
        }
    }
    Ok(paths)
}

/// The deepest folder that all files lie below.
fn common_folder(paths: &[PathBuf]) -> PathBuf {
    let mut common = paths.first().and_then(|path| path.parent()).unwrap_or(Path::new(""));
    for path in paths {
        while !path.starts_with(common) {
            match common.parent() {
                Some(parent) => common = parent,
                None => return PathBuf::new(),
            }
        }
    }
    common.to_owned()
}

/// The name of each video, or why it can have none.
pub fn names(paths: &[PathBuf], root: &Path, layout: Layout) -> Vec<(String, Option<String>)> {
    let mut taken: HashSet<String> = HashSet::new();
    let name = |path: &PathBuf| {
        let shown = path.to_string_lossy().into_owned();
        let Some(name) = layout.video(path, root) else {
            return (shown, Some("its path is not UTF-8".to_owned()));
        };
        if let Err(problem) = check_video_name(&name) {
            return (shown, Some(format!("its name {name:?} {problem}")));
        }
        if !taken.insert(name.clone()) {
            return (shown, Some(format!("another video is called {name:?} already")));
        }
        (name, None)
    };
    paths.iter().map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(layout: Layout, path: &str) -> String {
        layout.video(Path::new(path), Path::new("/raw")).unwrap()
    }

    #[test]
    fn names_are_those_of_the_annotations() {
        let uid = "3c0dffd0-e38e-4643-bc48-d513943dc20b";
        assert_eq!(named(Layout::Ego4d, &format!("/raw/full/{uid}.mp4")), uid);
        assert_eq!(named(Layout::Ek100, "/raw/P01/videos/P01_101.MP4"), "P01/P01_101");
        assert_eq!(
            named(Layout::Kinetics, "/raw/train/using segway/a_000001_000011.mp4"),
            "using segway/a_000001_000011"
        );
        assert_eq!(named(Layout::Plain, "/raw/kitchen/mon.day.mp4"), "kitchen/mon.day");
    }

    #[test]
    fn data_sets_are_recognised_by_their_names() {
        let recognise = |names: &[&str]| Layout::recognise(&names.iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!(recognise(&["a/3c0dffd0-e38e-4643-bc48-d513943dc20b.mp4"]), Layout::Ego4d);
        assert_eq!(recognise(&["P01/P01_01.MP4", "P37/P37_103.MP4"]), Layout::Ek100);
        assert_eq!(recognise(&["c/-zab_000001_000011.mp4"]), Layout::Kinetics);
        assert_eq!(recognise(&["P01/P01_01.MP4", "holiday.mp4"]), Layout::Plain);
        assert_eq!(recognise(&["3c0dffd0-e38e-4643-bc48-d513943dc2.mp4"]), Layout::Plain);
        assert_eq!(recognise(&[]), Layout::Plain);
    }

    #[test]
    fn a_name_is_given_once() {
        let paths = ["/raw/a/x.mp4", "/raw/a/x.mkv", "/raw/b/x.mp4"].map(PathBuf::from);
        let problems: Vec<_> = names(&paths, Path::new("/raw"), Layout::Plain).into_iter().map(|(_, p)| p).collect();
        assert!(problems[0].is_none() && problems[2].is_none());
        assert!(problems[1].as_ref().unwrap().contains("called \"a/x\" already"));
        assert_eq!(common_folder(&paths), Path::new("/raw"));
        assert_eq!(common_folder(&paths[..2]), Path::new("/raw/a"));
    }
}
