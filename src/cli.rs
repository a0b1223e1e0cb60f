//! The command line: what can be asked, in words. No logic.

use crate::device::BackendChoice;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Train video-language models on one machine.
#[derive(Debug, Parser)]
#[command(name = "avion", version, about, long_about = LONG, after_long_help = EXIT_CODES, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    /// Say more: -v for what is being done, -vv for every detail. `RUST_LOG` overrides both.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,
}

const LONG: &str = "Train video-language models on one machine.\n\n\
    A recipe (a TOML file, or the name of a built-in one) says everything about a run: model, data, optimizer, length. \
    `avion demo` shows the whole in a few minutes on any computer; `avion config --list` explains every setting.";

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 loss or gradient not finite, \
    130 interrupted after a checkpoint.";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train as a recipe says; goes on by itself where an earlier run in the same folder stopped.
    Train(TrainArgs),
    /// Score a checkpoint or a weight file on the evaluation sets of a recipe.
    Eval(EvalArgs),
    /// Measure what a model's features hold, as they are: nearest neighbours and a linear probe.
    Probe(ProbeArgs),
    /// Draw what a model makes of a video.
    Inspect(InspectArgs),
    /// Write a checkpoint's weights for other programs.
    Export(ExportArgs),
    /// Train a tiny model on generated videos of moving shapes, and show what it learned.
    Demo(DemoArgs),
    /// Turn raw videos into ones that are fast to read: short chunks, small pictures, near key frames, and a manifest.
    Prepare(PrepareArgs),
    /// List CUDA devices and graphics adapters, check the kernels on each, say which one would be taken.
    Devices(DevicesArgs),
    /// Measure this machine: a training step, attention, matrix products, decoding, input and output.
    Bench(BenchArgs),
    /// Print a recipe with everything filled in, or explain every setting.
    Config(ConfigArgs),
    /// Look at the data sets of a recipe.
    Data(DataArgs),
}

/// Which recipe, and what to change in it.
#[derive(Debug, Args)]
pub struct RecipeArgs {
    /// Recipe file, or the name of a built-in recipe (`demo`, `ego4d-vitb16`).
    #[arg(long, value_name = "FILE|NAME")]
    pub config: String,
    /// Change a setting, e.g. `--set optim.lr=1e-4` or `--set data.train.0.root=/data/ego4d`. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
}

/// Weights, and the recipe that says which model they are.
#[derive(Debug, Args)]
pub struct WeightsArgs {
    /// A run folder (its best checkpoint), a checkpoint folder, or a weight file (.safetensors, .pt, .pth).
    #[arg(long, value_name = "PATH")]
    pub checkpoint: PathBuf,
    /// Recipe file or built-in name; needed for weight files, else the checkpoint's own is used.
    #[arg(long, value_name = "FILE|NAME")]
    pub config: Option<String>,
    /// Change a setting, e.g. `--set data.eval.0.root=/data/ek100`. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
}

/// Where to compute.
#[derive(Debug, Args)]
pub struct DeviceArgs {
    /// `auto` takes CUDA, then a GPU through wgpu, then software Vulkan.
    #[arg(long, value_enum, default_value = "auto")]
    pub backend: BackendChoice,
    /// Number of the device within the backend, as `avion devices` lists it.
    #[arg(long, value_name = "N")]
    pub device: Option<usize>,
}

#[derive(Debug, Args)]
pub struct TrainArgs {
    #[command(flatten)]
    pub recipe: RecipeArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Folder for checkpoints, logs and the report [default: runs/<name of the recipe>].
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Go on from this run or checkpoint instead of what the output folder holds.
    #[arg(long, value_name = "PATH")]
    pub resume: Option<PathBuf>,
    /// Start over: delete the checkpoints in the output folder.
    #[arg(long, conflicts_with = "resume")]
    pub fresh: bool,
}

