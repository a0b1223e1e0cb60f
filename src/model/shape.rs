//! Every size and constant that defines a CLIP model, free of where it came from.

use super::plan::{Ending, Start, TowerSizes};
use crate::config::recipe::{Activation, DropPathSchedule, Normalization, Recipe};
use crate::config::{Geometry, VOCABULARY};
use crate::ops::patch_embed::PixelNorm;

/// Sizes of one transformer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TowerShape {
    pub width: usize,
    pub layers: usize,
    pub heads: usize,
    /// LayerNorm epsilon.
    pub eps: f32,
}

/// Sizes and constants of a video-text model.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipShape {
    pub image_px: usize,
    pub patch_px: usize,
    pub frames: usize,
    pub vision: TowerShape,
    pub text: TowerShape,
    pub vocabulary: usize,
    pub context: usize,
    pub embed: usize,
    pub activation: Activation,
    pub pixels: PixelNorm,
    pub temperature: f64,
    pub learn_temperature: bool,
    /// Drop path's rate per vision block; the text tower has none.
    pub drop_path: Vec<f32>,
    /// Share of a clip's patches left out in training.
    pub patch_dropout: f64,
}

impl ClipShape {
    /// The model a recipe asks for.
    pub fn of(recipe: &Recipe) -> Self {
        let (model, geometry) = (&recipe.model, Geometry::of(recipe.model.size));
        let layers = geometry.layers;
        ClipShape {
            image_px: geometry.image_px,
            patch_px: geometry.patch_px,
            frames: model.frames,
            vision: TowerShape {
                width: geometry.width,
                layers,
                heads: geometry.heads,
                eps: model.vision_norm_eps as f32,
            },
            text: TowerShape {
                width: geometry.text_width,
                layers: geometry.text_layers,
                heads: geometry.text_heads,
                eps: model.text_norm_eps as f32,
            },
            vocabulary: VOCABULARY,
            context: model.context,
            embed: model.embed_dim,
            activation: model.activation,
            pixels: pixel_norm(recipe.data.normalization),
            temperature: model.temperature,
            learn_temperature: model.learn_temperature,
            drop_path: drop_path_rates(recipe),
            patch_dropout: model.patch_dropout,
        }
    }

    /// Patches per frame.
    pub fn patches(&self) -> usize {
        (self.image_px / self.patch_px).pow(2)
    }

    /// What both towers compute for `clips` clips and captions of `caption` tokens, with activations of `element` bytes.
    pub fn tower_sizes(&self, clips: usize, caption: usize, element: usize) -> [TowerSizes; 2] {
        let frames = Start::Frames { values: 3 * self.patch_px * self.patch_px, positions: self.tokens() };
        let sizes = |shape: &TowerShape, tokens, start, causal| TowerSizes {
            batch: clips,
            tokens,
            width: shape.width,
            layers: shape.layers,
            heads: shape.heads,
            element,
            causal,
            drop_path: !causal && self.drop_path.iter().any(|rate| *rate > 0.0),
            start,
            ending: Ending::OneToken { embed: self.embed },
            name: if causal { "text" } else { "video" },
        };
        [sizes(&self.vision, 1 + self.kept_patches(), frames, false), sizes(&self.text, caption, Start::Captions, true)]
    }

    /// Patches of a clip that a training step sees: at least one. Source: AVION `PatchDropout`.
    pub fn kept_patches(&self) -> usize {
        let patches = self.frames * self.patches();
        ((patches as f64 * (1.0 - self.patch_dropout)) as usize).max(1)
    }

    /// Vision tokens per clip.
    pub fn tokens(&self) -> usize {
        1 + self.frames * self.patches()
    }
}

/// Drop path's rate in each block of the video tower.
pub fn drop_path_rates(recipe: &Recipe) -> Vec<f32> {
    let (model, layers) = (&recipe.model, Geometry::of(recipe.model.size).layers);
    let rate = |layer: usize| match model.drop_path_schedule {
        DropPathSchedule::Constant => model.drop_path,
        DropPathSchedule::Linear => model.drop_path * layer as f64 / (layers.max(2) - 1) as f64,
    };
    (0..layers).map(|layer| rate(layer) as f32).collect()
}

/// The constants behind a name, on the 0-255 scale.
pub fn pixel_norm(normalization: Normalization) -> PixelNorm {
    match normalization {
        // AVION main_lavila_pretrain.py. The red mean is OpenAI's 0.48145466 mistyped; its weights were trained with it.
        Normalization::Avion => {
            PixelNorm { mean: [108.327_3, 116.746_01, 104.093_736], std: [68.500_53, 66.632_16, 70.323_163] }
        }
        // OpenAI CLIP clip.py, `_transform`, times 255.
        Normalization::Openai => {
            PixelNorm { mean: [122.770_94, 116.746_01, 104.093_736], std: [68.500_53, 66.632_16, 70.323_163] }
        }
        // torchvision's ImageNet constants, times 255.
        Normalization::Imagenet => PixelNorm { mean: [123.675, 116.28, 103.53], std: [58.395, 57.12, 57.375] },
    }
}
