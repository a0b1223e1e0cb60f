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
            let right = x as f64 + 0.5;
            let (u, v) = (a * right + b * down + c, d * right + e * down + f);
            if !(0.0..side).contains(&u) || !(0.0..side).contains(&v) {
                pixel.fill(OUTSIDE);
                continue;
            }
            let (u, v) = (u - 0.5, v - 0.5);
            let (left, top) = (u.floor(), v.floor());
            let (du, dv) = (u - left, v - top);
            let near = |at: f64| [at.max(0.0) as usize, ((at + 1.0) as usize).min(px - 1)];
            let (columns, rows) = (near(left), near(top));
            let corner = |row: usize, column: usize| (rows[row] * px + columns[column]) * 3;
            let corners = [corner(0, 0), corner(0, 1), corner(1, 0), corner(1, 1)];
            for (channel, value) in pixel.iter_mut().enumerate() {
                let [tl, tr, bl, br] = corners.map(|at| f64::from(scratch[at + channel]));
                let (above, below) = (tl + (tr - tl) * du, bl + (br - bl) * du);
                *value = (above + (below - above) * dv) as u8;
            }
        }
    }
}
