//! Names the invocation in which a certificate was issued, in the record of the certificate.

use std::num::NonZeroU64;

/// The first 64 bits of an invocation ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InvocationTag(NonZeroU64);

impl InvocationTag {
    /// In place of the tag of an invocation that has ended. No ID begins with it.
    pub(super) const ENDED: InvocationTag = InvocationTag(NonZeroU64::MAX);

    /// The tag of an invocation ID of 32 hexadecimal digits.
    pub fn of_id(id: &str) -> Option<InvocationTag> {
        let bits = u64::from_str_radix(id.get(..16)?, 16).ok()?;
        NonZeroU64::new(bits).map(InvocationTag)
    }

    pub(super) fn to_bytes(self) -> [u8; 8] {
        self.0.get().to_be_bytes()
    }

    /// Zero stands for no tag.
    pub(super) fn from_bytes(bytes: [u8; 8]) -> Option<InvocationTag> {
        NonZeroU64::new(u64::from_be_bytes(bytes)).map(InvocationTag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_the_beginning_of_the_id() {
        let tag = InvocationTag::of_id("0123456789abcdef0123456789abcdef").unwrap();
        assert_eq!(tag.to_bytes(), 0x0123_4567_89ab_cdef_u64.to_be_bytes());
        assert_eq!(InvocationTag::from_bytes(tag.to_bytes()), Some(tag));
        for id in ["", "0123", "0000000000000000ffffffffffffffff", "x123456789abcdef0123456789abcdef"] {
            assert_eq!(InvocationTag::of_id(id), None, "{id}");
        }
        assert_eq!(InvocationTag::from_bytes([0; 8]), None);
    }
}
