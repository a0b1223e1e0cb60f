//! `avion bench`.

use super::{check_values, choose, load, on_target, print};
use crate::bench::clips::Work;
use crate::bench::{self, Report, decode::DecodeOptions, step::StepOptions};
use crate::cli::{BenchArgs, BenchWhat};
use crate::config::Recipe;
use crate::data::loader::read_options;
use crate::device;
use crate::model::{DeviceMemory, MemoryPlan, check_device};
use crate::ops::tensor::float_kind;
use crate::ops::workspace::Workspace;
use crate::train::compute_dtype;
use anyhow::{Context, Result, anyhow};

/// What is measured when no recipe is named.
const DEFAULT_RECIPE: &str = "ego4d-vitb16";

/// Narrated clips of Ego4D that AVION pre-trains on, as its authors give the number.
const EGO4D_CLIPS: u64 = 4_000_000;

pub(super) fn run(args: BenchArgs) -> Result<u8> {
    if let BenchWhat::Decode = args.what {
        let workers = args.workers.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get()));
        let recipe = load(args.config.as_deref().unwrap_or(DEFAULT_RECIPE), &args.overrides)?.recipe;
        crate::video::decode_on(Some(args.device.device.unwrap_or(0)));
        let work = match (args.samples, args.data) {
            (Some(file), _) => Work::read(&file),
            (None, Some(folder)) => Work::find(&folder, args.frames, args.stride, args.clips),
            (None, None) => {
                return Err(anyhow!("`avion bench decode` needs --data FOLDER, with videos in it, or --samples FILE"));
            }
        };
        let work = work.map_err(|what| anyhow!(what))?;
        let options = DecodeOptions { work, workers, size_px: 224, read: read_options(&recipe.data) };
        let report = bench::decode::run(&options).map_err(|what| anyhow!(what))?;
        return show(report, "this machine's processor", args.json);
    }
    let resolved = match &args.config {
        Some(config) => load(config, &args.overrides)?,
        // The step that others publish: one device's share of the recipe.
        None => {
            let one_device = ["train.batch_size=256".to_owned(), "train.micro_batch=0".to_owned()];
            load(DEFAULT_RECIPE, &[&one_device[..], &args.overrides].concat())?
        }
    };
    check_values(&resolved)?;
    let recipe = &resolved.recipe;
    let chosen = choose(&args.device)?;
    let on_device = DeviceMemory { free: chosen.info.memory_free, cuda: chosen.info.backend == "cuda" };
    // Full sizes take hours without matrix units.
    let small = chosen.info.backend != "cuda";
    let name = chosen.info.name.clone();
    let target = chosen.target.clone();
    let report = on_target!(chosen.target, R, device => {
        let dtype = compute_dtype::<R>(recipe.train.precision, &device)?;
        let kind = float_kind(dtype).context("the recipe's precision has no kernels")?;
        let ws = Workspace::<R>::new(&device, kind);
        match args.what {
            BenchWhat::Step => {
                check_device::<R>(recipe, kind, &device)?;
                let memory = MemoryPlan::of(recipe, kind, on_device)?;
                let options = StepOptions {
                    steps: args.steps,
                    words: args.words,
                    dataset_clips: args.dataset_clips.unwrap_or_else(|| dataset_clips(recipe)),
                    parts: !args.no_parts,
                };
                let free = || device::memory_free(&target);
                bench::step::run::<R>(recipe, dtype, &device, &memory, &options, &free)?
            }
            BenchWhat::Attention => bench::kernels::attention_report(&ws, small)?,
            BenchWhat::Gemm => bench::kernels::gemm_report(&ws, small)?,
            BenchWhat::Io => bench::io::run(&ws, small, &recipe.output_dir())?,
            BenchWhat::Decode => unreachable!("handled above: it needs no device"),
        }
    });
    show(report, &name, args.json)
}

fn show(report: Report, device: &str, json: bool) -> Result<u8> {
    let report = Report { device: device.to_owned(), ..report };
    let text = if json { serde_json::to_string_pretty(&report)? + "\n" } else { report.to_string() };
    print(&text)?;
    Ok(0)
}

/// Clips of the recipe's training sets where their annotations can be read; Ego4D's published number for its recipe.
fn dataset_clips(recipe: &Recipe) -> u64 {
    match crate::train::load_sources(&recipe.data.train) {
        Ok(sources) => sources.iter().map(|source| source.clips.len() as u64).sum(),
        Err(_) if recipe.name.starts_with("ego4d") => EGO4D_CLIPS,
        Err(_) => 0,
    }
}
