//! Judges the values of a recipe: every problem at once, and warnings for what is unusual.

mod task;

use super::error::{ConfigError, Problem, Warning};
use super::geometry::Geometry;
use super::recipe::*;
use std::collections::BTreeSet;
use std::path::Path;

/// Checks values and that the files and folders named exist.
///
/// # Errors
/// [`ConfigError::Invalid`] with all problems found.
pub fn validate(recipe: &Recipe) -> Result<Vec<Warning>, ConfigError> {
    let mut judge = Judge::default();
    judge.values(recipe);
    judge.paths(recipe);
    judge.verdict()
}

/// Checks values only: the disk is not touched.
///
/// # Errors
/// [`ConfigError::Invalid`] with all problems found.
pub fn validate_values(recipe: &Recipe) -> Result<Vec<Warning>, ConfigError> {
    let mut judge = Judge::default();
    judge.values(recipe);
    judge.verdict()
}

/// Checks what scoring a model needs: its geometry and the evaluation sets. The training sets and the weights to start
/// from need not be there.
///
/// # Errors
/// [`ConfigError::Invalid`] with all problems found.
pub fn validate_for_eval(recipe: &Recipe) -> Result<Vec<Warning>, ConfigError> {
    let mut scored = recipe.clone();
    scored.data.train = scored.data.eval.clone();
    (scored.model.init, scored.model.init_projections) = (None, false);
    validate(&scored)
}

#[derive(Default)]
struct Judge {
    problems: Vec<Problem>,
    warnings: Vec<Warning>,
}

impl Judge {
    fn verdict(self) -> Result<Vec<Warning>, ConfigError> {
        match self.problems.is_empty() {
            true => Ok(self.warnings),
            false => Err(ConfigError::Invalid { problems: self.problems }),
        }
    }

    /// Records a problem unless `holds`.
    fn need(&mut self, holds: bool, key: &str, message: impl Into<String>) {
        if !holds {
            self.problems.push(Problem { place: String::new(), key: key.to_owned(), message: message.into() });
        }
    }

    fn warn_if(&mut self, unusual: bool, key: &'static str, message: impl Into<String>) {
        if unusual {
            let message = message.into();
            self.warnings.push(Warning { key, message });
        }
    }

    fn at_least(&mut self, least: usize, key: &str, value: usize) {
        let message = format!("expected {least} or more, found {value}");
        self.need(value >= least, key, message);
    }

    fn positive(&mut self, key: &str, value: f64) {
        let message = format!("expected a number above 0, found {value}");
        self.need(value.is_finite() && value > 0.0, key, message);
    }

    fn not_negative(&mut self, key: &str, value: f64) {
        let message = format!("expected 0 or more, found {value}");
        self.need(value.is_finite() && value >= 0.0, key, message);
    }

    fn share(&mut self, key: &str, value: f64) {
        let message = format!("expected a share from 0 to 1, found {value}");
        self.need((0.0..=1.0).contains(&value), key, message);
    }

    /// A number in `[0, 1)`.
    fn below_one(&mut self, key: &str, value: f64) {
        let message = format!("expected 0 or more and less than 1, found {value}");
        self.need((0.0..1.0).contains(&value), key, message);
    }

    fn values(&mut self, recipe: &Recipe) {
        let plain = !recipe.name.is_empty() && !recipe.name.contains(['/', '\\']);
        self.need(
            plain && recipe.name != "." && recipe.name != "..",
            "name",
            format!("expected a plain name (it becomes the folder runs/<name>), found \"{}\"", recipe.name),
        );
        self.need(
            i64::try_from(recipe.seed).is_ok(),
            "seed",
            format!("expected at most {} (TOML's largest)", i64::MAX),
        );
        self.model(&recipe.model);
        self.data(recipe);
        self.sampling(recipe);
        self.optim(recipe);
        self.train(&recipe.train);
        self.at_least(1, "eval.batch_size", recipe.eval.batch_size);
        self.task(recipe);
        self.frames_at_once(recipe);
        self.published(recipe);
    }

    /// Frames on the device at once are addressed with 32 bits.
    fn frames_at_once(&mut self, recipe: &Recipe) {
        let image = Geometry::of(recipe.model.size).image_px;
        let clip_bytes = (3 * image * image).saturating_mul(recipe.model.frames);
        let most = u32::MAX as usize / clip_bytes.max(1);
        let at_once =
            [("train.micro_batch", recipe.train.clips_at_once()), ("eval.batch_size", recipe.eval.batch_size)];
        for (key, clips) in at_once {
            let message = format!("expected at most {most} clips at once (4 GiB of frames), found {clips}");
            self.need(clips <= most, key, message);
        }
    }

