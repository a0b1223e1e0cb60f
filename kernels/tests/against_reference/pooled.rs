//! One query a sample: against the whole attention's reference, of which it is one row.

use crate::support::{assert_close, client, read_f32, upload, values};
use avion_kernels::FloatKind;
use avion_kernels::attention::pooled::{PooledShape, backward, forward};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// Output, `dq`, `dk` and `dv` of one sample's head in f64, for the query of token `end`.
fn reference(
    q: &[f64],
    k: &[Vec<f64>],
    v: &[Vec<f64>],
    gradient: &[f64],
    seen: usize,
) -> (Vec<f64>, Vec<f64>, [Vec<Vec<f64>>; 2]) {
    let d = q.len();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    let scale = 1.0 / (d as f64).sqrt();
    let scores: Vec<f64> = k[..seen].iter().map(|k| dot(q, k) * scale).collect();
    let max = scores.iter().copied().fold(f64::MIN, f64::max);
    let total: f64 = scores.iter().map(|s| (s - max).exp()).sum();
    let p: Vec<f64> = scores.iter().map(|s| (s - max).exp() / total).collect();
    let mut out = vec![0.0; d];
    for (p, v) in p.iter().zip(v) {
        out.iter_mut().zip(v).for_each(|(o, v)| *o += p * v);
    }
    let delta = dot(&out, gradient);
    let (mut dq, mut dk, mut dv) = (vec![0.0; d], vec![vec![0.0; d]; k.len()], vec![vec![0.0; d]; k.len()]);
    for j in 0..seen {
        let ds = p[j] * (dot(gradient, &v[j]) - delta) * scale;
        for c in 0..d {
            dq[c] += ds * k[j][c];
            dk[j][c] = ds * q[c];
            dv[j][c] = p[j] * gradient[c];
        }
    }
    (out, dq, [dk, dv])
}

#[test]
fn one_query_sees_what_its_row_of_the_whole_attention_sees() {
    let (client, mut rng) = (client(), ChaCha8Rng::seed_from_u64(3));
    for (batch, tokens, heads, head_dim, causal) in
        [(1, 1, 1, 4, false), (3, 77, 2, 32, true), (2, 197, 3, 64, false), (2, 65, 2, 80, true)]
    {
        let shape = PooledShape { batch, tokens, heads, head_dim, causal, kind: FloatKind::F32 };
        let width = heads * head_dim;
        let random = |rng: &mut ChaCha8Rng, len| values(rng, len).iter().map(|v| v * 0.3).collect::<Vec<f32>>();
        let (q, kv) = (random(&mut rng, batch * width), random(&mut rng, batch * tokens * 2 * width));
        let gradient = random(&mut rng, batch * width);
        let ends: Vec<u32> = (0..batch).map(|b| (b * tokens + (7 * b + 3) % tokens) as u32).collect();
        let [output, d_q] = [(); 2].map(|()| client.empty(batch * width * 4));
        let (d_kv, p) = (client.empty(kv.len() * 4), client.empty(shape.probabilities_len() * 4));
        let (q_, kv_, g_) = (upload(&client, &q), upload(&client, &kv), upload(&client, &gradient));
        let ends_ = client.create_from_slice(bytemuck::cast_slice(&ends));
        forward(&client, &shape, [&q_, &kv_, &ends_], &output, &p);
        backward(&client, &shape, [&q_, &kv_], [&output, &g_], &p, [&d_q, &d_kv]);

        let (mut out_, mut dq_, mut dkv_) = (vec![0.0; q.len()], vec![0.0; q.len()], vec![0.0; kv.len()]);
        for (b, end) in ends.iter().enumerate() {
            for h in 0..heads {
                let own = b * width + h * head_dim;
                let at = |t: usize, part: usize| ((b * tokens + t) * 2 + part) * width + h * head_dim;
                let row = |from: &[f32], i: usize| from[i..i + head_dim].iter().map(|v| *v as f64).collect::<Vec<_>>();
                let [k, v] = [0, 1].map(|part| (0..tokens).map(|t| row(&kv, at(t, part))).collect::<Vec<_>>());
                let seen = if causal { *end as usize - b * tokens + 1 } else { tokens };
                let (o, dq, parts) = reference(&row(&q, own), &k, &v, &row(&gradient, own), seen);
                out_[own..own + head_dim].copy_from_slice(&o);
                dq_[own..own + head_dim].copy_from_slice(&dq);
                for (part, rows) in parts.iter().enumerate() {
                    for (t, values) in rows.iter().enumerate() {
                        dkv_[at(t, part)..at(t, part) + head_dim].copy_from_slice(values);
                    }
                }
            }
        }
        let name = format!("{shape:?}");
        assert_close(&format!("{name} output"), &read_f32(&client, output), &out_, 2e-6);
        assert_close(&format!("{name} dq"), &read_f32(&client, d_q), &dq_, 5e-6);
        assert_close(&format!("{name} dk, dv"), &read_f32(&client, d_kv), &dkv_, 5e-6);
    }
}
