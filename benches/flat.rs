//! Checks and times the memory-bound kernels of a training step at full size: the update rules and the gradient norm
//! over 150 million elements with a bf16 copy, the embedding's gradient, and the contrastive loss.
//!
//! `cargo bench --workspace --bench flat`

use avion_kernels::{
    FloatKind, Handle,
    contrastive::{self, Chunk, Gradient, Statistics},
    embedding::{self, Groups},
    flat, grad_norm,
    optimizer::{
        BLOCK, OptimizerBuffers,
        adamw::{self, AdamwStep},
        lion::{self, LionStep},
        sgd::{self, SgdStep},
    },
    reduce::Split,
};
use cubecl::cuda::{CudaDevice, CudaRuntime};
use cubecl::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::time::Instant;

type Client = ComputeClient<CudaRuntime>;

fn sync(client: &Client) {
    if let Err(error) = cubecl::future::block_on(client.sync()) {
        println!("FAILED: the device reports {error:?}");
        std::process::exit(1);
    }
}

/// Seconds per call, the shortest of three rounds.
fn time(client: &Client, calls: u32, mut call: impl FnMut()) -> f64 {
    call();
    sync(client);
    let round = |call: &mut dyn FnMut()| {
        let start = Instant::now();
        (0..calls).for_each(|_| call());
        sync(client);
        start.elapsed().as_secs_f64() / f64::from(calls)
    };
    (0..3).map(|_| round(&mut call)).fold(f64::INFINITY, f64::min)
}

fn upload(client: &Client, data: &[f32]) -> Handle {
    client.create_from_slice(bytemuck::cast_slice(data))
}

fn read(client: &Client, handle: &Handle) -> Vec<f32> {
    match client.read_one(handle.clone()) {
        Ok(bytes) => bytemuck::pod_collect_to_vec(&bytes),
        Err(error) => {
            println!("FAILED: cannot read back: {error:?}");
            std::process::exit(1);
        }
    }
}

/// Largest difference relative to the largest expected value.
fn verdict(name: &str, got: impl Iterator<Item = f32>, expected: impl Iterator<Item = f64>, tolerance: f64) {
    let pairs: Vec<(f64, f64)> = got.map(f64::from).zip(expected).collect();
    let scale = pairs.iter().fold(1e-30, |m: f64, (_, e)| m.max(e.abs()));
    let nan = pairs.iter().any(|(g, _)| !g.is_finite());
    let error = pairs.iter().fold(0.0, |m: f64, (g, e)| m.max((g - e).abs())) / scale;
    let word = if error <= tolerance && !nan { "ok" } else { "WRONG" };
    println!("  {name}: {word}, error {error:.1e} over {} values", pairs.len());
}

