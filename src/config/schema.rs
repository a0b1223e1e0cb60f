//! Names, types and docs of every key, read from the source of [`super::recipe`].
//!
//! `recipe.rs` and its folder are embedded and their declarations are read line by line, so that `avion config
//! --list` and the error messages cannot say anything else than the types do. Rust offers no
//! reflection over doc comments; tests compare the result with what serde really writes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::LazyLock;

/// The schema of this build.
pub(super) static SCHEMA: LazyLock<Schema> = LazyLock::new(|| Schema::read(SOURCE));

/// The declarations of all sections.
const SOURCE: &str = concat!(include_str!("recipe.rs"), include_str!("recipe/labelled.rs"));

/// All sections, by the name of their Rust type. The whole recipe is the section `Recipe`.
pub(super) struct Schema {
    sections: BTreeMap<&'static str, Vec<Entry>>,
}

/// One key of a section.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub name: &'static str,
    pub kind: Kind,
    /// May be absent; then it has no default either.
    pub optional: bool,
    pub doc: String,
}

/// What a key holds.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Bool,
    /// A whole number, 0 or more.
    Count,
    Number,
    /// `[f64; 2]`
    Pair,
    Text,
    Path,
    /// One of these words.
    Choice(Vec<(String, String)>),
    /// A table.
    Section(&'static str),
    /// A list of tables.
    List(&'static str),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Bool => f.write_str("true or false"),
            Kind::Count => f.write_str("a whole number, 0 or more"),
            Kind::Number => f.write_str("a number"),
            Kind::Pair => f.write_str("two numbers, such as [0.5, 1.0]"),
            Kind::Text => f.write_str("text"),
            Kind::Path => f.write_str("a path"),
            Kind::Choice(words) => match words.as_slice() {
                [(only, _)] => write!(f, "\"{only}\""),
                many => {
                    let words: Vec<&str> = many.iter().map(|(word, _)| word.as_str()).collect();
                    write!(f, "one of {}", words.join(", "))
                }
            },
            Kind::Section(_) => f.write_str("a section"),
            Kind::List(_) => f.write_str("a list of tables"),
        }
    }
}

impl Schema {
    /// The keys of a section; empty for an unknown one.
    pub fn section(&self, name: &str) -> &[Entry] {
        self.sections.get(name).map_or(&[], Vec::as_slice)
    }

    pub fn entry(&self, section: &str, key: &str) -> Option<&Entry> {
        self.section(section).iter().find(|entry| entry.name == key)
    }

    /// Visits every key that is not a section, depth first; lists once as themselves and once for
    /// each key of their entries, under the index `N`.
    pub fn walk(&self, section: &str, prefix: &str, visit: &mut dyn FnMut(&str, &Entry)) {
        for entry in self.section(section) {
            let key = format!("{prefix}{}", entry.name);
            match &entry.kind {
                Kind::Section(inner) => self.walk(inner, &format!("{key}."), visit),
                Kind::List(inner) => {
                    visit(&key, entry);
                    self.walk(inner, &format!("{key}.N."), visit);
                }
                _ => visit(&key, entry),
            }
        }
    }

    /// Says what was probably meant by an unknown key of a section.
    ///
    /// A key of the same name in another section wins, then a similar name in the same one.
    pub fn suggest(&self, section: &str, prefix: &str, unknown: &str) -> String {
        let mut elsewhere = None;
        self.walk("Recipe", "", &mut |key, _| {
            if key.rsplit('.').next() == Some(unknown) && elsewhere.is_none() {
                elsewhere = Some(key.to_owned());
            }
        });
        let names = || self.section(section).iter().map(|entry| entry.name);
        if let Some(key) = elsewhere {
            return format!("did you mean {key}?");
        }
        match nearest(unknown, names()) {
            Some(name) => format!("did you mean {prefix}{name}?"),
            None => format!("valid here: {}", names().collect::<Vec<_>>().join(", ")),
        }
    }

    fn read(source: &'static str) -> Self {
        let mut structs: Vec<(&str, Vec<(&str, &str, String)>)> = Vec::new();
        let mut enums: BTreeMap<&str, Vec<(String, String)>> = BTreeMap::new();
        let mut open_enum = None;
        let (mut doc, mut renamed) = (Vec::new(), None);
        for line in source.lines().map(str::trim) {
            if let Some(text) = line.strip_prefix("///") {
                doc.push(text.trim());
                continue;
            }
            if line.starts_with("#[") {
                renamed = between(line, "(rename = \"", "\"").or(renamed);
                continue;
            }
            if let Some(name) = between(line, "pub struct ", " {") {
                structs.push((name, Vec::new()));
                open_enum = None;
            } else if let Some(name) = between(line, "pub enum ", " {") {
                open_enum = Some(name);
            } else if let (Some(owner), Some(name)) = (open_enum, line.strip_suffix(',')) {
                let word = renamed.map_or_else(|| kebab(name), str::to_owned);
                let variants = enums.entry(owner).or_default();
                variants.push((word, doc.join(" ")));
            } else if let (None, Some((name, kind)), Some((_, fields))) =
                (open_enum, declaration(line), structs.last_mut())
            {
                fields.push((name, kind, doc.join(" ")));
            }
            doc.clear();
            renamed = None;
        }
        let is_section = |name: &str| structs.iter().any(|(section, _)| *section == name);
        let sections = structs
            .iter()
            .map(|(section, fields)| {
                let entries = fields.iter().map(|(name, rust, doc)| {
                    let inner = between(rust, "Option<", ">");
                    let kind = match inner.unwrap_or(rust) {
                        "bool" => Kind::Bool,
                        "usize" | "u64" => Kind::Count,
                        "f64" => Kind::Number,
                        "[f64; 2]" => Kind::Pair,
                        "String" => Kind::Text,
                        "PathBuf" => Kind::Path,
                        name if is_section(name) => Kind::Section(name),
                        other => match between(other, "Vec<", ">") {
                            Some(item) => Kind::List(item),
                            None => Kind::Choice(enums.get(other).cloned().unwrap_or_default()),
                        },
                    };
                    Entry { name, kind, optional: inner.is_some(), doc: doc.clone() }
                });
                (*section, entries.collect())
            })
            .collect();
        Self { sections }
    }
}

