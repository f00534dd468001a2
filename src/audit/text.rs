//! Bounds the text in records and journal entries. Longer text is cut, with its length and digest as a mark.

use std::borrow::Cow;

use data_encoding::HEXLOWER;
use serde::{Serialize, Serializer};

use crate::config::is_escaped_in_json;
use crate::digest::sha256;

/// Bytes of JSON for names and identifiers: six for each of 45 characters, so that a key's thumbprint is
/// never searched for characters to escape.
pub(super) const MAX_NAME: usize = 270;
/// Bytes of JSON for text that a caller determines, such as the audience of a refused request.
pub(super) const MAX_CALLER_TEXT: usize = 512;
/// Bytes of JSON for the path of an executable.
pub(super) const MAX_EXE_PATH: usize = 1024;
/// Bytes of JSON for audiences, scopes and SPIFFE IDs that were granted.
pub(super) const MAX_GRANTED_TEXT: usize = 1920;
/// Bytes of JSON for the description of an event of the daemon.
pub(super) const MAX_EVENT_TEXT: usize = 4096;

/// JSON uses at most this number of bytes for one byte of text: `\u001f`.
const MAX_EXPANSION: usize = 6;
/// Upper bound of the mark's length: `… (18446744073709551615 bytes, SHA-256 ` and 64 digits and `)`.
const MAX_MARK_LEN: usize = 112;

/// Text that is cut where it takes more than `max` bytes of JSON.
#[derive(Clone, Copy, Debug)]
pub(super) struct BoundedText<'a> {
    text: &'a str,
    max: usize,
}

impl<'a> BoundedText<'a> {
    /// `max` is at least 112, the length of the mark.
    pub(super) fn new(text: &'a str, max: usize) -> BoundedText<'a> {
        BoundedText { text, max }
    }

    /// Returns the whole text.
    pub(super) fn whole(&self) -> &'a str {
        self.text
    }

    /// Returns the text, or its beginning with the mark: `…`, and the length and the SHA-256 digest of the
    /// whole text, so that a reader who has the whole text can recognize it.
    pub(super) fn cut(&self) -> Cow<'a, str> {
        // Almost all texts are short or need no escapes, and cost no more than these comparisons.
        let is_plain = |b: u8| matches!(b, b' '..=b'~') && b != b'"' && b != b'\\';
        if self.text.len() * MAX_EXPANSION <= self.max
            || self.text.len() <= self.max && self.text.bytes().all(is_plain)
        {
            return Cow::Borrowed(self.text);
        }
        let max_kept = self.max.saturating_sub(MAX_MARK_LEN);
        let (mut encoded_len, mut kept) = (0, 0);
        for (at, c) in self.text.char_indices() {
            encoded_len += encoded_char_len(c);
            if encoded_len <= max_kept {
                kept = at + c.len_utf8();
            }
            if encoded_len > self.max {
                let digest = HEXLOWER.encode(&sha256(self.text.as_bytes()));
                let mark = format!("… ({} bytes, SHA-256 {digest})", self.text.len());
                return Cow::Owned(format!("{}{mark}", &self.text[..kept]));
            }
        }
        Cow::Borrowed(self.text)
    }
}

impl Serialize for BoundedText<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.cut())
    }
}

/// Cuts a text of the daemon to `max` bytes of JSON.
pub(super) fn cut_owned(text: String, max: usize) -> String {
    match BoundedText::new(&text, max).cut() {
        Cow::Borrowed(_) => text,
        Cow::Owned(cut) => cut,
    }
}

/// Returns the bytes that a record has for a text, without the quotes.
#[cfg(test)]
pub(super) fn encoded_len(text: &str) -> usize {
    text.chars().map(encoded_char_len).sum()
}

fn encoded_char_len(c: char) -> usize {
    match c {
        '"' | '\\' | '\u{8}' | '\t' | '\n' | '\u{c}' | '\r' => 2,
        '\0'..='\u{1f}' => MAX_EXPANSION,
        _ if is_escaped_in_json(c) => MAX_EXPANSION * c.len_utf16(),
        _ => c.len_utf8(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::escape_unprintable_json;

    /// Returns the length in a record without the quotes.
    fn json_len(text: &str) -> usize {
        escape_unprintable_json(&serde_json::to_string(text).unwrap()).len() - 2
    }

    #[test]
    fn encoded_length_is_that_of_the_json() {
        for c in (0..0x250).filter_map(char::from_u32).chain(['…', '\u{fffd}', '🦀', '\u{202e}', '\u{e0041}'])
        {
            assert_eq!(encoded_len(&c.to_string()), json_len(&c.to_string()), "{c:?}");
        }
    }

    #[test]
    fn cuts_by_encoded_bytes_at_a_character() {
        for unit in ["a", "\u{1}", "\"", "\u{7f}", "\u{9b}", "\u{202e}", "\u{e0041}", "ä", "🦀", "a\u{1}🦀\\"]
        {
            for count in [0, 1, 20, 40, 100, 255, 256, 257, 1000, 12_100] {
                let text = unit.repeat(count);
                let cut = BoundedText::new(&text, 256).cut();
                assert!(json_len(&cut) <= 256, "{count} of {unit:?}: {}", json_len(&cut));
                assert_eq!(*cut == *text, json_len(&text) <= 256, "{count} of {unit:?}");
                if *cut != *text {
                    let (kept, mark) = cut.split_once('…').unwrap();
                    assert!(text.starts_with(kept) && json_len(kept) + 16 > 256 - MAX_MARK_LEN);
                    assert!(mark.starts_with(&format!(" ({} bytes, SHA-256 ", text.len())), "{mark}");
                }
            }
        }
    }

    #[test]
    fn mark_fits_its_bound() {
        let mark = format!("… ({} bytes, SHA-256 {})", usize::MAX, "0".repeat(64));
        assert!(mark.len() <= MAX_MARK_LEN, "{}", mark.len());
    }
}
