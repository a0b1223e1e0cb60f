//! Flat buffers, reductions, products and the optimizer.

use crate::support::{assert_close, client, read_f32, upload, values};
use avion_kernels::{
    FloatKind, adamw, column_sum, flat,
    gemm::{
        self, Operand, Problem,
        tiled::{Matrix, tiled},
    },
    grad_norm::{self, STATS_LEN},
    patch_ingest::{self, PatchGrid, PixelNorm},
};
use cubecl::prelude::*;
use half::f16;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

#[test]
fn clear_and_cast_touch_exactly_their_range() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(5));
    for len in [1, 255, 257, 70_001] {
        let a = values(&mut rng, len + 3);
        let dst = upload(&client, &a);
        flat::clear(&client, dst.clone(), len);
        let got = read_f32(&client, dst.clone());
        assert!(got[..len].iter().all(|v| *v == 0.0) && got[len..] == a[len..], "clear of {len}");
        flat::cast(&client, upload(&client, &a), dst.clone(), FloatKind::F32, len);
        assert_eq!(read_f32(&client, dst)[..len], a[..len]);
    }
}

#[test]
fn column_sum_adds_every_row_once() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(7));
    for (rows, columns) in [(1, 1), (77, 300), (785, 64), (1000, 257), (300_000, 3)] {
        let (src, before) = (values(&mut rng, rows * columns), values(&mut rng, columns));
        let dst = upload(&client, &before);
        column_sum::column_sum(&client, upload(&client, &src), FloatKind::F32, rows, columns, dst.clone());
        let mut expected: Vec<f64> = before.iter().map(|v| *v as f64).collect();
        column_sum::reference(&src, columns, &mut expected);
        assert_close("column_sum", &read_f32(&client, dst), &expected, 1e-5);
    }
}

#[test]
fn accumulate_adds_f32_and_f16() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(1));
    for len in [1, 77, 256, 785, 100_003] {
        let (a, b) = (values(&mut rng, len), values(&mut rng, len));
        let dst = upload(&client, &a);
        flat::accumulate(&client, upload(&client, &b), FloatKind::F32, dst.clone(), len);
        let expected: Vec<f64> = a.iter().zip(&b).map(|(x, y)| *x as f64 + *y as f64).collect();
        assert_close("accumulate f32", &read_f32(&client, dst.clone()), &expected, 1e-7);

        if client.properties().supports_type(half::f16::as_type_native_unchecked()) {
            let halves: Vec<u16> = b.iter().map(|v| f16::from_f32(*v).to_bits()).collect();
            let src = client.create_from_slice(bytemuck::cast_slice(&halves));
            flat::accumulate(&client, src, FloatKind::F16, dst.clone(), len);
            let twice: Vec<f64> = expected.iter().zip(&b).map(|(x, y)| x + f16::from_f32(*y).to_f64()).collect();
            assert_close("accumulate f16", &read_f32(&client, dst), &twice, 1e-7);
        }
    }
}

#[test]
fn grad_norm_clips_and_flags() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(2));
    for (len, factor, max_norm) in [(1, 1.0, 0.0), (77, 0.5, 1.0), (785, 1.0, 1e9), (300_001, 0.25, 2.0)] {
        let g = values(&mut rng, len);
        let stats = client.empty(STATS_LEN * 4);
        grad_norm::grad_norm(&client, upload(&client, &g), len, factor, max_norm, stats.clone());
        let (norm, scale, finite) = grad_norm::reference(&g, factor as f64, max_norm as f64);
        let got = read_f32(&client, stats);
        assert_close("norm", &got[..1], &[norm], 1e-5);
        assert_close("scale", &got[1..2], &[scale], 1e-5);
        assert_eq!(got[2] == 1.0, finite);
    }
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut g = values(&mut rng, 1000);
        g[613] = bad;
        let stats = client.empty(STATS_LEN * 4);
        grad_norm::grad_norm(&client, upload(&client, &g), 1000, 1.0, 1.0, stats.clone());
        assert_eq!(read_f32(&client, stats)[2], 0.0, "{bad} must clear the finite flag");
    }
}

