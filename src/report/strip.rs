//! Frames side by side: originals above what was masked above what was reconstructed.

use super::picture::Picture;
use super::{ReportError, check_picture};

/// How frames are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Pixels between frames.
    pub gap: usize,
    /// Every pixel becomes a square of so many, so that small frames can be looked at.
    pub scale: usize,
    /// Colour of gaps and of places without a frame.
    pub background: [u8; 3],
}

impl Default for Layout {
    fn default() -> Self {
        Self { gap: 2, scale: 1, background: [255; 3] }
    }
}

/// Lays out frames of one size in rows, each from the left. Rows may differ in length.
///
/// # Shapes
/// Each frame: `[height, width, 3]`.
///
/// # Errors
/// No frame, a frame that does not fit the sides (named by row and column), a picture wider or higher than 65535.
pub fn lay_out(rows: &[Vec<&[u8]>], width: usize, height: usize, layout: Layout) -> Result<Picture, ReportError> {
    let Layout { gap, scale, background } = layout;
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    if columns == 0 || scale == 0 {
        return Err(ReportError::NothingToDraw { frames: columns, scale });
    }
    let length = |count: usize, side: usize| {
        let frames = side.saturating_mul(scale).saturating_mul(count);
        frames.saturating_add(gap.saturating_mul(count - 1))
    };
    let mut picture = Picture::filled(length(columns, width), length(rows.len(), height), background)?;
    for (row, frames) in rows.iter().enumerate() {
        for (column, rgb) in frames.iter().enumerate() {
            check_picture(rgb, width, height).map_err(|source| ReportError::BadFrame {
                row,
                column,
                source: Box::new(source),
            })?;
            let (left, top) = (column * (width * scale + gap), row * (height * scale + gap));
            for (at, pixel) in rgb.chunks_exact(3).enumerate() {
                let (x, y) = (left + at % width * scale, top + at / width * scale);
                picture.fill(x, y, scale, scale, [pixel[0], pixel[1], pixel[2]]);
            }
        }
    }
    Ok(picture)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_lie_where_they_belong() {
        // Two pixels wide, one high; the second row has one frame.
        let (a, b, c) = ([1u8, 1, 1, 2, 2, 2], [3u8, 3, 3, 4, 4, 4], [5u8, 5, 5, 6, 6, 6]);
        let layout = Layout { gap: 1, scale: 2, background: [9; 3] };
        let picture = lay_out(&[vec![&a, &b], vec![&c]], 2, 1, layout).unwrap();
        assert_eq!((picture.width, picture.height), (9, 5));
        let grey: Vec<u8> = picture.rgb.chunks(3).map(|pixel| pixel[0]).collect();
        let rows: Vec<&[u8]> = grey.chunks(9).collect();
        assert_eq!(rows[0], [1, 1, 2, 2, 9, 3, 3, 4, 4]);
        assert_eq!(rows[1], rows[0]);
        assert_eq!(rows[2], [9; 9]);
        assert_eq!(rows[3], [5, 5, 6, 6, 9, 9, 9, 9, 9]);
        assert_eq!(rows[4], rows[3]);
    }

    #[test]
    fn what_cannot_be_laid_out_is_named() {
        let good = [0u8; 12];
        let text = |rows: &[Vec<&[u8]>], layout| lay_out(rows, 2, 2, layout).unwrap_err().to_string();
        let error = text(&[vec![&good], vec![&good, &good[..9]]], Layout::default());
        assert!(error.contains("row 1, column 1") && error.contains("2 x 2 needs 12 bytes"), "{error}");
        assert!(text(&[vec![]], Layout::default()).contains("no frame"));
        assert!(text(&[vec![&good]], Layout { scale: 0, ..Layout::default() }).contains("scale 0"));
        assert!(text(&[vec![&good]], Layout { scale: 40_000, ..Layout::default() }).contains("65535"));
    }
}
