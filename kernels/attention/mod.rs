//! Softmax attention over heads that lie one after another, `[heads, tokens, head_dim]`.

pub mod flash;

/// Attention of one head in f64: output and, for the output's `gradient`, those of q, k and v.
///
/// # Shapes
/// - all `[tokens, head_dim]`; returns `[output, dq, dk, dv]`
pub fn reference(q: &[f64], k: &[f64], v: &[f64], gradient: &[f64], head_dim: usize, causal: bool) -> [Vec<f64>; 4] {
    let (d, scale) = (head_dim, 1.0 / (head_dim as f64).sqrt());
    let tokens = q.len() / d;
    let dot = |a: &[f64], i: usize, b: &[f64], j: usize| -> f64 {
        a[i * d..(i + 1) * d].iter().zip(&b[j * d..(j + 1) * d]).map(|(x, y)| x * y).sum()
    };
    let [mut o, mut dq, mut dk, mut dv] = [(); 4].map(|()| vec![0.0; tokens * d]);
    for i in 0..tokens {
        let seen = if causal { i + 1 } else { tokens };
        let scores: Vec<f64> = (0..seen).map(|j| dot(q, i, k, j) * scale).collect();
        let max = scores.iter().copied().fold(f64::MIN, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
        let sum: f64 = weights.iter().sum();
        for (j, weight) in weights.iter().enumerate() {
            for c in 0..d {
                o[i * d + c] += weight / sum * v[j * d + c];
            }
        }
        let delta = dot(&o, i, gradient, i);
        for (j, weight) in weights.iter().enumerate() {
            let p = weight / sum;
            let ds = p * (dot(gradient, i, v, j) - delta) * scale;
            for c in 0..d {
                dv[j * d + c] += p * gradient[i * d + c];
                dq[i * d + c] += ds * k[j * d + c];
                dk[j * d + c] += ds * q[i * d + c];
            }
        }
    }
    [o, dq, dk, dv]
}
