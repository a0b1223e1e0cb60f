//! A sheet of clips, to look at.

use super::StatsError;
use crate::data::loader::{Decoder, Loader, LoaderConfig};
use crate::data::rng::{Purpose, keyed};
use crate::data::{Clip, Source};
use crate::report::{LETTER_PX, LINE_PX, Layout, Picture, lay_out, write_text};
use rand::Rng;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Clips on the sheet, and in a row of it.
const CLIPS: usize = 48;
const COLUMNS: usize = 8;
/// Height and width of a frame, pixels.
const FRAME_PX: usize = 150;
/// Lines of text under it.
const LINES: usize = 4;
const MARGIN_PX: usize = 4;

/// The middle frame of up to 48 clips drawn by `seed`, each with its caption or class; those that cannot be read are
/// left out. `None` when none can.
///
/// # Errors
/// A loader setting out of range.
pub fn contact_sheet(
    sources: &[&Source],
    names: &[String],
    seed: u64,
    decoder: &Arc<dyn Decoder>,
) -> Result<Option<Picture>, StatsError> {
    let drawn = draw(sources, seed);
    let config = LoaderConfig {
        batch_size: CLIPS,
        frames: 1,
        size_px: FRAME_PX as u32,
        max_bad_share: 1.0,
        ..LoaderConfig::default()
    };
    let height = FRAME_PX + LINES * LINE_PX + MARGIN_PX;
    let columns = FRAME_PX / LETTER_PX;
    let mut cells = Vec::new();
    for batch in Loader::eval_with(drawn.clone().into(), config, Arc::clone(decoder))? {
        let batch = batch?;
        let clips: Vec<&Clip> = drawn.iter().flat_map(|source| &source.clips).collect();
        let frames = batch.frames.chunks_exact(FRAME_PX * FRAME_PX * 3);
        for ((frame, caption), sample) in frames.zip(&batch.captions).zip(&batch.samples) {
            let clip = clips[*sample as usize];
            let class = clip.label.map(|label| match names.get(label as usize) {
                Some(name) => format!("{label} {name}"),
                None => format!("class {label}"),
            });
            let text = match class {
                Some(class) if caption.is_empty() => class,
                Some(class) => format!("{class}: {caption}"),
                None => caption.to_string(),
            };
            let mut cell = Picture::filled(FRAME_PX, height, [255; 3])?;
            cell.rgb[..frame.len()].copy_from_slice(frame);
            write_text(&mut cell, (1, FRAME_PX + MARGIN_PX), &text, columns, LINES, [30; 3]);
            cells.push(cell.rgb);
        }
    }
    if cells.is_empty() {
        return Ok(None);
    }
    let rows: Vec<Vec<&[u8]>> = cells.chunks(COLUMNS).map(|row| row.iter().map(Vec::as_slice).collect()).collect();
    Ok(Some(lay_out(&rows, FRAME_PX, height, Layout { gap: 6, ..Layout::default() })?))
}

/// The sources with only the clips drawn.
fn draw(sources: &[&Source], seed: u64) -> Vec<Source> {
    let all: usize = sources.iter().map(|source| source.clips.len()).sum();
    let mut rng = keyed(seed, 0, 1, Purpose::Sample);
    let mut chosen = BTreeSet::new();
    while chosen.len() < CLIPS.min(all) {
        chosen.insert(rng.random_range(0..all as u64) as usize);
    }
    let mut first = 0;
    let one = |source: &&Source| {
        let own = chosen.range(first..first + source.clips.len());
        let clips = own.map(|clip| source.clips[clip - first].clone()).collect();
        first += source.clips.len();
        Source { clips, ..Source::clone(source) }
    };
    sources.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Layout;

    #[test]
    fn as_many_clips_are_drawn_as_there_are() {
        let source = |clips: usize| Source {
            name: "s".into(),
            root: "r".into(),
            layout: Layout::Whole { extension: "mp4".into() },
            fps: None,
            clips: (0..clips).map(|i| Clip::labelled(i.to_string().into(), 0)).collect(),
        };
        let count = |sources: &[&Source]| draw(sources, 3).iter().map(|source| source.clips.len()).sum::<usize>();
        assert_eq!(count(&[&source(5), &source(0), &source(7)]), 12);
        assert_eq!(count(&[&source(500), &source(300)]), CLIPS);
        assert_ne!(draw(&[&source(500)], 1)[0].clips, draw(&[&source(500)], 2)[0].clips);
    }
}
