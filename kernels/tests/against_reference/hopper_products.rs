//! Products by our kernel for Hopper GPUs, on devices that are such or act so.

use crate::support::{assert_close, client, read_f32, upload, values};
use crate::typed::{read_typed, rounded, typed};
use avion_kernels::FloatKind;
use avion_kernels::activation::{Activation, reference, sums_len};
use avion_kernels::gemm::hopper::{self, ProductShape};
use avion_kernels::gemm::{self, Operand, Problem};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// m, n, k: part of a tile, columns that end within a tile, more stages than fit.
const SHAPES: [(usize, usize, usize); 4] = [(1, 64, 64), (77, 192, 128), (300, 448, 320), (260, 512, 256)];

/// Those, and three to four tiles for every block of this device, of 256 columns and of 192; in both half precisions, with the
/// tolerance that rounding the result alone asks for. None, and a word, elsewhere.
fn shapes() -> Vec<(ProductShape, f64)> {
    let client = client();
    let rows = 128 * client.properties().hardware.num_streaming_multiprocessors.unwrap_or(1) as usize + 45;
    let all = [(FloatKind::F16, 5e-4), (FloatKind::Bf16, 4e-3)].into_iter().flat_map(|(kind, tolerance)| {
        let sizes = SHAPES.into_iter().chain([(rows, 512, 128), (rows, 576, 64)]);
        sizes.map(move |(m, n, k)| (ProductShape { m, n, k, kind }, tolerance))
    });
    let shapes: Vec<_> = all.filter(|(shape, _)| hopper::supported(&client, shape)).collect();
    if shapes.is_empty() {
        eprintln!("SKIPPED: needs a GPU of compute capability 9.0");
    }
    shapes
}

/// `a b` in f64 for `b` as `[n, k]` or, with `k_first`, `[k, n]`.
fn product(a: &[f32], b: &[f32], shape: &ProductShape, k_first: bool) -> Vec<f64> {
    let ProductShape { m, n, k, .. } = *shape;
    let b_lies = if k_first { Operand::matrix(n) } else { Operand::matrix(k).transposed() };
    let mut out = vec![0.0; m * n];
    let (a, b) = ((a, Operand::matrix(k)), (b, b_lies));
    gemm::reference(Problem::single(m, n, k), 1.0, a, b, (&mut out, Operand::matrix(n)));
    out
}

/// a, b and a bias, whose product reaches both of an activation's tails.
fn operands(rng: &mut ChaCha8Rng, shape: &ProductShape) -> [Vec<f32>; 3] {
    let ProductShape { m, n, k, kind } = *shape;
    let scale = 3.0 / (k as f32).sqrt();
    let b: Vec<f32> = values(rng, n * k).iter().map(|v| v * scale).collect();
    [values(rng, m * k), b, values(rng, n)].map(|values| rounded(kind, &values))
}

#[test]
fn products_add_bias_and_residual_with_either_order_of_the_weights() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(40));
    for (shape, tolerance) in shapes() {
        let [a, b, bias] = operands(&mut rng, &shape);
        let residual = rounded(shape.kind, &values(&mut rng, shape.m * shape.n));
        let upload = |values: &[f32]| typed(&client, shape.kind, values);
        let [da, db, d_bias, d_residual] = [&a, &b, &bias, &residual].map(|values| upload(values));
        for k_first in [false, true] {
            let sums = product(&a, &b, &shape, k_first);
            for (with_bias, with_residual) in [(false, false), (true, false), (false, true), (true, true)] {
                let mut expected = sums.clone();
                for (i, sum) in expected.iter_mut().enumerate() {
                    *sum += if with_bias { f64::from(bias[i % shape.n]) } else { 0.0 };
                    *sum += if with_residual { f64::from(residual[i]) } else { 0.0 };
                }
                let out = upload(&vec![7.0; expected.len()]);
                let added = [with_bias.then_some(&d_bias), with_residual.then_some(&d_residual)];
                hopper::product(&client, &shape, &da, (&db, k_first), added[0], added[1], &out);
                let name = format!("{shape:?} k_first {k_first} bias {with_bias} residual {with_residual}");
                assert_close(&name, &read_typed(&client, shape.kind, out), &expected, tolerance);
            }
        }
    }
}

