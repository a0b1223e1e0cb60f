//! From captions to token ids, exactly as CLIP and AVION number them.
//!
//! In: a caption, any Unicode. Out: ids of `[start, tokens.., end]`, at most `context` long, alone or as a padded
//! batch. The data loader calls this on its worker threads; a narration of ten words costs a few microseconds.
//!
//! ```
//! use avion::text::Tokenizer;
//!
//! let tokenizer = Tokenizer::new();
//! assert_eq!(tokenizer.encode("take plate", 77), [49406, 1172, 5135, 49407]);
//! let batch = tokenizer.encode_batch(&["take plate", "wash"], 77);
//! assert_eq!((batch.length, batch.eot), (4, vec![3, 2]));
//! ```

mod clean;

pub use clean::clean;

use instant_clip_tokenizer::{Token, Tokenizer as ClipTokenizer};

/// Size of CLIP's vocabulary: 256 bytes, 256 bytes at the end of a word, 48,894 merges, two markers.
pub const VOCABULARY: usize = 49_408;
/// Marks the start of a text.
pub const START_OF_TEXT: u32 = 49_406;
/// Marks the end of a text; its feature is the caption's. It is the largest id, so `argmax` finds it.
pub const END_OF_TEXT: u32 = 49_407;
/// Fills a batch after the end of its shorter texts.
pub const PADDING: i32 = 0;

/// CLIP's byte-pair encoder with its vocabulary (OpenAI's `bpe_simple_vocab_16e6`, compiled in).
///
/// Building one takes a tenth of a second or two: make it once and share it.
///
/// # Source
/// Radford et al. 2021, arXiv:2103.00020, and AVION's tokenizer. Ids are checked against both in `tests/tokenizer.rs`.
/// The merges are those of the crate `instant-clip-tokenizer`; [`clean`] adds what the reference does to a text first.
pub struct Tokenizer {
    bpe: ClipTokenizer,
}

/// Captions of a batch as one rectangle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenBatch {
    /// `[batch, length]`, rows filled up with [`PADDING`].
    pub ids: Vec<i32>,
    /// Tokens of the longest caption, markers included. Nothing after it is ever computed, which is exact: the text
    /// tower is causal and reads its result at the end marker.
    pub length: usize,
    /// `[batch]`: where each caption's feature is read, the first [`END_OF_TEXT`] of its row.
    pub eot: Vec<usize>,
}

impl Tokenizer {
    pub fn new() -> Self {
        Self { bpe: ClipTokenizer::new() }
    }

    /// The ids of `text` between [`START_OF_TEXT`] and [`END_OF_TEXT`], at most `context` of them in all.
    ///
    /// A longer text keeps its first `context - 1` ids and ends in [`END_OF_TEXT`] (AVION's rule; LaViLa drops the
    /// marker, OpenAI refuses). There are always two ids at least, even when `context` is smaller.
    ///
    /// A text that spells `<start_of_text>` or `<end_of_text>` gets the marker itself, as in AVION.
    pub fn encode(&self, text: &str, context: usize) -> Vec<u32> {
        let mut tokens = vec![self.bpe.start_of_text()];
        self.bpe.encode(&clean(text), &mut tokens);
        tokens.truncate(context.max(2) - 1);
        tokens.push(self.bpe.end_of_text());
        tokens.into_iter().map(|token: Token| u32::from(token.to_u16())).collect()
    }

    /// [`encode`](Self::encode)s every text and pads them to the longest of this batch.
    pub fn encode_batch<S: AsRef<str>>(&self, texts: &[S], context: usize) -> TokenBatch {
        let rows: Vec<Vec<u32>> = texts.iter().map(|text| self.encode(text.as_ref(), context)).collect();
        let length = rows.iter().map(Vec::len).max().unwrap_or(0);
        let mut ids = vec![PADDING; rows.len() * length];
        let mut eot = Vec::with_capacity(rows.len());
        for (row, padded) in rows.iter().zip(ids.chunks_exact_mut(length.max(1))) {
            for (id, cell) in row.iter().zip(padded) {
                *cell = *id as i32; // ids are below VOCABULARY
            }
            let end = row.iter().position(|&id| id == END_OF_TEXT);
            eot.push(end.unwrap_or(row.len() - 1));
        }
        TokenBatch { ids, length, eot }
    }
}

impl Default for Tokenizer {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_ends_in_the_end_marker() {
        let tokenizer = Tokenizer::new();
        let long = "wash ".repeat(200);
        let ids = tokenizer.encode(&long, 77);
        assert_eq!(ids.len(), 77);
        assert_eq!((ids[0], ids[76]), (START_OF_TEXT, END_OF_TEXT));
        assert!(ids[1..76].iter().all(|&id| id == ids[1]));
        // 75 words fill the context exactly; 74 leave room.
        assert_eq!(tokenizer.encode(&"wash ".repeat(75), 77), ids);
        assert_eq!(tokenizer.encode(&"wash ".repeat(74), 77).len(), 76);
    }

    #[test]
    fn tiny_contexts_still_have_both_markers() {
        let tokenizer = Tokenizer::new();
        for context in [0, 1, 2] {
            assert_eq!(tokenizer.encode("take plate", context), [START_OF_TEXT, END_OF_TEXT]);
        }
    }

    #[test]
    fn a_batch_is_padded_to_its_longest_caption() {
        let tokenizer = Tokenizer::new();
        let batch = tokenizer.encode_batch(&["", "take plate", "wash"], 77);
        assert_eq!(batch.length, 4);
        assert_eq!(batch.eot, [1, 3, 2]);
        let [sot, eot] = [START_OF_TEXT as i32, END_OF_TEXT as i32];
        assert_eq!(batch.ids[..4], [sot, eot, 0, 0]);
        assert_eq!(batch.ids[4..8], [sot, 1172, 5135, eot]);
        assert_eq!(batch.ids[11], 0);

        let none = tokenizer.encode_batch::<&str>(&[], 77);
        assert_eq!((none.ids.len(), none.length, none.eot.len()), (0, 0, 0));
    }

    #[test]
    fn a_spelled_end_marker_is_where_the_feature_is_read() {
        // argmax over ids takes the first of equal maxima, so must we.
        let batch = Tokenizer::new().encode_batch(&["wash <end_of_text> plate"], 77);
        assert_eq!(batch.eot, [2]);
        assert_eq!(batch.ids[2], END_OF_TEXT as i32);
        assert_eq!(batch.length, 5);
    }
}
