//! A recipe as TOML and as a flat list of keys.

use super::error::ConfigError;
use super::recipe::Recipe;
use super::schema::{Kind, SCHEMA};
use std::fmt::Write;
use toml::{Table, Value};

/// Every key that has a value, such as `("data.train.0.fps", 30.0)`, in the order of the schema.
/// An empty list counts as a value.
///
/// # Errors
/// [`ConfigError::Unwritable`] for values that TOML cannot hold.
pub fn flatten(recipe: &Recipe) -> Result<Vec<(String, Value)>, ConfigError> {
    let mut out = Vec::new();
    flatten_section(&table_of(recipe)?, "Recipe", "", &mut out);
    Ok(out)
}

/// Keys whose values differ, as `(key, before, after)`; `unset` where one has none.
///
/// # Errors
/// As [`flatten`].
pub fn differences(before: &Recipe, after: &Recipe) -> Result<Vec<(String, String, String)>, ConfigError> {
    let (before, after) = (flatten(before)?, flatten(after)?);
    let value = |list: &[(String, Value)], key: &str| {
        let found = list.iter().find(|(name, _)| name == key);
        found.map_or_else(|| "unset".to_owned(), |(_, value)| shown(value))
    };
    let mut keys: Vec<&str> = after.iter().map(|(key, _)| key.as_str()).collect();
    for (key, _) in &before {
        if !after.iter().any(|(other, _)| other == key) {
            keys.push(key);
        }
    }
    Ok(keys
        .into_iter()
        .map(|key| (key.to_owned(), value(&before, key), value(&after, key)))
        .filter(|(_, was, is)| was != is)
        .collect())
}

impl Recipe {
    /// The whole recipe as TOML, every key written out.
    ///
    /// # Errors
    /// [`ConfigError::Unwritable`] for values that TOML cannot hold.
    pub fn to_toml(&self) -> Result<String, ConfigError> {
        write_toml(self, &|_| None)
    }
}

/// As [`Recipe::to_toml`], with a comment after each key for which `comment` has one.
pub(super) fn write_toml(recipe: &Recipe, comment: &dyn Fn(&str) -> Option<String>) -> Result<String, ConfigError> {
    let mut out = String::new();
    write_section(&mut out, &table_of(recipe)?, "Recipe", "", comment);
    Ok(out)
}

/// A value as TOML; small and large numbers as people write them (`3e-5`, not `0.00003`).
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Float(number) if number.is_finite() => format!("{number:?}"),
        Value::Array(items) if !items.iter().any(Value::is_table) => {
            let items: Vec<String> = items.iter().map(shown).collect();
            format!("[{}]", items.join(", "))
        }
        other => other.to_string(),
    }
}

fn table_of(recipe: &Recipe) -> Result<Table, ConfigError> {
    Table::try_from(recipe).map_err(|error| ConfigError::Unwritable { message: error.to_string() })
}

fn flatten_section(table: &Table, section: &str, prefix: &str, out: &mut Vec<(String, Value)>) {
    for entry in SCHEMA.section(section) {
        let key = format!("{prefix}{}", entry.name);
        match (&entry.kind, table.get(entry.name)) {
            (Kind::Section(inner), Some(Value::Table(table))) => {
                flatten_section(table, inner, &format!("{key}."), out);
            }
            (Kind::List(inner), Some(Value::Array(items))) if !items.is_empty() => {
                for (index, item) in items.iter().enumerate() {
                    if let Value::Table(table) = item {
                        flatten_section(table, inner, &format!("{key}.{index}."), out);
                    }
                }
            }
            (_, Some(value)) => out.push((key, value.clone())),
            (_, None) => {}
        }
    }
}

/// Writes a section's own keys first (writing to a `String` cannot fail): after a `[header]` TOML takes every key as that table's.
fn write_section(
    out: &mut String,
    table: &Table,
    section: &str,
    prefix: &str,
    comment: &dyn Fn(&str) -> Option<String>,
) {
    let entries = SCHEMA.section(section);
    let is_list = |value: &Value| value.as_array().is_some_and(|items| !items.is_empty());
    for entry in entries {
        let line = match (&entry.kind, table.get(entry.name)) {
            (Kind::Section(_), _) => continue,
            (Kind::List(_), Some(value)) if is_list(value) => continue,
            (_, Some(value)) => format!("{} = {}", entry.name, shown(value)),
            (_, None) => {
                let _ = writeln!(out, "# {} is unset", entry.name);
                continue;
            }
        };
        let note = comment(&format!("{prefix}{}", entry.name));
        let note = note.map_or_else(String::new, |note| format!("  # {note}"));
        let _ = writeln!(out, "{line}{note}");
    }
    for entry in entries {
        let name = format!("{prefix}{}", entry.name);
        match (&entry.kind, table.get(entry.name)) {
            (Kind::Section(inner), Some(Value::Table(table))) => {
                let _ = writeln!(out, "\n[{name}]");
                write_section(out, table, inner, &format!("{name}."), comment);
            }
            (Kind::List(inner), Some(Value::Array(items))) => {
                for (index, item) in items.iter().enumerate() {
                    if let Value::Table(table) = item {
                        let _ = writeln!(out, "\n[[{name}]]");
                        write_section(out, table, inner, &format!("{name}.{index}."), comment);
                    }
                }
            }
            _ => {}
        }
    }
}
