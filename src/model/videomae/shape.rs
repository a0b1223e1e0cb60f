//! Every size and constant that defines a VideoMAE model.

use crate::config::Geometry;
use crate::config::recipe::{Activation, MaskingKind, Recipe};
use crate::model::TowerShape;
use crate::model::plan::{Ending, Start, TowerSizes};
use crate::model::shape::{drop_path_rates, pixel_norm};
use crate::ops::tubelet_embed::{MaskKind, MaskShape, TubeletGrid};
use avion_kernels::KernelError;
use avion_kernels::masking::Counts;
use avion_kernels::patch_ingest::PixelNorm;

/// The model that is pre-trained: encoder, decoder, mask and targets.
#[derive(Debug, Clone, PartialEq)]
pub struct MaeShape {
    pub grid: TubeletGrid,
    pub encoder: TowerShape,
    pub decoder: TowerShape,
    pub mask: MaskShape,
    pub activation: Activation,
    pub pixels: PixelNorm,
    /// Targets are normalised with this epsilon, on the 0-255 scale; plain pixels / 255 when absent.
    pub normalize: Option<f32>,
    /// Drop path's rate per encoder block.
    pub drop_path: Vec<f32>,
}

/// The model that is fine-tuned.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassifierShape {
    pub grid: TubeletGrid,
    pub encoder: TowerShape,
    pub classes: usize,
    pub activation: Activation,
    pub pixels: PixelNorm,
    pub drop_path: Vec<f32>,
    /// Factor on the random weights of the head.
    pub init_scale: f32,
    /// Learning rate of each layer as a share of the next one's.
    pub layer_decay: f32,
    /// Whether only the head is trained.
    pub freeze: bool,
    /// Probability of dropping a feature before the head.
    pub dropout: f32,
}

fn grid(recipe: &Recipe) -> TubeletGrid {
    let Geometry { image_px, patch_px, .. } = Geometry::of(recipe.model.size);
    TubeletGrid { frames: recipe.model.frames, image_px, patch_px, tubelet: recipe.model.tubelet }
}

fn encoder(recipe: &Recipe) -> TowerShape {
    let Geometry { width, layers, heads, .. } = Geometry::of(recipe.model.size);
    TowerShape { width, layers, heads, eps: recipe.model.vision_norm_eps as f32 }
}

impl MaeShape {
    /// The model a recipe asks for.
    ///
    /// # Errors
    /// A mask that the grid cannot have, such as running cells over an odd number of patches.
    pub fn of(recipe: &Recipe) -> Result<Self, KernelError> {
        let (masking, grid, encoder) = (&recipe.masking, grid(recipe), encoder(recipe));
        let kind = match masking.kind {
            MaskingKind::Tube => MaskKind::Tube,
            MaskingKind::Random => MaskKind::Random,
            MaskingKind::RunningCell => MaskKind::RunningCell,
        };
        let slots = [grid.slots(), grid.side(), grid.side()];
        let mask = MaskShape::of_ratio(kind, slots, masking.ratio)?.decoding(masking.decoded)?;
        Ok(MaeShape {
            grid,
            encoder,
            decoder: TowerShape {
                width: masking.decoder_width,
                layers: masking.decoder_layers,
                heads: masking.decoder_heads,
                eps: encoder.eps,
            },
            mask,
            activation: recipe.model.activation,
            pixels: pixel_norm(recipe.data.normalization),
            normalize: masking.normalize_targets.then_some(masking.target_eps as f32),
            drop_path: drop_path_rates(recipe),
        })
    }

    pub fn counts(&self, clips: usize) -> Counts {
        self.mask.counts(clips)
    }

    /// What encoder and decoder compute for `clips` clips, with activations of `element` bytes.
    pub fn tower_sizes(&self, clips: usize, element: usize) -> [TowerSizes; 2] {
        let counts = self.counts(clips);
        let sizes = |shape: &TowerShape, tokens, drop_path, start, ending, name| TowerSizes {
            batch: clips,
            tokens,
            width: shape.width,
            layers: shape.layers,
            heads: shape.heads,
            element,
            causal: false,
            drop_path,
            start,
            ending,
            name,
        };
        let values = self.grid.columns();
        let bridge = Ending::Bridge { narrow: self.decoder.width };
        let prediction = Ending::Prediction { rows: counts.decoded_rows(), values };
        let drops = self.drop_path.iter().any(|rate| *rate > 0.0);
        [
            sizes(&self.encoder, counts.visible, drops, Start::Tubelets { values }, bridge, "encoder"),
            sizes(&self.decoder, counts.tokens(), false, Start::Tower, prediction, "decoder"),
        ]
    }
}

impl ClassifierShape {
    /// The model a recipe asks for.
    pub fn of(recipe: &Recipe) -> Self {
        let classify = &recipe.classify;
        ClassifierShape {
            grid: grid(recipe),
            encoder: encoder(recipe),
            classes: classify.classes,
            activation: recipe.model.activation,
            pixels: pixel_norm(recipe.data.normalization),
            drop_path: drop_path_rates(recipe),
            init_scale: classify.init_scale as f32,
            layer_decay: classify.layer_decay as f32,
            freeze: classify.freeze,
            dropout: classify.dropout as f32,
        }
    }

    /// What the encoder computes for `clips` clips, with activations of `element` bytes.
    pub fn tower_sizes(&self, clips: usize, element: usize) -> TowerSizes {
        let TowerShape { width, layers, heads, .. } = self.encoder;
        TowerSizes {
            batch: clips,
            tokens: self.grid.tokens(),
            width,
            layers,
            heads,
            element,
            causal: false,
            drop_path: self.drop_path.iter().any(|rate| *rate > 0.0),
            start: Start::Tubelets { values: self.grid.columns() },
            ending: Ending::Mean { classes: self.classes },
            name: "encoder",
        }
    }
}
