//! Attention on whatever the adapter offers: without matrix instructions, the portable kernels.

use crate::support::{Client, assert_close, client, read_f32, upload};
use crate::typed::f64s;
use avion_kernels::{
    FloatKind, Handle,
    attention::{
        self, AttentionShape, Path,
        portable::{self, Plan},
    },
};
use cubecl::prelude::*;
use half::f16;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Normal enough: sums of uniform numbers, rounded to what the buffers hold.
fn values(rng: &mut ChaCha8Rng, len: usize, kind: FloatKind) -> Vec<f32> {
    let draw = |rng: &mut ChaCha8Rng| (0..4).map(|_| rng.random_range(-1.0..1.0f32)).sum::<f32>();
    (0..len).map(|_| draw(rng)).map(|x| if kind == FloatKind::F16 { f16::from_f32(x).to_f32() } else { x }).collect()
}

fn write(client: &Client, data: &[f32], kind: FloatKind) -> Handle {
    match kind {
        FloatKind::F16 => {
            let halves: Vec<u16> = data.iter().map(|x| f16::from_f32(*x).to_bits()).collect();
            client.create_from_slice(bytemuck::cast_slice(&halves))
        }
        _ => upload(client, data),
    }
}

fn read(client: &Client, handle: Handle, kind: FloatKind) -> Vec<f32> {
    match kind {
        FloatKind::F16 => {
            let halves: Vec<u16> = bytemuck::pod_collect_to_vec(&client.read_one(handle).unwrap());
            halves.iter().map(|bits| f16::from_bits(*bits).to_f32()).collect()
        }
        _ => read_f32(client, handle),
    }
}

/// Runs one call forward and backward, and compares every output with the reference. The buffers start as NaN, so that
/// an element that is not written shows.
fn check(shape: AttentionShape) {
    let client = client();
    let mut rng = ChaCha8Rng::seed_from_u64(shape.tokens as u64 * 1000 + shape.head_dim as u64);
    let (qkv, d_output) =
        (values(&mut rng, shape.qkv_len(), shape.kind), values(&mut rng, shape.output_len(), shape.kind));
    let nan = |len: usize, kind: FloatKind| write(&client, &vec![f32::NAN; len], kind);
    let (output, lse) = (nan(shape.output_len(), shape.kind), nan(shape.lse_len(), FloatKind::F32));
    let (d_qkv, delta) = (nan(shape.qkv_len(), shape.kind), nan(shape.lse_len(), FloatKind::F32));
    let (packed, gradient) = (write(&client, &qkv, shape.kind), write(&client, &d_output, shape.kind));

    attention::forward(&client, &shape, &packed, &output, &lse).unwrap();
    let columns = 3 * shape.heads * shape.head_dim;
    let before = values(&mut rng, columns, FloatKind::F32);
    let (sums, d_bias) = (nan(shape.sums_len(), FloatKind::F32), upload(&client, &before));
    attention::backward(&client, &shape, &packed, &output, &lse, &gradient, &d_qkv, &delta, &sums, &d_bias).unwrap();

    let expected = attention::reference(&shape, &qkv, &d_output);
    let (close, name) = (if shape.kind == FloatKind::F16 { 3e-3 } else { 2e-5 }, format!("{shape:?}"));
    assert_close(&format!("{name} lse"), &read_f32(&client, lse), &expected.lse, 2e-5);
    assert_close(&format!("{name} output"), &read(&client, output, shape.kind), &expected.output, close);
    assert_close(&format!("{name} gradient"), &read(&client, d_qkv, shape.kind), &expected.d_qkv, close);
    let mut total = f64s(&before);
    expected.d_qkv.chunks(columns).for_each(|row| total.iter_mut().zip(row).for_each(|(sum, d)| *sum += d));
    assert_close(&format!("{name} bias"), &read_f32(&client, d_bias), &total, close);
}

fn half_too() -> Vec<FloatKind> {
    let half = client().properties().supports_type(f16::as_type_native_unchecked());
    [FloatKind::F32].into_iter().chain(half.then_some(FloatKind::F16)).collect()
}

#[test]
fn attention_matches_reference_over_tokens_and_masks() {
    for kind in half_too() {
        for (tokens, batch, heads) in [(1, 2, 3), (5, 2, 3), (77, 2, 2), (197, 1, 2)] {
            for causal in [false, true] {
                check(AttentionShape { batch, tokens, heads, head_dim: 32, causal, kind });
            }
        }
    }
    check(AttentionShape { batch: 1, tokens: 785, heads: 1, head_dim: 32, causal: false, kind: FloatKind::F32 });
}

