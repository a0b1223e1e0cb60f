//! A training step as the order in which its activations take memory and give it back, request by request: that of
//! [`crate::ops`] and of the models' `forward`, `backward` and `gradients`. Where it lies follows from that order alone, so
//! a change there belongs here too; `tests/model/memory.rs` holds the walk against a real arena.

use super::ledger::Memory;
use super::plan::TowerPlan;
use super::sizes::{Ending, Start, TowerSizes, stats};
use crate::loss::contrastive::ROWS_AT_ONCE;
use crate::ops::block::Keep;
use avion_kernels::activation;
use avion_kernels::embedding::Groups;

/// One step. Whatever it takes it gives back, so that the next begins as it did.
pub(super) fn step<M: Memory>(towers: &[TowerSizes], plans: &[TowerPlan], m: &mut M) {
    let mut between = None;
    let mut kept = Vec::with_capacity(towers.len());
    for (sizes, plan) in towers.iter().zip(plans) {
        let (tower, output) = forward(m, sizes, plan, between);
        kept.push(tower);
        between = output;
    }
    if let Some(TowerSizes { batch, ending: Ending::OneToken { .. }, .. }) = towers.first() {
        contrastive(m, *batch);
    }
    let mut between = None;
    for (sizes, kept) in towers.iter().zip(kept).rev() {
        between = backward(m, sizes, kept, between);
    }
    m.give_all(between);
}

/// What a tower keeps between its passes.
struct Kept<P> {
    /// Of the norm before the blocks: what it read, and its statistics.
    norm: Option<[P; 2]>,
    blocks: Vec<BlockKept<P>>,
    ending: EndingKept<P>,
}

struct BlockKept<P> {
    input: P,
    normed: Option<P>,
    stats: P,
    qkv: Option<P>,
    attended: Option<[P; 2]>,
    middle: Option<P>,
    mlp: MlpKept<P>,
}

struct MlpKept<P> {
    normed: Option<P>,
    stats: P,
    hidden: Option<P>,
    activated: Option<P>,
}

enum EndingKept<P> {
    OneToken { input: P, kv: Option<P>, attention: [P; 6], mlp: MlpKept<P>, embed: usize, head: [P; 4] },
    Bridge { narrow: usize, pieces: [P; 2] },
    Prediction { rows: usize, pieces: [P; 3] },
    Mean([P; 4]),
}

/// The forward pass over `before`, what the tower before made; also returns what the next is to read.
fn forward<M: Memory>(
    m: &mut M,
    sizes: &TowerSizes,
    plan: &TowerPlan,
    before: Option<M::Piece>,
) -> (Kept<M::Piece>, Option<M::Piece>) {
    let (rows, unit) = (sizes.rows(), sizes.unit());
    let patches = match sizes.start {
        Start::Frames { values, .. } | Start::Tubelets { values } => Some(m.take(sizes.bytes(rows, values))),
        Start::Captions | Start::Tower => None,
    };
    let mut x = m.take(unit);
    m.give_all(patches.into_iter().chain(before));
    let mut norm = None;
    if let Start::Frames { .. } = sizes.start {
        let normed = m.take(unit);
        norm = Some([std::mem::replace(&mut x, normed), m.take(stats(rows))]);
    }
    let mut blocks = Vec::with_capacity(plan.blocks.len());
    for keep in &plan.blocks {
        let (block, y) = block_forward(m, sizes, keep, x);
        blocks.push(block);
        x = y;
    }
    let mut output = None;
    let ending = match sizes.ending {
        Ending::OneToken { embed } => one_token_forward(m, sizes, embed, plan.last_kv, x),
        Ending::Bridge { narrow } => {
            let (normed, stats) = (m.take(unit), m.take(stats(rows)));
            output = Some(m.take(sizes.bytes(rows, narrow)));
            m.give(normed);
            EndingKept::Bridge { narrow, pieces: [x, stats] }
        }
        Ending::Prediction { rows, values } => {
            let tail = m.take(sizes.bytes(rows, sizes.width));
            m.give(x);
            let (normed, stats) = (m.take(sizes.bytes(rows, sizes.width)), m.take(stats(rows)));
            let prediction = m.take(sizes.bytes(rows, values));
            m.give(normed);
            // Two sums a row, of the loss.
            let sums = m.take(8 * rows as u64);
            m.give(sums);
            EndingKept::Prediction { rows, pieces: [tail, stats, prediction] }
        }
        Ending::Mean { classes } => {
            let mean = sizes.bytes(sizes.batch, sizes.width);
            let pooled = m.take(mean);
            m.give(x);
            let (normed, stats) = (m.take(mean), m.take(stats(sizes.batch)));
            EndingKept::Mean([pooled, normed, stats, m.take(sizes.bytes(sizes.batch, classes))])
        }
    };
    (Kept { norm, blocks, ending }, output)
}

