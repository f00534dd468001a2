//! Which policies were in force at a decision.

use serde::{Serialize, Serializer};

/// A set of policies, in audit records, tokens and `status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PolicySetId {
    /// Counts the different sets that were in force since the daemon started, from 1.
    pub version: u64,
    /// SHA-256 of the set, serialized as [`PolicySetId::sha256_hex`].
    #[serde(serialize_with = "hex")]
    pub sha256: [u8; 32],
}

impl PolicySetId {
    /// The digest as 64 lower-case hexadecimal digits.
    pub fn sha256_hex(&self) -> String {
        data_encoding::HEXLOWER.encode(&self.sha256)
    }
}

fn hex<S: Serializer>(digest: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
    // On the stack, because each audit record and token has it.
    let mut text = [0; 64];
    data_encoding::HEXLOWER.encode_mut(digest, &mut text);
    serializer.serialize_str(std::str::from_utf8(&text).map_err(serde::ser::Error::custom)?)
}
