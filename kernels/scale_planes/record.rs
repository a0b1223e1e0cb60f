//! What travels instead of a finished frame: the part of its planes that a crop needs, and how to weigh and mix them.
//!
//! A record is `record_bytes(px)` long, whatever it holds, and starts with [`HEADER`] words (u32, lowest byte first):
//!
//! ```text
//! KIND       0: finished, the rest is RGB bytes [px, px, 3]; 1: planes, described by the words that follow
//! GBR        1: the planes are green, blue and red; 0: Y, Cb and Cr
//! MATRIX     black, y, rv, -gu, -gv, bu: see `Matrix`
//! TABLES     where the tables of weights begin: rows and columns of the first plane, rows and columns of the others
//! PLANES     where the three planes begin
//! USED       words of the record that are used, from its start
//! STRIDES    words in a row of the first plane, and of the others
//! ```
//!
//! Places are counted in words from the record's start. A table has the number of words of weights that an output takes,
//! then for each of `px` outputs a word (low half: its first sample; high half: what its sum starts with, rows only) and
//! its weights, two to a word, the low half first. A plane has rows of whole words.

use std::ops::Range;

/// Words before everything else.
pub const HEADER: usize = 24;

pub(super) const KIND: u32 = 0;
pub(super) const GBR: u32 = 1;
pub(super) const MATRIX: u32 = 2;
pub(super) const TABLES: u32 = 8;
pub(super) const PLANES: u32 = 12;
pub(super) const STRIDES: u32 = 15;
const USED: usize = 17;

/// Bits behind the point of a weight, of a weighted sample, and of a coefficient of the matrix.
pub const WEIGHT_BITS: u32 = 14;
pub const FRACTION_BITS: u32 = 7;
pub const COEFFICIENT_BITS: u32 = 13;

/// Weighted rows of the three planes that the kernel has room for, samples; and the largest `px`.
pub(super) const ROOM: usize = 3072;
pub const MAX_PX: usize = 1024;

/// Bytes of a record: twice those of a finished frame hold the planes of 4:2:0 video with up to four times its pixels.
pub const fn record_bytes(px: usize) -> usize {
    4 * HEADER + 6 * px * px
}

/// Whether records of `px` can be unpacked: their rows are whole words.
pub const fn is_supported(px: usize) -> bool {
    px > 0 && px.is_multiple_of(4) && px <= MAX_PX
}

/// `R = y (Y - black) + rv (Cr - 128)`, `G = y (Y - black) + gu (Cb - 128) + gv (Cr - 128)`, `B = y (Y - black) +
/// bu (Cb - 128)`: coefficients with [`COEFFICIENT_BITS`], `black` with [`FRACTION_BITS`] behind the point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix {
    pub black: i32,
    pub y: i32,
    pub rv: i32,
    /// Not above 0, like `gv`.
    pub gu: i32,
    pub gv: i32,
    pub bu: i32,
}

/// The weights of one axis, encoded.
#[derive(Clone, Debug, Default)]
pub struct Table {
    words: Vec<u32>,
    /// Weights of an output, an even number.
    taps: usize,
}

impl Table {
    /// `outputs`: for each its first sample, counted from the first that is used at all, what the sum of its weighted
    /// rows starts with, and its weights, all at least 0. `None` where a number takes more than 16 bits.
    pub fn new<W: Iterator<Item = i16>>(outputs: impl Iterator<Item = (usize, u16, W)>) -> Option<Table> {
        let outputs: Vec<(usize, u16, Vec<i16>)> = outputs.map(|(start, sum, w)| (start, sum, w.collect())).collect();
        let used = |weights: &[i16]| weights.iter().rposition(|weight| *weight != 0).map_or(1, |last| last + 1);
        let taps = outputs.iter().map(|(.., weights)| used(weights)).max().unwrap_or(1).next_multiple_of(2);
        let mut words = vec![taps as u32 / 2];
        for (start, sum, weights) in outputs {
            words.push(u32::from(u16::try_from(start).ok()?) | u32::from(sum) << 16);
            let weight = |tap: usize| weights.get(tap).map_or(Some(0), |weight| u16::try_from(*weight).ok());
            for tap in (0..taps).step_by(2) {
                words.push(u32::from(weight(tap)?) | u32::from(weight(tap + 1)?) << 16);
            }
        }
        Some(Table { words, taps })
    }
}

