//! Classes of clips by their nearest neighbours: how well frozen features separate classes, with nothing trained.
//!
//! Weighted votes as in Wu et al. 2018 (arXiv:1805.01978), with DINO's settings: each of the `k` most similar training
//! clips votes for its class with `exp(cosine / temperature)`.

use super::features::{FeatureError, Labelled};
use super::metrics::{per_query, rank_of};
use super::products::rows_by_rows;

/// Training clips compared at once with a block of test clips; bounds the memory beside the inputs.
const TRAIN_BLOCK: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NeighbourOptions {
    /// Neighbours that vote; all, when there are fewer.
    pub k: usize,
    pub temperature: f64,
}

impl Default for NeighbourOptions {
    fn default() -> Self {
        Self { k: 20, temperature: 0.07 }
    }
}

/// Shares in `[0, 1]` of test clips whose class has the most votes, or is among the five classes that have most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NeighbourScores {
    pub top1: f64,
    pub top5: f64,
}

/// Classifies `test` by its neighbours in `train`, on all cores. Features are scaled to length 1.
///
/// Of equally similar clips the earlier one is the nearer; of classes with equal votes the lower ranks first. A class
/// that got no vote is never right. Beside the inputs this takes 4 bytes a training clip and some MB a core.
///
/// # Errors
/// Sizes or labels that do not fit, features that are not finite or all 0, options out of range.
pub fn classify_by_neighbours(
    train: Labelled<'_>,
    test: Labelled<'_>,
    classes: usize,
    options: NeighbourOptions,
) -> Result<NeighbourScores, FeatureError> {
    let NeighbourOptions { k, temperature } = options;
    train.check_pair(&test, classes)?;
    if k == 0 {
        return Err(FeatureError::BadOption { option: "k", found: 0.0, expected: "at least 1 neighbour" });
    }
    if !(temperature > 0.0 && temperature.is_finite()) {
        let expected = "a finite number above 0";
        return Err(FeatureError::BadOption { option: "temperature", found: temperature, expected });
    }
    let train_scale = inverse_norms(&train)?;
    let test_scale = inverse_norms(&test)?;
    let width = train.width;

    // 0: first, 1: among the first five, 2: neither.
    let places = per_query(test.labels.len(), |clips, places| {
        let queries = &test.features[clips.start * width..clips.end * width];
        let mut nearest = vec![Nearest::new(k.min(train.labels.len())); clips.len()];
        let mut products = vec![0.0; clips.len() * TRAIN_BLOCK];
        for (block, rows) in train.features.chunks(TRAIN_BLOCK * width).enumerate() {
            let first = block * TRAIN_BLOCK;
            let columns = rows.len() / width;
            let products = &mut products[..clips.len() * columns];
            rows_by_rows(queries, rows, width, products);
            for ((products, nearest), clip) in products.chunks_exact(columns).zip(&mut nearest).zip(clips.clone()) {
                for (column, product) in products.iter().enumerate() {
                    nearest.offer(product * train_scale[first + column] * test_scale[clip], first + column);
                }
            }
        }
        let mut votes = vec![0.0; classes];
        for (nearest, clip) in nearest.iter().zip(clips) {
            votes.fill(0.0);
            let best = nearest.found.first().map_or(0.0, |&(cosine, _)| cosine);
            for &(cosine, neighbour) in &nearest.found {
                // Relative to the best, so that no temperature overflows.
                votes[train.labels[neighbour]] += ((f64::from(cosine) - f64::from(best)) / temperature).exp();
            }
            let label = test.labels[clip];
            let voted = nearest.found.iter().any(|&(_, neighbour)| train.labels[neighbour] == label);
            places.push(match rank_of(&votes, label) {
                0 if voted => 0,
                1..5 if voted => 1,
                _ => 2,
            });
        }
    });
    let share = |worst: u8| places.iter().filter(|&&place| place <= worst).count() as f64 / places.len() as f64;
    Ok(NeighbourScores { top1: share(0), top5: share(1) })
}

/// The `k` best of what was offered, best first.
#[derive(Clone)]
struct Nearest {
    k: usize,
    /// (cosine, training clip)
    found: Vec<(f32, usize)>,
}

impl Nearest {
    fn new(k: usize) -> Self {
        Self { k, found: Vec::with_capacity(k + 1) }
    }

    /// Clips must be offered in ascending order: an equal one that comes later is farther.
    fn offer(&mut self, cosine: f32, clip: usize) {
        if self.found.len() == self.k && self.found.last().is_some_and(|&(worst, _)| cosine <= worst) {
            return;
        }
        let place = self.found.partition_point(|&(better, _)| better >= cosine);
        self.found.insert(place, (cosine, clip));
        self.found.truncate(self.k);
    }
}

