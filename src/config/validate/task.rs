//! What each task needs of a recipe, and what does not belong to it.

use super::Judge;
use crate::config::geometry::Geometry;
use crate::config::recipe::*;

/// Head widths that the attention kernels take.
const HEAD_WIDTH_STEP: usize = 16;

impl Judge {
    pub(super) fn task(&mut self, recipe: &Recipe) {
        match recipe.task {
            TaskKind::Contrastive => self.contrastive(recipe),
            TaskKind::Masked => self.masked(recipe),
            TaskKind::Classify => self.classify(recipe),
        }
        if recipe.task != TaskKind::Classify {
            self.classify_only(recipe);
        }
    }

    fn contrastive(&mut self, recipe: &Recipe) {
        // One pair alone has no negatives: its loss and gradient are 0.
        self.at_least(2, "train.batch_size", recipe.train.batch_size);
        let repeats = recipe.data.repeats;
        self.need(
            repeats <= 1,
            "data.repeats",
            format!("expected 1: a clip must not be compared with itself in task = \"contrastive\", found {repeats}"),
        );
        self.formats(
            recipe,
            |format| format != SourceFormat::Kinetics,
            "has no captions: expected ego4d, ek100 or table",
        );
    }

    fn masked(&mut self, recipe: &Recipe) {
        self.at_least(1, "train.batch_size", recipe.train.batch_size);
        self.tubelets(&recipe.model);
        let masking = &recipe.masking;
        self.need(
            masking.ratio > 0.0 && masking.ratio < 1.0,
            "masking.ratio",
            format!("expected a share between 0 and 1, found {}", masking.ratio),
        );
        self.need(
            masking.decoded > 0.0 && masking.decoded <= 1.0,
            "masking.decoded",
            format!("expected a share above 0, at most 1, found {}", masking.decoded),
        );
        self.at_least(1, "masking.decoder_layers", masking.decoder_layers);
        let (width, heads) = (masking.decoder_width, masking.decoder_heads);
        self.need(
            heads > 0 && width > 0 && width.is_multiple_of(heads) && (width / heads).is_multiple_of(HEAD_WIDTH_STEP),
            "masking.decoder_heads",
            format!(
                "expected masking.decoder_width = {width} in heads of a multiple of 16 columns, found {heads} heads"
            ),
        );
        self.positive("masking.target_eps", masking.target_eps);
        let patches = Geometry::of(recipe.model.size).patches();
        let hidden = (masking.ratio * patches as f64) as usize;
        self.need(
            masking.kind != MaskingKind::Tube || !(0.0..1.0).contains(&masking.ratio) || (1..patches).contains(&hidden),
            "masking.ratio",
            format!("hides {hidden} of {patches} patches: expected at least one, and one left"),
        );
    }

    fn classify(&mut self, recipe: &Recipe) {
        self.at_least(1, "train.batch_size", recipe.train.batch_size);
        self.tubelets(&recipe.model);
        self.formats(recipe, |format| format == SourceFormat::Kinetics, "has no labels: expected kinetics");
        let classify = &recipe.classify;
        self.need(
            classify.classes >= 2,
            "classify.classes",
            format!("expected the number of classes, 2 or more, found {}", classify.classes),
        );
        self.positive("classify.init_scale", classify.init_scale);
        self.need(
            classify.layer_decay > 0.0 && classify.layer_decay <= 1.0,
            "classify.layer_decay",
            format!("expected a factor above 0, at most 1, found {}", classify.layer_decay),
        );
        self.below_one("classify.ema", classify.ema);
        self.below_one("classify.dropout", classify.dropout);
        self.need(
            matches!(recipe.eval.crops, 1 | 3),
            "eval.crops",
            format!("expected 1 or 3, found {}", recipe.eval.crops),
        );
        self.at_least(1, "eval.views", recipe.eval.views);
        self.need(
            recipe.eval.views <= 1 || matches!(recipe.data.sampling, Sampling::Dense | Sampling::Window),
            "eval.views",
            "more than 1 needs data.sampling = \"dense\" or \"window\": the others cover the whole video at once",
        );
        self.augment(recipe);
    }

