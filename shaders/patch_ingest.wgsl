// Decoded frames to normalised patch rows: crop, resize, flip, unpack, normalise, reorder.
//
// frames  u8 [clips * frames_per_clip, source_height, source_width, 3], four bytes a word, the first lowest
// crops   u32 [clips, 5]: x, y, width, height (pixels of the source), 1 to flip left and right; unused if cropped == 0
// rows    f32 [clips * tokens, 3 * patch_px^2], pairs of pixels; columns are (channel, row, column). tokens =
//         frames_per_clip * patches, plus a first row of zeros if class_row == 1
// params  see `Params` in kernels/ingest_wgsl.rs, same fields in the same order
//
// An invocation makes two neighbouring pixels. Bilinear, centres at half pixels, edges of the crop repeated; a crop of
// the patch grid's own size is copied exactly.

struct Params {
    pairs: u32,
    source_width: u32,
    source_height: u32,
    image_px: u32,
    patch_px: u32,
    frames_per_clip: u32,
    class_row: u32,
    cropped: u32,
    // Value = factor * byte / 255 + shift, for each channel.
    factor_r: f32,
    factor_g: f32,
    factor_b: f32,
    shift_r: f32,
    shift_g: f32,
    shift_b: f32,
}

@group(0) @binding(0) var<storage, read_write> frames: array<u32>;
@group(0) @binding(1) var<storage, read_write> crops: array<u32>;
@group(0) @binding(2) var<storage, read_write> rows: array<vec2<f32>>;
@group(0) @binding(3) var<uniform> params: Params;

struct Crop {
    x: u32,
    y: u32,
    width: u32,
    height: u32,
    flip: u32,
}

fn crop_of(clip: u32) -> Crop {
    if params.cropped == 0u {
        return Crop(0u, 0u, params.source_width, params.source_height, 0u);
    }
    let at = clip * 5u;
    return Crop(crops[at], crops[at + 1u], crops[at + 2u], crops[at + 3u], crops[at + 4u]);
}

// Red, green and blue of a source pixel, 0 to 1.
fn pixel(image: u32, y: u32, x: u32) -> vec3<f32> {
    let byte = ((image * params.source_height + y) * params.source_width + x) * 3u;
    let offset = byte % 4u;
    var word = frames[byte / 4u] >> (offset * 8u);
    if offset > 1u {
        word |= frames[byte / 4u + 1u] << (32u - offset * 8u);
    }
    return unpack4x8unorm(word).xyz;
}

// Source position of output pixel `at` along one dimension: the two taps and the second one's weight.
struct Taps {
    first: u32,
    second: u32,
    weight: f32,
}

// In integers, so that the weight is rounded once.
fn taps(at: u32, start: u32, length: u32) -> Taps {
    let centre = i32((2u * at + 1u) * length) - i32(params.image_px);
    let position = u32(clamp(centre, 0, i32(2u * params.image_px * (length - 1u))));
    let first = position / (2u * params.image_px);
    let weight = f32(position % (2u * params.image_px)) / f32(2u * params.image_px);
    return Taps(start + first, start + min(first + 1u, length - 1u), weight);
}

fn sample(image: u32, crop: Crop, vertical: Taps, x: u32) -> vec3<f32> {
    let horizontal = taps(select(x, params.image_px - 1u - x, crop.flip == 1u), crop.x, crop.width);
    let top = pixel(image, vertical.first, horizontal.first);
    if horizontal.weight == 0.0 && vertical.weight == 0.0 {
        return top;
    }
    let upper = mix(top, pixel(image, vertical.first, horizontal.second), horizontal.weight);
    let lower = mix(
        pixel(image, vertical.second, horizontal.first),
        pixel(image, vertical.second, horizontal.second),
        horizontal.weight,
    );
    return mix(upper, lower, vertical.weight);
}

@compute @workgroup_size(64)
fn patch_ingest(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let pair = id.y * groups.x * 64u + id.x;
    if pair >= params.pairs {
        return;
    }
    // Pairs of one channel of a patch.
    let plane = params.patch_px * params.patch_px / 2u;
    let row = pair / plane;
    let inside = pair % plane;
    let out = row * plane * 3u + inside;

    let side = params.image_px / params.patch_px;
    let patches = params.frames_per_clip * side * side;
    let tokens = patches + params.class_row;
    let clip = row / tokens;
    let token = row % tokens;
    if token < params.class_row {
        rows[out] = vec2<f32>(0.0);
        rows[out + plane] = vec2<f32>(0.0);
        rows[out + 2u * plane] = vec2<f32>(0.0);
        return;
    }
    let patch_at = token - params.class_row;
    let image = clip * params.frames_per_clip + patch_at / (side * side);
    let within = patch_at % (side * side);
    let y = (within / side) * params.patch_px + 2u * inside / params.patch_px;
    let x = (within % side) * params.patch_px + 2u * inside % params.patch_px;

    let crop = crop_of(clip);
    let vertical = taps(y, crop.y, crop.height);
    let factor = vec3<f32>(params.factor_r, params.factor_g, params.factor_b);
    let shift = vec3<f32>(params.shift_r, params.shift_g, params.shift_b);
    let left = sample(image, crop, vertical, x) * factor + shift;
    let right = sample(image, crop, vertical, x + 1u) * factor + shift;
    rows[out] = vec2<f32>(left.x, right.x);
    rows[out + plane] = vec2<f32>(left.y, right.y);
    rows[out + 2u * plane] = vec2<f32>(left.z, right.z);
}
