//! Every kernel of `avion-kernels`, launched as training launches it. A new kernel needs one call here.
//!
//! Shapes are those of CLIP ViT-B/16 on 4 frames with a batch of 256: only what chooses a variant matters, since nothing
//! is allocated and nothing runs.

use avion_kernels::{
    FloatKind, Handle, KernelError,
    activation::{self, Activation},
    attention::{self, AttentionShape, Path, pooled},
    column_sum, contrastive,
    embedding::{self, Groups},
    flat, grad_norm, layer_norm,
    masking::{self, MaskKind, MaskShape, TubeletGrid},
    optimizer::{self, BLOCK, OptimizerBuffers, TREATMENTS},
    patch_ingest::{self, PatchGrid, PixelNorm},
    pool,
    reduce::Split,
    residual, rows, scale_planes,
    soft_cross_entropy::soft_cross_entropy,
};
use cubecl::prelude::*;

const BATCH: usize = 256;
const HEADS: usize = 12;
const TOKENS: usize = 785;
const WIDTH: usize = 768;
const ROWS: usize = BATCH * TOKENS;
/// Elements of the flat parameter buffer: a whole number of the optimizer's blocks.
const PARAMETERS: usize = 150_000 * BLOCK;

/// Makes buffers of so many elements.
struct Buffers<'a, R: Runtime>(&'a ComputeClient<R>);

impl<R: Runtime> Buffers<'_, R> {
    fn of(&self, elements: usize, kind: FloatKind) -> Handle {
        self.0.empty(elements * kind.size())
    }

    fn f32s(&self, elements: usize) -> Handle {
        self.of(elements, FloatKind::F32)
    }
}

/// Launches each kernel in each variant that training may choose.
///
/// # Errors
/// A launcher's refusal of these shapes.
pub fn launch_all<R: Runtime>(client: &ComputeClient<R>) -> Result<(), KernelError> {
    let buffers = Buffers(client);
    for causal in [false, true] {
        for head_dim in [32, 64, 80, 96, 128] {
            fused_attention(client, FloatKind::Bf16, head_dim, causal)?;
        }
    }
    let frames = 4 * BATCH;
    let records = client.empty(frames * scale_planes::record_bytes(224));
    scale_planes::scale_planes(client, records, frames, 224, client.empty(frames * 224 * 224 * 3))?;
    // What a recipe can ask for on CUDA; f16 would differ from bf16 in nothing but the type.
    for kind in [FloatKind::F32, FloatKind::Bf16] {
        blocks(client, kind)?;
        ends(client, kind)?;
        masked(client, kind)?;
        for causal in [false, true] {
            let shape = pooled::PooledShape { batch: BATCH, tokens: TOKENS, heads: HEADS, head_dim: 64, causal, kind };
            let [q, output, gradient, d_q] = [(); 4].map(|()| buffers.of(BATCH * WIDTH, kind));
            let [kv, d_kv] = [(); 2].map(|()| buffers.of(ROWS * 2 * WIDTH, kind));
            let (picks, weights) = (buffers.f32s(BATCH), buffers.f32s(shape.probabilities_len()));
            pooled::forward(client, &shape, [&q, &kv, &picks], &output, &weights);
            pooled::backward(client, &shape, [&q, &kv], [&output, &gradient], &weights, [&d_q, &d_kv]);
        }
    }
    masks(client)?;
    loss(client)?;
    update(client)
}

fn fused_attention<R: Runtime>(
    client: &ComputeClient<R>,
    kind: FloatKind,
    head_dim: usize,
    causal: bool,
) -> Result<(), KernelError> {
    let buffers = Buffers(client);
    let shape = AttentionShape { batch: BATCH, tokens: TOKENS, heads: HEADS, head_dim, causal, kind };
    match attention::path(client, &shape)? {
        Path::Matrix => {}
        // Its variants are listed by `attention::hopper::sources`.
        Path::Hopper => return Ok(()),
        path => panic!("{shape:?} takes {path:?}"),
    }
    let [qkv, d_qkv] = [(); 2].map(|()| buffers.of(shape.qkv_len(), kind));
    let [output, d_output] = [(); 2].map(|()| buffers.of(shape.output_len(), kind));
    let [lse, delta] = [(); 2].map(|()| buffers.f32s(shape.lse_len()));
    attention::forward(client, &shape, &qkv, &output, &lse)?;
    let (sums, d_bias) = (buffers.f32s(shape.sums_len()), buffers.f32s(3 * HEADS * head_dim));
    attention::backward(client, &shape, &qkv, &output, &lse, &d_output, &d_qkv, &delta, &sums, &d_bias)
}

