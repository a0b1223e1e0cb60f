//! How well videos and captions find each other, and how well clips are classified.
//!
//! In: a similarity matrix `[videos, captions]`, row-major, and which pairs belong together. Out: scores in `[0, 1]`
//! for both directions, and what a random ranking would score. All arithmetic is f64; the order of summation does not
//! depend on the number of threads.
//!
//! - [`mir`]: mAP and nDCG under graded relevancy (EPIC-Kitchens-100 multi-instance retrieval)
//! - [`recall_at`]: R@k and median rank when a pair is right or wrong
//! - [`chance_mir`], [`chance_recall`]: their exact expectation for a random ranking
//!
//! Or in: logits of clips in one or several views, and labels. Out, by [`classify`] or clip by clip through [`Tally`]:
//! accuracies, what guessing would score, and the confusion matrix.

mod chance;
mod classification;
mod mir;
mod ranking;
mod recall;

pub use chance::{chance_mir, chance_recall};
pub(super) use classification::rank_of;
pub use classification::{
    AveragedViews, ClassCount, ClassificationScores, Confusion, Tally, average_views, check_finite, classify,
};
pub use mir::{MirScores, mir};
pub(super) use ranking::per_query;
pub use recall::{GroundTruth, RecallScores, recall_at};

/// Why a score could not be computed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum MetricError {
    #[error(
        "{matrix} matrix has {found} entries, expected {videos} videos x {captions} captions = {}",
        .videos * .captions
    )]
    WrongSize { matrix: &'static str, found: usize, videos: usize, captions: usize },
    #[error(
        "similarity of video {video} and caption {caption} is {value}: the features are not finite, so nothing can be ranked"
    )]
    NotFinite { video: usize, caption: usize, value: f64 },
    #[error("relevancy of video {video} and caption {caption} is {value}, expected a number in [0, 1]")]
    BadRelevancy { video: usize, caption: usize, value: f64 },
    #[error("ground truth names caption {caption} for video {video}, but there are {captions} captions")]
    UnknownCaption { video: usize, caption: usize, captions: usize },
    #[error("ground truth covers {found} videos, expected {videos} (captions: {captions})")]
    WrongTruth { found: usize, videos: usize, captions: usize },
    #[error("no {query} has a match among the {items} it is compared with: nothing to average")]
    NoMatches { query: &'static str, items: &'static str },
    #[error("found {found} logits, expected {clips} clips x {views} views x {classes} classes, none of them 0")]
    WrongLogits { found: usize, clips: usize, views: usize, classes: usize },
    #[error(
        "clip {clip}, view {view}: the logit of class {class} is {value}, so nothing can be ranked; the weights or the \
         clip's frames are not finite"
    )]
    LogitNotFinite { clip: usize, view: usize, class: usize, value: f32 },
    #[error("clip {clip} has label {label}, but the model has {classes} classes, counted from 0")]
    UnknownClass { clip: usize, label: usize, classes: usize },
    #[error("clip {clip} has no view to average")]
    NoViews { clip: usize },
    #[error("no clip was classified: nothing to average")]
    NoClips,
}

/// Checks the size of a similarity matrix and that each entry is finite.
fn check_similarity<S: Copy + Into<f64>>(sim: &[S], videos: usize, captions: usize) -> Result<(), MetricError> {
    check_size("similarity", sim.len(), videos, captions)?;
    match sim.iter().position(|&s| !s.into().is_finite()) {
        Some(at) => Err(MetricError::NotFinite { video: at / captions, caption: at % captions, value: sim[at].into() }),
        None => Ok(()),
    }
}

/// Checks the size of a relevancy matrix and that each entry lies in `[0, 1]`.
fn check_relevancy<R: Copy + Into<f64>>(rel: &[R], videos: usize, captions: usize) -> Result<(), MetricError> {
    check_size("relevancy", rel.len(), videos, captions)?;
    match rel.iter().position(|&r| !(0.0..=1.0).contains(&r.into())) {
        Some(at) => {
            Err(MetricError::BadRelevancy { video: at / captions, caption: at % captions, value: rel[at].into() })
        }
        None => Ok(()),
    }
}

fn check_size(matrix: &'static str, found: usize, videos: usize, captions: usize) -> Result<(), MetricError> {
    if videos.checked_mul(captions) == Some(found) {
        return Ok(());
    }
    Err(MetricError::WrongSize { matrix, found, videos, captions })
}
