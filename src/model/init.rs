//! Parameters of CLIP: names, shapes, initial values.
//!
//! Source: AVION `transformer.py` and `model_clip.py`, with one correction: AVION's from-scratch initialisation also
//! overwrites the gains of `ln_1` and `ln_2` with numbers near 0, from which nothing is learned; here they are 1.

use super::params::{Init, ParamSpec};
use super::shape::{ClipShape, TowerShape};
use crate::data::rng::{Purpose, keyed};
use rand::Rng;
use rand_distr::{Distribution, StandardNormal};

/// Raw `logit_scale` lies in `[0, ln 100]` (OpenAI CLIP, section 2.5 of the paper; AVION clamps to 4.6052).
pub const MAX_LOGIT_SCALE: f32 = 4.6052;

/// Every parameter of the model, in PyTorch's order (the order of optimizer states in AVION's checkpoints).
pub fn specs(shape: &ClipShape) -> Vec<ParamSpec> {
    let mut specs = vision_specs(shape);
    specs.extend(text_specs(shape));
    let mut scale = ParamSpec::new("logit_scale", &[], Init::Constant((1.0 / shape.temperature).ln() as f32));
    scale.trainable = shape.learn_temperature;
    specs.push(scale);
    specs
}

fn vision_specs(shape: &ClipShape) -> Vec<ParamSpec> {
    let TowerShape { width, layers, .. } = shape.vision;
    let columns = 3 * shape.patch_px * shape.patch_px;
    let (small, normal) = (Init::TruncatedNormal { std: 0.02 }, Init::Normal { std: 0.02 });
    let mut specs = vec![
        ParamSpec::new("visual.class_embedding", &[width], normal),
        ParamSpec::new("visual.positional_embedding", &[1 + shape.patches(), width], normal),
    ];
    if shape.frames > 1 {
        specs.push(ParamSpec::new("visual.temporal_embedding", &[shape.frames, width], Init::Zeros));
    }
    specs.push(ParamSpec::new("visual.image_projection", &[width, shape.embed], projection(width)));
    specs.push(ParamSpec::new("visual.conv1.weight", &[width, columns], fan_in(columns)));
    norm(&mut specs, "visual.ln_pre", width);
    for layer in 0..layers {
        let init =
            BlockInit { in_proj: small, out_proj: small, c_fc: small, c_proj: small, mlp_bias: [Init::Zeros; 2] };
        block(&mut specs, &format!("visual.transformer.resblocks.{layer}"), width, init);
    }
    norm(&mut specs, "visual.ln_post", width);
    specs
}

fn text_specs(shape: &ClipShape) -> Vec<ParamSpec> {
    let TowerShape { width, layers, .. } = shape.text;
    let std = (width as f32).powf(-0.5);
    let deep = Init::Normal { std: std * (2.0 * layers as f32).powf(-0.5) };
    let mut specs = vec![
        ParamSpec::new("textual.positional_embedding", &[shape.context, width], Init::Normal { std: 0.01 }),
        ParamSpec::new("textual.text_projection", &[width, shape.embed], projection(width)),
        ParamSpec::new("textual.token_embedding.weight", &[shape.vocabulary, width], Init::Normal { std: 0.02 }),
    ];
    for layer in 0..layers {
        let init = BlockInit {
            in_proj: Init::Normal { std },
            out_proj: deep,
            c_fc: Init::Normal { std: (2.0 * width as f32).powf(-0.5) },
            c_proj: deep,
            mlp_bias: [fan_in(width), fan_in(4 * width)],
        };
        block(&mut specs, &format!("textual.transformer.resblocks.{layer}"), width, init);
    }
    norm(&mut specs, "textual.ln_final", width);
    specs
}

struct BlockInit {
    in_proj: Init,
    out_proj: Init,
    c_fc: Init,
    c_proj: Init,
    mlp_bias: [Init; 2],
}

