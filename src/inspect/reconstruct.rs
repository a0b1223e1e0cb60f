//! Hidden patches, and what the model puts in their place.

use super::InspectError;
use super::encoder::read;
use crate::model::videomae::VideoMae;
use crate::ops::tubelet_embed::TubeletGrid;
use crate::task::masked::mask_keys;
use burn_cubecl::CubeRuntime;

/// Colour of hidden patches.
const HIDDEN: u8 = 128;

/// One clip, seen through a mask. Pictures: `[frames, image_px, image_px, 3]`.
#[derive(Clone, Debug)]
pub struct Reconstructed {
    /// Grey where the encoder saw nothing.
    pub masked: Vec<u8>,
    /// Visible patches as they are, the others as predicted; grey where nothing was asked for.
    pub filled: Vec<u8>,
    /// Tokens hidden, and of how many.
    pub hidden: usize,
    pub tokens: usize,
    /// `1 - loss / mean(target^2)` over the hidden patches: 1 = all. Of normalised targets 0 is no more than each patch's mean, so it
    /// is the share of their variance that the prediction explains; of others 0 is no more than black.
    pub explained: f32,
}

/// Hides patches of a clip as the recipe's mask does and predicts them. Equal seeds hide the same patches of every clip.
/// Where the model was trained on normalised patches, a prediction is shown with the mean and deviation of the patch it
/// stands for, as the papers' pictures are: the model does not predict these.
///
/// # Shapes
/// `pixels`: `[frames, image_px, image_px, 3]`.
///
/// # Errors
/// What the device reports.
pub fn reconstruct<R: CubeRuntime>(
    model: &VideoMae<R>,
    pixels: &[u8],
    mask_seed: u64,
) -> Result<Reconstructed, InspectError> {
    let (ws, grid) = (&model.ws, model.shape.grid);
    let clips = model.mask(ws.upload_bytes(pixels), &mask_keys(mask_seed, 0, &[0], &[0]));
    let order: Vec<u32> = read(ws, clips.order().clone())?;
    let predicted: Vec<f32> = read(ws, model.predicted_pixels(&clips))?;
    let scores: Vec<f32> = read(ws, model.evaluate(&clips))?;
    let (visible, decoded) = order.split_at(clips.tubelets.counts.visible);

    let mut masked = vec![HIDDEN; pixels.len()];
    for token in visible {
        for (at, _) in places(grid, *token as usize) {
            masked[at..at + 3].copy_from_slice(&pixels[at..at + 3]);
        }
    }
    let mut filled = masked.clone();
    for (token, values) in decoded.iter().zip(predicted.chunks_exact(grid.columns())) {
        for (at, column) in places(grid, *token as usize) {
            for (to, value) in filled[at..at + 3].iter_mut().zip(&values[column..column + 3]) {
                *to = value.round().clamp(0.0, 255.0) as u8;
            }
        }
    }
    let explained = scores.get(1).copied().unwrap_or(f32::NAN);
    Ok(Reconstructed { masked, filled, hidden: grid.tokens() - visible.len(), tokens: grid.tokens(), explained })
}

/// The pixels of a token: where each begins in `[frames, image_px, image_px, 3]`, and in the token's values, which are
/// ordered (frame, row, column, channel).
fn places(grid: TubeletGrid, token: usize) -> impl Iterator<Item = (usize, usize)> {
    let TubeletGrid { image_px, patch_px, tubelet, .. } = grid;
    let side = grid.side();
    let (slot, row, column) = (token / (side * side), token / side % side, token % side);
    (0..tubelet * patch_px * patch_px).map(move |pixel| {
        let (frame, y, x) = (pixel / (patch_px * patch_px), pixel / patch_px % patch_px, pixel % patch_px);
        let (y, x) = (row * patch_px + y, column * patch_px + x);
        ((((slot * tubelet + frame) * image_px + y) * image_px + x) * 3, pixel * 3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every pixel belongs to one token, once, and a token's pixels lie where its number says.
    #[test]
    fn tokens_tile_the_clip() {
        let grid = TubeletGrid { frames: 4, image_px: 6, patch_px: 2, tubelet: 2 };
        let mut owner = vec![None; 4 * 6 * 6];
        for token in 0..grid.tokens() {
            for (nth, (at, column)) in places(grid, token).enumerate() {
                assert_eq!((at % 3, column), (0, nth * 3));
                assert_eq!(owner[at / 3].replace(token), None);
            }
        }
        // Frame 3, row 4, column 3: second slot, third row, second column of patches.
        assert_eq!(owner[3 * 36 + 4 * 6 + 3], Some(9 + 6 + 1));
        assert!(owner.iter().all(Option::is_some));
        // The pixel (frame 1, row 1, column 0) of token 4 is at frame 1, row 3, column 2.
        assert_eq!(places(grid, 4).nth(4 + 2), Some(((36 + 3 * 6 + 2) * 3, 18)));
    }
}
