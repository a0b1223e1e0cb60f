//! Every kernel at small odd sizes against its f64 reference, in every type: the variants with planes run only here.

use avion_kernels::activation::{self, Activation};
use avion_kernels::layer_norm::{self, Backward, NormShape};
use avion_kernels::patch_ingest::{self, PatchGrid, PixelNorm};
use avion_kernels::residual::{self, Finish};
use avion_kernels::{FloatKind, Handle, column_sum};
use cubecl::cuda::CudaRuntime;
use cubecl::prelude::ComputeClient;
use half::{bf16, f16};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const KINDS: [(FloatKind, f64); 3] = [(FloatKind::F32, 0.0), (FloatKind::F16, 5e-4), (FloatKind::Bf16, 4e-3)];
const EPS: f32 = 1e-5;

/// The device, and the number of comparisons that failed.
pub struct Check {
    pub client: ComputeClient<CudaRuntime>,
    rng: ChaCha8Rng,
    done: usize,
    pub failed: usize,
}

impl Check {
    pub fn new(client: ComputeClient<CudaRuntime>) -> Self {
        Self { client, rng: ChaCha8Rng::seed_from_u64(1), done: 0, failed: 0 }
    }

    fn values(&mut self, kind: FloatKind, len: usize) -> Vec<f64> {
        (0..len).map(|_| round(kind, self.rng.random_range(-2.0..2.5f32))).collect()
    }

    fn upload(&self, kind: FloatKind, data: &[f64]) -> Handle {
        let bytes: Vec<u8> = match kind {
            FloatKind::F32 => data.iter().flat_map(|v| (*v as f32).to_le_bytes()).collect(),
            FloatKind::F16 => data.iter().flat_map(|v| f16::from_f64(*v).to_le_bytes()).collect(),
            FloatKind::Bf16 => data.iter().flat_map(|v| bf16::from_f64(*v).to_le_bytes()).collect(),
        };
        self.client.create_from_slice(&bytes)
    }

    fn read(&self, kind: FloatKind, handle: &Handle) -> Vec<f64> {
        let bytes = self.client.read_one(handle.clone()).expect("the device answers");
        let half = |b: &[u8]| [b[0], b[1]];
        match kind {
            FloatKind::F32 => {
                bytes.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect()
            }
            FloatKind::F16 => bytes.chunks_exact(2).map(|b| f16::from_le_bytes(half(b)).to_f64()).collect(),
            FloatKind::Bf16 => bytes.chunks_exact(2).map(|b| bf16::from_le_bytes(half(b)).to_f64()).collect(),
        }
    }

    fn compare(&mut self, name: &str, kind: FloatKind, handle: &Handle, expected: &[f64], tolerance: f64) {
        let got = self.read(kind, handle);
        let scale = expected.iter().fold(1e-30, |m: f64, v| m.max(v.abs()));
        let errors = got.iter().zip(expected).map(|(g, e)| (g - e).abs() / scale);
        let worst = errors.fold(0.0, |m: f64, e| if e.is_nan() { f64::INFINITY } else { m.max(e) });
        self.done += 1;
        if got.len() < expected.len() || worst > tolerance {
            self.failed += 1;
            println!("FAILED {name}: error {worst:.2e} of the largest, allowed {tolerance:.1e}");
        }
    }

    pub fn all(&mut self) {
        for (kind, rounding) in KINDS {
            // Each size of a norm is a kernel of its own to compile: all of them for one type, a few for the others.
            let all = kind == FloatKind::Bf16;
            let sizes = [(2355, 768), (5, 770), (1, 8), (785, 96), (300, 1024), (3, 101)];
            for (rows, width) in &sizes[..if all { 6 } else { 2 }] {
                self.layer_norm(kind, rounding, *rows, *width, all);
                self.activation(kind, rounding, *rows, *width);
                self.residual(kind, rounding, *rows, *width);
            }
            for (images, image_px, patch_px) in &[(4, 224, 16), (2, 224, 14), (2, 33, 11)][..if all { 3 } else { 1 }] {
                self.patches(kind, rounding, PatchGrid::patches_of(*images, *image_px, *patch_px));
            }
        }
        println!("{} comparisons, {} failed", self.done, self.failed);
    }

