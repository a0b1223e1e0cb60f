//! The table of visible and decoded tokens, made on the device.
//!
//! Writes `4 (visible + decoded)` bytes a clip and reads 8: what it costs is the search. The `k` tokens with the smallest
//! draws are those below a limit, which 32 steps of bisection find by counting; no sorting, and no memory that grows
//! with the tokens. A cube has a clip, also on software Vulkan: one unit alone would exceed the 65,535 turns of loops
//! after which Mesa's llvmpipe ends a shader without a word.

use super::plan::{DECODER, DECODER_START, ENCODER_START, MIX};
use super::{MaskKind, MaskShape};
use crate::error::numbered;
use crate::launch::UNITS;
use crate::reduce::{Split, cube_sum, row_grid};
use crate::{Handle, KernelError};
use cubecl::prelude::*;

const FIRST_MULTIPLIER: u32 = MIX[0];
const SECOND_MULTIPLIER: u32 = MIX[1];
const HIGHEST_BIT: u32 = 1 << 31;

/// What decides over the tokens of one clip.
#[derive(CubeType, Clone, Copy)]
struct Clip {
    key0: u32,
    key1: u32,
    /// Patches of a slot, and of a row of it.
    patches: u32,
    columns: u32,
    /// Of the encoder's running cell.
    start: u32,
    kept: u32,
    /// Of the decoder's.
    decoder_start: u32,
    decoder_kept: u32,
}

/// Which tokens a search counts.
#[derive(CubeType, Clone, Copy)]
struct Search {
    /// Tokens `0..range` are looked at.
    range: u32,
    /// So many draws lie below the limit sought.
    count: u32,
    /// The encoder's limit, and whether members of the decoder's running cell are counted or the others; read by the
    /// decoder's search.
    masked_below: u32,
    members: bool,
}

#[cube]
fn mix(value: u32) -> u32 {
    let first = (value ^ (value >> 16)) * FIRST_MULTIPLIER;
    let second = (first ^ (first >> 15)) * SECOND_MULTIPLIER;
    second ^ (second >> 16)
}

#[cube]
fn draw(key0: u32, key1: u32, counter: u32) -> u32 {
    mix(mix(mix(counter) ^ key0) + key1)
}

#[cube]
fn in_cell(clip: &Clip, token: u32, start: u32, kept: u32) -> bool {
    let patch = token % clip.patches;
    let column = patch % clip.columns % 2;
    let place = select(patch / clip.columns % 2 == 1, 3 - column, column);
    (place + 4 - (start + token / clip.patches) % 4) % 4 < kept
}

#[cube]
fn is_masked(clip: &Clip, token: u32, masked_below: u32, #[comptime] kind: MaskKind) -> bool {
    if comptime!(kind == MaskKind::Tube) {
        draw(clip.key0, clip.key1, token % clip.patches) < masked_below
    } else if comptime!(kind == MaskKind::Random) {
        draw(clip.key0, clip.key1, token) < masked_below
    } else {
        !in_cell(clip, token, clip.start, clip.kept)
    }
}

/// The limit that exactly `search.count` of the candidates' draws lie below; there are more candidates than that.
#[cube]
fn limit_of(
    clip: &Clip,
    search: &Search,
    scratch: &mut SharedMemory<f32>,
    #[comptime] kind: MaskKind,
    #[comptime] decoder: bool,
) -> u32 {
    let mut limit = 0u32.runtime();
    let mut bit = HIGHEST_BIT.runtime();
    while bit > 0 {
        let next = limit | bit;
        let mut below = f32::new(0.0);
        let mut token = UNIT_POS;
        while token < search.range {
            let mut counted = draw(clip.key0, clip.key1, token) < next;
            if comptime!(decoder) {
                let member = in_cell(clip, token, clip.decoder_start, clip.decoder_kept);
                counted = draw(clip.key0, clip.key1, token + DECODER) < next
                    && is_masked(clip, token, search.masked_below, kind)
                    && member == search.members;
            }
            below += select(counted, f32::new(1.0), f32::new(0.0));
            token += UNITS;
        }
        let below = cube_sum(below, scratch);
        limit = select(below <= f32::cast_from(search.count), next, limit);
        bit >>= 1;
    }
    limit
}