#[test]
fn adamw_matches_reference_over_steps_and_groups() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(3));
    let hyper = [1.0f32, 0.01, 0.1, 0.0, 1.0, 0.0];
    for blocks in [1usize, 3, 131] {
        let len = blocks * adamw::BLOCK;
        let groups: Vec<u32> = (0..blocks).map(|b| (b % 3) as u32).collect();
        let p0 = values(&mut rng, len);
        let mut expected: Vec<(f64, f64, f64)> = p0.iter().map(|&p| (p as f64, 0.0, 0.0)).collect();
        let params = upload(&client, &p0);
        let zeros = vec![0.0f32; len];
        let (m, v) = (upload(&client, &zeros), upload(&client, &zeros));
        let copy = client.empty(len * 2);
        let with_copy = client.properties().supports_type(half::f16::as_type_native_unchecked());
        for step in 1..=3 {
            let g = values(&mut rng, len);
            let numbers = adamw::AdamwStep { lr: 3e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, step };
            let buffers = |stats: [f32; 4]| adamw::AdamwBuffers {
                params: params.clone(),
                grads: upload(&client, &g),
                moment1: m.clone(),
                moment2: v.clone(),
                groups: client.create_from_slice(bytemuck::cast_slice(&groups)),
                hyper: upload(&client, &hyper),
                num_groups: 3,
                stats: upload(&client, &stats),
                copy: with_copy.then(|| (copy.clone(), FloatKind::F16)),
                len,
            };
            adamw::adamw(&client, buffers([1.0, 0.5, 0.0, 0.0]), numbers).unwrap(); // not finite: must change nothing
            adamw::adamw(&client, buffers([1.0, 0.5, 1.0, 0.0]), numbers).unwrap();
            for (i, (p, m, v)) in expected.iter_mut().enumerate() {
                let group = groups[i / adamw::BLOCK] as usize;
                let (lr, decay) = (3e-3 * hyper[2 * group] as f64, hyper[2 * group + 1] as f64);
                (*p, *m, *v) = adamw::reference(*p, g[i] as f64 * 0.5, *m, *v, lr, decay, &numbers);
            }
        }
        let column = |f: fn(&(f64, f64, f64)) -> f64| expected.iter().map(f).collect::<Vec<_>>();
        let got = read_f32(&client, params);
        assert_close("p", &got, &column(|e| e.0), 1e-6);
        assert_close("m", &read_f32(&client, m), &column(|e| e.1), 1e-6);
        assert_close("v", &read_f32(&client, v), &column(|e| e.2), 1e-6);
        if with_copy {
            let halves: Vec<u16> = bytemuck::pod_collect_to_vec(&client.read_one(copy).unwrap());
            let copied: Vec<f32> = halves.iter().map(|b| f16::from_bits(*b).to_f32()).collect();
            assert_close("copy", &copied, &column(|e| e.0), 1e-3);
        }
    }
}

#[test]
fn adamw_refuses_a_ragged_length() {
    let client = client();
    let h = client.empty(1024);
    let buffers = adamw::AdamwBuffers {
        params: h.clone(),
        grads: h.clone(),
        moment1: h.clone(),
        moment2: h.clone(),
        groups: h.clone(),
        hyper: h.clone(),
        num_groups: 1,
        stats: h.clone(),
        copy: None,
        len: 255,
    };
    let step = adamw::AdamwStep { lr: 0.0, beta1: 0.9, beta2: 0.9, eps: 1e-8, step: 1 };
    let error = adamw::adamw(&client, buffers, step).unwrap_err().to_string();
    assert!(error.contains("multiple of 256") && error.contains("255"), "{error}");
}

