//! The model that is pre-trained: encoder over the visible tokens, decoder over all, loss on the masked ones.

use super::shape::MaeShape;
use super::{Backbone, sin_cos, specs::specs};
use crate::model::params::{ParamStore, Weight};
use crate::model::plan::StepPlan;
use crate::model::stack::{BlockNames, DropKey, Extent, Stack, StackKept, norm};
use crate::ops::block::DropPath;
use crate::ops::linear;
use crate::ops::norm::{Norm, Stats};
use crate::ops::tensor::float_kind;
use crate::ops::tubelet_embed::{Tubelets, checked};
use crate::ops::workspace::{Matrix, Stream, Workspace};
use avion_kernels::masking::{self, Assemble, Counts, PixelLoss};
use avion_kernels::{Handle, pool};
use burn::tensor::DType;
use burn_cubecl::CubeRuntime;

/// Parameters, the layers that view them, and the memory they work in.
pub struct VideoMae<R: CubeRuntime> {
    pub params: ParamStore<R>,
    pub shape: MaeShape,
    pub ws: Workspace<R>,
    backbone: Backbone<R>,
    norm: Norm<R>,
    bridge: Weight<R>,
    mask_token: Weight<R>,
    /// f32 `[tokens, decoder width]`.
    positions: Handle,
    decoder: Stack<R>,
    decoder_norm: Norm<R>,
    head: Weight<R>,
    head_bias: Weight<R>,
}

/// Clips on the device with their masks.
#[derive(Clone)]
pub struct Masked {
    /// With an `order`.
    pub tubelets: Tubelets,
    order: Handle,
}

impl Masked {
    /// u32 `[clips, visible + decoded]`: numbers of the visible tokens, then of those to be decoded, ascending each.
    pub fn order(&self) -> &Handle {
        &self.order
    }
}

/// What the encoder left for its backward pass.
struct EncoderKept {
    blocks: StackKept,
    output: Matrix,
    stats: Stats,
    dropped: Vec<DropPath>,
}

/// The decoder's output for the masked tokens, and what its backward pass needs.
struct Decoded {
    blocks: StackKept,
    /// `[clips * decoded, decoder width]`.
    tail: Matrix,
    stats: Stats,
    /// `[clips * decoded, 3 * tubelet * patch^2]`.
    prediction: Matrix,
}

impl<R: CubeRuntime> VideoMae<R> {
    /// A model with the given parameter values (one vector per entry of [`specs`]).
    pub fn new(shape: MaeShape, values: &[Vec<f32>], compute_dtype: DType, device: &R::Device) -> Self {
        let params = ParamStore::new(device, specs(&shape), values, compute_dtype);
        let kind = float_kind(compute_dtype);
        let kind = kind.unwrap_or_else(|| unreachable!("a recipe's precision is never {compute_dtype:?}"));
        let ws = Workspace::new(device, kind);
        let (tokens, activation) = (shape.grid.tokens(), shape.activation);
        let names = BlockNames::VideoMae;
        VideoMae {
            backbone: Backbone::new(
                &ws,
                &params,
                shape.encoder,
                tokens,
                activation,
                shape.pixels,
                shape.drop_path.clone(),
            ),
            norm: norm(&params, "encoder.norm", shape.encoder.eps),
            bridge: params.weight("encoder_to_decoder.weight"),
            mask_token: params.weight("mask_token"),
            positions: ws.upload(&sin_cos(tokens, shape.decoder.width)),
            decoder: Stack::new(&ws, &params, "decoder.blocks", names, shape.decoder, false, activation, Vec::new()),
            decoder_norm: norm(&params, "decoder.norm", shape.decoder.eps),
            head: params.weight("decoder.head.weight"),
            head_bias: params.weight("decoder.head.bias"),
            shape,
            params,
            ws,
        }
    }

    /// Clips whose masks are drawn on the device, from two words a clip.
    ///
    /// # Shapes
    /// - `pixels`: u8 `[clips, frames, image_px, image_px, 3]`, padded to whole words
    /// - `keys`: `[clips, 2]`; equal keys give equal masks
    pub fn mask(&self, pixels: Handle, keys: &[[u32; 2]]) -> Masked {
        let counts = self.shape.counts(keys.len());
        let order = self.ws.client.empty(counts.rows() * 4);
        let words = self.ws.upload(keys);
        checked(masking::generate(&self.ws.client, &self.shape.mask, &words, &order, keys.len()));
        self.with_order(pixels, order, counts)
    }