/// `[clips]`: 1 / length.
fn inverse_norms(set: &Labelled<'_>) -> Result<Vec<f32>, FeatureError> {
    let norm = |(clip, row): (usize, &[f32])| {
        let squares: f64 = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        if squares == 0.0 {
            return Err(FeatureError::NoDirection { set: set.set, clip });
        }
        Ok((1.0 / squares.sqrt()) as f32)
    };
    set.rows().enumerate().map(norm).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::rng::{Purpose, keyed};
    use rand::Rng;

    fn labelled<'a>(set: &'static str, features: &'a [f32], width: usize, labels: &'a [usize]) -> Labelled<'a> {
        Labelled { set, features, width, labels }
    }

    /// Votes worked out by hand: two moderately near clips of class 1 outvote one near clip of class 0 when the
    /// temperature is high, and do not when it is low.
    #[test]
    fn votes_are_weighted_by_similarity() {
        // Cosines to the query: 1, 0.8, 0.8, -1; lengths differ and must not matter.
        let train = [5.0, 0.0, 0.08, 0.06, 8.0, 6.0, -1.0, 0.0f32];
        let train = labelled("train", &train, 2, &[0, 1, 1, 2]);
        let score = |label: usize, k, temperature| {
            let labels = [label];
            let test = labelled("test", &[0.5, 0.0], 2, &labels);
            classify_by_neighbours(train, test, 9, NeighbourOptions { k, temperature }).unwrap()
        };
        // exp(0.2 / T) against 2: even at T = 0.2885.
        assert_eq!(score(0, 3, 0.28).top1, 1.0);
        assert_eq!(score(1, 3, 0.30).top1, 1.0);
        assert_eq!(score(0, 1, 0.30).top1, 1.0);
        assert_eq!(score(1, 3, 0.28), NeighbourScores { top1: 0.0, top5: 1.0 });
        // Class 2 is among the first five only when its clip votes; class 8 never.
        assert_eq!((score(2, 3, 0.07).top5, score(2, 20, 0.07).top5, score(8, 20, 0.07).top5), (0.0, 1.0, 0.0));
    }

    #[test]
    fn the_earlier_of_equal_neighbours_votes() {
        let train = labelled("train", &[1.0, 0.0, 1.0, 0.0, 1.0, 0.0], 2, &[2, 1, 0]);
        let options = NeighbourOptions { k: 1, ..NeighbourOptions::default() };
        let test = labelled("test", &[1.0, 0.0], 2, &[2]);
        assert_eq!(classify_by_neighbours(train, test, 3, options).unwrap().top1, 1.0);
    }

    /// Several blocks of training clips, and test clips that do not fill theirs, against a plain sort.
    #[test]
    fn blocks_do_not_matter() {
        let (n, queries, width, classes) = (TRAIN_BLOCK * 2 + 37, 43, 19, 7);
        let mut rng = keyed(5, 0, 0, Purpose::Synthetic);
        let train: Vec<f32> = (0..n * width).map(|_| rng.random_range(-1.0..1.0)).collect();
        let test: Vec<f32> = (0..queries * width).map(|_| rng.random_range(-1.0..1.0)).collect();
        let train_labels: Vec<usize> = (0..n).map(|_| rng.random_range(0..classes)).collect();
        let test_labels: Vec<usize> = (0..queries).map(|_| rng.random_range(0..classes)).collect();
        let options = NeighbourOptions::default();

        let norm = |row: &[f32]| row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        let mut right = [0, 0];
        for (query, &label) in test.chunks(width).zip(&test_labels) {
            let cosine = |row: &[f32]| {
                let dot: f64 = row.iter().zip(query).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
                dot / norm(row) / norm(query)
            };
            let mut all: Vec<(f64, usize)> = train.chunks(width).map(cosine).zip(train_labels.clone()).collect();
            all.sort_by(|a, b| b.0.total_cmp(&a.0));
            let mut votes = vec![0.0; classes];
            all[..options.k].iter().for_each(|&(cosine, class)| votes[class] += (cosine / options.temperature).exp());
            let rank = votes.iter().filter(|&&v| v > votes[label]).count();
            right[0] += usize::from(rank == 0);
            right[1] += usize::from(rank < 5 && votes[label] > 0.0);
        }
        let train = labelled("train", &train, width, &train_labels);
        let test = labelled("test", &test, width, &test_labels);
        let found = classify_by_neighbours(train, test, classes, options).unwrap();
        let expected = right.map(|right| right as f64 / queries as f64);
        assert_eq!([found.top1, found.top5], expected);
        assert!(found.top1 > 0.0 && found.top5 < 1.0, "{found:?}: the test would not notice an error");
    }

    #[test]
    fn bad_input_is_named() {
        let ok = labelled("train", &[1.0, 0.0], 2, &[0]);
        let zero = labelled("test", &[0.0, 0.0], 2, &[0]);
        let options = NeighbourOptions::default();
        let error = classify_by_neighbours(ok, zero, 1, options).unwrap_err();
        assert_eq!(error, FeatureError::NoDirection { set: "test", clip: 0 });
        for bad in [NeighbourOptions { k: 0, ..options }, NeighbourOptions { temperature: f64::NAN, ..options }] {
            let error = classify_by_neighbours(ok, ok, 1, bad).unwrap_err();
            assert!(matches!(error, FeatureError::BadOption { .. }), "{error}");
        }
    }
}
