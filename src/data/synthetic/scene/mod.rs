//! Draws a synthetic clip: one moving shape, and everything else drawn at random so that only the shape, its colour
//! and its way of moving tell the caption.
//!
//! Lengths are shares of the picture's side, times shares of the clip; `[x, y]` with y downwards.

use super::combination::{COLOURS, Combination, MOTIONS, Motion, SHAPES, SPEEDS, Shape, Speed};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::f32::consts::{PI, TAU};

/// Way that a slow and a fast shape cover in a clip. Four evenly spaced frames show 3/4 of it.
const SLOW_WAY: f32 = 0.22;
const FAST_WAY: f32 = 0.58;

/// Turns that a slow and a fast shape make on their circle; at a full one, four frames are a quarter apart.
const SLOW_TURNS: f32 = 0.35;
const FAST_TURNS: f32 = 1.0;

/// Zigzags in a clip: of four frames of a fast one, each is on the other side than the one before.
const SLOW_ZIGZAGS: f32 = 1.0;
const FAST_ZIGZAGS: f32 = 2.0;

/// Way of an endless motion in a clip. The shortest is told from a standstill; the longest is a sixth of the picture
/// between two of eight evenly spaced frames, far from half of it, where its direction could not be told.
const ENDLESS_WAY: std::ops::Range<f32> = 0.5..1.2;

/// A clip ready to be drawn at any time.
#[derive(Debug)]
pub(super) struct Scene {
    shape: Shape,
    colour: [f32; 3],
    radius: f32,
    /// Of the shape, radians.
    angle: f32,
    start: [f32; 2],
    path: Path,
    background: Background,
}

/// The way from the start, as a function of time.
#[derive(Clone, Copy, Debug)]
enum Path {
    Line {
        way: [f32; 2],
    },
    Circle {
        radius: f32,
        /// Angle at the beginning, radians, and turns made, negative the other way round.
        begin: f32,
        turns: f32,
    },
    ZigZag {
        /// Along x.
        way: f32,
        /// To each side, along y.
        height: f32,
        zigzags: f32,
        /// Share of a zigzag made before the clip begins.
        begin: f32,
    },
    /// A line that comes back on the other side of the picture.
    Endless {
        way: [f32; 2],
    },
}

impl Path {
    fn draw(motion: Motion, speed: Speed, rng: &mut ChaCha8Rng) -> Self {
        let fast = speed == Speed::Fast;
        let way = if fast { FAST_WAY } else { SLOW_WAY } * rng.random_range(0.9..1.1);
        let sign = if rng.random() { 1.0 } else { -1.0 };
        match motion {
            Motion::Left => Self::Line { way: [-way, 0.0] },
            Motion::Right => Self::Line { way: [way, 0.0] },
            Motion::Up => Self::Line { way: [0.0, -way] },
            Motion::Down => Self::Line { way: [0.0, way] },
            Motion::Circle => Self::Circle {
                radius: rng.random_range(0.2..0.26),
                begin: rng.random_range(0.0..TAU),
                turns: sign * if fast { FAST_TURNS } else { SLOW_TURNS } * rng.random_range(0.9..1.1),
            },
            Motion::ZigZag => Self::ZigZag {
                way: sign * way,
                height: rng.random_range(0.14..0.18) * if rng.random() { 1.0 } else { -1.0 },
                zigzags: if fast { FAST_ZIGZAGS } else { SLOW_ZIGZAGS },
                begin: rng.random_range(-0.06..0.06),
            },
        }
    }

    fn at(self, time: f32) -> [f32; 2] {
        match self {
            Self::Line { way } | Self::Endless { way } => way.map(|way| way * time),
            Self::Circle { radius, begin, turns } => {
                let (sin, cos) = (begin + TAU * turns * time).sin_cos();
                [radius * cos, radius * sin]
            }
            Self::ZigZag { way, height, zigzags, begin } => {
                [way * time, height * triangle_wave(begin + zigzags * time)]
            }
        }
    }

    /// Corners of the box that holds the whole path.
    fn bounds(self) -> [[f32; 2]; 2] {
        let mut bounds = [[f32::MAX; 2], [f32::MIN; 2]];
        for step in 0..=64 {
            let at = self.at(step as f32 / 64.0);
            for axis in 0..2 {
                bounds[0][axis] = bounds[0][axis].min(at[axis]);
                bounds[1][axis] = bounds[1][axis].max(at[axis]);
            }
        }
        bounds
    }
}