#[test]
fn attention_matches_reference_over_head_widths() {
    for head_dim in [8, 64, 80] {
        check(AttentionShape { batch: 2, tokens: 77, heads: 2, head_dim, causal: false, kind: FloatKind::F32 });
    }
    check(AttentionShape { batch: 1, tokens: 77, heads: 3, head_dim: 64, causal: true, kind: FloatKind::F32 });
    // On Hopper GPUs these take kernels of their own; rows and tiles end in every way.
    for kind in half_too() {
        for (tokens, causal) in [(1, false), (77, false), (130, true), (197, false), (321, true)] {
            check(AttentionShape { batch: 2, tokens, heads: 2, head_dim: 64, causal, kind });
        }
    }
    if half_too().contains(&FloatKind::F16) {
        // Long enough for the longest tiles.
        let kind = FloatKind::F16;
        check(AttentionShape { batch: 1, tokens: 1110, heads: 1, head_dim: 64, causal: false, kind });
        // Blocks that stay get two and three of these each.
        let multiprocessors = client().properties().hardware.num_streaming_multiprocessors.unwrap_or(1) as usize;
        check(AttentionShape { batch: multiprocessors + 1, tokens: 77, heads: 2, head_dim: 64, causal: false, kind });
    }
}

/// The way the kernels are cut on a GPU, which no adapter without plane operations would choose.
#[test]
fn attention_matches_reference_cut_for_a_gpu() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(2));
    let shape = AttentionShape { batch: 2, tokens: 77, heads: 3, head_dim: 32, causal: true, kind: FloatKind::F32 };
    let plan = Plan { head_dim: 32, units: 64, rows: 1, in_registers: true };
    let qkv = values(&mut rng, shape.qkv_len(), shape.kind);
    let d_output = values(&mut rng, shape.output_len(), shape.kind);
    let (packed, gradient) = (upload(&client, &qkv), upload(&client, &d_output));
    let [output, lse, d_qkv, delta] = [shape.output_len(), shape.lse_len(), shape.qkv_len(), shape.lse_len()]
        .map(|len| upload(&client, &vec![f32::NAN; len]));
    portable::forward(&client, &shape, plan, &packed, &output, &lse);
    portable::backward(&client, &shape, [plan; 2], &packed, &output, &lse, &gradient, &d_qkv, &delta);
    let expected = attention::reference(&shape, &qkv, &d_output);
    assert_close("output", &read_f32(&client, output), &expected.output, 2e-5);
    assert_close("gradient", &read_f32(&client, d_qkv), &expected.d_qkv, 2e-5);
}

#[test]
fn attention_repeats_to_the_bit() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(1));
    let shape = AttentionShape { batch: 1, tokens: 77, heads: 2, head_dim: 32, causal: true, kind: FloatKind::F32 };
    let qkv = upload(&client, &values(&mut rng, shape.qkv_len(), shape.kind));
    let d_output = upload(&client, &values(&mut rng, shape.output_len(), shape.kind));
    let run = || {
        let [output, lse, d_qkv, delta] =
            [shape.output_len(), shape.lse_len(), shape.qkv_len(), shape.lse_len()].map(|len| client.empty(len * 4));
        attention::forward(&client, &shape, &qkv, &output, &lse).unwrap();
        let sums = client.empty(shape.sums_len() * 4);
        let d_bias = upload(&client, &vec![0.0; 3 * shape.heads * shape.head_dim]);
        attention::backward(&client, &shape, &qkv, &output, &lse, &d_output, &d_qkv, &delta, &sums, &d_bias).unwrap();
        [output, d_qkv, d_bias].map(|handle| read_f32(&client, handle))
    };
    assert!(run() == run());
}

#[test]
fn attention_refuses_what_it_cannot_do_before_launching() {
    let client = client();
    let good = AttentionShape { batch: 2, tokens: 77, heads: 3, head_dim: 32, causal: false, kind: FloatKind::F32 };
    assert_eq!(attention::path(&client, &good), Ok(Path::Portable), "f32 has no matrix kernel");
    let nothing = client.empty(4);
    for (shape, words) in [
        (AttentionShape { head_dim: 60, ..good }, ["head_dim", "multiple of 8", "[2, 77, 3, 3, 60]"]),
        (AttentionShape { head_dim: 136, ..good }, ["head_dim", "up to 128", "[2, 77, 3, 3, 136]"]),
        (AttentionShape { tokens: 0, ..good }, ["elements", "1 to 2^32", "[2, 0, 3, 3, 32]"]),
        (AttentionShape { batch: 70_000, ..good }, ["batch", "65,535", "[70000, 77, 3, 3, 32]"]),
        (AttentionShape { batch: 60_000, tokens: 800, ..good }, ["elements", "2^32", "[60000, 800, 3, 3, 32]"]),
    ] {
        let forward = attention::forward(&client, &shape, &nothing, &nothing, &nothing).unwrap_err().to_string();
        let n = &nothing;
        let backward = attention::backward(&client, &shape, n, n, n, n, n, n, n, n).unwrap_err().to_string();
        for error in [forward, backward] {
            assert!(error.starts_with("attention: ") && words.iter().all(|word| error.contains(word)), "{error}");
        }
    }
}
