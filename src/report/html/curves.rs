//! The curves of a run, from its records.

use super::super::{Record, StepRecord};
use super::chart::{Chart, Scale, Series};
use super::{Scored, thousands};
use std::collections::BTreeMap;
use std::fmt::Write;

pub(super) fn render(records: &[Record], scored: Scored, page: &mut String) {
    let steps: Vec<&StepRecord> = records
        .iter()
        .filter_map(|record| match record {
            Record::Step(step) => Some(step),
            Record::Eval(_) => None,
        })
        .collect();
    let Some(last) = steps.last() else { return };
    let curve = |value: fn(&StepRecord) -> f64| -> Vec<(f64, f64)> {
        steps.iter().map(|s| (s.step as f64, value(s))).collect()
    };
    let noisy = |title, value, scale| Chart { title, series: vec![Series::noisy("", curve(value))], scale };
    let smooth = |title, value, scale| Chart { title, series: vec![Series::exact("", curve(value))], scale };
    let mut charts = vec![
        noisy("loss", |s| s.loss, Scale::Fit),
        noisy(scored.in_training(), |s| s.accuracy, share(scored)),
        smooth("learning rate", |s| s.lr, Scale::FromZero),
        noisy("gradient norm before clipping", |s| s.grad_norm, Scale::Log),
        noisy("clips per second", |s| s.clips_per_s, Scale::FromZero),
        noisy("time spent waiting for data", |s| s.data_wait, Scale::Share),
    ];
    if steps.iter().all(|s| s.accuracy.is_nan()) {
        charts.remove(1); // not every task has matches to count
    }
    if steps.iter().any(|s| s.logit_scale != last.logit_scale && s.logit_scale.is_finite()) {
        charts.push(smooth("1 / temperature", |s| s.logit_scale.exp(), Scale::Fit));
    }
    // An evaluation between the first and the last is a curve; those two alone are in the table of scores.
    charts.extend(eval_charts(records, scored));
    page.push_str("<section>\n<h2>Training</h2>\n");
    let _ = writeln!(
        page,
        "<p class=\"legend\">{} steps, {:.2} epochs; against the step. Faint: as logged; strong: smoothed.</p>\n<div class=\"charts\">",
        thousands(last.step),
        last.epoch
    );
    for chart in charts {
        chart.render(page);
    }
    page.push_str("</div>\n</section>\n");
}

/// The scale of shares: a prediction that is worse than the mean explains less than nothing.
fn share(scored: Scored) -> Scale {
    match scored {
        Scored::Retrieval | Scored::Recognition => Scale::Share,
        Scored::Reconstruction => Scale::Fit,
    }
}

/// One chart per evaluation set that was scored more than twice.
fn eval_charts(records: &[Record], scored: Scored) -> Vec<Chart<'_>> {
    const SHOWN: [(&str, &str); 8] = [
        ("map_avg", "mAP"),
        ("ndcg_avg", "nDCG"),
        ("t2v_r1", "caption → clip R@1"),
        ("v2t_r1", "clip → caption R@1"),
        ("top1", "top-1"),
        ("top5", "top-5"),
        ("mean_class", "class mean"),
        ("explained", "explained"),
    ];
    let mut sets = BTreeMap::<&str, Vec<_>>::new();
    for record in records {
        if let Record::Eval(eval) = record {
            sets.entry(&eval.set).or_default().push(eval);
        }
    }
    sets.into_iter()
        .filter(|(_, evals)| evals.len() > 2)
        .map(|(set, evals)| Chart {
            title: if set.is_empty() { "evaluation" } else { set },
            series: SHOWN
                .iter()
                .filter_map(|&(key, name)| {
                    let points: Vec<(f64, f64)> =
                        evals.iter().filter_map(|e| Some((e.step as f64, *e.scores.get(key)?))).collect();
                    (!points.is_empty()).then(|| Series::exact(name, points))
                })
                .collect(),
            scale: share(scored),
        })
        .filter(|chart| !chart.series.is_empty())
        .collect()
}
