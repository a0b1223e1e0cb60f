//! The recipe: everything that defines a run, as one TOML file with these sections.
//!
//! Every field has a default, so a recipe states only what matters; `avion config` prints the whole.
//! Units are in the names (`_s` seconds, `_px` pixels); shares and probabilities lie in `[0, 1]`.
//! Paths are taken relative to the working directory, never to the recipe's folder.
//!
//! The doc comments of the fields are also what `avion config --list` prints and what the error
//! messages know of names and types: `schema.rs` reads them from this file and from `recipe/`.

mod labelled;

pub use labelled::{AugmentConfig, ClassifyConfig, MaskingConfig, MaskingKind};

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A whole run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Recipe {
    /// Short name, used for the default output folder `runs/<name>`.
    pub name: String,
    /// What is trained.
    pub task: TaskKind,
    /// Keys everything random: the same seed gives the same run.
    pub seed: u64,
    /// The two encoders.
    pub model: ModelConfig,
    /// Clips, captions and how frames are cut from them.
    pub data: DataConfig,
    /// Optimizer and learning rate.
    pub optim: OptimConfig,
    /// Length, batch, precision and output of the run.
    pub train: TrainConfig,
    /// When and how the evaluation sets are scored.
    pub eval: EvalConfig,
    /// Task masked: what is hidden, and the decoder.
    pub masking: MaskingConfig,
    /// Task classify: the classifier.
    pub classify: ClassifyConfig,
    /// Task classify: changes made to training clips.
    pub augment: AugmentConfig,
}

/// The objective of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TaskKind {
    /// CLIP-style training of a video and a text encoder on narrated clips.
    Contrastive,
    /// VideoMAE pre-training: hidden patches are predicted from those left (Tong et al. 2022, arXiv:2203.12602).
    Masked,
    /// Training of a classifier of labelled clips, such as fine-tuning VideoMAE on Kinetics.
    Classify,
}

/// The video and the text encoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelConfig {
    /// Geometry of both towers.
    pub size: ModelSize,
    /// Frames taken from each clip.
    pub frames: usize,
    /// Frames that a token covers in the tasks masked and classify; contrastive training has a token per frame.
    pub tubelet: usize,
    /// Width of the space shared by video and text.
    pub embed_dim: usize,
    /// Text tokens at most, start and end tokens included.
    pub context: usize,
    /// Nonlinearity of both towers; take the one that the weights in `init` were trained with.
    pub activation: Activation,
    /// LayerNorm epsilon of the video tower (AVION 1e-6, OpenAI CLIP 1e-5).
    pub vision_norm_eps: f64,
    /// LayerNorm epsilon of the text tower.
    pub text_norm_eps: f64,
    /// Weights to start from: a safetensors or PyTorch file with OpenAI, open_clip or AVION names. None = random.
    pub init: Option<PathBuf>,
    /// Also take the two projections and the temperature from `init` (AVION does not).
    pub init_projections: bool,
    /// Softmax temperature at the start; `exp(logit_scale) = 1 / temperature`.
    pub temperature: f64,
    /// Train the temperature too; AVION keeps it frozen.
    pub learn_temperature: bool,
    /// Probability of skipping a residual branch in training.
    pub drop_path: f64,
    /// How the drop-path rate depends on depth.
    pub drop_path_schedule: DropPathSchedule,
    /// Task contrastive: share of a clip's patches that training leaves out, drawn anew each step (PatchDropout, as in
    /// FLIP, Li et al. 2023, arXiv:2212.00794). Evaluation sees all.
    pub patch_dropout: f64,
}

