//! Rows of frames to look at: all at once, or moving.

use crate::report::{Layout, ReportError, lay_out, write_gif};
use std::path::Path;

/// Small frames are enlarged to about this side.
const LEAST_PX: usize = 112;

/// Clips of one size, a row each.
#[derive(Clone, Debug)]
pub struct Strip {
    pub image_px: usize,
    /// Each `[frames, image_px, image_px, 3]`.
    pub rows: Vec<Vec<u8>>,
}

impl Strip {
    fn layout(&self) -> Layout {
        Layout { scale: (LEAST_PX / self.image_px.max(1)).max(1), ..Layout::default() }
    }

    fn frames(row: &[u8], image_px: usize) -> Vec<&[u8]> {
        row.chunks_exact(image_px * image_px * 3).collect()
    }

    /// Writes a picture of all: a row per clip, a column per frame.
    ///
    /// # Errors
    /// A picture that would be too large, what the disk reports.
    pub fn write_png(&self, path: &Path) -> Result<(), ReportError> {
        let rows: Vec<Vec<&[u8]>> = self.rows.iter().map(|row| Self::frames(row, self.image_px)).collect();
        lay_out(&rows, self.image_px, self.image_px, self.layout())?.write_png(path)
    }

    /// Writes an animation of the first `clips` rows side by side.
    ///
    /// # Errors
    /// As [`write_png`](Self::write_png).
    pub fn write_gif(&self, path: &Path, clips: usize, frame_ms: u32) -> Result<(), ReportError> {
        let rows: Vec<Vec<&[u8]>> = self.rows.iter().take(clips).map(|row| Self::frames(row, self.image_px)).collect();
        let frames = rows.iter().map(Vec::len).min().unwrap_or(0);
        let beside = |frame: usize| {
            let row = rows.iter().map(|row| row[frame]).collect();
            lay_out(&[row], self.image_px, self.image_px, self.layout())
        };
        let pictures = (0..frames).map(beside).collect::<Result<Vec<_>, _>>()?;
        let views: Vec<&[u8]> = pictures.iter().map(|picture| &picture.rgb[..]).collect();
        let (width, height) = pictures.first().map_or((0, 0), |picture| (picture.width, picture.height));
        write_gif(path, &views, width, height, frame_ms)
    }
}