fn optimizers(client: &Client) {
    let len = 150_000_000usize.next_multiple_of(BLOCK);
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    // A short random pattern, repeated: 600 MB of host randomness would take longer than the whole benchmark.
    let pattern = |rng: &mut ChaCha8Rng, low: f32| -> Vec<f32> {
        let part: Vec<f32> = (0..1 << 20).map(|_| rng.random_range(low..1.0f32)).collect();
        part.iter().copied().cycle().take(len).collect()
    };
    let (p0, g0) = (pattern(&mut rng, -1.0), pattern(&mut rng, -1.0));
    let (params, grads) = (upload(client, &p0), upload(client, &g0));
    let state = [client.empty(len * 4), client.empty(len * 4)];
    let copy = client.empty(len * 2);
    let [leaving, clearing] = [0.0, 1.0].map(|clear| {
        let treatment = (0..len / BLOCK).flat_map(|b| [1.0, if b % 2 == 0 { 0.01 } else { 0.0 }, clear, 0.0]);
        upload(client, &treatment.collect::<Vec<f32>>())
    });
    let zeros = [0.0f32; grad_norm::STATS_LEN];
    let stats = upload(client, &zeros);

    let norm = || grad_norm::grad_norm(client, &grads, len, 1.0, 1.0, [0.9, 0.999], &stats);
    norm();
    let (expected, factor, _) = grad_norm::reference(&g0, 1.0, 1.0);
    let got = read(client, &stats);
    verdict("grad_norm", got.iter().copied().take(2), [expected, factor].into_iter(), 1e-5);

    let copied = time(client, 20, || flat::cast(client, &params, &state[0], FloatKind::F32, len));
    let peak = 8.0 * len as f64 / copied;
    let report = |name: &str, seconds: f64, bytes: usize| {
        let rate = (bytes * len) as f64 / seconds;
        println!(
            "{name:<28}{:>9.3} ms {:>7.0} GB/s  {:>4.0} % of a copy",
            seconds * 1e3,
            rate / 1e9,
            100.0 * rate / peak
        );
    };
    report("copy f32", copied, 8);
    report("grad_norm", time(client, 20, norm), 4);
    report("clear", time(client, 20, || flat::clear(client, &state[0], len)), 4);
    report("cast to bf16", time(client, 20, || flat::cast(client, &params, &copy, FloatKind::Bf16, len)), 6);
    report(
        "accumulate bf16",
        time(client, 20, || flat::accumulate(client, &copy, FloatKind::Bf16, &state[0], len)),
        10,
    );

    let buffers = |states: usize, treatment: &Handle| OptimizerBuffers {
        params: params.clone(),
        grads: grads.clone(),
        state: state[..states].to_vec(),
        treatment: treatment.clone(),
        stats: stats.clone(),
        copy: Some((copy.clone(), FloatKind::Bf16)),
        len,
    };
    let reset = || {
        let fresh = upload(client, &p0);
        flat::cast(client, &fresh, &params, FloatKind::F32, len);
        state.iter().for_each(|s| flat::clear(client, s, len));
    };
    let sample = |i: &usize| i.is_multiple_of(9973);
    let decay = |i: usize| if (i / BLOCK).is_multiple_of(2) { f64::from(0.01f32) } else { 0.0 };
    type Update<'a> = Box<dyn Fn(&OptimizerBuffers) + 'a>;
    type Element = Box<dyn Fn(f64, f64, f64) -> f64>;
    let (a, l) =
        (AdamwStep { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8 }, LionStep { lr: 1e-3, beta1: 0.9, beta2: 0.99 });
    let s = |momentum| SgdStep { lr: 1e-3, momentum, nesterov: false };
    let (s0, s1) = (s(0.0), s(0.9));
    let rules: [(&str, usize, Update, Element); 4] = [
        (
            "adamw",
            2,
            Box::new(|b| drop(adamw::adamw(client, b, a))),
            Box::new(move |p, g, d| adamw::reference(p, g, 0.0, 0.0, [a.lr.into(), d], &a, 1).0),
        ),
        (
            "lion",
            1,
            Box::new(|b| drop(lion::lion(client, b, l))),
            Box::new(move |p, g, d| lion::reference(p, g, 0.0, l.lr.into(), d, &l).0),
        ),
        (
            "sgd, momentum",
            1,
            Box::new(|b| drop(sgd::sgd(client, b, s1))),
            Box::new(move |p, g, d| sgd::reference(p, g, 0.0, s1.lr.into(), d, &s1).0),
        ),
        (
            "sgd",
            0,
            Box::new(|b| drop(sgd::sgd(client, b, s0))),
            Box::new(move |p, g, d| sgd::reference(p, g, 0.0, s0.lr.into(), d, &s0).0),
        ),
    ];
    for (name, states, update, element) in rules {
        reset();
        update(&buffers(states, &leaving));
        let got = read(client, &params);
        let expected = (0..len).filter(sample).map(|i| element(p0[i].into(), f64::from(g0[i]) * factor, decay(i)));
        verdict(name, (0..len).filter(sample).map(|i| got[i]), expected, 1e-6);
        // Read p, g and the states, write p and the states, and the copy: then the gradients too.
        let bytes = 8 + 4 + 8 * states + 2;
        report(name, time(client, 20, || update(&buffers(states, &leaving))), bytes);
    }
    let (seconds, b) = (time(client, 20, || drop(adamw::adamw(client, &buffers(2, &clearing), a))), 34);
    report("adamw, clearing gradients", seconds, b);
}

fn embedding_gradient(client: &Client) {
    let (batch, tokens, width, vocabulary) = (256usize, 32usize, 512usize, 49_408u32);
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let mut lengths = Vec::new();
    let mut ids = Vec::new();
    for _ in 0..batch {
        let length = rng.random_range(8..=tokens);
        lengths.push(length);
        ids.extend((0..tokens).map(|at| match at {
            0 => vocabulary - 2,
            at if at + 1 == length => vocabulary - 1,
            // Words fall off as in text: few make up most of it.
            at if at < length => (2000.0 * rng.random_range(0.0..1.0f64).powi(3)) as u32,
            _ => 0,
        }));
    }
    let skip = |row: usize| row % tokens >= lengths[row / tokens];
    let start = Instant::now();
    let groups = Groups::of(&ids, skip);
    println!("embedding: {} rows in groups, {:.2} ms on the host", groups.rows(), start.elapsed().as_secs_f64() * 1e3);
    let d: Vec<f32> = (0..ids.len() * width).map(|_| rng.random_range(-1.0..1.0f32)).collect();
    let bits: Vec<u16> = d.iter().map(|v| half::bf16::from_f32(*v).to_bits()).collect();
    let rounded: Vec<f32> = bits.iter().map(|v| half::bf16::from_bits(*v).to_f32()).collect();
    let table = upload(client, &vec![0.0; vocabulary as usize * width]);
    let d = client.create_from_slice(bytemuck::cast_slice(&bits));
    let words = client.create_from_slice(bytemuck::cast_slice(groups.words()));
    let run = || embedding::backward(client, FloatKind::Bf16, &d, &groups, &words, None, &table, width);
    run();
    let mut expected = vec![0.0; vocabulary as usize * width];
    embedding::backward_reference(&rounded, &ids, skip, &mut expected, width);
    verdict("embedding backward", read(client, &table).into_iter(), expected.into_iter(), 1e-5);
    println!("{:<28}{:>9.3} ms", "embedding backward", time(client, 200, run) * 1e3);
    let (ids_on, position, y) = (
        client.create_from_slice(bytemuck::cast_slice(&ids)),
        upload(client, &vec![0.5; tokens * width]),
        client.empty(ids.len() * width * 2),
    );
    let inputs = [&table, &ids_on, &position];
    let seconds =
        time(client, 200, || embedding::forward(client, FloatKind::Bf16, inputs, &y, ids.len(), tokens, width));
    println!("{:<28}{:>9.3} ms", "embedding forward", seconds * 1e3);
}

