//! Labelled videos: a shape moves across the picture again and again, and its direction is its class.
//!
//! Colour, shape, size, speed, place and the dark background are drawn independently of the class, and at every moment the place is
//! uniform: a single frame does not tell the class, only motion does.

use super::files::{bytes_of, for_each, write_whole};
use super::scene::Scene;
use super::{EXTENSION, Manifest, SyntheticError, write_video};
use crate::data::rng::{Purpose, keyed};
use serde::{Deserialize, Serialize};
use std::f32::consts::TAU;
use std::path::{Path, PathBuf};

/// Of the drawing and the files. A set made by another version is made anew.
const VERSION: u32 = 2;

/// The classes in the order of their labels: directions in steps of an eighth of a turn, clockwise from the right.
pub const MOTION_CLASSES: [&str; 8] = ["right", "down right", "down", "down left", "left", "up left", "up", "up right"];

/// What set to make.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MotionConfig {
    /// Videos to pre-train on.
    pub train: usize,
    /// The first so many of them are listed with their labels to fine-tune on.
    pub labelled: usize,
    /// Further videos to test on.
    pub test: usize,
    /// Width and height, even.
    pub size_px: u32,
    /// Frames per second.
    pub fps: u32,
    /// Frames of a video.
    pub frames: usize,
    /// The same seed gives the same set.
    pub seed: u64,
}

impl Default for MotionConfig {
    fn default() -> Self {
        Self { train: 1024, labelled: 256, test: 256, size_px: 64, fps: 12, frames: 24, seed: 0 }
    }
}

/// A set on disk. The lists are of the form `path frames label`.
#[derive(Clone, Debug)]
pub struct MotionSet {
    /// Folder that the videos lie in.
    pub root: PathBuf,
    pub train_list: PathBuf,
    pub labelled_list: PathBuf,
    pub test_list: PathBuf,
    /// Names of the classes, one a line.
    pub names: PathBuf,
    /// Size of all videos.
    pub bytes: u64,
    /// Whether the set was there already.
    pub reused: bool,
}

/// A video to be made.
struct Video {
    path: PathBuf,
    name: String,
    number: u64,
    label: usize,
}

/// Makes the set in `folder`: `videos/`, `train.txt`, `labelled.txt`, `test.txt`, `classes.txt`, `motions.json`. Does
/// nothing if the same set is there, whole, already. Classes come about equally often in each list. Uses all cores.
///
/// # Errors
/// Settings out of range, files that cannot be written, an FFmpeg without a suitable encoder.
pub fn generate_motions(folder: &Path, config: &MotionConfig) -> Result<MotionSet, SyntheticError> {
    config.check()?;
    let root = folder.join("videos");
    let plan = |split: &str, first: usize, count: usize| -> Vec<Video> {
        let video = |number: usize| {
            let name = format!("{split}_{number:05}.{EXTENSION}");
            let label = number % MOTION_CLASSES.len();
            Video { path: root.join(&name), name, number: (first + number) as u64, label }
        };
        (0..count).map(video).collect()
    };
    let mut videos = plan("train", 0, config.train);
    videos.extend(plan("test", config.train, config.test));
    let (train, test) = videos.split_at(config.train);
    let mut set = MotionSet {
        train_list: folder.join("train.txt"),
        labelled_list: folder.join("labelled.txt"),
        test_list: folder.join("test.txt"),
        names: folder.join("classes.txt"),
        bytes: 0,
        reused: true,
        root: root.clone(),
    };

    let manifest = folder.join("motions.json");
    let bytes = || bytes_of(videos.iter().map(|video| video.path.as_path()));
    if let Some(known) = Manifest::find(&manifest, VERSION, config)
        && [&set.train_list, &set.labelled_list, &set.test_list, &set.names].iter().all(|path| path.is_file())
        && bytes().is_ok_and(|bytes| bytes == known)
    {
        set.bytes = known;
        return Ok(set);
    }

    Manifest::<MotionConfig>::remove(&manifest)?;
    std::fs::create_dir_all(&root).map_err(super::file_error(&root, "create the folder"))?;
    for_each(&videos, |video| video.write(config))?;
    set.bytes = bytes()?;
    set.reused = false;
    let list = |videos: &[Video]| -> String {
        videos.iter().map(|video| format!("{} {} {}\n", video.name, config.frames, video.label)).collect()
    };
    write_whole(&set.train_list, list(train).as_bytes())?;
    write_whole(&set.labelled_list, list(&train[..config.labelled]).as_bytes())?;
    write_whole(&set.test_list, list(test).as_bytes())?;
    write_whole(&set.names, (MOTION_CLASSES.join("\n") + "\n").as_bytes())?;
    Manifest::write(&manifest, VERSION, config, set.bytes)?;
    Ok(set)
}

