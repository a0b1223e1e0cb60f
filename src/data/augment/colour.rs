//! Operations on the values of a frame, `[height, width, 3]` RGB bytes: to the bit those of PIL.

/// Replaces each value by that of a table.
pub(super) fn map(frame: &mut [u8], with: impl Fn(u8) -> u8) {
    let table: [u8; 256] = std::array::from_fn(|value| with(value as u8));
    frame.iter_mut().for_each(|value| *value = table[usize::from(*value)]);
}

/// Replaces each value by that of its channel's table.
fn map_channels(frame: &mut [u8], tables: [[u8; 256]; 3]) {
    for pixel in frame.chunks_exact_mut(3) {
        for (value, table) in pixel.iter_mut().zip(&tables) {
            *value = table[usize::from(*value)];
        }
    }
}

/// How often each value occurs in each channel.
fn histograms(frame: &[u8]) -> [[u32; 256]; 3] {
    let mut counts = [[0; 256]; 3];
    for pixel in frame.chunks_exact(3) {
        for (value, counts) in pixel.iter().zip(&mut counts) {
            counts[usize::from(*value)] += 1;
        }
    }
    counts
}

/// PIL `ImageOps.autocontrast`: each channel's values are stretched to 0..=255.
pub(super) fn auto_contrast(frame: &mut [u8]) {
    let tables = histograms(frame).map(|counts| {
        let low = counts.iter().position(|count| *count > 0).unwrap_or(0);
        let high = counts.iter().rposition(|count| *count > 0).unwrap_or(0);
        std::array::from_fn(|value| {
            if high <= low {
                return value as u8;
            }
            let scale = 255.0 / (high - low) as f64;
            (value as f64 * scale - low as f64 * scale).clamp(0.0, 255.0) as u8
        })
    });
    map_channels(frame, tables);
}

/// PIL `ImageOps.equalize`: each channel's values become about equally frequent.
pub(super) fn equalize(frame: &mut [u8]) {
    let tables = histograms(frame).map(|counts| {
        let last = counts.iter().rev().copied().find(|count| *count > 0).unwrap_or(0);
        let step = (counts.iter().sum::<u32>() - last) / 255;
        if step == 0 {
            return std::array::from_fn(|value| value as u8);
        }
        let mut below = step / 2;
        std::array::from_fn(|value| {
            let level = below / step;
            below += counts[value];
            level.min(255) as u8
        })
    });
    map_channels(frame, tables);
}

/// Keeps the upper `bits` bits, at most 8, of every value.
pub(super) fn posterize(frame: &mut [u8], bits: u32) {
    let mask = !(0xffu32 >> bits.min(8)) as u8;
    map(frame, |value| value & mask);
}

/// Inverts values from `threshold` on.
pub(super) fn solarize(frame: &mut [u8], threshold: u32) {
    map(frame, |value| if u32::from(value) < threshold { value } else { 255 - value });
}

/// Adds to values below 128.
pub(super) fn solarize_add(frame: &mut [u8], add: u8) {
    map(frame, |value| if value < 128 { value.saturating_add(add) } else { value });
}

/// PIL's grey of a pixel.
fn grey(pixel: &[u8]) -> u8 {
    let [r, g, b] = [0, 1, 2].map(|channel| u32::from(pixel[channel]));
    ((r * 19_595 + g * 38_470 + b * 7_471 + 0x8000) >> 16) as u8
}

/// PIL `Image.blend` of one value: away from `from` by `factor`, truncated.
fn blend(from: u8, to: u8, factor: f32) -> u8 {
    let from = f32::from(from);
    // The cast cuts to 0..=255.
    (from + factor * (f32::from(to) - from)) as u8
}

/// PIL `ImageEnhance.Color`: away from grey.
pub(super) fn saturation(frame: &mut [u8], factor: f32) {
    for pixel in frame.chunks_exact_mut(3) {
        let grey = grey(pixel);
        pixel.iter_mut().for_each(|value| *value = blend(grey, *value, factor));
    }
}

/// PIL `ImageEnhance.Contrast`: away from the mean grey.
pub(super) fn contrast(frame: &mut [u8], factor: f32) {
    let pixels = (frame.len() / 3).max(1);
    let sum: u64 = frame.chunks_exact(3).map(|pixel| u64::from(grey(pixel))).sum();
    let mean = (sum as f64 / pixels as f64 + 0.5) as u8;
    map(frame, |value| blend(mean, value, factor));
}

/// PIL `ImageEnhance.Brightness`: away from black.
pub(super) fn brightness(frame: &mut [u8], factor: f32) {
    map(frame, |value| blend(0, value, factor));
}

/// PIL `ImageEnhance.Sharpness`: away from the frame smoothed with (1 1 1, 1 5 1, 1 1 1) / 13, its border as it is.
pub(super) fn sharpness(frame: &mut [u8], width: usize, factor: f32, scratch: &mut Vec<u8>) {
    scratch.clear();
    scratch.extend_from_slice(frame);
    let (row, rows) = (width * 3, frame.len() / (width * 3).max(1));
    if width < 3 {
        return;
    }
    for y in 1..rows.saturating_sub(1) {
        let [above, middle, below] = [y - 1, y, y + 1].map(|y| &scratch[y * row..][..row]);
        let around = |row: &[u8], at: usize| u32::from(row[at]) + u32::from(row[at + 3]) + u32::from(row[at + 6]);
        for (at, value) in frame[y * row + 3..][..row - 6].iter_mut().enumerate() {
            let sum = around(above, at) + around(middle, at) + around(below, at) + 4 * u32::from(*value);
            // Thirteenths never lie halfway.
            *value = blend(((2 * sum + 13) / 26) as u8, *value, factor);
        }
    }
}
