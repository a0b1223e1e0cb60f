//! What the reference does to a caption before it looks for words.

use std::borrow::Cow;
use unicode_normalization::UnicodeNormalization;

/// Cleans `text` as CLIP's reference tokenizer does: repair, HTML unescape twice, white space collapsed, lower case.
///
/// The repair is `ftfy.fix_text` without its guesses about wrongly decoded text (mojibake), which need tables of
/// statistics: entities that end in `;`, Latin ligatures, full- and half-width forms, curly quotes, line breaks,
/// terminal escapes, control characters, canonical composition (NFC); repeated until nothing changes.
///
/// Two accidents of the reference's case-blind pattern are not repeated: there `'` and a long s (U+017F) are one word,
/// and a lone iota subscript (U+0345) vanishes.
pub fn clean(text: &str) -> String {
    let text = if is_plain(text) {
        Cow::Borrowed(text)
    } else {
        let repaired = repair(text);
        let once = htmlize::unescape(&repaired).into_owned();
        Cow::Owned(htmlize::unescape(&once).into_owned())
    };
    let mut cleaned = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !cleaned.is_empty() {
            cleaned.push(' ');
        }
        cleaned.push_str(word);
    }
    cleaned.to_lowercase()
}

/// True when nothing here can change the text: the case of nearly every caption.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t' | b'\n') && byte != b'&')
}

/// `ftfy.fix_text` works line by line and, once it has met a `<`, takes the rest for HTML whose entities it leaves.
fn repair(text: &str) -> String {
    let mut has_tags = false;
    text.split_inclusive('\n')
        .map(|line| {
            has_tags |= line.contains('<');
            repair_line(line, has_tags)
        })
        .collect()
}

fn repair_line(line: &str, has_tags: bool) -> String {
    let mut text = line.to_owned();
    loop {
        let unescaped = if has_tags { text.clone() } else { unescape_terminated(&text) };
        let mut replaced = String::with_capacity(unescaped.len());
        for c in unescaped.chars() {
            push_replacement(c, &mut replaced);
        }
        let composed: String = remove_controls(&remove_terminal_escapes(&replaced)).nfc().collect();
        if composed == text {
            return text;
        }
        text = composed;
    }
}

/// Decodes `&name;` and `&#123;`, but not HTML's forgiving forms without the semicolon.
fn unescape_terminated(text: &str) -> String {
    const LONGEST: usize = 24; // letters of an entity's name that ftfy looks at
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('&') {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let name_at = if rest[1..].starts_with('#') { 2 } else { 1 };
        let name = rest[name_at..].bytes().take_while(u8::is_ascii_alphanumeric).count();
        let end = name_at + name;
        let entity = (1..=LONGEST).contains(&name) && rest[end..].starts_with(';');
        let taken = if entity { end + 1 } else { 1 };
        match htmlize::unescape(&rest[..taken]) {
            // `&notit;` would decode to `¬it;`: not an entity of that name.
            decoded if entity && !decoded.contains(';') => out.push_str(&decoded),
            _ => out.push_str(&rest[..taken]),
        }
        rest = &rest[taken..];
    }
    out.push_str(rest);
    out
}

/// One character's straight, unligatured, ordinary-width form.
fn push_replacement(c: char, out: &mut String) {
    match c {
        '\u{fb05}' => out.push_str("\u{17f}t"), // long s: its compatibility form would lose that
        // Latin ligatures and digraphs: their letters. U+0149 brings a curly quote of its own.
        '\u{132}' | '\u{133}' | '\u{149}' | '\u{1c4}'..='\u{1cc}' | '\u{1f1}'..='\u{1f3}'
        | '\u{fb00}'..='\u{fb06}'
        // Ideographic space, full-width ASCII, half-width kana and jamo: their ordinary width.
        | '\u{3000}' | '\u{ff01}'..='\u{ffef}' => {
            for plain in std::iter::once(c).nfkc() {
                out.push(if plain == '\u{2bc}' { '\'' } else { plain });
            }
        }
        '\u{2018}'..='\u{201b}' | '\u{2bc}' => out.push('\''),
        '\u{201c}'..='\u{201f}' => out.push('"'),
        '\r' | '\u{85}' | '\u{2028}' | '\u{2029}' => out.push('\n'),
        _ => out.push(c),
    }
}

/// Removes `ESC [ digits-and-semicolons letter`: the colours of terminal output.
fn remove_terminal_escapes(text: &str) -> String {
    let mut pieces = text.split("\u{1b}[");
    let mut out = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let parameters = piece.chars().take_while(|c| c.is_numeric() || *c == ';').map(char::len_utf8).sum::<usize>();
        match piece[parameters..].chars().next() {
            Some(c) if c.is_ascii_alphabetic() => out.push_str(&piece[parameters + 1..]),
            _ => {
                out.push('['); // the escape character itself is a control character
                out.push_str(piece);
            }
        }
    }
    out
}

/// Removes what Unicode's TR 20 calls unsuitable for text: controls, annotations, the byte order mark.
fn remove_controls(text: &str) -> String {
    let unwanted = |c: char| {
        matches!(c,
            '\0'..='\u{8}' | '\u{b}' | '\u{e}'..='\u{1f}' | '\u{7f}'
            | '\u{206a}'..='\u{206f}' | '\u{fff9}'..='\u{fffc}' | '\u{feff}')
    };
    text.chars().filter(|&c| !unwanted(c)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_is_trimmed_and_lowered() {
        assert_eq!(clean("  Take\t the\n\nPLATE "), "take the plate");
        assert_eq!(clean(""), "");
    }

    #[test]
    fn entities_are_decoded_to_the_reference_depth() {
        assert_eq!(clean("salt &amp; pepper"), "salt & pepper");
        assert_eq!(clean("it&rsquo;s"), "it's"); // decoded early enough to be straightened
        assert_eq!(clean("a &amp b"), "a & b"); // forgiving form, by the last two passes only
        assert_eq!(clean("<b> &amp;amp;amp; </b>"), "<b> &amp; </b>"); // a tag: two passes, no more
        assert_eq!(clean("&amp;amp;amp;amp;"), "&"); // no tag: until nothing changes
    }

    #[test]
    fn typography_becomes_plain() {
        assert_eq!(clean("“it’s” ﬁne"), "\"it's\" fine");
        assert_eq!(clean("ＬＯＵＤ　ｶﾞ"), "loud ガ");
        assert_eq!(clean("e\u{301}"), "\u{e9}");
        assert_eq!(clean("\u{feff}a\u{1b}[36;44mb\u{0}c"), "abc");
    }
}
