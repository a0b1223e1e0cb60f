//! Points in time as annotation files write them.

/// Seconds from `12.5` or `hh:mm:ss.ff`; minutes and seconds below 60, hours without limit.
/// Plain numbers may be negative, infinite or NaN.
pub fn parse_time(text: &str) -> Option<f64> {
    let text = text.trim();
    let Some((hours, rest)) = text.split_once(':') else {
        return text.parse().ok();
    };
    let (minutes, seconds) = rest.split_once(':')?;
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let fraction = |part: &str| part.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if !(digits(hours) && digits(minutes) && fraction(seconds)) {
        return None;
    }
    let hours: u32 = hours.parse().ok()?;
    let minutes: u32 = minutes.parse().ok()?;
    let seconds: f64 = seconds.parse().ok()?;
    if minutes >= 60 || seconds >= 60.0 {
        return None;
    }
    Some(f64::from(hours) * 3600.0 + f64::from(minutes * 60) + seconds)
}

#[cfg(test)]
mod tests {
    use super::parse_time;

    #[test]
    fn seconds_and_clock_times() {
        assert_eq!(parse_time("12.5"), Some(12.5));
        assert_eq!(parse_time(" -3 "), Some(-3.0));
        assert_eq!(parse_time("00:00:01.89"), Some(1.89));
        assert_eq!(parse_time("01:02:03.50"), Some(3723.5));
        assert_eq!(parse_time("100:00:00"), Some(360_000.0));
        assert!(parse_time("nan").is_some_and(f64::is_nan));
        for bad in ["", "a", "1:2", "1:60:00", "1:00:60", "1::2", "-1:00:00", "1:00:-2", "1:2:3:4", "1:2:inf", "1:2:"] {
            assert_eq!(parse_time(bad), None, "{bad}");
        }
    }
}
