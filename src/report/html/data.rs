//! A page about data: facts and distributions, with the same look as the report of a run.

use super::axis::{Axis, short};
use super::{Fact, Thumbnail, escape, page, render_rows};
use crate::report::{ReportError, write_atomic};
use std::fmt::Write;
use std::path::Path;

/// What the page shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DataPage {
    pub title: String,
    pub subtitle: String,
    pub sections: Vec<DataSection>,
    /// Clips with what is said of them, at the end.
    pub sheet: Option<Thumbnail>,
}

/// A part of the page.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DataSection {
    pub title: String,
    pub facts: Vec<Fact>,
    pub histograms: Vec<Histogram>,
}

/// How numbers are distributed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    pub title: String,
    /// From, to, and how many lie between; side by side, rising.
    pub bins: Vec<(f64, f64, u64)>,
}

const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 170.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 24.0;

impl DataPage {
    pub fn render(&self) -> String {
        let mut body = String::new();
        for section in &self.sections {
            let _ = writeln!(body, "<section>\n<h2>{}</h2>", escape(&section.title));
            render_rows(&section.facts, &mut body);
            if !section.histograms.is_empty() {
                body.push_str("<div class=\"charts\">\n");
                section.histograms.iter().for_each(|histogram| histogram.render(&mut body));
                body.push_str("</div>\n");
            }
            body.push_str("</section>\n");
        }
        if let Some(sheet) = &self.sheet {
            let picture = sheet.render("frames of clips drawn at random, with their captions or labels");
            let _ = writeln!(body, "<section>\n<h2>Clips</h2>\n<div class=\"confusion\">{picture}</div>\n</section>");
        }
        page(&self.title, &self.subtitle, &body)
    }

    /// Writes the page whole or not at all.
    ///
    /// # Errors
    /// What the disk reports.
    pub fn write(&self, path: &Path) -> Result<(), ReportError> {
        write_atomic(path, self.render().as_bytes())
    }
}

impl Histogram {
    fn render(&self, page: &mut String) {
        let (Some(first), Some(last)) = (self.bins.first(), self.bins.last()) else { return };
        let most = self.bins.iter().map(|bin| bin.2).max().unwrap_or(0);
        let (x, y) = (Axis::linear(first.0, last.1, 6), Axis::linear(0.0, (most as f64).max(1.0), 4));
        let across = |value: f64| LEFT + x.share(value) * (WIDTH - LEFT - RIGHT);
        let up = |value: f64| HEIGHT - BOTTOM - y.share(value) * (HEIGHT - TOP - BOTTOM);
        let title = escape(&self.title);
        let _ = writeln!(
            page,
            "<figure class=\"chart\"><figcaption>{title}</figcaption>\n\
             <svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">"
        );
        for &tick in y.ticks.iter().filter(|tick| tick.fract() == 0.0) {
            let (line, text) = (up(tick), up(tick) + 3.5);
            let _ = writeln!(
                page,
                "<path class=\"grid\" d=\"M{LEFT} {line:.1}H{:.1}\"/><text class=\"y\" x=\"{:.1}\" y=\"{text:.1}\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                short(tick, y.step)
            );
        }
        for &(from, to, count) in self.bins.iter().filter(|bin| bin.2 > 0) {
            let (left, right, top) = (across(from), across(to), up(count as f64));
            // Half a pixel keeps the bars apart, and one that counts anything can be seen.
            let (width, height) = ((right - left - 0.5).max(0.8), (HEIGHT - BOTTOM - top).max(1.0));
            let _ = writeln!(
                page,
                "<rect class=\"dot s0\" x=\"{left:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{height:.1}\">\
                 <title>{} to {}: {count}</title></rect>",
                HEIGHT - BOTTOM - height,
                short(from, (to - from) / 10.0),
                short(to, (to - from) / 10.0)
            );
        }
        let bottom = HEIGHT - BOTTOM;
        for &tick in &x.ticks {
            let at = across(tick);
            let label = short(tick, x.step);
            let _ = writeln!(
                page,
                "<path class=\"axis\" d=\"M{at:.1} {bottom}v4\"/><text class=\"x\" x=\"{at:.1}\" y=\"{:.1}\">{label}</text>",
                bottom + 16.0
            );
        }
        let _ = writeln!(page, "<path class=\"axis\" d=\"M{LEFT} {bottom}H{:.1}\"/>\n</svg>\n</figure>", WIDTH - RIGHT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_a_bar_for_every_bin_that_counts() {
        let histogram =
            Histogram { title: "words <a>".into(), bins: vec![(0.0, 1.0, 5), (1.0, 2.0, 0), (2.0, 3.0, 1)] };
        let section =
            DataSection { title: "train".into(), facts: vec![Fact::new("clips", "6")], histograms: vec![histogram] };
        let data = DataPage { title: "t".into(), sections: vec![section], ..DataPage::default() };
        let text = data.render();
        assert_eq!(text.matches("<rect").count(), 2);
        assert!(text.contains("words &lt;a&gt;") && text.contains("<th>clips</th><td>6</td>") && !text.contains("NaN"));
    }
}
