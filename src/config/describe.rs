//! The list of every key: what `avion config --list` prints.

use super::error::ConfigError;
use super::print::{flatten, shown};
use super::recipe::{Recipe, SourceConfig};
use super::schema::{Kind, SCHEMA};
use std::collections::BTreeMap;

/// One key of the recipe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// `optim.lr`; an entry of a list is written `data.train.N.root`.
    pub key: String,
    /// What it accepts, in words.
    pub kind: String,
    /// The default as TOML, or `unset`.
    pub default: String,
    /// What it does; for a choice, followed by a line for each word.
    pub doc: String,
}

/// Every key of a recipe, in the order of the file.
///
/// # Errors
/// [`ConfigError::Unwritable`] when the defaults cannot be written as TOML.
pub fn describe() -> Result<Vec<Field>, ConfigError> {
    // One entry in each list shows the defaults of the entries.
    let mut recipe = Recipe::default();
    recipe.data.train.push(SourceConfig::default());
    recipe.data.eval.push(SourceConfig::default());
    let defaults: BTreeMap<String, String> =
        flatten(&recipe)?.into_iter().map(|(key, value)| (key, shown(&value))).collect();
    let mut fields = Vec::new();
    SCHEMA.walk("Recipe", "", &mut |key, entry| {
        let default = match &entry.kind {
            Kind::List(_) => Some("[]"),
            _ => defaults.get(&key.replace(".N.", ".0.")).map(String::as_str),
        };
        let (mut kind, mut doc) = (entry.kind.to_string(), entry.doc.clone());
        if let Kind::Choice(words) = &entry.kind {
            let each: Vec<&str> = words.iter().map(|(word, _)| word.as_str()).collect();
            kind = each.join(" | ");
            for (word, meaning) in words {
                doc.push_str(&format!("\n{word}: {meaning}"));
            }
        }
        fields.push(Field { key: key.to_owned(), kind, default: default.unwrap_or("unset").to_owned(), doc });
    });
    Ok(fields)
}
