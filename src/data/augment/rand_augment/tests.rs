use super::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::time::Instant;

const PX: usize = 16;

/// A frame whose values are all over the place.
fn frame() -> Vec<u8> {
    let value = |y: usize, x: usize, c: usize| ((x * x * 3 + y * 7 + c * 31 + x * y % 5 * 11) % 200 + 20) as u8;
    let places = (0..PX).flat_map(|y| (0..PX).flat_map(move |x| (0..3).map(move |c| (y, x, c))));
    places.map(|(y, x, c)| value(y, x, c)).collect()
}

/// CRC-32 of what Pillow 13.0 makes of `frame()` at strength 7, in both directions: `ImageOps`, `ImageEnhance`,
/// `Image.rotate` and `Image.transform(AFFINE, BILINEAR)` with the arguments that timm's level functions give.
const PILLOW: [(Operation, u32, u32); 15] = [
    (Operation::AutoContrast, 0xd53a_cff5, 0xd53a_cff5),
    (Operation::Equalize, 0xf176_7a7e, 0xf176_7a7e),
    (Operation::Invert, 0xd8fa_bc67, 0xd8fa_bc67),
    (Operation::Rotate, 0xa14f_1acb, 0x9e7b_86a2),
    (Operation::Posterize, 0xd7cc_a707, 0xd7cc_a707),
    (Operation::Solarize, 0xa7a4_edd7, 0xa7a4_edd7),
    (Operation::SolarizeAdd, 0xe09a_36a8, 0xe09a_36a8),
    (Operation::Colour, 0x0381_811a, 0x5d69_9822),
    (Operation::Contrast, 0x5fa3_52e0, 0x8ad4_7377),
    (Operation::Brightness, 0x7ec8_e99a, 0x017d_40e8),
    (Operation::Sharpness, 0x4388_f510, 0x47a4_f45a),
    (Operation::ShearX, 0xb117_afee, 0x947c_8844),
    (Operation::ShearY, 0xb2fb_eee3, 0xa9f7_3f7b),
    (Operation::TranslateX, 0x05f4_7307, 0xcfc4_d4d9),
    (Operation::TranslateY, 0xc886_b70d, 0xb2bb_078b),
];

#[test]
fn every_operation_equals_pillows() {
    for (operation, positive, negative) in PILLOW {
        for (sign, expected) in [(1.0, positive), (-1.0, negative)] {
            let mut changed = frame();
            operation.apply(&mut changed, PX, 0.7, sign, &mut Vec::new());
            assert_eq!(crc32fast::hash(&changed), expected, "{operation:?} {sign}");
            assert_ne!(changed, frame(), "{operation:?}");
        }
    }
    assert_eq!(PILLOW.map(|(operation, ..)| operation), Operation::ALL);
}

/// Nothing may overflow or reach outside: flat frames, single pixels, the strongest and the weakest.
#[test]
fn extremes_are_harmless() {
    for px in [1, 2, 5] {
        for value in [0, 127, 255] {
            for operation in Operation::ALL {
                for (share, sign) in [(0.0, 1.0), (1.0, 1.0), (1.0, -1.0)] {
                    let mut flat = vec![value; px * px * 3];
                    operation.apply(&mut flat, px, share, sign, &mut Vec::new());
                    let weakest = [Operation::Invert, Operation::Posterize, Operation::Equalize];
                    if share == 0.0 && !weakest.contains(&operation) {
                        assert_eq!(flat, vec![value; px * px * 3], "{operation:?} {px}");
                    }
                }
            }
        }
    }
}

fn rand_augment() -> RandAugment {
    RandAugment { operations: 4, magnitude: 7.0, probability: 0.5, std: 0.5 }
}

#[test]
fn all_frames_of_a_clip_change_alike() {
    let one = frame();
    let (mut changed, mut results) = (0, std::collections::HashSet::new());
    for seed in 0..200 {
        let mut clip = one.repeat(3);
        rand_augment().apply(&mut clip, PX, &mut ChaCha8Rng::seed_from_u64(seed));
        let frames: Vec<&[u8]> = clip.chunks(one.len()).collect();
        assert!(frames[0] == frames[1] && frames[1] == frames[2]);
        changed += usize::from(frames[0] != one);
        results.insert(frames[0].to_vec());
        let mut again = one.repeat(3);
        rand_augment().apply(&mut again, PX, &mut ChaCha8Rng::seed_from_u64(seed));
        assert_eq!(clip, again);
    }
    // Of four operations at probability 1/2, none is done in one of 16 clips.
    assert!((175..199).contains(&changed), "{changed}");
    assert!(results.len() > 150, "{}", results.len());
    let mut none = one.clone();
    let off = RandAugment { probability: 0.0, ..rand_augment() };
    off.apply(&mut none, PX, &mut ChaCha8Rng::seed_from_u64(1));
    assert_eq!(none, one);
}

/// The dearest operations must stay small beside decoding a clip, some 100 ms.
#[test]
fn operations_are_fast() {
    let mut clip = vec![90; 224 * 224 * 3];
    for operation in Operation::ALL {
        let best = (0..5).map(|_| {
            let begin = Instant::now();
            operation.apply(&mut clip, 224, 0.7, 1.0, &mut Vec::new());
            begin.elapsed()
        });
        let best = best.min().unwrap();
        println!("{operation:?}: {best:?} a frame");
        assert!(best.as_millis() < 20, "{operation:?}: {best:?}");
    }
}
