//! Classes of labelled clips.

use super::Spread;
use crate::data::Clip;
use serde::Serialize;
use std::collections::BTreeMap;

/// The labels of a set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LabelStats {
    /// Clips of each class that has any.
    pub clips: BTreeMap<u32, u64>,
    /// Clips of a class, over classes that have any.
    pub of_a_class: Option<Spread>,
    /// Classes of the recipe that have none; 0 when it does not say how many there are.
    pub without: u64,
    /// Clips of a class that the recipe does not have.
    pub beyond: u64,
}

/// `None` when no clip has a label. `classes` is the recipe's number.
pub(super) fn stats(clips: &[Clip], classes: Option<usize>) -> Option<LabelStats> {
    let mut counts = BTreeMap::<u32, u64>::new();
    for label in clips.iter().filter_map(|clip| clip.label) {
        *counts.entry(label).or_default() += 1;
    }
    if counts.is_empty() {
        return None;
    }
    let classes = classes.map_or(u32::MAX, |classes| classes.min(u32::MAX as usize) as u32);
    let within = counts.range(..classes).count() as u64;
    Some(LabelStats {
        of_a_class: Spread::of(counts.values().map(|count| *count as f64).collect()),
        without: if classes == u32::MAX { 0 } else { u64::from(classes) - within },
        beyond: counts.range(classes..).map(|(_, count)| count).sum(),
        clips: counts,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_without_clips_and_clips_without_classes_show() {
        let clips: Vec<Clip> = [0, 0, 2, 7].map(|label| Clip::labelled("v".into(), label)).into();
        let stats = stats(&clips, Some(5)).unwrap();
        assert_eq!((stats.without, stats.beyond, stats.clips[&0]), (3, 1, 2));
        assert_eq!(super::stats(&clips, None).unwrap().without, 0);
    }
}
