//! What follows a product whose library has no epilogue: bias, stochastic depth's factor, the residual stream, positions.
//!
//! Memory bound: every array is read or written once, in 16-byte accesses with four rows in flight; what belongs to
//! a column (bias, position) stays in registers while its unit goes down the rows.
//!
//! Source of the factor: stochastic depth, Huang et al. 2016, arXiv:1603.09382 (`drop_path` in timm): 0 for a dropped
//! sample's branch, `1 / keep` for a kept one's.

use crate::walk::{Grain, Walk, vector_width};
use crate::{FloatKind, Handle, KernelError, with_float};
use cubecl::prelude::*;

const GRAIN: Grain = Grain { unroll: 4, cubes_per_sm: 16 };

#[cube(launch_unchecked)]
pub(crate) fn finish_kernel<F: Float, N: Size>(
    y: &mut Array<Vector<F, N>>,
    bias: &ComptimeOption<Array<Vector<f32, N>>>,
    factor: &ComptimeOption<Array<f32>>,
    residual: &ComptimeOption<Array<Vector<F, N>>>,
    rows: u32,
    vectors: u32,
    rows_per_chunk: u32,
    rows_per_factor: u32,
    #[comptime] unroll: u32,
) {
    let column = CUBE_POS_X * CUBE_DIM_X + UNIT_POS_X;
    if column < vectors {
        let last = min((CUBE_POS_Y + 1) * rows_per_chunk, rows);
        let mut row = CUBE_POS_Y * rows_per_chunk + UNIT_POS_Y;
        let mut shift = Vector::<f32, N>::new(0.0);
        #[comptime]
        match bias {
            ComptimeOption::Some(bias) => shift = bias[column as usize],
            ComptimeOption::None => {}
        }
        while row < last {
            let mut products = Array::<Vector<F, N>>::new(unroll as usize);
            let mut streams = Array::<Vector<F, N>>::new(unroll as usize);
            #[unroll]
            for i in 0..unroll {
                let at = (min(row + i * CUBE_DIM_Y, last - 1) * vectors + column) as usize;
                products[i as usize] = y[at];
                #[comptime]
                match residual {
                    ComptimeOption::Some(residual) => streams[i as usize] = residual[at],
                    ComptimeOption::None => {}
                }
            }
            #[unroll]
            for i in 0..unroll {
                let here = row + i * CUBE_DIM_Y;
                if here < last {
                    let mut value = Vector::<f32, N>::cast_from(products[i as usize]) + shift;
                    #[comptime]
                    match factor {
                        ComptimeOption::Some(factor) => {
                            value *= Vector::new(factor[(here / rows_per_factor) as usize]);
                        }
                        ComptimeOption::None => {}
                    }
                    if comptime!(residual.is_some()) {
                        value += Vector::cast_from(streams[i as usize]);
                    }
                    y[(here * vectors + column) as usize] = Vector::cast_from(value);
                }
            }
            row += unroll * CUBE_DIM_Y;
        }
    }
}

#[cube(launch_unchecked)]
pub(crate) fn scale_kernel<F: Float, N: Size>(
    x: &Array<Vector<F, N>>,
    y: &mut Array<Vector<F, N>>,
    factor: &Array<f32>,
    rows: u32,
    vectors: u32,
    rows_per_chunk: u32,
    rows_per_factor: u32,
    #[comptime] unroll: u32,
) {
    let column = CUBE_POS_X * CUBE_DIM_X + UNIT_POS_X;
    if column < vectors {
        let last = min((CUBE_POS_Y + 1) * rows_per_chunk, rows);
        let mut row = CUBE_POS_Y * rows_per_chunk + UNIT_POS_Y;
        while row < last {
            let mut values = Array::<Vector<F, N>>::new(unroll as usize);
            #[unroll]
            for i in 0..unroll {
                let at = min(row + i * CUBE_DIM_Y, last - 1) * vectors + column;
                values[i as usize] = x[at as usize];
            }
            #[unroll]
            for i in 0..unroll {
                let here = row + i * CUBE_DIM_Y;
                if here < last {
                    let scaled = Vector::<f32, N>::cast_from(values[i as usize])
                        * Vector::new(factor[(here / rows_per_factor) as usize]);
                    y[(here * vectors + column) as usize] = Vector::cast_from(scaled);
                }
            }
            row += unroll * CUBE_DIM_Y;
        }
    }
}

/// Arguments of [`finish`]: `y = residual + factor (y + bias)`, absent terms left out.
#[derive(Clone, Copy)]
pub struct Finish<'a> {
    /// `[rows, columns]`, a product; overwritten.
    pub y: &'a Handle,
    /// `[columns]`, f32.
    pub bias: Option<&'a Handle>,
    /// `[rows / rows_per_factor]`, f32, and `rows_per_factor`.
    pub factor: Option<(&'a Handle, usize)>,
    /// Like `y`; another buffer.
    pub residual: Option<&'a Handle>,
    pub rows: usize,
    pub columns: usize,
}

