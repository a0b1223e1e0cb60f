//! `avion config`.

use super::{check, load};
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
    print!("{}", resolved.to_toml(true)?);
    if args.check {
        check(&resolved)?;
        eprintln!("\n{}", memory_estimate(&resolved.recipe));
    }
    Ok(0)
}

fn list() -> Result<u8> {
    for field in describe()? {
        println!("{} ({}, default {})", field.key, field.kind, field.default);
        for line in field.doc.lines() {
            println!("    {line}");
        }
    }
    let names: Vec<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
    println!("\nbuilt-in recipes: {}", names.join(", "));
    Ok(0)
}
