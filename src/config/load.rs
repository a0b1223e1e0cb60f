//! From a file, a built-in name and `--set` to a resolved recipe.

use super::error::{ConfigError, Problem};
use super::print::{differences, flatten, write_toml};
use super::recipe::Recipe;
use super::schema::nearest;
use super::{overrides, typed};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table};

/// The recipes inside the program: `--config NAME`.
pub const BUILT_IN: &[(&str, &str)] = &[
    ("demo", include_str!("../../configs/demo.toml")),
    ("demo-videomae", include_str!("../../configs/demo-videomae.toml")),
    ("demo-videomae-finetune", include_str!("../../configs/demo-videomae-finetune.toml")),
    ("ego4d-vitb16", include_str!("../../configs/ego4d-vitb16.toml")),
    ("videomae-vitb16-k400", include_str!("../../configs/videomae-vitb16-k400.toml")),
    ("videomae-vitb16-k400-original", include_str!("../../configs/videomae-vitb16-k400-original.toml")),
    ("videomae-vitb16-k400-finetune", include_str!("../../configs/videomae-vitb16-k400-finetune.toml")),
];

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    /// Line of the recipe file.
    File {
        line: usize,
    },
    /// `--set` on the command line.
    Set,
}

/// A recipe with every value decided, and where each comes from.
#[derive(Clone, Debug)]
pub struct Resolved {
    pub recipe: Recipe,
    /// The file's path, or the name of a built-in recipe.
    pub source: String,
    /// `(key, value before, value after)` for everything that `--set` changed.
    pub overridden: Vec<(String, String, String)>,
    origins: BTreeMap<String, Origin>,
}

impl Recipe {
    /// Reads a recipe and applies `--set` overrides in order. `path` is a file or the name of a
    /// built-in recipe; a file wins. Nothing of the contents is judged: see [`super::validate`].
    ///
    /// # Errors
    /// [`ConfigError::NotFound`], `Read` and `Syntax` for the file; [`ConfigError::Invalid`] with
    /// every unknown key and every value of the wrong type, in the file and in the overrides.
    pub fn load(path: impl AsRef<Path>, overrides: &[String]) -> Result<Resolved, ConfigError> {
        let path = path.as_ref();
        let source = path.display().to_string();
        if path.is_file() {
            let read = std::fs::read_to_string(path);
            let text = read.map_err(|source| ConfigError::Read { path: PathBuf::from(path), source })?;
            return resolve(&text, source, overrides);
        }
        match BUILT_IN.iter().find(|(name, _)| *name == source) {
            Some((_, text)) => resolve(text, source, overrides),
            None => Err(not_found(source)),
        }
    }

    /// As [`Recipe::load`], from text; `source` names it in messages.
    ///
    /// # Errors
    /// As [`Recipe::load`].
    pub fn from_toml(text: &str, source: &str, overrides: &[String]) -> Result<Resolved, ConfigError> {
        resolve(text, source.to_owned(), overrides)
    }
}

impl Resolved {
    /// Where the value of a key comes from, such as `optim.lr` or `data.train.0.root`.
    pub fn origin(&self, key: &str) -> &Origin {
        self.origins.get(key).unwrap_or(&Origin::Default)
    }

    /// The whole recipe as TOML; `with_origins` adds a comment to every value that says where it
    /// comes from. Reading the text back gives the same recipe.
    ///
    /// # Errors
    /// [`ConfigError::Unwritable`] for values that TOML cannot hold.
    pub fn to_toml(&self, with_origins: bool) -> Result<String, ConfigError> {
        write_toml(&self.recipe, &|key| {
            with_origins.then(|| match self.origin(key) {
                Origin::Default => "default".to_owned(),
                Origin::File { line } => format!("{}:{line}", self.source),
                Origin::Set => "--set".to_owned(),
            })
        })
    }
}

fn resolve(text: &str, source: String, overrides: &[String]) -> Result<Resolved, ConfigError> {
    let syntax = |error: toml::de::Error| {
        let (line, column) = position(text, error.span().map_or(0, |span| span.start));
        ConfigError::Syntax { file: source.clone(), line, column, message: error.message().to_owned() }
    };
    let mut lines = BTreeMap::new();
    let spanned = DeTable::parse(text).map_err(syntax)?;
    collect_lines(spanned.get_ref(), "", text, &mut lines);
    let mut table: Table = toml::from_str(text).map_err(syntax)?;

    let mut problems = Vec::new();
    let place = |key: &str| match lines.get(key) {
        Some(line) => format!("{source}:{line}"),
        None => source.clone(),
    };
    typed::check_table(&table, "Recipe", "", &place, &mut problems);
    problems.sort_by_key(|problem| lines.get(&problem.key));
    // Values of the wrong type would make the overrides fail for the file's reasons.
    let before = match problems.is_empty() {
        true => Some(to_recipe(&table, &source)?),
        false => None,
    };
    let mut set = Vec::new();
    for text in overrides {
        match overrides::apply(&mut table, text) {
            Ok(key) => set.push(key),
            Err(found) => problems.extend(found),
        }
    }
    let (Some(before), true) = (before, problems.is_empty()) else {
        return Err(ConfigError::Invalid { problems });
    };
    let recipe = to_recipe(&table, &source)?;

    let mut origins = BTreeMap::new();
    for (key, _) in flatten(&recipe)? {
        let is_set = set
            .iter()
            .any(|name| key.strip_prefix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')));
        if is_set {
            origins.insert(key, Origin::Set);
        } else if let Some(&line) = lines.get(&key) {
            origins.insert(key, Origin::File { line });
        }
    }
    Ok(Resolved { overridden: differences(&before, &recipe)?, recipe, source, origins })
}

fn to_recipe(table: &Table, source: &str) -> Result<Recipe, ConfigError> {
    // The schema has been checked, so that this fails only where serde is stricter than it.
    table.clone().try_into().map_err(|error: toml::de::Error| ConfigError::Invalid {
        problems: vec![Problem { place: source.to_owned(), key: String::new(), message: error.message().to_owned() }],
    })
}

/// The line of every key; that of a list entry's keys under its index.
fn collect_lines(table: &DeTable<'_>, prefix: &str, text: &str, lines: &mut BTreeMap<String, usize>) {
    for (name, value) in table {
        let key = format!("{prefix}{}", name.get_ref());
        collect_value_lines(value, &key, text, lines);
        lines.insert(key, position(text, name.span().start).0);
    }
}

fn collect_value_lines(value: &Spanned<DeValue<'_>>, key: &str, text: &str, lines: &mut BTreeMap<String, usize>) {
    match value.get_ref() {
        DeValue::Table(table) => collect_lines(table, &format!("{key}."), text, lines),
        DeValue::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                collect_value_lines(item, &format!("{key}.{index}"), text, lines);
            }
        }
        _ => {}
    }
}

/// Line and column of a byte offset, both from 1.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..offset.min(text.len())];
    let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
    let column = 1 + before.iter().rev().take_while(|&&b| b != b'\n').count();
    (line, column)
}

fn not_found(name: String) -> ConfigError {
    let names = || BUILT_IN.iter().map(|(name, _)| *name);
    ConfigError::NotFound {
        hint: nearest(&name, names()).map_or_else(String::new, |near| format!("; did you mean {near}?")),
        built_in: names().collect::<Vec<_>>().join(", "),
        name,
    }
}
