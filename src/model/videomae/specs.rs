//! Parameters of VideoMAE: names, shapes, initial values.

use super::shape::{ClassifierShape, MaeShape};
use crate::model::TowerShape;
use crate::model::params::{Init, ParamSpec};
use crate::model::stack::BlockNames;

/// How the matrices of a model start.
#[derive(Clone, Copy)]
enum Matrices {
    /// Uniform in `+-sqrt(6 / (in + out))` (Glorot & Bengio 2010), as pre-training does.
    Xavier,
    /// Truncated normal of deviation 0.02, as fine-tuning does.
    Truncated,
}

impl Matrices {
    fn init(self, rows: usize, columns: usize) -> Init {
        match self {
            Matrices::Xavier => Init::Uniform { bound: (6.0 / (rows + columns) as f32).sqrt() },
            Matrices::Truncated => Init::TruncatedNormal { std: 0.02 },
        }
    }
}

/// Every parameter of the model that is pre-trained. Source: `PretrainVisionTransformer._init_weights`.
pub fn specs(shape: &MaeShape) -> Vec<ParamSpec> {
    let (mut specs, narrow) = (Vec::new(), shape.decoder.width);
    backbone(&mut specs, &shape.encoder, shape.grid.columns(), Matrices::Xavier);
    norm(&mut specs, "encoder.norm", shape.encoder.width);
    stack(&mut specs, "decoder.blocks", &shape.decoder, Matrices::Xavier);
    norm(&mut specs, "decoder.norm", narrow);
    linear(&mut specs, ["decoder.head.weight", "decoder.head.bias"], [shape.grid.columns(), narrow], Matrices::Xavier);
    let bridge = [narrow, shape.encoder.width];
    specs.push(ParamSpec::new("encoder_to_decoder.weight", &bridge, Matrices::Xavier.init(bridge[0], bridge[1])));
    specs.push(ParamSpec::new("mask_token", &[1, 1, narrow], Init::TruncatedNormal { std: 0.02 }));
    specs
}

/// Every parameter of the classifier, with the learning-rate factor of its layer: `layer_decay^(layers + 1 - id)`, where
/// `id` is 0 for the embedding, `i + 1` for block `i` and `layers + 1` for norm and head.
///
/// Source: `modeling_finetune.py`; `optim_factory.py`, `LayerDecayValueAssigner`.
pub fn classifier_specs(shape: &ClassifierShape) -> Vec<ParamSpec> {
    let (mut specs, width) = (Vec::new(), shape.encoder.width);
    backbone(&mut specs, &shape.encoder, shape.grid.columns(), Matrices::Truncated);
    let ends = specs.len();
    for spec in &mut specs {
        let block = spec.name.strip_prefix("encoder.blocks.").and_then(|rest| rest.split('.').next()?.parse().ok());
        let id = block.map_or(0, |block: usize| block + 1);
        spec.lr_scale = shape.layer_decay.powi((shape.encoder.layers + 1 - id) as i32);
        spec.trainable = !shape.freeze;
    }
    norm(&mut specs, "fc_norm", width);
    linear(&mut specs, ["head.weight", "head.bias"], [shape.classes, width], Matrices::Truncated);
    for spec in &mut specs[ends..] {
        if let Init::TruncatedNormal { std } = &mut spec.init {
            *std *= shape.init_scale;
        }
    }
    specs
}

/// Patch embedding and blocks.
fn backbone(specs: &mut Vec<ParamSpec>, shape: &TowerShape, columns: usize, matrices: Matrices) {
    let names = ["encoder.patch_embed.proj.weight", "encoder.patch_embed.proj.bias"];
    linear(specs, names, [shape.width, columns], matrices);
    stack(specs, "encoder.blocks", shape, matrices);
}

fn stack(specs: &mut Vec<ParamSpec>, prefix: &str, shape: &TowerShape, matrices: Matrices) {
    let (norms, layers) = BlockNames::VideoMae.parts();
    let width = shape.width;
    let sizes = [[3 * width, width], [width, width], [4 * width, width], [width, 4 * width]];
    for layer in 0..shape.layers {
        let name = |part: &str| format!("{prefix}.{layer}.{part}");
        norm(specs, &name(norms[0]), width);
        for (parts, size) in layers.into_iter().zip(sizes).take(2) {
            linear(specs, parts.map(name), size, matrices);
        }
        norm(specs, &name(norms[1]), width);
        for (parts, size) in layers.into_iter().zip(sizes).skip(2) {
            linear(specs, parts.map(name), size, matrices);
        }
    }
}

fn linear(specs: &mut Vec<ParamSpec>, [weight, bias]: [impl Into<String>; 2], size: [usize; 2], matrices: Matrices) {
    specs.push(ParamSpec::new(weight, &size, matrices.init(size[0], size[1])));
    specs.push(ParamSpec::new(bias, &size[..1], Init::Zeros));
}

fn norm(specs: &mut Vec<ParamSpec>, name: &str, width: usize) {
    specs.push(ParamSpec::new(format!("{name}.weight"), &[width], Init::Ones));
    specs.push(ParamSpec::new(format!("{name}.bias"), &[width], Init::Zeros));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Geometry;
    use crate::config::recipe::Recipe;

    fn recipe() -> Recipe {
        let mut recipe = Recipe::default();
        recipe.model.frames = 16;
        recipe.classify.classes = 400;
        recipe.classify.layer_decay = 0.75;
        recipe
    }

    #[test]
    fn counts_equal_the_geometrys() {
        let recipe = recipe();
        let geometry = Geometry::of(recipe.model.size);
        let count = |specs: &[ParamSpec]| specs.iter().map(ParamSpec::len).sum::<usize>();
        let masked = specs(&MaeShape::of(&recipe).unwrap());
        assert_eq!(count(&masked), geometry.masked_parameters(2, &recipe.masking));
        let classifier = classifier_specs(&ClassifierShape::of(&recipe));
        assert_eq!(count(&classifier), geometry.classifier_parameters(2, 400));
    }

    /// The published scales for 12 blocks and 0.75.
    #[test]
    fn learning_rates_fall_layer_by_layer() {
        let specs = classifier_specs(&ClassifierShape::of(&recipe()));
        let scale = |name: &str| specs.iter().find(|spec| spec.name == name).unwrap().lr_scale;
        for (name, expected) in [
            ("encoder.patch_embed.proj.weight", 0.023_757_26),
            ("encoder.blocks.0.attn.qkv.weight", 0.031_676_35),
            ("encoder.blocks.11.mlp.fc2.bias", 0.75),
            ("fc_norm.weight", 1.0),
            ("head.weight", 1.0),
        ] {
            assert!((scale(name) - expected).abs() < 1e-7, "{name}: {}", scale(name));
        }
        let decays = |name: &str| specs.iter().find(|spec| spec.name == name).unwrap().decay;
        assert!(decays("encoder.blocks.3.attn.proj.weight") && decays("head.weight"));
        assert!(!decays("encoder.blocks.3.norm1.weight") && !decays("encoder.blocks.3.attn.qkv.bias"));
    }
}
