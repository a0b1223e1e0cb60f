//! `avion config`.

use super::{check, load, print};
use crate::cli::ConfigArgs;
use crate::config::{BUILT_IN, Precision, Recipe, describe};
use crate::model::{DeviceMemory, MemoryPlan};
use anyhow::Result;
use avion_kernels::FloatKind;

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
        // For a CUDA device with room; `auto` precision counts as bf16.
        let f32_only = resolved.recipe.train.precision == Precision::F32;
        let kind = if f32_only { FloatKind::F32 } else { FloatKind::Bf16 };
        eprintln!("\n{}", MemoryPlan::of(&resolved.recipe, kind, DeviceMemory { free: None, cuda: true })?);
        check(&resolved)?;
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
