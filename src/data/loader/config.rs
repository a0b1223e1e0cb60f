//! The loader's settings.

use super::LoaderError;
use crate::config::recipe::{CaptionChoice, CropKind, DataConfig, Recipe, Sampling};
use crate::data::augment::Augment;
use crate::data::sampling::FrameRule;
use crate::data::{Layout, Source};
use crate::video::ReadOptions;
use avion_kernels::scale_planes::is_supported;
use std::time::Duration;

/// How batches are made. The defaults are AVION's pre-training values where it has any.
#[derive(Clone, Debug, PartialEq)]
pub struct LoaderConfig {
    /// Keys every draw.
    pub seed: u64,
    /// Training: passes over the sources.
    pub epochs: u64,
    /// Clips in a batch; each repetition and each view counts as one.
    pub batch_size: usize,
    /// Frames in a clip.
    pub frames: usize,
    /// Width and height of a frame.
    pub size_px: u32,
    /// Which frames of a segment are taken.
    pub frame_rule: FrameRule,
    /// Training: kind of the random crop.
    pub crop: CropKind,
    /// Training: area share of the random-resized crop, `[smallest, largest]`.
    pub crop_scale: [f64; 2],
    /// Training: width / height of the random-resized crop, `[smallest, largest]`.
    pub crop_ratio: [f64; 2],
    /// Training: probability of a flip left to right.
    pub flip: f64,
    /// Training: changes to the decoded clip.
    pub augment: Augment,
    /// Training: times that a clip is in its batch, each drawn anew; divides `batch_size`.
    pub repeats: usize,
    /// Training: clips of one file that are drawn together, at most; 1 = each by itself.
    pub group: usize,
    /// Evaluation: stretches of each clip, by the frame rule.
    pub views: usize,
    /// Evaluation: squares of each stretch, along the long side.
    pub crops: usize,
    /// How files are read; evaluation never leaves the loop filter out.
    pub read: ReadOptions,
    /// What to do with several captions, a value a source; `Random` for those past the end.
    pub captions: Vec<CaptionChoice>,
    /// Decode threads; 0 = as many as [`default_workers`] gives.
    pub workers: usize,
    /// Batches decoded ahead, at least 1.
    pub prefetch: usize,
    /// See [`Failures::check`](crate::data::failures::Failures::check).
    pub max_bad_share: f64,
    /// A clip not decoded within this time counts as bad; zero = wait for ever.
    pub timeout: Duration,
}

impl Default for LoaderConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            epochs: 5,
            batch_size: 256,
            frames: 4,
            size_px: 224,
            frame_rule: FrameRule::Avion,
            crop: CropKind::RandomResized,
            crop_scale: [0.5, 1.0],
            crop_ratio: [3.0 / 4.0, 4.0 / 3.0],
            flip: 0.0,
            augment: Augment::default(),
            repeats: 1,
            group: 1,
            views: 1,
            crops: 1,
            read: ReadOptions::default(),
            captions: Vec::new(),
            workers: 0,
            prefetch: 2,
            max_bad_share: 0.01,
            timeout: Duration::from_secs(60),
        }
    }
}

impl LoaderConfig {
    /// The settings that a recipe's `[data]`, `[augment]` and `[eval]` state for its task; the batch size, and what
    /// depends on the model's geometry or on the sources, is the caller's.
    pub fn with_recipe(self, recipe: &Recipe) -> Self {
        let data = &recipe.data;
        let stride = data.stride as u64;
        let frame_rule = match data.sampling {
            Sampling::Segment => FrameRule::Avion,
            Sampling::Dense => FrameRule::Dense { stride, jitter: data.stride_jitter },
            Sampling::Window => FrameRule::Window { stride },
            Sampling::Uniform => FrameRule::Uniform,
        };
        Self {
            seed: recipe.seed,
            epochs: recipe.train.epochs as u64,
            frames: recipe.model.frames,
            frame_rule,
            crop: data.crop,
            crop_scale: data.crop_scale,
            crop_ratio: data.crop_ratio,
            flip: data.flip,
            augment: Augment::of(recipe),
            repeats: data.repeats,
            group: data.group,
            views: recipe.eval.views,
            crops: recipe.eval.crops,
            workers: data.workers,
            prefetch: data.prefetch,
            max_bad_share: data.max_bad_share,
            read: read_options(data),
            ..self
        }
    }

