//! Scores: metrics over similarity matrices and logits, and the evaluations that fill them.
//!
//! - [`retrieval`]: clips and captions
//! - [`classification`]: labelled clips
//! - [`reconstruction`]: masked tokens of clips
//! - [`views`]: averages what a classifier says of several views of a clip
//! - [`neighbours`], [`probe`]: how far features, as they are, separate classes

mod classes;
pub mod classification;
mod features;
mod lbfgs;
pub mod metrics;
pub mod neighbours;
pub mod probe;
mod products;
pub mod reconstruction;
pub mod retrieval;
mod source;
pub mod views;

pub use classes::class_rows;
pub use features::{FeatureError, Labelled};
pub(crate) use products::rows_by_rows;
pub use source::SourceSet;

use crate::data::annotations::AnnotationError;
use crate::data::loader::LoaderError;
use crate::device::DeviceError;
use crate::report::{Search, Thumbnail};
use std::collections::BTreeMap;
use std::sync::Arc;

/// One evaluation set, scored.
#[derive(Clone, Debug, Default)]
pub struct Evaluation {
    /// Name of the set.
    pub set: String,
    /// Scores by name, shares in `[0, 1]`: `map_avg`, `ndcg_avg`, `t2v_r1`, ...
    pub scores: BTreeMap<String, f64>,
    /// What a random ranking would score, under the same names.
    pub chance: BTreeMap<String, f64>,
    pub seconds: f64,
    pub videos: usize,
    /// Clips that could not be read and are left out of the scores.
    pub unreadable: usize,
    /// Clips to show, with how they ranked.
    pub examples: Vec<Example>,
    /// Captions to show, with the clips found for them.
    pub searches: Vec<Search>,
    /// Classes and what they were taken for, where there are any.
    pub confusion: Option<metrics::Confusion>,
}

impl Evaluation {
    /// The score that tells which of two models is better, with its name.
    pub fn headline(&self) -> Option<(&'static str, f64)> {
        ["map_avg", "top1", "explained"].into_iter().find_map(|name| Some((name, *self.scores.get(name)?)))
    }
}

/// One clip of an evaluation set and the captions most similar to it.
#[derive(Clone, Debug)]
pub struct Example {
    pub frames: Vec<Thumbnail>,
    pub caption: Arc<str>,
    /// Place of its best right caption, from 1.
    pub rank: usize,
    pub candidates: usize,
    /// Caption, cosine similarity, and whether it is right; most similar first.
    pub matches: Vec<(Arc<str>, f64, bool)>,
}

/// Why a set could not be scored.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    #[error(transparent)]
    Annotation(#[from] AnnotationError),
    #[error("evaluation set {set}: {source}")]
    Loader { set: String, source: LoaderError },
    #[error("evaluation set {set}: no clip could be read; see the warnings above for each file's reason")]
    NoClips { set: String },
    #[error("evaluation set {set}: {source}")]
    Metric { set: String, source: metrics::MetricError },
    #[error("evaluation set {set}: {source}")]
    Views { set: String, source: views::ViewError },
    #[error("{source}; if memory ran out, lower eval.batch_size")]
    Device {
        #[from]
        source: DeviceError,
    },
    #[error(
        "evaluation set {set}: {videos} clips times {captions} captions need {gib:.0} GiB of host memory; use a smaller \
         set"
    )]
    TooLarge { set: String, videos: usize, captions: usize, gib: f64 },
}
