//! Attention on the device at hand: errors against f64 for small shapes, times for large ones.

use avion_kernels::attention::{AttentionShape, backward, forward, path, reference};
use avion_kernels::{FloatKind, Handle};
use cubecl::cuda::{CudaDevice, CudaRuntime};
use cubecl::prelude::*;
use half::{bf16, f16};
use std::time::Instant;

struct Buffers {
    qkv: Handle,
    output: Handle,
    lse: Handle,
    d_output: Handle,
    d_qkv: Handle,
    delta: Handle,
}

fn values(len: usize, mut state: u64) -> Vec<f32> {
    (0..len)
        .map(|_| {
            let sum: f32 = (0..4)
                .map(|_| {
                    state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
                })
                .sum();
            sum * 1.7
        })
        .collect()
}

fn bytes(values: &[f32], kind: FloatKind) -> Vec<u8> {
    match kind {
        FloatKind::F16 => values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
    }
}

fn floats(bytes: &[u8], kind: FloatKind) -> Vec<f32> {
    bytes
        .chunks_exact(2)
        .map(|b| match kind {
            FloatKind::F16 => f16::from_le_bytes([b[0], b[1]]).to_f32(),
            _ => bf16::from_le_bytes([b[0], b[1]]).to_f32(),
        })
        .collect()
}

fn error(got: &[f32], expected: &[f64]) -> f64 {
    let largest = expected.iter().fold(0.0f64, |a, b| a.max(b.abs())).max(1e-9);
    got.iter()
        .zip(expected)
        .map(|(a, b)| (f64::from(*a) - b).abs())
        .fold(0.0, |a, b| if b.is_nan() { b } else { a.max(b) })
        / largest
}

fn main() {
    let client = CudaRuntime::client(&CudaDevice::new(0));
    let make = |shape: &AttentionShape, qkv: Vec<u8>, d_output: Vec<u8>| Buffers {
        qkv: client.create_from_slice(&qkv),
        output: client.empty(shape.output_len() * 2),
        lse: client.empty(shape.lse_len() * 4),
        d_output: client.create_from_slice(&d_output),
        d_qkv: client.empty(shape.qkv_len() * 2),
        delta: client.empty(shape.lse_len() * 4),
    };
    for kind in [FloatKind::Bf16, FloatKind::F16] {
        for (batch, heads, tokens) in [(1, 2, 1), (2, 3, 77), (1, 3, 197), (1, 2, 785), (1, 1, 1100)] {
            for causal in [false, true] {
                let shape = AttentionShape { batch, tokens, heads, head_dim: 64, causal, kind };
                let (q, g) = (bytes(&values(shape.qkv_len(), 1), kind), bytes(&values(shape.output_len(), 2), kind));
                let expected = reference(&shape, &floats(&q, kind), &floats(&g, kind));
                let b = make(&shape, q, g);
                let used = path(&client, &shape).expect("a path");
                forward(&client, &shape, &b.qkv, &b.output, &b.lse).expect("forward");
                backward(&client, &shape, &b.qkv, &b.output, &b.lse, &b.d_output, &b.d_qkv, &b.delta)
                    .expect("backward");
                let read = |handle: &Handle| client.read_one(handle.clone()).expect("read").to_vec();
                let lse: Vec<f32> =
                    read(&b.lse).chunks_exact(4).map(|x| f32::from_le_bytes([x[0], x[1], x[2], x[3]])).collect();
                println!(
                    "{used:?} {kind:?} {batch}x{heads}x{tokens} causal {causal}: output {:.5} lse {:.7} d_qkv {:.5}",
                    error(&floats(&read(&b.output), kind), &expected.output),
                    error(&lse, &expected.lse),
                    error(&floats(&read(&b.d_qkv), kind), &expected.d_qkv)
                );
            }
        }
    }
    for (batch, tokens, causal) in [(64, 785, false), (64, 1568, false), (256, 785, false), (256, 77, true)] {
        let shape = AttentionShape { batch, tokens, heads: 12, head_dim: 64, causal, kind: FloatKind::Bf16 };
        let small = values(1 << 20, 3);
        let fill = |len: usize| bytes(&small, shape.kind).into_iter().cycle().take(len * 2).collect::<Vec<_>>();
        let b = make(&shape, fill(shape.qkv_len()), fill(shape.output_len()));
        let time = |what: &str, run: &dyn Fn()| {
            run();
            cubecl::future::block_on(client.sync()).expect("sync");
            let start = Instant::now();
            (0..20).for_each(|_| run());
            cubecl::future::block_on(client.sync()).expect("sync");
            println!("{batch} x 12 x {tokens} causal {causal} {what}: {:.4} ms", start.elapsed().as_secs_f64() * 50.0);
        };
        time("forward", &|| forward(&client, &shape, &b.qkv, &b.output, &b.lse).expect("forward"));
        time("backward", &|| {
            backward(&client, &shape, &b.qkv, &b.output, &b.lse, &b.d_output, &b.d_qkv, &b.delta).expect("backward")
        });
    }
}
