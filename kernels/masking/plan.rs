//! The geometry of a mask, and the mask of a clip on the host: the definition that [`super::generate`] follows.
//!
//! Randomness is by key: every draw is a hash of the clip's two key words and a counter. For one key the hash permutes the
//! 32-bit numbers, so no two tokens tie.

use super::Counts;
use crate::KernelError;

/// Counters of the draws: `token` for the encoder's mask, `DECODER + token` for the choice of what is decoded, and one for
/// the start of either running cell.
pub(super) const DECODER: u32 = 1 << 30;
pub(super) const ENCODER_START: u32 = u32::MAX;
pub(super) const DECODER_START: u32 = u32::MAX - 1;

/// Multipliers of the mixer: Wellons' `lowbias32`, <https://nullprogram.com/blog/2018/07/31/>.
pub(super) const MIX: [u32; 2] = [0x7feb_352d, 0x846c_a68b];

const KERNEL: &str = "masking::plan";

/// How the visible tokens of a clip are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MaskKind {
    /// The same patches in every slot of time, so that no masked patch is seen at another time (VideoMAE).
    Tube,
    /// Any tokens.
    Random,
    /// Of every 2 x 2 patches those visible turn by one place with each slot, along the ring top left, top right, bottom
    /// right, bottom left, from a place drawn for the clip (VideoMAE V2). Spreads what is seen evenly over space and time.
    RunningCell,
}

/// The mask of a clip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaskShape {
    pub kind: MaskKind,
    /// Slots of time: frames over the tubelet's.
    pub frames: usize,
    /// Patches of a frame.
    pub rows: usize,
    pub columns: usize,
    /// Masked tokens of a clip. For a tube a multiple of `frames`, for running cells 1, 2 or 3 quarters of the tokens.
    pub masked: usize,
    /// Masked tokens of a clip that are decoded: all, or, if fewer, as [`MaskShape::decoding`] says.
    pub decoded: usize,
}

impl MaskShape {
    /// Masks `ratio` of the tokens, rounded down as VideoMAE's generators do: a tube `int(ratio * rows * columns)` patches
    /// of every slot, a random mask `int(ratio * tokens)` tokens. All masked tokens are decoded.
    ///
    /// # Errors
    /// [`KernelError::Shape`] when no token would be masked or none visible, or when running cells are asked for a ratio
    /// other than 0.25, 0.5 or 0.75, or for an odd number of rows or columns.
    pub fn of_ratio(kind: MaskKind, [frames, rows, columns]: [usize; 3], ratio: f64) -> Result<Self, KernelError> {
        let part = |tokens: usize| (ratio * tokens as f64) as usize;
        let masked = match kind {
            MaskKind::Tube => frames * part(rows * columns),
            MaskKind::Random => part(frames * rows * columns),
            MaskKind::RunningCell if (4.0 * ratio).fract() == 0.0 => part(frames * rows * columns),
            MaskKind::RunningCell => {
                return Err(KernelError::shape(KERNEL, "mask ratio", "0.25, 0.5 or 0.75 for running cells", ratio));
            }
        };
        let shape = Self { kind, frames, rows, columns, masked, decoded: masked };
        shape.check()?;
        Ok(shape)
    }

    /// The same with `int(ratio * masked)` of the masked tokens decoded. VideoMAE V2 decodes the tokens of a running cell
    /// and takes the loss where they are masked, which gives every clip another count. Here the masked tokens in the
    /// places of a running cell (of 1 to 4 of 4 places, what is nearest to `ratio`) come first, then the other masked
    /// tokens, both in an order drawn for the clip, and exactly so many are taken.
    ///
    /// # Errors
    /// [`KernelError::Shape`] when `ratio` lies outside 0 to 1.
    pub fn decoding(self, ratio: f64) -> Result<Self, KernelError> {
        if !(0.0..=1.0).contains(&ratio) {
            return Err(KernelError::shape(KERNEL, "share of the masked tokens decoded", "0 to 1", ratio));
        }
        Ok(Self { decoded: (ratio * self.masked as f64) as usize, ..self })
    }

