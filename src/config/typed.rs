//! Checks a TOML table against the schema: unknown keys and wrong types, each with its place.
//!
//! serde would stop at the first fault and name neither the nearest key nor the line.

use super::error::Problem;
use super::schema::{Entry, Kind, SCHEMA, nearest};
use toml::{Table, Value};

/// Adds a problem for every unknown key and every value of the wrong type in `table`, which is
/// the section named `section` at `prefix` (such as `"data.train.0."`).
/// `place` says where a key stands.
pub(super) fn check_table(
    table: &Table,
    section: &str,
    prefix: &str,
    place: &dyn Fn(&str) -> String,
    problems: &mut Vec<Problem>,
) {
    for (name, value) in table {
        let key = format!("{prefix}{name}");
        match SCHEMA.entry(section, name) {
            Some(entry) => check_value(entry, &key, value, place, problems),
            None => problems.push(Problem { place: place(&key), message: unknown(section, prefix, name), key }),
        }
    }
}

/// Adds a problem when `value` is not what `entry` holds.
pub(super) fn check_value(
    entry: &Entry,
    key: &str,
    value: &Value,
    place: &dyn Fn(&str) -> String,
    problems: &mut Vec<Problem>,
) {
    let is_number = |value: &Value| value.is_float() || value.is_integer();
    let right = match (&entry.kind, value) {
        (Kind::Section(section), Value::Table(table)) => {
            return check_table(table, section, &format!("{key}."), place, problems);
        }
        (Kind::List(section), Value::Array(items)) if items.iter().all(Value::is_table) => {
            for (index, item) in items.iter().enumerate() {
                if let Value::Table(table) = item {
                    check_table(table, section, &format!("{key}.{index}."), place, problems);
                }
            }
            return;
        }
        (Kind::Bool, Value::Boolean(_)) => true,
        (Kind::Count, Value::Integer(number)) => *number >= 0,
        (Kind::Number, value) => is_number(value),
        (Kind::Pair, Value::Array(items)) => items.len() == 2 && items.iter().all(is_number),
        (Kind::Text | Kind::Path, Value::String(_)) => true,
        (Kind::Choice(words), Value::String(word)) => words.iter().any(|(choice, _)| choice == word),
        _ => false,
    };
    if !right {
        problems.push(Problem {
            place: place(key),
            key: key.to_owned(),
            message: wrong_type(&entry.kind, &shown(value)),
        });
    }
}

/// `unknown key; did you mean optim.lr?`
pub(super) fn unknown(section: &str, prefix: &str, name: &str) -> String {
    let hint = SCHEMA.suggest(section, prefix, name);
    format!("unknown key; {hint}")
}

/// `expected a number, found "fast"`
pub(super) fn wrong_type(kind: &Kind, found: &str) -> String {
    let mut message = format!("expected {kind}, found {found}");
    if let Kind::Choice(words) = kind {
        let words = words.iter().map(|(word, _)| word.as_str());
        if let Some(word) = nearest(found.trim_matches('"'), words) {
            message.push_str(&format!("; did you mean {word}?"));
        }
    }
    message
}

fn shown(value: &Value) -> String {
    match value {
        Value::Table(_) => "a table".to_owned(),
        Value::Array(items) if items.iter().any(Value::is_table) => "a list with tables".to_owned(),
        other => other.to_string(),
    }
}