/// Norms, activations and residuals.
fn blocks<R: Runtime>(client: &ComputeClient<R>, kind: FloatKind) -> Result<(), KernelError> {
    let buffers = Buffers(client);
    // On Hopper GPUs the last is too wide for the kernels that others have there.
    let widths: &[usize] = if kind == FloatKind::F32 { &[WIDTH] } else { &[512, WIDTH, 1024, 1280] };
    for &width in widths {
        let shape = layer_norm::NormShape { rows: ROWS, width, kind, eps: 1e-6 };
        // Their variants are listed by `layer_norm::hopper::sources`.
        if layer_norm::hopper::supported(client, &shape) {
            continue;
        }
        let [x, y, dy, gradient, residue] = [(); 5].map(|()| buffers.of(ROWS * width, kind));
        let [gain, bias, d_gain, d_bias, d_sum] = [(); 5].map(|()| buffers.f32s(width));
        let stats = buffers.f32s(2 * ROWS);
        layer_norm::forward(client, &shape, &x, &gain, &bias, &y, &stats);
        let written = [(false, Some(&d_sum)), (true, None), (true, Some(&d_sum)), (false, None)];
        let kept = [(false, Some(&d_sum)), (false, None)];
        let cases = written.map(|case| (case, true)).into_iter().chain(kept.map(|case| (case, false)));
        // The gradients of f32 streams have no residues.
        let residues: &[bool] = if kind == FloatKind::F32 { &[false] } else { &[false, true] };
        let cases = cases.flat_map(|case| residues.iter().map(move |residues| (case, *residues)));
        for (((fresh, d_sum), write_normed), residues) in cases {
            let backward = layer_norm::Backward {
                x: &x,
                stats: &stats,
                gain: &gain,
                bias: &bias,
                dy: &dy,
                gradient: &gradient,
                residue: residues.then_some(&residue),
                fresh,
                write_normed,
                d_gain: &d_gain,
                d_bias: &d_bias,
                d_sum,
            };
            layer_norm::backward(client, &shape, backward);
        }
    }
    let columns = 4 * WIDTH;
    let [hidden, gradient] = [(); 2].map(|()| buffers.of(ROWS * columns, kind));
    let d_bias = buffers.f32s(columns);
    for nonlinearity in [Activation::Gelu, Activation::QuickGelu] {
        activation::forward(client, kind, nonlinearity, &hidden, &gradient, ROWS * columns);
        for write_activated in [true, false] {
            let (h, g, sums) = (&hidden, &gradient, Some(&d_bias));
            activation::backward(client, kind, nonlinearity, ROWS, columns, h, g, sums, write_activated);
        }
    }
    let [x, y] = [(); 2].map(|()| buffers.of(ROWS * WIDTH, kind));
    let (bias, factor) = (buffers.f32s(WIDTH), buffers.f32s(BATCH));
    for factor in [None, Some((&factor, TOKENS))] {
        let (bias, residual) = (Some(&bias), Some(&x));
        let finish = residual::Finish { y: &y, bias, factor, residual, rows: ROWS, columns: WIDTH };
        residual::finish(client, kind, finish);
    }
    residual::scale_rows(client, kind, &x, &y, &factor, TOKENS, ROWS, WIDTH);
    residual::add_table(client, kind, &y, &buffers.f32s(TOKENS * WIDTH), ROWS, TOKENS, WIDTH)?;
    column_sum::column_sum(client, buffers.of(ROWS * WIDTH, kind), kind, ROWS, WIDTH, buffers.f32s(WIDTH));
    Ok(())
}

