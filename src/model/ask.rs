//! What a recipe's model is made of, whichever it is: asked before anything is allocated or launched.

use super::params::ParamSpec;
use super::plan::TowerSizes;
use super::videomae::{ClassifierShape, MaeShape, classifier_specs};
use super::{ClipShape, TowerShape, init, videomae};
use crate::config::recipe::{Recipe, TaskKind};
use avion_kernels::attention::{self, AttentionShape};
use avion_kernels::{FloatKind, KernelError};
use burn_cubecl::CubeRuntime;

/// Every parameter of the model that a recipe trains.
///
/// # Errors
/// A mask that the frames cannot have.
pub fn specs(recipe: &Recipe) -> Result<Vec<ParamSpec>, KernelError> {
    Ok(match recipe.task {
        TaskKind::Contrastive => init::specs(&ClipShape::of(recipe)),
        TaskKind::Masked => videomae::specs(&MaeShape::of(recipe)?),
        TaskKind::Classify => classifier_specs(&ClassifierShape::of(recipe)),
    })
}

/// Whether the device has kernels for the model.
///
/// # Errors
/// [`KernelError`] with the operation, the shapes and what is supported.
pub fn check_device<R: CubeRuntime>(recipe: &Recipe, kind: FloatKind, device: &R::Device) -> Result<(), KernelError> {
    let client = R::client(device);
    for (tower, tokens, causal) in towers(recipe)? {
        let (heads, head_dim) = (tower.heads, tower.width / tower.heads);
        attention::path(&client, &AttentionShape { batch: 1, tokens, heads, head_dim, causal, kind })?;
    }
    Ok(())
}

/// Sizes of a step's towers over `clips` clips, with captions of `caption` tokens; empty for a mask that the frames cannot
/// have, which is refused when the model is made.
pub fn tower_sizes(recipe: &Recipe, kind: FloatKind, clips: usize, caption: usize) -> Vec<TowerSizes> {
    match recipe.task {
        TaskKind::Contrastive => ClipShape::of(recipe).tower_sizes(clips, caption, kind.size()).to_vec(),
        TaskKind::Masked => {
            MaeShape::of(recipe).map_or_else(|_| Vec::new(), |shape| shape.tower_sizes(clips, kind.size()).to_vec())
        }
        TaskKind::Classify => vec![ClassifierShape::of(recipe).tower_sizes(clips, kind.size())],
    }
}

/// Each tower, its tokens, and whether it is causal.
fn towers(recipe: &Recipe) -> Result<Vec<(TowerShape, usize, bool)>, KernelError> {
    Ok(match recipe.task {
        TaskKind::Contrastive => {
            let shape = ClipShape::of(recipe);
            vec![(shape.vision, shape.tokens(), false), (shape.text, shape.context, true)]
        }
        TaskKind::Masked => {
            let shape = MaeShape::of(recipe)?;
            let counts = shape.counts(1);
            vec![(shape.encoder, counts.visible, false), (shape.decoder, counts.tokens(), false)]
        }
        TaskKind::Classify => {
            let shape = ClassifierShape::of(recipe);
            vec![(shape.encoder, shape.grid.tokens(), false)]
        }
    })
}
