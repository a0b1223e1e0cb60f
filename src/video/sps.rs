//! What a sequence parameter set of H.264 says about the pictures of a stream.
//!
//! Enough to do without libavformat's probing, which decodes pictures to learn the same.

/// The facts that decoding needs before the first packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Size in pixels after cropping.
    pub width: u32,
    pub height: u32,
    /// Every picture is a whole frame.
    pub progressive: bool,
    /// The stream says how far pictures are reordered (`bitstream_restriction_flag`). Otherwise libavcodec guesses
    /// as it goes, and may show pictures out of order before it knows.
    pub states_reordering: bool,
}

/// `profile_idc` of the profiles whose sets have chroma format, bit depth and scaling matrices (7.3.2.1.1).
const HIGH_PROFILES: [u32; 13] = [100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135];

impl Sequence {
    /// From a decoder configuration record (`avcC`, ISO/IEC 14496-15, 5.3.3.1) with a single set.
    pub fn from_config(config: &[u8]) -> Option<Sequence> {
        let [1, _, _, _, _, count, high, low, rest @ ..] = config else {
            return None;
        };
        let len = usize::from(*high) << 8 | usize::from(*low);
        (count & 31 == 1).then(|| rest.get(..len)).flatten().and_then(Sequence::from_nal)
    }

    /// From a NAL unit (ITU-T H.264, 7.3.2.1.1 and E.1.1). `None` when it ends early or is none.
    pub fn from_nal(nal: &[u8]) -> Option<Sequence> {
        if nal.first()? & 31 != 7 {
            return None;
        }
        let payload = super::bitstream::without_emulation(&nal[1..]);
        let mut bits = Bits { data: &payload, at: 0 };
        let profile = bits.read(8)?;
        bits.read(16)?; // constraints, level
        bits.golomb()?; // seq_parameter_set_id
        let mut chroma_format = 1;
        let mut separate_planes = false;
        if HIGH_PROFILES.contains(&profile) {
            chroma_format = bits.golomb()?;
            separate_planes = chroma_format == 3 && bits.flag()?;
            bits.golomb()?; // bit_depth_luma_minus8
            bits.golomb()?; // bit_depth_chroma_minus8
            bits.read(1)?; // qpprime_y_zero_transform_bypass_flag
            if bits.flag()? {
                for list in 0..if chroma_format == 3 { 12 } else { 8 } {
                    if bits.flag()? {
                        bits.skip_scaling_list(if list < 6 { 16 } else { 64 })?;
                    }
                }
            }
        }
        bits.golomb()?; // log2_max_frame_num_minus4
        match bits.golomb()? {
            0 => {
                bits.golomb()?; // log2_max_pic_order_cnt_lsb_minus4
            }
            1 => {
                bits.read(1)?; // delta_pic_order_always_zero_flag
                bits.golomb()?; // offset_for_non_ref_pic
                bits.golomb()?; // offset_for_top_to_bottom_field
                for _ in 0..bits.golomb()?.min(255) {
                    bits.golomb()?; // offset_for_ref_frame
                }
            }
            _ => {}
        }
        bits.golomb()?; // max_num_ref_frames
        bits.read(1)?; // gaps_in_frame_num_value_allowed_flag
        let width = bits.golomb()?.checked_add(1)?.checked_mul(16)?;
        let height = bits.golomb()?.checked_add(1)?;
        let progressive = bits.flag()?;
        let height = height.checked_mul(if progressive { 16 } else { 32 })?;
        if !progressive {
            bits.read(1)?; // mb_adaptive_frame_field_flag
        }
        bits.read(1)?; // direct_8x8_inference_flag
        let mut cropped = [0; 4];
        if bits.flag()? {
            for side in &mut cropped {
                *side = bits.golomb()?;
            }
        }
        let [left, right, top, bottom] = cropped;
        // Table 6-1 and equations 7-19 to 7-22.
        let (unit_x, unit_y) = match chroma_format {
            1 if !separate_planes => (2, 2),
            2 => (2, 1),
            _ => (1, 1),
        };
        let unit_y = if progressive { unit_y } else { 2 * unit_y };
        let width = width.checked_sub(left.checked_add(right)?.checked_mul(unit_x)?)?;
        let height = height.checked_sub(top.checked_add(bottom)?.checked_mul(unit_y)?)?;
        let states_reordering = bits.flag()? && bits.states_reordering()?;
        Some(Sequence { width, height, progressive, states_reordering })
    }
}

