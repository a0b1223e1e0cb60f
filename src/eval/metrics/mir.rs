//! Multi-instance retrieval: mAP and nDCG where a pair may be partly right.

use super::ranking::{Direction, Matrix, per_query, rank_descending};
use super::{MetricError, check_relevancy, check_similarity};
use serde::{Deserialize, Serialize};

/// Scores of both directions and their means, each in `[0, 1]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MirScores {
    pub map_v2t: f64,
    pub map_t2v: f64,
    pub map_avg: f64,
    pub ndcg_v2t: f64,
    pub ndcg_t2v: f64,
    pub ndcg_avg: f64,
    pub textbook_map_v2t: f64,
    pub textbook_map_t2v: f64,
    pub textbook_map_avg: f64,
    /// Videos with no caption of relevancy 1, left out of the means.
    pub unmatched_videos: usize,
    /// Captions with no video of relevancy 1, left out of the means.
    pub unmatched_captions: usize,
}

/// What one query, or the mean over queries, scores in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct DirectionScores {
    pub map: f64,
    pub textbook_map: f64,
    pub ndcg: f64,
    pub unmatched: usize,
}

/// mAP and nDCG as the EPIC-Kitchens-100 multi-instance retrieval challenge computes them.
///
/// For a query with items ranked by falling similarity, `rel(r)` the relevancy at rank `r = 1, 2, ..`:
/// - nDCG = DCG / best DCG, `DCG = sum over r = 1..k of rel(r) / log2(r + 1)`, `k` the number of items with `rel > 0`.
/// - mAP counts an item as right when its relevancy is exactly 1, and averages `C(r) / r` over the ranks of right
///   items. Officially `C(r)` is the sum of **all** relevancies down to `r`, also fractional ones, which inflates the
///   score; published numbers contain this. `textbook_map` counts right items only.
///
/// Equal similarities: mAP ranks the smaller index first, nDCG the larger (the reference sorts once with `argsort(-s)`,
/// once with `argsort(s)` reversed). Queries without any item of relevancy 1, which the reference would turn into NaN,
/// are left out and counted.
///
/// # Shapes
/// `sim`, `rel`: `[videos, captions]`, row-major. `rel` in `[0, 1]`; pass f64, or f32 where 1 is exactly 1.
///
/// # Errors
/// Wrong sizes, a similarity that is not finite, a relevancy outside `[0, 1]`, no query with a match.
///
/// # Source
/// Damen et al. 2022 (EPIC-Kitchens-100), and the evaluation code of Wray et al. 2019 (JPoSE) that AVION and LaViLa use.
pub fn mir<S, R>(sim: &[S], rel: &[R], videos: usize, captions: usize) -> Result<MirScores, MetricError>
where
    S: Copy + Into<f64> + Sync,
    R: Copy + Into<f64> + Sync,
{
    check_similarity(sim, videos, captions)?;
    check_relevancy(rel, videos, captions)?;
    let sim = Matrix { values: sim, videos, captions };
    let rel = Matrix { values: rel, videos, captions };
    let v2t = mean("video", "captions", score(&sim, &rel, Direction::VideoToText))?;
    let t2v = mean("caption", "videos", score(&sim, &rel, Direction::TextToVideo))?;
    Ok(MirScores::from_directions(v2t, t2v))
}

impl MirScores {
    pub(super) fn from_directions(v2t: DirectionScores, t2v: DirectionScores) -> Self {
        Self {
            map_v2t: v2t.map,
            map_t2v: t2v.map,
            map_avg: (v2t.map + t2v.map) / 2.0,
            ndcg_v2t: v2t.ndcg,
            ndcg_t2v: t2v.ndcg,
            ndcg_avg: (v2t.ndcg + t2v.ndcg) / 2.0,
            textbook_map_v2t: v2t.textbook_map,
            textbook_map_t2v: t2v.textbook_map,
            textbook_map_avg: (v2t.textbook_map + t2v.textbook_map) / 2.0,
            unmatched_videos: v2t.unmatched,
            unmatched_captions: t2v.unmatched,
        }
    }
}

/// `1 / log2(rank + 1)` for ranks 1, 2, ..
pub(super) fn discounts(ranks: usize) -> Vec<f64> {
    (1..=ranks).map(|rank| 1.0 / ((rank + 1) as f64).log2()).collect()
}

/// The largest DCG these relevancies allow. `positive` holds those above 0 and is sorted here.
pub(super) fn best_dcg(positive: &mut [f64], discounts: &[f64]) -> f64 {
    positive.sort_unstable_by(|a, b| b.total_cmp(a));
    positive.iter().zip(discounts).map(|(r, d)| r * d).sum()
}

/// Scores of every query, `None` for one without a match.
fn score<S, R>(sim: &Matrix<'_, S>, rel: &Matrix<'_, R>, direction: Direction) -> Vec<Option<DirectionScores>>
where
    S: Copy + Into<f64> + Sync,
    R: Copy + Into<f64> + Sync,
{
    let items = sim.items(direction);
    let discounts = discounts(items);
    per_query(sim.queries(direction), |queries, out| {
        let (mut sims, mut rels) = (Vec::new(), Vec::new());
        let (mut order, mut positive) = (Vec::new(), Vec::new());
        sim.gather(direction, queries.clone(), &mut sims);
        rel.gather(direction, queries, &mut rels);
        for (sims, rels) in sims.chunks_exact(items.max(1)).zip(rels.chunks_exact(items.max(1))) {
            positive.clear();
            positive.extend(rels.iter().copied().filter(|&r| r > 0.0));
            rank_descending(sims, &mut order);
            out.push(average_precision(&order, rels).map(|(map, textbook_map)| {
                let dcg = dcg(&order, rels, &discounts[..positive.len()]);
                DirectionScores { map, textbook_map, ndcg: dcg / best_dcg(&mut positive, &discounts), unmatched: 0 }
            }));
        }
    })
}

/// Official and textbook average precision; `None` when no relevancy is 1.
fn average_precision(order: &[(u64, u32)], rels: &[f64]) -> Option<(f64, f64)> {
    let (mut gained, mut right) = (0.0, 0.0);
    let (mut official, mut textbook) = (0.0, 0.0);
    for (&(_, item), rank) in order.iter().zip(1u32..) {
        let relevancy = rels[item as usize];
        gained += relevancy;
        if relevancy == 1.0 {
            right += 1.0;
            official += gained / f64::from(rank);
            textbook += right / f64::from(rank);
        }
    }
    (right > 0.0).then(|| (official / right, textbook / right))
}

/// DCG over the first `discounts.len()` ranks, equal similarities in descending order of index.
fn dcg(order: &[(u64, u32)], rels: &[f64], discounts: &[f64]) -> f64 {
    order
        .chunk_by(|a, b| a.0 == b.0)
        .flat_map(|ties| ties.iter().rev())
        .zip(discounts)
        .map(|(&(_, item), discount)| rels[item as usize] * discount)
        .sum()
}

pub(super) fn mean(
    query: &'static str,
    items: &'static str,
    scores: Vec<Option<DirectionScores>>,
) -> Result<DirectionScores, MetricError> {
    let matched = scores.iter().flatten().count();
    if matched == 0 {
        return Err(MetricError::NoMatches { query, items });
    }
    let mean = |part: fn(&DirectionScores) -> f64| scores.iter().flatten().map(part).sum::<f64>() / matched as f64;
    Ok(DirectionScores {
        map: mean(|s| s.map),
        textbook_map: mean(|s| s.textbook_map),
        ndcg: mean(|s| s.ndcg),
        unmatched: scores.len() - matched,
    })
}