/// [`crate::ops::block::Block::forward`].
fn block_forward<M: Memory>(
    m: &mut M,
    sizes: &TowerSizes,
    keep: &Keep,
    input: M::Piece,
) -> (BlockKept<M::Piece>, M::Piece) {
    let unit = sizes.unit();
    let (normed, stats) = (m.take(unit), m.take(stats(sizes.rows())));
    let qkv = m.take(3 * unit);
    let normed = m.keep(normed, keep.normed);
    let [output, lse] = [m.take(unit), m.take(sizes.lse())];
    let qkv = m.keep(qkv, keep.qkv);
    let middle = m.take(unit);
    let (output, lse) = (m.keep(output, keep.attended), m.keep(lse, keep.attended));
    let attended = output.zip(lse).map(|(output, lse)| [output, lse]);
    let (mlp, y) = mlp_forward(m, [sizes.rows(), sizes.width], sizes.element, keep);
    let middle = m.keep(middle, keep.middle);
    (BlockKept { input, normed, stats, qkv, attended, middle, mlp }, y)
}

/// [`crate::ops::mlp::Mlp::forward`].
fn mlp_forward<M: Memory>(
    m: &mut M,
    [rows, width]: [usize; 2],
    element: usize,
    keep: &Keep,
) -> (MlpKept<M::Piece>, M::Piece) {
    let unit = (rows * width * element) as u64;
    let (normed, stats) = (m.take(unit), m.take(stats(rows)));
    let (hidden, activated) = (m.take(4 * unit), m.take(4 * unit));
    let hidden = m.keep(hidden, keep.hidden);
    let normed = m.keep(normed, keep.normed);
    let y = m.take(unit);
    let activated = m.keep(activated, keep.activated);
    (MlpKept { normed, stats, hidden, activated }, y)
}

/// [`crate::ops::pooled_block::PooledBlock::forward`] and [`crate::ops::head::Head::forward`].
fn one_token_forward<M: Memory>(
    m: &mut M,
    sizes: &TowerSizes,
    embed: usize,
    keep_kv: bool,
    input: M::Piece,
) -> EndingKept<M::Piece> {
    let (batch, unit) = (sizes.batch, sizes.unit());
    let one = sizes.bytes(batch, sizes.width);
    let (all, stats_1) = (m.take(unit), m.take(stats(sizes.rows())));
    let (normed, q) = (m.take(one), m.take(one));
    let kv = m.take(2 * unit);
    m.give(all);
    let (attended, probabilities) = (m.take(one), m.take(sizes.lse()));
    let picked = m.take(one);
    let middle = m.take(one);
    m.give(picked);
    let (mlp, y) = mlp_forward(m, [batch, sizes.width], sizes.element, &Keep::ALL);
    let kv = m.keep(kv, keep_kv);
    let attention = [stats_1, normed, q, attended, probabilities, middle];

    let (normed, stats) = (m.take(one), m.take(stats(batch)));
    let projected = m.take(sizes.bytes(batch, embed));
    let length = m.take(4 * batch as u64);
    m.give(projected);
    EndingKept::OneToken { input, kv, attention, mlp, embed, head: [y, normed, stats, length] }
}

/// [`crate::loss::contrastive`], for a batch that is not cut into chunks. With chunks it comes before what is kept.
fn contrastive<M: Memory>(m: &mut M, clips: usize) {
    let statistics: [M::Piece; 6] = std::array::from_fn(|_| m.take(4 * clips as u64));
    let products = m.take(4 * (clips.min(ROWS_AT_ONCE) * clips) as u64);
    m.give_all(statistics);
    m.give(products);
}

