//! The statistics in words.

use super::{BadClips, CaptionStats, DataStats, Feed, FileStats, LabelStats, Rate, SourceStats, Spread};
use crate::report::Fact;
use std::collections::BTreeMap;
use std::fmt;

/// Sizes, rates and codecs that are named; the others are counted.
const NAMED: usize = 6;

impl fmt::Display for DataStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for source in &self.sources {
            writeln!(f, "{} set {}", if source.set == "train" { "training" } else { "evaluation" }, source.name)?;
            rows(f, &source.facts())?;
        }
        match &self.feed {
            Some(feed) => {
                writeln!(f, "this machine")?;
                rows(f, &feed.facts())
            }
            None => Ok(()),
        }
    }
}

fn rows(f: &mut fmt::Formatter<'_>, facts: &[Fact]) -> fmt::Result {
    for Fact { name, value } in facts {
        let mut lines = value.lines();
        writeln!(f, "  {name:<12} {}", lines.next().unwrap_or_default())?;
        for line in lines {
            writeln!(f, "  {:<12} {line}", "")?;
        }
    }
    Ok(())
}

impl SourceStats {
    /// What is known of the set, a line or more each.
    pub fn facts(&self) -> Vec<Fact> {
        let hours = match self.hours {
            Some(hours) => format!(
                ", {} h{}",
                figure(hours),
                if self.hours_estimated { " (estimated from the files opened)" } else { "" }
            ),
            None => String::new(),
        };
        let mut facts = vec![Fact::new("clips", format!("{} in {} videos{hours}", self.clips, self.videos))];
        facts.extend(self.durations_s.as_ref().map(|spread| Fact::new("length", spread.words("s"))));
        facts.extend(self.captions.as_ref().map(|captions| Fact::new("captions", captions.words())));
        facts.extend(self.labels.as_ref().map(|labels| Fact::new("labels", labels.words())));
        facts.extend(self.files.facts(self.clips));
        facts
    }
}

impl Spread {
    fn words(&self, unit: &str) -> String {
        let [min, median, p95, max] = [self.min, self.median, self.p95, self.max].map(figure);
        format!("{median} {unit} (median), {min} to {max}, 95% up to {p95}")
    }
}

impl CaptionStats {
    fn words(&self) -> String {
        let words = self.words.as_ref().map(|words| format!("; {}", words.words("words"))).unwrap_or_default();
        format!(
            "{}, {} distinct, {} empty, {} longer than {} tokens{words}",
            self.count, self.distinct, self.empty, self.too_long, self.context
        )
    }
}

impl LabelStats {
    fn words(&self) -> String {
        let mut text = format!("{} classes", self.clips.len());
        if let Some(spread) = &self.of_a_class {
            text += &format!("; {}", spread.words("clips a class"));
        }
        if self.without > 0 {
            text += &format!("; {} classes of the recipe without a clip", self.without);
        }
        if self.beyond > 0 {
            text += &format!("; {} clips of classes that the recipe does not have", self.beyond);
        }
        text
    }
}

impl FileStats {
    fn facts(&self, clips: u64) -> Vec<Fact> {
        let found = &self.found;
        let opened = match self.opened {
            all if all == self.named => "all opened".to_owned(),
            some => format!("{some} drawn to be opened"),
        };
        let mut text =
            format!("{} named, {opened}: {} can be read, {:.1} MB", self.named, found.files, found.bytes as f64 / 1e6);
        if self.opened < self.named && self.opened > 0 {
            // As many files as named, if those drawn are like the others.
            let all = found.bytes as f64 * self.named as f64 / self.opened as f64;
            text += &format!("; about {:.1} GB in all", all / 1e9);
        }
        let mut facts = vec![Fact::new("files", text)];
        facts.push(Fact::new("missing", bad(self.num_missing(), clips, "clips", &self.missing)));
        facts
            .push(Fact::new("unreadable", bad(self.num_unreadable(), self.checked, "clips checked", &self.unreadable)));
        for (name, counts) in [("sizes, px", &found.sizes), ("frames/s", &found.fps), ("codecs", &found.codecs)] {
            if !counts.is_empty() {
                facts.push(Fact::new(name, most(counts)));
            }
        }
        facts
    }
}

/// `3 of 512 clips`, and a line a kind.
fn bad(count: u64, of: u64, what: &str, kinds: &BTreeMap<&'static str, BadClips>) -> String {
    let mut text = format!("{count} of {of} {what}");
    let mut kinds: Vec<_> = kinds.iter().collect();
    kinds.sort_by_key(|(_, bad)| std::cmp::Reverse(bad.clips));
    for (kind, bad) in kinds {
        text += &format!("\n{} {kind}, e.g. {}", bad.clips, bad.example);
    }
    text
}

/// The most frequent first.
fn most(counts: &BTreeMap<String, u64>) -> String {
    let mut counts: Vec<_> = counts.iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let named = counts.iter().take(NAMED).map(|(name, count)| format!("{name} ({count})"));
    let mut text = named.collect::<Vec<_>>().join(", ");
    if counts.len() > NAMED {
        text += &format!(", {} others", counts.len() - NAMED);
    }
    text
}

impl Feed {
    /// What was measured, and what the recipe needs.
    pub fn facts(&self) -> Vec<Fact> {
        let mut facts = vec![Fact::new("one thread", self.one_thread.words())];
        facts.push(Fact::new("all threads", self.all_threads.words()));
        let text = match &self.need {
            None => {
                "how long a step takes is not known: give it with --step-ms (`avion bench step` measures it); a run \
                     of this recipe records it"
                    .to_owned()
            }
            Some(need) => {
                let (has, threads) = (self.all_threads.clips_per_s, self.all_threads.threads);
                let verdict = if need.enough {
                    format!("this machine has it: {:.1} times as many", has / need.clips_per_s)
                } else {
                    format!("this machine has {:.0}%: training would wait for data", 100.0 * has / need.clips_per_s)
                };
                format!(
                    "{} clips a step of {:.1} ms ({}): {:.0} clips/s, {:.1} decode threads like these {threads}; {verdict}",
                    need.clips, need.step.ms, need.step.from, need.clips_per_s, need.threads
                )
            }
        };
        facts.push(Fact::new("needed", text));
        facts
    }
}

impl Rate {
    fn words(&self) -> String {
        let each = match self.threads {
            1 => String::new(),
            threads => format!(" with {threads}, {:.1} each", self.clips_per_s / threads as f64),
        };
        let bad = if self.bad > 0 { format!("; bad and replaced: {}", self.bad) } else { String::new() };
        format!(
            "{:.1} clips/s{each} ({} clips in {:.1} s; {:.0}% opening, {:.0}% decoding, {:.0}% augmenting{bad})",
            self.clips_per_s,
            self.clips,
            self.seconds,
            100.0 * self.opening,
            100.0 * self.decoding,
            100.0 * self.changing,
        )
    }
}

/// Three digits or so.
fn figure(value: f64) -> String {
    match value.abs() {
        _ if value.fract() == 0.0 => format!("{value:.0}"),
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        small if small >= 0.095 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
