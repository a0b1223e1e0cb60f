//! `report.html`: one page about a run that opens anywhere, also without a network and in ten years.
//!
//! Everything is inside the file: styles, curves as SVG, pictures as data URIs; no script. A content security policy
//! forbids the rest, so that no caption, however spelled, can make the page fetch anything.

mod axis;
mod chart;
mod classes;
mod curves;
mod data;
mod gallery;
mod scores;
mod thumbnail;

pub use classes::{ClassRow, ClassSection};
pub use data::{DataPage, DataSection, Histogram};
pub use gallery::{ClipCard, Match, Search, SearchHit};
pub use scores::{EvalTable, ScoreRow, Scored};
pub use thumbnail::Thumbnail;

use super::{Record, ReportError, Results, write_atomic};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::path::Path;

/// All that the page shows. Plain data: it can be kept as JSON and drawn again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReportData {
    /// Name of the run.
    pub title: String,
    /// Under the title: what was trained on what, in a sentence.
    pub subtitle: String,
    /// Recipe, device, versions, durations.
    pub facts: Vec<Fact>,
    /// What the run's scores measure.
    #[serde(default)]
    pub scored: Scored,
    /// Scores of each evaluation set. The first set's first four rows are also shown large.
    pub tables: Vec<EvalTable>,
    /// Classes of each evaluation set that has any.
    #[serde(default)]
    pub classes: Vec<ClassSection>,
    /// As read from `metrics.jsonl`.
    pub records: Vec<Record>,
    /// Captions looking for clips.
    pub searches: Vec<Search>,
    /// Clips looking for captions.
    pub clips: Vec<ClipCard>,
    /// Samples that could not be read.
    pub bad_samples: BadSamples,
}

/// A line of the table of facts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fact {
    pub name: String,
    pub value: String,
}

/// What was skipped, and why.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BadSamples {
    /// Samples asked for.
    pub samples: u64,
    /// Samples skipped.
    pub skipped: u64,
    /// Some of the files at fault, with the reason.
    pub examples: Vec<Fact>,
}

impl Fact {
    pub fn new(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), value: value.into() }
    }
}

impl ReportData {
    /// A report rebuilt from a run's `results.json` and `metrics.jsonl`: scores and curves, without pictures.
    pub fn from_run(title: &str, results: &Results, records: Vec<Record>) -> Self {
        let row = |name: &str, score: fn(&super::Scores) -> f64| ScoreRow {
            name: name.to_owned(),
            chance: Some(score(&results.chance)),
            before: Some(score(&results.before)),
            after: Some(score(&results.after)),
        };
        Self {
            title: title.to_owned(),
            facts: vec![Fact::new("device", &results.device), Fact::new("duration", seconds(results.seconds))],
            tables: vec![EvalTable {
                set: String::new(),
                rows: vec![
                    row("caption → clip, first hit right", |s| s.t2v_r1),
                    row("clip → caption, first hit right", |s| s.v2t_r1),
                    row("mAP, both directions", |s| s.map),
                    row("nDCG, both directions", |s| s.ndcg),
                ],
            }],
            records,
            ..Self::default()
        }
    }

    /// The page.
    pub fn render(&self) -> String {
        let mut body = String::new();
        scores::render(&self.tables, self.scored, &mut body);
        classes::render(&self.classes, &mut body);
        gallery::render(&self.searches, &self.clips, &mut body);
        curves::render(&self.records, self.scored, &mut body);
        self.bad_samples.render(&mut body);
        render_facts(&self.facts, &mut body);
        page(&self.title, &self.subtitle, &body)
    }

    /// Writes the page whole or not at all.
    pub fn write(&self, path: &Path) -> Result<(), ReportError> {
        write_atomic(path, self.render().as_bytes())
    }
}

/// A whole page around `body`.
fn page(title: &str, subtitle: &str, body: &str) -> String {
    let mut page = String::new();
    let title = escape(title);
    // Writing to a String cannot fail, so results of `write!` are dropped in this folder.
    let _ = write!(
        page,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; \
         style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n<style>\n{}</style>\n\
         </head>\n<body>\n<main>\n<header>\n<h1>{title}</h1>\n",
        include_str!("style.css")
    );
    if !subtitle.is_empty() {
        let _ = writeln!(page, "<p class=\"subtitle\">{}</p>", escape(subtitle));
    }
    page.push_str("</header>\n");
    page.push_str(body);
    page.push_str("</main>\n</body>\n</html>\n");
    page
}

impl BadSamples {
    fn render(&self, page: &mut String) {
        if self.samples == 0 && self.skipped == 0 {
            return;
        }
        page.push_str("<section>\n<h2>Samples</h2>\n");
        let share = self.skipped as f64 / self.samples.max(1) as f64;
        let _ = match self.skipped {
            0 => writeln!(page, "<p>All {} samples could be read.</p>", thousands(self.samples)),
            skipped => writeln!(
                page,
                "<p><strong class=\"wrong\">{} of {} samples could not be read</strong> ({}) and were skipped.</p>",
                thousands(skipped),
                thousands(self.samples),
                percent(share)
            ),
        };
        render_rows(&self.examples, page);
        page.push_str("</section>\n");
    }
}

fn render_facts(facts: &[Fact], page: &mut String) {
    if facts.is_empty() {
        return;
    }
    page.push_str("<section>\n<h2>Run</h2>\n");
    render_rows(facts, page);
    page.push_str("</section>\n");
}

fn render_rows(facts: &[Fact], page: &mut String) {
    if facts.is_empty() {
        return;
    }
    page.push_str("<table class=\"facts\">\n");
    for fact in facts {
        let (name, value) = (escape(&fact.name), escape(&fact.value));
        let _ = writeln!(page, "<tr><th>{name}</th><td>{value}</td></tr>");
    }
    page.push_str("</table>\n");
}

/// Makes any text safe between tags and inside quotes.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(c),
            c if c.is_control() => out.push('\u{fffd}'), // HTML has no place for them
            c => out.push(c),
        }
    }
    out
}

/// `41.2%`; small shares keep two digits, tiny ones do not look like none.
fn percent(share: f64) -> String {
    match share * 100.0 {
        p if !p.is_finite() => "–".to_owned(),
        p if p > 0.0 && p < 0.01 => "under 0.01%".to_owned(),
        p if p != 0.0 && p.abs() < 0.1 => format!("{p:.2}%"),
        p => format!("{p:.1}%"),
    }
}

/// `48,000`.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn seconds(s: f64) -> String {
    std::time::Duration::try_from_secs_f64(s).map_or_else(|_| "–".to_owned(), super::progress::format_duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_leaves_its_place() {
        assert_eq!(
            escape("<img src=x onerror='a(\"&\")'>\u{1}"),
            "&lt;img src=x onerror=&#39;a(&quot;&amp;&quot;)&#39;&gt;\u{fffd}"
        );
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(percent(0.4118), "41.2%");
        assert_eq!(percent(0.00026), "0.03%");
        assert_eq!(percent(2e-5), "under 0.01%");
        assert_eq!(percent(f64::NAN), "–");
    }
}