/// A named geometry; its numbers are in [`super::Geometry`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModelSize {
    /// For the demo and for tests: 48 px, patch 16.
    Tiny,
    /// For the demo of VideoMAE: 32 px, patch 8, width 96, 3 layers.
    #[serde(rename = "tiny-8")]
    Tiny8,
    /// 224 px, patch 16, width 384, 12 layers.
    #[serde(rename = "vit-s16")]
    VitS16,
    /// 224 px, patch 16, width 768, 12 layers.
    #[serde(rename = "vit-b16")]
    VitB16,
    /// 224 px, patch 16, width 1024, 24 layers.
    #[serde(rename = "vit-l16")]
    VitL16,
    /// 224 px, patch 14, width 1024, 24 layers.
    #[serde(rename = "vit-l14")]
    VitL14,
    /// As vit-l14 at 336 px.
    #[serde(rename = "vit-l14-336")]
    VitL14At336,
}

/// The nonlinearity of both towers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// Exact (erf) GELU: what AVION trains with.
    Gelu,
    /// `x * sigmoid(1.702 x)`: what OpenAI's CLIP and LaViLa were trained with.
    QuickGelu,
}

/// How the drop-path rate depends on depth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DropPathSchedule {
    /// The same rate in every block, as AVION does.
    Constant,
    /// From 0 in the first block to `drop_path` in the last.
    Linear,
}

/// What is read and how frames are cut from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    /// Training sets, concatenated.
    pub train: Vec<SourceConfig>,
    /// Evaluation sets, each scored on its own.
    pub eval: Vec<SourceConfig>,
    /// Means and deviations that pixels are normalised with.
    pub normalization: Normalization,
    /// Which frames of a clip are taken.
    pub sampling: Sampling,
    /// Frames from one taken frame to the next, where `sampling` is dense or window.
    pub stride: usize,
    /// Move each frame by 0 to `stride - 1` in training, where `sampling` is dense: AVION's pre-training.
    pub stride_jitter: bool,
    /// How training clips are cropped.
    pub crop: CropKind,
    /// Area share of the random-resized crop, `[smallest, largest]`.
    pub crop_scale: [f64; 2],
    /// Aspect ratio (width / height) of the random-resized crop, `[smallest, largest]`.
    pub crop_ratio: [f64; 2],
    /// Probability of a horizontal flip in training.
    pub flip: f64,
    /// Times that a clip is in its training batch, each time drawn anew; `train.batch_size` counts all of them
    /// (repeated augmentation, Hoffer et al. 2020, arXiv:1901.09335).
    pub repeats: usize,
    /// Clips of one file (or chunk) that training draws together, at most; 1 = each by itself. They are neighbours in
    /// time, decoded in one pass, and lie in the same batch or two that follow: cheaper, but a batch is less varied, and
    /// contrastive training meets more negatives from the same scene. Of 2,010 chunks with five clips each, at batches of
    /// 256, 10% of the clips share their chunk with another of the batch at 1, 81% at 2, 89% at 4. Groups are cut anew
    /// each epoch.
    pub group: usize,
    /// Names of the classes, one a line in the order of the labels: for reports.
    pub labels: Option<PathBuf>,
    /// In training, decode faster by leaving H.264's and HEVC's loop filter out of pictures that others are predicted from but that are
    /// not shown. Changes the pixels a little: "Decoding" in `benches/NOTES.md`.
    pub fast_loop_filter: bool,
    /// In training, crop, scale and convert frames on the device, which gives the same bytes: the decode threads only copy
    /// the part of the planes that is used. About as many bytes go to the device, up to twice as many of large frames;
    /// larger ones are finished by the decode threads, and so are videos that are turned by a right angle. Batches and what is
    /// uploaded take twice the memory. Not with `augment.randaugment`, `erasing`, `mixup` or `cutmix`, which change finished
    /// frames.
    pub scale_on_device: bool,
    /// What decodes videos, in training and evaluation.
    pub decoder: VideoDecoder,
    /// Decode threads; 0 = one per core, but one core is left to the thread that trains (from four cores on).
    pub workers: usize,
    /// Batches decoded ahead.
    pub prefetch: usize,
    /// The run stops when more than this share of samples cannot be read.
    pub max_bad_share: f64,
}

