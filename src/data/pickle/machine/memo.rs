//! Which memo entries a pickle reads back.

use crate::data::pickle::error::PickleError;
use crate::data::pickle::opcode::{Op, Reader};

/// A set of memo indices, which are dense and below the file's length.
#[derive(Default)]
pub(super) struct IndexSet {
    words: Vec<u64>,
    /// How many are in it.
    pub count: u32,
}

impl IndexSet {
    pub fn insert(&mut self, index: u32) {
        let (word, bit) = (index as usize / 64, 1 << (index % 64));
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        if self.words[word] & bit == 0 {
            self.words[word] |= bit;
            self.count += 1;
        }
    }

    pub fn contains(&self, index: u32) -> bool {
        let word = self.words.get(index as usize / 64);
        word.is_some_and(|word| word & (1 << (index % 64)) != 0)
    }
}

/// Goes through all opcodes once; also finds most damage before anything is built.
pub(super) fn indices_read_back(data: &[u8]) -> Result<IndexSet, PickleError> {
    let mut indices = IndexSet::default();
    let mut reader = Reader::new(data);
    loop {
        match reader.next()?.op {
            Op::Get(index) => indices.insert(index),
            Op::Stop => return Ok(indices),
            _ => {}
        }
    }
}
