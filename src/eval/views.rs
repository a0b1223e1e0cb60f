//! Several views of a clip (5 moments x 3 crops, say), classified in any order, become one answer.
//!
//! Logits are kept only until the last view of their clip has come, so memory follows the number of clips under way.
//! Views are averaged in the order of their numbers: results do not depend on the order of arrival.

use super::metrics::{AveragedViews, MetricError, average_views, check_finite};
use std::collections::BTreeMap;

/// Collects views.
#[derive(Debug)]
pub struct Views {
    views: usize,
    classes: usize,
    /// Clips of which some view has come but not all.
    pending: BTreeMap<usize, Vec<View>>,
    /// `[clips]`: nothing more may come for it.
    settled: Vec<bool>,
    counts: ViewCounts,
}

#[derive(Clone, Debug, PartialEq)]
enum View {
    Missing,
    Unreadable,
    Read(Vec<f32>),
}

/// One clip's views, averaged.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipMean {
    pub clip: usize,
    pub mean: AveragedViews,
    /// Views that went into the mean.
    pub read: usize,
}

/// What became of the clips.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ViewCounts {
    /// Clips averaged over all their views.
    pub complete: usize,
    /// Clips averaged over what could be read.
    pub partial: usize,
    /// Clips of which nothing could be read; they have no mean.
    pub unreadable: usize,
}

/// Why a view was refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ViewError {
    #[error("clip {clip}, view {view} is not one of {clips} clips x {views} views, counted from 0")]
    Unknown { clip: usize, view: usize, clips: usize, views: usize },
    #[error("clip {clip}, view {view} has come already; each view must be classified once")]
    Twice { clip: usize, view: usize },
    #[error("clip {clip}, view {view} has {found} logits, expected one for each of {classes} classes")]
    WrongLogits { clip: usize, view: usize, found: usize, classes: usize },
    #[error(transparent)]
    Metric(#[from] MetricError),
}

impl Views {
    /// For `clips` clips with `views` views each.
    pub fn new(clips: usize, views: usize, classes: usize) -> Self {
        let settled = vec![false; clips];
        Self { views, classes, pending: BTreeMap::new(), settled, counts: ViewCounts::default() }
    }

    /// Takes the logits of one view, `[classes]`. Returns the clip's mean when this was the last view awaited.
    ///
    /// # Errors
    /// A view that does not exist or has come already, another number of logits, a logit that is not finite.
    pub fn add(&mut self, clip: usize, view: usize, logits: &[f32]) -> Result<Option<ClipMean>, ViewError> {
        if logits.len() != self.classes {
            return Err(ViewError::WrongLogits { clip, view, found: logits.len(), classes: self.classes });
        }
        check_finite(clip, view, logits)?;
        self.put(clip, view, View::Read(logits.to_vec()))
    }

    /// Notes that a view cannot be read. Returns the mean of the others when this was the last view awaited, and
    /// nothing when there are no others.
    ///
    /// # Errors
    /// A view that does not exist or has come already.
    pub fn unreadable(&mut self, clip: usize, view: usize) -> Result<Option<ClipMean>, ViewError> {
        self.put(clip, view, View::Unreadable)
    }

    /// Ends the collection: means of the clips, ascending, of which some views never came, and what became of all.
    /// Views that never came count as unreadable.
    ///
    /// # Errors
    /// None that [`add`](Self::add) would not have reported.
    pub fn finish(mut self) -> Result<(Vec<ClipMean>, ViewCounts), ViewError> {
        let mut means = Vec::new();
        for (clip, views) in std::mem::take(&mut self.pending) {
            self.settled[clip] = true;
            means.extend(self.average(clip, &views)?);
        }
        self.counts.unreadable += self.settled.iter().filter(|&&settled| !settled).count();
        Ok((means, self.counts))
    }

