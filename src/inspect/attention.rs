//! Where a model looks: the attention that each place of a clip receives.

use super::{Encoder, InspectError};
use crate::eval::rows_by_rows;
use burn_cubecl::CubeRuntime;
use std::num::NonZero;

/// Queries whose scores are in memory at once, a head.
const BLOCK: usize = 64;

/// Attention received in one layer, for each head: shares of what all asked tokens give away.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionMaps {
    pub layer: usize,
    /// Maps of a clip, rows and columns of each.
    pub grid: [usize; 3],
    /// Frames that a map covers.
    pub frames_per_map: usize,
    /// `[heads][maps * rows * columns]`.
    pub heads: Vec<Vec<f32>>,
}

impl AttentionMaps {
    /// The mean over heads, `[maps * rows * columns]`.
    pub fn mean(&self) -> Vec<f32> {
        let mut mean = vec![0.0; self.grid.iter().product()];
        for head in &self.heads {
            mean.iter_mut().zip(head).for_each(|(sum, value)| *sum += value / self.heads.len() as f32);
        }
        mean
    }

    /// The map over a frame.
    pub fn of_frame<'a>(&self, maps: &'a [f32], frame: usize) -> &'a [f32] {
        let cells = self.grid[1] * self.grid[2];
        &maps[frame / self.frames_per_map * cells..][..cells]
    }
}

/// Attention of a clip in block `layer`, from 0, or the last. Of CLIP's video tower: from the class token to every patch.
/// Of VideoMAE, which has none: the mean over all tokens of what they give to each.
///
/// # Shapes
/// `pixels`: `[frames, image_px, image_px, 3]`.
///
/// # Errors
/// A layer that is not there, attention that is not finite, what the device reports.
pub fn attention_maps<R: CubeRuntime>(
    encoder: &Encoder<R>,
    pixels: &[u8],
    layer: Option<usize>,
) -> Result<AttentionMaps, InspectError> {
    let (tower, grid, frames_per_map, class_token) = match encoder {
        Encoder::Clip(model) => {
            let side = model.shape.image_px / model.shape.patch_px;
            (model.shape.vision, [model.shape.frames, side, side], 1, true)
        }
        Encoder::Masked(model) => {
            let grid = model.shape.grid;
            (model.shape.encoder, [grid.slots(), grid.side(), grid.side()], grid.tubelet, false)
        }
        Encoder::Classifier(model) => {
            let grid = model.shape.grid;
            (model.shape.encoder, [grid.slots(), grid.side(), grid.side()], grid.tubelet, false)
        }
    };
    let layer = layer.unwrap_or(tower.layers - 1);
    if layer >= tower.layers {
        return Err(InspectError::NoLayer { layer, layers: tower.layers });
    }
    let qkv = encoder.qkv(pixels, layer)?;
    let tokens = qkv.len() / (3 * tower.width);
    let asked = if class_token { 1 } else { tokens };
    let mut heads = received(&qkv, tower.heads, tower.width, asked);
    if class_token {
        // What it gives to itself has no place in the picture.
        for head in &mut heads {
            head.remove(0);
        }
    }
    if heads.iter().flatten().any(|share| !share.is_finite()) {
        return Err(InspectError::NotFinite { layer });
    }
    Ok(AttentionMaps { layer, grid, frames_per_map, heads })
}

/// For each head, the mean over the first `asked` queries of `softmax(q . k / sqrt(head_dim))`: `[heads][tokens]`.
///
/// # Shapes
/// `qkv`: `[tokens, 3 * width]`, columns ordered (q|k|v, head, dim).
fn received(qkv: &[f32], heads: usize, width: usize, asked: usize) -> Vec<Vec<f32>> {
    let mut out = vec![Vec::new(); heads];
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let share = heads.div_ceil(cores);
    std::thread::scope(|scope| {
        for (part, out) in out.chunks_mut(share).enumerate() {
            scope.spawn(move || {
                for (head, out) in (part * share..).zip(out) {
                    *out = received_by_head(qkv, head, width / heads, width, asked);
                }
            });
        }
    });
    out
}

