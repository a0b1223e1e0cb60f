//! What is to be made: the videos of an input, their names, and the settings they will have.

use super::Options;
use super::discover::{self, Layout};
use super::encode::{self, MPEG4, X264};
use super::error::PrepareError;
use super::state::Found;
use crate::data::manifest::Settings;
use std::path::PathBuf;

/// Default length of a chunk: AVION's.
const CHUNK_S: u32 = 15;

/// The videos of an input, their names, and the settings they will have.
pub struct Plan {
    pub settings: Settings,
    /// Path, name, and why it can have none.
    pub videos: Vec<(PathBuf, String, Option<String>)>,
}

impl Plan {
    pub fn of(options: &Options) -> Result<Plan, PrepareError> {
        let (paths, root) = discover::find(&options.input, &options.output)?;
        let known = Found::read(&options.output)?.settings;
        let known_layout = known.as_ref().and_then(|settings| Layout::from_name(&settings.layout));
        let layout = options.layout.or(known_layout).unwrap_or_else(|| Layout::recognise(&paths));
        let names = discover::names(&paths, &root, layout);
        let videos = paths.into_iter().zip(names).map(|(path, (name, problem))| (path, name, problem)).collect();
        Ok(Plan { settings: settings(options, layout)?, videos })
    }
}

/// Checks the options and fills in what depends on others.
fn settings(options: &Options, layout: Layout) -> Result<Settings, PrepareError> {
    let require = |holds: bool, option, expected: &str, found: u32| match holds {
        true => Ok(()),
        false => Err(PrepareError::Option { option, expected: expected.to_owned(), found: found.to_string() }),
    };
    let codec = match &options.codec {
        Some(codec) if encode::exists(codec) => codec.clone(),
        Some(codec) => return Err(PrepareError::NoEncoder { codec: codec.clone() }),
        None if encode::exists(X264) => X264.to_owned(),
        None if encode::exists(MPEG4) => {
            tracing::warn!(
                "this FFmpeg has no x264: videos are written as MPEG-4 part 2, a third larger at the same quality. Install an \
                 FFmpeg with libx264 for H.264"
            );
            MPEG4.to_owned()
        }
        None => return Err(PrepareError::NoEncoder { codec: format!("{X264} or {MPEG4}") }),
    };
    let x264 = codec == X264;
    let quality = options.quality.unwrap_or(if x264 { encode::X264_CRF } else { encode::MPEG4_QUANTISER });
    let chunk_s = options.chunk_s.unwrap_or(if layout == Layout::Kinetics { 0 } else { CHUNK_S });
    require(chunk_s <= 86_400, "--chunk-s", "0 (whole files) to 86400 s", chunk_s)?;
    require((32..=4320).contains(&options.short_side), "--short-side", "32 to 4320 px", options.short_side)?;
    require(options.short_side.is_multiple_of(2), "--short-side", "an even number of pixels", options.short_side)?;
    require((1..=600).contains(&options.gop), "--gop", "1 to 600 frames", options.gop)?;
    let (range, text) = if x264 { (0..=51, "0 to 51 (x264)") } else { (1..=31, "1 to 31 (MPEG-4)") };
    require(range.contains(&quality), "--quality", text, quality)?;
    if !encode::PRESETS.contains(&&*options.preset) {
        let (expected, found) = (encode::PRESETS.join(", "), options.preset.clone());
        return Err(PrepareError::Option { option: "--preset", expected, found });
    }
    Ok(Settings {
        layout: layout.name().to_owned(),
        chunk_s,
        short_side: options.short_side,
        gop: options.gop,
        quality,
        preset: if x264 { options.preset.clone() } else { String::new() },
        codec,
    })
}