/// The candidate most like `word`, if any is alike enough to be a slip of the pen.
pub(super) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // 0.8 takes `learn_temp` for `learn_temperature` and `bach_size` for `batch_size`, and
    // rejects unrelated words (see the test).
    candidates
        .map(|candidate| (strsim::jaro_winkler(word, candidate), candidate))
        .filter(|(alike, _)| *alike >= 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let rest = &text[text.find(start)? + start.len()..];
    rest.find(end).map(|at| &rest[..at])
}

/// `pub name: Type,`
fn declaration(line: &str) -> Option<(&str, &str)> {
    let (name, kind) = line.strip_prefix("pub ")?.split_once(": ")?;
    Some((name, kind.strip_suffix(',')?))
}

/// serde's `kebab-case` of a variant: a dash before each capital but the first.
fn kebab(variant: &str) -> String {
    let mut word = String::new();
    for letter in variant.chars() {
        if letter.is_ascii_uppercase() && !word.is_empty() {
            word.push('-');
        }
        word.push(letter.to_ascii_lowercase());
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::describe;
    use crate::config::recipe::{Recipe, SourceConfig};

    #[test]
    fn every_serialised_key_is_described_and_documented() {
        let mut recipe = Recipe::default();
        let source =
            SourceConfig { sentences: Some("a".into()), relevancy: Some("b".into()), ..SourceConfig::default() };
        recipe.data.train.push(source.clone());
        recipe.data.eval.push(source);
        recipe.model.init = Some("c".into());
        recipe.data.labels = Some("e".into());
        recipe.train.output = Some("d".into());
        let fields = describe().unwrap();
        let described: Vec<String> =
            fields.iter().filter(|field| field.default != "[]").map(|field| field.key.replace(".N.", ".0.")).collect();
        // Serde's own view of the keys, without the schema.
        let mut written = Vec::new();
        leaves(&toml::Value::try_from(&recipe).unwrap(), "", &mut written);
        written.sort();
        let mut sorted = described.clone();
        sorted.sort();
        assert_eq!(sorted, written);
        for field in fields {
            assert!(field.doc.len() > 10, "{} has no doc", field.key);
            assert!(!field.kind.is_empty(), "{} has no type", field.key);
        }
    }

    fn leaves(value: &toml::Value, key: &str, out: &mut Vec<String>) {
        let prefix = if key.is_empty() { String::new() } else { format!("{key}.") };
        match value {
            toml::Value::Table(table) => {
                for (name, inner) in table {
                    leaves(inner, &format!("{prefix}{name}"), out);
                }
            }
            toml::Value::Array(items) if items.iter().any(toml::Value::is_table) => {
                for (index, inner) in items.iter().enumerate() {
                    leaves(inner, &format!("{prefix}{index}"), out);
                }
            }
            _ => out.push(key.to_owned()),
        }
    }

    #[test]
    fn words_of_a_choice_are_the_ones_serde_reads() {
        let mut seen = 0;
        SCHEMA.walk("Recipe", "", &mut |key, entry| {
            let Kind::Choice(words) = &entry.kind else {
                return;
            };
            assert!(!words.is_empty(), "{key}: type not found");
            for (word, doc) in words {
                assert!(!doc.is_empty(), "{key} = {word} has no doc");
                let toml = if let Some(name) = key.strip_prefix("data.train.N.") {
                    format!("[[data.train]]\n{name} = \"{word}\"")
                } else if let Some(name) = key.strip_prefix("data.eval.N.") {
                    format!("[[data.eval]]\n{name} = \"{word}\"")
                } else {
                    format!("{key} = \"{word}\"")
                };
                toml::from_str::<Recipe>(&toml).unwrap_or_else(|error| panic!("{toml}: {error}"));
                seen += 1;
            }
        });
        assert!(seen > 20, "{seen}");
    }

    #[test]
    fn suggestions_find_slips_and_misplaced_keys() {
        let suggest = |section, prefix, key| SCHEMA.suggest(section, prefix, key);
        assert_eq!(suggest("TrainConfig", "train.", "bach_size"), "did you mean train.batch_size?");
        assert_eq!(suggest("ModelConfig", "model.", "learn_temp"), "did you mean model.learn_temperature?");
        assert_eq!(suggest("TrainConfig", "train.", "lr"), "did you mean optim.lr?");
        let nothing = suggest("EvalConfig", "eval.", "xyzzy");
        assert_eq!(nothing, "valid here: before_training, every_epochs, batch_size, views, crops");
    }
}
