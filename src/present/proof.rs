//! What the builders return.

use std::fmt;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::clock::Timestamp;

/// How long a proof is valid.
pub const PROOF_TTL: Duration = Duration::from_secs(60);

/// The header fields that prove one action. `Debug` shows their names and not their values.
#[derive(Debug)]
pub struct Proof {
    headers: Vec<ProofHeader>,
    id: Option<String>,
    expires: Timestamp,
}

/// One header field. Its value may have a token of a credential, so it is zeroized.
pub struct ProofHeader {
    /// The name, as its standard writes it.
    pub name: &'static str,
    /// The value, in visible ASCII and spaces.
    pub value: Zeroizing<String>,
}

impl Proof {
    /// `id` is the `jti` or nonce.
    pub(super) fn new(headers: Vec<ProofHeader>, id: Option<String>, expires: Timestamp) -> Proof {
        Proof { headers, id, expires }
    }

    /// The fields, in the order in which they are to be sent.
    pub fn headers(&self) -> &[ProofHeader] {
        &self.headers
    }

    /// The value of the field of this name, as its standard writes it.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|header| header.name == name).map(|header| header.value.as_str())
    }

    /// The identifier in the proof, for the audit log: its `jti` or nonce of 128 random bits. SigV4 has none.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// When a verifier refuses it at the latest, if the clocks agree. A DPoP proof does not say so itself.
    pub fn expires(&self) -> Timestamp {
        self.expires
    }
}

impl ProofHeader {
    pub(super) fn new(name: &'static str, value: impl Into<String>) -> ProofHeader {
        ProofHeader { name, value: Zeroizing::new(value.into()) }
    }
}

impl fmt::Debug for ProofHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProofHeader").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_does_not_show_values() {
        let proof = Proof::new(vec![ProofHeader::new("DPoP", "secret")], None, Timestamp::from_secs(1));
        assert_eq!(proof.header("DPoP"), Some("secret"));
        assert_eq!(proof.header("X"), None);
        assert!(!format!("{proof:?}").contains("secret"));
    }
}
