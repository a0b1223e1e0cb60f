//! Bad samples: counted by kind, logged once a file, and a reason to stop when there are too many.

use crate::data::layout::ClipError;
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::path::PathBuf;

/// Files that are logged one by one; from then on they are only counted.
const LOGGED_FILES: usize = 50;

/// The share is judged against at least this many samples (or the whole set, where it is smaller), so that a
/// bad file among the first few does not stop a run.
const SHARE_OF_AT_LEAST: u64 = 1000;

/// Kinds listed in the error that stops a run.
const TOP_KINDS: usize = 5;

/// A sample that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampleFailure {
    /// Number of the sample over all sources.
    pub sample: u64,
    /// Short name it is counted under, as [`ClipError::kind`] gives it, or `timeout`.
    pub kind: &'static str,
    /// The file at fault.
    pub path: PathBuf,
    /// What went wrong, path included.
    pub reason: String,
}

impl SampleFailure {
    pub fn new(sample: u64, error: &ClipError) -> Self {
        Self { sample, kind: error.kind(), path: error.path().to_owned(), reason: error.to_string() }
    }
}

/// More samples were bad than the run allows.
#[derive(Debug, thiserror::Error)]
#[error("{bad} of {tried} samples cannot be read, {allowed} are allowed (`data.max_bad_share`):\n{summary}")]
pub struct TooManyBad {
    /// Distinct bad samples.
    pub bad: u64,
    /// Distinct samples tried.
    pub tried: u64,
    pub allowed: u64,
    /// The most frequent kinds, each with an example.
    pub summary: String,
}

#[derive(Debug)]
struct Kind {
    samples: u64,
    example: String,
}

/// Bad samples of a run so far.
#[derive(Debug)]
pub struct Failures {
    max_bad_share: f64,
    dataset_len: u64,
    tried: SampleSet,
    bad: SampleSet,
    kinds: BTreeMap<&'static str, Kind>,
    files: HashSet<PathBuf>,
}

impl Failures {
    /// For a set of `dataset_len` samples of which a share of `max_bad_share` may be bad.
    pub fn new(dataset_len: u64, max_bad_share: f64) -> Self {
        Self {
            max_bad_share,
            dataset_len,
            tried: SampleSet::default(),
            bad: SampleSet::default(),
            kinds: BTreeMap::new(),
            files: HashSet::new(),
        }
    }

    /// Notes that `sample` was read.
    pub fn good(&mut self, sample: u64) {
        self.tried.insert(sample);
    }

    /// Notes a bad sample; the same one counts once. Logs its file if it is new.
    pub fn record(&mut self, failure: &SampleFailure) {
        self.tried.insert(failure.sample);
        if !self.bad.insert(failure.sample) {
            return;
        }
        let kind =
            self.kinds.entry(failure.kind).or_insert_with(|| Kind { samples: 0, example: failure.reason.clone() });
        kind.samples += 1;
        // Files past the limit are not remembered, so that millions of them cost no memory.
        if self.files.len() < LOGGED_FILES && self.files.insert(failure.path.clone()) {
            tracing::warn!("bad sample {}: {}", failure.sample, failure.reason);
            if self.files.len() == LOGGED_FILES {
                tracing::warn!("{LOGGED_FILES} bad files so far: further ones are only counted");
            }
        }
    }

    /// Distinct bad samples.
    pub fn bad(&self) -> u64 {
        self.bad.len
    }

    /// Distinct samples tried, good and bad.
    pub fn tried(&self) -> u64 {
        self.tried.len
    }

    /// Distinct bad samples of each kind.
    pub fn kinds(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.kinds.iter().map(|(kind, count)| (*kind, count.samples))
    }

    /// Fails when more samples are bad than `max_bad_share` of those tried, at least 1000 (or the whole
    /// set) being taken as tried.
    pub fn check(&self) -> Result<(), TooManyBad> {
        let base = self.tried.len.max(self.dataset_len.min(SHARE_OF_AT_LEAST));
        let allowed = self.max_bad_share * base as f64;
        if self.bad.len as f64 <= allowed {
            return Ok(());
        }
        Err(TooManyBad {
            bad: self.bad.len,
            tried: self.tried.len,
            allowed: allowed as u64,
            summary: self.table(TOP_KINDS),
        })
    }

