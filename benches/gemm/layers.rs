//! The products of a transformer block, and what a call costs the host.

use crate::{Client, noise, sync, time};
use avion_kernels::FloatKind::{self, Bf16, F32};
use avion_kernels::gemm::cublaslt::{Epilogue, cublaslt};
use avion_kernels::gemm::{Operand, Problem, tiled::Matrix};
use cubecl::server::Handle;
use std::time::Instant;

/// A dense layer `[rows, inputs] -> [rows, outputs]`, as `peer.py` has them too.
const LAYERS: [(usize, usize, usize); 8] = [
    (200_960, 768, 2304),
    (200_960, 768, 768),
    (200_960, 768, 3072),
    (200_960, 3072, 768),
    (114_800, 1024, 3072),
    (114_800, 1024, 1024),
    (114_800, 1024, 4096),
    (114_800, 4096, 1024),
];

struct Product {
    problem: Problem,
    a: (Handle, Operand),
    b: (Handle, Operand),
    out: (Handle, FloatKind),
    epilogue: Epilogue,
}

impl Product {
    fn queue(&self, client: &Client) {
        let Problem { m, n, k, .. } = self.problem;
        let matrix = |x: &(Handle, Operand), len| Matrix { handle: x.0.clone(), len, operand: x.1 };
        let out = (Matrix { handle: self.out.0.clone(), len: m * n, operand: Operand::matrix(n) }, self.out.1);
        let operands = (matrix(&self.a, m * k), matrix(&self.b, k * n), Bf16);
        cublaslt(client, self.problem, operands, out, &self.epilogue).expect("cuBLASLt takes dense layers");
    }
}

pub fn all(client: &Client) {
    let mut totals = [0.0; 2];
    for (i, (rows, inputs, outputs)) in LAYERS.into_iter().enumerate() {
        let x = noise(client, rows * inputs, Bf16, 1);
        let w = noise(client, outputs * inputs, Bf16, 2);
        let dy = noise(client, rows * outputs, Bf16, 3);
        let y = noise(client, rows * outputs, Bf16, 4);
        let dx = noise(client, rows * inputs, Bf16, 5);
        let dw = noise(client, outputs * inputs, F32, 6);
        let bias = noise(client, outputs, Bf16, 7);
        let forward = |epilogue| Product {
            problem: Problem::single(rows, outputs, inputs),
            a: (x.clone(), Operand::matrix(inputs)),
            b: (w.clone(), Operand::matrix(inputs).transposed()),
            out: (y.clone(), Bf16),
            epilogue,
        };
        let input_gradient = Product {
            problem: Problem::single(rows, inputs, outputs),
            a: (dy.clone(), Operand::matrix(outputs)),
            b: (w.clone(), Operand::matrix(inputs)),
            out: (dx, Bf16),
            epilogue: Epilogue::default(),
        };
        let weight_gradient = Product {
            problem: Problem::single(outputs, inputs, rows),
            a: (dy.clone(), Operand::matrix(outputs).transposed()),
            b: (x.clone(), Operand::matrix(inputs)),
            out: (dw, F32),
            epilogue: Epilogue::accumulate(),
        };
        let mut products = vec![("forward, bias", forward(Epilogue::bias(bias.clone())))];
        if inputs >= outputs {
            // Where a block adds to its residual stream. `dy` stands in for the stream.
            products.push(("forward, bias, residual", forward(Epilogue::bias(bias).residual(dy.clone()))));
        }
        products.push(("input gradient", input_gradient));
        products.push(("weight gradient", weight_gradient));
        for (name, product) in products {
            product.queue(client);
            let seconds = time(client, 0.1, || product.queue(client));
            let rate = 2.0 * (rows * inputs * outputs) as f64 / seconds / 1e12;
            println!("{rows:7} {inputs:4} -> {outputs:4} {name:24} {:7.3} ms {rate:6.1} TFLOP/s", seconds * 1e3);
            if !name.contains("residual") {
                totals[i / 4] += seconds;
            }
        }
        drop((x, w, y));
        sync(client);
        client.memory_cleanup();
    }
    println!(
        "all of ViT-B/16 {:.3} ms, ViT-L/14 {:.3} ms (without the residual forms)",
        totals[0] * 1e3,
        totals[1] * 1e3
    );
}

/// A product so small that the host is what takes time.
pub fn host(client: &Client) {
    let (rows, inputs, outputs) = (64, 64, 64);
    let product = Product {
        problem: Problem::single(rows, outputs, inputs),
        a: (noise(client, rows * inputs, Bf16, 1), Operand::matrix(inputs)),
        b: (noise(client, outputs * inputs, Bf16, 2), Operand::matrix(inputs).transposed()),
        out: (noise(client, rows * outputs, Bf16, 3), Bf16),
        epilogue: Epilogue::bias(noise(client, outputs, Bf16, 4)).residual(noise(client, rows * outputs, Bf16, 5)),
    };
    let whole = time(client, 0.05, || product.queue(client));
    // Few enough that the queue to the device thread takes them without waiting.
    let mut caller: Vec<f64> = (0..50)
        .map(|_| {
            sync(client);
            let start = Instant::now();
            (0..20).for_each(|_| product.queue(client));
            start.elapsed().as_secs_f64() / 20.0
        })
        .collect();
    caller.sort_by(f64::total_cmp);
    println!("  a call costs its caller {:.2} us, the device thread {:.2} us", caller[25] * 1e6, whole * 1e6);
}