#[test]
fn patch_ingest_unpacks_orders_and_normalises() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(4));
    let norm = PixelNorm { mean: [108.3, 116.7, 104.1], std: [68.5, 66.6, 70.3] };
    for (images, image_px, patch_px) in [(1, 1, 1), (3, 6, 2), (2, 28, 14), (5, 33, 11), (2, 64, 16)] {
        let grid = PatchGrid { images, image_px, patch_px };
        let mut bytes: Vec<u8> = (0..images * image_px * image_px * 3).map(|_| rng.random()).collect();
        let expected = patch_ingest::reference(&bytes, grid, norm);
        bytes.resize(grid.padded_bytes(), 0xAA);
        let frames = client.create_from_slice(&bytes);
        let out = client.empty(expected.len() * 4);
        patch_ingest::patch_ingest(&client, frames, grid, norm, out.clone(), FloatKind::F32).unwrap();
        assert_close("patch_ingest", &read_f32(&client, out), &expected, 1e-6);
    }
    let error = patch_ingest::patch_ingest(
        &client,
        client.empty(4),
        PatchGrid { images: 1, image_px: 10, patch_px: 3 },
        norm,
        client.empty(4),
        FloatKind::F32,
    )
    .unwrap_err()
    .to_string();
    assert!(error.contains("10 px") && error.contains("3 px"), "{error}");
}

#[test]
fn tiled_gemm_matches_reference_over_layouts() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(6));
    // Plain, transposed and batched operands, and heads interleaved with tokens as attention packs them.
    for (m, n, k) in [(1, 1, 1), (7, 5, 3), (16, 8, 77), (17, 9, 197), (65, 33, 64), (785, 12, 19)] {
        for (transpose_a, transpose_b) in [(false, false), (true, false), (false, true), (true, true)] {
            for (outer, inner) in [(1, 1), (2, 3)] {
                let problem = Problem { m, n, k, outer, inner };
                let operand = |rows: usize, columns: usize, transposed: bool| {
                    // [outer, rows, inner, columns]: the inner batch lies between a row's elements.
                    let o = if transposed {
                        Operand { offset: 0, outer: 0, inner: 0, rows: 1, columns: inner * rows }
                    } else {
                        Operand { offset: 0, outer: 0, inner: 0, rows: inner * columns, columns: 1 }
                    };
                    let step = if transposed { rows } else { columns };
                    Operand { offset: 5, outer: rows * columns * inner, inner: step, ..o }
                };
                let (oa, ob, oc) = (operand(m, k, transpose_a), operand(k, n, transpose_b), operand(m, n, false));
                let size = |rows: usize, columns: usize| 5 + outer * inner * rows * columns;
                let (a, b, c) =
                    (values(&mut rng, size(m, k)), values(&mut rng, size(k, n)), values(&mut rng, size(m, n)));
                let mut expected: Vec<f64> = c.iter().map(|v| *v as f64).collect();
                gemm::reference(problem, 0.5, (&a, oa), (&b, ob), (&mut expected, oc));
                let out = upload(&client, &c);
                let matrix = |data: &[f32], operand| Matrix { handle: upload(&client, data), len: data.len(), operand };
                tiled(
                    &client,
                    problem,
                    0.5,
                    (matrix(&a, oa), matrix(&b, ob), FloatKind::F32),
                    (Matrix { handle: out.clone(), len: c.len(), operand: oc }, FloatKind::F32),
                )
                .unwrap();
                assert_close("gemm", &read_f32(&client, out), &expected, 2e-6);
            }
        }
    }
    let short = |len| Matrix { handle: client.empty(4 * 64), len, operand: Operand::matrix(8) };
    let error = tiled(
        &client,
        Problem::single(8, 8, 8),
        1.0,
        (short(64), short(63), FloatKind::F32),
        (short(64), FloatKind::F32),
    )
    .unwrap_err()
    .to_string();
    assert!(error.contains("b: expected at least 64") && error.contains("63"), "{error}");
}
