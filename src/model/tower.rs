//! A stack of blocks of which one token a sample goes on, for video and text alike.

use super::params::ParamStore;
use super::plan::TowerPlan;
use super::shape::TowerShape;
use super::stack::{BlockNames, DropKey, Extent, Stack, StackKept};
use crate::config::recipe::Activation;
use crate::ops::block::DropPath;
use crate::ops::pooled_block::{PooledBlock, PooledKept};
use crate::ops::workspace::{Matrix, Stream, Workspace};
use avion_kernels::Handle;
use burn_cubecl::CubeRuntime;

/// Blocks of one tower.
pub struct Tower<R: CubeRuntime> {
    ws: Workspace<R>,
    stack: Stack<R>,
}

/// Samples of one call, and the token of each that goes on.
#[derive(Clone)]
pub struct Samples {
    pub batch: usize,
    pub tokens: usize,
    /// `[batch]`, u32: row of each sample's token in `[batch * tokens, width]`.
    pub picks: Handle,
}

impl Samples {
    fn extent(&self) -> Extent {
        Extent { batch: self.batch, tokens: self.tokens }
    }
}

/// What the forward pass left for the backward pass: inputs and pieces of every block.
pub struct TowerKept {
    blocks: StackKept,
    last: (Matrix, PooledKept),
    samples: Samples,
    dropped: Vec<DropPath>,
}

impl<R: CubeRuntime> Tower<R> {
    /// The blocks `{prefix}.0`, `{prefix}.1`, ...
    pub fn new(
        ws: &Workspace<R>,
        params: &ParamStore<R>,
        prefix: &str,
        shape: TowerShape,
        causal: bool,
        activation: Activation,
        drop_path: Vec<f32>,
    ) -> Self {
        let stack = Stack::new(ws, params, prefix, BlockNames::Clip, shape, causal, activation, drop_path);
        Tower { ws: ws.clone(), stack }
    }

    /// # Shapes
    /// - `x`: `[batch * tokens, width]`; returns the picked tokens, `[batch, width]`, and with a `plan` what the backward
    ///   pass needs
    pub fn forward(
        &self,
        x: Matrix,
        samples: &Samples,
        plan: Option<&TowerPlan>,
        drop_path: Option<DropKey>,
    ) -> (Matrix, Option<TowerKept>) {
        let dropped = self.stack.draw_drop_path(samples.batch, drop_path);
        let (full, keep) = (self.stack.layers() - 1, plan.map(|plan| plan.blocks.as_slice()));
        let (x, blocks) = self.stack.forward(x, 0..full, samples.extent(), keep, &dropped);
        let (y, kept) = self.last(samples, &dropped).forward(&x, plan.is_some_and(|plan| plan.last_kv));
        let kept = plan.map(|_| TowerKept { blocks, last: (x, kept), samples: samples.clone(), dropped });
        (y, kept)
    }

    /// As [`Stack::qkv`].
    pub fn qkv(&self, x: Matrix, layer: usize, extent: Extent) -> Matrix {
        self.stack.qkv(x, layer, extent)
    }

    /// Gradient of the tower's input, `[batch * tokens, width]`, from that of the picked tokens, `stream`,
    /// `[batch, width]`, which is used up.
    pub fn backward(&self, kept: TowerKept, stream: Stream) -> Matrix {
        let TowerKept { blocks, last: (x, last), samples, dropped } = kept;
        let below = blocks.len().checked_sub(1).and_then(|before| self.stack.below(before, &dropped));
        let all = self.last(&samples, &dropped).backward(&x, last, &stream, below);
        drop((x, stream));
        self.stack.backward(blocks, samples.extent(), &all, &dropped);
        all.value
    }

    fn last<'a>(&'a self, samples: &'a Samples, dropped: &'a [DropPath]) -> PooledBlock<'a, R> {
        let last = self.stack.layers() - 1;
        let (spec, drop_path) = (self.stack.spec(samples.extent()), dropped.get(last));
        PooledBlock { ws: &self.ws, weights: self.stack.weights(last), spec, drop_path, picks: &samples.picks }
    }
}
