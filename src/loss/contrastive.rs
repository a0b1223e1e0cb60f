//! CLIP's symmetric InfoNCE over a batch of video and text features.
//!
//! `logits = exp(logit_scale) * V T^T`, `loss = (CE(rows) + CE(columns)) / 2` with the diagonal as target. The logits of
//! [`ROWS_AT_ONCE`] rows exist at a time: a larger batch's are computed twice, once for the sums of their exponentials
//! and once for their gradients, so that memory stays bounded (268 MB at 32,768 clips).
//!
//! Source: Radford et al. 2021, arXiv:2103.00020, figure 3; open_clip `loss.py`, `ClipLoss`.

use crate::model::params::Weight;
use crate::ops::gemm::{Epilogue, View, multiply};
use crate::ops::tensor::{T, contiguous, from_handle};
use crate::ops::workspace::{Matrix, Workspace};
use avion_kernels::contrastive::{self, Chunk, Gradient, Statistics};
use avion_kernels::reduce::Split;
use avion_kernels::{FloatKind, Handle};
use burn::tensor::DType;
use burn_cubecl::CubeRuntime;

/// Rows of logits held at once.
pub const ROWS_AT_ONCE: usize = 2048;

/// Loss, accuracy and gradients, all on the device.
pub struct Contrastive<R: CubeRuntime> {
    /// `[2]`, f32: loss, the mean over both directions, and accuracy, the share of clips whose own caption has the
    /// largest logit.
    pub result: Handle,
    /// Gradients of the loss, `[batch, embed]`, f32.
    pub d_video: T<R, 2>,
    pub d_text: T<R, 2>,
}

/// Adds the gradient of `logit_scale` to its own when it is `learned`.
///
/// # Shapes
/// - `video`, `text`: `[batch, embed]`, rows of length 1, f32
/// - `logit_scale`: `[1]`, natural logarithm of the factor
pub fn contrastive<R: CubeRuntime>(
    ws: &Workspace<R>,
    video: T<R, 2>,
    text: T<R, 2>,
    logit_scale: &Weight<R>,
    learned: bool,
) -> Contrastive<R> {
    let [n, embed] = video.dims();
    let (video, text) = (contiguous(video), contiguous(text));
    let rows = |handle: &Handle, from: usize, count: usize| -> View {
        let before = handle.clone().offset_start((from * embed * 4) as u64);
        let part = before.offset_end(((n - from - count) * embed * 4) as u64);
        View::new(&part, count, embed, FloatKind::F32)
    };
    let all_text = rows(&text.handle, 0, n);
    let buffers: [_; 6] = std::array::from_fn(|_| ws.floats(n));
    let [row_lse, column_max, column_sum, column_lse, own, row_hit] =
        std::array::from_fn(|i| buffers[i].handle().clone());
    let statistics = Statistics { row_lse, column_max, column_sum, column_lse, own, row_hit };
    let split = Split::of(&ws.client);
    let scale = logit_scale.value_handle();
    let products = ws.matrix_of(FloatKind::F32, n.min(ROWS_AT_ONCE), n);
    let multiply_chunk = |chunk: &Chunk| {
        let out = part_of(&products, chunk.rows);
        let clips = rows(&video.handle, chunk.first_row, chunk.rows);
        multiply(ws, &clips, &all_text.clone().transposed(), &out, Epilogue::default());
    };
    for chunk in Chunk::split(n, ROWS_AT_ONCE) {
        multiply_chunk(&chunk);
        bounded(contrastive::statistics(&ws.client, split, chunk, products.handle(), scale, &statistics));
    }
    let result = ws.client.empty(2 * 4);
    contrastive::finish(&ws.client, &statistics, n, &result);

    let [d_video, d_text] = [(); 2].map(|()| ws.client.empty(n * embed * 4));
    for chunk in Chunk::split(n, ROWS_AT_ONCE) {
        // A single chunk's products are still there.
        if chunk.rows < n {
            multiply_chunk(&chunk);
        }
        let d_scale = learned.then(|| logit_scale.gradient_to_add());
        let (from, into) = (products.handle(), Gradient::InPlace);
        bounded(contrastive::gradient(&ws.client, split, chunk, from, scale, &statistics, into, d_scale));
        let d_products = part_of(&products, chunk.rows);
        let (first, count) = (chunk.first_row, chunk.rows);
        multiply(ws, &d_products, &all_text, &rows(&d_video, first, count), Epilogue::default());
        let add = Epilogue { accumulate: first > 0, ..Epilogue::default() };
        let clips = rows(&video.handle, first, count);
        multiply(ws, &d_products.transposed(), &clips, &rows(&d_text, 0, n), add);
    }
    let tensor = |handle| from_handle(&ws.client, &ws.device, handle, [n, embed], DType::F32);
    Contrastive { result, d_video: tensor(d_video), d_text: tensor(d_text) }
}

/// The first rows of a matrix.
fn part_of(matrix: &Matrix, rows: usize) -> View {
    let after = (matrix.rows - rows) * matrix.columns * matrix.kind.size();
    View::new(&matrix.handle().clone().offset_end(after as u64), rows, matrix.columns, matrix.kind)
}

/// A batch is bounded by the recipe's validation.
fn bounded(launched: Result<(), avion_kernels::KernelError>) {
    if let Err(error) = launched {
        unreachable!("chunks are cut to what the kernels take: {error}");
    }
}
