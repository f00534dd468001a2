//! Text from elsewhere for terminals, logs and messages.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Escapes control characters and others that are not displayed as themselves or change the order of the text
/// around them, so that text from elsewhere cannot imitate other lines or control a terminal. Quotes and
/// backslashes stay as they are.
pub fn escape_unprintable(text: &str) -> Cow<'_, str> {
    // Almost all texts are visible ASCII, for which one pass over the bytes is sufficient.
    if text.bytes().all(|b| matches!(b, b' '..=b'~')) || !text.contains(is_unprintable) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() * 2);
    for c in text.chars() {
        if is_bidi_control(c) {
            escaped.extend(c.escape_unicode());
        } else if is_unprintable(c) {
            escaped.extend(c.escape_debug());
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

/// As [`escape_unprintable`], for a text in JSON: characters beyond ASCII become `\u` escapes, which a reader of the JSON
/// gets as they were. JSON has others escaped already, and has none of these outside of its texts.
pub fn escape_unprintable_json(json: &str) -> Cow<'_, str> {
    if json.bytes().all(|b| matches!(b, b' '..=b'~')) || !json.contains(is_escaped_in_json) {
        return Cow::Borrowed(json);
    }
    let mut escaped = String::with_capacity(json.len() * 2);
    for c in json.chars() {
        if is_escaped_in_json(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a String cannot fail.
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

/// Whether [`escape_unprintable_json`] escapes a character.
pub fn is_escaped_in_json(c: char) -> bool {
    c > '~' && is_unprintable(c)
}

/// Whether a character is not displayed as itself, for example because it combines with the one before.
fn is_unprintable(c: char) -> bool {
    let is_quote_or_backslash = matches!(c, '"' | '\'' | '\\');
    is_bidi_control(c) || !is_quote_or_backslash && c.escape_debug().len() > 1
}

/// The characters with the property Bidi_Control (Unicode Standard Annex 9).
fn is_bidi_control(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_means_the_same_when_it_is_escaped() {
        let text = "ä\u{9b}31m\u{202e}\u{7f}\u{301}\u{e0041}🦀\u{1b}\"\\…";
        let json = serde_json::to_string(&text).unwrap();
        let escaped = escape_unprintable_json(&json);
        assert_eq!(serde_json::from_str::<String>(&escaped).unwrap(), text);
        assert!(!escaped.contains(is_unprintable), "{escaped}");
        assert!(escaped.contains("\\u009b31m\\u202e\\u007f") && escaped.contains("🦀"), "{escaped}");
        assert!(matches!(escape_unprintable_json("{\"a\":\"ä\"}"), Cow::Borrowed(_)));
    }

    #[test]
    fn only_what_is_not_displayed_as_itself_is_escaped() {
        for text in ["", "plain", "ä \"b\" 'c' \\ 🦀 … 漢"] {
            assert!(matches!(escape_unprintable(text), Cow::Borrowed(same) if same == text));
        }
        assert_eq!(escape_unprintable("\"a\\\u{202e}b\" 'ä'\n\u{1b}[2J"), r#""a\\u{202e}b" 'ä'\n\u{1b}[2J"#);
        for c in ['\u{7f}', '\u{85}', '\u{301}', '\u{2066}', '\u{2028}', '\u{feff}', '\u{e0041}'] {
            assert_eq!(escape_unprintable(&format!("a{c}b")), format!("a{}b", c.escape_unicode()));
        }
    }
}
