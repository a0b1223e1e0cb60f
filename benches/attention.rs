//! Checks and times CubeCL's tensor-core attention on a CUDA device:
//! `cargo bench --workspace --bench attention -- [check] [time]`.
//!
//! `check` compares head widths, masks and odd token counts with the f64 reference; `time` prints medians of batches of
//! calls at CLIP ViT-B/16's shapes, for each way the kernels can be cut.

use avion_kernels::{
    FloatKind, Handle,
    attention::{
        self, AttentionShape,
        flash::{self, Plan},
    },
};
use cubecl::{
    cuda::{CudaDevice, CudaRuntime},
    future,
    prelude::*,
};
use half::{bf16, f16};
use std::time::Instant;

type Client = ComputeClient<CudaRuntime>;

/// A small generator: a benchmark has no need of a crate for it.
fn values(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..len).map(|_| bf16::from_f32((0..6).map(|_| uniform()).sum::<f32>() * 1.4).to_f32()).collect()
}

fn write(client: &Client, data: &[f32], kind: FloatKind) -> Handle {
    let halves: Vec<u16> = match kind {
        FloatKind::F16 => data.iter().map(|x| f16::from_f32(*x).to_bits()).collect(),
        FloatKind::Bf16 => data.iter().map(|x| bf16::from_f32(*x).to_bits()).collect(),
        FloatKind::F32 => return client.create_from_slice(bytemuck::cast_slice(data)),
    };
    client.create_from_slice(bytemuck::cast_slice(&halves))
}

fn read(client: &Client, handle: &Handle, kind: FloatKind) -> Vec<f32> {
    let bytes = client.read_one(handle.clone()).expect("device");
    let halves = || -> Vec<u16> { bytemuck::pod_collect_to_vec(&bytes) };
    match kind {
        FloatKind::F16 => halves().iter().map(|bits| f16::from_bits(*bits).to_f32()).collect(),
        FloatKind::Bf16 => halves().iter().map(|bits| bf16::from_bits(*bits).to_f32()).collect(),
        FloatKind::F32 => bytemuck::pod_collect_to_vec(&bytes),
    }
}

/// Largest difference over the largest value; infinite for a NaN.
fn error(got: &[f32], expected: &[f64]) -> f64 {
    let largest = expected.iter().fold(1e-30f64, |m, x| m.max(x.abs()));
    let worst = got.iter().zip(expected).fold(0.0f64, |m, (g, e)| {
        let d = (f64::from(*g) - e).abs();
        if d.is_nan() { f64::INFINITY } else { m.max(d) }
    });
    worst / largest
}

struct Buffers {
    qkv: Handle,
    output: Handle,
    lse: Handle,
    d_output: Handle,
    d_qkv: Handle,
    delta: Handle,
    sums: Handle,
    d_bias: Handle,
}

fn check_one(client: &Client, shape: AttentionShape) -> bool {
    let (qkv, d_output) = (values(7, shape.qkv_len()), values(8, shape.output_len()));
    let nan = |len: usize, kind| write(client, &vec![f32::NAN; len], kind);
    let b = Buffers {
        qkv: write(client, &qkv, shape.kind),
        output: nan(shape.output_len(), shape.kind),
        lse: nan(shape.lse_len(), FloatKind::F32),
        d_output: write(client, &d_output, shape.kind),
        d_qkv: nan(shape.qkv_len(), shape.kind),
        delta: nan(shape.lse_len(), FloatKind::F32),
        sums: client.empty(shape.sums_len() * 4),
        d_bias: write(client, &vec![0.0; 3 * shape.heads * shape.head_dim], FloatKind::F32),
    };
    attention::forward(client, &shape, &b.qkv, &b.output, &b.lse).expect("supported");
    attention::backward(client, &shape, &b.qkv, &b.output, &b.lse, &b.d_output, &b.d_qkv, &b.delta, &b.sums, &b.d_bias)
        .expect("supported");
    let expected = attention::reference(&shape, &qkv, &d_output);
    let errors = [
        error(&read(client, &b.lse, FloatKind::F32), &expected.lse),
        error(&read(client, &b.output, shape.kind), &expected.output),
        error(&read(client, &b.d_qkv, shape.kind), &expected.d_qkv),
    ];
    let bound = if shape.kind == FloatKind::Bf16 { [1e-3, 1e-2, 1.5e-2] } else { [1e-3, 2e-3, 4e-3] };
    let good = errors.iter().zip(bound).all(|(e, b)| *e < b);
    let AttentionShape { tokens, head_dim, causal, kind, .. } = shape;
    println!(
        "{} d {head_dim} s {tokens} causal {causal} {kind:?}: lse {:.1e} output {:.1e} gradient {:.1e}",
        if good { "ok " } else { "BAD" },
        errors[0],
        errors[1],
        errors[2]
    );
    good
}