/// What decodes videos.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VideoDecoder {
    /// The processor, a decode thread a clip.
    #[default]
    Cpu,
    /// The NVDEC unit of the run's GPU, where FFmpeg and driver offer it: H.264, HEVC, VP8 and VP9, to the same pixels.
    /// All else is decoded on the processor, with a warning. Damage within a picture goes unnoticed, and the decoders take
    /// device memory that `train.fit` does not count.
    Nvdec,
}

/// Which frames of a clip are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sampling {
    /// The middle of equal pieces, moved within its piece in training: AVION's for narrated clips.
    Segment,
    /// Every `stride`-th frame from a random start; in evaluation from `eval.views` even starts: VideoMAE's.
    Dense,
    /// As dense, but spread evenly over a random window of `frames * stride`: VideoMAE's fine-tuning.
    Window,
    /// One frame of each of equal pieces, in evaluation its middle (TSN, Wang et al. 2016, arXiv:1608.00859).
    Uniform,
}

/// How training clips are cropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CropKind {
    /// Any area and aspect ratio within `crop_scale` and `crop_ratio` (Szegedy et al. 2015).
    RandomResized,
    /// Sides of 1, 0.875, 0.75 and 0.66 of the short side, at 13 fixed places (TSN): VideoMAE's pre-training.
    MultiScale,
}

/// One set of annotated clips.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SourceConfig {
    /// Shown in logs and reports; defaults to the annotation file's stem.
    pub name: String,
    /// Form of the annotation file.
    pub format: SourceFormat,
    /// The annotation file: Ego4D/LaViLa pickle, EPIC-Kitchens-100 retrieval CSV, a CSV/JSONL table, or a labelled list.
    pub annotations: PathBuf,
    /// Folder the videos lie under.
    pub root: PathBuf,
    /// Length of the chunks each video is cut into (`root/VIDEO/15.mp4`), in seconds; 0 = whole files.
    pub chunk_s: f64,
    /// Appended to a video's name when it has no extension, and used for chunk files.
    pub extension: String,
    /// Frames per second of the videos; 0 = read it from each file.
    pub fps: f64,
    /// EPIC-Kitchens-100 only: the `*_sentence.csv` that defines the caption columns.
    pub sentences: Option<PathBuf>,
    /// EPIC-Kitchens-100 only: a relevancy matrix to read (numpy pickle); computed from the classes when absent.
    pub relevancy: Option<PathBuf>,
    /// Labelled lists only: the label of the first class; UCF101's official lists count from 1.
    pub first_label: usize,
    /// What to do with a record that has several captions.
    pub captions: CaptionChoice,
}

/// The form of an annotation file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceFormat {
    /// Pickled list of `(video, start, end, caption or [captions], ...)`.
    Ego4d,
    /// EPIC_100_retrieval_*.csv.
    Ek100,
    /// CSV with a header or JSON lines: `video,start,end,caption`.
    Table,
    /// Lines of `path frames label` or `path label`, separated by spaces or commas: Kinetics, Something-Something v2,
    /// UCF101, HMDB51 as VideoMAE, AVION and TSN list them. A clip is the whole video.
    Kinetics,
}

/// How one caption is made of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CaptionChoice {
    /// One of them, drawn anew each epoch.
    Random,
    /// All of them, joined by ". ".
    Concat,
}

/// Means and deviations that pixels are normalised with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Normalization {
    /// AVION's and LaViLa's constants (red mean 108.327: a typo their weights were trained with).
    Avion,
    /// OpenAI CLIP's constants.
    Openai,
    /// ImageNet's constants, as VideoMAE uses.
    Imagenet,
}

