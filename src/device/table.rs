//! The listing as `avion devices` prints it, for people and for programs.

use super::{CheckReport, DeviceError, DeviceInfo, Listing};
use std::fmt::Write as _;

type Checks = [Option<Result<CheckReport, DeviceError>>];

const HEADS: [&str; 9] = ["", "backend", "device", "name", "kind", "memory", "types", "extras", "self-check"];

/// The listing as a table, one device a line, with the notes below; `*` marks what `auto` takes.
///
/// `checks`: one per device, in the listing's order; devices beyond its end count as not checked.
pub fn render(listing: &Listing, checks: &Checks) -> String {
    let mut text = String::new();
    if listing.devices.is_empty() {
        text += "no devices\n";
    } else {
        let auto = listing.auto.as_ref().map(|auto| auto.position);
        let mut rows = vec![HEADS.map(String::from)];
        for (i, info) in listing.devices.iter().enumerate() {
            let check = checks.get(i).and_then(Option::as_ref);
            rows.push(row(info, auto == Some(i), check));
        }
        let widths: [usize; HEADS.len()] =
            std::array::from_fn(|c| rows.iter().map(|row| row[c].chars().count()).max().unwrap_or(0));
        for row in &rows {
            let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
            let line = cells.collect::<Vec<_>>().join("  ");
            let _ = writeln!(text, "{}", line.trim_end());
        }
        text += "\ndrivers:\n";
        for info in &listing.devices {
            let _ = writeln!(text, "  {} {}: {}", info.backend, info.index, info.driver);
        }
    }
    for (info, check) in listing.devices.iter().zip(checks) {
        if let Some(Err(error)) = check {
            let _ = writeln!(text, "failed: {}: {error}", info.title());
        }
    }
    for note in &listing.notes {
        let _ = writeln!(text, "note: {note}");
    }
    let _ = match &listing.auto {
        Some(auto) => writeln!(text, "auto: {}", auto.why),
        None => writeln!(text, "auto: nothing to run on"),
    };
    text
}

fn row(info: &DeviceInfo, auto: bool, check: Option<&Result<CheckReport, DeviceError>>) -> [String; HEADS.len()] {
    let memory = match (info.memory_free, info.memory_total) {
        (Some(free), Some(total)) => format!("{} of {} GiB free", gib(free), gib(total)),
        (None, Some(total)) => format!("{} GiB", gib(total)),
        _ => "?".into(),
    };
    let dtypes: Vec<_> = info
        .dtypes
        .iter()
        .map(|dtype| match dtype.arithmetic {
            true => dtype.name.to_string(),
            false => format!("{} (storage)", dtype.name),
        })
        .collect();
    let extras = [(info.tensor_cores, "tensor cores"), (info.subgroups, "subgroups")];
    let extras: Vec<_> = extras.iter().filter(|(has, _)| *has).map(|(_, name)| *name).collect();
    let check = match (check, &info.problem) {
        (_, Some(_)) => "unusable, see note".into(),
        (Some(Ok(report)), _) => format!("ok, {:.1} s", report.seconds),
        (Some(Err(_)), _) => "FAILED".into(),
        (None, _) => "not run".into(),
    };
    [
        if auto { "*" } else { "" }.into(),
        info.backend.into(),
        info.index.to_string(),
        info.name.clone(),
        info.kind.name().into(),
        memory,
        or_dash(dtypes.join(" ")),
        or_dash(extras.join(", ")),
        check,
    ]
}

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".into() } else { text }
}

fn gib(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / (1u64 << 30) as f64)
}

/// The same for programs: `devices` (each with `self_check`: null, a report or `{"error"}`), `notes`, `auto`.
pub fn json(listing: &Listing, checks: &Checks) -> serde_json::Value {
    let mut value = serde_json::json!(listing);
    for i in 0..listing.devices.len() {
        value["devices"][i]["self_check"] = match checks.get(i).and_then(Option::as_ref) {
            None => serde_json::Value::Null,
            Some(Ok(report)) => serde_json::json!(report),
            Some(Err(error)) => serde_json::json!({ "error": error.to_string() }),
        };
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{AutoChoice, Dtype, Kind};

    fn listing() -> Listing {
        let gpu = DeviceInfo {
            name: "NVIDIA H200".into(),
            driver: "CUDA 13.0, sm_90".into(),
            memory_total: Some(150 << 30),
            memory_free: Some(140 << 30),
            dtypes: vec![Dtype { name: "f32", arithmetic: true }, Dtype { name: "bf16", arithmetic: false }],
            tensor_cores: true,
            ..DeviceInfo::bare("cuda", 0, Kind::Discrete)
        };
        let software = DeviceInfo { name: "llvmpipe".into(), ..DeviceInfo::bare("wgpu", 0, Kind::Cpu) };
        Listing {
            devices: vec![gpu, software],
            notes: vec!["wgpu: something".into()],
            auto: Some(AutoChoice { position: 0, why: "CUDA device 0 (NVIDIA H200)".into() }),
            targets: Vec::new(),
        }
    }

    #[test]
    fn the_table_is_aligned_and_says_everything() {
        let report = CheckReport { seconds: 0.84, checks: Vec::new() };
        let failed = DeviceError::Failed { detail: "self-check gemm f16: error 1".into() };
        let text = render(&listing(), &[Some(Ok(report)), Some(Err(failed))]);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[1].starts_with("*  cuda"), "{text}");
        let column = lines[0].find("self-check").unwrap();
        assert_eq!(lines[1].find("ok, 0.8 s"), Some(column), "{text}");
        assert_eq!(lines[2].find("FAILED"), Some(column), "{text}");
        for part in [
            "140.0 of 150.0 GiB free",
            "f32 bf16 (storage)",
            "tensor cores",
            "cuda 0: CUDA 13.0, sm_90",
            "failed: wgpu adapter 0 (llvmpipe, cpu): the device failed: self-check gemm f16",
            "note: wgpu: something",
            "auto: CUDA device 0 (NVIDIA H200)",
        ] {
            assert!(text.contains(part), "`{part}` is missing in:\n{text}");
        }
    }

    #[test]
    fn json_carries_the_checks() {
        let report = CheckReport { seconds: 0.5, checks: Vec::new() };
        let value = json(&listing(), &[Some(Ok(report))]);
        assert_eq!(value["devices"][0]["self_check"]["seconds"], 0.5);
        assert_eq!(value["devices"][0]["kind"], "discrete");
        assert!(value["devices"][1]["self_check"].is_null());
        assert_eq!(value["auto"]["position"], 0);
    }
}
