//! What can be wrong with a recipe.

use std::fmt;
use std::path::PathBuf;

/// Why a recipe cannot be used. Everything found is reported at once.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read recipe {path}", path = path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("no recipe {name}: not a file, and the built-in ones are {built_in}{hint}")]
    NotFound { name: String, built_in: String, hint: String },
    #[error("{file}:{line}:{column}: not valid TOML: {message}")]
    Syntax { file: String, line: usize, column: usize, message: String },
    #[error("{}", list(problems))]
    Invalid { problems: Vec<Problem> },
    /// A value that TOML cannot hold, such as a path that is not UTF-8.
    #[error("recipe cannot be written as TOML: {message}")]
    Unwritable { message: String },
}

/// One thing that is wrong, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `file:line`, `--set`, or empty when the place is not known.
    pub place: String,
    /// The key it is about, such as `optim.lr`.
    pub key: String,
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in [&self.place, &self.key] {
            if !part.is_empty() {
                write!(f, "{part}: ")?;
            }
        }
        f.write_str(&self.message)
    }
}

/// Something unusual that does not stop a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    pub key: &'static str,
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}

fn list(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(Problem::to_string).collect();
    match lines.as_slice() {
        [one] => one.clone(),
        many => format!("{} problems in the recipe:\n  {}", many.len(), many.join("\n  ")),
    }
}
