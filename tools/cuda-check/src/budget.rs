//! `kernels/cuda-budget.toml`: what each kernel may take of a multiprocessor, and what became of that.

use crate::nvrtc::Usage;
use std::{collections::BTreeMap, fs, path::Path};

/// Registers that a kernel may take beyond its budget. CubeCL orders shared memory differently from run to run, which
/// moves a few registers.
const SLACK: u32 = 8;

/// Usage by kernel variant and architecture.
pub type Usages = BTreeMap<(String, String), Usage>;

const HEAD: &str = "\
# Registers per thread and spilled bytes of every CUDA kernel, by kernel and architecture. `make check-cuda` fails when a
# kernel spills more, or takes over 8 registers more, than stands here. Written by `make check-cuda ARGS=--bless`: look at
# the difference before you commit it.
";

/// Reads the budget; no file is an empty budget.
///
/// # Errors
/// A message that names the file and the entry.
pub fn read(path: &Path) -> Result<Usages, String> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Usages::new()),
        text => text.map_err(|error| format!("{}: {error}", path.display()))?,
    };
    let table: toml::Table = text.parse().map_err(|error| format!("{}: {error}", path.display()))?;
    let mut usages = Usages::new();
    for (variant, archs) in &table {
        for (arch, entry) in archs.as_table().into_iter().flatten() {
            let number = |key: &str| entry.get(key)?.as_integer()?.try_into().ok();
            let (Some(registers), Some(spill_bytes)) = (number("registers"), number("spill_bytes")) else {
                let path = path.display();
                return Err(format!("{path}: \"{variant}\" {arch}: expected {{ registers = .., spill_bytes = .. }}"));
            };
            usages.insert((variant.clone(), arch.clone()), Usage { registers, spill_bytes });
        }
    }
    Ok(usages)
}

/// Writes the budget, one table per kernel.
///
/// # Errors
/// A message that names the file.
pub fn write(path: &Path, usages: &Usages) -> Result<(), String> {
    let mut text = HEAD.to_string();
    let mut last = "";
    for ((variant, arch), usage) in usages {
        if variant != last {
            text += &format!("\n[\"{variant}\"]\n");
            last = variant;
        }
        let Usage { registers, spill_bytes } = usage;
        text += &format!("{arch} = {{ registers = {registers}, spill_bytes = {spill_bytes} }}\n");
    }
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

/// Where `found` breaks the budget, one line each.
pub fn violations(budget: &Usages, found: &Usages) -> Vec<String> {
    let mut lines = Vec::new();
    for (key @ (variant, arch), usage) in found {
        let Usage { registers, spill_bytes } = *usage;
        let line = match budget.get(key) {
            None => format!("{registers} registers, {spill_bytes} bytes spilled; not in the budget yet"),
            Some(most) if spill_bytes > most.spill_bytes => {
                format!("{spill_bytes} bytes spilled ({registers} registers), budget {} bytes", most.spill_bytes)
            }
            Some(most) if registers > most.registers + SLACK => {
                format!("{registers} registers, budget {} and {SLACK} more", most.registers)
            }
            Some(_) => continue,
        };
        lines.push(format!("{variant}, {arch}: {line}"));
    }
    for (variant, arch) in budget.keys().filter(|key| !found.contains_key(*key)) {
        lines.push(format!("{variant}, {arch}: in the budget, but not launched any more"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spills_and_many_more_registers_break_the_budget() {
        let key = |name: &str| (name.to_string(), "sm_80".to_string());
        let usage = |registers, spill_bytes| Usage { registers, spill_bytes };
        let budget = Usages::from([(key("a"), usage(64, 0)), (key("gone"), usage(1, 0))]);
        let check = |name, found| violations(&budget, &Usages::from([(key(name), found), (key("gone"), usage(1, 0))]));
        assert_eq!(check("a", usage(72, 0)), Vec::<String>::new());
        assert!(check("a", usage(73, 0))[0].contains("73 registers, budget 64"));
        assert!(check("a", usage(60, 4))[0].contains("4 bytes spilled (60 registers), budget 0"));
        assert!(check("b", usage(60, 4))[0].contains("not in the budget yet"));
        assert!(violations(&budget, &Usages::from([(key("a"), usage(64, 0))]))[0].contains("not launched any more"));
    }

    #[test]
    fn a_written_budget_reads_back() {
        let path = std::env::temp_dir().join(format!("cuda-budget-{}.toml", std::process::id()));
        let key = ("a::b<bf16> causal=true x128".to_string(), "sm_90a".to_string());
        let usages = Usages::from([(key, Usage { registers: 168, spill_bytes: 12 })]);
        write(&path, &usages).unwrap();
        assert_eq!(read(&path).unwrap(), usages);
        fs::remove_file(path).unwrap();
    }
}
