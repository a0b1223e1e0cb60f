//! VideoMAE: a ViT over tubelets, pre-trained by predicting masked ones, then fine-tuned as a classifier.
//!
//! Source: Tong et al. 2022, arXiv:2203.12602; AVION's and VideoMAE's `modeling_pretrain.py`, `modeling_finetune.py`.

mod classifier;
mod pretrain;
mod shape;
mod specs;

pub use classifier::Classifier;
pub use pretrain::{Masked, VideoMae};
pub use shape::{ClassifierShape, MaeShape};
pub use specs::{classifier_specs, specs};

use super::stack::{BlockNames, Stack};
use crate::config::recipe::Activation;
use crate::model::stack::Extent;
use crate::ops::tubelet_embed::{TubeletEmbed, TubeletGrid, Tubelets};
use crate::ops::workspace::{Matrix, Workspace};
use avion_kernels::Handle;
use avion_kernels::masking::Counts;
use avion_kernels::patch_ingest::PixelNorm;
use burn_cubecl::CubeRuntime;

/// The encoder without its last norm: what pre-training and classifier share.
struct Backbone<R: CubeRuntime> {
    embed: TubeletEmbed<R>,
    stack: Stack<R>,
}

impl<R: CubeRuntime> Backbone<R> {
    fn new(
        ws: &Workspace<R>,
        params: &super::params::ParamStore<R>,
        shape: super::TowerShape,
        tokens: usize,
        activation: Activation,
        norm: PixelNorm,
        drop_path: Vec<f32>,
    ) -> Self {
        let names = BlockNames::VideoMae;
        Backbone {
            embed: TubeletEmbed {
                weight: params.weight("encoder.patch_embed.proj.weight"),
                bias: params.weight("encoder.patch_embed.proj.bias"),
                positions: ws.upload(&sin_cos(tokens, shape.width)),
                norm,
            },
            stack: Stack::new(ws, params, "encoder.blocks", names, shape, false, activation, drop_path),
        }
    }

    /// Queries, keys and values of block `layer` over whole clips: see [`Stack::qkv`].
    fn qkv(&self, ws: &Workspace<R>, pixels: Handle, grid: TubeletGrid, clips: usize, layer: usize) -> Matrix {
        let counts = Counts::all(clips, grid.tokens());
        let x = self.embed.forward(ws, &Tubelets { pixels, grid, order: None, counts });
        self.stack.qkv(x, layer, Extent { batch: clips, tokens: grid.tokens() })
    }
}

/// Fixed positions `[tokens, width]`: `sin` in even columns, `cos` in odd ones, of
/// `position / 10000^(2 floor(column / 2) / width)`, over the flat number of the token.
///
/// Source: VideoMAE `modeling_finetune.py`, `get_sinusoid_encoding_table`.
pub fn sin_cos(tokens: usize, width: usize) -> Vec<f32> {
    let value = |i: usize| {
        let (position, column) = ((i / width) as f64, i % width);
        let angle = position / 10_000f64.powf(2.0 * (column / 2) as f64 / width as f64);
        (if column % 2 == 0 { angle.sin() } else { angle.cos() }) as f32
    };
    (0..tokens * width).map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(got: &[f32], expected: &[f64]) {
        for (g, e) in got.iter().zip(expected) {
            assert!((f64::from(*g) - e).abs() < 2e-7, "{got:?} {expected:?}");
        }
    }

    /// Numbers of the published code (numpy, f64).
    #[test]
    fn positions_equal_the_published_tables() {
        close(&sin_cos(4, 6)[6..12], &[0.84147098, 0.54030231, 0.04639922, 0.99892298, 0.00215443, 0.99999768]);
        let table = sin_cos(1568, 768);
        close(&table[768..772], &[0.84147098, 0.54030231, 0.82843076, 0.56009149]);
        close(&table[1567 * 768..1567 * 768 + 4], &[0.60894838, -0.79320985, 0.09323163, -0.99564445]);
        close(&table[1568 * 768 - 2..], &[0.15981568, 0.98714687]);
        let sum: f64 = table.iter().map(|x| f64::from(*x)).sum();
        assert!((sum - 245_744.989_57).abs() < 1e-2, "{sum}");
        let narrow = sin_cos(1568, 384);
        close(&narrow[1567 * 384..1567 * 384 + 4], &[0.60894838, -0.79320985, -0.97531886, -0.22080109]);
        let sum: f64 = narrow.iter().map(|x| f64::from(*x)).sum();
        assert!((sum - 122_425.857_877).abs() < 1e-2, "{sum}");
    }
}
