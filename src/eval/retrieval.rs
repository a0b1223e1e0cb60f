//! Text-video retrieval: EPIC-Kitchens-100's multi-instance protocol, and plain recall for any other set.

use super::metrics::{GroundTruth, chance_mir, chance_recall, mir, recall_at};
use super::{EvalError, Evaluation, Example};
use crate::config::recipe::{CaptionChoice, Recipe, SourceConfig, SourceFormat};
use crate::data::annotations::{self, ek100};
use crate::data::loader::{ClipBatch, Loader, LoaderConfig, read_options};
use crate::data::{Captions, Source};
use crate::device::DeviceError;
use crate::model::{Clip, Pass};
use crate::ops::gemm::{Epilogue, View, multiply};
use crate::ops::tensor::T;
use crate::report::{Search, SearchHit, Thumbnail};
use crate::text::Tokenizer;
use avion_kernels::FloatKind;
use burn_cubecl::CubeRuntime;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

/// Clips shown in a report.
const EXAMPLES: usize = 12;
/// Captions shown beside each, and clips beside each caption searched for.
const MATCHES: usize = 4;
/// Captions searched for in a report.
const SEARCHES: usize = 6;
/// Sets up to this size keep a picture of every clip, so that searches can show what they found.
const PICTURED_CLIPS: usize = 512;
/// Host memory a set's relevancies may take.
const MAX_RELEVANCY_BYTES: usize = 16 << 30;

/// Clips, the captions they are compared with, and which belong together.
pub struct EvalSet {
    pub name: String,
    source: Source,
    captions: Vec<Arc<str>>,
    /// Relevancy in `[0, 1]` of every caption to every clip, `[videos, captions]`.
    relevancy: Vec<f64>,
    /// EPIC-Kitchens-100 grades relevancy; recall is then not reported, as nobody does.
    graded: bool,
}

impl EvalSet {
    /// Reads the annotations.
    ///
    /// # Errors
    /// What is wrong with them, by file and record.
    pub fn load(config: &SourceConfig) -> Result<Self, EvalError> {
        let name = config.label();
        if config.format == SourceFormat::Ek100 {
            let retrieval = ek100::load_retrieval(config)?;
            let caption = |row: &usize| first_caption(&retrieval.source.clips[*row].captions);
            return Ok(EvalSet {
                name,
                captions: retrieval.caption_rows.iter().map(caption).collect(),
                relevancy: retrieval.relevancy.to_dense(),
                source: retrieval.source,
                graded: true,
            });
        }
        Self::by_caption(name, annotations::load(config)?, config.captions)
    }

    /// A set whose clips and captions belong together when the caption is the same, word for word. A clip with several
    /// captions is searched for by the first, or by all of them joined.
    ///
    /// # Errors
    /// [`EvalError::TooLarge`] when the matrix of clips and captions would not fit in memory.
    pub fn by_caption(name: String, source: Source, choice: CaptionChoice) -> Result<Self, EvalError> {
        let mut index: HashMap<Arc<str>, usize> = HashMap::new();
        let mut captions = Vec::new();
        let own: Vec<usize> = source
            .clips
            .iter()
            .map(|clip| {
                let caption = match (&clip.captions, choice) {
                    (Captions::Many(all), CaptionChoice::Concat) => all.join(". ").into(),
                    (captions, _) => first_caption(captions),
                };
                *index.entry(caption.clone()).or_insert_with(|| {
                    captions.push(caption);
                    captions.len() - 1
                })
            })
            .collect();
        let bytes = own.len().saturating_mul(captions.len()).saturating_mul(8);
        if bytes > MAX_RELEVANCY_BYTES {
            let (videos, captions) = (own.len(), captions.len());
            return Err(EvalError::TooLarge { set: name, videos, captions, gib: bytes as f64 / (1u64 << 30) as f64 });
        }
        let mut relevancy = vec![0.0; own.len() * captions.len()];
        for (video, caption) in own.iter().enumerate() {
            relevancy[video * captions.len() + caption] = 1.0;
        }
        Ok(EvalSet { name, source, captions, relevancy, graded: false })
    }
}

fn first_caption(captions: &Captions) -> Arc<str> {
    match captions {
        Captions::One(caption) => caption.clone(),
        Captions::Many(captions) => captions.first().cloned().unwrap_or_else(|| "".into()),
    }
}

/// A model, ready to be scored.
pub struct Retriever<'a, R: CubeRuntime> {
    pub clip: &'a Clip<R>,
    pub tokenizer: &'a Tokenizer,
    pub batch_size: usize,
    /// Asked between batches; scoring ends when it says so.
    pub stop: &'a dyn Fn() -> bool,
}

