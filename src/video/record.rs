//! Pictures on their way to a device that crops, scales and converts them: `avion_kernels::scale_planes`.

use avion_kernels::scale_planes::{self as device, Table};

use super::colour::Colour;
use super::filter::Axis;
use super::planes::Planes;
use super::scale::Axes;

/// The weights as the device reads them; `None` where a number is too large for that.
pub fn tables(axes: &[Axes; 2]) -> Option<[device::Axes; 2]> {
    let table = |axis: &Axis| Table::new(axis.outputs());
    let encoded = |Axes { columns, rows }: &Axes| {
        Some(device::Axes {
            rows: table(rows)?,
            columns: table(columns)?,
            used_rows: rows.used(),
            used_columns: columns.used(),
        })
    };
    Some([encoded(&axes[0])?, encoded(&axes[1])?])
}

/// Writes the part of the planes that the weights are for. False when it does not fit.
pub fn write(planes: &Planes, [first, others]: &[device::Axes; 2], px: u32, out: &mut [u8]) -> bool {
    let matrix = match planes.colour {
        Colour::Gbr => None,
        Colour::Yuv(matrix) => Some(matrix),
    };
    let planes = planes.planes.map(|plane| device::Plane { samples: plane.samples, stride: plane.stride });
    device::write_planes(out, px as usize, matrix, planes, [first, others])
}
