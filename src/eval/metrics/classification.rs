//! Accuracy of a classifier that saw each clip in one or several views.
//!
//! Two averages over views are customary, and they can disagree: that of the logits, and that of the probabilities
//! (softmax per view, then the mean). AVION prints both, VideoMAE the second. What counts single predictions here
//! (confusion matrix, per-class table, class-mean accuracy) uses the averaged logits.
//!
//! Ties: of equal scores the class with the lower index ranks first, so results are the same on every machine.

use super::MetricError;
use std::collections::BTreeMap;

/// Ranks of top-1 and top-5.
const K: usize = 5;

/// Averages of one clip's views, `[classes]` each.
#[derive(Clone, Debug, PartialEq)]
pub struct AveragedViews {
    pub logits: Vec<f64>,
    pub probabilities: Vec<f64>,
}

/// Averages the logits, and the softmax, of one clip's views, in the order given.
///
/// # Errors
/// No view at all, views of different length; a logit that is not finite, named by clip, view and class.
pub fn average_views<'a>(
    clip: usize,
    views: impl IntoIterator<Item = (usize, &'a [f32])>,
) -> Result<AveragedViews, MetricError> {
    let mut mean = AveragedViews { logits: Vec::new(), probabilities: Vec::new() };
    let mut count = 0.0;
    for (view, logits) in views {
        check_finite(clip, view, logits)?;
        if count == 0.0 {
            mean.logits.resize(logits.len(), 0.0);
            mean.probabilities.resize(logits.len(), 0.0);
        } else if logits.len() != mean.logits.len() {
            let (found, classes) = (logits.len(), mean.logits.len());
            return Err(MetricError::WrongLogits { found, clips: 1, views: 1, classes });
        }
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let exponential = |logit: f32| (f64::from(logit) - f64::from(largest)).exp();
        let sum: f64 = logits.iter().map(|&logit| exponential(logit)).sum();
        for ((&logit, total), share) in logits.iter().zip(&mut mean.logits).zip(&mut mean.probabilities) {
            *total += f64::from(logit);
            *share += exponential(logit) / sum;
        }
        count += 1.0;
    }
    if mean.logits.is_empty() {
        return Err(MetricError::NoViews { clip });
    }
    for value in mean.logits.iter_mut().chain(&mut mean.probabilities) {
        *value /= count;
    }
    Ok(mean)
}

/// That every logit of a view is finite.
///
/// # Errors
/// The first that is not, by clip, view and class.
pub fn check_finite(clip: usize, view: usize, logits: &[f32]) -> Result<(), MetricError> {
    match logits.iter().position(|logit| !logit.is_finite()) {
        Some(class) => Err(MetricError::LogitNotFinite { clip, view, class, value: logits[class] }),
        None => Ok(()),
    }
}

/// Predictions counted clip by clip; holds no logits, so the size of the set does not matter.
#[derive(Clone, Debug)]
pub struct Tally {
    confusion: Confusion,
    clips: u64,
    /// Right among the first 1, and the first 5; by averaged logits, by averaged probabilities.
    right: [[u64; 2]; 2],
}

/// How often clips of one class were taken for another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    pub classes: usize,
    /// `[true class, predicted class]`, row-major.
    pub counts: Vec<u32>,
}

/// One line of the per-class table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassCount {
    pub class: usize,
    /// Clips of the class.
    pub clips: u64,
    /// Of them recognised.
    pub right: u64,
    /// The wrong class predicted most often for them, and how often.
    pub confused_with: Option<(usize, u64)>,
}

/// Shares in `[0, 1]`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ClassificationScores {
    pub top1: f64,
    pub top5: f64,
    pub top1_probabilities: f64,
    pub top5_probabilities: f64,
    /// Mean share of right predictions over the classes that occur in truth or prediction. A class that is only
    /// predicted counts as 0: AVION's rule, which is below the mean over true classes alone.
    pub mean_class: f64,
}

impl ClassificationScores {
    /// By the names of [`Evaluation::scores`](crate::eval::Evaluation::scores).
    pub fn named(&self) -> BTreeMap<String, f64> {
        [
            ("top1", self.top1),
            ("top5", self.top5),
            ("top1_probabilities", self.top1_probabilities),
            ("top5_probabilities", self.top5_probabilities),
            ("mean_class", self.mean_class),
        ]
        .map(|(name, score)| (name.to_owned(), score))
        .into()
    }
}

/// Scores logits of clips with equally many views.
///
/// # Shapes
/// `logits`: `[clips * views, classes]`, row-major, the views of a clip together; `labels`: `[clips]`.
///
/// # Errors
/// Sizes that do not fit, a label that is no class, a logit that is not finite.
pub fn classify(logits: &[f32], views: usize, classes: usize, labels: &[usize]) -> Result<Tally, MetricError> {
    let expected = labels.len().checked_mul(views).and_then(|rows| rows.checked_mul(classes));
    if expected != Some(logits.len()) || classes == 0 || views == 0 {
        return Err(MetricError::WrongLogits { found: logits.len(), clips: labels.len(), views, classes });
    }
    let mut tally = Tally::new(classes);
    for (clip, (views, &label)) in logits.chunks_exact(views * classes).zip(labels).enumerate() {
        let mean = average_views(clip, views.chunks_exact(classes).enumerate())?;
        tally.add(clip, &mean, label)?;
    }
    Ok(tally)
}