/// A plane, and which of its samples the tables count from.
#[derive(Clone, Copy, Debug)]
pub struct Plane<'a> {
    /// Rows of `stride` bytes.
    pub samples: &'a [u8],
    pub stride: usize,
}

/// Weights for the rows and the columns of a plane, and the samples that they are for.
#[derive(Clone, Debug, Default)]
pub struct Axes {
    pub rows: Table,
    pub columns: Table,
    pub used_rows: Range<usize>,
    pub used_columns: Range<usize>,
}

impl Axes {
    fn stride(&self) -> usize {
        self.used_columns.len().div_ceil(4)
    }
}

/// Marks a record as finished and gives the place of its pixels, `[px, px, 3]`; `None` when `record` is of another size.
pub fn finished(record: &mut [u8], px: usize) -> Option<&mut [u8]> {
    (record.len() == record_bytes(px)).then_some(())?;
    let (header, rest) = record.split_at_mut(4 * HEADER);
    header.fill(0);
    let used = HEADER + (3 * px * px).div_ceil(4);
    header[4 * USED..][..4].copy_from_slice(&(used as u32).to_le_bytes());
    Some(&mut rest[..3 * px * px])
}

/// Bytes of a record that its frame is made of, from the start; all of what is no record.
pub fn used_bytes(record: &[u8]) -> usize {
    match record.get(4 * USED..).and_then(|rest| rest.first_chunk()) {
        Some(word) => (4 * u32::from_le_bytes(*word) as usize).min(record.len()),
        None => record.len(),
    }
}

/// Writes the planes' used parts with their weights. `matrix` is `None` for green, blue and red. False, and the record is
/// undefined, when they do not fit.
pub fn write_planes(
    record: &mut [u8],
    px: usize,
    matrix: Option<Matrix>,
    planes: [Plane; 3],
    [first, others]: [&Axes; 2],
) -> bool {
    let strides = [first.stride(), others.stride()];
    let taps = first.columns.taps.max(others.columns.taps);
    if record.len() != record_bytes(px) || 4 * (strides[0] + 2 * strides[1]) + taps > ROOM {
        return false;
    }
    let mut header = [0u32; HEADER];
    header[KIND as usize] = 1;
    header[GBR as usize] = u32::from(matrix.is_none());
    if let Some(Matrix { black, y, rv, gu, gv, bu }) = matrix {
        let words = [black, y, rv, -gu, -gv, bu].map(|value| value as u32);
        header[MATRIX as usize..][..6].copy_from_slice(&words);
    }
    header[STRIDES as usize..][..2].copy_from_slice(&strides.map(|words| words as u32));
    let mut at = HEADER;
    let mut place = |words: usize| {
        let start = at;
        at += words;
        start as u32
    };
    let tables = [&first.rows, &first.columns, &others.rows, &others.columns];
    let axes = [first, others, others];
    for (word, table) in header[TABLES as usize..].iter_mut().zip(tables) {
        *word = place(table.words.len());
    }
    for (word, axes) in header[PLANES as usize..][..3].iter_mut().zip(axes) {
        *word = place(axes.stride() * axes.used_rows.len());
    }
    if 4 * at > record.len() {
        return false;
    }
    header[USED] = at as u32;
    let mut put = |start: u32, words: &[u32]| {
        for (bytes, word) in record[4 * start as usize..].as_chunks_mut().0.iter_mut().zip(words) {
            *bytes = word.to_le_bytes();
        }
    };
    put(0, &header);
    for (start, table) in header[TABLES as usize..].iter().zip(tables) {
        put(*start, &table.words);
    }
    for ((start, axes), plane) in header[PLANES as usize..][..3].iter().zip(axes).zip(planes) {
        let columns = axes.used_columns.clone();
        let out = record[4 * *start as usize..].chunks_exact_mut(4 * axes.stride());
        for (out, row) in out.zip(axes.used_rows.clone()) {
            out[..columns.len()].copy_from_slice(&plane.samples[row * plane.stride..][columns.clone()]);
        }
    }
    true
}