#[derive(Debug, Args)]
pub struct EvalArgs {
    #[command(flatten)]
    pub weights: WeightsArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Print the scores as JSON.
    #[arg(long)]
    pub json: bool,
    /// Task classify: also print how well each class is recognised, and what it is taken for.
    #[arg(long)]
    pub per_class: bool,
    /// Task classify: write the confusion matrix as a picture; of a second set as FILE-2.png.
    #[arg(long, value_name = "FILE.png")]
    pub confusion: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ProbeArgs {
    #[command(flatten)]
    pub weights: WeightsArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Neighbours that vote.
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub neighbours: usize,
    /// Print the scores as JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct InspectArgs {
    #[command(subcommand)]
    pub what: InspectWhat,
}

#[derive(Debug, Subcommand)]
pub enum InspectWhat {
    /// Hide patches of videos and draw what the model puts in their place (task masked).
    Reconstruct(ReconstructArgs),
    /// Draw where the video encoder looks.
    Attention(AttentionArgs),
}

/// Videos, and where the pictures go.
#[derive(Debug, Args)]
pub struct PictureArgs {
    /// Video files.
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    pub video: Vec<PathBuf>,
    /// Folder for the pictures, a PNG and a GIF a video.
    #[arg(long, value_name = "DIR", default_value = "runs/inspect")]
    pub output: PathBuf,
}

#[derive(Debug, Args)]
pub struct ReconstructArgs {
    #[command(flatten)]
    pub weights: WeightsArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
    #[command(flatten)]
    pub pictures: PictureArgs,
    /// Draws the mask; the same number hides the same patches.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub mask_seed: u64,
}

#[derive(Debug, Args)]
pub struct AttentionArgs {
    #[command(flatten)]
    pub weights: WeightsArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
    #[command(flatten)]
    pub pictures: PictureArgs,
    /// Layer, counted from 0 [default: the last].
    #[arg(long, value_name = "N")]
    pub layer: Option<usize>,
    /// Also draw each head by itself, a row each.
    #[arg(long)]
    pub heads: bool,
}

/// Whose names exported weights get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ExportFormat {
    /// For `from_pretrained` of Hugging Face's transformers.
    HuggingFace,
    /// For OpenAI's CLIP and open_clip (task contrastive).
    Openai,
}

#[derive(Debug, Args)]
pub struct ExportArgs {
    #[command(flatten)]
    pub weights: WeightsArgs,
    /// Folder for the files.
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
    /// Whose names the weights get.
    #[arg(long, value_enum, default_value = "hugging-face")]
    pub format: ExportFormat,
}

/// What `avion demo` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum DemoWhat {
    /// Contrastive training: find clips by captions.
    Clip,
    /// Masked pre-training, then fine-tuning as a classifier.
    Videomae,
}

#[derive(Debug, Args)]
pub struct DemoArgs {
    #[arg(default_value = "clip")]
    pub what: DemoWhat,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Folder for the generated videos, checkpoints, logs and the report [default: runs/demo, runs/demo-videomae].
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Start over: delete the checkpoints in the output folder.
    #[arg(long)]
    pub fresh: bool,
    /// Change a setting of the demo's recipe. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
}

/// How names of prepared videos follow from paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum PrepareLayout {
    /// As the names look; as before, where the output holds videos already.
    Auto,
    /// `UID/0.mp4`, wherever the file lies.
    Ego4d,
    /// `P01/P01_01/0.mp4`, wherever the file lies.
    Ek100,
    /// `CLASS/NAME.mp4`, not cut into chunks.
    Kinetics,
    /// The folders of the input.
    Plain,
}

/// Encoders of `avion prepare`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum PrepareCodec {
    /// H.264 where FFmpeg has x264, else MPEG-4 part 2.
    Auto,
    H264,
    Mpeg4,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct PrepareArgs {
    #[command(subcommand)]
    pub what: Option<PrepareWhat>,
    /// Folder of videos, searched to any depth, or a text file with a path a line.
    #[arg(long, value_name = "FOLDER|LIST", required = true)]
    pub input: Option<PathBuf>,
    /// Folder for the prepared videos and their manifest. The same command goes on where an earlier one stopped.
    #[arg(long, value_name = "FOLDER", required = true)]
    pub output: Option<PathBuf>,
    /// How videos are named.
    #[arg(long, value_enum, default_value = "auto")]
    pub layout: PrepareLayout,
    /// Seconds a chunk; 0 = a file a video, for short ones: it is made in memory [default: 15, of Kinetics 0].
    #[arg(long, value_name = "SECONDS")]
    pub chunk_s: Option<u32>,
    /// Short side at most; smaller videos stay as they are.
    #[arg(long, value_name = "PIXELS", default_value_t = 288)]
    pub short_side: u32,
    /// Frames from key frame to key frame: fewer are faster to read, and larger.
    #[arg(long, value_name = "FRAMES", default_value_t = 12)]
    pub gop: u32,
    /// What to encode with.
    #[arg(long, value_enum, default_value = "auto")]
    pub codec: PrepareCodec,
    /// H.264: constant rate factor, 0 to 51 [default: 24]; MPEG-4: quantiser, 1 to 31 [default: 6]. Lower is better.
    #[arg(long, visible_alias = "crf", value_name = "N")]
    pub quality: Option<u32>,
    /// H.264: x264's preset; slower ones are better at the same size, and as fast to read.
    #[arg(long, value_name = "NAME", default_value = "veryfast")]
    pub preset: String,
    /// Videos at a time, a thread each [default: one a core].
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
    /// Write nothing; say how many videos and hours there are, and what time and space they would take.
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub enum PrepareWhat {
    /// Decode everything that was prepared and compare it with the manifest.
    Verify(VerifyArgs),
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Folder of prepared videos.
    #[arg(long, value_name = "FOLDER")]
    pub output: PathBuf,
    /// Remove the chunks that differ: the next `avion prepare` makes them anew.
    #[arg(long)]
    pub repair: bool,
    /// Chunks at a time [default: one a core].
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
}

#[derive(Debug, Args)]
pub struct DevicesArgs {
    /// Print the list as JSON.
    #[arg(long)]
    pub json: bool,
}

/// What `avion bench` measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum BenchWhat {
    /// A recipe's whole step on made-up frames, with its parts, memory and the time the recipe would take.
    Step,
    /// Attention, forward and backward.
    Attention,
    /// The matrix products of a block, and this device's peak.
    Gemm,
    /// Clips a second from a folder of videos.
    Decode,
    /// Copies to the device and files.
    Io,
}