impl Video {
    fn write(&self, config: &MotionConfig) -> Result<(), SyntheticError> {
        let mut rng = keyed(config.seed, 0, self.number, Purpose::Synthetic);
        let direction = self.label as f32 / MOTION_CLASSES.len() as f32 * TAU;
        let scene = Scene::endless(direction, &mut rng);
        let times = (0..config.frames).map(|frame| (frame as f32 + 0.5) / config.frames as f32);
        let (size, fps) = (config.size_px, f64::from(config.fps));
        write_video(&self.path, size, size, fps, scene.frames(size as usize, times))?;
        Ok(())
    }
}

impl MotionConfig {
    fn check(&self) -> Result<(), SyntheticError> {
        let require = |holds: bool, field, expected: &str, found: usize| match holds {
            true => Ok(()),
            false => Err(SyntheticError::Setting { field, expected: expected.to_owned(), found: found.to_string() }),
        };
        let size = self.size_px as usize;
        require(
            (32..=1024).contains(&size) && size.is_multiple_of(2),
            "size_px",
            "an even number from 32 to 1024",
            size,
        )?;
        require((1..=120).contains(&self.fps), "fps", "1 to 120", self.fps as usize)?;
        require((2..=10_000).contains(&self.frames), "frames", "2 to 10000", self.frames)?;
        require(self.labelled <= self.train, "labelled", "at most as many as train", self.labelled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the shape is, as the mean place of pixels that stand out from the grey background; `None` while it wraps.
    fn place(frame: &[u8], size: usize) -> Option<[f64; 2]> {
        let saturated = |pixel: &[u8]| pixel.iter().max().unwrap() - pixel.iter().min().unwrap() > 60;
        let places: Vec<[usize; 2]> =
            (0..size * size).filter(|i| saturated(&frame[i * 3..i * 3 + 3])).map(|i| [i % size, i / size]).collect();
        let edge = |at: &[usize; 2]| at.iter().any(|at| *at == 0 || *at == size - 1);
        if places.is_empty() || places.iter().any(edge) {
            return None;
        }
        Some([0, 1].map(|axis| places.iter().map(|at| at[axis] as f64).sum::<f64>() / places.len() as f64))
    }

    #[test]
    fn shapes_move_as_their_label_says_from_anywhere() {
        let size = 48;
        let mut seen = [0; 8];
        for number in 0..160 {
            let label = number as usize % 8;
            let direction = label as f32 / 8.0 * TAU;
            let scene = Scene::endless(direction, &mut keyed(1, 0, number, Purpose::Synthetic));
            let frames: Vec<Vec<u8>> = scene.frames(size, [0.4, 0.5].into_iter()).collect();
            let [Some(before), Some(after)] = [place(&frames[0], size), place(&frames[1], size)] else { continue };
            seen[label] += 1;
            let [dx, dy] = [0, 1].map(|axis| after[axis] - before[axis]);
            let off = (dy.atan2(dx) - f64::from(direction)).rem_euclid(std::f64::consts::TAU);
            assert!(!(0.35..5.93).contains(&off), "{}: {dx} {dy}", MOTION_CLASSES[label]);
            let way = dx.hypot(dy) / size as f64;
            assert!((0.03..0.14).contains(&way), "{way}");
        }
        assert!(seen.iter().all(|seen| *seen >= 4), "{seen:?}");
    }

    /// At any one time the mean picture is the same for all classes: the place does not tell the direction.
    #[test]
    fn one_frame_does_not_tell_the_class() {
        let size = 32;
        for time in [0.02, 0.98] {
            // How much of the shape lies in the right half.
            let share = |label: u64| {
                let clips = 600;
                let right = (0..clips).filter(|clip| {
                    let mut rng = keyed(2, label, *clip, Purpose::Synthetic);
                    let scene = Scene::endless(label as f32 / 8.0 * TAU, &mut rng);
                    let frame = scene.frames(size, [time].into_iter()).next().unwrap();
                    let bright = |columns: std::ops::Range<usize>| {
                        let pixel = |y: usize, x: usize| {
                            let pixel = &frame[(y * size + x) * 3..][..3];
                            u64::from(pixel.iter().max().unwrap() - pixel.iter().min().unwrap())
                        };
                        (0..size).map(|y| columns.clone().map(|x| pixel(y, x)).sum::<u64>()).sum::<u64>()
                    };
                    bright(size / 2..size) > bright(0..size / 2)
                });
                right.count() as f64 / clips as f64
            };
            // Right and left: 0.5 each, deviation 0.02.
            for label in [0, 4] {
                assert!((share(label) - 0.5).abs() < 0.08, "{label} at {time}: {}", share(label));
            }
        }
    }

    #[test]
    fn impossible_sets_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        for (field, config) in [
            ("size_px", MotionConfig { size_px: 33, ..MotionConfig::default() }),
            ("frames", MotionConfig { frames: 1, ..MotionConfig::default() }),
            ("fps", MotionConfig { fps: 0, ..MotionConfig::default() }),
            ("labelled", MotionConfig { labelled: 2000, ..MotionConfig::default() }),
        ] {
            let text = generate_motions(folder.path(), &config).unwrap_err().to_string();
            assert!(text.contains(field), "{text}");
        }
    }
}
