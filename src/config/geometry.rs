//! Sizes of the named models, and the parameter counts that follow from them.

use super::recipe::{MaskingConfig, ModelSize};

/// Tokens of CLIP's byte-pair vocabulary (OpenAI CLIP, `simple_tokenizer.py`).
pub const VOCABULARY: usize = 49_408;

/// Shape of the two towers of one [`ModelSize`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Side of the square frames, pixels.
    pub image_px: usize,
    /// Side of the square patches, pixels; divides `image_px`.
    pub patch_px: usize,
    /// Width of the video tower; its MLP is four times as wide.
    pub width: usize,
    pub layers: usize,
    pub heads: usize,
    /// Width of the text tower; its MLP is four times as wide.
    pub text_width: usize,
    pub text_layers: usize,
    pub text_heads: usize,
}

/// Trainable numbers in a model (the frozen temperature included).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParameterCount {
    /// Video tower with its projection.
    pub vision: usize,
    /// Text tower with its projection.
    pub text: usize,
}

impl ParameterCount {
    /// Both towers and `logit_scale`.
    pub fn total(&self) -> usize {
        self.vision + self.text + 1
    }
}

impl Geometry {
    /// The geometry behind a name. The ViT sizes are OpenAI CLIP's (Radford et al. 2021, arXiv:2103.00020, appendix F)
    /// or, with patch 16 and another width, VideoMAE's (arXiv:2203.12602), which has no text tower: theirs is that of
    /// the CLIP size nearest. `tiny` and `tiny-8` are ours, for the demos and the tests.
    pub fn of(size: ModelSize) -> Self {
        match size {
            ModelSize::Tiny => Self {
                image_px: 48,
                patch_px: 16,
                width: 64,
                layers: 3,
                heads: 2,
                text_width: 64,
                text_layers: 2,
                text_heads: 2,
            },
            // Small patches: tubes that hide most of them leave several to see.
            ModelSize::Tiny8 => Self { image_px: 32, patch_px: 8, width: 96, heads: 3, ..Self::of(ModelSize::Tiny) },
            ModelSize::VitS16 => Self { width: 384, heads: 6, ..Self::of(ModelSize::VitB16) },
            ModelSize::VitL16 => Self { patch_px: 16, ..Self::of(ModelSize::VitL14) },
            ModelSize::VitB16 => Self {
                image_px: 224,
                patch_px: 16,
                width: 768,
                layers: 12,
                heads: 12,
                text_width: 512,
                text_layers: 12,
                text_heads: 8,
            },
            ModelSize::VitL14 => Self {
                image_px: 224,
                patch_px: 14,
                width: 1024,
                layers: 24,
                heads: 16,
                text_width: 768,
                text_layers: 12,
                text_heads: 12,
            },
            ModelSize::VitL14At336 => Self { image_px: 336, ..Self::of(ModelSize::VitL14) },
        }
    }

    /// Patches of one frame.
    pub fn patches(&self) -> usize {
        let side = self.image_px / self.patch_px;
        side * side
    }

    /// Numbers in one patch: `3 * patch_px^2`.
    pub fn patch_values(&self) -> usize {
        3 * self.patch_px * self.patch_px
    }

    /// Tokens of one clip: the class token and the patches of every frame.
    pub fn tokens(&self, frames: usize) -> usize {
        1 + frames * self.patches()
    }

    /// Tokens of one clip where each covers `tubelet` frames and there is no class token (VideoMAE).
    pub fn tubelets(&self, frames: usize, tubelet: usize) -> usize {
        frames / tubelet * self.patches()
    }

    pub fn head_width(&self) -> usize {
        self.width / self.heads
    }

    pub fn text_head_width(&self) -> usize {
        self.text_width / self.text_heads
    }

    /// Parameter counts for `frames` frames a clip, a shared space of `embed_dim` and captions of
    /// `context` tokens. A temporal embedding exists only for more than one frame.
    pub fn parameters(&self, frames: usize, embed_dim: usize, context: usize) -> ParameterCount {
        let width = self.width;
        let temporal = if frames > 1 { frames * width } else { 0 };
        let vision = width // class embedding
            + (1 + self.patches()) * width
            + temporal
            + width * self.patch_values()
            + 2 * width // ln_pre
            + self.layers * block(width)
            + 2 * width // ln_post
            + width * embed_dim;
        let width = self.text_width;
        let text = VOCABULARY * width
            + context * width
            + self.text_layers * block(width)
            + 2 * width // ln_final
            + width * embed_dim;
        ParameterCount { vision, text }
    }