    fn layer_norm(&mut self, kind: FloatKind, rounding: f64, rows: usize, width: usize, all_parts: bool) {
        let name = |what: &str| format!("layer_norm {what} [{rows}, {width}] {kind:?}");
        let [x, dy, gradient] = [(); 3].map(|()| self.values(kind, rows * width));
        let [gain, bias] = [(); 2].map(|()| self.values(FloatKind::F32, width));
        let (y, stats) = layer_norm::reference::forward(&x, &gain, &bias, EPS.into());
        let [dx, d_gain, d_bias] = layer_norm::reference::backward(&x, &gain, &dy, EPS.into());
        let shape = NormShape { rows, width, kind, eps: EPS };
        let x_device = self.upload(kind, &x);
        let [gain_device, bias_device] = [&gain, &bias].map(|data| self.upload(FloatKind::F32, data));
        let (y_device, stats_device) = (self.client.empty(rows * width * kind.size()), self.client.empty(rows * 8));
        layer_norm::forward(&self.client, &shape, &x_device, &gain_device, &bias_device, &y_device, &stats_device);
        self.compare(&name("y"), kind, &y_device, &y, 1e-5 + rounding);
        self.compare(&name("stats"), FloatKind::F32, &stats_device, &stats, 1e-5);
        let parts = [(false, true, true), (true, false, false)];
        for (fresh, write_normed, with_sum) in parts.into_iter().take(if all_parts { 2 } else { 1 }) {
            let sums: [Handle; 3] = std::array::from_fn(|_| self.upload(FloatKind::F32, &vec![1.0; width]));
            let (dy_device, gradient_device) = (self.upload(kind, &dy), self.upload(kind, &gradient));
            let args = Backward {
                x: &x_device,
                stats: &stats_device,
                gain: &gain_device,
                bias: &bias_device,
                dy: &dy_device,
                gradient: &gradient_device,
                residue: None,
                fresh,
                write_normed,
                d_gain: &sums[0],
                d_bias: &sums[1],
                d_sum: with_sum.then_some(&sums[2]),
            };
            layer_norm::backward(&self.client, &shape, args);
            let total: Vec<f64> = dx.iter().zip(&gradient).map(|(d, g)| if fresh { *d } else { d + g }).collect();
            self.compare(&name("gradient"), kind, &gradient_device, &total, 1e-5 + rounding);
            self.compare(&name("normed"), kind, &dy_device, if write_normed { &y } else { &dy }, 1e-5 + rounding);
            let plus_one = |data: &[f64]| data.iter().map(|v| v + 1.0).collect::<Vec<_>>();
            let d_sum = if with_sum { columns(&total, width) } else { vec![0.0; width] };
            for ((what, expected), device) in
                [("d_gain", &d_gain), ("d_bias", &d_bias), ("d_sum", &d_sum)].iter().zip(&sums)
            {
                self.compare(&name(what), FloatKind::F32, device, &plus_one(expected), 2e-5);
            }
        }
    }

