//! `--set optim.lr=3e-5`: one value changed from the command line.
//!
//! The left side is a dotted key; entries of a list are counted from 0 and the number after the
//! last one appends (`data.train.0.root=/videos`). The right side is TOML, except that text needs
//! no quotes (`model.size=tiny`), and `none` unsets a key that may be absent (`model.init=none`).

use super::error::Problem;
use super::schema::{Entry, Kind, SCHEMA};
use super::typed;
use serde::Deserialize;
use toml::{Table, Value};

/// Applies one override to the recipe's TOML; returns the key that it set.
///
/// # Errors
/// A [`Problem`] for text that is no `key=value`, an unknown key or a value of the wrong type;
/// several for a table with several faults. The recipe is then unchanged.
pub(super) fn apply(recipe: &mut Table, text: &str) -> Result<String, Vec<Problem>> {
    let place = || "--set".to_owned();
    let problem = |key: &str, message: String| vec![Problem { place: place(), key: key.to_owned(), message }];
    let Some((key, raw)) = text.split_once('=') else {
        return Err(problem(text, "expected key=value, such as optim.lr=3e-5".into()));
    };
    let key = key.trim();
    let steps = resolve(recipe, key).map_err(|message| problem(key, message))?;
    let value = match &steps.target {
        Target::Entry(entry) => {
            let value = parse(entry, raw.trim()).map_err(|message| problem(key, message))?;
            let mut problems = Vec::new();
            if let Some(value) = &value {
                typed::check_value(entry, key, value, &|_| place(), &mut problems);
            }
            if !problems.is_empty() {
                return Err(problems);
            }
            value
        }
        Target::Item(section) => {
            let value = parse_toml(raw.trim())
                .map_err(|found| problem(key, format!("expected a table in {{ }}, found {found}")))?;
            let Value::Table(table) = &value else {
                return Err(problem(key, format!("expected a table in {{ }}, found {value}")));
            };
            let mut problems = Vec::new();
            let prefix = format!("{key}.");
            typed::check_table(table, section, &prefix, &|_| place(), &mut problems);
            if !problems.is_empty() {
                return Err(problems);
            }
            Some(value)
        }
    };
    store(recipe, &steps.path, value).map_err(|message| problem(key, message))?;
    Ok(key.to_owned())
}

/// A key taken apart.
struct Steps {
    path: Vec<Step>,
    target: Target,
}

enum Step {
    Key(&'static str),
    Index(usize),
}

enum Target {
    Entry(&'static Entry),
    /// One whole entry of a list of this section.
    Item(&'static str),
}

/// Follows a dotted key through the schema; `recipe` tells how long its lists are.
fn resolve(recipe: &Table, key: &str) -> Result<Steps, String> {
    let mut section = "Recipe";
    let mut path = Vec::new();
    let mut prefix = String::new();
    let mut here: Option<&Table> = Some(recipe);
    let mut parts = key.split('.');
    while let Some(part) = parts.next() {
        let Some(entry) = SCHEMA.entry(section, part) else {
            return Err(typed::unknown(section, &prefix, part));
        };
        path.push(Step::Key(entry.name));
        prefix.push_str(entry.name);
        let below = here.and_then(|table| table.get(entry.name));
        match &entry.kind {
            Kind::Section(inner) => {
                section = inner;
                here = below.and_then(Value::as_table);
            }
            Kind::List(inner) => {
                let Some(index) = parts.next() else {
                    let target = Target::Entry(entry);
                    return Ok(Steps { path, target });
                };
                let items = below.and_then(Value::as_array);
                let length = items.map_or(0, Vec::len);
                let index = match index.parse::<usize>() {
                    Ok(index) if index <= length => index,
                    _ => {
                        return Err(format!(
                            "expected a number from 0 to {length} after {prefix} ({length} appends), found \"{index}\""
                        ));
                    }
                };
                path.push(Step::Index(index));
                prefix.push_str(&format!(".{index}"));
                if prefix.len() == key.len() {
                    let target = Target::Item(inner);
                    return Ok(Steps { path, target });
                }
                section = inner;
                here = items.and_then(|items| items.get(index)).and_then(Value::as_table);
            }
            _ => {
                return match parts.next() {
                    None => Ok(Steps { path, target: Target::Entry(entry) }),
                    Some(_) => Err(format!("{prefix} holds {}, nothing below it", entry.kind)),
                };
            }
        }
        prefix.push('.');
    }
    let names: Vec<&str> = SCHEMA.section(section).iter().map(|e| e.name).collect();
    Err(format!("is a section; set one of its keys: {}", names.join(", ")))
}

/// The value of an override; `None` for `none`, which unsets an optional key.
fn parse(entry: &Entry, raw: &str) -> Result<Option<Value>, String> {
    if entry.optional && raw == "none" {
        return Ok(None);
    }
    let is_text = matches!(entry.kind, Kind::Text | Kind::Path | Kind::Choice(_));
    if is_text && !raw.starts_with(['"', '\'']) {
        return Ok(Some(Value::String(raw.to_owned())));
    }
    match parse_toml(raw) {
        Ok(value) => Ok(Some(value)),
        Err(found) => Err(typed::wrong_type(&entry.kind, &found)),
    }
}

/// A TOML value, or the text as an error message shows it.
fn parse_toml(raw: &str) -> Result<Value, String> {
    toml::de::ValueDeserializer::parse(raw).and_then(Value::deserialize).map_err(|_| match raw {
        "" => "nothing".to_owned(),
        raw => format!("\"{raw}\""),
    })
}

/// Puts a value in its place, creating the tables on the way; `None` removes the key.
fn store(recipe: &mut Table, path: &[Step], value: Option<Value>) -> Result<(), String> {
    // Reached only when the recipe itself is malformed, which is reported before.
    let malformed = || "the recipe has another type here".to_owned();
    let Some((Step::Key(first), rest)) = path.split_first() else {
        return Err(malformed());
    };
    if rest.is_empty() {
        match value {
            Some(value) => recipe.insert((*first).to_owned(), value),
            None => recipe.remove(*first),
        };
        return Ok(());
    }
    let slot = recipe.entry(*first).or_insert_with(|| match rest[0] {
        Step::Index(_) => Value::Array(Vec::new()),
        Step::Key(_) => Value::Table(Table::new()),
    });
    match (slot, &rest[0]) {
        (Value::Table(table), Step::Key(_)) => store(table, rest, value),
        (Value::Array(items), Step::Index(index)) => {
            if *index == items.len() {
                items.push(Value::Table(Table::new()));
            }
            match (items.get_mut(*index), value) {
                (Some(item), Some(value)) if rest.len() == 1 => *item = value,
                (Some(Value::Table(table)), value) => return store(table, &rest[1..], value),
                _ => return Err(malformed()),
            }
            Ok(())
        }
        _ => Err(malformed()),
    }
}
