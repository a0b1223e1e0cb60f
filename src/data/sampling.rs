//! Which frames of a segment a clip is made of.
//!
//! The formulas are those of AVION, LaViLa, VideoMAE and TSN, to the rounding: the same segment, with the same random
//! numbers, gives the same frames. A labelled clip's segment is its whole video.

use rand::Rng;

/// How a segment is divided into the frames of a clip.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FrameRule {
    /// The middle of equal pieces, moved within the piece in training.
    #[default]
    Avion,
    /// LaViLa's (and EgoVLP's): pieces with rounded borders; any frame of the piece in training.
    Lavila,
    /// Every `stride`-th frame from a random start: VideoMAE's pre-training. With `jitter`, AVION's: each frame moves
    /// by 0 to `stride - 1`, and a short segment starts again where the original holds its last frame.
    Dense { stride: u64, jitter: bool },
    /// Frames spread over a random window of `count * stride`: VideoMAE's fine-tuning, for which the window is 64.
    Window { stride: u64 },
    /// Any frame of equal pieces, in evaluation the middle of each (TSN, Wang et al. 2016, arXiv:1608.00859).
    Uniform,
}

impl FrameRule {
    /// `count` frame numbers of the segment `[start, end)`, drawn for training. They ascend, except where a short
    /// segment starts again, and repeat where it is shorter than the rule needs.
    ///
    /// A segment that holds no frame counts as one frame long.
    pub fn drawn(self, start: u64, end: u64, count: usize, rng: &mut impl Rng) -> Vec<u64> {
        let end = end.max(start + 1);
        let length = end - start;
        let frames = match self {
            Self::Avion => avion(start, end, count, Some(rng)),
            Self::Lavila => lavila(start, end, count, Some(rng)),
            Self::Dense { stride, jitter: true } => from(start, jittered(length, count, stride, rng)),
            Self::Dense { stride, jitter: false } => from(start, dense(length, count, stride, rng)),
            Self::Window { stride } => from(start, window(length, count, stride, rng)),
            Self::Uniform => from(start, uniform(length, count, rng)),
        };
        within(frames, start, end)
    }

    /// The frames of one of `views` stretches of the segment, for evaluation: fixed, ascending.
    ///
    /// Dense and window: every `stride`-th frame from `views` evenly spaced starts, the last stretch ending with the
    /// segment; a single one is central. The other rules cover the segment at once: all their views are the same.
    pub fn view(self, start: u64, end: u64, count: usize, view: usize, views: usize) -> Vec<u64> {
        let end = end.max(start + 1);
        let length = end - start;
        let none = None::<&mut rand_chacha::ChaCha8Rng>;
        let frames = match self {
            Self::Avion => avion(start, end, count, none),
            Self::Lavila => lavila(start, end, count, none),
            Self::Dense { stride, .. } | Self::Window { stride } => {
                from(start, strided(length, count, stride, view, views))
            }
            Self::Uniform => from(start, middles(length, count)),
        };
        within(frames, start, end)
    }
}

fn from(start: u64, frames: impl IntoIterator<Item = u64>) -> Vec<u64> {
    frames.into_iter().map(|frame| start + frame).collect()
}

fn within(mut frames: Vec<u64>, start: u64, end: u64) -> Vec<u64> {
    for frame in &mut frames {
        *frame = (*frame).clamp(start, end - 1);
    }
    frames
}

/// AVION `get_frame_ids`: centres of `count` equal pieces of `[start, end]`; jitter adds
/// `(u - 0.5) (end - start - 1) / count`; truncated toward zero.
fn avion(start: u64, end: u64, count: usize, mut jitter: Option<&mut impl Rng>) -> Vec<u64> {
    let (first, last, pieces) = (start as f64, end as f64, count as f64);
    let border = |i: usize| linspace(first, last, count, i);
    (0..count)
        .map(|i| {
            let centre = 0.5 * border(i) + 0.5 * border(i + 1);
            let shift = match &mut jitter {
                Some(rng) => (rng.random::<f64>() - 0.5) * ((last - first - 1.0) / pieces),
                None => 0.0,
            };
            (centre + shift) as u64
        })
        .collect()
}

