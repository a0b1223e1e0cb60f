//! From u8 frames to the tokens of VideoMAE's encoder: of the visible tubelets only, or of all.

use super::linear;
use super::workspace::{Matrix, Workspace};
use crate::model::params::Weight;
use avion_kernels::masking::{self, Counts};
pub use avion_kernels::masking::{MaskKind, MaskShape, TubeletGrid};
use avion_kernels::patch_ingest::PixelNorm;
use avion_kernels::{Handle, KernelError, residual};
use burn_cubecl::CubeRuntime;

/// Parameters of the embedding, and its fixed positions.
#[derive(Clone)]
pub struct TubeletEmbed<R: CubeRuntime> {
    /// `[width, 3 * tubelet * patch^2]`, columns ordered (channel, frame, row, column).
    pub weight: Weight<R>,
    /// `[width]`.
    pub bias: Weight<R>,
    /// f32 `[tokens, width]`.
    pub positions: Handle,
    pub norm: PixelNorm,
}

/// Frames on the device, and which tokens of them are used.
#[derive(Clone)]
pub struct Tubelets {
    /// u8 `[clips, frames, image_px, image_px, 3]`, padded to whole 4-byte words.
    pub pixels: Handle,
    pub grid: TubeletGrid,
    /// u32 `[clips, visible + decoded]`: the visible tokens of each clip, then those to be predicted; absent: every token
    /// is visible.
    pub order: Option<Handle>,
    pub counts: Counts,
}

impl<R: CubeRuntime> TubeletEmbed<R> {
    /// Visible tokens with their positions, `[clips * visible, width]`. Masked pixels are not read.
    pub fn forward(&self, ws: &Workspace<R>, clips: &Tubelets) -> Matrix {
        let x = linear::forward(ws, &self.patches(ws, clips), &self.weight, Some(&self.bias), None);
        let (tokens, width) = (clips.grid.tokens(), x.columns);
        let added = match &clips.order {
            Some(order) => {
                let sizes = [tokens, width];
                masking::positions(&ws.client, x.kind, x.handle(), &self.positions, order, clips.counts, false, sizes)
            }
            None => residual::add_table(&ws.client, x.kind, x.handle(), &self.positions, x.rows, tokens, width),
        };
        checked(added);
        x
    }

    /// Adds the gradients of both parameters; the patches are made from the frames again, which is cheaper than keeping
    /// them.
    pub fn backward(&self, ws: &Workspace<R>, clips: &Tubelets, dy: &Matrix) {
        linear::weight_gradient(ws, &self.patches(ws, clips), dy, &self.weight);
        self.bias.accumulate_columns(ws, dy);
    }

    fn patches(&self, ws: &Workspace<R>, clips: &Tubelets) -> Matrix {
        let out = ws.matrix(clips.counts.visible_rows(), clips.grid.columns());
        let order = clips.order.as_ref();
        let (client, frames, to) = (&ws.client, &clips.pixels, out.handle());
        checked(masking::ingest(client, out.kind, frames, clips.grid, self.norm, order, clips.counts, false, to));
        out
    }
}

/// The shapes were checked when the model was made, and the recipe's validation bounds the frames held at once: a refusal
/// here is a bug.
pub(crate) fn checked(launched: Result<(), KernelError>) {
    if let Err(error) = launched {
        unreachable!("{error}");
    }
}
