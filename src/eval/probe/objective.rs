//! Mean cross entropy of a linear classifier with an L2 penalty, and its gradient.

use super::super::features::Labelled;
use super::super::products::rows_by_rows;
use std::num::NonZero;

/// Clips whose logits are held at once, at most.
const BLOCK: usize = 2048;
/// Entries of that block, at most: 64 MiB.
const BLOCK_ENTRIES: usize = 16 << 20;
/// Clips summed in f32 before they join the f64 gradient; their features stay in the first cache.
const TILE: usize = 8;

pub(super) struct Objective<'a> {
    set: Labelled<'a>,
    classes: usize,
    l2: f64,
    threads: usize,
    /// Weights as f32, `[classes, width]`.
    weights: Vec<f32>,
    /// `[block, classes]`: logits, then probabilities less the truth.
    errors: Vec<f32>,
    /// `[block]`: cross entropy of each clip.
    losses: Vec<f64>,
}

impl<'a> Objective<'a> {
    /// `set` must have been checked.
    pub fn new(set: Labelled<'a>, classes: usize, l2: f64) -> Self {
        let block = BLOCK.min(BLOCK_ENTRIES / classes).clamp(1, set.labels.len());
        Self {
            set,
            classes,
            l2,
            threads: std::thread::available_parallelism().map_or(1, NonZero::get),
            weights: vec![0.0; classes * set.width],
            errors: vec![0.0; block * classes],
            losses: vec![0.0; block],
        }
    }

    /// `mean over clips of -ln softmax(W x + b)[label] + l2 / 2 |W|^2`; biases are not penalised. Logits are products
    /// in f32, the rest is f64. Every number is summed by one thread in the order of the clips.
    ///
    /// # Shapes
    /// `parameters`, `gradient`: `[classes * width]` weights, then `[classes]` biases.
    pub fn evaluate(&mut self, parameters: &[f64], gradient: &mut [f64]) -> f64 {
        let (classes, width, clips) = (self.classes, self.set.width, self.set.labels.len());
        let (weights, bias) = parameters.split_at(classes * width);
        self.weights.iter_mut().zip(weights).for_each(|(to, &from)| *to = from as f32);
        gradient.fill(0.0);
        let (weight_gradient, bias_gradient) = gradient.split_at_mut(classes * width);
        let mut loss = 0.0;
        let block = self.losses.len();
        for first in (0..clips).step_by(block) {
            let last = (first + block).min(clips);
            self.forward(first..last, bias);
            loss += self.losses[..last - first].iter().sum::<f64>();
            self.backward(first..last, weight_gradient, bias_gradient);
        }
        let n = clips as f64;
        bias_gradient.iter_mut().for_each(|g| *g /= n);
        for (g, w) in weight_gradient.iter_mut().zip(weights) {
            *g = *g / n + self.l2 * w;
        }
        loss / n + self.l2 / 2.0 * weights.iter().map(|w| w * w).sum::<f64>()
    }

    /// Fills `losses` and `errors`; clips are shared out over threads.
    fn forward(&mut self, clips: std::ops::Range<usize>, bias: &[f64]) {
        let (classes, width, weights) = (self.classes, self.set.width, &self.weights);
        let share = clips.len().div_ceil(self.threads);
        let rows = &self.set.features[clips.start * width..clips.end * width];
        let labels = &self.set.labels[clips];
        std::thread::scope(|scope| {
            let parts = rows.chunks(share * width).zip(labels.chunks(share));
            let outs = self.errors.chunks_mut(share * classes).zip(self.losses.chunks_mut(share));
            for ((rows, labels), (errors, losses)) in parts.zip(outs) {
                scope.spawn(move || {
                    let errors = &mut errors[..labels.len() * classes];
                    rows_by_rows(rows, weights, width, errors);
                    for ((errors, &label), loss) in errors.chunks_exact_mut(classes).zip(labels).zip(losses) {
                        *loss = cross_entropy(errors, bias, label);
                    }
                });
            }
        });
    }

