//! What is timed, and against what.

use crate::check::Check;
use avion_kernels::activation::{self, Activation};
use avion_kernels::layer_norm::{self, Backward, NormShape};
use avion_kernels::patch_ingest::{self, PatchGrid, PixelNorm};
use avion_kernels::residual::{self, Finish};
use avion_kernels::{FloatKind, Handle, column_sum};
use cubecl::cuda::{CudaDevice, CudaRuntime};
use cubecl::prelude::*;
use half::bf16;
use std::time::Instant;

const CLIPS: usize = 256;
const TOKENS: usize = 785;
const ROWS: usize = CLIPS * TOKENS;
const KIND: FloatKind = FloatKind::Bf16;
const REPEATS: usize = 40;

type N8 = Const<8>;

#[cube(launch_unchecked)]
fn copy_kernel(src: &Array<Vector<bf16, N8>>, dst: &mut Array<Vector<bf16, N8>>, len: u32) {
    let first = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * 1024 + UNIT_POS;
    #[unroll]
    for i in 0..4u32 {
        if first + i * 256 < len {
            dst[(first + i * 256) as usize] = src[(first + i * 256) as usize];
        }
    }
}

#[cube(launch_unchecked)]
fn fill_kernel(dst: &mut Array<bf16>, len: u32) {
    let i = ABSOLUTE_POS as u32;
    if i < len {
        let hash = (i % 65_521) * 40_503 % 65_536;
        dst[i as usize] = bf16::cast_from(f32::cast_from(hash) / 16_384.0 - 2.0);
    }
}

struct Timer {
    client: ComputeClient<CudaRuntime>,
    copy: f64,
}

impl Timer {
    fn sync(&self) {
        cubecl::future::block_on(self.client.sync()).expect("no kernel failed");
    }

    fn filled(&self, len: usize) -> Handle {
        let handle = self.client.empty(len * 2);
        let cubes = (len as u32).div_ceil(256);
        let count = CubeCount::Static(cubes.min(32_768), cubes.div_ceil(32_768), 1);
        unsafe {
            // SAFETY: the array has `len` elements and the kernel checks its position.
            let array = ArrayArg::from_raw_parts(handle.clone(), len);
            fill_kernel::launch_unchecked::<CudaRuntime>(&self.client, count, CubeDim::new_1d(256), array, len as u32);
        }
        handle
    }

    fn ones(&self, len: usize) -> Handle {
        self.client.create_from_slice(&1.0f32.to_le_bytes().repeat(len))
    }

    /// Prints and returns bytes per second.
    fn time(&self, name: &str, bytes: usize, launch: impl Fn()) -> f64 {
        for _ in 0..3 {
            launch();
        }
        self.sync();
        let start = Instant::now();
        for _ in 0..REPEATS {
            launch();
        }
        self.sync();
        let seconds = start.elapsed().as_secs_f64() / REPEATS as f64;
        let rate = bytes as f64 / seconds;
        let share = if self.copy > 0.0 { rate / self.copy } else { 1.0 };
        println!("{name:<34} {:>8.1} us {:>7.0} GB/s {:>5.1}% of copy", seconds * 1e6, rate / 1e9, share * 100.0);
        rate
    }

    fn time_copy(&self, columns: usize) -> f64 {
        let len = ROWS * columns;
        let (src, dst) = (self.filled(len), self.client.empty(len * 2));
        let cubes = (len as u32 / 8).div_ceil(1024);
        let count = CubeCount::Static(cubes.min(32_768), cubes.div_ceil(32_768), 1);
        self.time(&format!("copy [{ROWS}, {columns}]"), 4 * len, || unsafe {
            // SAFETY: both arrays have `len` elements and the kernel checks its position.
            copy_kernel::launch_unchecked::<CudaRuntime>(
                &self.client,
                count.clone(),
                CubeDim::new_1d(256),
                ArrayArg::from_raw_parts(src.clone(), len),
                ArrayArg::from_raw_parts(dst.clone(), len),
                len as u32 / 8,
            )
        })
    }
}

pub fn run() {
    let client = CudaRuntime::client(&CudaDevice::default());
    let mut check = Check::new(client.clone());
    check.all();
    let mut timer = Timer { client, copy: 0.0 };
    timer.copy = timer.time_copy(768).max(timer.time_copy(3072));
    for width in [768, 1024] {
        time_layer_norm(&timer, width);
    }
    for columns in [768, 2304, 3072] {
        time_rows(&timer, columns);
    }
    time_activations(&timer);
    time_patches(&timer);
    std::process::exit(i32::from(check.failed > 0));
}

