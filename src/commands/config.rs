//! `avion config`.

use super::{check, load, print};
use crate::cli::ConfigArgs;
use crate::config::{BUILT_IN, Recipe, describe, memory_estimate};
use anyhow::Result;

pub(super) fn run(args: ConfigArgs) -> Result<u8> {
    if args.list {
        return list();
    }
    let resolved = match &args.config {
        Some(config) => load(config, &args.overrides)?,
        None => Recipe::from_toml("", "defaults", &args.overrides)?,
    };
    print(&resolved.to_toml(true)?)?;
    if args.check {
        check(&resolved)?;
        eprintln!("\n{}", memory_estimate(&resolved.recipe));
    }
    Ok(0)
}

fn list() -> Result<u8> {
    let mut text = String::new();
    for field in describe()? {
        text.push_str(&format!("{} ({}, default {})\n", field.key, field.kind, field.default));
        for line in field.doc.lines() {
            text.push_str(&format!("    {line}\n"));
        }
    }
    let names: Vec<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
    text.push_str(&format!("\nbuilt-in recipes: {}\n", names.join(", ")));
    print(&text)?;
    Ok(0)
}