    /// Clips with masks from elsewhere: `order` is u32 `[clips, visible + decoded]`, the visible tokens first.
    pub fn with_order(&self, pixels: Handle, order: Handle, counts: Counts) -> Masked {
        let tubelets = Tubelets { pixels, grid: self.shape.grid, order: Some(order.clone()), counts };
        Masked { tubelets, order }
    }

    /// Adds the gradients of all parameters. Returns the loss, and the share of the targets' variance that the
    /// prediction explains: f32 `[2]`, still on the device.
    pub fn gradients(&self, clips: &Masked, plan: &StepPlan, drop_path: Option<DropKey>) -> Handle {
        let (ws, counts) = (&self.ws, clips.tubelets.counts);
        let (projected, encoder) = self.encode(clips, Some(plan), drop_path);
        let decoded = self.decode(clips, projected, Some(plan));
        let result = self.loss(clips, &decoded.prediction);

        // The head. Its bias's gradient, the norm, and back to all tokens of the decoder.
        let Decoded { blocks, tail, stats, prediction: d_prediction } = decoded;
        let d_normed = linear::input_gradient(ws, &d_prediction, &self.head);
        let last = self.decoder.layers() - 1;
        let d_tail = self.decoder_norm.branch_only(ws, &tail, &stats, &d_normed, self.decoder.below(last, &[]));
        linear::weight_gradient(ws, &d_normed, &d_prediction, &self.head);
        self.head_bias.accumulate_columns(ws, &d_prediction);
        drop((tail, stats, d_prediction, d_normed));
        let stream = ws.matrix(counts.rows(), d_tail.columns);
        checked(masking::tail_backward(
            &ws.client,
            stream.kind,
            d_tail.handle(),
            counts,
            stream.columns,
            stream.handle(),
        ));
        drop(d_tail);
        let stream = Stream::from(stream);
        self.decoder.backward(blocks, self.all_tokens(counts), &stream, &[]);

        // The bridge.
        let stream = stream.value;
        let d_projected = ws.matrix(counts.visible_rows(), stream.columns);
        checked(masking::disassemble(
            &ws.client,
            stream.kind,
            stream.handle(),
            counts,
            stream.columns,
            d_projected.handle(),
            self.mask_token.gradient_to_add(),
        ));
        drop(stream);
        let EncoderKept { blocks, output, stats, dropped } = encoder;
        let d_normed = linear::input_gradient(ws, &d_projected, &self.bridge);
        let last = self.backbone.stack.layers() - 1;
        let below = self.backbone.stack.below(last, &dropped);
        let stream = self.norm.begin_stream(ws, &output, &stats, &d_normed, below);
        linear::weight_gradient(ws, &d_normed, &d_projected, &self.bridge);
        drop((output, stats, d_projected, d_normed));

        self.backbone.stack.backward(blocks, self.visible_tokens(counts), &stream, &dropped);
        self.backbone.embed.backward(ws, &clips.tubelets, &stream.value);
        result
    }

    /// Loss and explained share without gradients, f32 `[2]`, on the device.
    pub fn evaluate(&self, clips: &Masked) -> Handle {
        let (projected, _) = self.encode(clips, None, None);
        let decoded = self.decode(clips, projected, None);
        self.loss(clips, &decoded.prediction)
    }

    /// The masked tokens as pixels, f32 `[clips * decoded, 3 * tubelet * patch^2]` on the 0-255 scale, columns ordered
    /// (frame, row, column, channel): what normalised predictions mean with each patch's own mean and deviation.
    pub fn predicted_pixels(&self, clips: &Masked) -> Handle {
        let (projected, _) = self.encode(clips, None, None);
        let decoded = self.decode(clips, projected, None);
        let prediction = &decoded.prediction;
        let out = self.ws.client.empty(prediction.len() * 4);
        let (kind, from) = (prediction.kind, prediction.handle());
        checked(masking::predicted_pixels(&self.ws.client, kind, &self.pixel_loss(clips), from, &out));
        out
    }

    /// The prediction as it is, in the compute type: `[clips * decoded, 3 * tubelet * patch^2]`.
    pub fn prediction(&self, clips: &Masked) -> Matrix {
        let (projected, _) = self.encode(clips, None, None);
        self.decode(clips, projected, None).prediction
    }

