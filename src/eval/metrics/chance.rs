//! What a random ranking scores: the line a trained model must leave behind.
//!
//! Exact expectations over all orders of the items, by linearity; no simulation.

use super::mir::{DirectionScores, MirScores, best_dcg, discounts};
use super::ranking::{Direction, Matrix, per_query};
use super::recall::{GroundTruth, NO_PAIRS, RecallScores};
use super::{MetricError, check_relevancy};

/// Expected [`mir`](super::mir) scores of a random ranking.
///
/// For a query with `n` items, `R` of them right (relevancy 1) and relevancies summing to `S`:
/// - the item at a rank is right with probability `R / n`, and then each earlier one has mean relevancy
///   `(S - 1) / (n - 1)`. So `E[AP] = (1/n) sum over r of (1 + (r - 1)(S - 1)/(n - 1)) / r`
///   `= (H + (n - H)(S - 1)/(n - 1)) / n`, `H` the n-th harmonic number. Textbook AP: the same with `R` for `S`.
/// - `E[DCG] = (S / n) sum over r = 1..k of 1 / log2(r + 1)`, `k` the number of items with relevancy above 0.
///
/// # Shapes
/// `rel`: `[videos, captions]`, row-major.
///
/// # Errors
/// As [`mir`](super::mir).
pub fn chance_mir<R: Copy + Into<f64> + Sync>(
    rel: &[R],
    videos: usize,
    captions: usize,
) -> Result<MirScores, MetricError> {
    check_relevancy(rel, videos, captions)?;
    let rel = Matrix { values: rel, videos, captions };
    let v2t = expected("video", "captions", &rel, Direction::VideoToText)?;
    let t2v = expected("caption", "videos", &rel, Direction::TextToVideo)?;
    Ok(MirScores::from_directions(v2t, t2v))
}

fn expected<R: Copy + Into<f64> + Sync>(
    query: &'static str,
    items: &'static str,
    rel: &Matrix<'_, R>,
    direction: Direction,
) -> Result<DirectionScores, MetricError> {
    let n = rel.items(direction);
    let discounts = discounts(n);
    let harmonic: f64 = (1..=n).map(|r| 1.0 / r as f64).sum();
    let expected_ap = |sum: f64| {
        let others = if n > 1 { (sum - 1.0) / (n - 1) as f64 } else { 0.0 };
        (harmonic + (n as f64 - harmonic) * others) / n as f64
    };
    let scores = per_query(rel.queries(direction), |queries, out| {
        let mut rows = Vec::new();
        rel.gather(direction, queries, &mut rows);
        for rels in rows.chunks_exact(n.max(1)) {
            let right = rels.iter().filter(|&&r| r == 1.0).count();
            let sum: f64 = rels.iter().sum();
            let mut positive: Vec<f64> = rels.iter().copied().filter(|&r| r > 0.0).collect();
            out.push((right > 0).then(|| {
                let dcg = sum / n as f64 * discounts[..positive.len()].iter().sum::<f64>();
                DirectionScores {
                    map: expected_ap(sum),
                    textbook_map: expected_ap(right as f64),
                    ndcg: dcg / best_dcg(&mut positive, &discounts),
                    unmatched: 0,
                }
            }));
        }
    });
    super::mir::mean(query, items, scores)
}

/// Expected [`recall_at`](super::recall_at) of a random ranking: with `m` right of `n` items,
/// `P(rank > k) = product over i < k of (n - m - i) / (n - i)`; for pairs, R@k = k / n.
///
/// The median rank is the first by which at least half of the queries are expected to have met a right item.
///
/// # Errors
/// Ground truth that does not fit, no query with a match.
pub fn chance_recall(
    videos: usize,
    captions: usize,
    truth: GroundTruth<'_>,
    ks: &[usize],
) -> Result<RecallScores, MetricError> {
    let pairs = truth.pairs(videos, captions)?;
    if pairs.is_empty() {
        return Err(NO_PAIRS);
    }
    let mut right_of_video = vec![0usize; videos];
    let mut right_of_caption = vec![0usize; captions];
    for (video, caption) in pairs {
        right_of_video[video] += 1;
        right_of_caption[caption] += 1;
    }
    let v2t = found_by_rank(&right_of_video, captions);
    let t2v = found_by_rank(&right_of_caption, videos);
    let at = |found: &[f64], k: usize| found[k.min(found.len() - 1)];
    let median = |found: &[f64]| {
        // A hair below one half: the sums are rounded.
        let first = found.iter().position(|&share| share >= 0.5 - 1e-12);
        first.unwrap_or(found.len() - 1) as f64
    };
    Ok(RecallScores {
        ks: ks.to_vec(),
        v2t: ks.iter().map(|&k| at(&v2t, k)).collect(),
        t2v: ks.iter().map(|&k| at(&t2v, k)).collect(),
        median_rank_v2t: median(&v2t),
        median_rank_t2v: median(&t2v),
    })
}

/// `[n + 1]`: the expected share of queries that have met a right item within the first 0, 1, .., n ranks.
fn found_by_rank(right: &[usize], n: usize) -> Vec<f64> {
    // Queries with as many right items behave alike: do each number once.
    let mut queries_with = std::collections::BTreeMap::<usize, usize>::new();
    for &m in right.iter().filter(|&&m| m > 0) {
        *queries_with.entry(m).or_default() += 1;
    }
    let matched: usize = queries_with.values().sum();
    let mut found = vec![0.0; n + 1];
    for (m, queries) in queries_with {
        let weight = queries as f64 / matched as f64;
        let mut missed = 1.0;
        for (drawn, found) in found[1..].iter_mut().enumerate() {
            missed *= (n - m).saturating_sub(drawn) as f64 / (n - drawn) as f64;
            *found += weight * (1.0 - missed);
        }
    }
    found
}
