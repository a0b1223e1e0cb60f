//! Rows of a matrix: pick some, add to some, scale each to length 1. What a tower's head does before its projection.
//!
//! Memory bound: [`gather`] moves the picked rows twice, [`add`] three times, [`normalize`] reads its input once more from cache. 16 bytes at a time where the width allows it.
//!
//! Source of the normalisation: `torch.nn.functional.normalize`, whose epsilon bounds the length from below.

use crate::{
    FloatKind, Handle,
    launch::{UNITS, grid},
    layer_norm::backward::store_rounded,
    reduce::{Split, cube_sum, row_grid, share},
    with_float,
};
use cubecl::prelude::*;

/// Smallest length divided by, as `torch.nn.functional.normalize`.
pub const MIN_LENGTH: f32 = 1e-12;

#[cube(launch_unchecked)]
fn gather_kernel<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    indices: &Array<u32>,
    y: &mut Array<Vector<F, N>>,
    vectors: u32,
    row_vectors: u32,
) {
    let i = ABSOLUTE_POS as u32;
    if i < vectors {
        let row = indices[(i / row_vectors) as usize];
        y[i as usize] = x[(row * row_vectors + i % row_vectors) as usize];
    }
}

#[cube(launch_unchecked)]
fn add_kernel<F: Float, N: Size>(
    d: &Array<Vector<F, N>>,
    d_residue: &ComptimeOption<Array<Vector<F, N>>>,
    indices: &Array<u32>,
    y: &mut Array<Vector<F, N>>,
    y_residue: &mut ComptimeOption<Array<Vector<F, N>>>,
    vectors: u32,
    row_vectors: u32,
) {
    let i = ABSOLUTE_POS as u32;
    if i < vectors {
        let at = (indices[(i / row_vectors) as usize] * row_vectors + i % row_vectors) as usize;
        let mut total = Vector::<f32, N>::cast_from(y[at]) + Vector::cast_from(d[i as usize]);
        #[comptime]
        match d_residue {
            ComptimeOption::Some(d_residue) => {
                total += Vector::cast_from(d_residue[i as usize]);
            }
            ComptimeOption::None => {}
        }
        #[comptime]
        match y_residue {
            ComptimeOption::Some(y_residue) => {
                total += Vector::cast_from(y_residue[at]);
            }
            ComptimeOption::None => {}
        }
        store_rounded::<F, N>(total, at, y, y_residue);
    }
}

/// Elements per access: the most the device loads at once that divide `width`.
fn lanes<R: Runtime>(client: &ComputeClient<R>, kind: FloatKind, width: usize) -> usize {
    client.io_optimized_vector_sizes(kind.size()).find(|lanes| width.is_multiple_of(*lanes)).unwrap_or(1)
}

/// `y[i] = x[indices[i]]`.
///
/// # Shapes
/// - `x`: `[rows, width]` of `kind`, fewer than 2^32 elements
/// - `indices`: `[count]`, u32 (or i32), each below `rows`
/// - `y`: `[count, width]` of `kind`
pub fn gather<R: Runtime>(
    client: &ComputeClient<R>,
    kind: FloatKind,
    x: &Handle,
    indices: &Handle,
    y: &Handle,
    rows: usize,
    count: usize,
    width: usize,
) {
    let lanes = lanes(client, kind, width);
    let (cubes, dim) = grid(count * width / lanes);
    with_float!(kind, F => unsafe {
        // SAFETY: sizes are those of the buffers, and the kernel checks its position against them.
        gather_kernel::launch_unchecked::<F, R>(
            client,
            cubes,
            dim,
            lanes,
            ArrayArg::from_raw_parts(x.clone(), rows * width),
            ArrayArg::from_raw_parts(indices.clone(), count),
            ArrayArg::from_raw_parts(y.clone(), count * width),
            (count * width / lanes) as u32,
            (width / lanes) as u32,
        )
    });
}

/// `y[indices[i]] += d[i]`, for indices that are all different: the gradient of [`gather`], added to what is there.
///
/// # Shapes
/// - `d`: `[count, width]` of `kind`; its residue, if any, is part of its value
/// - `indices`: `[count]`, u32 (or i32), each below `rows`
/// - `y`: `[rows, width]` of `kind`, fewer than 2^32 elements; its residue, if any, takes what rounding leaves out
pub fn add<R: Runtime>(
    client: &ComputeClient<R>,
    kind: FloatKind,
    (d, d_residue): (&Handle, Option<&Handle>),
    indices: &Handle,
    (y, y_residue): (&Handle, Option<&Handle>),
    [count, rows, width]: [usize; 3],
) {
    let lanes = lanes(client, kind, width);
    let (cubes, dim) = grid(count * width / lanes);
    with_float!(kind, F => unsafe {
        // SAFETY: sizes are those of the buffers, positions are checked, and the caller's indices lie below `rows`.
        let picked = |handle: &Handle| ArrayArg::from_raw_parts(handle.clone(), count * width);
        let all = |handle: &Handle| ArrayArg::from_raw_parts(handle.clone(), rows * width);
        add_kernel::launch_unchecked::<F, R>(
            client,
            cubes,
            dim,
            lanes,
            picked(d),
            d_residue.map(picked).into(),
            ArrayArg::from_raw_parts(indices.clone(), count),
            all(y),
            y_residue.map(all).into(),
            (count * width / lanes) as u32,
            (width / lanes) as u32,
        )
    });
}