/// Number `i` of numpy's linspace over `pieces` pieces: `i * step + first`, but the last exactly `last`.
fn linspace(first: f64, last: f64, pieces: usize, i: usize) -> f64 {
    if i == pieces { last } else { i as f64 * ((last - first) / pieces as f64) + first }
}

/// LaViLa `get_frame_ids`: borders `round(i (end - start - 1) / count) + start`; the middle of two
/// borders, or any integer from one to the other, both included. numpy rounds halves to even.
fn lavila(start: u64, end: u64, count: usize, mut jitter: Option<&mut impl Rng>) -> Vec<u64> {
    let piece = (end - start - 1) as f64 / count as f64;
    let border = |i: usize| (piece * i as f64).round_ties_even() as u64 + start;
    (0..count)
        .map(|i| {
            let (low, high) = (border(i), border(i + 1).min(end));
            match &mut jitter {
                Some(rng) => rng.random_range(low..=high),
                None => (low + high) / 2,
            }
        })
        .collect()
}

/// AVION's pre-training on Kinetics: start in `[0, length - (count + 1) stride)` or 0; frame `i` is
/// `start + stride i + U{0..stride}`, modulo the length.
fn jittered(length: u64, count: usize, stride: u64, rng: &mut impl Rng) -> Vec<u64> {
    let span = (count as u64 + 1).saturating_mul(stride);
    let start = if length > span { rng.random_range(0..length - span) } else { 0 };
    (0..count as u64).map(|i| (start + stride * i + rng.random_range(0..stride)) % length).collect()
}

/// VideoMAE's pre-training (`kinetics.py`, `get_batch`): start in `[0, length - count stride]`. From a shorter
/// segment's start on, the frame stays where it is once the next one would not lie before the last.
fn dense(length: u64, count: usize, stride: u64, rng: &mut impl Rng) -> Vec<u64> {
    let span = (count as u64).saturating_mul(stride);
    if length >= span {
        let start = rng.random_range(0..=length - span);
        return (0..count as u64).map(|i| start + stride * i).collect();
    }
    let steps = length.saturating_sub(2) / stride;
    (0..count as u64).map(|i| stride * i.min(steps)).collect()
}

/// VideoMAE's fine-tuning: a window of `count stride` frames that ends at a random place in `[window, length)`, and
/// `trunc(linspace)` over it, at most its last frame. A shorter segment gives every `stride`-th frame, then its last.
fn window(length: u64, count: usize, stride: u64, rng: &mut impl Rng) -> Vec<u64> {
    let size = (count as u64).saturating_mul(stride);
    if length <= size {
        return (0..count as u64).map(|i| stride * i).collect();
    }
    let end = rng.random_range(size..length);
    spread(end - size, end, count)
}

/// `count` numbers from `start` to `end`, both included, truncated, at most `end - 1`.
fn spread(start: u64, end: u64, count: usize) -> Vec<u64> {
    // numpy gives the first border alone where there is one number.
    let pieces = count.max(2) - 1;
    let number = |i| linspace(start as f64, end as f64, pieces, i) as u64;
    (0..count).map(|i| number(i).min(end - 1)).collect()
}

/// VideoMAE's test: of a segment that is taken as long as `count stride` at least, by its last frame, the starts are
/// `trunc(view (length - count stride) / (views - 1))`.
fn strided(length: u64, count: usize, stride: u64, view: usize, views: usize) -> Vec<u64> {
    let room = length.saturating_sub((count as u64).saturating_mul(stride));
    let start = if views > 1 { (view as f64 * (room as f64 / (views - 1) as f64)) as u64 } else { room / 2 };
    (0..count as u64).map(|i| start + stride * i).collect()
}

/// TSN: any frame of pieces of `length / count` frames, rounded down. Shorter segments have nothing to draw.
fn uniform(length: u64, count: usize, rng: &mut impl Rng) -> Vec<u64> {
    let piece = length / (count as u64).max(1);
    if piece == 0 {
        return middles(length, count);
    }
    (0..count as u64).map(|i| i * piece + rng.random_range(0..piece)).collect()
}

/// TSN's test: `trunc(tick / 2 + tick i)` with `tick = length / count`.
fn middles(length: u64, count: usize) -> Vec<u64> {
    let tick = length as f64 / count as f64;
    (0..count).map(|i| (tick / 2.0 + tick * i as f64) as u64).collect()
}

#[cfg(test)]
mod tests;