fn block(specs: &mut Vec<ParamSpec>, name: &str, width: usize, init: BlockInit) {
    let mut add = |part: &str, shape: &[usize], init| specs.push(ParamSpec::new(format!("{name}.{part}"), shape, init));
    add("ln_1.weight", &[width], Init::Ones);
    add("ln_1.bias", &[width], Init::Zeros);
    add("attn.in_proj_weight", &[3 * width, width], init.in_proj);
    add("attn.in_proj_bias", &[3 * width], Init::Zeros);
    add("attn.out_proj.weight", &[width, width], init.out_proj);
    add("attn.out_proj.bias", &[width], Init::Zeros);
    add("ln_2.weight", &[width], Init::Ones);
    add("ln_2.bias", &[width], Init::Zeros);
    add("mlp.c_fc.weight", &[4 * width, width], init.c_fc);
    add("mlp.c_fc.bias", &[4 * width], init.mlp_bias[0]);
    add("mlp.c_proj.weight", &[width, 4 * width], init.c_proj);
    add("mlp.c_proj.bias", &[width], init.mlp_bias[1]);
}

fn norm(specs: &mut Vec<ParamSpec>, name: &str, width: usize) {
    specs.push(ParamSpec::new(format!("{name}.weight"), &[width], Init::Ones));
    specs.push(ParamSpec::new(format!("{name}.bias"), &[width], Init::Zeros));
}

fn projection(width: usize) -> Init {
    Init::Normal { std: (width as f32).powf(-0.5) }
}

fn fan_in(inputs: usize) -> Init {
    Init::Uniform { bound: (inputs as f32).powf(-0.5) }
}

/// Initial values, one vector per parameter; the same for the same seed, whatever else the model holds.
pub fn values(specs: &[ParamSpec], seed: u64) -> Vec<Vec<f32>> {
    let draw = |spec: &ParamSpec| {
        let mut rng = keyed(seed, 0, name_key(&spec.name), Purpose::Init);
        let mut normal = || -> f32 { StandardNormal.sample(&mut rng) };
        let len = spec.len();
        match spec.init {
            Init::Zeros => vec![0.0; len],
            Init::Ones => vec![1.0; len],
            Init::Constant(value) => vec![value; len],
            Init::Normal { std } => (0..len).map(|_| normal() * std).collect(),
            Init::TruncatedNormal { std } => (0..len).map(|_| truncated(&mut normal, std)).collect(),
            Init::Uniform { bound } => (0..len).map(|_| rng.random_range(-bound..=bound)).collect(),
        }
    };
    specs.iter().map(draw).collect()
}

/// FNV-1a of a parameter's name: what keys its values.
fn name_key(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn truncated(normal: &mut impl FnMut() -> f32, std: f32) -> f32 {
    loop {
        let value = normal() * std;
        if value.abs() <= 2.0 {
            return value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Geometry, recipe::Recipe};

    #[test]
    fn specs_hold_as_many_numbers_as_avions_model() {
        let recipe = Recipe::default();
        let specs = specs(&ClipShape::of(&recipe));
        let total: usize = specs.iter().map(ParamSpec::len).sum();
        assert_eq!(total, 149_296_129);
        let by_geometry = Geometry::of(recipe.model.size).parameters(4, 256, 77);
        assert_eq!(total, by_geometry.total());
    }

    #[test]
    fn weight_decay_follows_avions_rule() {
        let specs = specs(&ClipShape::of(&Recipe::default()));
        let decays = |name: &str| specs.iter().find(|s| s.name == name).unwrap().decay;
        for name in ["visual.temporal_embedding", "textual.token_embedding.weight", "visual.conv1.weight"] {
            assert!(decays(name), "{name}");
        }
        for name in
            ["visual.positional_embedding", "textual.positional_embedding", "visual.ln_pre.weight", "logit_scale"]
        {
            assert!(!decays(name), "{name}");
        }
        assert!(decays("visual.image_projection"));
        assert!(!decays("visual.transformer.resblocks.3.attn.in_proj_bias"));
    }

    #[test]
    fn values_have_the_spread_their_init_says() {
        let specs =
            [ParamSpec::new("a", &[200, 100], Init::Normal { std: 0.5 }), ParamSpec::new("b", &[7], Init::Ones)];
        let drawn = values(&specs, 3);
        let variance = drawn[0].iter().map(|v| v * v).sum::<f32>() / 20_000.0;
        assert!((variance.sqrt() - 0.5).abs() < 0.02, "{variance}");
        assert_eq!(drawn[1], [1.0; 7]);
        assert_eq!(drawn, values(&specs, 3));
        assert_ne!(drawn[0], values(&specs, 4)[0]);
    }
}
