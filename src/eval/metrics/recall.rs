//! Recall at k and median rank, where a pair is right or wrong.

use super::{MetricError, check_similarity};
use serde::{Deserialize, Serialize};

/// Which captions are right for which videos.
#[derive(Clone, Copy, Debug)]
pub enum GroundTruth<'a> {
    /// Caption `i` belongs to video `i`, as in a batch of pairs. Needs as many captions as videos.
    Diagonal,
    /// For each video the captions that are right; a caption may be right for several videos, or for none.
    Captions(&'a [Vec<usize>]),
}

/// Shares in `[0, 1]` of queries whose first right item is among the first `k`, and the median rank of that item.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RecallScores {
    pub ks: Vec<usize>,
    /// One share per entry of `ks`: videos looking for captions.
    pub v2t: Vec<f64>,
    /// One share per entry of `ks`: captions looking for videos.
    pub t2v: Vec<f64>,
    /// 1 is best.
    pub median_rank_v2t: f64,
    pub median_rank_t2v: f64,
}

/// R@k and median rank in both directions.
///
/// A query's rank is that of its best right item. Ties count against us: a wrong item with the same similarity ranks
/// before it, so a model that maps everything to one point scores as if it were always wrong, not always right.
/// Queries with nothing right are left out.
///
/// # Shapes
/// `sim`: `[videos, captions]`, row-major.
///
/// # Errors
/// Wrong sizes, a similarity that is not finite, ground truth that does not fit, no query with a match.
pub fn recall_at<S: Copy + Into<f64>>(
    sim: &[S],
    videos: usize,
    captions: usize,
    truth: GroundTruth<'_>,
    ks: &[usize],
) -> Result<RecallScores, MetricError> {
    check_similarity(sim, videos, captions)?;
    let pairs = truth.pairs(videos, captions)?;
    let at = |video: usize, caption: usize| -> f64 { sim[video * captions + caption].into() };

    // The best right similarity of each query: what the others are compared with.
    let mut best_of_video = vec![f64::NEG_INFINITY; videos];
    let mut best_of_caption = vec![f64::NEG_INFINITY; captions];
    for &(video, caption) in &pairs {
        let similarity = at(video, caption);
        best_of_video[video] = best_of_video[video].max(similarity);
        best_of_caption[caption] = best_of_caption[caption].max(similarity);
    }
    // Rank = 1 + items at least as similar, less the right ones among them.
    let mut rank_of_video = vec![1i64; videos];
    let mut rank_of_caption = vec![1i64; captions];
    for video in 0..videos {
        for caption in 0..captions {
            let similarity = at(video, caption);
            rank_of_video[video] += i64::from(similarity >= best_of_video[video]);
            rank_of_caption[caption] += i64::from(similarity >= best_of_caption[caption]);
        }
    }
    for &(video, caption) in &pairs {
        let similarity = at(video, caption);
        rank_of_video[video] -= i64::from(similarity >= best_of_video[video]);
        rank_of_caption[caption] -= i64::from(similarity >= best_of_caption[caption]);
    }

    let v2t = matched(&rank_of_video, &best_of_video);
    let t2v = matched(&rank_of_caption, &best_of_caption);
    if v2t.is_empty() {
        return Err(NO_PAIRS);
    }
    Ok(RecallScores {
        ks: ks.to_vec(),
        v2t: ks.iter().map(|&k| share_within(&v2t, k)).collect(),
        t2v: ks.iter().map(|&k| share_within(&t2v, k)).collect(),
        median_rank_v2t: median(&v2t),
        median_rank_t2v: median(&t2v),
    })
}

/// With no right pair at all, both directions are empty.
pub(super) const NO_PAIRS: MetricError = MetricError::NoMatches { query: "video", items: "captions" };

impl GroundTruth<'_> {
    /// Distinct right pairs `(video, caption)`, checked against the matrix.
    pub(super) fn pairs(self, videos: usize, captions: usize) -> Result<Vec<(usize, usize)>, MetricError> {
        let wrong = |found| MetricError::WrongTruth { found, videos, captions };
        match self {
            Self::Diagonal if videos == captions => Ok((0..videos).map(|i| (i, i)).collect()),
            Self::Diagonal => Err(wrong(captions)),
            Self::Captions(lists) if lists.len() != videos => Err(wrong(lists.len())),
            Self::Captions(lists) => {
                let mut pairs: Vec<(usize, usize)> = lists
                    .iter()
                    .enumerate()
                    .flat_map(|(video, list)| list.iter().map(move |&caption| (video, caption)))
                    .collect();
                pairs.sort_unstable();
                pairs.dedup();
                match pairs.iter().find(|&&(_, caption)| caption >= captions) {
                    Some(&(video, caption)) => Err(MetricError::UnknownCaption { video, caption, captions }),
                    None => Ok(pairs),
                }
            }
        }
    }
}

/// Sorted ranks of the queries that have something right.
fn matched(ranks: &[i64], best: &[f64]) -> Vec<i64> {
    let mut ranks: Vec<i64> =
        ranks.iter().zip(best).filter(|(_, best)| best.is_finite()).map(|(&rank, _)| rank).collect();
    ranks.sort_unstable();
    ranks
}

fn share_within(sorted: &[i64], k: usize) -> f64 {
    sorted.partition_point(|&rank| rank <= k as i64) as f64 / sorted.len() as f64
}

/// The middle rank, or the mean of the middle two.
fn median(sorted: &[i64]) -> f64 {
    let middle = sorted.len() / 2;
    match sorted.len() % 2 {
        1 => sorted[middle] as f64,
        _ => (sorted[middle - 1] + sorted[middle]) as f64 / 2.0,
    }
}
