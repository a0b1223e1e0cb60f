//! Sizes of memory as people write them.

/// Bytes of a size such as `"20GiB"`, `"512 MiB"`, `"22.5GB"`; KiB, MiB, GiB, TiB count by 1024, kB, MB, GB, TB by 1000.
///
/// # Errors
/// What is wrong, in words.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 9] = [
        ("kib", 1 << 10),
        ("mib", 1 << 20),
        ("gib", 1 << 30),
        ("tib", 1 << 40),
        ("kb", 1_000),
        ("mb", 1_000_000),
        ("gb", 1_000_000_000),
        ("tb", 1_000_000_000_000),
        ("b", 1),
    ];
    let lower = text.trim().to_ascii_lowercase();
    let wrong = || format!("expected a size with its unit, such as \"20GiB\", found {text:?}");
    let (unit, factor) = UNITS.iter().find(|(unit, _)| lower.ends_with(unit)).ok_or_else(wrong)?;
    let number: f64 = lower[..lower.len() - unit.len()].trim().parse().map_err(|_| wrong())?;
    if !(number.is_finite() && number > 0.0) {
        return Err(wrong());
    }
    Ok((number * *factor as f64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_nonsense_is_named() {
        assert_eq!(parse_bytes("20GiB"), Ok(20 << 30));
        assert_eq!(parse_bytes(" 512 MiB "), Ok(512 << 20));
        assert_eq!(parse_bytes("22.5gb"), Ok(22_500_000_000));
        assert_eq!(parse_bytes("100b"), Ok(100));
        for text in ["", "20", "GiB", "-3GiB", "nanGiB", "1e400GiB", "20 apples"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }
}
