//! Times of a source's frames, laid onto a constant rate.

/// Rates that cameras have; a variable rate is taken for the nearest.
const COMMON: [[u32; 2]; 12] = [
    [24000, 1001],
    [24, 1],
    [25, 1],
    [30000, 1001],
    [30, 1],
    [48, 1],
    [50, 1],
    [60000, 1001],
    [60, 1],
    [100, 1],
    [120_000, 1001],
    [120, 1],
];

/// Between the mean rate and the nominal one there may be this share: a few frames lost.
const TOLERANCE: f64 = 0.1;

/// Of a camera's rate this share may be lost: in the dark, or under load. Not half, which is another rate.
const MOST_LOST: f64 = 0.4;

/// Largest rate and largest term of it, which MPEG-4 stores in 16 bits.
const MAX_FPS: f64 = 1000.0;
const MAX_TERM: u32 = 65_535;

/// The constant rate for a source. `nominal` is the rate that all times are multiples of, as FFmpeg finds it; `mean` is
/// frames over duration. Either may be unknown (0).
///
/// Taken is the nominal rate where the mean is near it: always, for a constant rate; or where it is a camera's and the
/// mean not much lower. Otherwise the rate is variable, and the common rate nearest to the mean is taken, if it is near,
/// else the mean.
pub fn constant_rate(nominal: [u32; 2], mean: [u32; 2]) -> Option<[u32; 2]> {
    let value = |[numerator, denominator]: [u32; 2]| f64::from(numerator) / f64::from(denominator);
    let usable = |rate: [u32; 2]| !rate.contains(&0) && value(rate) <= MAX_FPS;
    let storable = |rate: [u32; 2]| match rate.iter().all(|term| *term <= MAX_TERM) || COMMON.contains(&rate) {
        true => rate,
        false => [((value(rate) * 1000.0).round() as u32).max(1), 1000],
    };
    if !usable(mean) {
        return usable(nominal).then(|| storable(reduced(nominal)));
    }
    let lost = |rate: [u32; 2]| 1.0 - value(mean) / value(rate);
    let off = |rate: [u32; 2]| (value(rate) - value(mean)).abs() / value(mean);
    let camera = COMMON.contains(&reduced(nominal)) && value(mean) < value(nominal) && lost(nominal) <= MOST_LOST;
    if usable(nominal) && (off(nominal) <= TOLERANCE || camera) {
        return Some(storable(reduced(nominal)));
    }
    let nearest = COMMON.into_iter().min_by(|a, b| off(*a).total_cmp(&off(*b)));
    let rate = nearest.filter(|rate| off(*rate) <= TOLERANCE);
    Some(rate.unwrap_or_else(|| reduced([((value(mean) * 100.0).round() as u32).max(1), 100])))
}

fn reduced([numerator, denominator]: [u32; 2]) -> [u32; 2] {
    let (mut a, mut b) = (numerator, denominator);
    while b > 0 {
        (a, b) = (b, a % b);
    }
    [numerator / a.max(1), denominator / a.max(1)]
}

/// The frame number of a time, to the nearest: `ticks` since the first frame, each `time_base` seconds.
pub fn frame_number(ticks: i64, time_base: [i32; 2], fps: [u32; 2]) -> i64 {
    let numerator = i128::from(ticks) * i128::from(time_base[0]) * i128::from(fps[0]);
    let denominator = (i128::from(time_base[1]) * i128::from(fps[1])).max(1);
    let frame = (2 * numerator + denominator).div_euclid(2 * denominator);
    frame.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constant_rates_stay_as_they_are() {
        let ntsc = [30000, 1001];
        for (nominal, mean, expected) in [
            ([30, 1], [30, 1], [30, 1]),
            (ntsc, ntsc, ntsc),
            // Matroska rounds times to milliseconds.
            (ntsc, [2997, 100], ntsc),
            ([25, 2], [25, 2], [25, 2]),
            // A few frames are missing.
            ([30, 1], [1189 * 1000, 39_855], [30, 1]),
            ([30, 1], [0, 0], [30, 1]),
            ([0, 1], [24, 1], [24, 1]),
            ([60, 2], [60, 2], [30, 1]),
            // One frame in seven is missing.
            ([30, 1], [257, 10], [30, 1]),
            // Fields.
            ([50, 1], [25, 1], [25, 1]),
        ] {
            assert_eq!(constant_rate(nominal, mean), Some(expected), "{nominal:?} {mean:?}");
        }
    }

    #[test]
    fn variable_rates_become_common_ones() {
        assert_eq!(constant_rate([1000, 1], [2871, 100]), Some([30000, 1001]));
        assert_eq!(constant_rate([90000, 1], [25, 1]), Some([25, 1]));
        assert_eq!(constant_rate([600, 1], [1734, 100]), Some([867, 50]));
        assert_eq!(constant_rate([90000, 1], [0, 0]), None);
        assert_eq!(constant_rate([0, 0], [0, 0]), None);
        assert_eq!(constant_rate([0, 0], [1, 1_000_000]), Some([1, 100]));
        // A picture a day.
        assert_eq!(constant_rate([1, 86_400], [0, 0]), Some([1, 1000]));
        assert_eq!(constant_rate([1, 86_400], [1, 86_400]), Some([1, 1000]));
    }

    #[test]
    fn times_are_rounded_to_frames_without_drift() {
        assert_eq!([0, 33, 67, 100, 133].map(|ms| frame_number(ms, [1, 1000], [30, 1])), [0, 1, 2, 3, 4]);
        // Frame 1,000,000 at 29.97 frames/s, in ticks of 1/30000 s: 9 hours.
        for frame in [1, 449, 450, 1_000_000] {
            assert_eq!(frame_number(frame * 1001, [1, 30000], [30000, 1001]), frame);
        }
        assert_eq!(frame_number(-17, [1, 1000], [30, 1]), -1);
        assert_eq!(frame_number(-16, [1, 1000], [30, 1]), 0);
        assert_eq!(frame_number(i64::MAX, [1, 1], [1000, 1]), i64::MAX);
    }
}