/// Finishes a product of `kind` in place; see [`Finish`]. Fewer than 2^32 elements.
pub fn finish<R: Runtime>(client: &ComputeClient<R>, kind: FloatKind, args: Finish) {
    let Finish { y, bias, factor, residual, rows, columns } = args;
    let n = vector_width(client, kind, columns);
    let walk = Walk::new(client, rows, columns / n, GRAIN);
    let rows_per_factor = factor.map_or(rows, |(_, rows)| rows).max(1);
    let array = |handle: &Handle, len| {
        // SAFETY: lengths are those of `Finish`'s contract; the kernel checks its positions against rows and columns.
        unsafe { ArrayArg::from_raw_parts(handle.clone(), len) }
    };
    with_float!(kind, F => unsafe {
        // SAFETY: as above.
        finish_kernel::launch_unchecked::<F, R>(
            client,
            walk.count(),
            walk.dim(),
            n,
            array(y, rows * columns),
            bias.map(|bias| array(bias, columns)).into(),
            factor.map(|(factor, _)| array(factor, rows.div_ceil(rows_per_factor))).into(),
            residual.map(|residual| array(residual, rows * columns)).into(),
            rows as u32,
            walk.vectors as u32,
            walk.rows_per_chunk,
            rows_per_factor as u32,
            GRAIN.unroll,
        )
    });
}

/// `y[row] = x[row] factor[row / rows_per_factor]`: the gradient that enters a branch under stochastic depth.
///
/// # Shapes
/// - `x`, `y`: `[rows, columns]` of `kind`, two buffers, fewer than 2^32 elements each
/// - `factor`: `[rows / rows_per_factor]`, f32
pub fn scale_rows<R: Runtime>(
    client: &ComputeClient<R>,
    kind: FloatKind,
    x: &Handle,
    y: &Handle,
    factor: &Handle,
    rows_per_factor: usize,
    rows: usize,
    columns: usize,
) {
    let n = vector_width(client, kind, columns);
    let walk = Walk::new(client, rows, columns / n, GRAIN);
    let rows_per_factor = rows_per_factor.max(1);
    with_float!(kind, F => unsafe {
        // SAFETY: lengths are those of the contract; the kernel checks its positions against rows and columns.
        scale_kernel::launch_unchecked::<F, R>(
            client,
            walk.count(),
            walk.dim(),
            n,
            ArrayArg::from_raw_parts(x.clone(), rows * columns),
            ArrayArg::from_raw_parts(y.clone(), rows * columns),
            ArrayArg::from_raw_parts(factor.clone(), rows.div_ceil(rows_per_factor)),
            rows as u32,
            walk.vectors as u32,
            walk.rows_per_chunk,
            rows_per_factor as u32,
            GRAIN.unroll,
        )
    });
}

/// `y[row] += table[row % period]`: positions. Its gradient is [`crate::column_sum`] over the same view.
///
/// # Shapes
/// - `y`: `[rows, columns]` of `kind`, fewer than 2^32 elements; updated
/// - `table`: `[period, columns]`, f32
///
/// # Errors
/// [`KernelError::Shape`] when `rows` is no multiple of `period`.
pub fn add_table<R: Runtime>(
    client: &ComputeClient<R>,
    kind: FloatKind,
    y: &Handle,
    table: &Handle,
    rows: usize,
    period: usize,
    columns: usize,
) -> Result<(), KernelError> {
    if period == 0 || !rows.is_multiple_of(period) {
        return Err(KernelError::Shape {
            kernel: "add_table",
            what: "rows",
            expected: format!("a multiple of the table's {period}"),
            got: rows.to_string(),
        });
    }
    // A row per repeat: the table is its bias.
    let args =
        Finish { y, bias: Some(table), factor: None, residual: None, rows: rows / period, columns: period * columns };
    finish(client, kind, args);
    Ok(())
}

/// `residual + factor (y + bias)` in f64, row by row; an absent factor is 1, absent terms are 0.
pub fn reference(
    y: &[f64],
    columns: usize,
    bias: Option<&[f64]>,
    factor: Option<(&[f64], usize)>,
    residual: Option<&[f64]>,
) -> Vec<f64> {
    let at = |i: usize| {
        let factor = factor.map_or(1.0, |(factor, rows)| factor[i / columns / rows]);
        residual.map_or(0.0, |r| r[i]) + factor * (y[i] + bias.map_or(0.0, |b| b[i % columns]))
    };
    (0..y.len()).map(at).collect()
}
