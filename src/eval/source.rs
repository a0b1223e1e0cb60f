//! Evaluation sets that need nothing beside their clips.

use super::EvalError;
use crate::config::recipe::{Recipe, SourceConfig};
use crate::data::loader::LoaderConfig;
use crate::data::{Source, annotations};
use std::sync::Arc;

/// Clips, with labels where the task needs them.
pub struct SourceSet {
    pub name: String,
    pub sources: Arc<[Source]>,
}

impl SourceSet {
    /// Reads the annotations.
    ///
    /// # Errors
    /// What is wrong with them, by file and record.
    pub fn load(config: &SourceConfig) -> Result<Self, EvalError> {
        Ok(SourceSet { name: config.label(), sources: Arc::from([annotations::load(config)?]) })
    }

    /// Reads the annotations of labelled clips.
    ///
    /// # Errors
    /// As [`load`](Self::load), and a label that is missing or not below `classes`, by line.
    pub fn labelled(config: &SourceConfig, classes: usize) -> Result<Self, EvalError> {
        let set = Self::load(config)?;
        for source in set.sources.iter() {
            annotations::check_labels(&config.annotations, source, classes)?;
        }
        Ok(set)
    }

    /// The class of every clip, in order; 0 for clips without one.
    pub fn labels(&self) -> Vec<u32> {
        self.sources.iter().flat_map(|source| &source.clips).map(|clip| clip.label.unwrap_or(0)).collect()
    }

    /// How a recipe's evaluation reads them.
    pub fn loader_config(&self, recipe: &Recipe, image_px: usize) -> LoaderConfig {
        let config =
            LoaderConfig { batch_size: recipe.eval.batch_size, size_px: image_px as u32, ..LoaderConfig::default() };
        // Repetitions are training's alone: their number need not divide evaluation's batch size.
        LoaderConfig { repeats: 1, ..config.with_recipe(recipe) }
    }
}
