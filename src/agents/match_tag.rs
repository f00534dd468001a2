//! Distinguishes the conditions under which tokens and certificates were issued.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use crate::digest::sha256;

/// The first 32 bits of a digest over an agent's conditions, with numbers for users and groups. What was
/// issued under another tag was issued to processes that may not match any more. Displayed as 8 lower-case
/// hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MatchTag(NonZeroU32);

/// The text is not a [`MatchTag`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not 8 hexadecimal digits")]
pub struct ParseMatchTagError;

impl MatchTag {
    /// The tag of these conditions, by name; those without a value are not given. The encoding is stored in
    /// `leaves.json`: a change of it revokes all certificates.
    pub(super) fn new<const N: usize>(conditions: [(&str, Option<String>); N]) -> MatchTag {
        let mut text = "hostbadge match 1\n".to_owned();
        for (name, value) in conditions {
            // With the length, no value can look like another condition.
            if let Some(value) = value {
                text += &format!("{name} {} {value}\n", value.len());
            }
        }
        let [a, b, c, d, ..] = sha256(text.as_bytes());
        MatchTag(NonZeroU32::new(u32::from_be_bytes([a, b, c, d])).unwrap_or(NonZeroU32::MIN))
    }

    /// The tag as bytes, never all zero.
    pub fn to_bytes(self) -> [u8; 4] {
        self.0.get().to_be_bytes()
    }

    /// The tag of these bytes; `None` if all are zero.
    pub fn from_bytes(bytes: [u8; 4]) -> Option<MatchTag> {
        NonZeroU32::new(u32::from_be_bytes(bytes)).map(MatchTag)
    }
}

impl fmt::Display for MatchTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl FromStr for MatchTag {
    type Err = ParseMatchTagError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).map_err(|_| ParseMatchTagError)?;
        let bytes = bytes.try_into().map_err(|_| ParseMatchTagError)?;
        MatchTag::from_bytes(bytes).ok_or(ParseMatchTagError)
    }
}

impl serde::Serialize for MatchTag {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes_round_trip() {
        let tag = MatchTag::from_bytes([0x01, 0x23, 0xab, 0xcd]).unwrap();
        assert_eq!(tag.to_string(), "0123abcd");
        assert_eq!(tag.to_string().parse(), Ok(tag));
        assert_eq!(MatchTag::from_bytes(tag.to_bytes()), Some(tag));
        for text in ["", "00000000", "0123456", "012345678", "g1234567"] {
            assert_eq!(text.parse::<MatchTag>(), Err(ParseMatchTagError), "{text}");
        }
    }
}