    /// Patches of a slot.
    pub fn patches(&self) -> usize {
        self.rows * self.columns
    }

    /// Tokens of a clip.
    pub fn tokens(&self) -> usize {
        self.frames * self.patches()
    }

    /// Tokens that the encoder sees.
    pub fn visible(&self) -> usize {
        self.tokens() - self.masked
    }

    /// The table's shape for so many clips.
    pub fn counts(&self, clips: usize) -> Counts {
        Counts { clips, visible: self.visible(), decoded: self.decoded }
    }

    /// Places of 4 that a running cell shows the encoder.
    pub(super) fn kept(&self) -> u32 {
        (4 * self.visible() / self.tokens()) as u32
    }

    /// Places of 4 whose masked tokens are decoded first.
    pub(super) fn decoder_kept(&self) -> u32 {
        ((4 * self.decoded + self.masked / 2) / self.masked).clamp(1, 4) as u32
    }

    pub(super) fn check(&self) -> Result<(), KernelError> {
        let Self { kind, frames, rows, columns, masked, decoded } = *self;
        // Counts are summed in f32, and counters of draws must not meet.
        if self.tokens() >= 1 << 24 {
            return Err(KernelError::shape(KERNEL, "tokens of a clip", "fewer than 2^24", self.tokens()));
        }
        if masked == 0 || masked >= self.tokens() {
            let expected = format!("1 to {} of {} tokens", self.tokens().saturating_sub(1), self.tokens());
            return Err(KernelError::shape(KERNEL, "masked tokens", expected, masked));
        }
        if decoded > masked {
            return Err(KernelError::shape(KERNEL, "decoded tokens", format!("at most the {masked} masked"), decoded));
        }
        if kind == MaskKind::Tube && !masked.is_multiple_of(frames) {
            let expected = format!("the same in each of {frames} slots for a tube");
            return Err(KernelError::shape(KERNEL, "masked tokens", expected, masked));
        }
        if kind == MaskKind::RunningCell {
            if !rows.is_multiple_of(2) || !columns.is_multiple_of(2) {
                let got = format!("{rows} x {columns}");
                return Err(KernelError::shape(KERNEL, "patches of a frame", "an even number each way for cells", got));
            }
            if !(4 * masked).is_multiple_of(self.tokens()) {
                return Err(KernelError::shape(
                    KERNEL,
                    "masked tokens",
                    "1, 2 or 3 quarters for running cells",
                    masked,
                ));
            }
        }
        Ok(())
    }

    /// Whether a running cell that started at `start` shows `kept` of 4 places, `token`'s among them.
    fn in_cell(&self, token: u32, start: u32, kept: u32) -> bool {
        let (slot, patch) = (token / self.patches() as u32, token % self.patches() as u32);
        let (row, column) = (patch / self.columns as u32, patch % self.columns as u32);
        let place = if row % 2 == 0 { column % 2 } else { 3 - column % 2 };
        (place + 4 - (start % 4 + slot) % 4) % 4 < kept
    }
}

fn mix(mut x: u32) -> u32 {
    x = (x ^ (x >> 16)).wrapping_mul(MIX[0]);
    x = (x ^ (x >> 15)).wrapping_mul(MIX[1]);
    x ^ (x >> 16)
}

fn draw(key: [u32; 2], counter: u32) -> u32 {
    mix(mix(mix(counter) ^ key[0]).wrapping_add(key[1]))
}

/// The `count` of `candidates` with the smallest draws.
fn smallest(mut candidates: Vec<u32>, count: usize, key: [u32; 2], from: u32) -> Vec<u32> {
    candidates.sort_by_key(|token| draw(key, from + token));
    candidates.truncate(count);
    candidates
}

