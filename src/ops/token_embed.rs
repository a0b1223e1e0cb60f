//! From token ids to the text tower's input: token embedding plus position.

use super::column_sum;
use super::differentiable::differentiable;
use super::tensor::{AdT, Inner, cast};
use crate::model::params::Weight;
use burn::tensor::{DType, IndexingUpdateOp, Int, Tensor};
use burn_cubecl::CubeRuntime;

/// Token ids of a batch of captions, cut to the longest: positions after it are never computed, which changes nothing,
/// because the tower is causal and pools at the end-of-text token.
#[derive(Clone)]
pub struct TokenIds<R: CubeRuntime> {
    /// `[batch * tokens]`, i32.
    pub ids: Tensor<Inner<R>, 1, Int>,
    pub batch: usize,
    pub tokens: usize,
}

/// # Shapes
/// - `anchor`: any leaf that makes the graph reach this node; it gets no gradient
/// - `embedding`: `[vocabulary, width]`; `position`: `[context, width]`, the first `tokens` rows used
/// - returns `[batch * tokens, width]` in `dtype`
pub fn token_embed<R: CubeRuntime>(
    anchor: AdT<R, 1>,
    ids: TokenIds<R>,
    embedding: &Weight<R>,
    position: &Weight<R>,
    dtype: DType,
) -> AdT<R, 2> {
    let (embedding, position) = (embedding.clone(), position.clone());
    differentiable(anchor, move |_| {
        let table = embedding.value::<2>();
        let [vocabulary, width] = table.dims();
        let TokenIds { ids, batch, tokens } = ids;
        let x = table.select(0, ids.clone()).reshape([batch, tokens, width]);
        let x = x + position.value::<2>().slice([0..tokens]).unsqueeze();
        let backward = move |dy: super::tensor::T<R, 2>| {
            let dy = cast(dy, DType::F32);
            let by_position = column_sum(dy.clone().reshape([batch, tokens * width]));
            position.accumulate(by_position.reshape([tokens, width]));
            let zeros = Tensor::zeros([vocabulary, width], &dy.device());
            embedding.accumulate(zeros.select_assign(0, ids, dy, IndexingUpdateOp::Add));
            None
        };
        (cast(x.reshape([batch * tokens, width]), dtype), backward)
    })
}