impl Tally {
    pub fn new(classes: usize) -> Self {
        Self { confusion: Confusion { classes, counts: vec![0; classes * classes] }, clips: 0, right: [[0; 2]; 2] }
    }

    /// Counts a clip.
    ///
    /// # Errors
    /// A label that is no class, averages of another number of classes.
    pub fn add(&mut self, clip: usize, mean: &AveragedViews, label: usize) -> Result<(), MetricError> {
        let classes = self.confusion.classes;
        for found in [mean.logits.len(), mean.probabilities.len()] {
            if found != classes {
                return Err(MetricError::WrongLogits { found, clips: 1, views: 1, classes });
            }
        }
        if label >= classes {
            return Err(MetricError::UnknownClass { clip, label, classes });
        }
        for (right, scores) in self.right.iter_mut().zip([&mean.logits, &mean.probabilities]) {
            let rank = rank_of(scores, label);
            right[0] += u64::from(rank == 0);
            right[1] += u64::from(rank < K);
        }
        let cell = &mut self.confusion.counts[label * classes + best(&mean.logits)];
        *cell = cell.saturating_add(1);
        self.clips += 1;
        Ok(())
    }

    pub fn confusion(&self) -> &Confusion {
        &self.confusion
    }

    /// # Errors
    /// No clip was counted.
    pub fn scores(&self) -> Result<ClassificationScores, MetricError> {
        if self.clips == 0 {
            return Err(MetricError::NoClips);
        }
        let share = |right: u64| right as f64 / self.clips as f64;
        let [[top1, top5], [top1_probabilities, top5_probabilities]] = self.right.map(|by| by.map(share));
        Ok(ClassificationScores {
            top1,
            top5,
            top1_probabilities,
            top5_probabilities,
            mean_class: self.confusion.mean_class(),
        })
    }

    /// What guessing scores, each class as likely as any other.
    ///
    /// `mean_class` is the expected sum of shares over the expected number of classes that occur in truth or among
    /// the guesses.
    ///
    /// # Errors
    /// No clip was counted.
    pub fn chance_uniform(&self) -> Result<ClassificationScores, MetricError> {
        if self.clips == 0 {
            return Err(MetricError::NoClips);
        }
        let classes = self.confusion.classes as f64;
        let present = self.confusion.per_class().iter().filter(|class| class.clips > 0).count() as f64;
        let never_guessed = (1.0 - 1.0 / classes).powf(self.clips as f64);
        let occur = present + (classes - present) * (1.0 - never_guessed);
        let (top1, top5) = (1.0 / classes, (K as f64 / classes).min(1.0));
        Ok(ClassificationScores {
            top1,
            top5,
            top1_probabilities: top1,
            top5_probabilities: top5,
            mean_class: present / classes / occur,
        })
    }

    /// What ranking the classes by how often they occur scores, the same for every clip: always the most frequent
    /// class first. A model has learned something from the clips only above this.
    ///
    /// # Errors
    /// No clip was counted.
    pub fn chance_majority(&self) -> Result<ClassificationScores, MetricError> {
        if self.clips == 0 {
            return Err(MetricError::NoClips);
        }
        let mut counts: Vec<u64> = self.confusion.per_class().iter().map(|class| class.clips).collect();
        let present = counts.iter().filter(|&&clips| clips > 0).count();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let share = |k: usize| counts.iter().take(k).sum::<u64>() as f64 / self.clips as f64;
        Ok(ClassificationScores {
            top1: share(1),
            top5: share(K),
            top1_probabilities: share(1),
            top5_probabilities: share(K),
            mean_class: 1.0 / present as f64,
        })
    }
}

impl Confusion {
    /// A line per class, also for those without clips.
    pub fn per_class(&self) -> Vec<ClassCount> {
        self.counts
            .chunks_exact(self.classes)
            .enumerate()
            .map(|(class, row)| {
                let mut confused_with = None;
                for (other, &count) in row.iter().enumerate() {
                    let most = confused_with.map_or(0, |(_, most)| most);
                    if other != class && u64::from(count) > most {
                        confused_with = Some((other, u64::from(count)));
                    }
                }
                ClassCount {
                    class,
                    clips: row.iter().map(|&count| u64::from(count)).sum(),
                    right: row[class].into(),
                    confused_with,
                }
            })
            .collect()
    }

    fn mean_class(&self) -> f64 {
        let mut predicted = vec![false; self.classes];
        for row in self.counts.chunks_exact(self.classes) {
            for (seen, &count) in predicted.iter_mut().zip(row) {
                *seen |= count > 0;
            }
        }
        let occur = self.per_class().into_iter().filter(|class| class.clips > 0 || predicted[class.class]);
        let (sum, number) =
            occur.fold((0.0, 0.0), |(sum, n), c| (sum + c.right as f64 / c.clips.max(1) as f64, n + 1.0));
        sum / number
    }
}

/// How many classes rank before `label`.
pub(in crate::eval) fn rank_of(scores: &[f64], label: usize) -> usize {
    let own = scores[label];
    let before = |(class, &score): (usize, &f64)| score > own || (score == own && class < label);
    scores.iter().enumerate().filter(|&entry| before(entry)).count()
}

/// The class that ranks first.
fn best(scores: &[f64]) -> usize {
    let better = |best: usize, class: usize| if scores[class] > scores[best] { class } else { best };
    (0..scores.len()).fold(0, better)
}

#[cfg(test)]
mod tests;
