//! The classifier: VideoMAE's encoder over every token, their mean, a norm and a linear head.

use super::shape::ClassifierShape;
use super::{Backbone, specs::classifier_specs};
use crate::data::rng::{Purpose, keyed};
use crate::model::params::{ParamStore, Weight};
use crate::model::plan::StepPlan;
use crate::model::stack::{DropKey, Extent, StackKept, norm};
use crate::ops::block::DropPath;
use crate::ops::linear;
use crate::ops::norm::Norm;
use crate::ops::tensor::{T, cast, contiguous, float_kind, from_handle};
use crate::ops::tubelet_embed::{Tubelets, checked};
use crate::ops::workspace::{Matrix, Stream, Workspace};
use avion_kernels::masking::Counts;
use avion_kernels::{Handle, flat, pool, soft_cross_entropy::soft_cross_entropy};
use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use rand::Rng;

/// Parameters, the layers that view them, and the memory they work in.
pub struct Classifier<R: CubeRuntime> {
    pub params: ParamStore<R>,
    pub shape: ClassifierShape,
    pub ws: Workspace<R>,
    backbone: Backbone<R>,
    norm: Norm<R>,
    head: Weight<R>,
    head_bias: Weight<R>,
}

/// What the encoder left for its backward pass.
struct Kept {
    blocks: StackKept,
    dropped: Vec<DropPath>,
}

impl<R: CubeRuntime> Classifier<R> {
    /// A model with the given parameter values (one vector per entry of [`classifier_specs`]).
    pub fn new(shape: ClassifierShape, values: &[Vec<f32>], compute_dtype: DType, device: &R::Device) -> Self {
        let params = ParamStore::new(device, classifier_specs(&shape), values, compute_dtype);
        let kind = float_kind(compute_dtype);
        let kind = kind.unwrap_or_else(|| unreachable!("a recipe's precision is never {compute_dtype:?}"));
        let ws = Workspace::new(device, kind);
        Classifier {
            backbone: Backbone::new(
                &ws,
                &params,
                shape.encoder,
                shape.grid.tokens(),
                shape.activation,
                shape.pixels,
                shape.drop_path.clone(),
            ),
            norm: norm(&params, "fc_norm", shape.encoder.eps),
            head: params.weight("head.weight"),
            head_bias: params.weight("head.bias"),
            shape,
            params,
            ws,
        }
    }

    /// Adds the gradients of all parameters that are trained. Returns loss and accuracy against the targets' largest
    /// class, f32 `[2]`, still on the device.
    ///
    /// # Shapes
    /// - `pixels`: u8 `[clips, frames, image_px, image_px, 3]`, padded to whole words
    /// - `targets`: `[clips, classes]`, each row a distribution
    pub fn gradients(&self, pixels: Handle, targets: &[f32], plan: &StepPlan, key: DropKey) -> Handle {
        let ws = &self.ws;
        let clips = targets.len() / self.shape.classes;
        let tubelets = self.tubelets(pixels, clips);
        let plan = (!self.shape.freeze).then_some(plan);
        let (pooled, kept) = self.encode(&tubelets, plan, Some(key));
        let (normed, stats) = self.norm.forward(ws, &pooled);
        let mask = self.dropout(clips, key);
        if let Some(mask) = &mask {
            self.scale(&normed, mask);
        }
        let logits = linear::forward(ws, &normed, &self.head, Some(&self.head_bias), None);
        let (result, targets) = (ws.client.empty(8), ws.upload(targets));
        let (kind, classes) = (logits.kind, self.shape.classes);
        checked(soft_cross_entropy(&ws.client, kind, logits.handle(), &targets, &result, clips, classes));

        let d_logits = logits;
        linear::weight_gradient(ws, &normed, &d_logits, &self.head);
        self.head_bias.accumulate_columns(ws, &d_logits);
        let d_normed = linear::input_gradient(ws, &d_logits, &self.head);
        if let Some(mask) = &mask {
            self.scale(&d_normed, mask);
        }
        let d_pooled = self.norm.branch_only(ws, &pooled, &stats, &d_normed, None);
        let Some(Kept { blocks, dropped }) = kept else { return result };
        let extent = Extent { batch: clips, tokens: self.shape.grid.tokens() };
        let stream = ws.matrix(clips * extent.tokens, d_pooled.columns);
        let sizes = [clips, extent.tokens, stream.columns];
        checked(pool::backward(&ws.client, stream.kind, d_pooled.handle(), stream.handle(), sizes));
        let stack = &self.backbone.stack;
        if let Some(bias) = stack.below(stack.layers() - 1, &dropped) {
            // The column sum of the stream's gradient: every token of a clip has the same share of its gradient.
            bias.accumulate_columns(ws, &d_pooled);
        }
        let stream = Stream::from(stream);
        drop((pooled, normed, stats, d_logits, d_normed, d_pooled));
        stack.backward(blocks, extent, &stream, &dropped);
        self.backbone.embed.backward(ws, &tubelets, &stream.value);
        result
    }