/// 0 at 0, 1 at a quarter, -1 at three quarters, with period 1.
fn triangle_wave(phase: f32) -> f32 {
    1.0 - 4.0 * ((phase + 0.25).rem_euclid(1.0) - 0.5).abs()
}

impl Scene {
    pub fn draw(combination: Combination, rng: &mut ChaCha8Rng) -> Self {
        let Combination([colour, shape, motion, speed]) = combination;
        let brightness = rng.random_range(0.92..1.06);
        let colour = COLOURS[colour].1.map(|value| value * brightness + rng.random_range(-8.0..8.0));
        let radius = rng.random_range(0.13..0.18);
        let path = Path::draw(MOTIONS[motion].1, SPEEDS[speed].1, rng);
        let [low, high] = path.bounds();
        // Anywhere that keeps the whole way in the picture.
        let start = [0, 1].map(|axis| {
            let (from, to) = (radius - low[axis], 1.0 - radius - high[axis]);
            from + (to - from).max(0.0) * rng.random::<f32>()
        });
        Self {
            shape: SHAPES[shape].1,
            colour,
            radius,
            angle: rng.random_range(-0.2..0.2),
            start,
            path,
            background: Background::draw(rng),
        }
    }

    /// A shape that moves in a direction (radians, clockwise from the right) and comes back on the other side of the
    /// picture. All else is drawn independently of the direction; so is, at any moment, the place: a single frame does
    /// not tell the direction.
    pub fn endless(direction: f32, rng: &mut ChaCha8Rng) -> Self {
        let colour = COLOURS[rng.random_range(0..COLOURS.len() as u64) as usize].1;
        let way = rng.random_range(ENDLESS_WAY);
        let (sin, cos) = direction.sin_cos();
        Self {
            shape: SHAPES[rng.random_range(0..SHAPES.len() as u64) as usize].1,
            colour: colour.map(|value| value + rng.random_range(-8.0..8.0)),
            radius: rng.random_range(0.13..0.2),
            angle: rng.random_range(0.0..TAU),
            start: [rng.random(), rng.random()],
            path: Path::Endless { way: [way * cos, way * sin] },
            background: Background::dark(rng),
        }
    }

    /// The picture at each of `times` (shares of the clip): `[size, size, 3]` RGB bytes.
    pub fn frames(&self, size: usize, times: impl Iterator<Item = f32>) -> impl Iterator<Item = Vec<u8>> {
        let background = self.background.render(size);
        times.map(move |time| self.render(&background, size, time))
    }

    fn render(&self, background: &[f32], size: usize, time: f32) -> Vec<u8> {
        let mut pixels: Vec<u8> = background.iter().map(|value| *value as u8).collect();
        let offset = self.path.at(time);
        let centre = [0, 1].map(|axis| self.start[axis] + offset[axis]);
        if let Path::Endless { .. } = self.path {
            let [x, y] = centre.map(|at| at.rem_euclid(1.0));
            // Near an edge, it is in part on the other side.
            for (right, down) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                let across = |at: f32, other: i32| if other == 0 { at } else { at + if at < 0.5 { 1.0 } else { -1.0 } };
                self.stamp(&mut pixels, background, size, [across(x, right), across(y, down)]);
            }
        } else {
            self.stamp(&mut pixels, background, size, centre);
        }
        pixels
    }

    /// Draws the shape around a centre, as far as it lies in the picture.
    fn stamp(&self, pixels: &mut [u8], background: &[f32], size: usize, centre: [f32; 2]) {
        let (sin, cos) = self.angle.sin_cos();
        // One pixel of margin for the soft edge.
        let reach = self.radius + 1.0 / size as f32;
        let span = |axis: usize| {
            let from = ((centre[axis] - reach) * size as f32).floor().max(0.0) as usize;
            let to = ((centre[axis] + reach) * size as f32).ceil().max(0.0) as usize;
            from..to.min(size)
        };
        for y in span(1) {
            for x in span(0) {
                let [dx, dy] = [(x, centre[0]), (y, centre[1])]
                    .map(|(i, centre)| ((i as f32 + 0.5) / size as f32 - centre) / self.radius);
                let point = [dx * cos + dy * sin, dy * cos - dx * sin];
                let distance_px = self.shape.distance(point) * self.radius * size as f32;
                let cover = (0.5 - distance_px).clamp(0.0, 1.0);
                let start = (y * size + x) * 3;
                for (channel, value) in self.colour.iter().enumerate() {
                    let under = background[start + channel];
                    pixels[start + channel] = (under + (value - under) * cover) as u8;
                }
            }
        }
    }
}

