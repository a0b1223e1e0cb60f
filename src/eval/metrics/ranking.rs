//! One query at a time over rows or columns of a matrix, on every core.

use std::num::NonZero;
use std::ops::Range;

/// Queries are the rows (videos look for captions) or the columns (captions look for videos).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    VideoToText,
    TextToVideo,
}

/// A row-major matrix seen as queries times items.
pub(super) struct Matrix<'a, T> {
    pub values: &'a [T],
    pub videos: usize,
    pub captions: usize,
}

impl<T: Copy + Into<f64>> Matrix<'_, T> {
    pub fn queries(&self, direction: Direction) -> usize {
        match direction {
            Direction::VideoToText => self.videos,
            Direction::TextToVideo => self.captions,
        }
    }

    pub fn items(&self, direction: Direction) -> usize {
        match direction {
            Direction::VideoToText => self.captions,
            Direction::TextToVideo => self.videos,
        }
    }

    /// Copies the given queries into `rows`, `[queries, items]`. Several columns at once use each cache line fully.
    pub fn gather(&self, direction: Direction, queries: Range<usize>, rows: &mut Vec<f64>) {
        rows.clear();
        match direction {
            Direction::VideoToText => {
                let span = queries.start * self.captions..queries.end * self.captions;
                rows.extend(self.values[span].iter().map(|&v| v.into()));
            }
            Direction::TextToVideo => {
                rows.resize(queries.len() * self.videos, 0.0);
                for video in 0..self.videos {
                    let row = &self.values[video * self.captions..][queries.clone()];
                    for (query, &value) in row.iter().enumerate() {
                        rows[query * self.videos + video] = value.into();
                    }
                }
            }
        }
    }
}

/// Runs `score` on blocks of queries on all cores; results come in the order of the queries.
pub(in crate::eval) fn per_query<T: Send>(queries: usize, score: impl Fn(Range<usize>, &mut Vec<T>) + Sync) -> Vec<T> {
    const BLOCK: usize = 16; // f32 in a cache line, f64 in two neighbours
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let share = queries.div_ceil(threads).next_multiple_of(BLOCK).max(BLOCK);
    let run = |share: Range<usize>| {
        let mut results = Vec::with_capacity(share.len());
        for start in share.clone().step_by(BLOCK) {
            score(start..(start + BLOCK).min(share.end), &mut results);
        }
        results
    };
    std::thread::scope(|scope| {
        let run = &run;
        let workers: Vec<_> = (0..queries)
            .step_by(share)
            .map(|start| scope.spawn(move || run(start..(start + share).min(queries))))
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| match worker.join() {
                Ok(results) => results,
                Err(panic) => std::panic::resume_unwind(panic),
            })
            .collect()
    })
}

/// Item indices by descending score, equal scores by ascending index. `keyed` is scratch space.
pub(super) fn rank_descending(scores: &[f64], keyed: &mut Vec<(u64, u32)>) {
    keyed.clear();
    keyed.extend(scores.iter().zip(0u32..).map(|(&score, item)| (descending_key(score), item)));
    keyed.sort_unstable(); // no two entries are equal, so this is as good as stable
}

/// An integer that grows as `score` falls; equal scores (also 0 and -0) have equal keys.
fn descending_key(score: f64) -> u64 {
    let bits = (score + 0.0).to_bits(); // -0 + 0 = 0
    let sign = 1 << 63;
    let ascending = if bits & sign == 0 { bits | sign } else { !bits };
    !ascending
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_fall_and_ties_keep_their_order() {
        let mut keyed = Vec::new();
        rank_descending(&[0.0, -1.5, 3.0, -0.0, 3.0, -2e-300], &mut keyed);
        let order: Vec<u32> = keyed.iter().map(|&(_, item)| item).collect();
        assert_eq!(order, [2, 4, 0, 3, 5, 1]);
    }

    #[test]
    fn every_query_is_scored_once_and_in_order() {
        for queries in [0, 1, 7, 8, 9, 1000] {
            let seen = per_query(queries, |range, out| out.extend(range));
            assert_eq!(seen, (0..queries).collect::<Vec<_>>());
        }
    }

    #[test]
    fn columns_are_gathered_like_rows_of_the_transpose() {
        let values: Vec<f32> = (0..15).map(|v| v as f32).collect();
        let matrix = Matrix { values: &values, videos: 3, captions: 5 };
        let mut rows = Vec::new();
        matrix.gather(Direction::TextToVideo, 1..3, &mut rows);
        assert_eq!(rows, [1.0, 6.0, 11.0, 2.0, 7.0, 12.0]);
        matrix.gather(Direction::VideoToText, 1..2, &mut rows);
        assert_eq!(rows, [5.0, 6.0, 7.0, 8.0, 9.0]);
    }
}