    /// Parameter count of VideoMAE pre-training: encoder, bridge, mask token, decoder. Positions are fixed.
    pub fn masked_parameters(&self, tubelet: usize, masking: &MaskingConfig) -> usize {
        let (narrow, patch) = (masking.decoder_width, tubelet * self.patch_values());
        let decoder = masking.decoder_layers * block(narrow) + 2 * narrow + (narrow + 1) * patch;
        self.backbone(tubelet) + 2 * self.width + self.width * narrow + narrow + decoder
    }

    /// Parameter count of the classifier: the encoder without its last norm, `fc_norm` and the head.
    pub fn classifier_parameters(&self, tubelet: usize, classes: usize) -> usize {
        self.backbone(tubelet) + 2 * self.width + (self.width + 1) * classes
    }

    /// Patch embedding and blocks of VideoMAE's encoder.
    fn backbone(&self, tubelet: usize) -> usize {
        (tubelet * self.patch_values() + 1) * self.width + self.layers * block(self.width)
    }
}

/// Parameters of a block: qkv 3W^2 + 3W, output W^2 + W, MLP 8W^2 + 5W, two norms 4W.
fn block(width: usize) -> usize {
    12 * width * width + 13 * width
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts of AVION's own models, measured on its PyTorch code.
    #[test]
    fn parameter_counts_equal_avions() {
        let count = |size, frames| Geometry::of(size).parameters(frames, 256, 77);
        let base = count(ModelSize::VitB16, 4);
        assert_eq!((base.vision, base.text), (85_999_104, 63_297_024));
        assert_eq!(base.total(), 149_296_129);
        assert_eq!(count(ModelSize::VitB16, 16).total(), 149_296_129 + 9_216);
        let large = count(ModelSize::VitL14, 4);
        assert_eq!((large.vision, large.text), (303_446_016, 123_257_088));
        assert_eq!(large.total(), 426_703_105);
        let wide = count(ModelSize::VitL14At336, 4);
        assert_eq!((wide.vision, wide.total()), (303_773_696, 427_030_785));
    }

    /// Counts of the published models, measured on their PyTorch code. The original has no key bias; as AVION's, ours does.
    #[test]
    fn videomae_parameter_counts_equal_the_published() {
        let base = Geometry::of(ModelSize::VitB16);
        let key_biases = (12 * 768, 4 * 384);
        assert_eq!(base.masked_parameters(2, &MaskingConfig::default()), 94_210_944 + key_biases.0 + key_biases.1);
        assert_eq!(base.classifier_parameters(2, 400), 86_534_800 + key_biases.0);
        assert_eq!(base.tubelets(16, 2), 1568);
    }

    #[test]
    fn token_counts_equal_avions() {
        let tokens = |size, frames| Geometry::of(size).tokens(frames);
        assert_eq!(tokens(ModelSize::VitB16, 4), 785);
        assert_eq!(tokens(ModelSize::VitB16, 16), 3137);
        assert_eq!(tokens(ModelSize::VitL14, 4), 1025);
        assert_eq!(tokens(ModelSize::VitL14At336, 16), 9217);
    }

    #[test]
    fn every_size_divides_evenly() {
        let sizes =
            [ModelSize::VitS16, ModelSize::VitB16, ModelSize::VitL16, ModelSize::VitL14, ModelSize::VitL14At336];
        for size in sizes.into_iter().chain([ModelSize::Tiny, ModelSize::Tiny8]) {
            let of = Geometry::of(size);
            assert_eq!(of.image_px % of.patch_px, 0, "{size:?}");
            assert_eq!(of.width, of.heads * of.head_width(), "{size:?}");
            assert_eq!(of.text_width, of.text_heads * of.text_head_width());
            assert!(of.head_width().is_multiple_of(16), "{size:?}: for the attention kernels");
        }
    }
}
