//! The pre-norm transformer block that every tower is made of:
//! `x1 = x + s1 * attention(ln_1(x))`, `y = x1 + s2 * mlp(ln_2(x1))`, with a backward pass written out by hand, so that
//! what is kept between the two is ours to choose, piece by piece ([`Keep`]).
//!
//! Source: OpenAI CLIP `model.py`, `ResidualAttentionBlock`; AVION `transformer.py`. `s1`, `s2` are 1, or drop path's
//! per-clip factors (Huang et al. 2016, arXiv:1603.09382).

use super::linear;
use super::mlp::{Mlp, MlpKept};
use super::norm::{Norm, Stats};
use super::residual::{Branch, add_branch, branch_gradient};
use super::workspace::{Matrix, Stream, Workspace};
use crate::config::recipe::Activation;
use crate::model::params::Weight;
use avion_kernels::Handle;
use avion_kernels::arena::Buffer;
use avion_kernels::attention::{self, AttentionShape};
use burn_cubecl::CubeRuntime;

/// The twelve parameters of a block, under the names OpenAI gave them.
#[derive(Clone)]
pub struct BlockWeights<R: CubeRuntime> {
    pub ln_1: Norm<R>,
    /// `[3 * width, width]`, rows ordered (q|k|v, head, dim).
    pub in_proj: Weight<R>,
    pub in_proj_bias: Weight<R>,
    pub out_proj: Weight<R>,
    pub out_proj_bias: Weight<R>,
    pub ln_2: Norm<R>,
    pub c_fc: Weight<R>,
    pub c_fc_bias: Weight<R>,
    pub c_proj: Weight<R>,
    pub c_proj_bias: Weight<R>,
}

/// How a block computes, beside its weights.
#[derive(Debug, Clone, Copy)]
pub struct BlockSpec {
    pub shape: AttentionShape,
    pub activation: Activation,
}

/// Drop path's factors of the two branches for each clip, `[batch]`, f32: 0 or `1 / (1 - rate)`.
#[derive(Clone)]
pub struct DropPath {
    pub attention: Handle,
    pub mlp: Handle,
}

/// Which pieces are kept for the backward pass, beside the block's input; it computes the others again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keep {
    /// Queries, keys and values, `[rows, 3 * width]`.
    pub qkv: bool,
    /// The attention's output, `[rows, width]`.
    pub attended: bool,
    /// The residual stream between the branches, `[rows, width]`.
    pub middle: bool,
    /// The MLP before its activation, `[rows, 4 * width]`.
    pub hidden: bool,
    /// The MLP after its activation, `[rows, 4 * width]`: the backward pass can make it again beside other work.
    pub activated: bool,
    /// What both norms gave, `[rows, width]` each: the same.
    pub normed: bool,
}

impl Keep {
    pub const NOTHING: Keep =
        Keep { qkv: false, attended: false, middle: false, hidden: false, activated: false, normed: false };
    pub const ALL: Keep = Keep { qkv: true, attended: true, middle: true, hidden: true, activated: true, normed: true };
}

/// What the forward pass left for the backward pass.
pub struct Kept {
    normed: Option<Matrix>,
    qkv: Option<Matrix>,
    attended: Option<Attended>,
    middle: Option<Matrix>,
    stats: Stats,
    mlp: MlpKept,
}

/// The attention's output with the logarithms of its softmax sums, `[batch, heads, tokens]`, f32.
#[derive(Clone)]
struct Attended {
    output: Matrix,
    lse: Buffer,
}

/// One block on one device, for batches of one shape.
pub struct Block<'a, R: CubeRuntime> {
    pub ws: &'a Workspace<R>,
    pub weights: &'a BlockWeights<R>,
    pub spec: BlockSpec,
    pub drop_path: Option<&'a DropPath>,
}