    fn model(&mut self, model: &ModelConfig) {
        self.at_least(1, "model.frames", model.frames);
        self.at_least(1, "model.embed_dim", model.embed_dim);
        // A start token, one token of text, an end token.
        self.at_least(3, "model.context", model.context);
        self.positive("model.vision_norm_eps", model.vision_norm_eps);
        self.positive("model.text_norm_eps", model.text_norm_eps);
        // logit_scale = ln(1 / temperature) is clamped to [0, ln 100] after every step, as in CLIP.
        self.need(
            (0.01..=1.0).contains(&model.temperature),
            "model.temperature",
            format!("expected 0.01 to 1 (training keeps logit_scale within [0, ln 100]), found {}", model.temperature),
        );
        self.below_one("model.drop_path", model.drop_path);
        self.below_one("model.patch_dropout", model.patch_dropout);
        self.need(
            model.init.is_some() || !model.init_projections,
            "model.init_projections",
            "has nothing to take the projections from: set model.init, or this to false",
        );
        self.warn_if(
            model.drop_path > 0.0 && model.drop_path_schedule == DropPathSchedule::Constant,
            "model.drop_path_schedule",
            "the same rate in every block is AVION's choice; most papers mean linear",
        );
    }

    fn data(&mut self, recipe: &Recipe) {
        let data = &recipe.data;
        self.need(
            !data.train.is_empty(),
            "data.train",
            "no training set: add a [[data.train]] table with annotations and root",
        );
        self.warn_if(
            // Pre-training has no score that decides.
            data.eval.is_empty() && recipe.task != TaskKind::Masked,
            "data.eval",
            "no evaluation set: the best checkpoint is not known, only the newest",
        );
        let [low, high] = data.crop_scale;
        self.need(
            0.0 < low && low <= high && high <= 1.0,
            "data.crop_scale",
            format!("expected 0 < smallest <= largest <= 1, found [{low}, {high}]"),
        );
        let [low, high] = data.crop_ratio;
        self.need(
            0.0 < low && low <= high && high.is_finite(),
            "data.crop_ratio",
            format!("expected 0 < smallest <= largest, found [{low}, {high}]"),
        );
        self.share("data.flip", data.flip);
        self.share("data.max_bad_share", data.max_bad_share);
        self.at_least(1, "data.prefetch", data.prefetch);
        self.at_least(1, "data.group", data.group);
        self.need(
            !(data.fast_loop_filter && data.decoder == VideoDecoder::Nvdec),
            "data.fast_loop_filter",
            "expected false with data.decoder = \"nvdec\", which never leaves the filter out: files that fall back would differ",
        );
        for (list, sources) in [("train", &data.train), ("eval", &data.eval)] {
            let mut labels = BTreeSet::new();
            for (index, source) in sources.iter().enumerate() {
                let key = format!("data.{list}.{index}");
                self.source(&key, source);
                let label = source.label();
                self.need(
                    label.is_empty() || labels.insert(label.clone()),
                    &format!("{key}.name"),
                    format!("\"{label}\" names an earlier data.{list} too: give each its own"),
                );
            }
        }
        for source in &data.eval {
            self.warn_if(
                source.format == SourceFormat::Ek100 && source.sentences.is_none(),
                "data.eval.N.sentences",
                "retrieval scores compare with published ones only with EPIC_100_retrieval_test_sentence.csv",
            );
        }
    }

    fn source(&mut self, key: &str, source: &SourceConfig) {
        for (name, path) in [("annotations", &source.annotations), ("root", &source.root)] {
            let is_set = !path.as_os_str().is_empty();
            self.need(is_set, &format!("{key}.{name}"), "is not set");
        }
        self.not_negative(&format!("{key}.chunk_s"), source.chunk_s);
        self.not_negative(&format!("{key}.fps"), source.fps);
        self.need(
            source.chunk_s == 0.0 || !source.extension.is_empty(),
            &format!("{key}.extension"),
            "chunk files need an extension, such as mp4",
        );
        let labelled = source.format == SourceFormat::Kinetics;
        self.need(
            !labelled || source.chunk_s == 0.0,
            &format!("{key}.chunk_s"),
            "expected 0: the clips of a labelled list are whole files",
        );
        self.need(
            labelled || source.first_label == 0,
            &format!("{key}.first_label"),
            "belongs to format = \"kinetics\": remove it or change the format",
        );
        let only_ek100 = [("sentences", source.sentences.is_some()), ("relevancy", source.relevancy.is_some())];
        for (name, is_set) in only_ek100 {
            self.need(
                !is_set || source.format == SourceFormat::Ek100,
                &format!("{key}.{name}"),
                "belongs to format = \"ek100\": remove it or change the format",
            );
        }
    }