    /// The encoder's mean token over whole clips, nothing masked, as features of frozen encoders are taken: in the
    /// compute type, `[clips, width]`.
    pub fn features(&self, pixels: Handle, clips: usize) -> Matrix {
        let (ws, tokens) = (&self.ws, self.shape.grid.tokens());
        let counts = Counts::all(clips, tokens);
        let tubelets = Tubelets { pixels, grid: self.shape.grid, order: None, counts };
        let x = self.backbone.embed.forward(ws, &tubelets);
        let extent = self.visible_tokens(counts);
        let (x, _) = self.backbone.stack.forward(x, 0..self.backbone.stack.layers(), extent, None, &[]);
        let (x, _) = self.norm.forward(ws, &x);
        let mean = ws.matrix(clips, x.columns);
        checked(pool::forward(&ws.client, x.kind, x.handle(), mean.handle(), [clips, tokens, x.columns]));
        mean
    }

    /// Queries, keys and values of the encoder's block `layer` over whole clips, nothing masked,
    /// `[clips * tokens, 3 * width]`, columns ordered (q|k|v, head, dim).
    pub fn qkv(&self, pixels: Handle, clips: usize, layer: usize) -> Matrix {
        self.backbone.qkv(&self.ws, pixels, self.shape.grid, clips, layer)
    }

    fn visible_tokens(&self, counts: Counts) -> Extent {
        Extent { batch: counts.clips, tokens: counts.visible }
    }

    fn all_tokens(&self, counts: Counts) -> Extent {
        Extent { batch: counts.clips, tokens: counts.tokens() }
    }

    /// Visible tokens at the decoder's width.
    fn encode(&self, clips: &Masked, plan: Option<&StepPlan>, drop_path: Option<DropKey>) -> (Matrix, EncoderKept) {
        let (ws, stack) = (&self.ws, &self.backbone.stack);
        let x = self.backbone.embed.forward(ws, &clips.tubelets);
        let dropped = stack.draw_drop_path(clips.tubelets.counts.clips, drop_path);
        let keep = plan.map(|plan| plan.towers[0].blocks.as_slice());
        let extent = self.visible_tokens(clips.tubelets.counts);
        let (output, blocks) = stack.forward(x, 0..stack.layers(), extent, keep, &dropped);
        let (normed, stats) = self.norm.forward(ws, &output);
        let projected = linear::forward(ws, &normed, &self.bridge, None, None);
        (projected, EncoderKept { blocks, output, stats, dropped })
    }

    fn decode(&self, clips: &Masked, projected: Matrix, plan: Option<&StepPlan>) -> Decoded {
        let (ws, counts, width) = (&self.ws, clips.tubelets.counts, projected.columns);
        let x = ws.matrix(counts.rows(), width);
        let parts = Assemble {
            projected: projected.handle(),
            table: &self.positions,
            mask_token: self.mask_token.value_handle(),
            order: &clips.order,
            tokens: self.shape.grid.tokens(),
            width,
        };
        checked(masking::assemble(&ws.client, x.kind, parts, counts, x.handle()));
        drop(projected);
        let keep = plan.map(|plan| plan.towers[1].blocks.as_slice());
        let (y, blocks) = self.decoder.forward(x, 0..self.decoder.layers(), self.all_tokens(counts), keep, &[]);
        let tail = ws.matrix(counts.decoded_rows(), width);
        checked(masking::tail(&ws.client, y.kind, y.handle(), counts, width, tail.handle()));
        drop(y);
        let (normed, stats) = self.decoder_norm.forward(ws, &tail);
        let prediction = linear::forward(ws, &normed, &self.head, Some(&self.head_bias), None);
        Decoded { blocks, tail, stats, prediction }
    }

    fn pixel_loss<'a>(&self, clips: &'a Masked) -> PixelLoss<'a> {
        PixelLoss {
            frames: &clips.tubelets.pixels,
            tubelets: self.shape.grid,
            order: &clips.order,
            counts: clips.tubelets.counts,
            normalize: self.shape.normalize,
        }
    }

    /// Loss and explained share; turns the prediction into the loss's gradient.
    fn loss(&self, clips: &Masked, prediction: &Matrix) -> Handle {
        let client = &self.ws.client;
        let (rows, columns) = (prediction.rows, prediction.columns);
        let (sums, result) = (self.ws.floats(2 * rows), client.empty(8));
        let (kind, in_place) = (prediction.kind, prediction.handle());
        checked(masking::pixel_loss(client, kind, &self.pixel_loss(clips), in_place, sums.handle()));
        checked(masking::pixel_loss_finish(client, sums.handle(), rows, columns, &result));
        result
    }
}