fn time_layer_norm(timer: &Timer, width: usize) {
    let client = &timer.client;
    let len = ROWS * width;
    let [x, dy, gradient, residue] = [(); 4].map(|()| timer.filled(len));
    let [gain, bias, d_gain, d_bias, d_sum] = [(); 5].map(|()| timer.ones(width));
    let stats = client.empty(ROWS * 8);
    let shape = NormShape { rows: ROWS, width, kind: KIND, eps: 1e-5 };
    timer.time(&format!("layer_norm forward {width}"), 4 * len, || {
        layer_norm::forward(client, &shape, &x, &gain, &bias, &dy, &stats)
    });
    let cases = [
        ("with sum", false, Some(&d_sum), None, 5),
        ("with sum and residue", false, Some(&d_sum), Some(&residue), 7),
        ("no sum", false, None, None, 5),
        ("fresh, no sum", true, None, None, 4),
    ];
    for (name, fresh, d_sum, residue, streams) in cases {
        timer.time(&format!("layer_norm backward {width} {name}"), streams * 2 * len, || {
            let args = Backward {
                x: &x,
                stats: &stats,
                gain: &gain,
                bias: &bias,
                dy: &dy,
                gradient: &gradient,
                residue,
                fresh,
                write_normed: true,
                d_gain: &d_gain,
                d_bias: &d_bias,
                d_sum,
            };
            layer_norm::backward(client, &shape, args)
        });
    }
}

fn time_rows(timer: &Timer, columns: usize) {
    let client = &timer.client;
    let len = ROWS * columns;
    let [y, stream] = [(); 2].map(|()| timer.filled(len));
    let (bias, factor) = (timer.ones(columns), timer.ones(CLIPS));
    let args = Finish {
        y: &y,
        bias: Some(&bias),
        factor: Some((&factor, TOKENS)),
        residual: Some(&stream),
        rows: ROWS,
        columns,
    };
    timer.time(&format!("finish {columns}"), 6 * len, || residual::finish(client, KIND, args));
    let args = Finish { factor: None, residual: None, ..args };
    timer.time(&format!("finish, bias only {columns}"), 4 * len, || residual::finish(client, KIND, args));
    timer.time(&format!("scale_rows {columns}"), 4 * len, || {
        residual::scale_rows(client, KIND, &stream, &y, &factor, TOKENS, ROWS, columns)
    });
    timer.time(&format!("column_sum {columns}"), 2 * len, || {
        column_sum::column_sum(client, y.clone(), KIND, ROWS, columns, bias.clone())
    });
    if columns == 768 {
        let table = timer.ones(TOKENS * columns);
        timer.time("add_table 768", 4 * len, || {
            residual::add_table(client, KIND, &y, &table, ROWS, TOKENS, columns).expect("whole clips")
        });
        timer.time("column_sum of [256, 785 * 768]", 2 * len, || {
            column_sum::column_sum(client, y.clone(), KIND, CLIPS, TOKENS * columns, table.clone())
        });
    }
}

fn time_activations(timer: &Timer) {
    let (client, columns) = (&timer.client, 3072);
    let len = ROWS * columns;
    let [hidden, gradient] = [(); 2].map(|()| timer.filled(len));
    let d_bias = timer.ones(columns);
    for activation in [Activation::Gelu, Activation::QuickGelu] {
        timer.time(&format!("{activation:?} forward"), 4 * len, || {
            activation::forward(client, KIND, activation, &hidden, &gradient, len)
        });
        for (name, d_bias) in [("with sums", Some(&d_bias)), ("no sums", None)] {
            timer.time(&format!("{activation:?} backward {name}"), 8 * len, || {
                activation::backward(client, KIND, activation, ROWS, columns, &hidden, &gradient, d_bias, true)
            });
        }
    }
}

fn time_patches(timer: &Timer) {
    for (image_px, patch_px) in [(224, 16), (224, 14), (224, 8)] {
        let grid =
            PatchGrid { frames_per_clip: 4, class_row: true, ..PatchGrid::patches_of(CLIPS * 4, image_px, patch_px) };
        let norm = PixelNorm { mean: [108.3, 116.7, 104.1], std: [68.5, 66.6, 70.3] };
        let (frames, len) = (timer.filled(grid.padded_bytes() / 2), grid.rows() * grid.columns());
        let out = timer.client.empty(len * 2);
        timer.time(&format!("patch_ingest {image_px}/{patch_px}"), grid.padded_bytes() + 2 * len, || {
            patch_ingest::patch_ingest(&timer.client, frames.clone(), grid, norm, out.clone(), KIND)
                .expect("a good grid")
        });
    }
}