fn contrastive_loss(client: &Client, n: usize, rows: usize) {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let part: Vec<f32> = (0..1 << 16).map(|_| rng.random_range(-0.5..0.5f32)).collect();
    let column = || client.empty(n * 4);
    let statistics = Statistics {
        row_lse: column(),
        column_max: column(),
        column_sum: column(),
        column_lse: column(),
        own: column(),
        row_hit: column(),
    };
    let logit_scale = 50f32.ln();
    let (scale, result, d_scale) = (upload(client, &[logit_scale]), client.empty(8), upload(client, &[0.0]));
    let split = Split::of(client);
    // One buffer of products stands for every chunk's; a prime step keeps rows of the whole matrix different.
    let value = |row: usize, column: usize| part[(row * 7919 + column * 31 + row / 13) & 0xFFFF];
    let host: Vec<f32> = (0..rows * n).map(|i| value(i / n, i % n)).collect();
    let products = upload(client, &host);
    let spare = client.empty(rows * n * 2);
    let forward = || {
        for chunk in Chunk::split(n, rows) {
            drop(contrastive::statistics(client, split, chunk, &products, &scale, &statistics));
        }
        contrastive::finish(client, &statistics, n, &result);
    };
    let backward = |gradient: Gradient, d_scale: Option<&Handle>| {
        for chunk in Chunk::split(n, rows) {
            drop(contrastive::gradient(client, split, chunk, &products, &scale, &statistics, gradient, d_scale));
        }
    };
    forward();
    backward(Gradient::Into(&spare, FloatKind::Bf16), Some(&d_scale));
    if n <= 4096 {
        let whole: Vec<f32> = (0..n * n).map(|i| host[i % (rows * n)]).collect();
        let expected = contrastive::reference(&whole, logit_scale.into(), n);
        let got = read(client, &result);
        println!("n {n}: loss {} accuracy {}", got[0], got[1]);
        verdict("loss", got[..1].iter().copied(), [expected.loss].into_iter(), 1e-5);
        verdict("accuracy", got[1..].iter().copied(), [expected.accuracy].into_iter(), 1e-6);
        verdict("d_logit_scale", read(client, &d_scale).into_iter(), [expected.d_logit_scale].into_iter(), 1e-4);
        // In place the last chunk alone: every chunk is the same buffer here.
        let last = Chunk { first_row: n - rows, rows, n };
        let in_place = Gradient::InPlace;
        drop(contrastive::gradient(client, split, last, &products, &scale, &statistics, in_place, None));
        let got = read(client, &products);
        let last = &expected.d_products[(n - rows) * n..];
        verdict("d_products", got.into_iter(), last.iter().copied(), 5e-5);
        let restored = upload(client, &host);
        flat::cast(client, &restored, &products, FloatKind::F32, rows * n);
    } else {
        // By one row and one column in f64.
        let lse = |values: &mut dyn Iterator<Item = f64>| values.map(|v| (v - 25.0).exp()).sum::<f64>().ln() + 25.0;
        let factor = f64::from(logit_scale).exp();
        let (row, column) = (rows + 7, n - 5);
        let by_row = lse(&mut (0..n).map(|c| factor * f64::from(value(row - rows, c))));
        let by_column = lse(&mut (0..n).map(|r| factor * f64::from(value(r % rows, column))));
        let (rows_got, columns_got) = (read(client, &statistics.row_lse), read(client, &statistics.column_lse));
        println!("n {n}, chunks of {rows}");
        verdict(
            "log-sum-exps",
            [rows_got[row], columns_got[column]].into_iter(),
            [by_row, by_column].into_iter(),
            1e-6,
        );
    }
    let calls = if n > 10_000 { 3 } else { 100 };
    let products_read = (n * n) as f64;
    let report = |name: &str, seconds: f64, bytes: f64| {
        println!("{name:<28}{:>9.3} ms {:>7.0} GB/s", seconds * 1e3, products_read * bytes / seconds / 1e9);
    };
    report("statistics and finish", time(client, calls, forward), 8.0);
    report("gradient to bf16", time(client, calls, || backward(Gradient::Into(&spare, FloatKind::Bf16), None)), 6.0);
    report("gradient in place + scale", time(client, calls, || backward(Gradient::InPlace, Some(&d_scale))), 8.0);
}

fn main() {
    let client = CudaRuntime::client(&CudaDevice::new(0));
    optimizers(&client);
    embedding_gradient(&client);
    contrastive_loss(&client, 256, 256);
    contrastive_loss(&client, 4096, 2048);
    contrastive_loss(&client, 32_768, 2048);
}
