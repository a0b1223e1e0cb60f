//! The four ways a pickle writes a string.

use std::borrow::Cow;

/// UTF-8 as Python writes it: lone surrogates, which Rust strings cannot hold, become U+FFFD.
pub(super) fn utf8(raw: &[u8]) -> Option<Cow<'_, str>> {
    if let Ok(text) = std::str::from_utf8(raw) {
        return Some(Cow::Borrowed(text));
    }
    let mut clean = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((&first, tail)) = rest.split_first() {
        if let [0xed, 0xa0..=0xbf, 0x80..=0xbf, after @ ..] = rest {
            clean.extend_from_slice("\u{fffd}".as_bytes());
            rest = after;
        } else {
            clean.push(first);
            rest = tail;
        }
    }
    String::from_utf8(clean).ok().map(Cow::Owned)
}

/// Protocol 0 `UNICODE`: Latin-1 bytes with `\uXXXX` and `\UXXXXXXXX` for everything else.
pub(super) fn raw_unicode_escape(raw: &[u8]) -> Option<Cow<'_, str>> {
    if raw.is_ascii() && !raw.contains(&b'\\') {
        return std::str::from_utf8(raw).ok().map(Cow::Borrowed);
    }
    let mut text = String::with_capacity(raw.len());
    let mut high: Option<u32> = None; // first half of a UTF-16 pair, as narrow Python 2 builds write them
    let mut rest = raw;
    while let Some((&first, tail)) = rest.split_first() {
        let digits = match (first, tail.first()) {
            (b'\\', Some(b'u')) => 4,
            (b'\\', Some(b'U')) => 8,
            _ => 0,
        };
        let code = if digits == 0 {
            rest = tail;
            u32::from(first)
        } else {
            let hex = tail.get(1..1 + digits)?;
            rest = &tail[1 + digits..];
            u32::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()?
        };
        match (high.take(), code) {
            (Some(h), 0xdc00..=0xdfff) => {
                let pair = 0x10000 + ((h - 0xd800) << 10) + (code - 0xdc00);
                text.push(char::from_u32(pair)?);
                continue;
            }
            (Some(_), _) => text.push('\u{fffd}'),
            (None, _) => {}
        }
        match code {
            0xd800..=0xdbff => high = Some(code),
            0xdc00..=0xdfff => text.push('\u{fffd}'),
            _ => text.push(char::from_u32(code)?),
        }
    }
    if high.is_some() {
        text.push('\u{fffd}');
    }
    Some(Cow::Owned(text))
}

/// Protocol 0 `STRING`: a quoted Python 2 `repr` of bytes.
pub(super) fn quoted(raw: &[u8]) -> Option<Cow<'_, [u8]>> {
    let inner = match raw {
        [b'\'', inner @ .., b'\''] | [b'"', inner @ .., b'"'] => inner,
        _ => return None,
    };
    if !inner.contains(&b'\\') {
        return Some(Cow::Borrowed(inner));
    }
    let mut bytes = Vec::with_capacity(inner.len());
    let mut rest = inner;
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        if first != b'\\' {
            bytes.push(first);
            continue;
        }
        let (&escape, tail) = rest.split_first()?;
        rest = tail;
        let byte = match escape {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'a' => 0x07,
            b'b' => 0x08,
            b'f' => 0x0c,
            b'v' => 0x0b,
            b'\\' | b'\'' | b'"' => escape,
            b'x' => {
                let hex = std::str::from_utf8(rest.get(..2)?).ok()?;
                rest = &rest[2..];
                u8::from_str_radix(hex, 16).ok()?
            }
            b'0'..=b'7' => {
                let more = rest.iter().take(2).take_while(|b| (b'0'..=b'7').contains(b)).count();
                let octal = rest[..more].iter().fold(u32::from(escape - b'0'), |n, d| n * 8 + u32::from(d - b'0'));
                rest = &rest[more..];
                octal as u8 // Python keeps the low byte
            }
            _ => {
                bytes.push(b'\\');
                escape
            }
        };
        bytes.push(byte);
    }
    Some(Cow::Owned(bytes))
}

/// The bytes that `text.encode('latin1')` gives.
pub(super) fn latin1(text: &str) -> Option<Vec<u8>> {
    text.chars().map(|c| u8::try_from(c).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utf8_replaces_only_surrogates() {
        assert_eq!(utf8("café".as_bytes()).unwrap(), "café");
        assert_eq!(utf8(b"a\xed\xa0\x80b").unwrap(), "a\u{fffd}b");
        assert_eq!(utf8(b"a\xff"), None);
    }

    #[test]
    fn raw_unicode_escapes() {
        assert_eq!(raw_unicode_escape(b"plain").unwrap(), "plain");
        assert_eq!(raw_unicode_escape(b"caf\xe9").unwrap(), "café");
        assert_eq!(raw_unicode_escape(b"a\\u005cb").unwrap(), "a\\b");
        assert_eq!(raw_unicode_escape(b"\\U0001f600").unwrap(), "\u{1f600}");
        assert_eq!(raw_unicode_escape(b"\\ud83d\\ude00").unwrap(), "\u{1f600}");
        assert_eq!(raw_unicode_escape(b"\\ud83dx").unwrap(), "\u{fffd}x");
        assert_eq!(raw_unicode_escape(b"\\u12"), None);
    }

    #[test]
    fn quoted_strings() {
        assert_eq!(quoted(b"'it'").unwrap().as_ref(), b"it");
        assert_eq!(quoted(br#""a\n\x41\101\\\q""#).unwrap().as_ref(), b"a\nAA\\\\q");
        assert_eq!(quoted(b"'open"), None);
        assert_eq!(quoted(b"'"), None);
        assert_eq!(quoted(br"'\x4'"), None);
    }
}