fn received_by_head(qkv: &[f32], head: usize, dim: usize, width: usize, asked: usize) -> Vec<f32> {
    let tokens = qkv.len() / (3 * width);
    let scale = 1.0 / (dim as f32).sqrt();
    // Rows of this head's queries (scaled) or keys.
    let rows = |part: usize, factor: f32, rows: usize| -> Vec<f32> {
        let row = |row: &[f32]| row[part * width + head * dim..][..dim].iter().map(|x| x * factor).collect::<Vec<_>>();
        qkv.chunks_exact(3 * width).take(rows).flat_map(row).collect()
    };
    let (queries, keys) = (rows(0, scale, asked), rows(1, 1.0, tokens));
    let mut sums = vec![0.0f64; tokens];
    let mut scores = vec![0.0; BLOCK * tokens];
    for queries in queries.chunks(BLOCK * dim) {
        let scores = &mut scores[..queries.len() / dim * tokens];
        rows_by_rows(queries, &keys, dim, scores);
        for scores in scores.chunks_exact_mut(tokens) {
            let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            scores.iter_mut().for_each(|score| *score = (*score - largest).exp());
            let total: f64 = scores.iter().map(|&e| f64::from(e)).sum();
            sums.iter_mut().zip(&*scores).for_each(|(sum, &e)| *sum += f64::from(e) / total);
        }
    }
    sums.into_iter().map(|sum| (sum / asked as f64) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two heads of two columns, three tokens, by hand: head 0 has scores 0 but for token 2's key, head 1 likes itself.
    #[test]
    fn shares_equal_those_by_hand() {
        let root = 2f32.sqrt();
        let ln3 = 3f32.ln() * root;
        // q: head 0, head 1 | k: head 0, head 1 | v
        let row = |k0: f32, own: [f32; 2]| {
            let mut row = vec![1.0, 0.0, own[0], own[1], k0, 9.0, own[0], own[1]];
            row.extend([7.0; 4]);
            row
        };
        let side = root.sqrt() * 3f32.ln().sqrt();
        let qkv = [row(0.0, [side, 0.0]), row(0.0, [0.0, side]), row(ln3, [0.0, 0.0])].concat();
        let heads = received(&qkv, 2, 4, 3);
        let close = |got: &[f32], expected: [f32; 3]| {
            got.iter().zip(expected).for_each(|(g, e)| assert!((g - e).abs() < 1e-6, "{got:?} {expected:?}"));
        };
        close(&heads[0], [0.2, 0.2, 0.6]);
        // Token 0 gives 3/5, 1/5, 1/5; token 1 the mirror; token 2 a third to each.
        let outer = (3.0 / 5.0 + 1.0 / 5.0 + 1.0 / 3.0) / 3.0;
        close(&heads[1], [outer, outer, (2.0 / 5.0 + 1.0 / 3.0) / 3.0]);
        close(&received(&qkv, 2, 4, 1)[1], [0.6, 0.2, 0.2]);
    }

    /// More tokens than a block of queries holds: every share is still given away once.
    #[test]
    fn shares_sum_to_one_over_several_blocks() {
        let (tokens, width) = (BLOCK * 2 + 5, 8);
        let qkv: Vec<f32> = (0..tokens * 3 * width).map(|i| (i as f32 * 0.37).sin() * 3.0).collect();
        for head in received(&qkv, 2, width, tokens) {
            let sum: f64 = head.iter().map(|&share| f64::from(share)).sum();
            assert!(head.len() == tokens && (sum - 1.0).abs() < 1e-5, "{sum}");
        }
    }

    #[test]
    fn maps_follow_the_frames() {
        let maps = AttentionMaps {
            layer: 0,
            grid: [2, 1, 2],
            frames_per_map: 2,
            heads: vec![vec![1.0, 2.0, 3.0, 4.0], vec![3.0, 2.0, 1.0, 0.0]],
        };
        let mean = maps.mean();
        assert_eq!(mean, [2.0, 2.0, 2.0, 2.0]);
        let of = |frame| maps.of_frame(&maps.heads[0], frame).to_vec();
        assert_eq!([of(0), of(1), of(2), of(3)], [[1.0, 2.0], [1.0, 2.0], [3.0, 4.0], [3.0, 4.0]]);
    }
}