impl<R: CubeRuntime> Block<'_, R> {
    /// # Shapes
    /// - `x`: `[batch * tokens, width]`; returns the same, and what `keep` names
    pub fn forward(&self, x: &Matrix, keep: Keep) -> (Matrix, Kept) {
        let (normed, stats) = self.weights.ln_1.forward(self.ws, x);
        let qkv = self.qkv(&normed);
        let normed = keep.normed.then_some(normed);
        let attended = self.attend(&qkv);
        let qkv = keep.qkv.then_some(qkv);
        let middle = self.middle(x, &attended.output);
        let attended = keep.attended.then_some(attended);
        let (y, mlp) = self.mlp().forward(&middle, keep);
        (y, Kept { normed, qkv, attended, middle: keep.middle.then_some(middle), stats, mlp })
    }

    /// Gradient of `x` from that of the block's output, which becomes it, in place. Adds every weight's gradient to its
    /// own, except, without drop path, that of `c_proj_bias`: it is the column sum of the output's gradient, and whoever
    /// made that adds it. `below` is the like bias of the block before, if any.
    pub fn backward(&self, x: &Matrix, kept: Kept, stream: &Stream, below: Option<&Weight<R>>) {
        let (ws, w) = (self.ws, self.weights);
        let Kept { normed, mut qkv, mut attended, middle, stats, mlp } = kept;
        let qkv_again = || match &normed {
            Some(normed) => self.qkv(normed),
            None => linear::of_norm(ws, &w.ln_1, x, &w.in_proj, &w.in_proj_bias),
        };
        let middle = middle.unwrap_or_else(|| {
            let attended = attended.get_or_insert_with(|| self.attend(qkv.get_or_insert_with(qkv_again)));
            self.middle(x, &attended.output)
        });
        let dropped = self.drop_path.is_some();
        self.mlp().backward(&middle, mlp, stream, dropped, (!dropped).then_some(&w.out_proj_bias));
        drop(middle);

        // The attention.
        let qkv = qkv.unwrap_or_else(qkv_again);
        let Attended { output, lse } = attended.unwrap_or_else(|| self.attend(&qkv));
        let branch = branch_gradient(ws, &stream.value, &self.attention_branch());
        linear::weight_gradient(ws, &output, &branch, &w.out_proj);
        let d_output = linear::input_gradient(ws, &branch, &w.out_proj);
        if dropped {
            w.out_proj_bias.accumulate_columns(ws, &branch);
        }
        drop(branch);
        let d_qkv = ws.matrix(qkv.rows, qkv.columns);
        let delta = ws.floats(self.spec.shape.lse_len());
        let sums = ws.floats(self.spec.shape.sums_len());
        let gradients = attention::backward(
            &ws.client,
            &self.spec.shape,
            qkv.handle(),
            output.handle(),
            lse.handle(),
            d_output.handle(),
            d_qkv.handle(),
            delta.handle(),
            sums.handle(),
            w.in_proj_bias.gradient_to_add(),
        );
        supported(gradients);
        drop((qkv, output, lse, d_output, delta, sums));
        let d_normed = linear::input_gradient(ws, &d_qkv, &w.in_proj);
        w.ln_1.backward(ws, x, &stats, &d_normed, stream, normed.is_none(), below);
        linear::weight_gradient(ws, normed.as_ref().unwrap_or(&d_normed), &d_qkv, &w.in_proj);
    }

    fn qkv(&self, normed: &Matrix) -> Matrix {
        linear::forward(self.ws, normed, &self.weights.in_proj, Some(&self.weights.in_proj_bias), None)
    }

    fn attend(&self, qkv: &Matrix) -> Attended {
        let shape = &self.spec.shape;
        let output = self.ws.matrix(qkv.rows, shape.heads * shape.head_dim);
        let lse = self.ws.floats(shape.lse_len());
        let (from, to) = (qkv.handle(), output.handle());
        supported(attention::forward(&self.ws.client, shape, from, to, lse.handle()));
        Attended { output, lse }
    }

    fn middle(&self, x: &Matrix, attended: &Matrix) -> Matrix {
        add_branch(self.ws, attended, &self.attention_branch(), x)
    }

    fn mlp(&self) -> Mlp<'_, R> {
        Mlp { ws: self.ws, weights: self.weights, activation: self.spec.activation, branch: self.mlp_branch() }
    }

    fn attention_branch(&self) -> Branch<'_, R> {
        Branch {
            weight: &self.weights.out_proj,
            bias: &self.weights.out_proj_bias,
            factor: self.drop_path.map(|d| &d.attention),
            rows_per_clip: self.spec.shape.tokens,
        }
    }

    fn mlp_branch(&self) -> Branch<'_, R> {
        Branch {
            weight: &self.weights.c_proj,
            bias: &self.weights.c_proj_bias,
            factor: self.drop_path.map(|d| &d.mlp),
            rows_per_clip: self.spec.shape.tokens,
        }
    }
}

/// Device selection and the recipe's validation ask [`attention::path`] first: a refusal here is a bug.
fn supported(launched: Result<(), avion_kernels::KernelError>) {
    if let Err(error) = launched {
        unreachable!("the attention was checked when the model was made: {error}");
    }
}
