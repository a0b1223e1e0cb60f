//! The last block of a tower of which only one token a sample goes on (the class token, or the end of the text): the
//! same function as [`super::block`], computed for that token alone. Keys and values come from every token; the query,
//! the output projection and the MLP are wanted for one. The result is what the whole block would give for it.

use super::block::{BlockSpec, BlockWeights, DropPath, Keep};
use super::linear;
use super::mlp::{Mlp, MlpKept};
use super::norm::Stats;
use super::residual::{Branch, add_branch, branch_gradient};
use super::workspace::{Matrix, Stream, Workspace};
use crate::model::params::Weight;
use avion_kernels::arena::Buffer;
use avion_kernels::attention::pooled::{self, PooledShape};
use avion_kernels::{Handle, rows};
use burn_cubecl::CubeRuntime;

/// The last block on one device, for batches of one shape.
pub struct PooledBlock<'a, R: CubeRuntime> {
    pub ws: &'a Workspace<R>,
    pub weights: &'a BlockWeights<R>,
    pub spec: BlockSpec,
    pub drop_path: Option<&'a DropPath>,
    /// `[batch]`, u32: row of each sample's token in the block's input.
    pub picks: &'a Handle,
}

/// What the forward pass left for the backward pass; all of it is kept, being one token's, but for keys and values.
pub struct PooledKept {
    /// Keys and values, `[rows, 2 * width]`.
    kv: Option<Matrix>,
    stats_1: Stats,
    normed: Matrix,
    q: Matrix,
    probabilities: Buffer,
    attended: Matrix,
    middle: Matrix,
    mlp: MlpKept,
}

impl<R: CubeRuntime> PooledBlock<'_, R> {
    /// # Shapes
    /// - `x`: `[batch * tokens, width]`; returns `[batch, width]`
    pub fn forward(&self, x: &Matrix, keep_kv: bool) -> (Matrix, PooledKept) {
        let (ws, w) = (self.ws, self.weights);
        let shape = self.shape();
        let (all, stats_1) = w.ln_1.forward(ws, x);
        let normed = self.gather(&all);
        let [query, key_value] = split(w);
        let q = linear::forward(ws, &normed, &query.weight, Some(&query.bias), None);
        let kv = linear::forward(ws, &all, &key_value.weight, Some(&key_value.bias), None);
        drop(all);
        let attended = ws.matrix(q.rows, q.columns);
        let probabilities = ws.floats(shape.probabilities_len());
        let inputs = [q.handle(), kv.handle(), self.picks];
        pooled::forward(&ws.client, &shape, inputs, attended.handle(), probabilities.handle());

        let middle = add_branch(ws, &attended, &self.attention_branch(), &self.gather(x));
        let (y, mlp) = self.mlp().forward(&middle, Keep::ALL);
        let kv = keep_kv.then_some(kv);
        (y, PooledKept { kv, stats_1, normed, q, probabilities, attended, middle, mlp })
    }

    /// Gradient of `x` from the output's, `stream`, `[batch, width]`, which is used up. `below` as in
    /// [`super::block::Block::backward`].
    pub fn backward(&self, x: &Matrix, kept: PooledKept, stream: &Stream, below: Option<&Weight<R>>) -> Stream {
        let (ws, w) = (self.ws, self.weights);
        let shape = self.shape();
        self.mlp().backward(&kept.middle, kept.mlp, stream, true, None);

        // Its attention.
        let branch = branch_gradient(ws, &stream.value, &self.attention_branch());
        w.out_proj_bias.accumulate_columns(ws, &branch);
        let d_output = linear::input_gradient(ws, &branch, &w.out_proj);
        linear::weight_gradient(ws, &kept.attended, &branch, &w.out_proj);
        let [query, key_value] = split(w);
        let kv = kept.kv.unwrap_or_else(|| {
            let (all, _) = w.ln_1.forward(ws, x);
            linear::forward(ws, &all, &key_value.weight, Some(&key_value.bias), None)
        });
        let (d_q, d_kv) = (ws.matrix(kept.q.rows, kept.q.columns), ws.matrix(kv.rows, kv.columns));
        pooled::backward(
            &ws.client,
            &shape,
            [kept.q.handle(), kv.handle()],
            [kept.attended.handle(), d_output.handle()],
            kept.probabilities.handle(),
            [d_q.handle(), d_kv.handle()],
        );
        drop(kv);

        // Back to every token.
        query.bias.accumulate_columns(ws, &d_q);
        linear::weight_gradient(ws, &kept.normed, &d_q, &query.weight);
        let d_picked = linear::input_gradient(ws, &d_q, &query.weight);
        key_value.bias.accumulate_columns(ws, &d_kv);
        let d_normed = linear::input_gradient(ws, &d_kv, &key_value.weight);
        self.add_rows((&d_picked, None), (&d_normed, None));
        let dx = w.ln_1.begin_stream(ws, x, &kept.stats_1, &d_normed, below);
        linear::weight_gradient(ws, &d_normed, &d_kv, &key_value.weight);
        self.add_rows((&stream.value, stream.residue.as_ref()), (&dx.value, dx.residue.as_ref()));
        if let Some(below) = below {
            below.accumulate_columns(ws, &stream.value);
        }
        dx
    }

    fn shape(&self) -> PooledShape {
        let shape = self.spec.shape;
        PooledShape {
            batch: shape.batch,
            tokens: shape.tokens,
            heads: shape.heads,
            head_dim: shape.head_dim,
            causal: shape.causal,
            kind: self.ws.kind,
        }
    }

    /// The picked rows of a matrix with all of them.
    fn gather(&self, all: &Matrix) -> Matrix {
        let picked = self.ws.matrix(self.spec.shape.batch, all.columns);
        let (from, to) = (all.handle(), picked.handle());
        rows::gather(&self.ws.client, all.kind, from, self.picks, to, all.rows, picked.rows, all.columns);
        picked
    }

    /// Adds the picked rows' share, each side with its residue.
    fn add_rows(&self, picked: (&Matrix, Option<&Matrix>), all: (&Matrix, Option<&Matrix>)) {
        let sizes = [picked.0.rows, all.0.rows, all.0.columns];
        let picked = (picked.0.handle(), picked.1.map(Matrix::handle));
        let (kind, all) = (all.0.kind, (all.0.handle(), all.1.map(Matrix::handle)));
        rows::add(&self.ws.client, kind, picked, self.picks, all, sizes);
    }

    fn mlp(&self) -> Mlp<'_, R> {
        Mlp { ws: self.ws, weights: self.weights, activation: self.spec.activation, branch: self.mlp_branch() }
    }

    fn attention_branch(&self) -> Branch<'_, R> {
        let (weight, bias) = (&self.weights.out_proj, &self.weights.out_proj_bias);
        Branch { weight, bias, factor: self.drop_path.map(|d| &d.attention), rows_per_clip: 1 }
    }

    fn mlp_branch(&self) -> Branch<'_, R> {
        let (weight, bias) = (&self.weights.c_proj, &self.weights.c_proj_bias);
        Branch { weight, bias, factor: self.drop_path.map(|d| &d.mlp), rows_per_clip: 1 }
    }
}

/// A part of the packed projection.
struct Part<R: CubeRuntime> {
    weight: Weight<R>,
    bias: Weight<R>,
}

/// The packed projection's rows for queries, and those for keys and values.
fn split<R: CubeRuntime>(w: &BlockWeights<R>) -> [Part<R>; 2] {
    let width = w.in_proj.columns();
    [0..width, width..3 * width]
        .map(|rows| Part { weight: w.in_proj.slice(rows.clone()), bias: w.in_proj_bias.slice(rows) })
}
