//! Self-checks of what only some devices have: cuBLASLt products and the fused attention kernels.

use super::DeviceError;
use super::self_check::{Check, allowed, compare, name, read, rounded, upload, values};
use avion_kernels::FloatKind;
use avion_kernels::attention::flash::{self, FlashShape, HEAD_DIM};
use avion_kernels::attention::reference;
use cubecl::prelude::*;

/// Tokens: one, a ragged tile, whole tiles and a ragged one.
const TOKENS: [(usize, bool); 4] = [(1, false), (77, true), (197, false), (200, true)];
const HEADS: usize = 2;

/// Fused attention forward and backward in `kind`; nothing where the device cannot run it.
pub(super) fn check_flash<R: Runtime>(client: &ComputeClient<R>, kind: FloatKind) -> Result<Vec<Check>, DeviceError> {
    let mut checks = Vec::new();
    for (tokens, causal) in TOKENS {
        let shape = FlashShape { heads: HEADS, tokens, causal, kind };
        if !flash::supported(client, &shape, HEAD_DIM) {
            return Ok(checks);
        }
        let len = HEADS * tokens * HEAD_DIM;
        let [q, k, v, gradient] = [1, 2, 3, 4].map(|seed| rounded(values(len, seed), kind));
        let [hq, hk, hv, hg] = [&q, &k, &v, &gradient].map(|x| upload(client, x, kind));
        let (output, lse) = flash::forward(client, &shape, [&hq, &hk, &hv]);
        let gradients = flash::backward(client, &shape, [&hq, &hk, &hv], &output, &lse, &hg);

        let mut expected: [Vec<f64>; 4] = Default::default();
        let wide = |x: &[f32]| x.iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
        for head in 0..HEADS {
            let part = head * tokens * HEAD_DIM..(head + 1) * tokens * HEAD_DIM;
            let [q, k, v, g] = [&q, &k, &v, &gradient].map(|x| wide(&x[part.clone()]));
            for (all, one) in expected.iter_mut().zip(reference(&q, &k, &v, &g, HEAD_DIM, causal)) {
                all.extend(one);
            }
        }
        let [dq, dk, dv] = gradients;
        let got = [("o", output), ("dq", dq), ("dk", dk), ("dv", dv)];
        for ((part, handle), expected) in got.into_iter().zip(&expected) {
            // With one token the probability is 1 whatever q and k are, and their gradients are pure rounding.
            if tokens == 1 && (part == "dq" || part == "dk") {
                continue;
            }
            let label = format!("flash {part} {tokens}{} {}", if causal { " causal" } else { "" }, name(kind));
            // Probabilities and their gradients are rounded to `kind` between the two products.
            checks.push(compare(label, &read(client, handle, kind)?, expected, 2.0 * allowed(kind))?);
        }
    }
    Ok(checks)
}

/// cuBLASLt in the layouts training uses; nothing where it cannot be used.
#[cfg(feature = "cuda")]
pub(super) fn check_cublaslt<R: Runtime>(
    client: &ComputeClient<R>,
    kind: FloatKind,
) -> Result<Vec<Check>, DeviceError> {
    use avion_kernels::gemm::cublaslt::{Declined, cublaslt};
    use avion_kernels::gemm::tiled::Matrix;
    use avion_kernels::gemm::{self, Operand, Problem};
    let mut checks = Vec::new();
    // Forward (weights [n, k]), weight gradient (accumulating), and a batch of heads.
    let cases = [
        ("forward", Problem::single(40, 24, 56), false, true, false),
        ("weight gradient", Problem::single(24, 56, 40), true, false, true),
        ("batch", Problem { outer: 3, inner: 2, ..Problem::single(40, 24, 56) }, false, true, false),
    ];
    for (case, problem, transpose_a, transpose_b, accumulate) in cases {
        let Problem { m, n, k, outer, inner } = problem;
        let batch = outer * inner;
        let operand = |rows: usize, columns: usize, transposed: bool| {
            let o = if transposed { Operand::matrix(rows).transposed() } else { Operand::matrix(columns) };
            Operand { outer: inner * rows * columns, inner: rows * columns, ..o }
        };
        let (a, b) = (rounded(values(batch * m * k, 1), kind), rounded(values(batch * k * n, 2), kind));
        let (lie_a, lie_b, lie_out) = (operand(m, k, transpose_a), operand(k, n, transpose_b), operand(m, n, false));
        let before = values(batch * m * n, 3);
        let out = upload(client, &before, FloatKind::F32);
        let matrix = |handle, len, operand| Matrix { handle, len, operand };
        let operands =
            (matrix(upload(client, &a, kind), a.len(), lie_a), matrix(upload(client, &b, kind), b.len(), lie_b), kind);
        let queued = cublaslt(
            client,
            problem,
            operands,
            (matrix(out.clone(), before.len(), lie_out), FloatKind::F32),
            accumulate,
        );
        match queued {
            Ok(()) => {}
            Err(Declined::NotApplicable) => return Ok(checks),
            Err(Declined::Unavailable(why)) => {
                tracing::warn!("cuBLASLt cannot be used ({why}); training takes CubeCL's slower products");
                return Ok(checks);
            }
        }
        let mut expected = vec![0.0; before.len()];
        gemm::reference(problem, 1.0, (&a, lie_a), (&b, lie_b), (&mut expected, lie_out));
        if accumulate {
            expected.iter_mut().zip(&before).for_each(|(e, b)| *e += f64::from(*b));
        }
        let label = format!("cublaslt {case} {}", name(kind));
        checks.push(compare(label, &read(client, out, FloatKind::F32)?, &expected, allowed(FloatKind::F32))?);
    }
    Ok(checks)
}
