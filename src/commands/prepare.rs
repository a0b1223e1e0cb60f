//! `avion prepare`.

use crate::cli::PrepareArgs;
use anyhow::Result;

#[cfg(not(feature = "video"))]
pub(super) fn run(_: PrepareArgs) -> Result<u8> {
    anyhow::bail!("this build has no FFmpeg, which prepares the videos: rebuild with the feature `video`")
}

#[cfg(feature = "video")]
pub(super) fn run(args: PrepareArgs) -> Result<u8> {
    use crate::cli::PrepareWhat;
    match args.what {
        Some(PrepareWhat::Verify(args)) => with_ffmpeg::verify(args),
        None => with_ffmpeg::prepare(args),
    }
}

#[cfg(feature = "video")]
mod with_ffmpeg {
    use super::super::{INTERRUPTED, print};
    use crate::cli::{PrepareArgs, PrepareCodec, PrepareLayout, VerifyArgs};
    use crate::prepare::{self, Layout, MPEG4, Options, Summary, X264, size};
    use crate::train::StopSignal;
    use anyhow::{Context, Result, anyhow};
    use std::collections::BTreeMap;

    /// Failed videos and wrong files that are listed one by one.
    const LISTED: usize = 20;

    pub fn prepare(args: PrepareArgs) -> Result<u8> {
        let missing = |option| anyhow!("`avion prepare` needs {option}");
        let options = Options {
            input: args.input.ok_or_else(|| missing("--input"))?,
            output: args.output.ok_or_else(|| missing("--output"))?,
            layout: match args.layout {
                PrepareLayout::Auto => None,
                PrepareLayout::Ego4d => Some(Layout::Ego4d),
                PrepareLayout::Ek100 => Some(Layout::Ek100),
                PrepareLayout::Kinetics => Some(Layout::Kinetics),
                PrepareLayout::Plain => Some(Layout::Plain),
            },
            chunk_s: args.chunk_s,
            short_side: args.short_side,
            gop: args.gop,
            codec: match args.codec {
                PrepareCodec::Auto => None,
                PrepareCodec::H264 => Some(X264.to_owned()),
                PrepareCodec::Mpeg4 => Some(MPEG4.to_owned()),
            },
            quality: args.quality,
            preset: args.preset,
            workers: workers(args.workers),
        };
        let stop = StopSignal::install()?;
        if args.dry_run {
            let estimate = prepare::estimate(&options, &|| stop.raised())?;
            print(&estimate.to_string())?;
            return Ok(if stop.raised() { INTERRUPTED } else { 0 });
        }
        let summary = prepare::run(&options, &|| stop.raised(), &prepare::publish)?;
        let folder = options.output.display();
        eprintln!("{}", describe(&summary));
        if summary.interrupted {
            eprintln!("interrupted; the same command goes on: {folder}");
            return Ok(INTERRUPTED);
        }
        eprintln!("manifest: {}", options.output.join(crate::data::manifest::FILE).display());
        Ok(0)
    }

    fn describe(summary: &Summary) -> String {
        let Summary { made, found, failed, bytes, .. } = summary;
        let mut text =
            format!("{made} videos made ({}), {found} were there, {} failed", size(*bytes as f64), failed.len());
        let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
        failed.iter().for_each(|(_, failed)| *kinds.entry(&failed.kind).or_default() += 1);
        for (kind, count) in kinds {
            text += &format!("\n  {count:>8}  {kind}");
        }
        text
    }

    pub fn verify(args: VerifyArgs) -> Result<u8> {
        let stop = StopSignal::install()?;
        let checked = prepare::verify(&args.output, workers(args.workers), args.repair, &|| stop.raised())
            .with_context(|| format!("{} cannot be verified", args.output.display()))?;
        let wrong = checked.wrong.len();
        let mut text = String::new();
        for (path, problem) in checked.wrong.iter().take(LISTED) {
            text += &format!("{}: {problem}\n", path.display());
        }
        if wrong > LISTED {
            text += &format!("... and {} more\n", wrong - LISTED);
        }
        text += &format!(
            "{} videos, {} chunks, {} frames, {}: {wrong} chunks differ\n",
            checked.videos,
            checked.chunks,
            checked.frames,
            size(checked.bytes as f64)
        );
        if checked.failed + checked.unfinished > 0 {
            text += &format!("{} more videos failed, {} are not finished\n", checked.failed, checked.unfinished);
        }
        if wrong > 0 {
            text += match args.repair {
                true => {
                    "the chunks that differ were removed: the `avion prepare` command that made them makes them anew\n"
                }
                false => "--repair removes the chunks that differ; the next `avion prepare` makes them anew\n",
            };
        }
        print(&text)?;
        Ok(match (checked.interrupted, wrong) {
            (true, _) => INTERRUPTED,
            (false, 0) => 0,
            _ => 1,
        })
    }

    fn workers(asked: Option<usize>) -> usize {
        asked.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).max(1)
    }
}
