//! Crop, antialiased bilinear scaling and conversion to RGB on the device, from the planes that a decoder gives.
//!
//! Numbers: for a frame of 224 pixels from 4:2:0 planes of about 250 to a side, some 100 KB read and 151 KB written; 45
//! products a pixel done for each pixel alone, about 20 with the rows weighed once: memory bound where words are read at a
//! time. A cube makes one row: it weighs the rows of the planes into shared memory, four samples a word, then the columns,
//! then packs pixels into words.
//!
//! The arithmetic is in integers and in the order of the host's scaler (`filter.rs`, `columns.rs` and `colour.rs` in
//! the program's `video/`), so that either gives the same bytes.

mod record;
mod reference;

pub use record::{
    Axes, COEFFICIENT_BITS, FRACTION_BITS, HEADER, MAX_PX, Matrix, Plane, Table, WEIGHT_BITS, finished, is_supported,
    record_bytes, used_bytes, write_planes,
};
pub use reference::reference;

use crate::launch::CUBES_X;
use crate::{Handle, KernelError};
use cubecl::prelude::*;
use record::{GBR, KIND, MATRIX, PLANES, ROOM, STRIDES, TABLES};

/// Units of a cube. A frame of 224 pixels has some 130 words of planes a row: of more, half would wait.
const UNITS: u32 = 128;

/// Weighs the samples of a row for output `x`. `axis`: where the table begins; `at`: where the row does.
#[cube]
fn weigh(records: &Array<u32>, sums: &SharedMemory<i32>, axis: u32, at: u32, x: u32) -> i32 {
    let pairs = records[axis as usize];
    let entry = axis + 1 + x * (pairs + 1);
    let first = at + (records[entry as usize] & 0xFFFF);
    let mut sum = i32::new(comptime!(1i64 << (WEIGHT_BITS - 1)));
    for pair in 0..pairs {
        let weights = records[(entry + 1 + pair) as usize];
        let sample = first + 2 * pair;
        sum += sums[sample as usize] * i32::cast_from(weights & 0xFFFF);
        sum += sums[(sample + 1) as usize] * i32::cast_from(weights >> 16);
    }
    sum >> comptime!(WEIGHT_BITS as i32)
}

/// A sum with `bits` behind the point, half added, as a byte.
#[cube]
fn byte(sum: i32, #[comptime] bits: u32) -> u32 {
    let whole = u32::cast_from(max(sum, i32::new(0))) >> bits;
    min(whole, 255)
}