/// What comes before and after the blocks.
fn ends<R: Runtime>(client: &ComputeClient<R>, kind: FloatKind) -> Result<(), KernelError> {
    let buffers = Buffers(client);
    let norm = PixelNorm { mean: [0.5; 3], std: [0.5; 3] };
    for patch_px in [14, 16] {
        let grid = PatchGrid { images: BATCH * 4, image_px: 224, patch_px, frames_per_clip: 4, class_row: true };
        let patches = buffers.of(grid.rows() * grid.columns(), kind);
        patch_ingest::patch_ingest(client, client.empty(grid.padded_bytes()), grid, norm, patches, kind)?;
    }
    let ids: Vec<u32> = (0..BATCH as u32 * 32).map(|i| i % 97).collect();
    let groups = Groups::of(&ids, |_| false);
    let (table, position) = (buffers.f32s(49_408 * 512), buffers.f32s(77 * 512));
    let (id_buffer, words) = (buffers.f32s(ids.len()), buffers.f32s(groups.words().len()));
    let y = buffers.of(ids.len() * 512, kind);
    embedding::forward(client, kind, [&table, &id_buffer, &position], &y, ids.len(), 32, 512);
    let partials = (groups.partials() > 0).then(|| buffers.f32s(groups.partials() * 512));
    embedding::backward(client, kind, &y, &groups, &words, partials.as_ref(), &table, 512);

    let [all, picked] = [ROWS, BATCH].map(|rows| buffers.of(rows * WIDTH, kind));
    let picks = buffers.f32s(BATCH);
    rows::gather(client, kind, &all, &picks, &picked, ROWS, BATCH, WIDTH);
    for residues in [false, true] {
        let part = |handle| residues.then_some(handle);
        rows::add(client, kind, (&picked, part(&picked)), &picks, (&all, part(&all)), [BATCH, ROWS, WIDTH]);
    }
    let (x, feature, length) = (buffers.of(BATCH * 256, kind), buffers.f32s(BATCH * 256), buffers.f32s(BATCH));
    rows::normalize(client, Split::of(client), kind, &x, &feature, &length, BATCH, 256);
    rows::normalize_backward(client, Split::of(client), kind, [&feature, &length, &feature], &x, BATCH, 256);
    flat::accumulate(client, &buffers.of(PARAMETERS, kind), kind, &buffers.f32s(PARAMETERS), PARAMETERS);
    flat::cast(client, &buffers.f32s(PARAMETERS), &buffers.of(PARAMETERS, kind), kind, PARAMETERS);
    Ok(())
}

/// Masks of every kind, with all masked tokens decoded or some.
fn masks<R: Runtime>(client: &ComputeClient<R>) -> Result<(), KernelError> {
    let buffers = Buffers(client);
    for kind in [MaskKind::Tube, MaskKind::Random, MaskKind::RunningCell] {
        for decoded in [1.0, 0.5] {
            let shape = MaskShape::of_ratio(kind, [8, 14, 14], 0.75)?.decoding(decoded)?;
            let order = buffers.f32s(shape.counts(BATCH).rows());
            masking::generate(client, &shape, &buffers.f32s(2 * BATCH), &order, BATCH)?;
        }
    }
    Ok(())
}

/// VideoMAE's ends, and PatchDropout's.
fn masked<R: Runtime>(client: &ComputeClient<R>, kind: FloatKind) -> Result<(), KernelError> {
    let buffers = Buffers(client);
    let norm = PixelNorm { mean: [0.5; 3], std: [0.5; 3] };
    let tubelets = TubeletGrid { frames: 16, image_px: 224, patch_px: 16, tubelet: 2 };
    let (batch, tokens, decoder) = (64, tubelets.tokens(), 384);
    let counts = MaskShape::of_ratio(MaskKind::Tube, [8, 14, 14], 0.9)?.counts(batch);
    let all = masking::Counts::all(batch, tokens);
    let (frames, order) = (client.empty(tubelets.padded_bytes(batch)), buffers.f32s(counts.rows()));
    for (order, counts, class_row) in [(Some(&order), counts, false), (Some(&order), counts, true), (None, all, false)]
    {
        let patches = buffers.of((counts.visible_rows() + batch) * tubelets.columns(), kind);
        masking::ingest(client, kind, &frames, tubelets, norm, order, counts, class_row, &patches)?;
    }
    let (x, table) = (buffers.of((counts.visible_rows() + batch) * WIDTH, kind), buffers.f32s((1 + tokens) * WIDTH));
    for class_row in [false, true] {
        masking::positions(client, kind, &x, &table, &order, counts, class_row, [tokens, WIDTH])?;
    }
    masking::positions_backward(client, kind, &x, &table, &order, counts, true, [tokens, WIDTH])?;

    let mask_token = buffers.f32s(decoder);
    let [projected, d_projected] = [(); 2].map(|()| buffers.of(counts.visible_rows() * decoder, kind));
    let [all_rows, tail] = [counts.rows(), counts.decoded_rows()].map(|rows| buffers.of(rows * decoder, kind));
    let args = masking::Assemble {
        projected: &projected,
        table: &table,
        mask_token: &mask_token,
        order: &order,
        tokens,
        width: decoder,
    };
    masking::assemble(client, kind, args, counts, &all_rows)?;
    masking::disassemble(client, kind, &all_rows, counts, decoder, &d_projected, &mask_token)?;
    masking::tail(client, kind, &all_rows, counts, decoder, &tail)?;
    masking::tail_backward(client, kind, &tail, counts, decoder, &all_rows)?;

    let (rows, columns) = (counts.decoded_rows(), tubelets.columns());
    let (prediction, sums, result) = (buffers.of(rows * columns, kind), buffers.f32s(2 * rows), buffers.f32s(2));
    for normalize in [Some(1e-6), None] {
        let args = masking::PixelLoss { frames: &frames, tubelets, order: &order, counts, normalize };
        masking::pixel_loss(client, kind, &args, &prediction, &sums)?;
        masking::predicted_pixels(client, kind, &args, &prediction, &buffers.f32s(rows * columns))?;
    }
    masking::pixel_loss_finish(client, &sums, rows, columns, &result)?;

    let (batch, classes) = (32, 400);
    let (tokens_of, pooled) = (buffers.of(batch * tokens * WIDTH, kind), buffers.of(batch * WIDTH, kind));
    pool::forward(client, kind, &tokens_of, &pooled, [batch, tokens, WIDTH])?;
    pool::backward(client, kind, &pooled, &tokens_of, [batch, tokens, WIDTH])?;
    let (logits, targets) = (buffers.of(batch * classes, kind), buffers.f32s(batch * classes));
    soft_cross_entropy(client, kind, &logits, &targets, &result, batch, classes)
}