/// Reads bits from the highest down.
struct Bits<'a> {
    data: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn read(&mut self, count: u32) -> Option<u32> {
        let mut value = 0;
        for _ in 0..count {
            let byte = self.data.get(self.at / 8)?;
            value = value << 1 | u32::from(byte >> (7 - self.at % 8) & 1);
            self.at += 1;
        }
        Some(value)
    }

    fn flag(&mut self) -> Option<bool> {
        self.read(1).map(|bit| bit == 1)
    }

    /// An Exp-Golomb code, ue(v); se(v) has the same length (9.1).
    fn golomb(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while !self.flag()? {
            zeros += 1;
        }
        (zeros < 32).then_some(())?;
        self.read(zeros).map(|rest| rest + ((1 << zeros) - 1))
    }

    fn skip_scaling_list(&mut self, len: usize) -> Option<()> {
        let (mut last, mut next) = (8i64, 8i64);
        for _ in 0..len {
            if next != 0 {
                let code = i64::from(self.golomb()?);
                let delta = if code % 2 == 1 { (code + 1) / 2 } else { -code / 2 };
                next = (last + delta).rem_euclid(256);
            }
            last = if next == 0 { last } else { next };
        }
        Some(())
    }

    /// Whether the VUI parameters, which start here, end with a bitstream restriction.
    fn states_reordering(&mut self) -> Option<bool> {
        const EXTENDED_SAR: u32 = 255;
        if self.flag()? && self.read(8)? == EXTENDED_SAR {
            self.read(32)?;
        }
        if self.flag()? {
            self.read(1)?; // overscan_appropriate_flag
        }
        if self.flag()? {
            self.read(4)?; // video_format, video_full_range_flag
            if self.flag()? {
                self.read(24)?;
            }
        }
        if self.flag()? {
            self.golomb()?;
            self.golomb()?;
        }
        if self.flag()? {
            self.read(32)?; // num_units_in_tick
            self.read(32)?; // time_scale
            self.read(1)?; // fixed_frame_rate_flag
        }
        let mut has_hrd = false;
        for _ in 0..2 {
            if self.flag()? {
                has_hrd = true;
                let count = self.golomb()?.min(31) + 1;
                self.read(8)?; // bit_rate_scale, cpb_size_scale
                for _ in 0..count {
                    self.golomb()?;
                    self.golomb()?;
                    self.read(1)?;
                }
                self.read(20)?; // lengths of delays
            }
        }
        if has_hrd {
            self.read(1)?; // low_delay_hrd_flag
        }
        self.read(1)?; // pic_struct_present_flag
        self.flag()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect()
    }

    /// `avcC` of x264 at 512x288, and of encoders at 768x432, with VUI but no restriction, and at 320x240.
    const X264: &str =
        "01640015ffe1001c67640015acd9408025a6a0c0c0c8000003000800000301e078b16cb001000668ebe3cb22c0fdf8f800";
    const OPEN: &str = "01428016ffe100176742801696540601bd350606064000000300400000066101000468ce3520";
    const SMALL: &str = "01640028ffe1000d27640028ac2b40a0fd00f1226a01000528ee025cb0";

    #[test]
    fn reads_size_and_restriction() {
        let x264 = Sequence::from_config(&bytes(X264)).unwrap();
        assert_eq!(x264, Sequence { width: 512, height: 288, progressive: true, states_reordering: true });
        let open = Sequence::from_config(&bytes(OPEN)).unwrap();
        assert_eq!(open, Sequence { width: 768, height: 432, progressive: true, states_reordering: false });
        let small = Sequence::from_config(&bytes(SMALL)).unwrap();
        assert_eq!(small, Sequence { width: 320, height: 240, progressive: true, states_reordering: true });
    }

    #[test]
    fn whatever_ends_early_is_none() {
        let whole = bytes(X264);
        // Up to the last byte of the set.
        for len in 0..8 + 28 {
            assert_eq!(Sequence::from_config(&whole[..len]), None, "{len}");
        }
        assert_eq!(Sequence::from_nal(&[0x67]), None);
        assert_eq!(Sequence::from_nal(&[0x67, 100, 0, 30, 0, 0, 0, 0, 0, 0]), None);
        let mut two = whole.clone();
        two[5] = 0xE2;
        assert_eq!(Sequence::from_config(&two), None);
    }
}
