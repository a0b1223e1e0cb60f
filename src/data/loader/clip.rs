//! Reads one sample: finds its files, draws its frames, crop, flip, changes and caption by key, decodes.

use super::batch::Words;
use super::{Decoder, LoaderConfig, OpenVideo};
use crate::config::recipe::{CaptionChoice, CropKind};
use crate::data::layout::{ClipError, ClipFiles};
use crate::data::rng::{Purpose, keyed_repeat};
use crate::data::{Captions, Clip, Source};
use crate::video::{multi_scale_crop, random_resized_crop, square_along};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How samples are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    /// Drawn frames, random crop, flip, changes, any caption.
    Train,
    /// The fixed frames and square of a view, the first caption.
    Eval,
}

/// The clips of all sources, numbered through.
#[derive(Debug)]
pub(super) struct Samples {
    sources: Arc<[Source]>,
    /// Number of each source's first clip.
    first: Vec<u64>,
    pub len: u64,
    /// Whether every clip has a label.
    pub labelled: bool,
}

impl Samples {
    pub fn new(sources: Arc<[Source]>) -> Self {
        let mut len = 0;
        let first = sources
            .iter()
            .map(|source| {
                let first = len;
                len += source.clips.len() as u64;
                first
            })
            .collect();
        let mut clips = sources.iter().flat_map(|source| &source.clips);
        let labelled = clips.all(|clip| clip.label.is_some());
        Self { sources, first, len, labelled }
    }

    /// Index of the source, the source, and the clip of `sample`, which must be below `len`.
    fn get(&self, sample: u64) -> (usize, &Source, &Clip) {
        let index = self.first.partition_point(|first| *first <= sample) - 1;
        let source = &self.sources[index];
        (index, source, &source.clips[(sample - self.first[index]) as usize])
    }

    /// The path of a sample's video as the annotation gives it, for messages.
    pub fn video(&self, sample: u64) -> PathBuf {
        let (_, source, clip) = self.get(sample);
        source.root.join(&*clip.video)
    }

    /// Decodes `sample` into `out`, `[frames, size_px, size_px, 3]`, and returns its caption and label. `turn` is the
    /// number of the repetition or view.
    ///
    /// One crop serves the whole clip, also where it spans several chunk files; AVION draws one a chunk,
    /// which makes the picture jump (SEEDS.md 8).
    pub fn read(
        &self,
        decoder: &dyn Decoder,
        config: &LoaderConfig,
        view: View,
        epoch: u64,
        sample: u64,
        turn: u32,
        out: &mut [u8],
    ) -> Result<Words, ClipError> {
        let (index, source, clip) = self.get(sample);
        let draw = |purpose| keyed_repeat(config.seed, epoch, sample, purpose, turn);
        let (stretch, square) = (turn / config.crops as u32, turn % config.crops as u32);

        let files = ClipFiles::locate(source, clip)?;
        let mut opened = Opened::new(decoder, &files.paths);
        let (rule, count) = (config.frame_rule, config.frames);
        let choose = |start, end| match view {
            View::Train => rule.drawn(start, end, count, &mut draw(Purpose::Frames)),
            View::Eval => rule.view(start, end, count, stretch as usize, config.views),
        };
        let parts = files.plan(clip, source.fps, count, choose, |file| Ok(opened.get(file)?.info()))?;

        let [width, height] = opened.get(0)?.size_px();
        let (crop, flip) = match view {
            View::Train => {
                let rng = &mut draw(Purpose::Crop);
                let crop = match config.crop {
                    CropKind::RandomResized => {
                        random_resized_crop(width, height, config.crop_scale, config.crop_ratio, rng)
                    }
                    CropKind::MultiScale => multi_scale_crop(width, height, config.size_px, rng),
                };
                (crop, draw(Purpose::Flip).random::<f64>() < config.flip)
            }
            View::Eval => (square_along(width, height, square, config.crops as u32), false),
        };
        let frame_bytes = out.len() / config.frames;
        let mut rest = &mut *out;
        for part in &parts {
            let (out, after) = rest.split_at_mut(part.frames.len() * frame_bytes);
            rest = after;
            let video = opened.get(part.file)?;
            if video.size_px() != [width, height] {
                return Err(ClipError::SizeMismatch {
                    path: files.paths[part.file].clone(),
                    found: video.size_px(),
                    expected: [width, height],
                });
            }
            let read = video.read(&part.frames, crop, config.size_px, flip, out);
            read.map_err(|error| failed(&files.paths[part.file], error))?;
        }

        if view == View::Train {
            config.augment.apply(out, config.size_px as usize, draw);
        }
        let choice = config.captions.get(index).copied();
        let caption = caption(
            &clip.captions,
            choice.unwrap_or(CaptionChoice::Random),
            (view == View::Train).then(|| draw(Purpose::Caption)),
        );
        Ok(Words { caption, label: clip.label })
    }
}