fn loss<R: Runtime>(client: &ComputeClient<R>) -> Result<(), KernelError> {
    let (buffers, n, split) = (Buffers(client), BATCH, Split::of(client));
    let statistics = contrastive::Statistics {
        row_lse: buffers.f32s(n),
        column_max: buffers.f32s(n),
        column_sum: buffers.f32s(n),
        column_lse: buffers.f32s(n),
        own: buffers.f32s(n),
        row_hit: buffers.f32s(n),
    };
    let (chunk, products) = (contrastive::Chunk::whole(n), buffers.f32s(n * n));
    let (scale, result) = (buffers.f32s(1), buffers.f32s(2));
    contrastive::statistics(client, split, chunk, &products, &scale, &statistics)?;
    contrastive::finish(client, &statistics, n, &result);
    for d_scale in [None, Some(&scale)] {
        let in_place = contrastive::Gradient::InPlace;
        contrastive::gradient(client, split, chunk, &products, &scale, &statistics, in_place, d_scale)?;
    }
    Ok(())
}

/// The step's end.
fn update<R: Runtime>(client: &ComputeClient<R>) -> Result<(), KernelError> {
    let buffers = Buffers(client);
    let (gradient, stats) = (buffers.f32s(PARAMETERS), buffers.f32s(grad_norm::STATS_LEN));
    flat::clear(client, &gradient, PARAMETERS);
    let average = buffers.f32s(PARAMETERS);
    flat::ema(client, &gradient, &average, 0.9999, PARAMETERS);
    flat::exchange(client, &gradient, &average, PARAMETERS);
    grad_norm::grad_norm(client, &gradient, PARAMETERS, 1.0, 1.0, [0.9, 0.999], &stats);
    let adamw = optimizer::adamw::AdamwStep { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8 };
    let lion = optimizer::lion::LionStep { lr: 1e-4, beta1: 0.9, beta2: 0.99 };
    for copy in [None, Some(FloatKind::Bf16)] {
        let with_states = |states: usize| OptimizerBuffers {
            params: buffers.f32s(PARAMETERS),
            grads: gradient.clone(),
            state: (0..states).map(|_| buffers.f32s(PARAMETERS)).collect(),
            treatment: buffers.f32s(PARAMETERS / BLOCK * TREATMENTS),
            stats: stats.clone(),
            copy: copy.map(|kind| (buffers.of(PARAMETERS, kind), kind)),
            len: PARAMETERS,
        };
        optimizer::adamw::adamw(client, &with_states(2), adamw)?;
        optimizer::lion::lion(client, &with_states(1), lion)?;
        for (states, momentum) in [(0, 0.0), (1, 0.9)] {
            let sgd = optimizer::sgd::SgdStep { lr: 1e-3, momentum, nesterov: false };
            optimizer::sgd::sgd(client, &with_states(states), sgd)?;
        }
    }
    Ok(())
}