#[cube(launch_unchecked)]
fn generate_kernel(
    keys: &Array<u32>,
    order: &mut Array<u32>,
    clips: u32,
    tokens: u32,
    patches: u32,
    columns: u32,
    searched: u32,
    masked_of_searched: u32,
    visible: u32,
    decoded: u32,
    kept: u32,
    decoder_kept: u32,
    #[comptime] kind: MaskKind,
    #[comptime] decode_all: bool,
) {
    let mut scratch = SharedMemory::<f32>::new(UNITS as usize);
    let mut seen_of = SharedMemory::<u32>::new(UNITS as usize);
    let mut decoded_of = SharedMemory::<u32>::new(UNITS as usize);
    let clip_index = CUBE_POS as u32;
    if clip_index < clips {
        let (key0, key1) = (keys[(2 * clip_index) as usize], keys[(2 * clip_index + 1) as usize]);
        let start = draw(key0, key1, ENCODER_START.runtime()) % 4;
        let decoder_start = draw(key0, key1, DECODER_START.runtime()) % 4;
        let clip = Clip { key0, key1, patches, columns, start, kept, decoder_start, decoder_kept };
        let mut masked_below = 0u32.runtime();
        if comptime!(kind != MaskKind::RunningCell) {
            let members = false.runtime();
            let search = Search { range: searched, count: masked_of_searched, masked_below, members };
            masked_below = limit_of(&clip, &search, &mut scratch, kind, false);
        }

        let mut members = false.runtime();
        let mut decoded_below = 0u32.runtime();
        if comptime!(!decode_all) {
            let mut inside = f32::new(0.0);
            let mut token = UNIT_POS;
            while token < tokens {
                if is_masked(&clip, token, masked_below, kind) && in_cell(&clip, token, decoder_start, decoder_kept) {
                    inside += 1.0;
                }
                token += UNITS;
            }
            let inside = u32::cast_from(cube_sum(inside, &mut scratch));
            // Some of the cell's tokens, or all of them and some others.
            members = inside > decoded;
            let mut count = decoded;
            if !members {
                count = decoded - inside;
            }
            let search = Search { range: tokens, count, masked_below, members };
            decoded_below = limit_of(&clip, &search, &mut scratch, kind, true);
        }

        // A unit lists a run of tokens: twice over it, once to count and once to write.
        let run = (tokens + comptime!(UNITS - 1)) / UNITS;
        let from = min(UNIT_POS * run, tokens);
        let to = min(from + run, tokens);
        let mut at_seen = clip_index * (visible + decoded);
        let mut at_decoded = at_seen + visible;
        #[unroll]
        for pass in 0..2u32 {
            let write = comptime!(pass == 1);
            let mut seen = 0u32.runtime();
            let mut predicted = 0u32.runtime();
            for token in from..to {
                if is_masked(&clip, token, masked_below, kind) {
                    let mut taken = true.runtime();
                    if comptime!(!decode_all) {
                        let member = in_cell(&clip, token, decoder_start, decoder_kept);
                        taken = draw(key0, key1, token + DECODER) < decoded_below;
                        // With too few members, all of them; else members alone.
                        if member != members {
                            taken = member;
                        }
                    }
                    if taken {
                        if comptime!(write) {
                            order[(at_decoded + predicted) as usize] = token;
                        }
                        predicted += 1;
                    }
                } else {
                    if comptime!(write) {
                        order[(at_seen + seen) as usize] = token;
                    }
                    seen += 1;
                }
            }
            if comptime!(!write) {
                seen_of[UNIT_POS as usize] = seen;
                decoded_of[UNIT_POS as usize] = predicted;
                sync_cube();
                for before in 0..UNIT_POS {
                    at_seen += seen_of[before as usize];
                    at_decoded += decoded_of[before as usize];
                }
            }
        }
    }
}

/// Writes the table of `clips` clips: for each the row that [`super::on_host`] gives for its key.
///
/// # Shapes
/// - `keys`: `[clips, 2]`, u32; clips with the same two words get the same mask
/// - `order`: `[clips, visible + decoded]`, u32
///
/// # Errors
/// [`KernelError::Shape`] when the counts don't fit the geometry, or the table holds 2^32 tokens or more.
pub fn generate<R: Runtime>(
    client: &ComputeClient<R>,
    shape: &MaskShape,
    keys: &Handle,
    order: &Handle,
    clips: usize,
) -> Result<(), KernelError> {
    shape.check()?;
    let counts = shape.counts(clips);
    counts.check("masking::generate", 1)?;
    numbered("masking::generate", "tokens of all clips", clips.saturating_mul(shape.tokens()))?;
    let (searched, masked_of_searched) = match shape.kind {
        MaskKind::Tube => (shape.patches(), shape.masked / shape.frames),
        MaskKind::Random | MaskKind::RunningCell => (shape.tokens(), shape.masked),
    };
    let (cubes, dim) = row_grid(clips, Split::Cube);
    // SAFETY: keys and table have these lengths; the kernel checks the clip and lists exactly the tokens counted.
    unsafe {
        generate_kernel::launch_unchecked::<R>(
            client,
            cubes,
            dim,
            ArrayArg::from_raw_parts(keys.clone(), 2 * clips),
            ArrayArg::from_raw_parts(order.clone(), counts.rows()),
            clips as u32,
            shape.tokens() as u32,
            shape.patches() as u32,
            shape.columns as u32,
            searched as u32,
            masked_of_searched as u32,
            counts.visible as u32,
            counts.decoded as u32,
            shape.kept(),
            shape.decoder_kept(),
            shape.kind,
            shape.decoded == shape.masked,
        );
    }
    Ok(())
}
