//! The clips of `avion bench decode`: drawn from a folder of videos, or listed in a file.

use crate::data::folder::{VIDEO_ENDINGS, videos};
use crate::video::{CropBox, VideoReader, random_resized_crop};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Clips to read, in order.
#[derive(Clone, Debug)]
pub struct Work(Kind);

#[derive(Clone, Debug)]
enum Kind {
    /// The videos in turn, `clips` in all, of `frames` each: every `stride`-th, or spread over a random second.
    Drawn { videos: Vec<PathBuf>, frames: usize, stride: Option<u64>, clips: usize },
    /// At least one, all of as many frames.
    Listed(Vec<Line>),
}

/// What is read of a video.
pub struct Sample {
    pub frames: Vec<u64>,
    pub crop: CropBox,
}

/// A line of a list.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    video: PathBuf,
    frames: Vec<u64>,
    crop: Crop,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Crop {
    x: u32,
    y: u32,
    width: u32,
    height: u32,
}

impl Work {
    /// Clips of the videos in a folder, to any depth.
    ///
    /// # Errors
    /// A folder that cannot be read, or no video in it.
    pub fn find(folder: &Path, frames: usize, stride: Option<u64>, clips: usize) -> Result<Self, String> {
        let videos = videos(folder, None).map_err(|(path, e)| format!("{}: {e}", path.display()))?;
        if videos.is_empty() {
            return Err(format!("no video ({}) under {}", VIDEO_ENDINGS.join(", "), folder.display()));
        }
        Ok(Work(Kind::Drawn { videos, frames, stride, clips }))
    }

    /// Clips listed in a file, a JSON object a line.
    ///
    /// # Errors
    /// The file or line that cannot be read, and why.
    pub fn read(file: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
        let mut listed: Vec<Line> = Vec::new();
        for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
            let fault = |what: String| format!("{}:{number}: {what}", file.display());
            let line: Line = serde_json::from_str(line).map_err(|e| fault(e.to_string()))?;
            let expected = listed.first().map_or(line.frames.len().max(1), |first| first.frames.len());
            if line.frames.len() != expected {
                let wanted = if listed.is_empty() { "at least 1 frame".into() } else { format!("{expected} frames") };
                return Err(fault(format!("expected {wanted}, found {}", line.frames.len())));
            }
            listed.push(line);
        }
        if listed.is_empty() {
            return Err(format!("{}: no sample in it", file.display()));
        }
        Ok(Work(Kind::Listed(listed)))
    }

    /// How many there are.
    pub fn clips(&self) -> usize {
        match &self.0 {
            Kind::Drawn { clips, .. } => *clips,
            Kind::Listed(listed) => listed.len(),
        }
    }

    /// Frames of each.
    pub fn frames(&self) -> usize {
        match &self.0 {
            Kind::Drawn { frames, .. } => *frames,
            Kind::Listed(listed) => listed.first().map_or(0, |first| first.frames.len()),
        }
    }

    /// How many videos they come from.
    pub fn videos(&self) -> usize {
        match &self.0 {
            Kind::Drawn { videos, .. } => videos.len(),
            Kind::Listed(listed) => {
                listed.iter().map(|line| &line.video).collect::<std::collections::BTreeSet<_>>().len()
            }
        }
    }

    /// The video of a clip; past the last clip they start again.
    pub fn video(&self, number: usize) -> &Path {
        match &self.0 {
            Kind::Drawn { videos, .. } => &videos[number % videos.len()],
            Kind::Listed(listed) => &listed[number % listed.len()].video,
        }
    }

    /// What is read of it.
    pub fn sample(&self, number: usize, video: &VideoReader) -> Sample {
        match &self.0 {
            Kind::Drawn { frames, stride, .. } => {
                let mut rng = ChaCha8Rng::seed_from_u64(number as u64);
                let frames = pick(video.num_frames(), video.fps(), *frames, *stride, &mut rng);
                let (scale, ratio) = ([0.5, 1.0], [3.0 / 4.0, 4.0 / 3.0]);
                Sample { frames, crop: random_resized_crop(video.width(), video.height(), scale, ratio, &mut rng) }
            }
            Kind::Listed(listed) => {
                let Line { frames, crop: Crop { x, y, width, height }, .. } = &listed[number % listed.len()];
                Sample { frames: frames.clone(), crop: CropBox { x: *x, y: *y, width: *width, height: *height } }
            }
        }
    }
}

/// The frames of one clip, as `benches/decode_peers.py` picks them.
fn pick(num_frames: u64, fps: f64, frames: usize, stride: Option<u64>, rng: &mut impl Rng) -> Vec<u64> {
    let last = num_frames.saturating_sub(1);
    let count = frames as u64;
    if let Some(stride) = stride {
        let span = count.saturating_sub(1).saturating_mul(stride).saturating_add(1);
        let start = rng.random_range(0..(num_frames.saturating_sub(span) + 1).max(1));
        return (0..count).map(|i| start.saturating_add(i.saturating_mul(stride)).min(last)).collect();
    }
    let span = (fps.round() as u64).max(count).min(last);
    let start = rng.random_range(0..(num_frames.saturating_sub(span)).max(1));
    let place = |i: usize, part: f64| (i as f64 + part) * span as f64 / frames as f64;
    (0..frames).map(|i| (start + place(i, rng.random()) as u64).min(last)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picks_lie_in_their_window() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut starts = std::collections::BTreeSet::new();
        for _ in 0..2000 {
            let second = pick(450, 30.0, 4, None, &mut rng);
            assert!(second.is_sorted() && second.len() == 4 && second[3] < 450, "{second:?}");
            assert!(second[3] - second[0] < 30, "{second:?}");
            let strided = pick(300, 30.0, 16, Some(4), &mut rng);
            assert!(strided.windows(2).all(|w| w[1] - w[0] == 4) && strided[15] < 300, "{strided:?}");
            starts.insert(strided[0]);
        }
        assert_eq!((starts.first(), starts.last()), (Some(&0), Some(&239)));
        // Shorter than the window: the last frame repeats.
        assert_eq!(pick(5, 30.0, 4, Some(2), &mut rng), [0, 2, 4, 4]);
        assert!(pick(1, 0.0, 4, None, &mut rng).iter().all(|k| *k == 0));
    }

    #[test]
    fn samples_are_read_and_faults_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("samples.jsonl");
        let read = |text: &str| {
            std::fs::write(&file, text).unwrap();
            Work::read(&file)
        };
        let crop = r#""crop": {"x": 1, "y": 2, "width": 30, "height": 40}"#;
        let line = format!(r#"{{"video": "a.mp4", "frames": [3, 9], {crop}}}"#);
        let work = read(&format!("{line}\n\n{}\n", line.replace("a.mp4", "b.mp4"))).unwrap();
        assert_eq!((work.clips(), work.frames(), work.videos()), (2, 2, 2));
        assert_eq!(work.video(1), Path::new("b.mp4"));
        for (text, parts) in [
            ("", &["no sample"][..]),
            (&format!("{line}\n{{"), &["samples.jsonl:2"]),
            (&format!("{line}\n{}", line.replace("9]", "9, 12]")), &["samples.jsonl:2", "2 frames", "3"]),
            (&line.replace("3, 9", ""), &["samples.jsonl:1", "at least 1"]),
        ] {
            let error = read(text).unwrap_err();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
        assert!(Work::read(&folder.path().join("none")).unwrap_err().contains("none"));
        assert!(Work::find(folder.path(), 4, None, 1).unwrap_err().contains("no video"));
    }
}