/// Median over batches, in milliseconds a call.
fn time(client: &Client, call: impl Fn()) -> f64 {
    let sync = || future::block_on(client.sync()).expect("device");
    call();
    sync();
    let mut times: Vec<f64> = (0..7)
        .map(|_| {
            let start = Instant::now();
            (0..20).for_each(|_| call());
            sync();
            start.elapsed().as_secs_f64() * 1e3 / 20.0
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[3]
}

fn main() {
    // `cargo bench` adds an option of its own.
    let named: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let wants = |name: &str| named.is_empty() || named.iter().any(|a| a == name);
    let client = CudaRuntime::client(&CudaDevice::default());
    let shape =
        |batch, tokens, heads, head_dim, causal, kind| AttentionShape { batch, tokens, heads, head_dim, causal, kind };
    let mut good = true;
    if wants("check") {
        for head_dim in flash::HEAD_DIMS {
            for causal in [false, true] {
                for tokens in [1, 77, 197, 785] {
                    let heads = if tokens == 785 { 1 } else { 3 };
                    let kind = if tokens == 197 && head_dim == 64 { FloatKind::F16 } else { FloatKind::Bf16 };
                    good &= check_one(&client, shape(2, tokens, heads, head_dim, causal, kind));
                }
            }
        }
    }
    if wants("time") {
        for (batch, tokens, heads, head_dim, causal) in
            [(64, 785, 12, 64, false), (64, 1568, 12, 64, false), (384, 77, 8, 64, true)]
        {
            let s = shape(batch, tokens, heads, head_dim, causal, FloatKind::Bf16);
            println!("{batch} x {heads} x {tokens} x {head_dim} causal {causal}");
            let pairs = |tiles: &[(u32, u32, u32)]| -> Vec<Plan> {
                tiles
                    .iter()
                    .map(|&(row_tiles, columns, step)| Plan { head_dim: 64, causal, row_tiles, columns, step })
                    .collect()
            };
            let b = Buffers {
                qkv: write(&client, &values(1, s.qkv_len()), s.kind),
                output: client.empty(s.output_len() * 2),
                lse: client.empty(s.lse_len() * 4),
                d_output: write(&client, &values(2, s.output_len()), s.kind),
                d_qkv: client.empty(s.qkv_len() * 2),
                delta: client.empty(s.lse_len() * 4),
                sums: client.empty(s.sums_len() * 4),
                d_bias: client.empty(3 * heads * head_dim * 4),
            };
            let work = (batch * heads * tokens * tokens * head_dim) as f64 * if causal { 0.5 } else { 1.0 } / 1e9;
            let most = if causal { 2 } else { 9 };
            for p in pairs(&[(2, 64, 64), (2, 32, 32), (1, 64, 64), (1, 32, 32), (2, 48, 48)]).into_iter().take(most) {
                let t = time(&client, || flash::forward_as(&client, &s, p, &b.qkv, &b.output, &b.lse));
                println!("  forward {} {}: {t:.3} ms {:.0} TFLOP/s", p.row_tiles, p.columns, 4.0 * work / t);
            }
            for p in pairs(&[(2, 64, 32), (2, 32, 32), (2, 64, 16), (1, 64, 64), (1, 64, 32)]).into_iter().take(most) {
                let call =
                    || flash::query_as(&client, &s, p, &b.qkv, &b.output, &b.lse, &b.d_output, &b.d_qkv, &b.delta);
                let t = time(&client, call);
                println!("  query {} {} {}: {t:.3} ms {:.0} TFLOP/s", p.row_tiles, p.columns, p.step, 6.0 * work / t);
            }
            for p in pairs(&[(2, 64, 16), (2, 32, 16), (1, 64, 32), (1, 32, 32), (1, 64, 16), (1, 64, 64)])
                .into_iter()
                .take(most)
            {
                let call = || flash::key_as(&client, &s, p, &b.qkv, &b.lse, &b.d_output, &b.d_qkv, &b.delta);
                let t = time(&client, call);
                println!("  key {} {} {}: {t:.3} ms {:.0} TFLOP/s", p.row_tiles, p.columns, p.step, 8.0 * work / t);
            }
        }
    }
    println!("{}", if good { "all good" } else { "FAILED" });
    if !good {
        std::process::exit(1);
    }
}
