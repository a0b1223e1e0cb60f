//! Animations as GIF files, which any viewer and any web page plays.

use super::{ReportError, check_picture};
use std::io::Write;
use std::path::Path;

/// Quality against time in finding the 256 colours of a frame, 1 (best) to 30. A smooth 224 x 224 frame takes 31 ms at
/// 1, 11 at 3, 5 at 10 (the crate's own choice) and is off by 6.3, 6.5, 7.2 of 255 in the worst channel; small frames
/// lose more (64 x 64: 8.8, 10.6, 12.5).
const SPEED: i32 = 3;

/// Writes an animation that repeats for ever, whole or not at all. Each frame gets its own 256 colours.
///
/// # Shapes
/// Each frame: `[height, width, 3]`. `frame_ms`: milliseconds that a frame is shown, 10 to 655,350; GIF counts in
/// hundredths of a second, and many viewers show frames of less than 20 ms for 100.
///
/// # Errors
/// No frame, a frame that does not fit the sides, a time out of range, what the disk reports.
pub fn write_gif(path: &Path, frames: &[&[u8]], width: usize, height: usize, frame_ms: u32) -> Result<(), ReportError> {
    if frames.is_empty() {
        return Err(ReportError::NothingToDraw { frames: 0, scale: 1 });
    }
    let delay = match u16::try_from((frame_ms + 5) / 10) {
        Ok(delay @ 1..) => delay,
        _ => return Err(ReportError::BadFrameTime { frame_ms }),
    };
    let mut sides = (0, 0);
    for (column, rgb) in frames.iter().enumerate() {
        sides = check_picture(rgb, width, height).map_err(|source| ReportError::BadFrame {
            row: 0,
            column,
            source: Box::new(source),
        })?;
    }
    let (w, h) = sides;
    Ok(crate::fs::write_atomic(path, |out| encode(out, frames, w, h, delay).map_err(std::io::Error::other))?)
}

fn encode(out: &mut dyn Write, frames: &[&[u8]], w: u16, h: u16, delay: u16) -> Result<(), gif::EncodingError> {
    let mut encoder = gif::Encoder::new(out, w, h, &[])?;
    encoder.set_repeat(gif::Repeat::Infinite)?;
    for rgb in frames {
        let mut frame = gif::Frame::from_rgb_speed(w, h, rgb, SPEED);
        frame.delay = delay;
        encoder.write_frame(&frame)?;
    }
    encoder.into_inner()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames of a few colours come back exactly, in order, with their time.
    #[test]
    fn frames_come_back() {
        let (width, height) = (9, 5);
        let frames: Vec<Vec<u8>> =
            (0..3u8).map(|t| (0..45u8).flat_map(|i| [i % 7 * 30, t * 100, i / 9 * 50]).collect()).collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("clip.gif");
        let views: Vec<&[u8]> = frames.iter().map(|frame| &frame[..]).collect();
        write_gif(&path, &views, width, height, 133).unwrap();
        let mut options = gif::DecodeOptions::new();
        options.set_color_output(gif::ColorOutput::RGBA);
        let mut decoder = options.read_info(std::fs::File::open(&path).unwrap()).unwrap();
        assert_eq!((decoder.width(), decoder.height()), (9, 5));
        let mut read = 0;
        while let Some(frame) = decoder.read_next_frame().unwrap() {
            assert_eq!(frame.delay, 13);
            let rgb: Vec<u8> = frame.buffer.chunks(4).flat_map(|p| [p[0], p[1], p[2]]).collect();
            assert_eq!(rgb, frames[read]);
            read += 1;
        }
        assert_eq!(read, 3);
        assert_eq!(decoder.repeat(), gif::Repeat::Infinite);
    }

    /// 16,384 colours in 256: the best choice is off by some 5 on average, in the channel that is off most.
    #[test]
    fn many_colours_stay_near() {
        let side = 128;
        let rgb: Vec<u8> = (0..side * side).flat_map(|i| [(i % side * 2) as u8, (i / side * 2) as u8, 90]).collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("clip.gif");
        write_gif(&path, &[&rgb], side, side, 100).unwrap();
        let mut options = gif::DecodeOptions::new();
        options.set_color_output(gif::ColorOutput::RGBA);
        let mut decoder = options.read_info(std::fs::File::open(&path).unwrap()).unwrap();
        let frame = decoder.read_next_frame().unwrap().unwrap();
        let off = |(found, expected): (&[u8], &[u8])| -> u32 {
            found.iter().zip(expected).map(|(a, b)| u32::from(a.abs_diff(*b))).max().unwrap_or(0)
        };
        let sum: u32 = frame.buffer.chunks(4).map(|p| &p[..3]).zip(rgb.chunks(3)).map(off).sum();
        assert!(sum < 9 * 16_384, "mean {}", f64::from(sum) / 16_384.0);
    }

    #[test]
    fn what_cannot_be_written_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("clip.gif");
        let good = [0u8; 12];
        let text = |frames: &[&[u8]], ms| write_gif(&path, frames, 2, 2, ms).unwrap_err().to_string();
        assert!(text(&[], 40).contains("no frame"));
        assert!(text(&[&good, &good[..3]], 40).contains("column 1"));
        assert!(text(&[&good], 0).contains("0 ms"));
        assert!(text(&[&good], 1_000_000).contains("1000000 ms"));
        assert!(!path.exists());
    }
}