    fn augment(&mut self, recipe: &Recipe) {
        let augment = &recipe.augment;
        self.need(
            (0.0..=10.0).contains(&augment.randaugment_magnitude),
            "augment.randaugment_magnitude",
            format!("expected 0 to 10, found {}", augment.randaugment_magnitude),
        );
        self.share("augment.randaugment_probability", augment.randaugment_probability);
        self.not_negative("augment.randaugment_std", augment.randaugment_std);
        self.share("augment.erasing", augment.erasing);
        self.not_negative("augment.mixup", augment.mixup);
        self.not_negative("augment.cutmix", augment.cutmix);
        self.share("augment.mix_probability", augment.mix_probability);
        self.share("augment.switch_probability", augment.switch_probability);
        self.below_one("augment.label_smoothing", augment.label_smoothing);
        let mixes = augment.mixup > 0.0 || augment.cutmix > 0.0;
        let batch = recipe.train.batch_size;
        self.need(
            !mixes || batch.is_multiple_of(2),
            "train.batch_size",
            format!("expected an even number, as augment.mixup and cutmix pair the clips, found {batch}"),
        );
        let changes = mixes || augment.randaugment > 0 || augment.erasing > 0.0;
        self.need(
            !recipe.data.scale_on_device || !changes,
            "data.scale_on_device",
            "expected false: augment.randaugment, erasing, mixup and cutmix change frames that the decode threads finish",
        );
    }

    /// Settings that change nothing but classifiers.
    fn classify_only(&mut self, recipe: &Recipe) {
        let AugmentConfig { randaugment, erasing, mixup, cutmix, label_smoothing, .. } = recipe.augment;
        let set = [
            ("augment.randaugment", randaugment > 0),
            ("augment.erasing", erasing != 0.0),
            ("augment.mixup", mixup != 0.0),
            ("augment.cutmix", cutmix != 0.0),
            ("augment.label_smoothing", label_smoothing != 0.0),
            ("eval.views", recipe.eval.views != 1),
            ("eval.crops", recipe.eval.crops != 1),
        ];
        for (key, is_set) in set {
            self.need(!is_set, key, "belongs to task = \"classify\": remove it or change the task");
        }
    }

    /// Frames in whole tokens.
    fn tubelets(&mut self, model: &ModelConfig) {
        self.at_least(1, "model.tubelet", model.tubelet);
        self.need(
            model.tubelet == 0 || model.frames.is_multiple_of(model.tubelet),
            "model.frames",
            format!("expected a multiple of model.tubelet = {}, found {}", model.tubelet, model.frames),
        );
    }

    fn formats(&mut self, recipe: &Recipe, fits: fn(SourceFormat) -> bool, message: &str) {
        for (list, sources) in [("train", &recipe.data.train), ("eval", &recipe.data.eval)] {
            for (index, source) in sources.iter().enumerate() {
                self.need(fits(source.format), &format!("data.{list}.{index}.format"), message);
            }
        }
    }

    /// Sampling, crop and repetition of clips.
    pub(super) fn sampling(&mut self, recipe: &Recipe) {
        let data = &recipe.data;
        self.at_least(1, "data.stride", data.stride);
        self.need(
            !data.stride_jitter || data.sampling == Sampling::Dense,
            "data.stride_jitter",
            "belongs to data.sampling = \"dense\": remove it or change the sampling",
        );
        let (repeats, batch) = (data.repeats, recipe.train.batch_size);
        self.need(
            repeats > 0 && batch.is_multiple_of(repeats),
            "data.repeats",
            format!("expected a divisor of train.batch_size = {batch}, found {repeats}"),
        );
    }
}
