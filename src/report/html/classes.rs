//! How well each class is recognised, and what it is taken for.

use super::{Thumbnail, escape, percent, thousands};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// The classes of one evaluation set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClassSection {
    /// Name of the set; may be empty when there is only one.
    pub set: String,
    /// In any order; shown from the worst recognised. Classes without clips are counted, not shown.
    pub rows: Vec<ClassRow>,
    /// As [`draw_confusion`](crate::report::draw_confusion) draws it.
    pub confusion: Option<Thumbnail>,
}

/// One class.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClassRow {
    /// Number of the class: its place in the confusion matrix.
    pub class: usize,
    /// May be empty.
    pub name: String,
    /// Clips of the class, and how many of them were recognised.
    pub clips: u64,
    pub right: u64,
    /// What the others were most often taken for, and how often.
    pub confused_with: Option<(String, u64)>,
}

/// Classes shown in the open; the others unfold.
const OPEN: usize = 20;

pub(super) fn render(sections: &[ClassSection], page: &mut String) {
    if sections.is_empty() {
        return;
    }
    page.push_str("<section>\n<h2>Classes</h2>\n");
    for section in sections {
        if !section.set.is_empty() {
            let _ = writeln!(page, "<h3>{}</h3>", escape(&section.set));
        }
        if let Some(picture) = &section.confusion {
            page.push_str(
                "<p class=\"legend\">Confusion matrix: a row per class from the top, a column per predicted class. \
                 Colour is the square root of the share of the row: dark for none, green-blue for a quarter, yellow for \
                 all. Rows without clips are grey.</p>\n<div class=\"confusion\">",
            );
            page.push_str(&picture.render("confusion matrix"));
            page.push_str("</div>\n");
        }
        render_rows(&section.rows, page);
    }
    page.push_str("</section>\n");
}

fn render_rows(rows: &[ClassRow], page: &mut String) {
    let mut shown: Vec<&ClassRow> = rows.iter().filter(|row| row.clips > 0).collect();
    // By share, as exact fractions; then by number.
    shown.sort_by(|a, b| {
        let (left, right) = (u128::from(a.right) * u128::from(b.clips), u128::from(b.right) * u128::from(a.clips));
        left.cmp(&right).then(a.class.cmp(&b.class))
    });
    let empty = rows.len() - shown.len();
    let without = match empty {
        0 => String::new(),
        empty => format!(" Classes without clips: {empty}."),
    };
    let _ = writeln!(page, "<p class=\"legend\">From the worst recognised to the best.{without}</p>");
    let (open, folded) = shown.split_at(OPEN.min(shown.len()));
    render_table(open, page);
    if !folded.is_empty() {
        let _ = writeln!(page, "<details>\n<summary>{} more</summary>", folded.len());
        render_table(folded, page);
        page.push_str("</details>\n");
    }
}

fn render_table(rows: &[&ClassRow], page: &mut String) {
    page.push_str(
        "<table class=\"classes\">\n<tr><th>class</th><th></th><th>clips</th><th>right</th><th>accuracy</th>\
         <th>most often taken for</th></tr>\n",
    );
    for row in rows {
        let taken_for = match &row.confused_with {
            Some((name, times)) => format!("{} ({})", escape(name), thousands(*times)),
            None => "–".to_owned(),
        };
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{taken_for}</td></tr>",
            row.class,
            escape(&row.name),
            thousands(row.clips),
            thousands(row.right),
            percent(row.right as f64 / row.clips.max(1) as f64),
        );
    }
    page.push_str("</table>\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{ReportData, draw_confusion};

    fn row(class: usize, name: &str, clips: u64, right: u64) -> ClassRow {
        let confused_with = (right < clips).then(|| ("<other> & \"more\"".to_owned(), clips - right));
        ClassRow { class, name: name.to_owned(), clips, right, confused_with }
    }

    #[test]
    fn the_page_shows_classes_from_the_worst() {
        let rows =
            vec![row(0, "fine", 10, 9), row(1, "worst<b>", 2000, 1), row(2, "absent", 0, 0), row(3, "half", 2, 1)];
        let picture = draw_confusion(&[1, 0, 0, 1], 2).unwrap();
        let confusion = Some(Thumbnail::from_picture(&picture).unwrap());
        let section = ClassSection { set: "set <1>".into(), rows, confusion };
        let data = ReportData { classes: vec![section], ..ReportData::default() };
        let page = data.render();
        let place = |text: &str| page.find(text).unwrap_or_else(|| panic!("{text} is missing"));
        assert!(place("worst&lt;b&gt;") < place(">half<") && place(">half<") < place(">fine<"));
        assert!(page.contains("set &lt;1&gt;") && page.contains("&lt;other&gt; &amp; &quot;more&quot; (1,999)"));
        assert!(page.contains("data:image/png;base64,") && page.contains("Classes without clips: 1."));
        assert!(!page.contains("absent") && !page.contains("<b>") && !page.contains("<details>"));
        assert_eq!(page.matches("<section>").count(), page.matches("</section>").count());
    }

    #[test]
    fn many_classes_unfold_and_old_data_has_none() {
        let rows: Vec<ClassRow> = (0..OPEN + 5).map(|class| row(class, "some", 9, 3)).collect();
        let data = ReportData { classes: vec![ClassSection { rows, ..ClassSection::default() }], ..Default::default() };
        let page = data.render();
        assert!(page.contains("<summary>5 more</summary>"));
        assert_eq!(page.matches("<td>some</td>").count(), OPEN + 5);
        let mut json = serde_json::to_value(&data).unwrap();
        assert_eq!(serde_json::from_value::<ReportData>(json.clone()).unwrap(), data);
        json.as_object_mut().unwrap().remove("classes");
        assert_eq!(serde_json::from_value::<ReportData>(json).unwrap(), ReportData::default());
        assert!(!ReportData::default().render().contains("Classes"));
    }
}
