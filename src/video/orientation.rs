//! How a stored picture is turned for display, and the way back.

use super::crop::CropBox;

/// One of the eight ways to lay a rectangle onto another: transpose first, then mirror.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Orientation {
    pub transpose: bool,
    pub flip_x: bool,
    pub flip_y: bool,
}

impl Orientation {
    /// Reads the linear part `[a, b, c, d]` of a display matrix: `x' = a x + c y`, `y' = b x + d y`
    /// (libavutil/display.h). `None` when it turns by something other than a multiple of 90 degrees. A matrix
    /// that flattens the picture (some files hold zeros) means nothing, as to the ffmpeg program.
    pub fn from_matrix([a, b, c, d]: [i32; 4]) -> Option<Orientation> {
        let size = |v: i32| f64::from(v).abs();
        // The ffmpeg program takes angles within 1 degree for the right angle: tan(1 degree) = 0.0175.
        let small =
            |p: i32, q: i32, r: i32, s: i32| size(p).max(size(q)) <= 0.0175 * size(r).min(size(s)) && r != 0 && s != 0;
        if (a, c) == (0, 0) || (b, d) == (0, 0) {
            Some(Orientation::default())
        } else if small(b, c, a, d) {
            Some(Orientation { transpose: false, flip_x: a < 0, flip_y: d < 0 })
        } else if small(a, d, b, c) {
            Some(Orientation { transpose: true, flip_x: c < 0, flip_y: b < 0 })
        } else {
            None
        }
    }

    /// The size on display of a picture stored as `width` x `height`, and the reverse.
    pub fn turn(&self, width: u32, height: u32) -> (u32, u32) {
        if self.transpose { (height, width) } else { (width, height) }
    }

    /// The same orientation seen in a mirror.
    pub fn mirrored(self, mirror: bool) -> Orientation {
        Orientation { flip_x: self.flip_x ^ mirror, ..self }
    }

    /// Where a rectangle of the display (`width` x `height`) lies in the stored picture.
    pub fn to_stored(self, crop: CropBox, width: u32, height: u32) -> CropBox {
        let x = if self.flip_x { width - crop.x - crop.width } else { crop.x };
        let y = if self.flip_y { height - crop.y - crop.height } else { crop.y };
        if self.transpose {
            CropBox { x: y, y: x, width: crop.height, height: crop.width }
        } else {
            CropBox { x, y, ..crop }
        }
    }

    /// Lays a stored RGB picture out for display.
    ///
    /// # Shapes
    /// - `stored`: rows of `stride` bytes, pixels of 3 bytes
    /// - `shown`: `[height, width, 3]`, packed
    pub fn place(&self, stored: &[u8], stride: usize, shown: &mut [u8], width: usize) {
        let height = shown.len() / (3 * width);
        for (y, row) in shown.chunks_exact_mut(3 * width).enumerate() {
            let y = if self.flip_y { height - 1 - y } else { y };
            if !self.transpose && !self.flip_x {
                row.copy_from_slice(&stored[y * stride..][..3 * width]);
                continue;
            }
            for (x, pixel) in row.chunks_exact_mut(3).enumerate() {
                let x = if self.flip_x { width - 1 - x } else { x };
                let (row, column) = if self.transpose { (x, y) } else { (y, x) };
                pixel.copy_from_slice(&stored[row * stride + 3 * column..][..3]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: i32 = 1 << 16;

    #[test]
    fn reads_the_four_rotations_and_a_mirror() {
        let read = |m| Orientation::from_matrix(m).unwrap();
        assert_eq!(read([ONE, 0, 0, ONE]), Orientation::default());
        // Clockwise by 90 degrees: x' = -y, y' = x.
        let clockwise = read([0, ONE, -ONE, 0]);
        assert!(clockwise.transpose && clockwise.flip_x && !clockwise.flip_y);
        let half = read([-ONE, 0, 0, -ONE]);
        assert!(!half.transpose && half.flip_x && half.flip_y);
        let back = read([0, -ONE, ONE, 0]);
        assert!(back.transpose && !back.flip_x && back.flip_y);
        assert_eq!(read([-ONE, 0, 0, ONE]), Orientation::default().mirrored(true));
        assert_eq!(read([ONE, 100, -100, ONE]), Orientation::default());
        assert_eq!(Orientation::from_matrix([46341, 46341, -46341, 46341]), None);
        assert_eq!(read([0; 4]), Orientation::default());
    }

    #[test]
    fn places_every_orientation_consistently_with_its_crop() {
        // A stored 3x2 picture whose pixels say where they come from.
        let (width, height, stride) = (3u32, 2u32, 12usize);
        let stored: Vec<u8> = (0..2u8).flat_map(|y| (0..4u8).flat_map(move |x| [x, y, 9])).collect();
        for bits in 0..8u8 {
            let orientation = Orientation { transpose: bits & 1 != 0, flip_x: bits & 2 != 0, flip_y: bits & 4 != 0 };
            let (w, h) = orientation.turn(width, height);
            let mut shown = vec![0; 18];
            orientation.place(&stored, stride, &mut shown, w as usize);
            for y in 0..h {
                for x in 0..w {
                    let one = CropBox { x, y, width: 1, height: 1 };
                    let from = orientation.to_stored(one, w, h);
                    let pixel = &shown[3 * (y * w + x) as usize..][..3];
                    assert_eq!(pixel, [from.x as u8, from.y as u8, 9], "{orientation:?}");
                }
            }
        }
    }
}
