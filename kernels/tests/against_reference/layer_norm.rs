//! Layer normalisation and its fused backward pass.

use crate::support::{Client, assert_close, client, read_f32, upload, values};
use crate::typed::{f64s, kinds, read_typed, rounded, typed};
use avion_kernels::{
    FloatKind,
    layer_norm::{self, Backward, NormShape, reference},
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

const EPS: f32 = 1e-5;

/// Odd row counts, widths with and without whole vectors; even products, so that halves fill whole words.
const SIZES: [(usize, usize); 9] =
    [(1, 8), (2, 3), (77, 96), (785, 64), (3, 1024), (200, 770), (5, 512), (197, 384), (785, 128)];

/// More rows of 384 and of 768 values than this device's kernels have in flight at a time, where they fetch rows ahead: stages of the
/// ring are used again.
fn longer(client: &Client) -> [(usize, usize); 2] {
    let multiprocessors = client.properties().hardware.num_streaming_multiprocessors.unwrap_or(1) as usize;
    [(15 * multiprocessors * 5 + 4, 384), (7 * multiprocessors * 4 + 3, 768)]
}

/// Values away from zero mean, as a residual stream's are.
fn stream(rng: &mut ChaCha8Rng, kind: FloatKind, len: usize) -> Vec<f32> {
    let values: Vec<f32> = values(rng, len).iter().map(|v| v + 0.5).collect();
    rounded(kind, &values)
}

#[test]
fn forward_normalises_rows_and_keeps_their_statistics() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(20));
    for (rows, width) in SIZES.into_iter().chain(longer(&client)) {
        for (kind, tolerance) in kinds(&client, 2e-6) {
            let x = stream(&mut rng, kind, rows * width);
            let (gain, bias) = (values(&mut rng, width), values(&mut rng, width));
            let (y, stats) = (typed(&client, kind, &vec![9.0; x.len()]), upload(&client, &vec![9.0; 2 * rows]));
            let shape = NormShape { rows, width, kind, eps: EPS };
            let (x_device, gain_device, bias_device) =
                (typed(&client, kind, &x), upload(&client, &gain), upload(&client, &bias));
            layer_norm::forward(&client, &shape, &x_device, &gain_device, &bias_device, &y, &stats);
            let expected = reference::forward(&f64s(&x), &f64s(&gain), &f64s(&bias), EPS.into());
            assert_close("y", &read_typed(&client, kind, y), &expected.0, tolerance);
            assert_close("stats", &read_f32(&client, stats), &expected.1, 2e-6);
        }
    }
}

#[test]
fn forward_keeps_its_precision_far_from_zero() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(21));
    let (rows, width) = (3, 768);
    let x: Vec<f32> = values(&mut rng, rows * width).iter().map(|v| v.clamp(-1.0, 1.0) + 1000.0).collect();
    let (ones, zeros) = (vec![1.0; width], vec![0.0; width]);
    let (y, stats) = (client.empty(rows * width * 4), client.empty(rows * 8));
    let shape = NormShape { rows, width, kind: FloatKind::F32, eps: EPS };
    let device = |data: &[f32]| upload(&client, data);
    layer_norm::forward(&client, &shape, &device(&x), &device(&ones), &device(&zeros), &y, &stats);
    let expected = reference::forward(&f64s(&x), &f64s(&ones), &f64s(&zeros), EPS.into());
    // The mean itself is only known to about 1000 * 2^-24; a variance from sums of squares would be off by 10%.
    assert_close("y", &read_f32(&client, y), &expected.0, 3e-4);
}

/// Which of the optional parts a call uses.
#[derive(Debug, Clone, Copy)]
struct Parts {
    fresh: bool,
    write_normed: bool,
    d_sum: bool,
    residue: bool,
}

