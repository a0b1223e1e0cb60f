//! Recipes and reports.

use super::{MAX_LEN, Target, files, outcome};
use crate::data::repository;
use avion::config::recipe::Recipe;
use avion::data::annotations::parse_time;
use avion::report::read_metrics;

pub fn recipes() -> Target {
    let configs = repository().join("configs");
    let seeds = files(&configs, &[".toml"], MAX_LEN);
    assert!(!seeds.is_empty());
    Target::new("recipes", seeds, |input| {
        let text = String::from_utf8_lossy(input);
        let change = text.lines().next().unwrap_or_default().to_owned();
        let whole = Recipe::from_toml(&text, "fuzz", &[]).map(|resolved| {
            let _ = avion::config::validate_values(&resolved.recipe);
            resolved.to_toml(true).is_ok()
        });
        outcome(whole) + &outcome(Recipe::from_toml("", "fuzz", &[change]).map(|_| ()))
    })
}

pub fn metrics_and_times() -> Target {
    let line = r#"{"kind":"step","step":1,"epoch":0.1,"loss":4.0,"accuracy":null,"grad_norm":1.0,"lr":1e-3,"logit_scale":2.6,"step_ms":4.0,"clips_per_s":9.0,"data_wait":0.0}"#;
    let seeds = vec![format!("{line}\n{line}\n").into_bytes(), b"01:02:03.50".to_vec(), b"-3".to_vec()];
    Target::on_file("metrics", seeds, "metrics.jsonl", |path| {
        let text = std::fs::read(path).unwrap();
        let time = parse_time(&String::from_utf8_lossy(&text)).is_some();
        outcome(read_metrics(path).map(|records| records.len())) + if time { "time" } else { "" }
    })
}