impl<R: CubeRuntime> Retriever<'_, R> {
    /// Encodes every clip (centred frames, central square) and caption of `set` and scores their similarities
    /// `(cosine + 1) / 2`. Clips that cannot be read are left out and counted. `None` when told to stop.
    ///
    /// # Errors
    /// More unreadable clips than `data.max_bad_share`, none readable, or what the device reports.
    pub fn evaluate(&self, set: &EvalSet, recipe: &Recipe) -> Result<Option<Evaluation>, EvalError> {
        let started = Instant::now();
        let Some(videos) = self.encode_videos(set, recipe)? else { return Ok(None) };
        let texts = self.encode_captions(&set.captions)?;
        let cosine = self.similarities(&videos.features, &texts)?;
        let (rows, columns) = (videos.samples.len(), set.captions.len());

        let sim: Vec<f32> = cosine.iter().map(|c| (c + 1.0) / 2.0).collect();
        let relevancy: Vec<f64> =
            videos.samples.iter().flat_map(|&v| &set.relevancy[v * columns..(v + 1) * columns]).copied().collect();
        let failed = |source| EvalError::Metric { set: set.name.clone(), source };
        let scored = mir(&sim, &relevancy, rows, columns).map_err(failed)?;
        let by_chance = chance_mir(&relevancy, rows, columns).map_err(failed)?;
        let mut scores = mir_scores(&scored);
        let mut chance = mir_scores(&by_chance);
        if !set.graded {
            let right: Vec<Vec<usize>> =
                relevancy.chunks(columns).map(|row| (0..columns).filter(|&c| row[c] == 1.0).collect()).collect();
            let truth = GroundTruth::Captions(&right);
            let ks: Vec<usize> = [1, 5, 10].into_iter().filter(|&k| k <= rows.min(columns)).collect();
            let recall = recall_at(&sim, rows, columns, truth, &ks).map_err(failed)?;
            let expected = chance_recall(rows, columns, truth, &ks).map_err(failed)?;
            for (i, k) in ks.iter().enumerate() {
                scores.insert(format!("t2v_r{k}"), recall.t2v[i]);
                scores.insert(format!("v2t_r{k}"), recall.v2t[i]);
                chance.insert(format!("t2v_r{k}"), expected.t2v[i]);
                chance.insert(format!("v2t_r{k}"), expected.v2t[i]);
            }
        }
        let examples = examples(set, &videos, &cosine, &relevancy);
        let searches = searches(set, &videos, &cosine, &relevancy);
        Ok(Some(Evaluation {
            set: set.name.clone(),
            scores,
            chance,
            seconds: started.elapsed().as_secs_f64(),
            videos: rows,
            unreadable: videos.unreadable,
            examples,
            searches,
            ..Evaluation::default()
        }))
    }

    fn encode_videos(&self, set: &EvalSet, recipe: &Recipe) -> Result<Option<EncodedVideos>, EvalError> {
        let failed = |source| EvalError::Loader { set: set.name.clone(), source };
        let config = LoaderConfig {
            seed: recipe.seed,
            batch_size: self.batch_size,
            frames: self.clip.shape.frames,
            size_px: self.clip.shape.image_px as u32,
            workers: recipe.data.workers,
            prefetch: recipe.data.prefetch,
            max_bad_share: recipe.data.max_bad_share,
            read: read_options(&recipe.data),
            ..LoaderConfig::default()
        };
        let sources: Arc<[Source]> = Arc::from([set.source.clone()]);
        let mut encoded = EncodedVideos::default();
        // Shown clips are spread over the set.
        let clips = set.source.clips.len();
        let every = if clips <= PICTURED_CLIPS { 1 } else { (clips / EXAMPLES).max(1) as u64 };
        for batch in Loader::eval(sources, config).map_err(failed)? {
            if (self.stop)() {
                return Ok(None);
            }
            let batch = batch.map_err(failed)?;
            encoded.unreadable += batch.bad.len();
            if batch.samples.is_empty() {
                continue;
            }
            encoded.keep_thumbnails(&batch, every);
            let frames = self.clip.upload_frames(&batch.frames, batch.samples.len());
            let features = self.clip.encode_video(frames, &Pass::INFERENCE);
            encoded.features.extend(read(features.inner())?);
            encoded.samples.extend(batch.samples.iter().map(|s| *s as usize));
        }
        if encoded.samples.is_empty() {
            return Err(EvalError::NoClips { set: set.name.clone() });
        }
        Ok(Some(encoded))
    }

    fn encode_captions(&self, captions: &[Arc<str>]) -> Result<Vec<f32>, EvalError> {
        let mut features = Vec::new();
        for chunk in captions.chunks(self.batch_size) {
            let tokens = self.tokenizer.encode_batch(chunk, self.clip.shape.context);
            let captions = self.clip.upload_captions(&tokens.ids, tokens.length, &tokens.eot);
            let encoded = self.clip.encode_text(captions, &Pass::INFERENCE);
            features.extend(read(encoded.inner())?);
        }
        Ok(features)
    }

    /// Cosine similarities, `[videos, captions]`, in f32.
    fn similarities(&self, videos: &[f32], texts: &[f32]) -> Result<Vec<f32>, EvalError> {
        let embed = self.clip.shape.embed;
        let ws = &self.clip.ws;
        let (rows, columns) = (videos.len() / embed, texts.len() / embed);
        let out = ws.matrix_of(FloatKind::F32, rows, columns);
        let videos = View::new(&ws.upload(videos), rows, embed, FloatKind::F32);
        let texts = View::new(&ws.upload(texts), columns, embed, FloatKind::F32);
        multiply(ws, &videos, &texts.transposed(), &View::of(&out), Epilogue::default());
        Ok(read(ws.tensor(&out))?)
    }
}