    /// Bytes of a clip: `frames` of `size_px * size_px * 3`, or of the size of a record.
    pub(super) fn clip_bytes(&self, read: ReadOptions) -> Result<usize, LoaderError> {
        let size = self.size_px as usize;
        // More than any frame has, so that nothing overflows.
        let frame = (size <= 1 << 16).then(|| read.frame_bytes(size));
        frame
            .and_then(|frame| frame.checked_mul(self.frames))
            .filter(|bytes| bytes.checked_mul(self.batch_size).is_some())
            .ok_or(LoaderError::Setting {
                field: "batch_size",
                expected: "a batch that fits in memory",
                found: format!("{} clips of {} frames of {size} x {size} px", self.batch_size, self.frames),
            })
    }

    /// Decode threads to start.
    pub(super) fn threads(&self) -> usize {
        match self.workers {
            0 => default_workers(),
            workers => workers,
        }
    }

    pub(super) fn check(&self, sources: &[Source]) -> Result<(), LoaderError> {
        let require = |holds: bool, field, expected, found: &dyn std::fmt::Debug| {
            if holds {
                return Ok(());
            }
            Err(LoaderError::Setting { field, expected, found: format!("{found:?}") })
        };
        let share = |value: f64| (0.0..=1.0).contains(&value);
        let range = |[low, high]: [f64; 2]| 0.0 < low && low <= high && high.is_finite();
        require(self.batch_size > 0, "batch_size", "at least 1", &self.batch_size)?;
        require(self.frames > 0, "frames", "at least 1", &self.frames)?;
        require(self.size_px > 0, "size_px", "at least 1", &self.size_px)?;
        require(self.prefetch > 0, "prefetch", "at least 1", &self.prefetch)?;
        require(
            range(self.crop_scale) && self.crop_scale[1] <= 1.0,
            "crop_scale",
            "0 < smallest <= largest <= 1",
            &self.crop_scale,
        )?;
        require(range(self.crop_ratio), "crop_ratio", "0 < smallest <= largest", &self.crop_ratio)?;
        require(share(self.flip), "flip", "0 to 1", &self.flip)?;
        let divides = self.repeats > 0 && self.batch_size.is_multiple_of(self.repeats);
        require(divides, "repeats", "a divisor of the batch size", &self.repeats)?;
        let plain = !self.read.as_records || self.augment == Augment::default();
        require(plain, "augment", "nothing, as frames are scaled on the device", &self.augment)?;
        let unpacks = !self.read.as_records || is_supported(self.size_px as usize);
        require(unpacks, "size_px", "a multiple of 4 up to 1024, as frames are scaled on the device", &self.size_px)?;
        require((1..=1 << 16).contains(&self.group), "group", "1 to 65536", &self.group)?;
        // So that every view has a number.
        let views = (1..=1 << 16).contains(&self.views);
        require(views, "views", "1 to 65536", &self.views)?;
        require((1..=1 << 8).contains(&self.crops), "crops", "1 to 256", &self.crops)?;
        let strided = match self.frame_rule {
            FrameRule::Dense { stride, .. } | FrameRule::Window { stride } => (1..=1 << 32).contains(&stride),
            FrameRule::Avion | FrameRule::Lavila | FrameRule::Uniform => true,
        };
        require(strided, "stride", "1 to 4,294,967,296", &self.frame_rule)?;
        require(share(self.max_bad_share), "max_bad_share", "0 to 1", &self.max_bad_share)?;
        let clips: usize = sources.iter().map(|source| source.clips.len()).sum();
        require(u32::try_from(clips).is_ok(), "sources", "at most 4,294,967,295 clips", &clips)?;
        for Source { layout, fps, .. } in sources {
            if let Layout::Chunked { chunk_s, .. } = layout {
                // Below, a day has more chunks than can be looked for.
                let holds = (0.1..=86_400.0).contains(chunk_s);
                require(holds, "chunk_s", "0.1 to 86400 s", chunk_s)?;
            }
            let holds = fps.is_none_or(|fps| fps.is_finite() && fps > 0.0);
            require(holds, "fps", "above 0, or absent", fps)?;
        }
        Ok(())
    }
}

/// How a recipe has training read files.
pub fn read_options(data: &DataConfig) -> ReadOptions {
    let DataConfig { fast_loop_filter, decoder, scale_on_device, .. } = *data;
    ReadOptions { fast_loop_filter, decoder, as_records: scale_on_device }
}

/// Decode threads for the processors that this process may use: all but one, which the thread that trains needs; all of
/// few, where a decode thread less costs more than sharing one.
pub fn default_workers() -> usize {
    workers_for(std::thread::available_parallelism().map_or(1, usize::from))
}

fn workers_for(processors: usize) -> usize {
    if processors < 4 { processors } else { processors - 1 }
}

#[cfg(test)]
mod tests {
    use super::workers_for;

    #[test]
    fn the_training_thread_keeps_a_processor() {
        assert_eq!([1, 2, 3, 4, 16, 128].map(workers_for), [1, 2, 3, 3, 15, 127]);
    }
}