/// One clip's row of the table: its visible tokens ascending, then the decoded ones ascending, `[visible + decoded]`.
///
/// # Errors
/// [`KernelError::Shape`] when the counts don't fit the geometry.
pub fn on_host(shape: &MaskShape, key: [u32; 2]) -> Result<Vec<u32>, KernelError> {
    shape.check()?;
    let (tokens, patches) = (shape.tokens() as u32, shape.patches() as u32);
    let masked: Vec<u32> = match shape.kind {
        MaskKind::Tube => {
            let patch = smallest((0..patches).collect(), shape.masked / shape.frames, key, 0);
            (0..tokens).filter(|token| patch.contains(&(token % patches))).collect()
        }
        MaskKind::Random => smallest((0..tokens).collect(), shape.masked, key, 0),
        MaskKind::RunningCell => {
            let start = draw(key, ENCODER_START);
            (0..tokens).filter(|token| !shape.in_cell(*token, start, shape.kept())).collect()
        }
    };
    let start = draw(key, DECODER_START);
    let (inside, outside): (Vec<u32>, Vec<u32>) =
        masked.iter().copied().partition(|token| shape.in_cell(*token, start, shape.decoder_kept()));
    let mut decoded = smallest(inside, shape.decoded, key, DECODER);
    decoded.extend(smallest(outside, shape.decoded - decoded.len(), key, DECODER));
    decoded.sort_unstable();
    let mut order: Vec<u32> = (0..tokens).filter(|token| !masked.contains(token)).collect();
    order.extend(decoded);
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visible(shape: &MaskShape, key: [u32; 2]) -> Vec<u32> {
        on_host(shape, key).unwrap()[..shape.visible()].to_vec()
    }

    #[test]
    fn counts_are_those_of_videomae() {
        let size = [8, 14, 14];
        let tube = MaskShape::of_ratio(MaskKind::Tube, size, 0.9).unwrap();
        assert_eq!((tube.visible(), tube.masked, tube.decoded), (160, 1408, 1408));
        let random = MaskShape::of_ratio(MaskKind::Random, size, 0.9).unwrap();
        assert_eq!((random.visible(), random.masked), (157, 1411));
        let cell = MaskShape::of_ratio(MaskKind::RunningCell, size, 0.75).unwrap();
        assert_eq!((cell.visible(), cell.kept()), (392, 1));
        let half = tube.decoding(0.5).unwrap();
        assert_eq!((half.decoded, half.decoder_kept()), (704, 2));
        assert_eq!(tube.counts(3), Counts { clips: 3, visible: 160, decoded: 1408 });
    }

    #[test]
    fn what_cannot_be_masked_is_refused() {
        let error = |kind, size, ratio| MaskShape::of_ratio(kind, size, ratio).unwrap_err().to_string();
        assert!(error(MaskKind::Tube, [8, 14, 14], 0.001).contains("got 0"));
        assert!(error(MaskKind::Random, [8, 14, 14], 1.0).contains("1 to 1567 of 1568"));
        assert!(error(MaskKind::RunningCell, [8, 14, 14], 0.9).contains("0.25, 0.5 or 0.75"));
        assert!(error(MaskKind::RunningCell, [8, 7, 14], 0.5).contains("7 x 14"));
        let tube = MaskShape::of_ratio(MaskKind::Tube, [2, 2, 2], 0.5).unwrap();
        assert!(tube.decoding(1.5).is_err());
        assert!(
            on_host(&MaskShape { masked: 3, decoded: 3, ..tube }, [0, 0]).unwrap_err().to_string().contains("2 slots")
        );
        assert!(on_host(&MaskShape { decoded: 5, ..tube }, [0, 0]).unwrap_err().to_string().contains("the 4 masked"));
    }

    #[test]
    fn lists_ascend_and_do_not_meet() {
        for kind in [MaskKind::Tube, MaskKind::Random, MaskKind::RunningCell] {
            for decoded in [1.0, 0.5, 0.1] {
                let shape = MaskShape::of_ratio(kind, [4, 4, 6], 0.75).unwrap().decoding(decoded).unwrap();
                let order = on_host(&shape, [7, 9]).unwrap();
                assert_eq!(order.len(), shape.visible() + shape.decoded);
                let (seen, predicted) = order.split_at(shape.visible());
                assert!(seen.is_sorted_by(|a, b| a < b) && predicted.is_sorted_by(|a, b| a < b), "{order:?}");
                assert!(predicted.iter().all(|token| !seen.contains(token) && *token < 96), "{order:?}");
            }
        }
    }

    #[test]
    fn a_tube_shows_the_same_patches_in_every_slot() {
        let shape = MaskShape::of_ratio(MaskKind::Tube, [3, 4, 5], 0.5).unwrap();
        let seen = visible(&shape, [1, 2]);
        let slots: Vec<Vec<u32>> = seen.chunks(10).map(|slot| slot.iter().map(|token| token % 20).collect()).collect();
        assert!(slots.len() == 3 && slots.iter().all(|slot| *slot == slots[0]), "{seen:?}");
    }

    #[test]
    fn a_running_cell_turns_through_its_four_places() {
        let shape = MaskShape::of_ratio(MaskKind::RunningCell, [5, 2, 2], 0.75).unwrap();
        let ring = [0, 1, 3, 2];
        for key in 0..8 {
            let places: Vec<u32> = visible(&shape, [key, 0]).iter().map(|token| token % 4).collect();
            let start = ring.iter().position(|place| *place == places[0]).unwrap();
            let expected: Vec<u32> = (0..5).map(|slot| ring[(start + slot) % 4]).collect();
            assert_eq!(places, expected);
        }
    }

    #[test]
    fn the_running_cell_is_decoded_first() {
        let shape = MaskShape::of_ratio(MaskKind::Tube, [8, 14, 14], 0.9).unwrap().decoding(0.5).unwrap();
        let order = on_host(&shape, [3, 4]).unwrap();
        let start = draw([3, 4], DECODER_START);
        let inside = order[shape.visible()..].iter().filter(|token| shape.in_cell(**token, start, 2)).count();
        let tokens: Vec<u32> = (0..1568).filter(|token| !order[..160].contains(token)).collect();
        let members = tokens.iter().filter(|token| shape.in_cell(**token, start, 2)).count();
        assert_eq!(inside, members.min(704), "of {members}");
    }

    /// Over many keys, also such as differ in one bit, every token is visible equally often, and so is every pair.
    #[test]
    fn every_token_is_visible_equally_often() {
        let shape = MaskShape::of_ratio(MaskKind::Random, [2, 4, 4], 0.75).unwrap();
        let keys = 8000u32;
        let (mut single, mut pair) = (vec![0.0; 32], vec![0.0; 32 * 32]);
        let mut previous = Vec::new();
        let mut repeats = 0;
        for key in 0..keys {
            let seen = visible(&shape, [key % 80, key / 80]);
            repeats += usize::from(seen == previous);
            for a in &seen {
                single[*a as usize] += 1.0;
                for b in seen.iter().filter(|b| *b > a) {
                    pair[(a * 32 + b) as usize] += 1.0;
                }
            }
            previous = seen;
        }
        assert_eq!(repeats, 0);
        // 8 of 32 tokens, so 1/4 of the keys and 8 * 7 / (32 * 31) of them: five standard deviations.
        let far =
            |count: f64, p: f64| (count - f64::from(keys) * p).abs() > 5.0 * (f64::from(keys) * p * (1.0 - p)).sqrt();
        assert!(!single.iter().any(|count| far(*count, 0.25)), "{single:?}");
        let pairs = (0..32).flat_map(|a| (a + 1..32).map(move |b| (a, b)));
        let odd: Vec<_> = pairs.filter(|(a, b)| far(pair[a * 32 + b], 56.0 / 992.0)).collect();
        assert!(odd.is_empty(), "{odd:?}");
    }

    #[test]
    fn a_key_means_one_mask() {
        let shape = MaskShape::of_ratio(MaskKind::Random, [2, 4, 4], 0.5).unwrap();
        assert_eq!(on_host(&shape, [5, 6]).unwrap(), on_host(&shape, [5, 6]).unwrap());
        assert_ne!(on_host(&shape, [5, 6]).unwrap(), on_host(&shape, [6, 5]).unwrap());
    }
}
