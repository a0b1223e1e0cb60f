//! Scores before and after, beside chance.

use super::{escape, percent};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// What the scores of a run measure, and what its steps count as success beside the loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scored {
    /// Captions and clips that find each other.
    #[default]
    Retrieval,
    /// Clips whose class is recognised.
    Recognition,
    /// Hidden tokens that are predicted: the share of their variance that is explained (of raw pixels, of their squares).
    Reconstruction,
}

impl Scored {
    fn heading(self) -> &'static str {
        match self {
            Self::Retrieval => "Retrieval",
            Self::Recognition => "Recognition",
            Self::Reconstruction => "Reconstruction",
        }
    }

    fn chance(self) -> &'static str {
        match self {
            Self::Retrieval => "the mean score of a random ranking",
            Self::Recognition => "the most frequent class first, for every clip",
            Self::Reconstruction => "every pixel predicted as its patch's mean",
        }
    }

    /// Title of the curve of what each step counts.
    pub(super) fn in_training(self) -> &'static str {
        match self {
            Self::Retrieval => "right matches within the batch",
            Self::Recognition => "right classes within the batch",
            Self::Reconstruction => "explained share of the variance",
        }
    }

    /// The same in the progress line.
    pub(in crate::report) fn short(self) -> &'static str {
        match self {
            Self::Retrieval | Self::Recognition => "acc",
            Self::Reconstruction => "explained",
        }
    }
}

/// Scores of one evaluation set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EvalTable {
    /// Name of the set; may be empty when there is only one.
    pub set: String,
    pub rows: Vec<ScoreRow>,
}

/// One score, shares in `[0, 1]`; `None` = not measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ScoreRow {
    pub name: String,
    pub chance: Option<f64>,
    pub before: Option<f64>,
    pub after: Option<f64>,
}

/// Rows shown as large numbers.
const TILES: usize = 4;

pub(super) fn render(tables: &[EvalTable], scored: Scored, page: &mut String) {
    let Some(first) = tables.first() else { return };
    page.push_str("<div class=\"tiles\">\n");
    for row in first.rows.iter().take(TILES) {
        tile(row, page);
    }
    let _ = writeln!(
        page,
        "</div>\n<section>\n<h2>{}</h2>\n<p class=\"legend\"><i class=\"key after\"></i>after training \
         <i class=\"key before\"></i>before <i class=\"key chance\"></i>chance: {}</p>",
        scored.heading(),
        scored.chance()
    );
    for table in tables {
        if !table.set.is_empty() {
            let _ = writeln!(page, "<h3>{}</h3>", escape(&table.set));
        }
        page.push_str(
            "<table class=\"scores\">\n<tr><th></th><th></th><th>chance</th><th>before</th><th>after</th></tr>\n",
        );
        for row in &table.rows {
            let _ = writeln!(
                page,
                "<tr><th>{}</th><td class=\"wide\">{}</td><td>{}</td><td>{}</td><td><strong>{}</strong></td></tr>",
                escape(&row.name),
                bars(row),
                number(row.chance),
                number(row.before),
                number(row.after)
            );
        }
        page.push_str("</table>\n");
    }
    page.push_str("</section>\n");
}

fn tile(row: &ScoreRow, page: &mut String) {
    let mut notes = Vec::new();
    if let Some(before) = row.before {
        notes.push(format!("before {}", percent(before)));
    }
    if let Some(chance) = row.chance {
        notes.push(format!("chance {}", percent(chance)));
    }
    let _ = writeln!(
        page,
        "<div class=\"tile\"><div class=\"name\">{}</div><div class=\"value\">{}</div><div class=\"note\">{}</div></div>",
        escape(&row.name),
        number(row.after.or(row.before)),
        notes.join(" · ")
    );
}

/// Two bars on one scale from 0 to 1, and a mark at chance.
fn bars(row: &ScoreRow) -> String {
    let width = |share: f64| (share * 100.0).clamp(0.0, 100.0);
    let mut out = String::from("<div class=\"bars\">");
    for (class, share) in [("after", row.after), ("before", row.before)] {
        if let Some(share) = share {
            let _ = write!(out, "<div class=\"bar {class}\" style=\"width:{:.2}%\"></div>", width(share));
        }
    }
    if let Some(chance) = row.chance {
        let _ = write!(out, "<div class=\"mark\" style=\"left:{:.2}%\"></div>", width(chance));
    }
    out.push_str("</div>");
    out
}

fn number(share: Option<f64>) -> String {
    share.map_or_else(|| "–".to_owned(), percent)
}