    /// Logits of whole clips, `[clips, classes]`, f32.
    pub fn logits(&self, pixels: Handle, clips: usize) -> T<R, 2> {
        let (pooled, _) = self.encode(&self.tubelets(pixels, clips), None, None);
        let (normed, _) = self.norm.forward(&self.ws, &pooled);
        let logits = linear::forward(&self.ws, &normed, &self.head, Some(&self.head_bias), None);
        self.owned(&logits)
    }

    /// What the head sees, as features of frozen encoders are taken: the normalised mean token, in the compute type,
    /// `[clips, width]`.
    pub fn features(&self, pixels: Handle, clips: usize) -> Matrix {
        let (pooled, _) = self.encode(&self.tubelets(pixels, clips), None, None);
        self.norm.forward(&self.ws, &pooled).0
    }

    /// Queries, keys and values of block `layer` over whole clips, `[clips * tokens, 3 * width]`, columns ordered
    /// (q|k|v, head, dim).
    pub fn qkv(&self, pixels: Handle, clips: usize, layer: usize) -> Matrix {
        self.backbone.qkv(&self.ws, pixels, self.shape.grid, clips, layer)
    }

    /// A copy in f32 whose memory is Burn's.
    fn owned(&self, matrix: &Matrix) -> T<R, 2> {
        let (ws, len) = (&self.ws, matrix.len());
        let copy = ws.client.empty(len * 4);
        flat::clear(&ws.client, &copy, len);
        flat::accumulate(&ws.client, matrix.handle(), matrix.kind, &copy, len);
        from_handle(&ws.client, &ws.device, copy, [matrix.rows, matrix.columns], DType::F32)
    }

    fn tubelets(&self, pixels: Handle, clips: usize) -> Tubelets {
        let grid = self.shape.grid;
        Tubelets { pixels, grid, order: None, counts: Counts::all(clips, grid.tokens()) }
    }

    /// The mean token of each clip, `[clips, width]`, and with a plan what the backward pass needs.
    fn encode(&self, clips: &Tubelets, plan: Option<&StepPlan>, key: Option<DropKey>) -> (Matrix, Option<Kept>) {
        let (ws, stack, batch) = (&self.ws, &self.backbone.stack, clips.counts.clips);
        let x = self.backbone.embed.forward(ws, clips);
        // A frozen encoder computes what it would in evaluation.
        let dropped = stack.draw_drop_path(batch, key.filter(|_| !self.shape.freeze));
        let keep = plan.map(|plan| plan.towers[0].blocks.as_slice());
        let extent = Extent { batch, tokens: clips.counts.visible };
        let (x, blocks) = stack.forward(x, 0..stack.layers(), extent, keep, &dropped);
        let pooled = ws.matrix(batch, x.columns);
        checked(pool::forward(&ws.client, x.kind, x.handle(), pooled.handle(), [batch, extent.tokens, x.columns]));
        (pooled, plan.map(|_| Kept { blocks, dropped }))
    }

    /// Dropout's factors, `[clips, width]`: 0 or `1 / (1 - rate)`.
    fn dropout(&self, clips: usize, key: DropKey) -> Option<Handle> {
        let keep = 1.0 - self.shape.dropout;
        if keep >= 1.0 {
            return None;
        }
        let factors = (0..clips).flat_map(|clip| {
            let mut rng = keyed(key.seed, key.step, key.first + clip as u64, Purpose::Dropout);
            (0..self.shape.encoder.width)
                .map(move |_| if rng.random::<f32>() < keep { 1.0 / keep } else { 0.0 })
                .collect::<Vec<f32>>()
        });
        Some(self.ws.upload(&factors.collect::<Vec<f32>>()))
    }

    /// `x *= factors`, element by element.
    fn scale(&self, x: &Matrix, factors: &Handle) {
        let ws = &self.ws;
        let factors: T<R, 2> = from_handle(&ws.client, &ws.device, factors.clone(), [x.rows, x.columns], DType::F32);
        let scaled = contiguous(cast(ws.tensor(x), DType::F32) * factors);
        flat::cast(&ws.client, &scaled.handle, x.handle(), x.kind, x.len());
    }
}
