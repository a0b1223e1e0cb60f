//! Token embedding with positions, and its gradient without a buffer the size of the vocabulary.
//!
//! Forward: one pass that reads a table row and a position row and writes an output row; memory bound.
//!
//! Backward: the host, which made the ids, sorts the rows by token ([`Groups`]); the device then adds to each token's row
//! of the table's gradient the sum of its rows, and touches no other row of the table. Long groups (start and end tokens
//! occur in every caption) are cut into pieces summed side by side and folded in a second launch. No atomics, so the
//! result repeats to the bit. Bytes: the kept rows once, and the touched table rows twice.

use crate::{FloatKind, Handle, flat::lanes, launch::grid, with_float};
use cubecl::prelude::*;

/// Most rows that one piece of a group sums.
const PIECE_ROWS: usize = 16;
/// Set in a piece's target when it is a partial sum and not a token.
const PARTIAL: u32 = 1 << 31;
/// Words of a piece (first row, end, target) and of a fold (token, first partial sum, end).
const ENTRY: usize = 3;

/// The rows of a batch, grouped by token: what the backward pass reads instead of the ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Groups {
    /// Rows sorted by token, then pieces, then folds.
    words: Vec<u32>,
    rows: usize,
    pieces: usize,
    folds: usize,
    partials: usize,
}

impl Groups {
    /// Groups the rows `0..ids.len()`, all but those that `skip` names (rows after a caption's end: their gradient is
    /// zero). Within a group, rows stay in order.
    pub fn of(ids: &[u32], skip: impl Fn(usize) -> bool) -> Self {
        let mut rows: Vec<u32> = (0..ids.len()).filter(|row| !skip(*row)).map(|row| row as u32).collect();
        rows.sort_by_key(|row| ids[*row as usize]);
        let (mut pieces, mut folds, mut partials, mut start) = (Vec::new(), Vec::new(), 0u32, 0usize);
        for group in rows.chunk_by(|a, b| ids[*a as usize] == ids[*b as usize]) {
            let (token, end) = (ids[group[0] as usize], start + group.len());
            if group.len() <= PIECE_ROWS {
                pieces.push([start as u32, end as u32, token]);
            } else {
                let first = partials;
                for piece in (start..end).step_by(PIECE_ROWS) {
                    pieces.push([piece as u32, (piece + PIECE_ROWS).min(end) as u32, partials | PARTIAL]);
                    partials += 1;
                }
                folds.push([token, first, partials]);
            }
            start = end;
        }
        let (count, num_pieces, num_folds) = (rows.len(), pieces.len(), folds.len());
        let mut words = rows;
        words.extend(pieces.into_iter().chain(folds).flatten());
        Groups { words, rows: count, pieces: num_pieces, folds: num_folds, partials: partials as usize }
    }

    /// What [`backward`] reads on the device, to be uploaded as it is. Empty when every row was skipped.
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    /// Rows that were not skipped.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Rows of f32 that the backward pass needs as scratch.
    pub fn partials(&self) -> usize {
        self.partials
    }

    /// The most [`partials`](Self::partials) of any `rows` rows: all in groups just too long for one piece.
    pub fn most_partials(rows: usize) -> usize {
        2 * rows / (PIECE_ROWS + 1)
    }
}

#[cube(launch_unchecked)]
fn forward_kernel<F: Float, N: Size>(
    table: &Array<Vector<f32, N>>,
    ids: &Array<u32>,
    position: &Array<Vector<f32, N>>,
    y: &mut Array<Vector<F, N>>,
    vectors: u32,
    row_vectors: u32,
    tokens: u32,
) {
    let i = ABSOLUTE_POS as u32;
    if i < vectors {
        let row = i / row_vectors;
        let column = i % row_vectors;
        let token = table[(ids[row as usize] * row_vectors + column) as usize];
        y[i as usize] = Vector::cast_from(token + position[(row % tokens * row_vectors + column) as usize]);
    }
}

#[cube(launch_unchecked)]
fn sum_pieces<F: Float, N: Size>(
    d: &Array<Vector<F, N>>,
    words: &Array<u32>,
    d_table: &mut Array<Vector<f32, N>>,
    partials: &mut Array<Vector<f32, N>>,
    vectors: u32,
    row_vectors: u32,
    first_entry: u32,
    #[comptime] with_partials: bool,
) {
    let i = ABSOLUTE_POS as u32;
    if i < vectors {
        let entry = (first_entry + i / row_vectors * comptime!(ENTRY as u32)) as usize;
        let column = i % row_vectors;
        let target = words[entry + 2];
        let mut sum = Vector::<f32, N>::new(0.0);
        for at in words[entry]..words[entry + 1] {
            sum += Vector::cast_from(d[(words[at as usize] * row_vectors + column) as usize]);
        }
        if comptime!(with_partials) {
            if target >= PARTIAL {
                partials[((target - PARTIAL) * row_vectors + column) as usize] = sum;
            } else {
                d_table[(target * row_vectors + column) as usize] += sum;
            }
        } else {
            d_table[(target * row_vectors + column) as usize] += sum;
        }
    }
}

