use super::super::combination::COMBINATIONS;
use super::*;
use crate::data::rng::{Purpose, keyed};

const SIZE: usize = 64;

fn index<T: PartialEq>(values: &[(&str, T)], name: &str) -> usize {
    values.iter().position(|(known, _)| *known == name).unwrap()
}

fn scene(shape: &str, motion: &str, speed: &str, seed: u64) -> Scene {
    let combination =
        Combination([index(&COLOURS, "white"), index(&SHAPES, shape), index(&MOTIONS, motion), index(&SPEEDS, speed)]);
    Scene::draw(combination, &mut keyed(seed, 0, 0, Purpose::Synthetic))
}

/// Middle of the pixels that are brighter than any background, as shares of the side, and their number.
fn white(frame: &[u8]) -> ([f32; 2], usize) {
    let bright: Vec<usize> = (0..SIZE * SIZE).filter(|i| frame[i * 3] > 200).collect();
    let mean = |f: fn(usize) -> usize| bright.iter().map(|i| f(*i) as f32).sum::<f32>() / (bright.len() * SIZE) as f32;
    ([mean(|i| i % SIZE), mean(|i| i / SIZE)], bright.len())
}

/// The shape's place in the four frames that evaluation takes.
fn four(scene: &Scene) -> Vec<[f32; 2]> {
    let times = [0.125, 0.375, 0.625, 0.875];
    let places = scene.frames(SIZE, times.into_iter()).map(|frame| white(&frame));
    places
        .map(|(place, pixels)| {
            assert!(pixels > 30, "{pixels}");
            place
        })
        .collect()
}

#[test]
fn straight_motions_go_their_way() {
    for seed in 0..5 {
        for (motion, axis, sign) in [("left", 0, -1.0), ("right", 0, 1.0), ("up", 1, -1.0), ("down", 1, 1.0)] {
            let ways = ["slowly", "quickly"].map(|speed| {
                let places = four(&scene("square", motion, speed, seed));
                for pair in places.windows(2) {
                    assert!(sign * (pair[1][axis] - pair[0][axis]) > 0.03, "{motion} {places:?}");
                    assert!((pair[1][1 - axis] - pair[0][1 - axis]).abs() < 0.02);
                }
                (places[3][axis] - places[0][axis]).abs()
            });
            assert!(ways[1] > 2.0 * ways[0], "{ways:?}");
        }
    }
}

/// Around the centre of a full circle, and on a zigzag, the direction changes visibly from frame to frame.
#[test]
fn bent_motions_bend() {
    for seed in 0..5 {
        let cross = |places: &[[f32; 2]]| {
            let step = |i: usize| [0, 1].map(|axis| places[i + 1][axis] - places[i][axis]);
            let turn = |i: usize| {
                let ([a, b], [c, d]) = (step(i), step(i + 1));
                a * d - b * c
            };
            [turn(0), turn(1)]
        };
        let [first, second] = cross(&four(&scene("circle", "in a circle", "quickly", seed)));
        assert!(first * second > 0.0 && first.abs() > 0.02, "{first} {second}");
        let [first, second] = cross(&four(&scene("circle", "in a zigzag", "quickly", seed)));
        assert!(first * second < 0.0 && first.abs() > 0.02, "{first} {second}");
    }
}

#[test]
fn every_shape_stays_in_the_picture() {
    for number in 0..COMBINATIONS {
        let combination =
            Combination([0, number % SHAPES.len(), number / SHAPES.len() % MOTIONS.len(), number % SPEEDS.len()]);
        let rng = &mut keyed(number as u64, 0, 0, Purpose::Synthetic);
        let scene = Scene::draw(combination, rng);
        for step in 0..=40 {
            let at = scene.path.at(step as f32 / 40.0);
            for (start, offset) in scene.start.iter().zip(at) {
                let centre = start + offset;
                let reach = scene.radius - 0.01;
                assert!(centre >= reach && centre <= 1.0 - reach, "{scene:?}");
            }
        }
    }
}

#[test]
fn shapes_have_the_area_they_should() {
    // Areas for radius 1: circle, ring, square, equilateral triangle; a star from its ten triangles.
    let star = 10.0 * 0.5 * 0.45 * (PI / 5.0).sin();
    let areas = [
        (Shape::Circle, PI * 0.92 * 0.92),
        (Shape::Ring, PI * (0.96 * 0.96 - 0.48 * 0.48)),
        (Shape::Square, 1.6 * 1.6),
        (Shape::Triangle, 3.0 * 3f32.sqrt() / 4.0),
        (Shape::Star, star),
    ];
    for (shape, area) in areas {
        let cells = 400;
        let at = |i: usize| (i as f32 + 0.5) / cells as f32 * 2.4 - 1.2;
        let inside = (0..cells * cells).filter(|i| shape.distance([at(i % cells), at(i / cells)]) < 0.0).count();
        let found = inside as f32 * (2.4 / cells as f32).powi(2);
        assert!((found - area).abs() < 0.01 * area, "{shape:?} {found} {area}");
    }
}

#[test]
fn backgrounds_leave_room_for_colours() {
    for seed in 0..20 {
        let background = Background::draw(&mut keyed(seed, 0, 0, Purpose::Synthetic));
        for value in background.render(SIZE) {
            assert!((0.0..=160.0).contains(&value), "{value}");
        }
    }
}
