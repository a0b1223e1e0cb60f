//! Activations and their gradients.

use crate::support::{assert_close, client, read_f32, upload, values};
use crate::typed::{f64s, kinds, read_typed, rounded, typed};
use avion_kernels::activation::{self, Activation, reference};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

const BOTH: [Activation; 2] = [Activation::Gelu, Activation::QuickGelu];

/// Every region: both tails, the bend, and exact zero.
fn hidden(len: usize) -> Vec<f32> {
    (0..len).map(|i| (((i * 37 + 700) % 1601) as f32 - 800.0) / 100.0).collect()
}

#[test]
fn forward_matches_reference_over_both_tails() {
    let client = client();
    for len in [2, 77 * 8, 1602, 785 * 96] {
        for activation in BOTH {
            for (kind, tolerance) in kinds(&client, 5e-7) {
                let x = rounded(kind, &hidden(len));
                let y = typed(&client, kind, &vec![5.0; len]);
                activation::forward(&client, kind, activation, &typed(&client, kind, &x), &y, len);
                let expected: Vec<f64> = x.iter().map(|x| reference(activation, f64::from(*x)).0).collect();
                assert_close(&format!("{activation:?}"), &read_typed(&client, kind, y), &expected, tolerance);
            }
        }
    }
}

#[test]
fn forward_is_accurate_where_its_values_are_small() {
    let client = client();
    let x: Vec<f32> = (0..2048).map(|i| (i as f32 - 1024.0) / 1024.0).collect();
    for activation in BOTH {
        let y = client.empty(x.len() * 4);
        activation::forward(&client, avion_kernels::FloatKind::F32, activation, &upload(&client, &x), &y, x.len());
        for (x, y) in x.iter().zip(read_f32(&client, y)) {
            let expected = reference(activation, f64::from(*x)).0;
            assert!((f64::from(y) - expected).abs() <= 3e-7 * expected.abs().max(0.5), "{activation:?}({x}) = {y}");
        }
    }
}

#[test]
fn backward_makes_both_in_place_and_sums_columns() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(31));
    for (rows, columns) in [(1, 8), (77, 96), (2, 3), (785, 64), (197, 514), (6, 3072)] {
        for activation in BOTH {
            for (kind, tolerance) in kinds(&client, 1e-6) {
                let x = rounded(kind, &hidden(rows * columns));
                let dy = rounded(kind, &values(&mut rng, rows * columns));
                let before = values(&mut rng, columns);
                let cases =
                    if rows == 77 { vec![(true, true), (false, true), (true, false)] } else { vec![(true, true)] };
                for (with_bias, write) in cases {
                    let (h, g) = (typed(&client, kind, &x), typed(&client, kind, &dy));
                    let d_bias = upload(&client, &before);
                    let sums = with_bias.then_some(&d_bias);
                    activation::backward(&client, kind, activation, rows, columns, &h, &g, sums, write);
                    let parts: Vec<(f64, f64)> = x.iter().map(|x| reference(activation, f64::from(*x))).collect();
                    let activated: Vec<f64> = if write { parts.iter().map(|p| p.0).collect() } else { f64s(&x) };
                    let gradient: Vec<f64> = parts.iter().zip(&dy).map(|(p, d)| p.1 * f64::from(*d)).collect();
                    let name = format!("{activation:?} [{rows}, {columns}] {kind:?}");
                    assert_close(&name, &read_typed(&client, kind, h), &activated, tolerance);
                    assert_close(&name, &read_typed(&client, kind, g), &gradient, tolerance);
                    let mut expected = f64s(&before);
                    if with_bias {
                        gradient.iter().enumerate().for_each(|(i, v)| expected[i % columns] += v);
                    }
                    assert_close(&name, &read_f32(&client, d_bias), &expected, 5e-6);
                }
            }
        }
    }
}
