//! The memory that batches are decoded into, reused from batch to batch.
//!
//! A batch's buffer is cut into one piece a clip; the decode threads fill the pieces, and joined again in
//! order they are the contiguous batch, with no copy. A piece that was lost to a stalled decoder is replaced by
//! one of other memory; joining then copies.

use bytes::BytesMut;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

/// Buffers of one size that wait to be used again.
#[derive(Debug)]
pub(super) struct BufferPool {
    len: usize,
    free: Mutex<Vec<BytesMut>>,
}

impl BufferPool {
    /// For buffers of `len` bytes.
    pub fn new(len: usize) -> Self {
        Self { len, free: Mutex::default() }
    }

    /// A buffer cut into `pieces` of `piece` bytes. What they hold is left over from earlier batches.
    pub fn take(&self, pieces: usize, piece: usize) -> Vec<BytesMut> {
        let free = (pieces * piece == self.len).then(|| self.lock().pop());
        let mut buffer = free.flatten().unwrap_or_else(|| BytesMut::zeroed(pieces * piece));
        (0..pieces).map(|_| buffer.split_to(piece)).collect()
    }

    fn give_back(&self, buffer: BytesMut) {
        // The shorter batch at the end of an evaluation is not kept.
        if buffer.len() == self.len {
            self.lock().push(buffer);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<BytesMut>> {
        // The list is whole whatever the thread that held it died of.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A batch's frames; its memory serves a later batch once this is dropped.
#[derive(Debug)]
pub struct FrameBuffer {
    bytes: BytesMut,
    pool: Arc<BufferPool>,
}

impl FrameBuffer {
    /// Joins pieces, in order.
    pub(super) fn join(pieces: impl IntoIterator<Item = BytesMut>, pool: &Arc<BufferPool>) -> Self {
        let mut bytes = BytesMut::new();
        for piece in pieces {
            bytes.unsplit(piece);
        }
        Self { bytes, pool: Arc::clone(pool) }
    }
}

impl From<Vec<u8>> for FrameBuffer {
    /// Frames that no pool waits for.
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes: BytesMut::from(bytes::Bytes::from(bytes)), pool: Arc::new(BufferPool::new(0)) }
    }
}

impl Deref for FrameBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for FrameBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for FrameBuffer {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(pieces: &mut [BytesMut]) {
        for (value, piece) in pieces.iter_mut().enumerate() {
            piece.fill(value as u8);
        }
    }

    #[test]
    fn pieces_join_without_a_copy_and_the_memory_is_reused() {
        let pool = Arc::new(BufferPool::new(12));
        let mut address = None;
        for _ in 0..3 {
            let mut pieces = pool.take(4, 3);
            fill(&mut pieces);
            let start = *address.get_or_insert(pieces[0].as_ptr());
            assert_eq!(pieces[0].as_ptr(), start);
            let buffer = FrameBuffer::join(pieces, &pool);
            assert_eq!(buffer.as_ptr(), start);
            assert_eq!(&buffer[..], [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]);
        }
        assert_eq!(pool.lock().len(), 1);
    }

    #[test]
    fn a_lost_piece_may_be_replaced_by_other_memory() {
        let pool = Arc::new(BufferPool::new(12));
        let mut pieces = pool.take(4, 3);
        let lost = std::mem::replace(&mut pieces[1], BytesMut::zeroed(3));
        fill(&mut pieces);
        let buffer = FrameBuffer::join(pieces, &pool);
        assert_eq!(&buffer[..], [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]);
        drop(buffer);
        drop(lost);
        assert_eq!(pool.take(4, 3).len(), 4);
    }

    #[test]
    fn left_out_pieces_close_up_and_short_batches_are_not_kept() {
        let pool = Arc::new(BufferPool::new(12));
        let mut pieces = pool.take(4, 3);
        fill(&mut pieces);
        pieces.remove(2);
        let buffer = FrameBuffer::join(pieces, &pool);
        assert_eq!(&buffer[..], [0, 0, 0, 1, 1, 1, 3, 3, 3]);
        drop(buffer);
        assert!(pool.lock().is_empty());
        assert_eq!(pool.take(2, 3).len(), 2);
    }
}
