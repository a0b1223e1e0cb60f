//! `avion inspect`: pictures of what a model makes of a video.

use super::weights::Weights;
use super::{check_values, choose, on_target, print};
use crate::checkpoint::LoadOptions;
use crate::cli::{AttentionArgs, InspectArgs, InspectWhat, PictureArgs, ReconstructArgs};
use crate::config::Geometry;
use crate::config::recipe::{Recipe, TaskKind};
use crate::device::DeviceError;
use crate::inspect::{AttentionMaps, ClipFrames, Encoder, InspectError, Strip, attention_maps, read_clip, reconstruct};
use crate::report::{heat_span, overlay_heat};
use crate::train::{TrainError, compute_dtype};
use anyhow::{Result, bail};
use burn_cubecl::CubeRuntime;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Opacity of heat maps: the frame must stay recognisable.
const OPACITY: f32 = 0.6;

pub(super) fn run(args: InspectArgs) -> Result<u8> {
    match args.what {
        InspectWhat::Reconstruct(args) => run_reconstruct(&args),
        InspectWhat::Attention(args) => run_attention(&args),
    }
}

fn run_reconstruct(args: &ReconstructArgs) -> Result<u8> {
    let weights = Weights::find(&args.weights)?;
    let recipe = weights.recipe();
    if recipe.task != TaskKind::Masked {
        bail!("only models of task = \"masked\" reconstruct; this recipe's task is {}", super::task_name(recipe.task));
    }
    check_values(&weights.resolved)?;
    let clips = read_clips(recipe, &args.pictures)?;
    let values = weights.values(LoadOptions { projections: true })?;
    let chosen = choose(&args.device)?;
    let seen = DeviceError::catch(|| {
        Ok(on_target!(&chosen.target, R, device => with_model::<R, _>(recipe, &values, device, |encoder| {
            let Encoder::Masked(model) = encoder else { unreachable!("the recipe's task is masked") };
            clips.iter().map(|(_, clip)| reconstruct(model, &clip.pixels, args.mask_seed)).collect::<Result<Vec<_>, _>>()
        })))
    })??;
    // Raw pixels are measured from black: a grey picture already explains most of them.
    let of =
        if recipe.masking.normalize_targets { "variance" } else { "squares (not variance: targets are raw pixels)" };
    for ((path, clip), seen) in clips.into_iter().zip(seen) {
        let (hidden, tokens, explained) = (seen.hidden, seen.tokens, seen.explained * 100.0);
        let strip = Strip { image_px: clip.image_px, rows: vec![clip.pixels, seen.masked, seen.filled] };
        let written = write(&strip, &path, "reconstruction", 3, clip.frame_ms)?;
        print(&format!("{written}: {hidden} of {tokens} tokens hidden, {explained:.1}% of their {of} explained\n"))?;
    }
    Ok(0)
}

fn run_attention(args: &AttentionArgs) -> Result<u8> {
    let weights = Weights::find(&args.weights)?;
    let recipe = weights.recipe();
    check_values(&weights.resolved)?;
    let layers = Geometry::of(recipe.model.size).layers;
    if let Some(layer) = args.layer.filter(|layer| *layer >= layers) {
        return Err(InspectError::NoLayer { layer, layers }.into());
    }
    let clips = read_clips(recipe, &args.pictures)?;
    // A classifier's head plays no part.
    let projections = recipe.task != TaskKind::Classify;
    let values = weights.values(LoadOptions { projections })?;
    let chosen = choose(&args.device)?;
    let maps = DeviceError::catch(|| {
        Ok(on_target!(&chosen.target, R, device => with_model::<R, _>(recipe, &values, device, |encoder| {
            clips.iter().map(|(_, clip)| attention_maps(encoder, &clip.pixels, args.layer)).collect::<Result<Vec<_>, _>>()
        })))
    })??;
    for ((path, clip), maps) in clips.into_iter().zip(maps) {
        let mut rows = vec![clip.pixels.clone(), overlaid(&clip, &maps, &maps.mean())?];
        if args.heads {
            for head in &maps.heads {
                rows.push(overlaid(&clip, &maps, head)?);
            }
        }
        let strip = Strip { image_px: clip.image_px, rows };
        let written = write(&strip, &path, "attention", 2, clip.frame_ms)?;
        print(&format!("{written}: layer {}, mean of {} heads\n", maps.layer, maps.heads.len()))?;
    }
    Ok(0)
}

/// Does something with the model of a recipe.
fn with_model<R: CubeRuntime, V>(
    recipe: &Recipe,
    values: &[Vec<f32>],
    device: &R::Device,
    work: impl FnOnce(&Encoder<R>) -> Result<V, InspectError>,
) -> Result<V> {
    let dtype = compute_dtype::<R>(recipe.train.precision, device)?;
    let encoder = Encoder::<R>::new(recipe, values, dtype, device).map_err(TrainError::from)?;
    Ok(work(&encoder)?)
}

/// The clips of all files, each with where its pictures go: `output/STEM`, numbered where stems repeat.
fn read_clips(recipe: &Recipe, args: &PictureArgs) -> Result<Vec<(PathBuf, ClipFrames)>> {
    let image_px = Geometry::of(recipe.model.size).image_px;
    let mut taken = HashSet::new();
    args.video
        .iter()
        .map(|video| {
            let stem = video.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let mut name = stem.clone();
            for number in 2.. {
                if taken.insert(name.clone()) {
                    break;
                }
                name = format!("{stem}-{number}");
            }
            Ok((args.output.join(name), read_clip(video, recipe, image_px)?))
        })
        .collect()
}

/// A clip under a heat map, the same colours for the same attention in all its frames.
fn overlaid(clip: &ClipFrames, maps: &AttentionMaps, heat: &[f32]) -> Result<Vec<u8>> {
    let (px, [_, rows, columns], span) = (clip.image_px, maps.grid, heat_span(heat));
    let mut out = Vec::with_capacity(clip.pixels.len());
    for (frame, rgb) in clip.pixels.chunks_exact(px * px * 3).enumerate() {
        let heat = maps.of_frame(heat, frame);
        out.extend(overlay_heat(rgb, px, px, heat, (rows, columns), span, OPACITY)?.rgb);
    }
    Ok(out)
}

/// Writes both files; returns their names in words.
fn write(strip: &Strip, path: &Path, what: &str, moving: usize, frame_ms: u32) -> Result<String> {
    let [png, gif] = ["png", "gif"].map(|extension| PathBuf::from(format!("{}-{what}.{extension}", path.display())));
    strip.write_png(&png)?;
    strip.write_gif(&gif, moving, frame_ms)?;
    Ok(format!("{} and .gif", png.display()))
}