fn check_backward(
    client: &Client,
    rng: &mut ChaCha8Rng,
    (rows, width): (usize, usize),
    (kind, tolerance): (FloatKind, f64),
    parts: Parts,
) {
    let (x, dy) = (stream(rng, kind, rows * width), rounded(kind, &values(rng, rows * width)));
    let gradient = rounded(kind, &values(rng, rows * width));
    let (gain, bias) = (values(rng, width), values(rng, width));
    let sums = [values(rng, width), values(rng, width), values(rng, width)];
    let expected = reference::backward(&f64s(&x), &f64s(&gain), &f64s(&dy), EPS.into());
    let (normed, stats) = reference::forward(&f64s(&x), &f64s(&gain), &f64s(&bias), EPS.into());

    let stats: Vec<f32> = stats.iter().map(|v| *v as f32).collect();
    let device = |data: &[f32]| upload(client, data);
    let activation = |data: &[f32]| typed(client, kind, data);
    let (dy_device, gradient_device) = (activation(&dy), activation(&gradient));
    // What rounding would have left out.
    let residue: Vec<f32> = gradient.iter().zip(values(rng, rows * width)).map(|(g, v)| g * v * 1e-4).collect();
    let residue = rounded(kind, &residue);
    let residue_device = activation(&residue);
    let sums_device = sums.each_ref().map(|data| device(data));
    layer_norm::backward(
        client,
        &NormShape { rows, width, kind, eps: EPS },
        Backward {
            x: &activation(&x),
            stats: &device(&stats),
            gain: &device(&gain),
            bias: &device(&bias),
            dy: &dy_device,
            gradient: &gradient_device,
            residue: parts.residue.then_some(&residue_device),
            fresh: parts.fresh,
            write_normed: parts.write_normed,
            d_gain: &sums_device[0],
            d_bias: &sums_device[1],
            d_sum: parts.d_sum.then_some(&sums_device[2]),
        },
    );

    let name = |what| format!("{what} of [{rows}, {width}] {kind:?} {parts:?}");
    let [dx, d_gain, d_bias] = expected;
    let mut total = dx;
    for (stream, taken) in [(&gradient, !parts.fresh), (&residue, !parts.fresh && parts.residue)] {
        total.iter_mut().zip(stream).filter(|_| taken).for_each(|(total, value)| *total += f64::from(*value));
    }
    let got = read_typed(client, kind, gradient_device);
    assert_close(&name("gradient"), &got, &total, tolerance);
    if parts.residue {
        let rest = read_typed(client, kind, residue_device);
        let sum: Vec<f32> = got.iter().zip(rest).map(|(value, rest)| value + rest).collect();
        assert_close(&name("gradient with residue"), &sum, &total, 2e-5);
    }
    let dy_expected = if parts.write_normed { normed } else { f64s(&dy) };
    assert_close(&name("normed"), &read_typed(client, kind, dy_device), &dy_expected, tolerance);
    let mut d_sum = vec![0.0; width];
    if parts.d_sum {
        total.iter().enumerate().for_each(|(i, v)| d_sum[i % width] += v);
    }
    let names = ["d_gain", "d_bias", "d_sum"];
    for (((what, before), device), added) in names.iter().zip(&sums).zip(sums_device).zip([d_gain, d_bias, d_sum]) {
        let expected: Vec<f64> = before.iter().zip(&added).map(|(b, a)| f64::from(*b) + a).collect();
        // The final gradient may be summed after its rounding, whose errors add up.
        let tolerance = if *what == "d_sum" { 4.0 * tolerance } else { 5e-6 };
        assert_close(&name(what), &read_f32(client, device), &expected, tolerance);
    }
}

#[test]
fn backward_matches_reference_with_every_combination_of_parts() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(22));
    for size in SIZES {
        for kind in kinds(&client, 5e-6) {
            check_backward(
                &client,
                &mut rng,
                size,
                kind,
                Parts { fresh: false, write_normed: true, d_sum: true, residue: false },
            );
        }
    }
    for (fresh, write_normed, d_sum) in [(true, true, true), (true, false, false), (false, false, true)] {
        for residue in [false, true] {
            for size in [(77, 96), (77, 384), longer(&client)[1]] {
                for kind in kinds(&client, 5e-6) {
                    check_backward(&client, &mut rng, size, kind, Parts { fresh, write_normed, d_sum, residue });
                }
            }
        }
    }
    let parts = Parts { fresh: false, write_normed: true, d_sum: true, residue: true };
    for size in [(1, 8), (785, 64), (3, 1024)].into_iter().chain(longer(&client)) {
        for kind in kinds(&client, 5e-6) {
            check_backward(&client, &mut rng, size, kind, parts);
        }
    }
}

#[test]
fn backward_repeats_to_the_bit() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(23));
    for ((rows, width), (kind, _)) in
        [(785, 96), (197, 384)].iter().flat_map(|s| kinds(&client, 0.0).into_iter().map(move |k| (*s, k)))
    {
        let [x, dy] = [(); 2].map(|()| rounded(kind, &values(&mut rng, rows * width)));
        let (gain, stats) = (values(&mut rng, width), values(&mut rng, 2 * rows));
        let device = |data: &[f32]| upload(&client, data);
        let run = || {
            let sums = [(); 3].map(|()| device(&vec![0.0; width]));
            let args = Backward {
                x: &typed(&client, kind, &x),
                stats: &device(&stats),
                gain: &device(&gain),
                bias: &device(&gain),
                dy: &typed(&client, kind, &dy),
                gradient: &client.empty(rows * width * kind.size()),
                residue: None,
                fresh: true,
                write_normed: true,
                d_gain: &sums[0],
                d_bias: &sums[1],
                d_sum: Some(&sums[2]),
            };
            layer_norm::backward(&client, &NormShape { rows, width, kind, eps: EPS }, args);
            sums.map(|handle| read_f32(&client, handle))
        };
        assert_eq!(run(), run());
    }
}