    fn optim(&mut self, recipe: &Recipe) {
        let optim = &recipe.optim;
        self.positive("optim.lr", optim.lr);
        for beta in optim.betas {
            self.below_one("optim.betas", beta);
        }
        self.positive("optim.eps", optim.eps);
        self.below_one("optim.momentum", optim.momentum);
        self.need(
            !optim.nesterov || (optim.optimizer == OptimizerKind::Sgd && optim.momentum > 0.0),
            "optim.nesterov",
            "belongs to optim.optimizer = \"sgd\" with a momentum above 0: set it to false or change these",
        );
        self.warn_if(
            optim.optimizer == OptimizerKind::Lion && optim.betas == OptimConfig::default().betas,
            "optim.betas",
            "[0.9, 0.999] suits AdamW; Lion was published with [0.9, 0.99]",
        );
        self.not_negative("optim.weight_decay", optim.weight_decay);
        self.not_negative("optim.clip_grad_norm", optim.clip_grad_norm);
        self.not_negative("optim.warmup_epochs", optim.warmup_epochs);
        self.not_negative("optim.warmup_lr", optim.warmup_lr);
        self.not_negative("optim.end_lr", optim.end_lr);
        if optim.schedule == Schedule::Cosine {
            let epochs = recipe.train.epochs;
            self.need(
                optim.warmup_epochs < epochs as f64,
                "optim.warmup_epochs",
                format!("expected less than train.epochs = {epochs}, found {}", optim.warmup_epochs),
            );
            for (key, value) in [("optim.warmup_lr", optim.warmup_lr), ("optim.end_lr", optim.end_lr)] {
                self.need(value <= optim.lr, key, format!("expected at most optim.lr = {}, found {value}", optim.lr));
            }
        }
    }

    fn train(&mut self, train: &TrainConfig) {
        self.at_least(1, "train.epochs", train.epochs);
        let (batch, micro) = (train.batch_size, train.clips_at_once());
        self.need(
            micro > 0 && micro <= batch && batch.is_multiple_of(micro),
            "train.micro_batch",
            format!("expected a divisor of train.batch_size = {batch}, found {micro}"),
        );
        if let (false, Err(message)) = (train.fit.is_empty(), super::parse_bytes(&train.fit)) {
            self.need(false, "train.fit", message);
        }
        self.at_least(1, "train.log_every", train.log_every);
        self.at_least(1, "train.keep_checkpoints", train.keep_checkpoints);
        self.at_least(1, "train.max_bad_steps", train.max_bad_steps);
    }

    /// Warns where a run on Ego4D leaves what the published results were trained with
    /// (AVION README and model zoo: 8 x 256 clips for ViT-B/16, 8 x 112 for ViT-L/14).
    fn published(&mut self, recipe: &Recipe) {
        let sources = &recipe.data.train;
        if !sources.iter().any(|s| s.format == SourceFormat::Ego4d) {
            return;
        }
        let published = match recipe.model.size {
            ModelSize::VitB16 => 2048,
            ModelSize::VitL14 => 896,
            ModelSize::Tiny | ModelSize::Tiny8 | ModelSize::VitS16 | ModelSize::VitL16 | ModelSize::VitL14At336 => {
                return;
            }
        };
        let batch = recipe.train.batch_size;
        self.warn_if(
            batch != published,
            "train.batch_size",
            format!(
                "{batch} where AVION's published run used {published}: a smaller contrastive batch \
                 scores lower; train.micro_batch keeps the batch and saves memory"
            ),
        );
        self.warn_if(
            recipe.data.normalization != Normalization::Avion,
            "data.normalization",
            "AVION's published runs on Ego4D used avion",
        );
    }

    fn paths(&mut self, recipe: &Recipe) {
        if let Some(path) = &recipe.model.init {
            let advice = "set model.init to the file of weights, or remove it to start from random";
            self.exists(path, "model.init", advice);
        }
        if let Some(path) = &recipe.train.output {
            self.need(!path.is_file(), "train.output", format!("expected a folder, found the file {}", path.display()));
        }
        if let Some(path) = &recipe.data.labels {
            self.file(path, "data.labels", "one class name a line, in the order of the labels");
        }
        for (list, sources) in [("train", &recipe.data.train), ("eval", &recipe.data.eval)] {
            for (index, source) in sources.iter().enumerate() {
                let key = |name: &str| format!("data.{list}.{index}.{name}");
                let advice = "relative paths start at the working directory";
                self.file(&source.annotations, &key("annotations"), advice);
                let root = &source.root;
                self.need(
                    root.as_os_str().is_empty() || root.is_dir(),
                    &key("root"),
                    format!("no folder {}: {advice}", root.display()),
                );
                for (name, path) in [("sentences", &source.sentences), ("relevancy", &source.relevancy)] {
                    if let Some(path) = path {
                        self.file(path, &key(name), advice);
                    }
                }
            }
        }
    }

    /// An unset path is another check's business.
    fn file(&mut self, path: &Path, key: &str, advice: &str) {
        let fine = path.as_os_str().is_empty() || path.is_file();
        self.need(fine, key, format!("no file {}: {advice}", path.display()));
    }

    /// A file, or a folder that holds one.
    fn exists(&mut self, path: &Path, key: &str, advice: &str) {
        let message = format!("no file {}: {advice}", path.display());
        self.need(path.exists(), key, message);
    }
}
