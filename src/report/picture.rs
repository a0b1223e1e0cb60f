//! Pictures in memory, and as PNG files.

use super::{ReportError, check_picture};
use std::path::Path;

/// A picture in colour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// `[height, width, 3]`, row-major, 0 to 255.
    pub rgb: Vec<u8>,
    /// Pixels.
    pub width: usize,
    pub height: usize,
}

impl Picture {
    /// A picture of one colour.
    ///
    /// # Errors
    /// A side of 0, or above 65535.
    pub fn filled(width: usize, height: usize, colour: [u8; 3]) -> Result<Self, ReportError> {
        let side = 1..=usize::from(u16::MAX);
        if !side.contains(&width) || !side.contains(&height) {
            let expected = width.saturating_mul(height).saturating_mul(3);
            return Err(ReportError::BadPicture { width, height, expected, found: 0 });
        }
        Ok(Self { rgb: colour.repeat(width * height), width, height })
    }

    /// Colours the part of a rectangle that lies inside.
    pub fn fill(&mut self, x: usize, y: usize, width: usize, height: usize, colour: [u8; 3]) {
        let (right, bottom) = ((x + width).min(self.width), (y + height).min(self.height));
        for y in y..bottom {
            for x in x..right {
                self.set(x, y, colour);
            }
        }
    }

    /// # Panics
    /// Outside the picture.
    pub(super) fn set(&mut self, x: usize, y: usize, colour: [u8; 3]) {
        self.rgb[(y * self.width + x) * 3..][..3].copy_from_slice(&colour);
    }

    /// The PNG file.
    ///
    /// # Errors
    /// `rgb` does not fit the sides.
    pub fn png(&self) -> Result<Vec<u8>, ReportError> {
        encode_png(&self.rgb, self.width, self.height)
    }

    /// Writes a PNG file, whole or not at all.
    ///
    /// # Errors
    /// `rgb` does not fit the sides; what the disk reports.
    pub fn write_png(&self, path: &Path) -> Result<(), ReportError> {
        let png = self.png()?;
        Ok(crate::fs::write_atomic(path, |out| out.write_all(&png))?)
    }
}

pub(super) fn encode_png(rgb: &[u8], width: usize, height: usize) -> Result<Vec<u8>, ReportError> {
    let (w, h) = check_picture(rgb, width, height)?;
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, w.into(), h.into());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder
        .write_header()
        .and_then(|mut writer| {
            writer.write_image_data(rgb)?;
            writer.finish()
        })
        .map_err(|error| ReportError::Encode { width, height, reason: error.to_string() })?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_png_file_gives_back_the_pixels() {
        let mut picture = Picture::filled(7, 3, [1, 2, 3]).unwrap();
        picture.fill(5, 1, 9, 1, [200, 0, 255]); // reaches over the edge
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b.png");
        picture.write_png(&path).unwrap();
        let file = std::io::BufReader::new(std::fs::File::open(&path).unwrap());
        let mut reader = png::Decoder::new(file).read_info().unwrap();
        let mut rgb = vec![0; 7 * 3 * 3];
        let info = reader.next_frame(&mut rgb).unwrap();
        assert_eq!((info.width, info.height, &rgb), (7, 3, &picture.rgb));
        assert_eq!(picture.rgb.chunks(3).filter(|&pixel| pixel == [200, 0, 255]).count(), 2);
    }

    #[test]
    fn impossible_pictures_are_refused() {
        assert!(Picture::filled(0, 3, [0; 3]).is_err() && Picture::filled(3, 65536, [0; 3]).is_err());
        let broken = Picture { rgb: vec![0; 5], width: 2, height: 1 };
        assert!(broken.png().unwrap_err().to_string().contains("2 x 1 needs 6 bytes"));
    }
}
