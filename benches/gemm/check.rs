//! Every epilogue and layout on small shapes against f64, and ordering with CubeCL's kernels.

use crate::{Client, noise, sync};
use avion_kernels::cuda::take_failure;
use avion_kernels::gemm::cublaslt::{Declined, Epilogue, cublaslt};
use avion_kernels::gemm::{Operand, Problem, reference, tiled::Matrix};
use avion_kernels::{FloatKind, flat};
use cubecl::server::Handle;
use half::{bf16, f16};

pub fn all(client: &Client) {
    for kind in [FloatKind::F32, FloatKind::F16, FloatKind::Bf16] {
        for out_kind in [kind, FloatKind::F32] {
            for (m, n, k) in [(8, 16, 24), (197, 768, 96), (785, 96, 256), (77, 512, 512)] {
                for (a_transposed, b_transposed) in [(false, true), (false, false), (true, false)] {
                    let case = Case { m, n, k, kind, out_kind, a_transposed, b_transposed };
                    for epilogue in ["plain", "bias", "residual", "bias+residual", "in place", "accumulate"] {
                        case.run(client, epilogue);
                    }
                }
            }
        }
    }
    searched(client);
    batched(client);
    ordering(client);
    declined(client);
}

#[derive(Debug)]
struct Case {
    m: usize,
    n: usize,
    k: usize,
    kind: FloatKind,
    out_kind: FloatKind,
    a_transposed: bool,
    b_transposed: bool,
}

impl Case {
    fn run(&self, client: &Client, epilogue: &str) {
        let &Case { m, n, k, kind, out_kind, .. } = self;
        let lie = |rows, columns, transposed| match transposed {
            true => Operand::matrix(rows).transposed(),
            false => Operand::matrix(columns),
        };
        let (a_lie, b_lie) = (lie(m, k, self.a_transposed), lie(k, n, self.b_transposed));
        let (a, b) = (noise(client, m * k, kind, 1), noise(client, k * n, kind, 2));
        let (bias, residual) = (noise(client, n, kind, 3), noise(client, m * n, out_kind, 4));
        let in_place = matches!(epilogue, "in place" | "accumulate");
        let out = if in_place { residual.clone() } else { noise(client, m * n, out_kind, 5) };

        let mut expected = vec![0.0; m * n];
        let (av, bv) = (read(client, &a, kind), read(client, &b, kind));
        reference(Problem::single(m, n, k), 1.0, (&av, a_lie), (&bv, b_lie), (&mut expected, Operand::matrix(n)));
        if epilogue.contains("bias") {
            let bias = read(client, &bias, kind);
            expected.iter_mut().enumerate().for_each(|(i, e)| *e += bias[i % n] as f64);
        }
        if in_place || epilogue.contains("residual") {
            let residual = read(client, &residual, out_kind);
            expected.iter_mut().zip(&residual).for_each(|(e, r)| *e += *r as f64);
        }

        let plan = match epilogue {
            "plain" => Epilogue::default(),
            "bias" => Epilogue::bias(bias),
            "residual" => Epilogue::default().residual(residual),
            "in place" => Epilogue::default().residual(out.clone()),
            "bias+residual" => Epilogue::bias(bias).residual(residual),
            _ => Epilogue::accumulate(),
        };
        let matrix = |handle, len, operand| Matrix { handle, len, operand };
        let operands = (matrix(a, m * k, a_lie), matrix(b, k * n, b_lie), kind);
        let result = (matrix(out.clone(), m * n, Operand::matrix(n)), out_kind);
        match cublaslt(client, Problem::single(m, n, k), operands, result, &plan) {
            Ok(()) => {}
            // A 16-bit bias on an f32 result is the library's to refuse.
            Err(Declined::Unavailable(why)) if epilogue.contains("bias") && kind != out_kind => {
                if m == 8 && !self.a_transposed && self.b_transposed {
                    println!("  declined: {kind:?} bias into {out_kind:?}: {why}");
                }
                return;
            }
            Err(declined) => panic!("{self:?} {epilogue}: {declined:?}"),
        }
        let tolerance = match out_kind {
            FloatKind::F32 => 1e-5,
            FloatKind::F16 => 1e-3,
            FloatKind::Bf16 => 6e-3,
        };
        compare(&format!("{self:?} {epilogue}"), &read(client, &out, out_kind), &expected, tolerance);
    }
}