/// The files of a clip, each opened when first needed.
struct Opened<'a> {
    decoder: &'a dyn Decoder,
    paths: &'a [PathBuf],
    videos: Vec<Option<Box<dyn OpenVideo>>>,
}

impl<'a> Opened<'a> {
    fn new(decoder: &'a dyn Decoder, paths: &'a [PathBuf]) -> Self {
        Self { decoder, paths, videos: paths.iter().map(|_| None).collect() }
    }

    fn get(&mut self, file: usize) -> Result<&mut dyn OpenVideo, ClipError> {
        let path = &self.paths[file];
        let video = &mut self.videos[file];
        let video = match video {
            Some(video) => video,
            None => {
                let opened = self.decoder.open(path);
                video.insert(opened.map_err(|error| failed(path, error))?)
            }
        };
        Ok(video.as_mut())
    }
}

fn failed(path: &Path, error: super::DecodeError) -> ClipError {
    ClipError::Decode { path: path.to_owned(), kind: error.kind, reason: error.reason }
}

/// The caption that goes with a clip; without a generator, the first of several.
fn caption(captions: &Captions, choice: CaptionChoice, rng: Option<ChaCha8Rng>) -> Arc<str> {
    match (captions, choice, rng) {
        (Captions::One(caption), ..) => Arc::clone(caption),
        (Captions::Many(captions), CaptionChoice::Concat, _) => captions.join(". ").into(),
        (Captions::Many(captions), CaptionChoice::Random, rng) => {
            let index = match rng {
                Some(mut rng) if captions.len() > 1 => rng.random_range(0..captions.len() as u64),
                _ => 0,
            };
            match captions.get(index as usize) {
                Some(caption) => Arc::clone(caption),
                None => "".into(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Layout;

    fn source(clips: usize) -> Source {
        Source {
            name: "test".into(),
            root: "root".into(),
            layout: Layout::Whole { extension: "mp4".into() },
            fps: None,
            clips: (0..clips)
                .map(|i| Clip::narrated(format!("{clips}/{i}").into(), 0.0, 1.0, Captions::One("c".into())))
                .collect(),
        }
    }

    #[test]
    fn samples_are_numbered_through_the_sources() {
        let samples = Samples::new([source(2), source(0), source(3)].into());
        assert_eq!(samples.len, 5);
        let names: Vec<_> = (0..5).map(|i| samples.get(i).2.video.to_string()).collect();
        assert_eq!(names, ["2/0", "2/1", "3/0", "3/1", "3/2"]);
        assert_eq!(samples.get(4).0, 2);
        assert_eq!(samples.video(1), Path::new("root/2/1"));
    }

    #[test]
    fn captions_are_chosen_by_key_or_joined() {
        let captions = Captions::Many(vec!["a".into(), "b".into(), "c".into()]);
        let pick = |epoch| {
            let rng = keyed_repeat(1, epoch, 2, Purpose::Caption, 0);
            caption(&captions, CaptionChoice::Random, Some(rng))
        };
        assert_eq!(pick(4), pick(4));
        let mut seen: Vec<_> = (0..50).map(pick).collect();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 3);
        assert_eq!(&*caption(&captions, CaptionChoice::Concat, None), "a. b. c");
        assert_eq!(&*caption(&captions, CaptionChoice::Random, None), "a");
        let none = Captions::Many(Vec::new());
        assert_eq!(&*caption(&none, CaptionChoice::Random, None), "");
    }
}