/// The backward pass from `after`, the gradient of what the next tower read; returns that of what this one did.
fn backward<M: Memory>(
    m: &mut M,
    sizes: &TowerSizes,
    kept: Kept<M::Piece>,
    after: Option<M::Piece>,
) -> Option<M::Piece> {
    let (rows, width, unit) = (sizes.rows(), sizes.width, sizes.unit());
    // The gradient of the residual stream, and what rounding takes from it.
    let (stream, residue) = match kept.ending {
        EndingKept::OneToken { input, kv, attention, mlp, embed, head } => {
            let one = head_backward(m, sizes, embed, head);
            let all = one_token_backward(m, sizes, kv, attention, mlp);
            m.give(input);
            m.give_all(one);
            all
        }
        EndingKept::Bridge { narrow, pieces } => {
            let d_projected = m.take(sizes.bytes(rows, narrow));
            m.give_all(after);
            let d_normed = m.take(unit);
            let stream = m.take(unit);
            m.give_all(pieces.into_iter().chain([d_projected, d_normed]));
            (stream, None)
        }
        EndingKept::Prediction { rows, pieces } => {
            let [d_normed, d_tail] = [(); 2].map(|()| m.take(sizes.bytes(rows, width)));
            m.give_all(pieces.into_iter().chain([d_normed]));
            let stream = m.take(unit);
            m.give(d_tail);
            (stream, None)
        }
        EndingKept::Mean(pieces) => {
            let gradients = [(); 2].map(|()| m.take(sizes.bytes(sizes.batch, width)));
            let stream = m.take(unit);
            m.give_all(pieces.into_iter().chain(gradients));
            (stream, None)
        }
    };
    for block in kept.blocks.into_iter().rev() {
        block_backward(m, sizes, block);
    }
    m.give_all(residue);
    if sizes.start == Start::Tower {
        return Some(stream);
    }
    start_backward(m, sizes, kept.norm, stream);
    None
}

/// Pieces of a stream's gradient over `rows` rows.
fn begin_stream<M: Memory>(m: &mut M, sizes: &TowerSizes, rows: usize) -> (M::Piece, Option<M::Piece>) {
    let bytes = sizes.bytes(rows, sizes.width);
    // [`crate::ops::workspace::Workspace::with_residues`].
    (m.take(bytes), (sizes.element < 4).then(|| m.take(bytes)))
}

/// [`crate::ops::head::Head::backward`].
fn head_backward<M: Memory>(
    m: &mut M,
    sizes: &TowerSizes,
    embed: usize,
    kept: [M::Piece; 4],
) -> impl Iterator<Item = M::Piece> + use<M> {
    let (d, d_normed) = (m.take(sizes.bytes(sizes.batch, embed)), m.take(sizes.bytes(sizes.batch, sizes.width)));
    let (value, residue) = begin_stream(m, sizes, sizes.batch);
    m.give_all(kept.into_iter().chain([d, d_normed]));
    std::iter::once(value).chain(residue)
}

/// [`crate::ops::pooled_block::PooledBlock::backward`].
fn one_token_backward<M: Memory>(
    m: &mut M,
    sizes: &TowerSizes,
    kv: Option<M::Piece>,
    kept: [M::Piece; 6],
    mlp: MlpKept<M::Piece>,
) -> (M::Piece, Option<M::Piece>) {
    let one = sizes.bytes(sizes.batch, sizes.width);
    mlp_backward(m, sizes, sizes.batch, mlp);
    let branch = sizes.drop_path.then(|| m.take(one));
    let d_output = m.take(one);
    let kv = kv.unwrap_or_else(|| {
        let (all, stats) = (m.take(sizes.unit()), m.take(stats(sizes.rows())));
        m.give(stats);
        let kv = m.take(2 * sizes.unit());
        m.give(all);
        kv
    });
    let (d_q, d_kv) = (m.take(one), m.take(2 * sizes.unit()));
    m.give(kv);
    let (d_picked, d_normed) = (m.take(one), m.take(sizes.unit()));
    let stream = begin_stream(m, sizes, sizes.rows());
    m.give_all(kept.into_iter().chain([d_output, d_q, d_kv, d_picked, d_normed]).chain(branch));
    stream
}

