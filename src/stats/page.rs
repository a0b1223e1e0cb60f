//! The statistics as a page with pictures.

use super::{DataStats, SourceStats, Spread};
use crate::report::{DataPage, DataSection, Histogram, Picture, ReportError, Thumbnail};

/// A page of all sets, with the contact sheet if there is one.
///
/// # Errors
/// A sheet that cannot be encoded.
pub fn page(stats: &DataStats, sheet: Option<&Picture>) -> Result<DataPage, ReportError> {
    let mut sections: Vec<DataSection> = stats.sources.iter().map(section).collect();
    if let Some(feed) = &stats.feed {
        sections.push(DataSection { title: "This machine".into(), facts: feed.facts(), histograms: Vec::new() });
    }
    let clips: u64 = stats.sources.iter().map(|source| source.clips).sum();
    Ok(DataPage {
        title: format!("Data of {}", stats.recipe),
        subtitle: format!("{clips} clips in {} sets", stats.sources.len()),
        sections,
        sheet: sheet.map(|picture| Thumbnail::from_rgb(&picture.rgb, picture.width, picture.height)).transpose()?,
    })
}

fn section(source: &SourceStats) -> DataSection {
    let set = if source.set == "train" { "Training" } else { "Evaluation" };
    let words = source.captions.as_ref().and_then(|captions| captions.words.as_ref());
    let classes = source.labels.as_ref().and_then(|labels| labels.of_a_class.as_ref());
    let spreads = [
        ("length of a clip, seconds", source.durations_s.as_ref()),
        ("words of a caption", words),
        ("clips of a class", classes),
        ("length of a file, seconds", source.files.durations_s.as_ref()),
    ];
    let mut histograms: Vec<Histogram> =
        spreads.into_iter().filter_map(|(title, spread)| Some(histogram(title, spread?))).collect();
    // Of whole videos both are the same.
    histograms.dedup_by(|a, b| a.bins == b.bins);
    let by_class = source.labels.as_ref().filter(|labels| labels.clips.len() > 1).map(|labels| {
        let bin = |(label, count): (&u32, &u64)| (f64::from(*label) - 0.5, f64::from(*label) + 0.5, *count);
        Histogram { title: "clips by class".into(), bins: labels.clips.iter().map(bin).collect() }
    });
    histograms.extend(by_class);
    DataSection { title: format!("{set} set {}", source.name), facts: source.facts(), histograms }
}

fn histogram(title: &str, spread: &Spread) -> Histogram {
    let last = spread.bins.last().map_or(f64::INFINITY, |bin| bin.to);
    let more = if spread.max > last { format!(" (the last bar: all up to {:.1})", spread.max) } else { String::new() };
    Histogram {
        title: format!("{title}{more}"),
        bins: spread.bins.iter().map(|bin| (bin.from, bin.to, bin.count)).collect(),
    }
}
