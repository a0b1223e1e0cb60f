//! Which weights and which model `--checkpoint` and `--config` mean.

use super::load;
use crate::checkpoint::{self, LoadOptions, Pick};
use crate::cli::WeightsArgs;
use crate::config::{Recipe, Resolved};
use crate::train::weight_file_values;
use anyhow::{Context, Result, bail};
use std::path::PathBuf;

/// Weights that were found, and the recipe of their model.
pub(super) struct Weights {
    pub path: PathBuf,
    pub resolved: Resolved,
}

impl Weights {
    /// Finds them; nothing is read but the recipe and a checkpoint's checksums.
    pub fn find(args: &WeightsArgs) -> Result<Self> {
        let (path, own_recipe) = locate(args)?;
        let resolved = match (&args.config, own_recipe) {
            (Some(config), _) => load(config, &args.overrides)?,
            (None, Some(text)) => {
                let source = format!("recipe of {}", path.display());
                Recipe::from_toml(&text, &source, &args.overrides)?
            }
            (None, None) => bail!("{} is a weight file: say which model it is with --config", path.display()),
        };
        Ok(Weights { path, resolved })
    }

    pub fn recipe(&self) -> &Recipe {
        &self.resolved.recipe
    }

    /// The values of every parameter; says what was taken from the file.
    pub fn values(&self, options: LoadOptions) -> Result<Vec<Vec<f32>>> {
        let (values, report) = weight_file_values(self.recipe(), &self.path, options)?;
        eprintln!("{}: {report}", self.path.display());
        Ok(values)
    }
}

/// The weights that `--checkpoint` means, and the text of the recipe beside them when there is one.
fn locate(args: &WeightsArgs) -> Result<(PathBuf, Option<String>)> {
    let path = &args.checkpoint;
    let hugging_face = path.join("config.json").is_file();
    if path.is_file() || hugging_face {
        return Ok((path.clone(), None));
    }
    let (folder, skipped) = checkpoint::locate(path, Pick::Best)?;
    for one in skipped {
        tracing::warn!("passed over a damaged checkpoint: {one}");
    }
    checkpoint::verify(&folder)?;
    let recipe = folder.join("recipe.toml");
    let text = std::fs::read_to_string(&recipe).with_context(|| format!("cannot read {}", recipe.display()))?;
    Ok((folder, Some(text)))
}
