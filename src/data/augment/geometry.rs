//! Rotations, shears and shifts of a square frame: PIL's affine transform with its bilinear filter (VideoMAE takes the
//! bicubic one); what lies outside is grey, 128, as in VideoMAE.

const OUTSIDE: u8 = 128;

/// Turns the frame `[px, px, 3]` about its centre, anticlockwise.
pub(super) fn rotate(frame: &mut [u8], px: usize, degrees: f64, scratch: &mut Vec<u8>) {
    let (sin, cos) = (-degrees.to_radians()).sin_cos();
    let centre = px as f64 / 2.0;
    let [a, b, d, e] = [cos, sin, -sin, cos];
    transform(frame, px, [a, b, centre - a * centre - b * centre, d, e, centre - d * centre - e * centre], scratch);
}

/// Takes the pixel at `(x, y)` from `(a x + b y + c, d x + e y + f)`, in continuous coordinates where pixels have their
/// centres at halves.
pub(super) fn transform(frame: &mut [u8], px: usize, [a, b, c, d, e, f]: [f64; 6], scratch: &mut Vec<u8>) {
    scratch.clear();
    scratch.extend_from_slice(frame);
    let side = px as f64;
    for (y, row) in frame.chunks_exact_mut(px * 3).enumerate() {
        let down = y as f64 + 0.5;
        for (x, pixel) in row.chunks_exact_mut(3).enumerate() {
            let across = x as f64 + 0.5;
            let (u, v) = (a * across + b * down + c, d * across + e * down + f);
            if !(0.0..side).contains(&u) || !(0.0..side).contains(&v) {
                pixel.fill(OUTSIDE);
                continue;
            }
            let (left, right, du) = neighbours(u, px);
            let (top, bottom, dv) = neighbours(v, px);
            let corner = |row: usize, column: usize| &scratch[(row * px + column) * 3..][..3];
            let (tl, tr) = (corner(top, left), corner(top, right));
            let (bl, br) = (corner(bottom, left), corner(bottom, right));
            for channel in 0..3 {
                let [tl, tr, bl, br] = [tl, tr, bl, br].map(|corner| f64::from(corner[channel]));
                let (above, below) = (tl + (tr - tl) * du, bl + (br - bl) * du);
                pixel[channel] = (above + (below - above) * dv) as u8;
            }
        }
    }
}

/// The pixels whose centres lie before and after a coordinate in `[0, px)`, within the frame, and how far it is from the
/// first to the second.
fn neighbours(at: f64, px: usize) -> (usize, usize, f64) {
    // The integer part of a positive number is its floor, without a library call.
    let after = (at + 0.5) as usize;
    (after.saturating_sub(1), after.min(px - 1), at + 0.5 - after as f64)
}