/// Products large enough for a search, which must not touch what they add to. A few rows are compared.
fn searched(client: &Client) {
    let (m, n, k) = (4096, 3072, 2048);
    let (a, b) = (noise(client, m * k, FloatKind::Bf16, 20), noise(client, k * n, FloatKind::Bf16, 21));
    let (av, bv) = (read(client, &a, FloatKind::Bf16), read(client, &b, FloatKind::Bf16));
    for name in ["plain", "accumulate", "in place"] {
        let out = noise(client, m * n, FloatKind::F32, 22);
        let before = read(client, &out, FloatKind::F32);
        let epilogue = match name {
            "plain" => Epilogue::default(),
            "accumulate" => Epilogue::accumulate(),
            _ => Epilogue::default().residual(out.clone()),
        };
        let matrix =
            |handle: &Handle, len, columns| Matrix { handle: handle.clone(), len, operand: Operand::matrix(columns) };
        let operands = (matrix(&a, m * k, k), matrix(&b, k * n, n), FloatKind::Bf16);
        let result = (matrix(&out, m * n, n), FloatKind::F32);
        cublaslt(client, Problem::single(m, n, k), operands, result, &epilogue).expect("it was taken");
        let got = read(client, &out, FloatKind::F32);
        for row in [0, 1, 1500, m - 1] {
            let mut expected = vec![0.0; n];
            let lies = (Operand::matrix(k), Operand::matrix(n));
            let a_row = &av[row * k..(row + 1) * k];
            reference(Problem::single(1, n, k), 1.0, (a_row, lies.0), (&bv, lies.1), (&mut expected, lies.1));
            if name != "plain" {
                expected.iter_mut().zip(&before[row * n..]).for_each(|(e, x)| *e += f64::from(*x));
            }
            compare(&format!("searched {name} row {row}"), &got[row * n..(row + 1) * n], &expected, 1e-5);
        }
    }
}

/// Heads as a batch: scores `[batch * heads, t, t]` of packed queries and keys.
fn batched(client: &Client) {
    let (batch, t, d, kind) = (6, 40, 64, FloatKind::Bf16);
    let problem = Problem { outer: batch, inner: 1, ..Problem::single(t, t, d) };
    let lie = Operand { outer: t * d, ..Operand::matrix(d) };
    let out_lie = Operand { outer: t * t, ..Operand::matrix(t) };
    let (q, key) = (noise(client, batch * t * d, kind, 6), noise(client, batch * t * d, kind, 7));
    let out = noise(client, batch * t * t, FloatKind::F32, 8);
    let mut expected = vec![0.0; batch * t * t];
    let (qv, kv) = (read(client, &q, kind), read(client, &key, kind));
    let key_lie = lie.transposed();
    reference(problem, 1.0, (&qv, lie), (&kv, key_lie), (&mut expected, out_lie));
    let matrix = |handle, len, operand| Matrix { handle, len, operand };
    let operands = (matrix(q, batch * t * d, lie), matrix(key, batch * t * d, key_lie), kind);
    let result = (matrix(out.clone(), batch * t * t, out_lie), FloatKind::F32);
    cublaslt(client, problem, operands, result, &Epilogue::default()).expect("a plain batch");
    compare("batched", &read(client, &out, FloatKind::F32), &expected, 1e-5);
}