#[test]
fn the_forward_pass_is_the_product_and_its_activation() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(41));
    for (shape, tolerance) in shapes() {
        let [x, weight, bias] = operands(&mut rng, &shape);
        let mut expected = product(&x, &weight, &shape, false);
        expected.iter_mut().enumerate().for_each(|(i, sum)| *sum += f64::from(bias[i % shape.n]));
        let [x, weight, bias] = [&x, &weight, &bias].map(|values| typed(&client, shape.kind, values));
        for activation in [Activation::Gelu, Activation::QuickGelu] {
            let name = format!("{activation:?} {shape:?}");
            let unset = vec![7.0; expected.len()];
            let [hidden, kept, alone] = [(); 3].map(|()| typed(&client, shape.kind, &unset));
            hopper::activated(&client, &shape, activation, [&x, &weight, &bias], Some(&hidden), &kept);
            hopper::activated(&client, &shape, activation, [&x, &weight, &bias], None, &alone);
            let hidden = read_typed(&client, shape.kind, hidden);
            assert_close(&format!("hidden {name}"), &hidden, &expected, tolerance);
            // Of what was rounded, as in the backward pass.
            let expected: Vec<f64> = hidden.iter().map(|x| reference(activation, f64::from(*x)).0).collect();
            let [kept, alone] = [kept, alone].map(|buffer| read_typed(&client, shape.kind, buffer));
            assert_close(&format!("activated {name}"), &kept, &expected, tolerance);
            assert_eq!(kept, alone, "without what is activated {name}");
        }
    }
}

#[test]
fn the_backward_pass_is_the_product_times_the_derivative_with_its_column_sums() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(43));
    for (shape, tolerance) in shapes() {
        let len = shape.m * shape.n;
        let [dy, weight, before] = operands(&mut rng, &shape);
        let wide: Vec<f32> = values(&mut rng, len).iter().map(|v| v * 3.0).collect();
        let hidden = rounded(shape.kind, &wide);
        // The product is rounded before it meets the derivative, as between two kernels.
        let sums: Vec<f32> = product(&dy, &weight, &shape, true).iter().map(|v| *v as f32).collect();
        let sums = rounded(shape.kind, &sums);
        let [dy, weight] = [&dy, &weight].map(|values| typed(&client, shape.kind, values));
        let cases = [Activation::Gelu, Activation::QuickGelu].map(|f| [(f, false), (f, true)]);
        for (activation, write) in cases.into_iter().flatten() {
            let parts: Vec<(f64, f64)> = hidden.iter().map(|x| reference(activation, f64::from(*x))).collect();
            let gradient: Vec<f64> = sums.iter().zip(&parts).map(|(d, part)| f64::from(*d) * part.1).collect();
            let mut expected: Vec<f64> = before.iter().map(|v| f64::from(*v)).collect();
            gradient.iter().enumerate().for_each(|(i, v)| expected[i % shape.n] += v);
            let (h, d_bias) = (typed(&client, shape.kind, &hidden), upload(&client, &before));
            let d_hidden = typed(&client, shape.kind, &vec![7.0; len]);
            let sums = (&d_bias, &upload(&client, &vec![f32::NAN; sums_len(shape.m, shape.n)]));
            hopper::activation_gradient(&client, &shape, activation, [&dy, &weight, &h], &d_hidden, sums, write);
            let name = format!("{activation:?} {shape:?} write {write}");
            assert_close(&name, &read_typed(&client, shape.kind, d_hidden), &gradient, tolerance);
            assert_close(&name, &read_f32(&client, d_bias), &expected, tolerance);
            let h = read_typed(&client, shape.kind, h);
            if write {
                let values: Vec<f64> = parts.iter().map(|part| part.0).collect();
                assert_close(&name, &h, &values, tolerance);
            } else {
                assert_eq!(h, hidden, "{name}");
            }
        }
    }
}

#[test]
fn products_that_the_kernel_does_not_take_are_told() {
    let client = client();
    let shape = ProductShape { m: 77, n: 192, k: 128, kind: FloatKind::Bf16 };
    for other in [
        ProductShape { kind: FloatKind::F32, ..shape },
        ProductShape { n: 200, ..shape },
        ProductShape { k: 96, ..shape },
        ProductShape { n: 5120, ..shape },
        ProductShape { m: 0, ..shape },
    ] {
        assert!(!hopper::supported(&client, &other), "{other:?}");
        assert!(!hopper::worthwhile(&client, &other), "{other:?}");
    }
    // A tile for a whole GPU.
    assert!(!hopper::worthwhile(&client, &ProductShape { m: 1, ..shape }));
}
