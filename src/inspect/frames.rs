//! The frames of one video, as an evaluation would see it.

use crate::config::recipe::Recipe;
use crate::data::loader::LoaderConfig;
use crate::video::{VideoError, VideoReader, square_along};
use std::path::Path;

/// Shortest and longest time that an animation shows a frame.
const FRAME_MS: (f64, f64) = (40.0, 500.0);
/// Used where a file does not tell its frame rate.
const UNKNOWN_MS: f64 = 200.0;

/// Frames of a video, cropped and scaled for a model.
#[derive(Clone, Debug)]
pub struct ClipFrames {
    /// `[frames, image_px, image_px, 3]`, RGB.
    pub pixels: Vec<u8>,
    pub frames: usize,
    pub image_px: usize,
    /// Time from one frame to the next, milliseconds, within what can be looked at.
    pub frame_ms: u32,
}

/// Reads the frames that the recipe's sampling takes of a whole video in evaluation, the central square of each.
///
/// # Errors
/// What is wrong with the file.
pub fn read_clip(path: &Path, recipe: &Recipe, image_px: usize) -> Result<ClipFrames, VideoError> {
    let config = LoaderConfig::default().with_recipe(recipe);
    let mut video = VideoReader::open(path)?;
    let numbers = config.frame_rule.view(0, video.num_frames(), config.frames, 0, 1);
    let crop = square_along(video.width(), video.height(), 0, 1);
    let mut pixels = vec![0; numbers.len() * image_px * image_px * 3];
    video.read(&numbers, crop, image_px as u32, false, &mut pixels)?;
    Ok(ClipFrames { pixels, frames: numbers.len(), image_px, frame_ms: frame_ms(&numbers, video.fps()) })
}

fn frame_ms(numbers: &[u64], fps: f64) -> u32 {
    let (Some(first), Some(last)) = (numbers.first(), numbers.last()) else { return UNKNOWN_MS as u32 };
    let apart = (last - first) as f64 / (numbers.len().max(2) - 1) as f64;
    let ms = if fps > 0.0 { apart / fps * 1e3 } else { UNKNOWN_MS };
    ms.clamp(FRAME_MS.0, FRAME_MS.1) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn animations_keep_the_videos_time_within_what_can_be_seen() {
        assert_eq!(frame_ms(&[0, 4, 8, 12], 25.0), 160);
        assert_eq!(frame_ms(&[0, 1], 240.0), 40);
        assert_eq!(frame_ms(&[0, 1000], 25.0), 500);
        assert_eq!(frame_ms(&[7], 25.0), 40);
        assert_eq!(frame_ms(&[0, 4], 0.0), 200);
    }
}
