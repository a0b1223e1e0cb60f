//! From a tower's last tokens to its normalised feature: pick one token per sample, LayerNorm, project, L2-normalise.

use super::differentiable::differentiable;
use super::linear;
use super::norm::{self, Norm};
use super::tensor::{AdT, Inner, T, cast};
use crate::model::params::Weight;
use burn::tensor::{DType, IndexingUpdateOp, Int, Tensor};
use burn_cubecl::CubeRuntime;

/// Smallest norm divided by, as `torch.nn.functional.normalize`.
const MIN_NORM: f64 = 1e-12;

/// # Shapes
/// - `x`: `[rows, width]`
/// - `pick`: `[batch]`, the row of each sample's pooled token (class token, or end of text)
/// - `projection`: `[width, embed]`
/// - returns features of length 1, `[batch, embed]`, f32
pub fn head<R: CubeRuntime>(
    x: AdT<R, 2>,
    pick: Tensor<Inner<R>, 1, Int>,
    norm: &Norm<R>,
    projection: &Weight<R>,
) -> AdT<R, 2> {
    let (norm, projection) = (norm.clone(), projection.clone());
    differentiable(x, move |x: T<R, 2>| {
        let (shape, dtype) = (x.dims(), x.dtype());
        let picked = x.select(0, pick.clone());
        let (normed, stats) = norm::forward(picked.clone(), &norm);
        let projected = cast(linear::project(normed.clone(), &projection), DType::F32);
        let (feature, length) = normalize(projected);
        let backward = {
            let feature = feature.clone();
            move |dy: T<R, 2>| {
                let d = normalize_backward(feature, length, dy);
                let d = linear::project_backward(normed, cast(d, dtype), &projection);
                let d = norm::backward(picked, stats, d, &norm);
                let zeros = cast(Tensor::zeros(shape, &d.device()), dtype);
                Some(zeros.select_assign(0, pick, d, IndexingUpdateOp::Add))
            }
        };
        (feature, backward)
    })
}

/// Rows scaled to length 1, and their lengths `[batch, 1]`.
fn normalize<R: CubeRuntime>(x: T<R, 2>) -> (T<R, 2>, T<R, 2>) {
    let length = (x.clone() * x.clone()).sum_dim(1).sqrt().clamp_min(MIN_NORM);
    (x / length.clone(), length)
}

/// `dx = (dy - y (y . dy)) / |x|`.
fn normalize_backward<R: CubeRuntime>(y: T<R, 2>, length: T<R, 2>, dy: T<R, 2>) -> T<R, 2> {
    let along = (y.clone() * dy.clone()).sum_dim(1);
    (dy - y * along) / length
}
