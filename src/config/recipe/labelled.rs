//! Sections of the recipe for VideoMAE: masked pre-training, and fine-tuning a classifier.

use serde::{Deserialize, Serialize};

/// What is hidden from the encoder, and the decoder that fills it in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MaskingConfig {
    /// Which tokens are hidden.
    pub kind: MaskingKind,
    /// Share of the tokens that are hidden; their number is rounded down.
    pub ratio: f64,
    /// Blocks of the decoder.
    pub decoder_layers: usize,
    /// Width of the decoder.
    pub decoder_width: usize,
    /// Attention heads of the decoder.
    pub decoder_heads: usize,
    /// Share of the hidden tokens that are decoded; below 1 saves decoder time (VideoMAE V2, arXiv:2303.16727).
    pub decoded: f64,
    /// The target is each patch normalised by its own mean and deviation, per channel; otherwise plain pixels.
    pub normalize_targets: bool,
    /// Added to the deviation, on pixels from 0 to 255: AVION 1e-6; the original works on pixels from 0 to 1, where its
    /// 1e-6 is 255e-6 here.
    pub target_eps: f64,
}

/// Which tokens are hidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MaskingKind {
    /// The same patches in every frame (VideoMAE, Tong et al. 2022, arXiv:2203.12602).
    Tube,
    /// Each token by itself.
    Random,
    /// A pattern that runs through cells of patches from frame to frame (VideoMAE V2, arXiv:2303.16727).
    RunningCell,
}

/// Changes made to training clips besides crop and flip.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AugmentConfig {
    /// RandAugment: operations per clip; 0 = off.
    pub randaugment: usize,
    /// RandAugment: mean strength, 0 to 10.
    pub randaugment_magnitude: f64,
    /// RandAugment: probability of each operation drawn.
    pub randaugment_probability: f64,
    /// RandAugment: standard deviation of the strength.
    pub randaugment_std: f64,
    /// Probability that a box of the clip is filled with noise (random erasing).
    pub erasing: f64,
    /// Mixup: alpha of the beta distribution that two clips' shares are drawn from; 0 = off.
    pub mixup: f64,
    /// CutMix: alpha of the beta distribution that the area of the box is drawn from; 0 = off.
    pub cutmix: f64,
    /// Probability that a batch is mixed at all.
    pub mix_probability: f64,
    /// Probability of CutMix instead of Mixup where both are on.
    pub switch_probability: f64,
    /// Share of a label that is spread over all classes.
    pub label_smoothing: f64,
}

/// The classifier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClassifyConfig {
    /// Number of classes; labels run from 0 to this less 1.
    pub classes: usize,
    /// Factor on the random weights of the head.
    pub init_scale: f64,
    /// Learning rate of each layer as a share of the next one's; 1 = the same everywhere.
    pub layer_decay: f64,
    /// Decay of a moving average of the weights, which is then what is evaluated; 0 = off.
    pub ema: f64,
    /// Train the head only: a linear probe.
    pub freeze: bool,
    /// Probability of dropping a feature before the head.
    pub dropout: f64,
}
