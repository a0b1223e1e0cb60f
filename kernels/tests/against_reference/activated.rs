//! Products with an activation, on devices that have the kernels.

use crate::support::{assert_close, client, read_f32, upload, values};
use crate::typed::{read_typed, rounded, typed};
use avion_kernels::FloatKind;
use avion_kernels::activation::{Activation, reference};
use avion_kernels::gemm::activated::{self, ActivatedShape};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

const BOTH: [Activation; 2] = [Activation::Gelu, Activation::QuickGelu];

/// Rows, n, k: part of a tile, several tiles for a block, columns that end within a tile, more stages than fit.
const SHAPES: [(usize, usize, usize); 5] =
    [(1, 64, 64), (77, 192, 128), (197, 256, 64), (300, 448, 320), (785, 384, 192)];

/// The half precisions that have the kernels here; says so where none has.
fn shapes() -> Vec<(ActivatedShape, f64)> {
    let client = client();
    let mut shapes = Vec::new();
    // Rounding of the result alone.
    for (kind, tolerance) in [(FloatKind::F16, 5e-4), (FloatKind::Bf16, 4e-3)] {
        for (rows, n, k) in SHAPES {
            let of = |activation| (ActivatedShape { rows, n, k, kind, activation }, tolerance);
            shapes.extend(BOTH.map(of).into_iter().filter(|(shape, _)| activated::supported(&client, shape)));
        }
    }
    if shapes.is_empty() {
        eprintln!("SKIPPED: needs a GPU of compute capability 9.0");
    }
    shapes
}

/// `a b` in f64 for `b` as `[n, k]` or `[k, n]`.
fn product(a: &[f32], b: &[f32], shape: &ActivatedShape, transposed: bool) -> Vec<f64> {
    let ActivatedShape { rows, n, k, .. } = *shape;
    let at = |i: usize, j: usize| if transposed { b[i * k + j] } else { b[j * n + i] };
    let dot = |row: usize, i: usize| (0..k).map(|j| f64::from(a[row * k + j]) * f64::from(at(i, j))).sum();
    (0..rows * n).map(|place| dot(place / n, place % n)).collect()
}

/// Operands whose product reaches both of an activation's tails.
fn operands(rng: &mut ChaCha8Rng, shape: &ActivatedShape) -> [Vec<f32>; 3] {
    let ActivatedShape { rows, n, k, kind, .. } = *shape;
    let scale = 3.0 / (k as f32).sqrt();
    let b: Vec<f32> = values(rng, n * k).iter().map(|v| v * scale).collect();
    [values(rng, rows * k), b, values(rng, n)].map(|values| rounded(kind, &values))
}

#[test]
fn forward_is_the_product_and_its_activation() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(41));
    for (shape, tolerance) in shapes() {
        let len = shape.rows * shape.n;
        let [x, weight, bias] = operands(&mut rng, &shape);
        let expected: Vec<f64> = product(&x, &weight, &shape, true)
            .iter()
            .enumerate()
            .map(|(i, sum)| sum + f64::from(bias[i % shape.n]))
            .collect();
        let [x, weight, bias] = [&x, &weight, &bias].map(|values| typed(&client, shape.kind, values));
        let [hidden, kept, alone] = [(); 3].map(|()| typed(&client, shape.kind, &vec![7.0; len]));
        activated::forward(&client, &shape, &x, &weight, &bias, Some(&hidden), &kept);
        activated::forward(&client, &shape, &x, &weight, &bias, None, &alone);
        let hidden = read_typed(&client, shape.kind, hidden);
        assert_close(&format!("hidden {shape:?}"), &hidden, &expected, tolerance);
        // Of what was rounded, as in the backward pass.
        let expected: Vec<f64> = hidden.iter().map(|x| reference(shape.activation, f64::from(*x)).0).collect();
        let [kept, alone] = [kept, alone].map(|buffer| read_typed(&client, shape.kind, buffer));
        assert_close(&format!("activated {shape:?}"), &kept, &expected, tolerance);
        assert_eq!(kept, alone, "without what is activated {shape:?}");
    }
}

#[test]
fn backward_is_the_product_times_the_derivative_with_its_column_sums() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(43));
    for (shape, tolerance) in shapes() {
        let len = shape.rows * shape.n;
        let [dy, weight, before] = operands(&mut rng, &shape);
        let hidden = rounded(shape.kind, &values(&mut rng, len).iter().map(|v| v * 3.0).collect::<Vec<_>>());
        // The product is rounded before it meets the derivative, as between two kernels.
        let sums: Vec<f32> = product(&dy, &weight, &shape, false).iter().map(|v| *v as f32).collect();
        let parts: Vec<(f64, f64)> = hidden.iter().map(|x| reference(shape.activation, f64::from(*x))).collect();
        let gradient: Vec<f64> =
            rounded(shape.kind, &sums).iter().zip(&parts).map(|(d, part)| f64::from(*d) * part.1).collect();
        let mut expected: Vec<f64> = before.iter().map(|v| f64::from(*v)).collect();
        gradient.iter().enumerate().for_each(|(i, v)| expected[i % shape.n] += v);
        let [dy, weight] = [&dy, &weight].map(|values| typed(&client, shape.kind, values));
        for write in [false, true] {
            let (h, d_bias) = (typed(&client, shape.kind, &hidden), upload(&client, &before));
            let d_hidden = typed(&client, shape.kind, &vec![7.0; len]);
            activated::backward(&client, &shape, &dy, &weight, &h, &d_hidden, &d_bias, write);
            let name = format!("{shape:?} write {write}");
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
fn what_the_kernels_do_not_take_is_told() {
    let client = client();
    let shape = ActivatedShape { rows: 77, n: 192, k: 128, kind: FloatKind::Bf16, activation: Activation::Gelu };
    for other in [
        ActivatedShape { kind: FloatKind::F32, ..shape },
        ActivatedShape { n: 200, ..shape },
        ActivatedShape { k: 96, ..shape },
        ActivatedShape { n: 5120, ..shape },
        ActivatedShape { rows: 0, ..shape },
    ] {
        assert!(!activated::supported(&client, &other), "{other:?}");
    }
}