#[cube(launch_unchecked)]
fn normalize_kernel<F: Float>(
    x: &Array<F>,
    y: &mut Array<f32>,
    length: &mut Array<f32>,
    rows: u32,
    width: u32,
    #[comptime] cooperate: bool,
) {
    let (row, first, step) = share(cooperate);
    if row < rows {
        let start = row * width;
        let mut squares = f32::new(0.0);
        let mut i = first;
        while i < width {
            let value = f32::cast_from(x[(start + i) as usize]);
            squares += value * value;
            i += step;
        }
        if comptime!(cooperate) {
            let mut scratch = SharedMemory::<f32>::new(UNITS as usize);
            squares = cube_sum(squares, &mut scratch);
        }
        let norm = max(squares.sqrt(), f32::new(MIN_LENGTH));
        let mut i = first;
        while i < width {
            y[(start + i) as usize] = f32::cast_from(x[(start + i) as usize]) / norm;
            i += step;
        }
        if first == 0 {
            length[row as usize] = norm;
        }
    }
}

#[cube(launch_unchecked)]
fn normalize_backward_kernel<F: Float>(
    y: &Array<f32>,
    length: &Array<f32>,
    dy: &Array<f32>,
    dx: &mut Array<F>,
    rows: u32,
    width: u32,
    #[comptime] cooperate: bool,
) {
    let (row, first, step) = share(cooperate);
    if row < rows {
        let start = row * width;
        let mut along = f32::new(0.0);
        let mut i = first;
        while i < width {
            along += y[(start + i) as usize] * dy[(start + i) as usize];
            i += step;
        }
        if comptime!(cooperate) {
            let mut scratch = SharedMemory::<f32>::new(UNITS as usize);
            along = cube_sum(along, &mut scratch);
        }
        let inverse = 1.0 / length[row as usize];
        let mut i = first;
        while i < width {
            let at = (start + i) as usize;
            dx[at] = F::cast_from((dy[at] - y[at] * along) * inverse);
            i += step;
        }
    }
}

/// `length = max(|x|, MIN_LENGTH)` and `y = x / length`, row by row.
///
/// # Shapes
/// - `x`: `[rows, width]` of `kind`, fewer than 2^32 elements
/// - `y`: `[rows, width]`, f32, another buffer than `x`
/// - `length`: `[rows]`, f32
pub fn normalize<R: Runtime>(
    client: &ComputeClient<R>,
    split: Split,
    kind: FloatKind,
    x: &Handle,
    y: &Handle,
    length: &Handle,
    rows: usize,
    width: usize,
) {
    let (cubes, dim) = row_grid(rows, split);
    with_float!(kind, F => unsafe {
        // SAFETY: sizes are those of the buffers, and the kernel checks its position against them.
        normalize_kernel::launch_unchecked::<F, R>(
            client,
            cubes,
            dim,
            ArrayArg::from_raw_parts(x.clone(), rows * width),
            ArrayArg::from_raw_parts(y.clone(), rows * width),
            ArrayArg::from_raw_parts(length.clone(), rows),
            rows as u32,
            width as u32,
            split == Split::Cube,
        )
    });
}

/// `dx = (dy - y (y . dy)) / length`, row by row, with `y` and `length` from [`normalize`].
///
/// # Shapes
/// - `y`, `dy`: `[rows, width]`, f32; `length`: `[rows]`, f32
/// - `dx`: `[rows, width]` of `kind`
pub fn normalize_backward<R: Runtime>(
    client: &ComputeClient<R>,
    split: Split,
    kind: FloatKind,
    [y, length, dy]: [&Handle; 3],
    dx: &Handle,
    rows: usize,
    width: usize,
) {
    let (cubes, dim) = row_grid(rows, split);
    with_float!(kind, F => unsafe {
        // SAFETY: sizes are those of the buffers, and the kernel checks its position against them.
        normalize_backward_kernel::launch_unchecked::<F, R>(
            client,
            cubes,
            dim,
            ArrayArg::from_raw_parts(y.clone(), rows * width),
            ArrayArg::from_raw_parts(length.clone(), rows),
            ArrayArg::from_raw_parts(dy.clone(), rows * width),
            ArrayArg::from_raw_parts(dx.clone(), rows * width),
            rows as u32,
            width as u32,
            split == Split::Cube,
        )
    });
}

/// [`normalize`] and [`normalize_backward`] in f64, for rows of `width`: `(y, length, dx)`.
pub fn reference(x: &[f32], dy: &[f32], width: usize) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let (mut y, mut lengths, mut dx) = (Vec::new(), Vec::new(), Vec::new());
    for (x, dy) in x.chunks(width).zip(dy.chunks(width)) {
        let norm = x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt().max(MIN_LENGTH.into());
        let unit: Vec<f64> = x.iter().map(|v| f64::from(*v) / norm).collect();
        let along: f64 = unit.iter().zip(dy).map(|(u, d)| u * f64::from(*d)).sum();
        dx.extend(unit.iter().zip(dy).map(|(u, d)| (f64::from(*d) - u * along) / norm));
        y.extend(unit);
        lengths.push(norm);
    }
    (y, lengths, dx)
}
