//! `avion data`.

use super::{check_values, load, print};
use crate::cli::{DataArgs, DataStatsArgs, DataWhat};
use crate::data::Source;
use crate::data::annotations::read_names;
use crate::data::loader::{Decoder, Ffmpeg};
use crate::stats::{self, StatsOptions, StepTime};
use crate::train::loader_config;
use anyhow::{Result, bail};
use std::io::IsTerminal;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Between two lines of progress: in place on a terminal, and elsewhere.
const REDRAW: Duration = Duration::from_millis(200);
const REPEAT: Duration = Duration::from_secs(10);

pub(super) fn run(args: DataArgs) -> Result<u8> {
    match args.what {
        DataWhat::Stats(args) => stats(args),
    }
}

fn stats(args: DataStatsArgs) -> Result<u8> {
    let resolved = load(&args.recipe.config, &args.recipe.overrides)?;
    check_values(&resolved)?;
    let recipe = &resolved.recipe;
    if args.step_ms.is_some_and(|ms| !(ms.is_finite() && ms > 0.0)) {
        bail!("--step-ms: expected milliseconds above 0, found {}", args.step_ms.unwrap_or_default());
    }
    let given = args.step_ms.map(|ms| StepTime { ms, from: "given".into() });
    let options = StatsOptions {
        sample: args.sample,
        measure: Duration::from_secs_f64(args.measure_s.clamp(0.0, 3600.0)),
        step: given.or_else(|| stats::recorded_step_time(&recipe.output_dir().join("metrics.jsonl"))),
    };
    let sources = stats::load_sources(recipe)?;
    let config = loader_config(recipe);
    let decoder: Arc<dyn Decoder> = Arc::new(Ffmpeg { options: config.read });
    let progress = Progress::default();
    let show = |what: &str, share: f64| progress.show(what, share);
    let (found, usable) = stats::gather(recipe, &sources, &config, &options, &decoder, &show)?;
    progress.show("frames for the contact sheet", 0.0);
    let names = recipe.data.labels.as_ref().map(|path| read_names(path, recipe.classify.classes)).transpose()?;
    let mut shown: Vec<&Source> = usable.iter().filter(|(set, _)| *set == "train").map(|(_, source)| source).collect();
    if shown.iter().all(|source| source.clips.is_empty()) {
        shown = usable.iter().map(|(_, source)| source).collect();
    }
    let decoder: Arc<dyn Decoder> = Arc::new(Ffmpeg { options: config.read.for_evaluation() });
    let sheet = stats::contact_sheet(&shown, &names.unwrap_or_default(), recipe.seed, &decoder)?;
    progress.clear();

    let folder = args.output.unwrap_or_else(|| recipe.output_dir().join("data-stats"));
    std::fs::create_dir_all(&folder).map_err(|error| anyhow::anyhow!("cannot create {}: {error}", folder.display()))?;
    let json = serde_json::to_string_pretty(&found)? + "\n";
    crate::fs::write_atomic(&folder.join("stats.json"), |out| out.write_all(json.as_bytes()))?;
    stats::page(&found, sheet.as_ref())?.write(&folder.join("stats.html"))?;
    let mut written = "stats.json, stats.html".to_owned();
    if let Some(sheet) = &sheet {
        sheet.write_png(&folder.join("clips.png"))?;
        written += " and clips.png";
    }
    print(&if args.json { json } else { found.to_string() })?;
    eprintln!("{written} in {}", folder.display());
    Ok(0)
}

/// One line on stderr that says what is being done.
#[derive(Default)]
struct Progress(Mutex<Option<(Instant, String)>>);

impl Progress {
    fn show(&self, what: &str, share: f64) {
        let terminal = std::io::stderr().is_terminal();
        let Ok(mut last) = self.0.lock() else { return };
        let every = if terminal { REDRAW } else { REPEAT };
        let due = last.as_ref().is_none_or(|(at, shown)| at.elapsed() >= every || shown != what);
        if !due {
            return;
        }
        *last = Some((Instant::now(), what.to_owned()));
        let line = format!("{what}: {:.0}%", 100.0 * share.min(1.0));
        if terminal {
            eprint!("\r{line}\x1b[K");
        } else {
            eprintln!("{line}");
        }
    }

    fn clear(&self) {
        if std::io::stderr().is_terminal() {
            eprint!("\r\x1b[K");
        }
    }
}