/// Features of the clips that could be read.
#[derive(Default)]
struct EncodedVideos {
    /// `[videos, embed]`.
    features: Vec<f32>,
    /// Index in the set of each row.
    samples: Vec<usize>,
    unreadable: usize,
    /// Row and frames of the clips to show.
    thumbnails: Vec<(usize, Vec<Thumbnail>)>,
}

impl EncodedVideos {
    fn keep_thumbnails(&mut self, batch: &ClipBatch, every: u64) {
        let [_, frames, height, width, _] = batch.shape();
        let frame_bytes = height * width * 3;
        for (slot, sample) in batch.samples.iter().enumerate() {
            if sample % every != 0 {
                continue;
            }
            let clip = &batch.frames[slot * frames * frame_bytes..][..frames * frame_bytes];
            // At most four of its frames, evenly spread. A picture that cannot be made is only not shown.
            let shown = clip.chunks(frame_bytes).step_by(frames.div_ceil(4));
            let pictures: Result<Vec<_>, _> = shown.map(|rgb| Thumbnail::from_rgb(rgb, width, height)).collect();
            if let Ok(pictures) = pictures {
                self.thumbnails.push((self.samples.len() + slot, pictures));
            }
        }
    }
}

fn read<R: CubeRuntime>(tensor: T<R, 2>) -> Result<Vec<f32>, DeviceError> {
    let data = tensor.try_into_data().map_err(|e| DeviceError::from_server(format!("{e:?}")))?;
    data.to_vec().map_err(|e| DeviceError::Failed { detail: format!("{e:?}") })
}

fn mir_scores(scores: &super::metrics::MirScores) -> BTreeMap<String, f64> {
    [
        ("map_v2t", scores.map_v2t),
        ("map_t2v", scores.map_t2v),
        ("map_avg", scores.map_avg),
        ("ndcg_v2t", scores.ndcg_v2t),
        ("ndcg_t2v", scores.ndcg_t2v),
        ("ndcg_avg", scores.ndcg_avg),
        ("textbook_map_v2t", scores.textbook_map_v2t),
        ("textbook_map_t2v", scores.textbook_map_t2v),
        ("textbook_map_avg", scores.textbook_map_avg),
    ]
    .map(|(name, score)| (name.to_owned(), score))
    .into()
}

fn examples(set: &EvalSet, videos: &EncodedVideos, cosine: &[f32], relevancy: &[f64]) -> Vec<Example> {
    let columns = set.captions.len();
    let step = videos.thumbnails.len().div_ceil(EXAMPLES).max(1);
    let shown = videos.thumbnails.iter().step_by(step).filter_map(|(row, frames)| {
        let similarity = &cosine[row * columns..(row + 1) * columns];
        let right = &relevancy[row * columns..(row + 1) * columns];
        let mut order: Vec<usize> = (0..columns).collect();
        order.sort_by(|a, b| similarity[*b].total_cmp(&similarity[*a]));
        let rank = order.iter().position(|&c| right[c] == 1.0)? + 1;
        let matches = order.iter().take(MATCHES);
        Some(Example {
            frames: frames.clone(),
            caption: first_caption(&set.source.clips[videos.samples[*row]].captions),
            rank,
            candidates: columns,
            matches: matches.map(|&c| (set.captions[c].clone(), similarity[c] as f64, right[c] == 1.0)).collect(),
        })
    });
    shown.collect()
}

/// Some captions and the clips most similar to each; nothing where not every clip has a picture.
fn searches(set: &EvalSet, videos: &EncodedVideos, cosine: &[f32], relevancy: &[f64]) -> Vec<Search> {
    let (rows, columns) = (videos.samples.len(), set.captions.len());
    if videos.thumbnails.len() != rows {
        return Vec::new();
    }
    let at = |row: usize, column: usize| row * columns + column;
    let shown = (0..columns).step_by(columns.div_ceil(SEARCHES).max(1)).filter_map(|column| {
        let mut order: Vec<usize> = (0..rows).collect();
        order.sort_by(|a, b| cosine[at(*b, column)].total_cmp(&cosine[at(*a, column)]));
        let rank = order.iter().position(|&row| relevancy[at(row, column)] == 1.0)? + 1;
        let hits = order.iter().take(MATCHES).map(|&row| SearchHit {
            frames: videos.thumbnails[row].1.clone(),
            caption: first_caption(&set.source.clips[videos.samples[row]].captions).to_string(),
            similarity: cosine[at(row, column)] as f64,
            right: relevancy[at(row, column)] == 1.0,
        });
        Some(Search { caption: set.captions[column].to_string(), rank, candidates: rows, hits: hits.collect() })
    });
    shown.collect()
}