/// [`crate::ops::linear::of_norm`], `units` times the width.
fn of_norm<M: Memory>(m: &mut M, sizes: &TowerSizes, units: u64) -> M::Piece {
    let y = m.take(units * sizes.unit());
    let norm = [m.take(sizes.unit()), m.take(stats(sizes.rows()))];
    m.give_all(norm);
    y
}

/// [`crate::ops::block::Block::backward`], and the drop of its input.
fn block_backward<M: Memory>(m: &mut M, sizes: &TowerSizes, kept: BlockKept<M::Piece>) {
    let unit = sizes.unit();
    let BlockKept { input, normed, stats, mut qkv, mut attended, middle, mlp } = kept;
    let again = normed.is_none();
    let qkv_again = |m: &mut M| if again { of_norm(m, sizes, 3) } else { m.take(3 * unit) };
    let attend = |m: &mut M| [m.take(unit), m.take(sizes.lse())];
    let middle = middle.unwrap_or_else(|| {
        if attended.is_none() {
            qkv = Some(qkv.take().unwrap_or_else(|| qkv_again(m)));
            attended = Some(attend(m));
        }
        m.take(unit)
    });
    mlp_backward(m, sizes, sizes.rows(), mlp);
    m.give(middle);

    let qkv = qkv.unwrap_or_else(|| qkv_again(m));
    let attended = attended.unwrap_or_else(|| attend(m));
    let branch = sizes.drop_path.then(|| m.take(unit));
    let d_output = m.take(unit);
    m.give_all(branch);
    let d_qkv = m.take(3 * unit);
    let scratch = [m.take(sizes.lse()), m.take(sizes.sums())];
    m.give_all(attended.into_iter().chain(scratch).chain([qkv, d_output]));
    let d_normed = m.take(unit);
    m.give_all([d_qkv, d_normed, stats, input].into_iter().chain(normed));
}

/// [`crate::ops::mlp::Mlp::backward`].
fn mlp_backward<M: Memory>(m: &mut M, sizes: &TowerSizes, rows: usize, kept: MlpKept<M::Piece>) {
    let unit = sizes.bytes(rows, sizes.width);
    let MlpKept { normed, stats, hidden, activated } = kept;
    // Of one token a sample it is always kept.
    let hidden = hidden.unwrap_or_else(|| if normed.is_none() { of_norm(m, sizes, 4) } else { m.take(4 * unit) });
    let branch = sizes.drop_path.then(|| m.take(unit));
    m.give_all(activated);
    let d_hidden = m.take(4 * unit);
    let sums = m.take(4 * activation::sums_len(rows, 4 * sizes.width) as u64);
    m.give_all([sums, hidden].into_iter().chain(branch));
    let d_normed = m.take(unit);
    m.give_all([d_hidden, d_normed, stats].into_iter().chain(normed));
}

/// From the gradient of the first block's input to those of the embedding's parameters.
fn start_backward<M: Memory>(m: &mut M, sizes: &TowerSizes, norm: Option<[M::Piece; 2]>, stream: M::Piece) {
    match sizes.start {
        Start::Frames { values, positions } => {
            let [embedded, stats] = norm.map_or([None, None], |pieces| pieces.map(Some));
            let d_embedded = m.take(sizes.unit());
            m.give_all([stream].into_iter().chain(embedded));
            let patches = m.take(sizes.bytes(sizes.rows(), values));
            m.give(patches);
            let table = m.take(4 * (positions * sizes.width) as u64);
            m.give_all([d_embedded, table].into_iter().chain(stats));
        }
        Start::Tubelets { values } => {
            let patches = m.take(sizes.bytes(sizes.rows(), values));
            m.give_all([stream, patches]);
        }
        Start::Captions => {
            // At the most: which tokens there are decides. It is the last request, and where it lies matters to no other.
            let partials = m.take(4 * (Groups::most_partials(sizes.rows()) * sizes.width) as u64);
            m.give_all([stream, partials]);
        }
        Start::Tower => m.give(stream),
    }
}
