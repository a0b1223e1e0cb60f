//! How relevant each caption is to each clip, for multi-instance retrieval.
//!
//! Definition (EPIC-Kitchens-100's retrieval challenge, Damen et al., arXiv:2006.13256; matrices made by JPoSE):
//! half for the same verb class, half for the intersection over union of the noun classes.

use std::collections::HashMap;

/// Candidate captions in fine-tuning are more relevant than this (AVION's value). Compared
/// in `f64`: hundreds of pairs have exactly 0.1, which as `f32` would pass.
pub const CANDIDATE_RELEVANCY: f64 = 0.1;

/// The action of a clip.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ActionClasses {
    verb: u32,
    /// Sorted, each once: the files repeat some.
    nouns: Vec<u32>,
}

impl ActionClasses {
    pub fn new(verb: u32, mut nouns: Vec<u32>) -> Self {
        nouns.sort_unstable();
        nouns.dedup();
        ActionClasses { verb, nouns }
    }

    pub fn verb(&self) -> u32 {
        self.verb
    }

    /// Sorted, each once.
    pub fn nouns(&self) -> &[u32] {
        &self.nouns
    }

    /// From 0 to 1: `[same verb] / 2 + |common nouns| / |all nouns| / 2`, the second term 0 where neither has a noun.
    pub fn relevancy(&self, other: &ActionClasses) -> f64 {
        let common = self.nouns.iter().filter(|noun| other.nouns.binary_search(noun).is_ok()).count();
        let all = self.nouns.len() + other.nouns.len() - common;
        let nouns = if all == 0 { 0.0 } else { common as f64 / all as f64 };
        let verb = f64::from(u8::from(self.verb == other.verb));
        0.5 * verb + 0.5 * nouns
    }
}

/// Relevancies `[videos, captions]`, exact in `f64`.
#[derive(Clone, Debug)]
pub struct Relevancy {
    captions: usize,
    values: Values,
}

#[derive(Clone, Debug)]
enum Values {
    Dense(Vec<f64>),
    /// Clips with the same classes share a row. The matrix of the EPIC-Kitchens-100 training set would take 8.6 GB.
    ByClass {
        classes: Vec<ActionClasses>,
        /// Indices into `classes`.
        of_videos: Vec<u32>,
        of_captions: Vec<u32>,
    },
}

impl Relevancy {
    /// A given matrix, captions varying fastest.
    pub fn dense(values: Vec<f64>, captions: usize) -> Self {
        Relevancy { captions, values: Values::Dense(values) }
    }

    /// The relevancy of every caption to every video by their classes.
    pub fn from_classes(videos: &[&ActionClasses], captions: &[&ActionClasses]) -> Self {
        let mut classes = Vec::new();
        let mut known = HashMap::new();
        let mut index = |of: &&ActionClasses| {
            *known.entry((*of).clone()).or_insert_with(|| {
                classes.push((*of).clone());
                (classes.len() - 1) as u32
            })
        };
        let of_videos = videos.iter().map(&mut index).collect();
        let of_captions = captions.iter().map(&mut index).collect();
        Relevancy { captions: captions.len(), values: Values::ByClass { classes, of_videos, of_captions } }
    }

    /// `[videos, captions]`.
    pub fn shape(&self) -> [usize; 2] {
        let videos = match &self.values {
            Values::Dense(values) => values.len().checked_div(self.captions).unwrap_or(0),
            Values::ByClass { of_videos, .. } => of_videos.len(),
        };
        [videos, self.captions]
    }

    /// Relevancies of all captions to one video: `[captions]`.
    ///
    /// # Panics
    /// When `video` is not below `shape()[0]`.
    pub fn row(&self, video: usize) -> Vec<f64> {
        match &self.values {
            Values::Dense(values) => values[video * self.captions..(video + 1) * self.captions].to_vec(),
            Values::ByClass { classes, of_videos, of_captions } => {
                let video = &classes[of_videos[video] as usize];
                let by_class: Vec<f64> = classes.iter().map(|c| video.relevancy(c)).collect();
                of_captions.iter().map(|&c| by_class[c as usize]).collect()
            }
        }
    }

    /// The whole matrix, captions varying fastest: `[videos, captions]`.
    pub fn to_dense(&self) -> Vec<f64> {
        match &self.values {
            Values::Dense(values) => values.clone(),
            Values::ByClass { classes, of_videos, of_captions } => {
                let mut rows: Vec<Option<Vec<f64>>> = vec![None; classes.len()];
                let mut dense = Vec::with_capacity(of_videos.len() * of_captions.len());
                for (video, &class) in of_videos.iter().enumerate() {
                    let row = rows[class as usize].get_or_insert_with(|| self.row(video));
                    dense.extend_from_slice(row);
                }
                dense
            }
        }
    }

    /// Captions that fine-tuning may pair with a video: those above [`CANDIDATE_RELEVANCY`], ascending.
    ///
    /// # Panics
    /// When `video` is not below `shape()[0]`.
    pub fn candidates(&self, video: usize) -> Vec<usize> {
        let row = self.row(video);
        let candidates = row.iter().enumerate();
        candidates.filter(|&(_, &relevancy)| relevancy > CANDIDATE_RELEVANCY).map(|(caption, _)| caption).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes(verb: u32, nouns: &[u32]) -> ActionClasses {
        ActionClasses::new(verb, nouns.to_vec())
    }

    #[test]
    fn half_verb_half_nouns() {
        let cut_onion = classes(7, &[3]);
        assert_eq!(cut_onion.relevancy(&cut_onion), 1.0);
        assert_eq!(cut_onion.relevancy(&classes(7, &[4])), 0.5);
        assert_eq!(cut_onion.relevancy(&classes(1, &[3, 9, 3])), 0.25);
        assert_eq!(cut_onion.relevancy(&classes(1, &[2, 5])), 0.0);
        assert_eq!(classes(1, &[]).relevancy(&classes(1, &[])), 0.5);
        let many = classes(2, &[1, 2, 3, 4, 5]);
        assert_eq!(many.relevancy(&classes(3, &[5])), 0.1);
    }

    #[test]
    fn a_tenth_is_no_candidate() {
        let video = classes(2, &[1, 2, 3, 4, 5]);
        let captions = [classes(3, &[5]), classes(3, &[4, 5]), classes(2, &[9]), classes(0, &[9])];
        let relevancy = Relevancy::from_classes(&[&video], &captions.iter().collect::<Vec<_>>());
        assert_eq!(relevancy.row(0), [0.1, 0.2, 0.5, 0.0]);
        assert_eq!(relevancy.candidates(0), [1, 2]);
    }

    #[test]
    fn dense_and_by_class_agree() {
        let videos = [classes(0, &[1]), classes(1, &[1, 2]), classes(0, &[1])];
        let captions = [classes(1, &[2]), classes(0, &[1])];
        let computed =
            Relevancy::from_classes(&videos.iter().collect::<Vec<_>>(), &captions.iter().collect::<Vec<_>>());
        assert_eq!(computed.shape(), [3, 2]);
        let dense = Relevancy::dense(computed.to_dense(), 2);
        assert_eq!(dense.to_dense(), [0.0, 1.0, 0.75, 0.25, 0.0, 1.0]);
        assert_eq!(dense.shape(), [3, 2]);
        for video in 0..3 {
            assert_eq!(dense.row(video), computed.row(video));
            assert_eq!(dense.candidates(video), computed.candidates(video));
        }
    }
}