#[derive(Debug, Args)]
pub struct BenchArgs {
    pub what: BenchWhat,
    /// Recipe file or built-in name; without it, ego4d-vitb16 with a batch of 256 at once.
    #[arg(long, value_name = "FILE|NAME")]
    pub config: Option<String>,
    /// Change a setting first, e.g. `--set train.batch_size=256 --set train.fit=22GiB`. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// step: steps to time.
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub steps: usize,
    /// step: words of the made-up captions.
    #[arg(long, value_name = "N", default_value_t = 12)]
    pub words: usize,
    /// step: clips of the data set, for the projected time [default: of the recipe's own].
    #[arg(long, value_name = "N")]
    pub dataset_clips: Option<u64>,
    /// step: do not time the parts one by one.
    #[arg(long)]
    pub no_parts: bool,
    /// decode: folder with videos.
    #[arg(long, value_name = "FOLDER")]
    pub data: Option<PathBuf>,
    /// decode: these clips instead of drawn ones, a JSON object a line: `{"video": "a.mp4", "frames": [3, 9], "crop":
    /// {"x": 0, "y": 0, "width": 200, "height": 200}}`. All have the same number of frames.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["data", "frames", "stride", "clips"])]
    pub samples: Option<PathBuf>,
    /// decode: frames a clip.
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub frames: usize,
    /// decode: every N-th frame from a random start [default: spread over a random second].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub stride: Option<u64>,
    /// decode: threads [default: one a core].
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
    /// decode: clips in all.
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub clips: usize,
    /// Print the measurements as JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// Recipe file or built-in name; without it, the defaults.
    #[arg(value_name = "FILE|NAME")]
    pub config: Option<String>,
    /// Change a setting first. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Explain every setting: type, default, meaning.
    #[arg(long)]
    pub list: bool,
    /// Also check the recipe (paths, ranges, memory) as `train` would.
    #[arg(long)]
    pub check: bool,
}

#[derive(Debug, Args)]
pub struct DataArgs {
    #[command(subcommand)]
    pub what: DataWhat,
}

#[derive(Debug, Subcommand)]
pub enum DataWhat {
    /// Count clips, captions and labels; find, open and describe their files; measure decoding; draw it all.
    Stats(DataStatsArgs),
}

#[derive(Debug, Args)]
pub struct DataStatsArgs {
    #[command(flatten)]
    pub recipe: RecipeArgs,
    /// Folder for stats.html, stats.json and clips.png [default: data-stats in the recipe's output folder].
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Files of each set that are opened, at most; all are looked for.
    #[arg(long, value_name = "N", default_value_t = 2000)]
    pub sample: usize,
    /// How long a training step takes [default: as a run in the recipe's output folder has recorded].
    #[arg(long, value_name = "MS")]
    pub step_ms: Option<f64>,
    /// Seconds that decoding is measured for, with one thread and with all; 0 = not at all.
    #[arg(long, value_name = "S", default_value_t = 5.0)]
    pub measure_s: f64,
    /// Print the figures as JSON.
    #[arg(long)]
    pub json: bool,
}