    /// Every kind with its number of samples and an example, the most frequent first; empty if all was well.
    pub fn summary(&self) -> String {
        self.table(usize::MAX)
    }

    fn table(&self, rows: usize) -> String {
        let mut kinds: Vec<_> = self.kinds.iter().collect();
        kinds.sort_by_key(|(name, kind)| (std::cmp::Reverse(kind.samples), **name));
        let name_width = kinds.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let mut text = String::new();
        for (name, Kind { samples, example }) in kinds.iter().take(rows) {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "  {samples:>8}  {name:<name_width$}  e.g. {example}");
        }
        if kinds.len() > rows {
            let rest: u64 = kinds[rows..].iter().map(|(_, kind)| kind.samples).sum();
            let _ = writeln!(text, "  {rest:>8}  of {} other kinds", kinds.len() - rows);
        }
        text.truncate(text.trim_end().len());
        text
    }
}

/// Sample numbers, one bit each.
#[derive(Debug, Default)]
struct SampleSet {
    words: Vec<u64>,
    len: u64,
}

impl SampleSet {
    /// Whether `sample` is new.
    fn insert(&mut self, sample: u64) -> bool {
        let (word, bit) = ((sample / 64) as usize, 1 << (sample % 64));
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        self.len += u64::from(new);
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(sample: u64, kind: &'static str) -> SampleFailure {
        SampleFailure {
            sample,
            kind,
            path: PathBuf::from(format!("{sample}.mp4")),
            reason: format!("no such file: {sample}.mp4"),
        }
    }

    #[test]
    fn distinct_samples_count_once() {
        let mut failures = Failures::new(100, 0.5);
        for sample in [3, 3, 70, 3] {
            failures.record(&failure(sample, "missing"));
        }
        failures.good(5);
        failures.good(5);
        assert_eq!((failures.bad(), failures.tried()), (2, 3));
        assert_eq!(failures.kinds().collect::<Vec<_>>(), [("missing", 2)]);
    }

    #[test]
    fn the_share_is_of_the_set_when_it_is_small() {
        let mut failures = Failures::new(100, 0.05);
        for sample in 0..5 {
            failures.record(&failure(sample, "missing"));
            assert!(failures.check().is_ok());
        }
        failures.record(&failure(5, "truncated"));
        let error = failures.check().unwrap_err();
        assert_eq!((error.bad, error.tried, error.allowed), (6, 6, 5));
        let text = error.to_string();
        assert!(text.contains("6 of 6 samples cannot be read, 5 are allowed"), "{text}");
        assert!(text.contains("5  missing    e.g. no such file: 0.mp4"), "{text}");
        assert!(text.contains("1  truncated  e.g. no such file: 5.mp4"), "{text}");
    }

    #[test]
    fn the_share_is_of_a_thousand_then_of_all_tried() {
        let mut failures = Failures::new(1_000_000, 0.01);
        for sample in 0..10 {
            failures.record(&failure(sample, "missing"));
        }
        assert!(failures.check().is_ok());
        failures.record(&failure(10, "missing"));
        assert!(failures.check().is_err());
        (11..1100).for_each(|sample| failures.good(sample));
        assert!(failures.check().is_ok());
    }

    #[test]
    fn no_share_stops_at_the_first() {
        let mut failures = Failures::new(10, 0.0);
        failures.good(1);
        assert!(failures.check().is_ok());
        failures.record(&failure(2, "no-frames"));
        assert!(failures.check().is_err());
    }

    #[test]
    fn the_error_names_the_most_frequent_kinds() {
        let kinds = ["a", "b", "c", "d", "e", "f", "g"];
        let mut failures = Failures::new(100, 0.0);
        let mut sample = 0;
        for (i, kind) in kinds.iter().enumerate() {
            for _ in 0..=i {
                failures.record(&failure(sample, kind));
                sample += 1;
            }
        }
        let summary = failures.check().unwrap_err().summary;
        assert!(summary.trim_start().starts_with("7  g"), "{summary}");
        assert!(summary.ends_with("3  of 2 other kinds"), "{summary}");
        assert_eq!(failures.summary().lines().count(), 7);
    }
}