    fn put(&mut self, clip: usize, view: usize, content: View) -> Result<Option<ClipMean>, ViewError> {
        let clips = self.settled.len();
        if clip >= clips || view >= self.views {
            return Err(ViewError::Unknown { clip, view, clips, views: self.views });
        }
        if self.settled[clip] {
            return Err(ViewError::Twice { clip, view });
        }
        let views = self.pending.entry(clip).or_insert_with(|| vec![View::Missing; self.views]);
        if views[view] != View::Missing {
            return Err(ViewError::Twice { clip, view });
        }
        views[view] = content;
        if views.contains(&View::Missing) {
            return Ok(None);
        }
        self.settled[clip] = true;
        match self.pending.remove(&clip) {
            Some(views) => self.average(clip, &views),
            None => Ok(None),
        }
    }

    fn average(&mut self, clip: usize, views: &[View]) -> Result<Option<ClipMean>, ViewError> {
        let rows = || {
            views.iter().enumerate().filter_map(|(view, content)| match content {
                View::Read(logits) => Some((view, &logits[..])),
                View::Missing | View::Unreadable => None,
            })
        };
        let read = rows().count();
        match read {
            0 => self.counts.unreadable += 1,
            read if read < views.len() => self.counts.partial += 1,
            _ => self.counts.complete += 1,
        }
        if read == 0 {
            return Ok(None);
        }
        Ok(Some(ClipMean { clip, mean: average_views(clip, rows())?, read }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIP: [[f32; 3]; 3] = [[3.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.1, 2.3, 0.7]];

    #[test]
    fn any_order_gives_the_same_bits() {
        let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
        let means = orders.map(|order| {
            let mut views = Views::new(2, 3, 3);
            assert_eq!(views.add(0, 0, &[9.0; 3]).unwrap(), None); // another clip in between
            let mut means = order.map(|view| views.add(1, view, &CLIP[view]).unwrap()).to_vec();
            assert_eq!(means[..2], [None, None]);
            means.pop().unwrap().unwrap()
        });
        let expected = average_views(1, CLIP.iter().map(|row| &row[..]).enumerate()).unwrap();
        for mean in means {
            assert_eq!(mean, ClipMean { clip: 1, mean: expected.clone(), read: 3 });
        }
    }

    #[test]
    fn what_cannot_be_read_is_left_out_and_counted() {
        let mut views = Views::new(5, 2, 3);
        assert_eq!(views.unreadable(0, 1).unwrap(), None);
        let mean = views.add(0, 0, &CLIP[1]).unwrap().unwrap();
        assert_eq!((mean.read, &mean.mean.logits[..]), (1, &[0.0, 2.0, 0.0][..]));
        assert_eq!(views.unreadable(1, 0).unwrap(), None);
        assert_eq!(views.unreadable(1, 1).unwrap(), None); // nothing to average
        views.add(2, 0, &CLIP[0]).unwrap();
        assert!(views.add(2, 1, &CLIP[0]).unwrap().is_some());
        views.add(3, 1, &CLIP[2]).unwrap(); // its other view never comes; of clip 4 nothing does
        let (rest, counts) = views.finish().unwrap();
        assert_eq!(rest.iter().map(|mean| (mean.clip, mean.read)).collect::<Vec<_>>(), [(3, 1)]);
        assert_eq!(counts, ViewCounts { complete: 1, partial: 2, unreadable: 2 });
    }

    #[test]
    fn wrong_views_are_refused() {
        let mut views = Views::new(2, 1, 3);
        let text = |result: Result<Option<ClipMean>, ViewError>| result.unwrap_err().to_string();
        assert!(text(views.add(2, 0, &CLIP[0])).contains("clip 2, view 0 is not one of 2 clips x 1 views"));
        assert!(text(views.add(0, 0, &[0.0; 2])).contains("2 logits, expected one for each of 3 classes"));
        assert!(text(views.add(0, 0, &[0.0, f32::INFINITY, 0.0])).contains("clip 0, view 0"));
        views.add(0, 0, &CLIP[0]).unwrap();
        assert_eq!(views.add(0, 0, &CLIP[0]), Err(ViewError::Twice { clip: 0, view: 0 }));
        let mut views = Views::new(1, 2, 3);
        views.unreadable(0, 1).unwrap();
        assert_eq!(views.unreadable(0, 1), Err(ViewError::Twice { clip: 0, view: 1 }));
    }
}
