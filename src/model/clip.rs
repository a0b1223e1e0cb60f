//! CLIP for video: a ViT over all frames' patches and a causal text transformer, meeting in one space.
//!
//! Source: AVION `model_clip.py` and `transformer.py`; Radford et al. 2021, arXiv:2103.00020.

use super::init;
use super::params::{ParamStore, Weight};
use super::shape::ClipShape;
use super::tower::{Pass, Tower, norm};
use crate::ops::head::head;
use crate::ops::norm::Norm;
use crate::ops::patch_embed::{Frames, PatchEmbedWeights, PatchGrid, patch_embed};
use crate::ops::tensor::{Ad, AdT, Inner};
use crate::ops::token_embed::{TokenIds, token_embed};
use burn::tensor::{DType, Int, Tensor, TensorData};
use burn_cubecl::CubeRuntime;

/// The model: parameters and the layers that view them.
pub struct Clip<R: CubeRuntime> {
    pub params: ParamStore<R>,
    pub shape: ClipShape,
    patch_embed: PatchEmbedWeights<R>,
    ln_pre: Norm<R>,
    vision: Tower<R>,
    ln_post: Norm<R>,
    image_projection: Weight<R>,
    token_embedding: Weight<R>,
    text_position: Weight<R>,
    text: Tower<R>,
    ln_final: Norm<R>,
    text_projection: Weight<R>,
    pub logit_scale: Weight<R>,
}

/// Captions on the device: ids cut to the longest, and where each ends.
pub struct Captions<R: CubeRuntime> {
    ids: TokenIds<R>,
    /// `[batch]`, row of each caption's end-of-text token in `[batch * tokens, width]`.
    end: Tensor<Inner<R>, 1, Int>,
}

impl<R: CubeRuntime> Clip<R> {
    /// A model with the given parameter values (one vector per entry of [`init::specs`]).
    pub fn new(shape: ClipShape, values: &[Vec<f32>], compute_dtype: DType, device: &R::Device) -> Self {
        let params = ParamStore::new(device, init::specs(&shape), values, compute_dtype);
        let weight = |name: &str| params.weight(name);
        Clip {
            patch_embed: PatchEmbedWeights {
                conv1: weight("visual.conv1.weight"),
                class_embedding: weight("visual.class_embedding"),
                positional_embedding: weight("visual.positional_embedding"),
                temporal_embedding: (shape.frames > 1).then(|| weight("visual.temporal_embedding")),
            },
            ln_pre: norm(&params, "visual.ln_pre", shape.vision.eps),
            vision: Tower::new(
                &params,
                "visual.transformer.resblocks",
                shape.vision,
                false,
                shape.activation,
                shape.drop_path.clone(),
            ),
            ln_post: norm(&params, "visual.ln_post", shape.vision.eps),
            image_projection: weight("visual.image_projection"),
            token_embedding: weight("textual.token_embedding.weight"),
            text_position: weight("textual.positional_embedding"),
            text: Tower::new(&params, "textual.transformer.resblocks", shape.text, true, shape.activation, Vec::new()),
            ln_final: norm(&params, "textual.ln_final", shape.text.eps),
            text_projection: weight("textual.text_projection"),
            logit_scale: weight("logit_scale"),
            shape,
            params,
        }
    }

    /// The leaf that both towers start from; `tracked` makes them record what a backward pass needs.
    pub fn anchor(&self, tracked: bool) -> AdT<R, 1> {
        let leaf = Tensor::<Ad<R>, 1>::zeros([1], &self.params.device);
        if tracked { leaf.require_grad() } else { leaf }
    }

    /// Uploads decoded frames.
    ///
    /// # Shapes
    /// - `pixels`: u8 `[batch, frames, image_px, image_px, 3]`
    pub fn upload_frames(&self, pixels: &[u8], batch: usize) -> Frames<R> {
        let grid = PatchGrid {
            images: batch * self.shape.frames,
            image_px: self.shape.image_px,
            patch_px: self.shape.patch_px,
        };
        assert_eq!(pixels.len(), grid.images * grid.image_px * grid.image_px * 3, "bytes of {batch} clips");
        let client = self.params.client.clone();
        let pixels = if pixels.len() == grid.padded_bytes() {
            client.create_from_slice(pixels)
        } else {
            let mut padded = pixels.to_vec();
            padded.resize(grid.padded_bytes(), 0);
            client.create_from_slice(&padded)
        };
        Frames {
            client,
            device: self.params.device.clone(),
            pixels,
            batch,
            frames: self.shape.frames,
            grid,
            norm: self.shape.pixels,
            dtype: self.params.compute_dtype(),
        }
    }

    /// Uploads token ids.
    ///
    /// # Shapes
    /// - `ids`: `[batch, tokens]`, every caption padded to the longest
    /// - `ends`: `[batch]`, place of each caption's end-of-text token
    pub fn upload_captions(&self, ids: &[i32], tokens: usize, ends: &[usize]) -> Captions<R> {
        let (batch, device) = (ends.len(), &self.params.device);
        assert_eq!(ids.len(), batch * tokens, "ids of {batch} captions");
        let rows: Vec<i32> = ends.iter().enumerate().map(|(i, end)| (i * tokens + end) as i32).collect();
        Captions {
            ids: TokenIds { ids: int_tensor(ids.to_vec(), device), batch, tokens },
            end: int_tensor(rows, device),
        }
    }

    /// Features of clips, `[batch, embed]`, f32, rows of length 1.
    pub fn encode_video(&self, anchor: AdT<R, 1>, frames: Frames<R>, pass: Pass) -> AdT<R, 2> {
        let (batch, tokens) = (frames.batch, self.shape.tokens());
        let class: Vec<i32> = (0..batch).map(|clip| (clip * tokens) as i32).collect();
        let class = int_tensor(class, &self.params.device);
        let x = patch_embed(anchor, frames, &self.patch_embed);
        let x = crate::ops::layer_norm(x, &self.ln_pre);
        let x = self.vision.forward(x, batch, tokens, pass);
        head(x, class, &self.ln_post, &self.image_projection)
    }

    /// Features of captions, `[batch, embed]`, f32, rows of length 1.
    pub fn encode_text(&self, anchor: AdT<R, 1>, captions: Captions<R>, pass: Pass) -> AdT<R, 2> {
        let Captions { ids, end } = captions;
        let (batch, tokens) = (ids.batch, ids.tokens);
        let dtype = self.params.compute_dtype();
        let x = token_embed(anchor, ids, &self.token_embedding, &self.text_position, dtype);
        let x = self.text.forward(x, batch, tokens, pass);
        head(x, end, &self.ln_final, &self.text_projection)
    }
}

fn int_tensor<R: CubeRuntime>(values: Vec<i32>, device: &R::Device) -> Tensor<Inner<R>, 1, Int> {
    let len = values.len();
    Tensor::from_data(TensorData::new(values, [len]), device)
}
