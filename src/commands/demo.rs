//! `avion demo`: generated videos, a tiny model, and what it learned.

use super::train::{finish, run_on, toml_string};
use super::{choose, load, print};
use crate::cli::DemoArgs;
use crate::data::synthetic::{SyntheticConfig, generate};
use crate::report::{Results, Scores};
use crate::train::{Outcome, RunOptions};
use anyhow::Result;

/// Where the demo lies by default; its recipe says the same.
const OUTPUT: &str = "runs/demo";

pub(super) fn run(args: DemoArgs) -> Result<u8> {
    let output = args.output.unwrap_or_else(|| OUTPUT.into());
    let data = output.join("data");
    let set = generate(&data, &SyntheticConfig::default())?;
    let made = if set.reused { "found" } else { "generated" };
    eprintln!(
        "{made} {} training and {} held-out videos ({:.1} MB) in {}",
        set.train.len(),
        set.heldout.len(),
        set.bytes as f64 / 1e6,
        data.display()
    );
    let path = |path: &std::path::Path| toml_string(&path.display().to_string());
    let mut overrides = vec![
        format!("train.output={}", path(&output)),
        format!("data.train.0.annotations={}", path(&set.train_csv)),
        format!("data.train.0.root={}", path(&set.root)),
        format!("data.eval.0.annotations={}", path(&set.heldout_csv)),
        format!("data.eval.0.root={}", path(&set.root)),
    ];
    overrides.extend(args.overrides);
    let resolved = load("demo", &overrides)?;
    super::check(&resolved)?;
    let chosen = choose(&args.device)?;
    let outcome = run_on(&chosen, &resolved, &RunOptions { fresh: args.fresh, ..RunOptions::default() });
    let code = finish(&outcome)?;
    if let Ok(Outcome::Finished { results: Some(results), .. }) = &outcome {
        print(&text(results))?;
    }
    Ok(code)
}

fn text(results: &Results) -> String {
    let mut text = format!(
        "\nretrieval on held-out combinations of colour, shape, motion and speed, in per cent\n{:<24}{:>9}{:>9}{:>9}\n",
        "", "chance", "before", "after"
    );
    let rows: [(&str, fn(&Scores) -> f64); 4] = [
        ("text to video R@1", |s| s.t2v_r1),
        ("video to text R@1", |s| s.v2t_r1),
        ("mAP", |s| s.map),
        ("nDCG", |s| s.ndcg),
    ];
    for (name, score) in rows {
        let [chance, before, after] = [&results.chance, &results.before, &results.after].map(|s| score(s) * 100.0);
        text.push_str(&format!("{name:<24}{chance:>9.2}{before:>9.2}{after:>9.2}\n"));
    }
    text.push_str(&format!("{:.0} s on {}\n", results.seconds, results.device));
    text
}
