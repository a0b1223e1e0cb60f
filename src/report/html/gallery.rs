//! What the model finds: captions looking for clips, clips looking for captions.

use super::{Thumbnail, escape, thousands};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// A clip, its caption, and the captions the model finds most similar.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClipCard {
    /// Frames in order of time.
    pub frames: Vec<Thumbnail>,
    pub caption: String,
    /// Where the right caption ranks, from 1.
    pub rank: usize,
    /// Captions to choose from.
    pub candidates: usize,
    /// Best first.
    pub matches: Vec<Match>,
}

/// A caption that a clip found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Match {
    pub caption: String,
    /// Cosine similarity.
    pub similarity: f64,
    pub right: bool,
}

/// A caption and the clips the model finds most similar.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Search {
    pub caption: String,
    /// Where the right clip ranks, from 1.
    pub rank: usize,
    /// Clips to choose from.
    pub candidates: usize,
    /// Best first.
    pub hits: Vec<SearchHit>,
}

/// A clip that a caption found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SearchHit {
    /// One or more frames, in order of time.
    pub frames: Vec<Thumbnail>,
    /// The clip's own caption.
    pub caption: String,
    /// Cosine similarity.
    pub similarity: f64,
    pub right: bool,
}

pub(super) fn render(searches: &[Search], clips: &[ClipCard], page: &mut String) {
    if !searches.is_empty() {
        page.push_str(
            "<section>\n<h2>Captions looking for clips</h2>\n\
             <p class=\"legend\">The most similar clips, best first, each with its own caption and the cosine similarity.</p>\n",
        );
        for search in searches {
            render_search(search, page);
        }
        page.push_str("</section>\n");
    }
    if !clips.is_empty() {
        page.push_str(
            "<section>\n<h2>Clips looking for captions</h2>\n\
             <p class=\"legend\">Frames as the model sees them, in order of time; below, the most similar captions, best first.</p>\n\
             <div class=\"cards\">\n",
        );
        for clip in clips {
            render_clip(clip, page);
        }
        page.push_str("</div>\n</section>\n");
    }
}

fn render_search(search: &Search, page: &mut String) {
    let _ = writeln!(
        page,
        "<div class=\"search\"><p class=\"query\">{}<q>{}</q></p>\n<div class=\"hits\">",
        rank(search.rank, search.candidates),
        escape(&search.caption)
    );
    for hit in &search.hits {
        let _ = writeln!(
            page,
            "<figure class=\"{}\">{}<figcaption>{} <span class=\"similarity\">{}</span> <bdi>{}</bdi></figcaption></figure>",
            verdict(hit.right),
            strip(&hit.frames, &hit.caption),
            sign(hit.right),
            similarity(hit.similarity),
            escape(&hit.caption)
        );
    }
    page.push_str("</div></div>\n");
}

fn render_clip(clip: &ClipCard, page: &mut String) {
    let _ = writeln!(
        page,
        "<article class=\"card\">{}\n<p class=\"query\">{}<bdi>{}</bdi></p>\n<ol>",
        strip(&clip.frames, &clip.caption),
        rank(clip.rank, clip.candidates),
        escape(&clip.caption)
    );
    for found in &clip.matches {
        let _ = writeln!(
            page,
            "<li class=\"{}\">{} <span class=\"similarity\">{}</span> <bdi>{}</bdi></li>",
            verdict(found.right),
            sign(found.right),
            similarity(found.similarity),
            escape(&found.caption)
        );
    }
    page.push_str("</ol></article>\n");
}

fn strip(frames: &[Thumbnail], caption: &str) -> String {
    let count = frames.len();
    let frames: String = frames
        .iter()
        .enumerate()
        .map(|(index, frame)| frame.render(&format!("frame {} of {count}: {caption}", index + 1)))
        .collect();
    format!("<div class=\"strip\">{frames}</div>")
}

fn rank(rank: usize, candidates: usize) -> String {
    format!(
        "<span class=\"rank {}\" title=\"rank of the right answer\">{} of {}</span>",
        verdict(rank == 1),
        thousands(rank as u64),
        thousands(candidates as u64)
    )
}

fn verdict(right: bool) -> &'static str {
    if right { "right" } else { "wrong" }
}

/// Shape and words as well as colour.
fn sign(right: bool) -> &'static str {
    if right {
        "<span class=\"sign\" role=\"img\" aria-label=\"right\">✓</span>"
    } else {
        "<span class=\"sign\" role=\"img\" aria-label=\"wrong\">✗</span>"
    }
}

fn similarity(cosine: f64) -> String {
    format!("{cosine:.3}").replace('-', "−")
}