    fn activation(&mut self, kind: FloatKind, rounding: f64, rows: usize, width: usize) {
        for activation in [Activation::Gelu, Activation::QuickGelu] {
            let name = |what: &str| format!("{activation:?} {what} [{rows}, {width}] {kind:?}");
            let x: Vec<f64> = self.values(kind, rows * width).iter().map(|v| v * 2.0).collect();
            let dy = self.values(kind, rows * width);
            let parts: Vec<_> = x.iter().map(|x| activation::reference(activation, *x)).collect();
            let value: Vec<f64> = parts.iter().map(|p| p.0).collect();
            let gradient: Vec<f64> = parts.iter().zip(&dy).map(|(p, d)| p.1 * d).collect();
            let (h, g) = (self.upload(kind, &x), self.upload(kind, &dy));
            let y = self.client.empty(rows * width * kind.size());
            activation::forward(&self.client, kind, activation, &h, &y, rows * width);
            self.compare(&name("forward"), kind, &y, &value, 2e-6 + rounding);
            let d_bias = self.upload(FloatKind::F32, &vec![0.0; width]);
            activation::backward(&self.client, kind, activation, rows, width, &h, &g, Some(&d_bias), true);
            self.compare(&name("again"), kind, &h, &value, 2e-6 + rounding);
            self.compare(&name("gradient"), kind, &g, &gradient, 2e-6 + rounding);
            self.compare(&name("d_bias"), FloatKind::F32, &d_bias, &columns(&gradient, width), 2e-5);
        }
    }

    fn residual(&mut self, kind: FloatKind, rounding: f64, rows: usize, width: usize) {
        let name = |what: &str| format!("{what} [{rows}, {width}] {kind:?}");
        let [y, stream] = [(); 2].map(|()| self.values(kind, rows * width));
        let (bias, factor) = (self.values(FloatKind::F32, width), self.values(FloatKind::F32, rows));
        let (device, stream_device) = (self.upload(kind, &y), self.upload(kind, &stream));
        let [bias_device, factor_device] = [&bias, &factor].map(|data| self.upload(FloatKind::F32, data));
        let args = Finish {
            y: &device,
            bias: Some(&bias_device),
            factor: Some((&factor_device, 1)),
            residual: Some(&stream_device),
            rows,
            columns: width,
        };
        residual::finish(&self.client, kind, args);
        let expected = residual::reference(&y, width, Some(&bias), Some((&factor, 1)), Some(&stream));
        self.compare(&name("finish"), kind, &device, &expected, 1e-6 + rounding);
        residual::scale_rows(&self.client, kind, &stream_device, &device, &factor_device, 1, rows, width);
        let expected = residual::reference(&stream, width, None, Some((&factor, 1)), None);
        self.compare(&name("scale_rows"), kind, &device, &expected, 1e-6 + rounding);
        let sum = self.upload(FloatKind::F32, &bias);
        column_sum::column_sum(&self.client, stream_device, kind, rows, width, sum.clone());
        let expected: Vec<f64> = columns(&stream, width).iter().zip(&bias).map(|(s, b)| s + b).collect();
        self.compare(&name("column_sum"), FloatKind::F32, &sum, &expected, 2e-5);
    }

    fn patches(&mut self, kind: FloatKind, rounding: f64, patches: PatchGrid) {
        let norm = PixelNorm { mean: [108.3, 116.7, 104.1], std: [68.5, 66.6, 70.3] };
        let grid = PatchGrid { frames_per_clip: 2, class_row: true, ..patches };
        let mut bytes: Vec<u8> =
            (0..grid.images * grid.image_px * grid.image_px * 3).map(|_| self.rng.random()).collect();
        let expected = patch_ingest::reference(&bytes, grid, norm);
        bytes.resize(grid.padded_bytes(), 0xAA);
        let (frames, out) = (self.client.create_from_slice(&bytes), self.client.empty(expected.len() * kind.size()));
        patch_ingest::patch_ingest(&self.client, frames, grid, norm, out.clone(), kind).expect("a good grid");
        self.compare(&format!("patches {grid:?} {kind:?}"), kind, &out, &expected, 1e-6 + rounding);
    }
}

fn round(kind: FloatKind, value: f32) -> f64 {
    match kind {
        FloatKind::F32 => f64::from(value),
        FloatKind::F16 => f16::from_f32(value).to_f64(),
        FloatKind::Bf16 => bf16::from_f32(value).to_f64(),
    }
}

fn columns(data: &[f64], width: usize) -> Vec<f64> {
    let mut sums = vec![0.0; width];
    data.iter().enumerate().for_each(|(i, v)| sums[i % width] += v);
    sums
}