/// Optimizer and learning rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimConfig {
    /// Update rule.
    pub optimizer: OptimizerKind,
    /// Learning rate; never scaled with the batch.
    pub lr: f64,
    /// AdamW: decay of the two moments. Lion (published with `[0.9, 0.99]`): of the momentum in the update, and of the
    /// momentum itself. Both in `[0, 1)`.
    pub betas: [f64; 2],
    /// AdamW only: added to the root of the second moment.
    pub eps: f64,
    /// SGD only: momentum in `[0, 1)`; 0 = none, and nothing is kept between steps.
    pub momentum: f64,
    /// SGD only: Nesterov's momentum.
    pub nesterov: bool,
    /// Decay of every weight matrix; none for biases, norms and positional embeddings. Decoupled from the gradient in
    /// AdamW and Lion, added to it in SGD.
    pub weight_decay: f64,
    /// Learning rate over the run.
    pub schedule: Schedule,
    /// Cosine only: epochs of linear warm-up from `warmup_lr` to `lr`.
    pub warmup_epochs: f64,
    /// Cosine only: the learning rate of the first step.
    pub warmup_lr: f64,
    /// Cosine only: the learning rate at the end.
    pub end_lr: f64,
    /// Largest global gradient norm; 0 = no clipping.
    pub clip_grad_norm: f64,
}

/// The update rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OptimizerKind {
    /// Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101).
    Adamw,
    /// Sign of an interpolated momentum (Chen et al. 2023, arXiv:2302.06675): half of AdamW's state; wants a learning
    /// rate 3 to 10 times smaller and as much more decay.
    Lion,
    /// Stochastic gradient descent with momentum, as torch.optim.SGD with dampening 0.
    Sgd,
}

/// The learning rate over a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// `lr` throughout.
    Fixed,
    /// Linear warm-up, then half a cosine down to `end_lr`.
    Cosine,
}

/// Length, batch, precision and output of the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// Passes over the training sets.
    pub epochs: usize,
    /// Stop after this many optimizer steps; 0 = after `epochs`. The schedule still spans `epochs`.
    pub max_steps: usize,
    /// Clips per optimizer step; in contrastive training, all are compared with each other.
    pub batch_size: usize,
    /// Clips on the device at once; 0 = `batch_size`. Smaller values give the same gradients in less memory:
    /// features are computed chunk by chunk, then each chunk again with gradients.
    pub micro_batch: usize,
    /// Number format of activations and matrix products.
    pub precision: Precision,
    /// What of the forward pass is kept for the backward pass; the rest is computed again. Speed and memory only.
    pub keep: KeepPolicy,
    /// With `keep = "fit"`: device memory the run may take in all, such as "20GiB"; empty = what is free at the start.
    pub fit: String,
    /// Steps between log lines.
    pub log_every: usize,
    /// Steps between checkpoints; 0 = only at the end of each epoch.
    pub checkpoint_every: usize,
    /// Newest checkpoints kept, at least 1; the best is kept besides.
    pub keep_checkpoints: usize,
    /// Stop after this many steps in a row with a loss or gradient that is not finite.
    pub max_bad_steps: usize,
    /// Where checkpoints, logs and the report go; default `runs/<name>`.
    pub output: Option<PathBuf>,
}

/// Number format of activations and matrix products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// bf16 where the device multiplies it, else f32.
    Auto,
    /// f32 throughout.
    F32,
    /// bf16 activations and matrix products, f32 weights, statistics and losses.
    Bf16,
}

/// What of the forward pass is kept for the backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeepPolicy {
    /// All that computing again would cost more than a pass over memory.
    Store,
    /// Each block's input only: the least memory.
    Recompute,
    /// As much as the memory allows, what is dearest to compute again first.
    Fit,
}

/// When and how the evaluation sets are scored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvalConfig {
    /// Evaluate once before the first step, for a baseline.
    pub before_training: bool,
    /// Epochs between evaluations; 0 = only at the end.
    pub every_epochs: usize,
    /// Clips on the device at once; with several views, each counts as one.
    pub batch_size: usize,
    /// Task classify: stretches of each video that are scored and averaged.
    pub views: usize,
    /// Task classify: squares of each stretch that are scored and averaged: 1 in the centre, or 3 along the long side.
    pub crops: usize,
}
