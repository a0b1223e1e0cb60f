//! The memory that batches are decoded into, reused from batch to batch.
//!
//! A batch's buffer is cut into one piece a clip; the decode threads fill the pieces, and joined again in order they are
//! the contiguous batch, with no copy. On CUDA it is page-locked, and the device copies from it. A piece that was lost to a
//! stalled decoder is replaced by one of other memory; joining then copies.

use avion_kernels::cuda::pinned::{PinnedBuffer, PinnedPool};
use std::ops::Deref;
use std::sync::Arc;

/// Cuts a buffer into `pieces` of `piece` bytes. What they hold is left over from earlier batches.
pub(super) fn cut(pool: &PinnedPool, pieces: usize, piece: usize) -> Vec<PinnedBuffer> {
    let mut buffer = pool.take(pieces * piece);
    (0..pieces).map(|_| buffer.split_to(piece)).collect()
}

/// A batch's frames; the memory serves a later batch once this, and what shares it, is dropped.
#[derive(Clone, Debug)]
pub struct FrameBuffer(Arc<PinnedBuffer>);

impl FrameBuffer {
    /// Joins pieces, in order.
    pub(super) fn join(pieces: Vec<PinnedBuffer>, pool: &PinnedPool) -> Self {
        let total = pieces.iter().map(|piece| piece.len()).sum();
        let mut pieces = pieces.into_iter();
        let mut joined = pieces.next().unwrap_or_default();
        while let Some(piece) = pieces.next() {
            let Err(piece) = joined.unsplit(piece) else { continue };
            // Copied, with all that follow.
            let mut whole = pool.take(total);
            let mut rest = &mut whole[..];
            for part in [joined, piece].into_iter().chain(pieces) {
                let (place, after) = rest.split_at_mut(part.len());
                place.copy_from_slice(&part);
                rest = after;
            }
            return Self(Arc::new(whole));
        }
        Self(Arc::new(joined))
    }

    /// The bytes, for as long as somebody else needs them.
    pub fn share(&self) -> Arc<PinnedBuffer> {
        Arc::clone(&self.0)
    }

    /// The bytes to change; copied first if they are shared.
    pub fn make_mut(&mut self) -> &mut [u8] {
        if Arc::get_mut(&mut self.0).is_none() {
            let mut own = PinnedPool::plain().take(self.0.len());
            own.copy_from_slice(&self.0);
            self.0 = Arc::new(own);
        }
        match Arc::get_mut(&mut self.0) {
            Some(bytes) => bytes,
            None => unreachable!("nobody shares it"),
        }
    }
}

impl From<PinnedBuffer> for FrameBuffer {
    fn from(bytes: PinnedBuffer) -> Self {
        Self(Arc::new(bytes))
    }
}

impl Deref for FrameBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(pieces: &mut [PinnedBuffer]) {
        for (value, piece) in pieces.iter_mut().enumerate() {
            piece.fill(value as u8);
        }
    }

    #[test]
    fn pieces_join_without_a_copy_and_the_memory_is_reused() {
        let pool = PinnedPool::plain();
        let mut address = None;
        for _ in 0..3 {
            let mut pieces = cut(&pool, 4, 3);
            fill(&mut pieces);
            let start = *address.get_or_insert(pieces[0].as_ptr());
            assert_eq!(pieces[0].as_ptr(), start);
            let buffer = FrameBuffer::join(pieces, &pool);
            assert_eq!(buffer.as_ptr(), start);
            assert_eq!(&buffer[..], [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]);
        }
    }

    #[test]
    fn a_lost_piece_may_be_replaced_by_other_memory() {
        let pool = PinnedPool::plain();
        let mut pieces = cut(&pool, 4, 3);
        let start = pieces[0].as_ptr();
        let lost = std::mem::replace(&mut pieces[1], pool.take(3));
        fill(&mut pieces);
        let buffer = FrameBuffer::join(pieces, &pool);
        assert_eq!(&buffer[..], [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]);
        // The thread that holds the lost piece may still write to it.
        assert!((0..4).all(|_| !std::iter::repeat_with(|| pool.take(12)).take(3).any(|b| b.as_ptr() == start)));
        drop(lost);
        let buffers: Vec<_> = (0..4).map(|_| pool.take(12)).collect();
        assert!(buffers.iter().any(|buffer| buffer.as_ptr() == start));
    }

    #[test]
    fn left_out_pieces_close_up() {
        let pool = PinnedPool::plain();
        for left_out in 0..4 {
            let mut pieces = cut(&pool, 4, 3);
            fill(&mut pieces);
            pieces.remove(left_out);
            let buffer = FrameBuffer::join(pieces, &pool);
            let kept: Vec<u8> = (0..4).filter(|piece| *piece != left_out as u8).flat_map(|piece| [piece; 3]).collect();
            assert_eq!(buffer[..], kept);
        }
        assert!(FrameBuffer::join(Vec::new(), &pool).is_empty());
    }

    #[test]
    fn shared_bytes_do_not_change() {
        let pool = PinnedPool::plain();
        let mut buffer = FrameBuffer::from(pool.take(4));
        buffer.make_mut().fill(1);
        let (shared, at) = (buffer.share(), buffer.as_ptr());
        buffer.make_mut().fill(2);
        assert_eq!((&shared[..], &buffer[..]), (&[1; 4][..], &[2; 4][..]));
        assert!(shared.as_ptr() == at && buffer.as_ptr() != at);
    }
}