/// A product between two kernels of CubeCL's, over and over: any of the three out of order changes the sum.
fn ordering(client: &Client) {
    let (m, n, k, rounds) = (512, 256, 4096, 200);
    let (a, b) = (noise(client, m * k, FloatKind::Bf16, 9), noise(client, k * n, FloatKind::Bf16, 10));
    let out = noise(client, m * n, FloatKind::F32, 11);
    let total = noise(client, m * n, FloatKind::F32, 12);
    flat::clear(client, &total, m * n);
    let matrix =
        |handle: &Handle, len, columns| Matrix { handle: handle.clone(), len, operand: Operand::matrix(columns) };
    for _ in 0..rounds {
        flat::clear(client, &out, m * n);
        let operands = (matrix(&a, m * k, k), matrix(&b, k * n, n), FloatKind::Bf16);
        let result = (matrix(&out, m * n, n), FloatKind::F32);
        cublaslt(client, Problem::single(m, n, k), operands, result, &Epilogue::accumulate()).expect("it was taken");
        flat::accumulate(client, &out, FloatKind::F32, &total, m * n);
    }
    let (once, total) = (read(client, &out, FloatKind::F32), read(client, &total, FloatKind::F32));
    let expected: Vec<f64> = once.iter().map(|x| f64::from(*x) * f64::from(rounds)).collect();
    compare("ordering", &total, &expected, 1e-5);
    println!("  {rounds} rounds of clear, product, accumulate stayed in order");
}

fn declined(client: &Client) {
    let out = noise(client, 64, FloatKind::F32, 13);
    let matrix = |len| Matrix { handle: out.clone(), len, operand: Operand::matrix(8) };
    let product = |len, epilogue: &Epilogue| {
        let operands = (matrix(len), matrix(64), FloatKind::F32);
        cublaslt(client, Problem::single(8, 8, 8), operands, (matrix(64), FloatKind::F32), epilogue)
    };
    let short = Epilogue::bias(out.clone().offset_end(60 * 4));
    assert_eq!(product(63, &Epilogue::default()), Err(Declined::NotApplicable));
    assert_eq!(product(64, &short), Err(Declined::NotApplicable));
    assert_eq!(
        product(64, &Epilogue { accumulate: true, ..Epilogue::default().residual(out.clone()) }),
        Err(Declined::NotApplicable)
    );
    // Four bytes past a boundary: declined while the key is new, then a failure that the next call tells.
    let bias = noise(client, 9, FloatKind::F32, 14);
    let shifted = Epilogue::bias(bias.clone().offset_start(4));
    assert!(matches!(product(64, &shifted), Err(Declined::Unavailable(_))));
    assert_eq!(product(64, &Epilogue::bias(bias)), Ok(()));
    assert_eq!(product(64, &shifted), Ok(()));
    sync(client);
    assert!(matches!(product(64, &Epilogue::default()), Err(Declined::Failed(_))));
    println!("  a failure on purpose: {}", take_failure(client).expect("it was kept"));
    assert_eq!((take_failure(client), product(64, &Epilogue::default())), (None, Ok(())));
}

fn read(client: &Client, handle: &Handle, kind: FloatKind) -> Vec<f32> {
    let bytes = client.read_one(handle.clone()).expect("the device runs");
    match kind {
        FloatKind::F32 => bytemuck::pod_collect_to_vec(&bytes),
        FloatKind::F16 => bytes.chunks_exact(2).map(|pair| f16::from_le_bytes([pair[0], pair[1]]).to_f32()).collect(),
        FloatKind::Bf16 => bytes.chunks_exact(2).map(|pair| bf16::from_le_bytes([pair[0], pair[1]]).to_f32()).collect(),
    }
}

fn compare(name: &str, got: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{name}");
    let scale = expected.iter().fold(0.0f64, |most, x| most.max(x.abs()));
    let worst = got
        .iter()
        .zip(expected)
        .map(|(g, e)| (f64::from(*g) - e).abs())
        .fold(0.0, |most: f64, error| if error.is_nan() { f64::INFINITY } else { most.max(error) });
    assert!(scale > 0.0 && worst <= tolerance * scale, "{name}: error {worst:.3e} of {scale:.3e}");
}