    /// Adds to the gradients of the sum over the clips; classes are shared out over threads.
    fn backward(&self, clips: std::ops::Range<usize>, weight_gradient: &mut [f64], bias_gradient: &mut [f64]) {
        let (classes, width) = (self.classes, self.set.width);
        let share = classes.div_ceil(self.threads);
        let errors = &self.errors[..clips.len() * classes];
        let rows = &self.set.features[clips.start * width..clips.end * width];
        let parts = weight_gradient.chunks_mut(share * width).zip(bias_gradient.chunks_mut(share)).enumerate();
        std::thread::scope(|scope| {
            for (part, (weight_gradient, bias_gradient)) in parts {
                scope.spawn(move || {
                    let mut sum = vec![0.0f32; width];
                    for (rows, errors) in rows.chunks(TILE * width).zip(errors.chunks(TILE * classes)) {
                        let gradients = weight_gradient.chunks_exact_mut(width).zip(&mut *bias_gradient);
                        for (class, (weight_gradient, bias_gradient)) in (part * share..).zip(gradients) {
                            sum.fill(0.0);
                            for (row, errors) in rows.chunks_exact(width).zip(errors.chunks_exact(classes)) {
                                let error = errors[class];
                                *bias_gradient += f64::from(error);
                                sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += error * x);
                            }
                            weight_gradient.iter_mut().zip(&sum).for_each(|(g, &sum)| *g += f64::from(sum));
                        }
                    }
                });
            }
        });
    }
}

/// Cross entropy of `logits + bias`; the logits become probabilities less the truth.
fn cross_entropy(logits: &mut [f32], bias: &[f64], label: usize) -> f64 {
    let biased = |(&logit, bias): (&f32, &f64)| f64::from(logit) + bias;
    let largest = logits.iter().zip(bias).map(biased).fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().zip(bias).map(|entry| (biased(entry) - largest).exp()).sum();
    let loss = sum.ln() + largest - biased((&logits[label], &bias[label]));
    for (logit, bias) in logits.iter_mut().zip(bias) {
        *logit = ((biased((logit, bias)) - largest).exp() / sum) as f32;
    }
    logits[label] -= 1.0;
    loss
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::rng::{Purpose, keyed};
    use rand::Rng;

    /// Central differences; more clips than a block holds, tiles and shares of threads that do not come out even.
    #[test]
    fn the_gradient_is_that_of_the_value() {
        let (clips, width, classes) = (BLOCK + 13, 5, 7);
        let mut rng = keyed(3, 0, 0, Purpose::Synthetic);
        let features: Vec<f32> = (0..clips * width).map(|_| rng.random_range(-1.5..1.5)).collect();
        let labels: Vec<usize> = (0..clips).map(|_| rng.random_range(0..classes)).collect();
        let set = Labelled { set: "train", features: &features, width, labels: &labels };
        let mut objective = Objective::new(set, classes, 0.1);
        let at: Vec<f64> = (0..classes * (width + 1)).map(|_| rng.random_range(-1.0..1.0)).collect();
        let mut gradient = vec![f64::NAN; at.len()];
        objective.evaluate(&at, &mut gradient);
        let mut scratch = gradient.clone();
        let step = 1e-3;
        for entry in 0..at.len() {
            let mut value = |by: f64| {
                let mut moved = at.clone();
                moved[entry] += by;
                objective.evaluate(&moved, &mut scratch)
            };
            let expected = (value(step) - value(-step)) / (2.0 * step);
            // Weights are rounded to f32, 1e-7 of them; the step is 1e-3.
            assert!((gradient[entry] - expected).abs() < 5e-5, "{entry}: {} {expected}", gradient[entry]);
        }
    }

    #[test]
    fn the_loss_of_a_guess_is_known_and_threads_change_no_bit() {
        let features: Vec<f32> = (0..600).map(|i| (i as f32 * 0.7).sin()).collect();
        let labels: Vec<usize> = (0..100).map(|i| i % 9).collect();
        let set = Labelled { set: "train", features: &features, width: 6, labels: &labels };
        let mut gradient = vec![0.0; 9 * 7];
        let guess = Objective::new(set, 9, 1.0).evaluate(&[0.0; 63], &mut gradient);
        assert!((guess - 9f64.ln()).abs() < 1e-12, "{guess}");
        let at: Vec<f64> = (0..63).map(|i| (i as f64).cos()).collect();
        let runs = [1, 2, 7].map(|threads| {
            let mut objective = Objective { threads, ..Objective::new(set, 9, 1e-3) };
            let mut gradient = vec![0.0; at.len()];
            (objective.evaluate(&at, &mut gradient), gradient)
        });
        assert_eq!(runs[0], runs[1]);
        assert_eq!(runs[0], runs[2]);
    }
}
