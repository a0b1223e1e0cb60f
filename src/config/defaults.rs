//! Defaults of every section: AVION's published ViT-B/16 Ego4D run where it says something
//! (arXiv:2309.16669 and its repository), otherwise what suits a single machine.

use super::recipe::*;
use std::path::PathBuf;

impl Default for Recipe {
    fn default() -> Self {
        Self {
            name: "run".into(),
            task: TaskKind::Contrastive,
            seed: 0,
            model: ModelConfig::default(),
            data: DataConfig::default(),
            optim: OptimConfig::default(),
            train: TrainConfig::default(),
            eval: EvalConfig::default(),
            masking: MaskingConfig::default(),
            classify: ClassifyConfig::default(),
            augment: AugmentConfig::default(),
        }
    }
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            size: ModelSize::VitB16,
            frames: 4,
            tubelet: 2,
            embed_dim: 256,
            context: 77,
            activation: Activation::Gelu,
            vision_norm_eps: 1e-6,
            text_norm_eps: 1e-5,
            init: None,
            init_projections: false,
            temperature: 0.07,
            learn_temperature: false,
            drop_path: 0.0,
            drop_path_schedule: DropPathSchedule::Constant,
            patch_dropout: 0.0,
        }
    }
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            train: Vec::new(),
            eval: Vec::new(),
            normalization: Normalization::Avion,
            sampling: Sampling::Segment,
            stride: 4,
            stride_jitter: false,
            crop: CropKind::RandomResized,
            crop_scale: [0.5, 1.0],
            crop_ratio: [3.0 / 4.0, 4.0 / 3.0],
            flip: 0.0,
            repeats: 1,
            group: 1,
            labels: None,
            fast_loop_filter: false,
            scale_on_device: false,
            decoder: VideoDecoder::Cpu,
            workers: 0,
            prefetch: 2,
            max_bad_share: 0.01,
        }
    }
}

impl Default for SourceConfig {
    fn default() -> Self {
        Self {
            name: String::new(),
            format: SourceFormat::Table,
            annotations: PathBuf::new(),
            root: PathBuf::new(),
            chunk_s: 0.0,
            extension: "mp4".into(),
            fps: 0.0,
            sentences: None,
            relevancy: None,
            first_label: 0,
            captions: CaptionChoice::Random,
        }
    }
}

impl Default for OptimConfig {
    fn default() -> Self {
        Self {
            optimizer: OptimizerKind::Adamw,
            lr: 3e-5,
            betas: [0.9, 0.999],
            eps: 1e-8,
            momentum: 0.9,
            nesterov: false,
            weight_decay: 0.01,
            schedule: Schedule::Fixed,
            warmup_epochs: 1.0,
            warmup_lr: 1e-6,
            end_lr: 1e-5,
            clip_grad_norm: 0.0,
        }
    }
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            epochs: 5,
            max_steps: 0,
            batch_size: 256,
            micro_batch: 0,
            precision: Precision::Auto,
            keep: KeepPolicy::Fit,
            fit: String::new(),
            log_every: 10,
            checkpoint_every: 1000,
            keep_checkpoints: 2,
            max_bad_steps: 10,
            output: None,
        }
    }
}

impl Default for EvalConfig {
    fn default() -> Self {
        Self { before_training: true, every_epochs: 1, batch_size: 64, views: 1, crops: 1 }
    }
}

/// VideoMAE's ViT-B pre-training, as AVION runs it.
impl Default for MaskingConfig {
    fn default() -> Self {
        Self {
            kind: MaskingKind::Tube,
            ratio: 0.9,
            decoder_layers: 4,
            decoder_width: 384,
            decoder_heads: 6,
            decoded: 1.0,
            normalize_targets: true,
            target_eps: 1e-6,
        }
    }
}

/// VideoMAE's head; what else its fine-tuning does is off.
impl Default for ClassifyConfig {
    fn default() -> Self {
        Self { classes: 0, init_scale: 0.001, layer_decay: 1.0, ema: 0.0, freeze: false, dropout: 0.0 }
    }
}

/// Nothing; where a thing is switched on, the other numbers are VideoMAE's.
impl Default for AugmentConfig {
    fn default() -> Self {
        Self {
            randaugment: 0,
            randaugment_magnitude: 7.0,
            randaugment_probability: 0.5,
            randaugment_std: 0.5,
            erasing: 0.0,
            mixup: 0.0,
            cutmix: 0.0,
            mix_probability: 1.0,
            switch_probability: 0.5,
            label_smoothing: 0.0,
        }
    }
}

impl Recipe {
    /// Folder of the run: `train.output`, or `runs/<name>`.
    pub fn output_dir(&self) -> PathBuf {
        match &self.train.output {
            Some(path) => path.clone(),
            None => PathBuf::from("runs").join(&self.name),
        }
    }
}

impl OptimConfig {
    /// What the optimizer keeps between steps, one f32 number per parameter each: the prefixes of its tensors in a
    /// checkpoint.
    pub fn state_names(&self) -> &'static [&'static str] {
        match self.optimizer {
            OptimizerKind::Adamw => &["moment1", "moment2"],
            OptimizerKind::Lion => &["momentum"],
            OptimizerKind::Sgd if self.momentum == 0.0 => &[],
            OptimizerKind::Sgd => &["momentum_buffer"],
        }
    }
}

impl TrainConfig {
    /// Clips on the device at once: `micro_batch`, or the whole batch when that is 0.
    pub fn clips_at_once(&self) -> usize {
        match self.micro_batch {
            0 => self.batch_size,
            clips => clips,
        }
    }
}

impl SourceConfig {
    /// Name in logs and reports: `name`, or the annotation file's stem.
    pub fn label(&self) -> String {
        if !self.name.is_empty() {
            return self.name.clone();
        }
        let stem = self.annotations.file_stem().unwrap_or_default();
        stem.to_string_lossy().into_owned()
    }
}
