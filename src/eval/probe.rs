//! Linear probe: a linear classifier trained on frozen features, as the measure of what they hold.
//!
//! Multinomial logistic regression on standardised features with an L2 penalty, trained to the end by L-BFGS: the
//! result depends on no learning rate, no order of samples and no number of threads. The strength of the penalty is
//! chosen on a fifth of the *training* clips, held out; test clips have no part in it. As in CLIP's and DINO's
//! published probes, apart from the grid of strengths.

use super::features::{FeatureError, Labelled};
use super::lbfgs::minimise;
use super::metrics::rank_of;
use super::products::rows_by_rows;
use crate::data::rng::{Purpose, keyed};
use objective::Objective;
use rand::seq::SliceRandom;

mod objective;

/// One training clip of so many is held out while the penalty is chosen.
const HOLD_OUT: usize = 5;
/// No entry of the gradient above this: the classifier is trained. Entries start near 1 / classes.
const TOLERANCE: f64 = 1e-6;

#[derive(Clone, Debug, PartialEq)]
pub struct ProbeOptions {
    /// Penalties to choose from: `l2 / 2 * |weights|^2` is added to the mean cross entropy. Strong ones first: each
    /// is trained from where the one before it ended.
    pub l2: Vec<f64>,
    /// Steps of L-BFGS for each penalty.
    pub max_iterations: usize,
    /// Draws the clips held out.
    pub seed: u64,
}

impl Default for ProbeOptions {
    fn default() -> Self {
        Self { l2: vec![1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6], max_iterations: 200, seed: 0 }
    }
}

/// What the probe reached; shares in `[0, 1]`.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeScores {
    /// On the test clips, after training on all training clips with the penalty chosen.
    pub top1: f64,
    pub top5: f64,
    /// On all training clips: far above `top1`, the penalty is too weak or the clips are too few.
    pub train_top1: f64,
    /// The penalty chosen.
    pub l2: f64,
    /// Every penalty tried, and its top-1 on the clips held out.
    pub held_out: Vec<(f64, f64)>,
    /// Of the last training.
    pub iterations: usize,
    /// False when `max_iterations` ended it.
    pub converged: bool,
}

/// Trains on `train`, scores on `test`, on all cores. Beside the inputs this takes the memory of a copy of
/// them, and that of some 25 classifiers in f64.
///
/// # Errors
/// Sizes or labels that do not fit, features that are not finite, options out of range, fewer than 3 training clips.
pub fn linear_probe(
    train: Labelled<'_>,
    test: Labelled<'_>,
    classes: usize,
    options: &ProbeOptions,
) -> Result<ProbeScores, FeatureError> {
    train.check_pair(&test, classes)?;
    check(options)?;
    let (kept, held_out) = split(&train, options.seed)?;
    let (mut kept, mut held_out) = (Owned::pick(&train, &kept), Owned::pick(&train, &held_out));
    let standard = Standard::of(&kept.as_labelled());
    standard.apply(&mut kept);
    standard.apply(&mut held_out);
    let mut classifier = Classifier::new(classes, train.width);
    let mut tried = Vec::with_capacity(options.l2.len());
    let mut best = (options.l2[0], f64::NEG_INFINITY);
    for &l2 in &options.l2 {
        classifier.train(&kept.as_labelled(), l2, options.max_iterations);
        let [top1, _] = classifier.scores(&held_out.as_labelled());
        tried.push((l2, top1));
        if top1 > best.1 {
            best = (l2, top1); // of equals the first, which is the stronger penalty
        }
    }
    drop((kept, held_out));

    let standard = Standard::of(&train);
    let (mut train, mut test) = (Owned::copy(&train), Owned::copy(&test));
    standard.apply(&mut train);
    standard.apply(&mut test);
    let mut classifier = Classifier::new(classes, train.width);
    let minimum = classifier.train(&train.as_labelled(), best.0, options.max_iterations);
    let [top1, top5] = classifier.scores(&test.as_labelled());
    let [train_top1, _] = classifier.scores(&train.as_labelled());
    let (iterations, converged) = (minimum.iterations, minimum.converged);
    Ok(ProbeScores { top1, top5, train_top1, l2: best.0, held_out: tried, iterations, converged })
}

fn check(options: &ProbeOptions) -> Result<(), FeatureError> {
    if options.l2.is_empty() {
        return Err(FeatureError::BadOption { option: "number of l2", found: 0.0, expected: "at least one penalty" });
    }
    if let Some(&found) = options.l2.iter().find(|&&l2| !(l2 >= 0.0 && l2.is_finite())) {
        return Err(FeatureError::BadOption { option: "l2", found, expected: "a finite number, not below 0" });
    }
    if options.max_iterations == 0 {
        return Err(FeatureError::BadOption { option: "max_iterations", found: 0.0, expected: "at least 1" });
    }
    Ok(())
}