/// `records`: `[rows / px, words]`; `out`: words of `[rows, px, 3]` bytes.
#[cube(launch_unchecked)]
fn scale_planes_kernel(records: &Array<u32>, out: &mut Array<u32>, rows: u32, words: u32, #[comptime] px: u32) {
    let mut sums = SharedMemory::<i32>::new(ROOM);
    let mut pixels = SharedMemory::<u32>::new(px as usize);
    let row = CUBE_POS as u32;
    if row < rows {
        let y = row % px;
        let record = row / px * words;
        let planes = records[(record + KIND) as usize] == 1;
        let (stride, stride_of_others) =
            (records[(record + STRIDES) as usize], records[(record + comptime!(STRIDES + 1)) as usize]);

        // All words of the three planes' rows at once, as they follow each other in `sums`. A finished record has strides
        // of 0 here.
        let mut word = UNIT_POS;
        while word < stride + 2 * stride_of_others {
            let mut plane = PLANES.runtime();
            let mut table = TABLES.runtime();
            let (mut columns, mut column) = (stride, word);
            if word >= stride {
                plane += 1;
                table += 2;
                columns = stride_of_others;
                column -= stride;
                if column >= columns {
                    plane += 1;
                    column -= columns;
                }
            }
            let axis = record + records[(record + table) as usize];
            let pairs = records[axis as usize];
            let entry = axis + 1 + y * (pairs + 1);
            let start = records[entry as usize];
            let first = record + records[(record + plane) as usize] + (start & 0xFFFF) * columns + column;
            let half = start >> 16;
            let (mut a, mut b, mut c, mut d) = (half, half, half, half);
            for tap in 0..2 * pairs {
                let weight = (records[(entry + 1 + tap / 2) as usize] >> (tap % 2 * 16)) & 0xFFFF;
                // The rows of taps without weight may not be there.
                if weight > 0 {
                    let samples = records[(first + tap * columns) as usize];
                    a += ((samples & 255) * weight) >> FRACTION_BITS;
                    b += (((samples >> 8) & 255) * weight) >> FRACTION_BITS;
                    c += (((samples >> 16) & 255) * weight) >> FRACTION_BITS;
                    d += ((samples >> 24) * weight) >> FRACTION_BITS;
                }
            }
            let to = 4 * word;
            sums[to as usize] = i32::cast_from(a);
            sums[(to + 1) as usize] = i32::cast_from(b);
            sums[(to + 2) as usize] = i32::cast_from(c);
            sums[(to + 3) as usize] = i32::cast_from(d);
            word += UNITS;
        }
        sync_cube();

        if planes {
            let luma_axis = record + records[(record + comptime!(TABLES + 1)) as usize];
            let chroma_axis = record + records[(record + comptime!(TABLES + 3)) as usize];
            let matrix = record + MATRIX;
            let gbr = records[(record + GBR) as usize] == 1;
            let mut x = UNIT_POS;
            while x < px {
                let first = weigh(records, &sums, luma_axis, 0u32.runtime(), x);
                let second = weigh(records, &sums, chroma_axis, 4 * stride, x);
                let third = weigh(records, &sums, chroma_axis, 4 * (stride + stride_of_others), x);
                if gbr {
                    let half = comptime!(1i32 << (FRACTION_BITS - 1));
                    pixels[x as usize] = byte(third + half, FRACTION_BITS)
                        | (byte(first + half, FRACTION_BITS) << 8)
                        | (byte(second + half, FRACTION_BITS) << 16);
                } else {
                    let shift = comptime!(FRACTION_BITS + COEFFICIENT_BITS);
                    let black = i32::cast_from(records[matrix as usize]);
                    let luma = (first - black) * i32::cast_from(records[(matrix + 1) as usize])
                        + comptime!(1i32 << (FRACTION_BITS + COEFFICIENT_BITS - 1));
                    let middle = comptime!(128i32 << FRACTION_BITS);
                    let (u, v) = (second - middle, third - middle);
                    let red = luma + v * i32::cast_from(records[(matrix + 2) as usize]);
                    let green = luma
                        - u * i32::cast_from(records[(matrix + 3) as usize])
                        - v * i32::cast_from(records[(matrix + 4) as usize]);
                    let blue = luma + u * i32::cast_from(records[(matrix + 5) as usize]);
                    pixels[x as usize] = byte(red, shift) | (byte(green, shift) << 8) | (byte(blue, shift) << 16);
                }
                x += UNITS;
            }
        }
        sync_cube();

        let across = comptime!(3 * px / 4);
        let mut word = UNIT_POS;
        while word < across {
            let mut value = 0u32.runtime();
            if planes {
                #[unroll]
                for i in 0..4u32 {
                    let at = 4 * word + i;
                    value |= ((pixels[(at / 3) as usize] >> (at % 3 * 8)) & 255) << comptime!(8 * i);
                }
            } else {
                value = records[(record + comptime!(HEADER as u32) + y * across + word) as usize];
            }
            out[(row * across + word) as usize] = value;
            word += UNITS;
        }
    }
}

/// Makes frames of records.
///
/// # Shapes
/// - `records`: bytes `[frames, record_bytes(px)]`, of [`write_planes`] or [`finished`]
/// - `out`: u8 `[frames, px, px, 3]`, RGB
///
/// # Errors
/// [`KernelError::Shape`] when a row of `px` pixels is not a whole number of words or longer than [`MAX_PX`], or the
/// records exceed 16 GiB.
pub fn scale_planes<R: Runtime>(
    client: &ComputeClient<R>,
    records: Handle,
    frames: usize,
    px: usize,
    out: Handle,
) -> Result<(), KernelError> {
    let error = |what, expected: String, got| KernelError::Shape { kernel: "scale_planes", what, expected, got };
    if !is_supported(px) {
        return Err(error("image size", format!("a multiple of 4 up to {MAX_PX}"), format!("{px} px")));
    }
    let words = record_bytes(px) / 4;
    if u32::try_from(frames * words).is_err() {
        return Err(error("records", "at most 16 GiB".into(), format!("{frames} frames")));
    }
    let rows = frames * px;
    let x = rows.clamp(1, CUBES_X as usize);
    let cubes = CubeCount::Static(x as u32, rows.div_ceil(x) as u32, 1);
    // SAFETY: the lengths are those of the shapes; the kernel checks the row, and records say where within them to read.
    unsafe {
        scale_planes_kernel::launch_unchecked::<R>(
            client,
            cubes,
            CubeDim::new_1d(UNITS),
            ArrayArg::from_raw_parts(records, frames * words),
            ArrayArg::from_raw_parts(out, 3 * rows * px / 4),
            rows as u32,
            words as u32,
            px as u32,
        );
    }
    Ok(())
}