impl Shape {
    /// Distance of a point from the outline of the shape of radius 1, negative inside.
    fn distance(self, [x, y]: [f32; 2]) -> f32 {
        let length = x.hypot(y);
        match self {
            Self::Circle => length - 0.92,
            Self::Square => x.abs().max(y.abs()) - 0.8,
            Self::Ring => (length - 0.72).abs() - 0.24,
            // Three sides at the distance of half the circumradius from the centre.
            Self::Triangle => (0..3)
                .map(|side| {
                    let (sin, cos) = (PI / 2.0 + TAU * side as f32 / 3.0).sin_cos();
                    x * cos + y * sin - 0.5
                })
                .fold(f32::MIN, f32::max),
            Self::Star => star_distance(x, y, length),
        }
    }
}

/// Five points at radius 1, the inner corners at 0.45. Distance to the line through a point and the corner beside it,
/// which is exact inside and near the outline.
fn star_distance(x: f32, y: f32, length: f32) -> f32 {
    const INNER: f32 = 0.45;
    let sector = TAU / 5.0;
    // Angle from the nearest point of the star; the first one is up.
    let angle = (x.atan2(-y) + sector / 2.0).rem_euclid(sector) - sector / 2.0;
    let (px, py) = (length * angle.cos(), length * angle.abs().sin());
    let (corner_x, corner_y) = (INNER * (sector / 2.0).cos(), INNER * (sector / 2.0).sin());
    let (edge_x, edge_y) = (corner_x - 1.0, corner_y);
    ((px - 1.0) * -edge_y + py * edge_x) / -edge_x.hypot(edge_y)
}

/// Grey, shaded from side to side, uneven.
#[derive(Debug)]
struct Background {
    grey: f32,
    /// Change from side to side along x and y.
    shade: [f32; 2],
    /// Coarse patches: [`Self::PATCHES`] squared values, interpolated.
    patches: Vec<f32>,
    /// Little offsets, repeated over the picture.
    grain: Vec<f32>,
}

impl Background {
    const PATCHES: usize = 6;
    const GRAIN: usize = 1021; // prime, so that rows do not line up

    fn draw(rng: &mut ChaCha8Rng) -> Self {
        let mut values =
            |count: usize, size: f32| -> Vec<f32> { (0..count).map(|_| rng.random_range(-size..size)).collect() };
        let patches = values(Self::PATCHES * Self::PATCHES, 14.0);
        let grain = values(Self::GRAIN, 4.0);
        let shade = values(2, 22.0);
        Self { grey: rng.random_range(45.0..115.0), shade: [shade[0], shade[1]], patches, grain }
    }

    /// Nearly plain: what there is to predict is the shape, which is where the motion has taken it.
    fn dark(rng: &mut ChaCha8Rng) -> Self {
        let grey = rng.random_range(10.0..50.0);
        let mut background = Self::draw(rng);
        let weaken = |values: &mut [f32]| values.iter_mut().for_each(|value| *value *= 0.25);
        weaken(&mut background.shade);
        weaken(&mut background.patches);
        weaken(&mut background.grain);
        Self { grey, ..background }
    }

    /// `[size, size, 3]`, values that fit a byte.
    fn render(&self, size: usize) -> Vec<f32> {
        let mut pixels = Vec::with_capacity(size * size * 3);
        for y in 0..size {
            for x in 0..size {
                let [u, v] = [x, y].map(|i| (i as f32 + 0.5) / size as f32);
                let value = self.grey
                    + self.shade[0] * (u - 0.5)
                    + self.shade[1] * (v - 0.5)
                    + self.patch(u, v)
                    + self.grain[(y * size + x) % Self::GRAIN];
                pixels.extend([value.clamp(0.0, 255.0); 3]);
            }
        }
        pixels
    }

    /// The patches at a place, between the four around it.
    fn patch(&self, u: f32, v: f32) -> f32 {
        let scale = (Self::PATCHES - 1) as f32;
        let (x, y) = (u * scale, v * scale);
        let (i, j) = (x as usize, y as usize);
        let (x, y) = (x.fract(), y.fract());
        let at = |i: usize, j: usize| self.patches[j * Self::PATCHES + i];
        let top = at(i, j) * (1.0 - x) + at(i + 1, j) * x;
        let bottom = at(i, j + 1) * (1.0 - x) + at(i + 1, j + 1) * x;
        top * (1.0 - y) + bottom * y
    }
}

#[cfg(test)]
mod tests;
