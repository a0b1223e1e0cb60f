//! What a step that is only walked through ([`super::walk`]) takes its memory from: a sum, or a slab as the arena would cut it.

use avion_kernels::arena::{Space, aligned};

/// What a step takes its memory from.
pub(super) trait Memory {
    type Piece;

    fn take(&mut self, bytes: u64) -> Self::Piece;

    fn give(&mut self, piece: Self::Piece);

    fn give_all(&mut self, pieces: impl IntoIterator<Item = Self::Piece>) {
        pieces.into_iter().for_each(|piece| self.give(piece));
    }

    /// The piece, where it is `kept`; else it is given back.
    fn keep(&mut self, piece: Self::Piece, kept: bool) -> Option<Self::Piece> {
        if kept {
            return Some(piece);
        }
        self.give(piece);
        None
    }
}

/// Bytes in use, and at their most.
#[derive(Default)]
pub(super) struct Ledger {
    pub now: u64,
    pub peak: u64,
}

impl Memory for Ledger {
    type Piece = u64;

    fn take(&mut self, bytes: u64) -> u64 {
        let bytes = aligned(bytes);
        self.now += bytes;
        self.peak = self.peak.max(self.now);
        bytes
    }

    fn give(&mut self, piece: u64) {
        self.now -= piece;
    }
}

/// One slab, laid out as the arena does it.
pub(super) struct Layout {
    space: Space,
    /// Whether every request has found a gap.
    pub fits: bool,
}

impl Layout {
    pub fn new(slab: u64) -> Self {
        Layout { space: Space::new(slab), fits: true }
    }
}

impl Memory for Layout {
    /// Start and length; nothing once a request has found no gap.
    type Piece = Option<(u64, u64)>;

    fn take(&mut self, bytes: u64) -> Self::Piece {
        let bytes = aligned(bytes);
        let start = if self.fits { self.space.take(bytes) } else { None };
        self.fits = start.is_some();
        Some((start?, bytes))
    }

    fn give(&mut self, piece: Self::Piece) {
        if let Some((start, bytes)) = piece {
            self.space.release(start, bytes);
        }
    }
}
