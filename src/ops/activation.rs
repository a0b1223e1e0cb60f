//! The MLP's activation: exact GELU or OpenAI's QuickGELU, and their derivatives.

use super::tensor::{T, cast};
use crate::config::recipe::Activation;
use burn::tensor::{DType, activation::sigmoid};
use burn_cubecl::CubeRuntime;
use std::f64::consts::{FRAC_1_SQRT_2, PI};

/// QuickGELU's factor (OpenAI CLIP, `model.py`, `QuickGELU`).
const QUICK: f64 = 1.702;

/// `x Phi(x)`, or `x sigmoid(1.702 x)`; computed in f32.
pub fn forward<R: CubeRuntime>(x: T<R, 2>, kind: Activation) -> T<R, 2> {
    let dtype = x.dtype();
    let x = cast(x, DType::F32);
    let y = match kind {
        Activation::Gelu => normal_cdf(x.clone()) * x,
        Activation::QuickGelu => sigmoid(x.clone() * QUICK) * x,
    };
    cast(y, dtype)
}

/// Gradient of the input from the forward pass's input and the output's gradient.
pub fn backward<R: CubeRuntime>(x: T<R, 2>, dy: T<R, 2>, kind: Activation) -> T<R, 2> {
    let dtype = dy.dtype();
    let x = cast(x, DType::F32);
    let slope = match kind {
        Activation::Gelu => {
            let density = (x.clone() * x.clone() * -0.5).exp() * (1.0 / (2.0 * PI).sqrt());
            normal_cdf(x.clone()) + x * density
        }
        Activation::QuickGelu => {
            let s = sigmoid(x.clone() * QUICK);
            s.clone() + x * QUICK * s.clone() * (s.neg() + 1.0)
        }
    };
    cast(slope * cast(dy, DType::F32), dtype)
}

/// Standard normal distribution function.
fn normal_cdf<R: CubeRuntime>(x: T<R, 2>) -> T<R, 2> {
    (x * FRAC_1_SQRT_2).erf() * 0.5 + 0.5
}
