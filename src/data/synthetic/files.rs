//! The files of a synthetic set: each clip's video or chunks, and the tables.

use super::combination::Combination;
use super::scene::Scene;
use super::{EXTENSION, Split, SyntheticConfig, SyntheticError, file_error, write_video};
use crate::data::rng::{Purpose, keyed};
use crate::data::{Captions, Clip};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// A video to be made.
pub(super) struct Video {
    pub split: Split,
    number: usize,
    combination: Combination,
    name: String,
    /// Each file and the frames in it.
    files: Vec<(PathBuf, std::ops::Range<usize>)>,
}

impl Video {
    pub fn plan(config: &SyntheticConfig, root: &Path, split: Split, number: usize, combination: Combination) -> Self {
        let name = format!("{}_{number:05}.{EXTENSION}", split.name());
        let frames = config.num_frames();
        let path = root.join(&name);
        let files = if config.chunk_s == 0.0 {
            vec![(path, 0..frames)]
        } else {
            // As `data::layout` finds them again.
            let begin = |chunk: usize| chunk as f64 * config.chunk_s;
            let frame = |chunk| ((begin(chunk) * f64::from(config.fps)) as usize).min(frames);
            (0..)
                .map(|chunk| (begin(chunk), frame(chunk)..frame(chunk + 1)))
                .take_while(|(_, frames)| !frames.is_empty())
                .map(|(begin, frames)| (path.join(format!("{begin}.{EXTENSION}")), frames))
                .collect()
        };
        Self { split, number, combination, name, files }
    }

    pub fn clip(&self, config: &SyntheticConfig) -> Clip {
        let caption = Captions::One(self.combination.caption().into());
        Clip::narrated(self.name.as_str().into(), 0.0, config.seconds, caption)
    }

    fn write(&self, config: &SyntheticConfig) -> Result<(), SyntheticError> {
        let split = match self.split {
            Split::Train => 1,
            Split::Heldout => 2,
        };
        let mut rng = keyed(config.seed, split, self.number as u64, Purpose::Synthetic);
        let scene = Scene::draw(self.combination, &mut rng);
        let count = config.num_frames();
        for (path, frames) in &self.files {
            if let Some(folder) = path.parent() {
                let made = std::fs::create_dir_all(folder);
                made.map_err(file_error(folder, "create the folder"))?;
            }
            let times = frames.clone().map(|frame| (frame as f32 + 0.5) / count as f32);
            let pictures = scene.frames(config.size_px as usize, times);
            let (size, fps) = (config.size_px, f64::from(config.fps));
            write_video(path, size, size, fps, pictures)?;
        }
        Ok(())
    }
}

/// Draws and encodes every video. Stops at the first that fails.
pub(super) fn write_all(config: &SyntheticConfig, videos: &[Video]) -> Result<(), SyntheticError> {
    for_each(videos, |video| video.write(config))
}

/// Does every item, one a thread at a time. Stops at the first that fails.
pub(super) fn for_each<T: Sync>(
    items: &[T],
    write: impl Fn(&T) -> Result<(), SyntheticError> + Sync,
) -> Result<(), SyntheticError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let work = || {
        while !stop.load(Ordering::Relaxed)
            && let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed))
        {
            write(item).inspect_err(|_| stop.store(true, Ordering::Relaxed))?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads.min(items.len())).map(|_| scope.spawn(work)).collect();
        let mut result = work();
        for helper in helpers {
            match helper.join() {
                Ok(helped) => result = result.and(helped),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        result
    })
}

pub(super) fn total_bytes(videos: &[Video]) -> Result<u64, SyntheticError> {
    bytes_of(videos.iter().flat_map(|video| &video.files).map(|(path, _)| path.as_path()))
}

/// Size of all files together.
pub(super) fn bytes_of<'p>(files: impl IntoIterator<Item = &'p Path>) -> Result<u64, SyntheticError> {
    let size = |path: &Path| Ok(std::fs::metadata(path).map_err(file_error(path, "look at the video"))?.len());
    files.into_iter().map(size).sum()
}

/// Writes `video,start,end,caption` with a header.
pub(super) fn write_table(
    path: &Path,
    config: &SyntheticConfig,
    videos: &[Video],
    split: Split,
) -> Result<(), SyntheticError> {
    let fail = |error: io::Error| file_error(path, "write the table")(error);
    let mut writer = csv::Writer::from_writer(Vec::new());
    let header = writer.write_record(["video", "start", "end", "caption"]);
    header.map_err(|error| fail(error.into()))?;
    let end = config.seconds.to_string();
    for video in videos.iter().filter(|video| video.split == split) {
        let record = [&video.name, "0", &end, &video.combination.caption()];
        let written = writer.write_record(record);
        written.map_err(|error| fail(error.into()))?;
    }
    let text = writer.into_inner();
    write_whole(path, &text.map_err(|error| fail(error.into_error()))?)
}

/// Writes a file so that it is either whole or not there.
pub(super) fn write_whole(path: &Path, contents: &[u8]) -> Result<(), SyntheticError> {
    let unfinished = path.with_extension("unfinished");
    std::fs::write(&unfinished, contents)
        .and_then(|()| std::fs::rename(&unfinished, path))
        .map_err(file_error(path, "write the file"))
}
