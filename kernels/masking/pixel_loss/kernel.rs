//! One row of the prediction against the pixels of its token.

use super::super::{TubeletGrid, first_byte};
use crate::launch::UNITS;
use crate::patch_ingest::load_words;
use crate::reduce::lane_sum;
use cubecl::prelude::*;

/// Sum over the units that share a row.
#[cube]
fn row_sum(value: f32, #[comptime] planes: bool) -> f32 {
    if comptime!(planes) { plane_sum(value) } else { value }
}

/// The bytes of run `run`: kept from the start in a plane's registers, else read again.
#[cube]
fn words_of(
    frames: &Array<u32>,
    kept: &Array<u32>,
    step: u32,
    run: u32,
    clip: u32,
    token: u32,
    #[comptime] pixels: u32,
    #[comptime] tubelets: TubeletGrid,
    #[comptime] planes: bool,
) -> Array<u32> {
    let count = comptime!((3 * pixels).div_ceil(4));
    if comptime!(planes) {
        let mut words = Array::<u32>::new(count as usize);
        #[unroll]
        for i in 0..count {
            words[i as usize] = kept[(step * count + i) as usize];
        }
        words
    } else {
        load_words(frames, first_byte(clip, token, run, pixels, tubelets), pixels)
    }
}

#[cube]
fn byte_of(words: &Array<u32>, #[comptime] byte: u32) -> f32 {
    f32::cast_from((words[comptime!((byte / 4) as usize)] >> comptime!(8 * (byte % 4))) & 255)
}

/// With `sums`, writes each row's sums of squared errors and of squared targets, and the gradient over the prediction.
/// With `out`, writes the prediction's pixels there.
#[cube(launch_unchecked)]
pub(super) fn pixel_kernel<F: Float, N: Size>(
    frames: &Array<u32>,
    order: &Array<u32>,
    prediction: &mut Array<Vector<F, N>>,
    sums: &mut ComptimeOption<Array<f32>>,
    out: &mut ComptimeOption<Array<Vector<f32, N>>>,
    rows: u32,
    visible: u32,
    decoded: u32,
    scale: f32,
    eps: f32,
    #[comptime] tubelets: TubeletGrid,
    #[comptime] normalize: bool,
    #[comptime] planes: bool,
) {
    let lanes = N::value();
    let pixels = comptime!(lanes as u32);
    let words_per_run = comptime!((3 * pixels).div_ceil(4));
    let n = comptime!(tubelets.pixels() as f32);
    let runs = comptime!(tubelets.pixels() as u32 / pixels);
    let units = comptime!(if planes { 32u32 } else { 1u32 });
    let steps = comptime!(runs.div_ceil(units));
    let unit = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * UNITS + UNIT_POS;
    let (wanted, first) = (unit / units, unit % units);
    // Planes past the end repeat the last row without storing it, so that every unit reaches the plane operations.
    let row = min(wanted, rows - 1);
    let clip = row / decoded;
    let token = order[(clip * (visible + decoded) + visible + row % decoded) as usize];

    let mut kept = Array::<u32>::new(comptime!(if planes { (steps * words_per_run) as usize } else { 1 }));
    if comptime!(planes) {
        #[unroll]
        for step in 0..steps {
            let run = min(comptime!(step * units) + first, comptime!(runs - 1));
            let words = load_words(frames, first_byte(clip, token, run, pixels, tubelets), pixels);
            #[unroll]
            for i in 0..words_per_run {
                kept[comptime!((step * words_per_run + i) as usize)] = words[i as usize];
            }
        }
    }

    let mut totals = Array::<f32>::new(3usize);
    // n times the standard deviation, and 1 / (n (std + eps)).
    let mut spreads = Array::<f32>::new(3usize);
    let mut factors = Array::<f32>::new(3usize);
    if comptime!(normalize) {
        #[unroll]
        for channel in 0..3usize {
            totals[channel] = f32::new(0.0);
            spreads[channel] = f32::new(0.0);
        }
        #[unroll(planes)]
        for step in 0..steps {
            let run = step * units + first;
            if run < runs {
                let words = words_of(frames, &kept, step, run, clip, token, pixels, tubelets, planes);
                #[unroll]
                for byte in 0..comptime!(3 * pixels) {
                    totals[comptime!((byte % 3) as usize)] += byte_of(&words, byte);
                }
            }
        }
        #[unroll]
        for channel in 0..3usize {
            totals[channel] = row_sum(totals[channel], planes);
        }
        #[unroll(planes)]
        for step in 0..steps {
            let run = step * units + first;
            if run < runs {
                let words = words_of(frames, &kept, step, run, clip, token, pixels, tubelets, planes);
                #[unroll]
                for byte in 0..comptime!(3 * pixels) {
                    let channel = comptime!((byte % 3) as usize);
                    let centred = byte_of(&words, byte) * n - totals[channel];
                    spreads[channel] += centred * centred;
                }
            }
        }
        #[unroll]
        for channel in 0..3usize {
            spreads[channel] = (row_sum(spreads[channel], planes) / (n - 1.0)).sqrt();
            factors[channel] = 1.0 / (spreads[channel] + n * eps);
        }
    }

    let mut errors = Vector::<f32, N>::new(0.0);
    let mut energies = Vector::<f32, N>::new(0.0);
    if wanted < rows {
        #[unroll(planes)]
        for step in 0..steps {
            let run = step * units + first;
            if run < runs {
                let words = words_of(frames, &kept, step, run, clip, token, pixels, tubelets, planes);
                #[unroll]
                for part in 0..3u32 {
                    let at = ((row * runs + run) * 3 + part) as usize;
                    let predicted = Vector::<f32, N>::cast_from(prediction[at]);
                    let mut target = Vector::<f32, N>::new(0.0);
                    let mut pixel = Vector::<f32, N>::new(0.0);
                    #[unroll]
                    for lane in 0..N::value() {
                        let byte = comptime!(part * pixels + lane as u32);
                        let channel = comptime!((byte % 3) as usize);
                        if comptime!(normalize) {
                            target[lane] = (byte_of(&words, byte) * n - totals[channel]) * factors[channel];
                            pixel[lane] = predicted[lane] * (spreads[channel] / n + eps) + totals[channel] / n;
                        } else {
                            target[lane] = byte_of(&words, byte) / 255.0;
                            pixel[lane] = predicted[lane] * 255.0;
                        }
                    }
                    let difference = predicted - target;
                    errors += difference * difference;
                    energies += target * target;
                    #[comptime]
                    match out {
                        ComptimeOption::Some(out) => out[at] = pixel,
                        ComptimeOption::None => prediction[at] = Vector::cast_from(difference * Vector::new(scale)),
                    }
                }
            }
        }
    }
    #[comptime]
    match sums {
        ComptimeOption::Some(sums) => {
            let error = row_sum(lane_sum::<N>(errors), planes);
            let energy = row_sum(lane_sum::<N>(energies), planes);
            if wanted < rows && first == 0 {
                sums[(2 * row) as usize] = error;
                sums[(2 * row + 1) as usize] = energy;
            }
        }
        ComptimeOption::None => {}
    }
}
