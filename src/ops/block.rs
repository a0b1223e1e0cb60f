//! The pre-norm transformer block that every tower is made of:
//! `x1 = x + s1 * attention(ln_1(x))`, `y = x1 + s2 * mlp(ln_2(x1))`, with a backward pass written out by hand, so that
//! what is kept between the two is ours to choose, piece by piece ([`Keep`]).
//!
//! Source: OpenAI CLIP `model.py`, `ResidualAttentionBlock`; AVION `transformer.py`. `s1`, `s2` are 1, or drop path's
//! per-clip factors (Huang et al. 2016, arXiv:1603.09382).

use super::linear;
use super::norm::{Norm, Stats};
use super::residual::{Branch, add_branch, branch_gradient};
use super::workspace::{Matrix, Workspace};
use crate::config::recipe::Activation;
use crate::model::params::Weight;
use avion_kernels::Handle;
use avion_kernels::activation;
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
}

impl Keep {
    pub const NOTHING: Keep = Keep { qkv: false, attended: false, middle: false, hidden: false };
    pub const ALL: Keep = Keep { qkv: true, attended: true, middle: true, hidden: true };
}

/// What the forward pass left for the backward pass.
pub struct Kept {
    qkv: Option<Matrix>,
    attended: Option<Attended>,
    middle: Option<Matrix>,
    hidden: Option<Matrix>,
    stats_1: Stats,
    stats_2: Stats,
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
        let (qkv, stats_1) = self.qkv(x);
        let attended = self.attend(&qkv);
        let kept_qkv = keep.qkv.then_some(qkv);
        let middle = self.middle(x, &attended.output);
        let kept_attended = keep.attended.then_some(attended);
        let (hidden, stats_2) = self.hidden(&middle);
        let activated = self.ws.matrix(hidden.rows, hidden.columns);
        let (kind, nonlinearity) = (hidden.kind, function(self.spec.activation));
        activation::forward(&self.ws.client, kind, nonlinearity, hidden.handle(), activated.handle(), hidden.len());
        let kept_hidden = keep.hidden.then_some(hidden);
        let y = add_branch(self.ws, &activated, &self.mlp_branch(), &middle);
        let kept = Kept {
            qkv: kept_qkv,
            attended: kept_attended,
            middle: keep.middle.then_some(middle),
            hidden: kept_hidden,
            stats_1,
            stats_2,
        };
        (y, kept)
    }

    /// Gradient of `x` from that of the block's output, which becomes it, in place. Adds every weight's gradient to its
    /// own, except, without drop path, that of `c_proj_bias`: it is the column sum of the output's gradient, and whoever
    /// made that adds it. `below` is the like bias of the block before, if any.
    pub fn backward(&self, x: &Matrix, kept: Kept, stream: &Matrix, below: Option<&Weight<R>>) {
        let (ws, w) = (self.ws, self.weights);
        let Kept { mut qkv, mut attended, middle, hidden, stats_1, stats_2 } = kept;
        let middle = middle.unwrap_or_else(|| {
            let attended = attended.get_or_insert_with(|| self.attend(qkv.get_or_insert_with(|| self.qkv(x).0)));
            self.middle(x, &attended.output)
        });
        let dropped = self.drop_path.is_some();

        // The MLP.
        let hidden = hidden.unwrap_or_else(|| self.hidden(&middle).0);
        let branch = branch_gradient(ws, stream, &self.mlp_branch());
        let d_hidden = linear::input_gradient(ws, &branch, &w.c_proj);
        activation::backward(
            &ws.client,
            hidden.kind,
            function(self.spec.activation),
            hidden.rows,
            hidden.columns,
            hidden.handle(),
            d_hidden.handle(),
            Some(w.c_fc_bias.gradient_handle()),
        );
        linear::weight_gradient(ws, &hidden, &branch, &w.c_proj);
        if dropped {
            w.c_proj_bias.accumulate_columns(ws, &branch);
        }
        drop((hidden, branch));
        let d_normed = linear::input_gradient(ws, &d_hidden, &w.c_fc);
        let out_proj_bias = (!dropped).then_some(&w.out_proj_bias);
        w.ln_2.backward(ws, &middle, &stats_2, &d_normed, stream, out_proj_bias);
        linear::weight_gradient(ws, &d_normed, &d_hidden, &w.c_fc);
        drop((middle, d_hidden, d_normed));

        // The attention.
        let qkv = qkv.unwrap_or_else(|| self.qkv(x).0);
        let Attended { output, lse } = attended.unwrap_or_else(|| self.attend(&qkv));
        let branch = branch_gradient(ws, stream, &self.attention_branch());
        let d_output = linear::input_gradient(ws, &branch, &w.out_proj);
        linear::weight_gradient(ws, &output, &branch, &w.out_proj);
        if dropped {
            w.out_proj_bias.accumulate_columns(ws, &branch);
        }
        drop(branch);
        let d_qkv = ws.matrix(qkv.rows, qkv.columns);
        let delta = ws.floats(self.spec.shape.lse_len());
        let gradients = attention::backward(
            &ws.client,
            &self.spec.shape,
            qkv.handle(),
            output.handle(),
            lse.handle(),
            d_output.handle(),
            d_qkv.handle(),
            delta.handle(),
        );
        supported(gradients);
        drop((qkv, output, lse, d_output, delta));
        w.in_proj_bias.accumulate_columns(ws, &d_qkv);
        let d_normed = linear::input_gradient(ws, &d_qkv, &w.in_proj);
        w.ln_1.backward(ws, x, &stats_1, &d_normed, stream, below);
        linear::weight_gradient(ws, &d_normed, &d_qkv, &w.in_proj);
    }

    fn qkv(&self, x: &Matrix) -> (Matrix, Stats) {
        let (normed, stats) = self.weights.ln_1.forward(self.ws, x);
        let w = self.weights;
        (linear::forward(self.ws, &normed, &w.in_proj, Some(&w.in_proj_bias), None), stats)
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

    fn hidden(&self, middle: &Matrix) -> (Matrix, Stats) {
        let (normed, stats) = self.weights.ln_2.forward(self.ws, middle);
        let w = self.weights;
        (linear::forward(self.ws, &normed, &w.c_fc, Some(&w.c_fc_bias), None), stats)
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

/// The kernels' name of a nonlinearity.
pub(super) fn function(activation: Activation) -> activation::Activation {
    match activation {
        Activation::Gelu => activation::Activation::Gelu,
        Activation::QuickGelu => activation::Activation::QuickGelu,
    }
}

/// Device selection and the recipe's validation ask [`attention::path`] first: a refusal here is a bug.
fn supported(launched: Result<(), avion_kernels::KernelError>) {
    if let Err(error) = launched {
        unreachable!("the attention was checked when the model was made: {error}");
    }
}
