//! Single tokens: those that are revoked, and those that were used once.

use std::collections::HashMap;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::digest::sha256;

/// Identifies a token: the first 128 bits of the SHA-256 digest of its `jti`, so that a `jti` of any length takes
/// the same memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenKey([u8; 16]);

impl TokenKey {
    /// The key of a `jti`.
    pub fn of_jti(jti: &str) -> TokenKey {
        let mut key = [0; 16];
        key.copy_from_slice(&sha256(jti.as_bytes())[..16]);
        TokenKey(key)
    }

    /// The key of these bytes, as in the database.
    pub(crate) fn from_bytes(bytes: [u8; 16]) -> TokenKey {
        TokenKey(bytes)
    }

    /// Its bytes.
    pub(crate) fn to_bytes(self) -> [u8; 16] {
        self.0
    }
}

/// The label of the key in the keystore that authenticates nonces.
pub(super) const NONCE_KEY_LABEL: &str = "nonces 1";
/// The mark of a use is kept this much longer than what was used is valid, because the clock may be adjusted.
const MARK_SLACK: Duration = Duration::from_secs(120);

/// The time until which the mark of a use is kept, of what is valid until `expires`.
pub(super) fn mark_expires(expires: Timestamp) -> Timestamp {
    expires.after(MARK_SLACK)
}

/// Tokens with the time at which each expires.
#[derive(Debug, Default)]
pub(super) struct TokenTable {
    pub(super) revoked: HashMap<TokenKey, Timestamp>,
    pub(super) used: HashMap<TokenKey, Timestamp>,
}

impl TokenTable {
    pub(super) fn len(&self) -> usize {
        self.revoked.len() + self.used.len()
    }

    /// Drops the tokens that have expired by `horizon`.
    pub(super) fn forget(&mut self, horizon: Timestamp) {
        for tokens in [&mut self.revoked, &mut self.used] {
            let before = tokens.len();
            tokens.retain(|_, expires| *expires > horizon);
            if tokens.len() < before / 2 {
                tokens.shrink_to_fit();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_forgotten_once_they_have_expired() {
        let mut table = TokenTable::default();
        let at = Timestamp::from_secs;
        table.revoked.insert(TokenKey::of_jti("a"), at(10));
        table.revoked.insert(TokenKey::of_jti("b"), at(20));
        table.used.insert(TokenKey::of_jti("a"), at(10));
        table.forget(at(9));
        assert_eq!(table.len(), 3);
        table.forget(at(10));
        assert_eq!(table.len(), 1);
        assert!(table.revoked.contains_key(&TokenKey::of_jti("b")));
        let key = TokenKey::of_jti("b");
        assert_eq!(TokenKey::from_bytes(key.to_bytes()), key);
    }
}