/// Clips to train on and clips held out, both ascending; each class gives its share of both, as near as can be.
fn split(train: &Labelled<'_>, seed: u64) -> Result<(Vec<usize>, Vec<usize>), FeatureError> {
    let clips = train.labels.len();
    let mut order: Vec<usize> = (0..clips).collect();
    order.shuffle(&mut keyed(seed, 0, 0, Purpose::Shuffle));
    order.sort_by_key(|&clip| train.labels[clip]); // stable: shuffled within each class
    // From the middle of each group of five, so that three clips are enough.
    let held = |place: usize| place % HOLD_OUT == HOLD_OUT / 2;
    let pick = |wanted: bool| {
        let mut clips: Vec<usize> =
            order.iter().enumerate().filter(|&(place, _)| held(place) == wanted).map(|(_, &clip)| clip).collect();
        clips.sort_unstable();
        clips
    };
    match clips {
        0..3 => Err(FeatureError::TooFew { set: train.set, clips }),
        _ => Ok((pick(false), pick(true))),
    }
}

/// Features and labels of our own.
struct Owned {
    set: &'static str,
    features: Vec<f32>,
    width: usize,
    labels: Vec<usize>,
}

impl Owned {
    fn pick(from: &Labelled<'_>, clips: &[usize]) -> Self {
        let features = clips.iter().flat_map(|&clip| &from.features[clip * from.width..][..from.width]).copied();
        let labels = clips.iter().map(|&clip| from.labels[clip]).collect();
        Self { set: from.set, features: features.collect(), width: from.width, labels }
    }

    fn copy(from: &Labelled<'_>) -> Self {
        let (features, labels) = (from.features.to_vec(), from.labels.to_vec());
        Self { set: from.set, features, width: from.width, labels }
    }

    fn as_labelled(&self) -> Labelled<'_> {
        Labelled { set: self.set, features: &self.features, width: self.width, labels: &self.labels }
    }
}

/// Mean and spread of each feature over the clips trained on.
struct Standard {
    mean: Vec<f64>,
    /// 1 / standard deviation; 0 for a feature that never changes.
    scale: Vec<f64>,
}

impl Standard {
    fn of(train: &Labelled<'_>) -> Self {
        let clips = train.labels.len() as f64;
        let mut mean = vec![0.0; train.width];
        for row in train.rows() {
            mean.iter_mut().zip(row).for_each(|(mean, &x)| *mean += f64::from(x) / clips);
        }
        let mut variance = vec![0.0; train.width];
        for row in train.rows() {
            for ((variance, mean), &x) in variance.iter_mut().zip(&mean).zip(row) {
                *variance += (f64::from(x) - mean).powi(2) / clips;
            }
        }
        // What rounding leaves of a constant feature is no spread.
        let scale = |(variance, mean): (&f64, &f64)| match variance.sqrt() {
            deviation if deviation > 1e-7 * mean.abs() && deviation > 1e-30 => 1.0 / deviation,
            _ => 0.0,
        };
        let scale = variance.iter().zip(&mean).map(scale).collect();
        Self { mean, scale }
    }

    fn apply(&self, set: &mut Owned) {
        for row in set.features.chunks_exact_mut(set.width) {
            for ((x, mean), scale) in row.iter_mut().zip(&self.mean).zip(&self.scale) {
                *x = ((f64::from(*x) - mean) * scale) as f32;
            }
        }
    }
}

/// `logits = weights . x + bias`.
struct Classifier {
    classes: usize,
    width: usize,
    /// Weights `[classes, width]`, then biases `[classes]`.
    parameters: Vec<f64>,
}

impl Classifier {
    fn new(classes: usize, width: usize) -> Self {
        Self { classes, width, parameters: vec![0.0; classes * (width + 1)] }
    }

    fn train(&mut self, set: &Labelled<'_>, l2: f64, max_iterations: usize) -> super::lbfgs::Minimum {
        let mut objective = Objective::new(*set, self.classes, l2);
        minimise(&mut self.parameters, max_iterations, TOLERANCE, |x, gradient| objective.evaluate(x, gradient))
    }

    /// Top-1 and top-5.
    fn scores(&self, set: &Labelled<'_>) -> [f64; 2] {
        let (weights, bias) = self.parameters.split_at(self.classes * self.width);
        let weights: Vec<f32> = weights.iter().map(|&w| w as f32).collect();
        let ranks = super::metrics::per_query(set.labels.len(), |clips, ranks| {
            let rows = &set.features[clips.start * self.width..clips.end * self.width];
            let mut logits = vec![0.0; clips.len() * self.classes];
            rows_by_rows(rows, &weights, self.width, &mut logits);
            for (logits, &label) in logits.chunks_exact(self.classes).zip(&set.labels[clips]) {
                let logits: Vec<f64> = logits.iter().zip(bias).map(|(&l, b)| f64::from(l) + b).collect();
                ranks.push(rank_of(&logits, label));
            }
        });
        [1, 5].map(|k| ranks.iter().filter(|&&rank| rank < k).count() as f64 / ranks.len() as f64)
    }
}

#[cfg(test)]
mod tests;