#[cube(launch_unchecked)]
fn fold_partials<N: Size>(
    partials: &Array<Vector<f32, N>>,
    words: &Array<u32>,
    d_table: &mut Array<Vector<f32, N>>,
    vectors: u32,
    row_vectors: u32,
    first_entry: u32,
) {
    let i = ABSOLUTE_POS as u32;
    if i < vectors {
        let entry = (first_entry + i / row_vectors * comptime!(ENTRY as u32)) as usize;
        let column = i % row_vectors;
        let mut sum = Vector::<f32, N>::new(0.0);
        for slot in words[entry + 1]..words[entry + 2] {
            sum += partials[(slot * row_vectors + column) as usize];
        }
        let token = words[entry];
        d_table[(token * row_vectors + column) as usize] += sum;
    }
}

/// `y[row] = table[ids[row]] + position[row % tokens]`.
///
/// # Shapes
/// - `table`: `[vocabulary, width]`, f32; `position`: `[at least tokens, width]`, f32; fewer than 2^32 elements each
/// - `ids`: `[rows]`, u32 (or i32), each below `vocabulary`
/// - `y`: `[rows, width]` of `kind`
pub fn forward<R: Runtime>(
    client: &ComputeClient<R>,
    kind: FloatKind,
    [table, ids, position]: [&Handle; 3],
    y: &Handle,
    rows: usize,
    tokens: usize,
    width: usize,
) {
    let lanes = lanes(width);
    let (cubes, dim) = grid(rows * width / lanes);
    with_float!(kind, F => unsafe {
        // SAFETY: the kernel checks its position against the output's length; ids and positions are in range by contract.
        forward_kernel::launch_unchecked::<F, R>(
            client,
            cubes,
            dim,
            lanes,
            ArrayArg::from_raw_parts(table.clone(), width),
            ArrayArg::from_raw_parts(ids.clone(), rows),
            ArrayArg::from_raw_parts(position.clone(), tokens * width),
            ArrayArg::from_raw_parts(y.clone(), rows * width),
            (rows * width / lanes) as u32,
            (width / lanes) as u32,
            tokens as u32,
        )
    });
}

/// `d_table[token] += sum of d[row] over the token's rows`, for every token of `groups`.
///
/// # Shapes
/// - `d`: `[rows, width]` of `kind`, fewer than 2^32 elements
/// - `words`: [`Groups::words`] on the device
/// - `partials`: scratch, [`Groups::partials`] rows of `width` f32; `None` takes it from the client's pool
/// - `d_table`: `[vocabulary, width]`, f32
pub fn backward<R: Runtime>(
    client: &ComputeClient<R>,
    kind: FloatKind,
    d: &Handle,
    groups: &Groups,
    words: &Handle,
    partials: Option<&Handle>,
    d_table: &Handle,
    width: usize,
) {
    if groups.pieces == 0 {
        return;
    }
    let lanes = lanes(width);
    let row_vectors = width / lanes;
    let scratch = groups.partials.max(1) * width;
    let partials = partials.filter(|_| groups.partials > 0).cloned().unwrap_or_else(|| client.empty(scratch * 4));
    let words = || {
        // SAFETY: the entries that the kernels read lie within, by construction of `Groups`.
        unsafe { ArrayArg::from_raw_parts(words.clone(), groups.words.len()) }
    };
    let (cubes, dim) = grid(groups.pieces * row_vectors);
    with_float!(kind, F => unsafe {
        // SAFETY: the kernel checks its position against the number of pieces, whose rows and targets are in range.
        sum_pieces::launch_unchecked::<F, R>(
            client,
            cubes,
            dim,
            lanes,
            ArrayArg::from_raw_parts(d.clone(), width),
            words(),
            ArrayArg::from_raw_parts(d_table.clone(), width),
            ArrayArg::from_raw_parts(partials.clone(), scratch),
            (groups.pieces * row_vectors) as u32,
            row_vectors as u32,
            groups.rows as u32,
            groups.partials > 0,
        )
    });
    if groups.folds == 0 {
        return;
    }
    let (cubes, dim) = grid(groups.folds * row_vectors);
    // SAFETY: as above, for the folds.
    unsafe {
        fold_partials::launch_unchecked::<R>(
            client,
            cubes,
            dim,
            lanes,
            ArrayArg::from_raw_parts(partials, scratch),
            words(),
            ArrayArg::from_raw_parts(d_table.clone(), width),
            (groups.folds * row_vectors) as u32,
            row_vectors as u32,
            (groups.rows + groups.pieces * ENTRY) as u32,
        )
    };
}

/// The forward pass in f64.
pub fn reference(table: &[f32], ids: &[u32], position: &[f32], tokens: usize, width: usize) -> Vec<f64> {
    let row = |data: &[f32], at: usize| data[at * width..(at + 1) * width].to_vec();
    let rows = ids.iter().enumerate().map(|(at, id)| (row(table, *id as usize), row(position, at % tokens)));
    rows.flat_map(|(a, b)| a.into_iter().zip(b).map(|(a, b)| f64::from(a) + f64::from(b)).collect::<Vec<_>>()).collect()
}

/// The backward pass in f64, over the rows not skipped, added to `d_table`.
pub fn backward_reference(d: &[f32], ids: &[u32], skip: impl Fn(usize) -> bool, d_table: &mut [f64], width: usize) {
    for (row, id) in ids.iter().enumerate().filter(|(row, _)| !skip(*row)) {
        for column in 0..width {
            d_table[*id as usize * width + column] += f64::from(d[row * width + column]);
        }
    }
}
