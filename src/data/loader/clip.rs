//! Reads samples: finds their files, draws frames, crop, flip, changes and caption of each by key, decodes.

use super::LoaderConfig;
use super::batch::Words;
use super::pass::{Opened, Plan};
use super::times::{Activity, Times};
use super::worker::Shared;
use crate::config::recipe::{CaptionChoice, CropKind};
use crate::data::layout::{ClipError, ClipFiles, FilePart};
use crate::data::rng::{Purpose, keyed_repeat};
use crate::data::sampler::FileSamples;
use crate::data::{Captions, Clip, Source};
use crate::video::{multi_scale_crop, random_resized_crop, square_along};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::path::PathBuf;
use std::sync::Arc;

/// How samples are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    /// Drawn frames, random crop, flip, changes, any caption.
    Train,
    /// The fixed frames and square of a view, the first caption.
    Eval,
}

/// What is read at a place of a batch.
pub(super) struct Entry<'a> {
    pub sample: u64,
    /// Number of the repetition or view.
    pub turn: u32,
    /// `[frames, size_px, size_px, 3]`.
    pub out: &'a mut [u8],
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

    /// Whether two samples begin in the same file: one that is opened for the first serves the second too.
    pub fn same_file(&self, a: u64, b: u64) -> bool {
        let (source_a, source, clip_a) = self.get(a);
        let (source_b, _, clip_b) = self.get(b);
        source_a == source_b
            && clip_a.video == clip_b.video
            && source.layout.chunk_of(clip_a) == source.layout.chunk_of(clip_b)
    }

    /// The samples of each file.
    pub fn files(&self) -> FileSamples {
        FileSamples::of(&self.sources)
    }

    /// Decodes `entries`, and returns the caption and label of each. A file that several need is opened once, and read
    /// in one pass where the decoder can. `at` is told the entry that each file is opened or read for.
    ///
    /// What an entry gets does not depend on the others.
    ///
    /// One crop serves a whole clip, also where it spans several chunk files; AVION draws one a chunk,
    /// which makes the picture jump (SEEDS.md 8).
    pub fn read(
        &self,
        shared: &Shared,
        epoch: u64,
        entries: &mut [Entry],
        times: &Times,
        at: &dyn Fn(usize),
    ) -> Vec<Result<Words, ClipError>> {
        let Shared { config, view, .. } = shared;
        let mut opened = Opened::new(&*shared.decoder);
        let mut words = Vec::with_capacity(entries.len());
        let mut parts = Vec::new();
        times.time(Activity::Opening, || {
            for (index, entry) in entries.iter_mut().enumerate() {
                at(index);
                let planned = self.plan(config, *view, epoch, entry, &mut opened);
                words.push(planned.map(|plan| plan.cut(index, entry.out, config.frames, &mut parts)));
            }
        });
        let failed: Vec<(usize, ClipError)> = times.time(Activity::Decoding, || opened.read(parts, config.size_px, at));
        for (index, error) in failed {
            words[index] = Err(error);
        }
        times.time(Activity::Changing, || {
            for (entry, _) in entries.iter_mut().zip(&words).filter(|(_, words)| words.is_ok()) {
                if *view == View::Train {
                    let draw = |purpose| keyed_repeat(config.seed, epoch, entry.sample, purpose, entry.turn);
                    config.augment.apply(entry.out, config.size_px as usize, draw);
                }
            }
        });
        let entries = entries.iter();
        words.into_iter().zip(entries).map(|(read, entry)| read.map(|()| self.words(shared, epoch, entry))).collect()
    }

    /// Opens the entry's files and draws its frames, crop and flip.
    fn plan(
        &self,
        config: &LoaderConfig,
        view: View,
        epoch: u64,
        entry: &Entry,
        opened: &mut Opened,
    ) -> Result<Plan, ClipError> {
        let (_, source, clip) = self.get(entry.sample);
        let turn = entry.turn;
        let draw = |purpose| keyed_repeat(config.seed, epoch, entry.sample, purpose, turn);
        let (stretch, square) = (turn / config.crops as u32, turn % config.crops as u32);

        let files = ClipFiles::locate(source, clip)?;
        let (rule, count) = (config.frame_rule, config.frames);
        let choose = |start, end| match view {
            View::Train => rule.drawn(start, end, count, &mut draw(Purpose::Frames)),
            View::Eval => rule.view(start, end, count, stretch as usize, config.views),
        };
        let parts = files.plan(clip, source.fps, count, choose, |file| Ok(opened.get(&files.paths[file])?.1.info()))?;

        let [width, height] = opened.get(&files.paths[0])?.1.size_px();
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
        let in_file = |part: FilePart| {
            let path = &files.paths[part.file];
            let (file, video) = opened.get(path)?;
            if video.size_px() != [width, height] {
                let (path, found, expected) = (path.clone(), video.size_px(), [width, height]);
                return Err(ClipError::SizeMismatch { path, found, expected });
            }
            Ok((file, part.frames))
        };
        Ok(Plan { crop, flip, parts: parts.into_iter().map(in_file).collect::<Result<_, _>>()? })
    }

    /// The caption and label of an entry.
    fn words(&self, shared: &Shared, epoch: u64, entry: &Entry) -> Words {
        let (index, _, clip) = self.get(entry.sample);
        let choice = shared.config.captions.get(index).copied();
        let caption = caption(
            &clip.captions,
            choice.unwrap_or(CaptionChoice::Random),
            (shared.view == View::Train)
                .then(|| keyed_repeat(shared.config.seed, epoch, entry.sample, Purpose::Caption, entry.turn)),
        );
        Words { caption, label: clip.label }
    }
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
    use std::path::Path;

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
