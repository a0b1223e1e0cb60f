//! What is said about clips.

use super::Spread;
use crate::data::{Captions, Clip};
use crate::text::Tokenizer;
use serde::Serialize;
use std::collections::HashMap;

/// The captions of a set, each of several alternatives counted.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CaptionStats {
    pub count: u64,
    /// Different texts.
    pub distinct: u64,
    /// Without a word.
    pub empty: u64,
    /// Longer than the model's context: their ends are cut off.
    pub too_long: u64,
    /// Tokens that the model reads at most, both markers included.
    pub context: u64,
    /// Words of a caption, separated by spaces.
    pub words: Option<Spread>,
}

/// `None` when no clip has a caption.
pub(super) fn stats(clips: &[Clip], context: usize) -> Option<CaptionStats> {
    let mut counts: HashMap<&str, u64> = HashMap::new();
    for clip in clips {
        match &clip.captions {
            Captions::One(caption) => *counts.entry(caption).or_default() += 1,
            Captions::Many(captions) => captions.iter().for_each(|caption| *counts.entry(caption).or_default() += 1),
        }
    }
    if counts.is_empty() {
        return None;
    }
    let tokenizer = Tokenizer::new();
    let (mut words, mut empty, mut too_long, mut total) = (Vec::new(), 0, 0, 0);
    for (caption, count) in &counts {
        total += count;
        let length = caption.split_whitespace().count();
        words.extend(std::iter::repeat_n(length as f64, *count as usize));
        if length == 0 {
            empty += count;
        }
        // One more than the context, so that what just fits is told from what is cut. A token takes a byte at least.
        if caption.len() + 2 > context && tokenizer.encode(caption, context + 1).len() > context {
            too_long += count;
        }
    }
    let (distinct, context) = (counts.len() as u64, context as u64);
    Some(CaptionStats { count: total, distinct, empty, too_long, context, words: Spread::of(words) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captions_are_counted_with_their_alternatives() {
        let clip = |captions| Clip::narrated("v".into(), 0.0, 1.0, captions);
        let clips = [
            clip(Captions::One("take plate".into())),
            clip(Captions::One("take plate".into())),
            clip(Captions::Many(vec!["wash the very large plate".into(), " ".into()])),
        ];
        let stats = stats(&clips, 6).unwrap();
        assert_eq!((stats.count, stats.distinct, stats.empty, stats.too_long), (4, 3, 1, 1));
        let words = stats.words.unwrap();
        assert_eq!((words.min, words.median, words.max), (0.0, 2.0, 5.0));
        assert_eq!(super::stats(&[Clip::labelled("v".into(), 1)], 77), None);
    }
}
