//! The kinds of proofs.

use serde::{Deserialize, Serialize};

/// What proves to a relying party that a request is made by the holder of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProofKind {
    /// A DPoP proof (RFC 9449), for a token that is bound to the key or is to be bound to it.
    Dpop,
    /// A Workload Proof Token with its Workload Identity Token (WIMSE).
    Wpt,
    /// An HTTP message signature (RFC 9421) with its Workload Identity Token (WIMSE).
    HttpSignature,
    /// An assertion that authenticates the agent as a client of an authorization server (RFC 7523).
    ClientAssertion,
    /// An attestation that the agent is a client of an authorization server, with a proof of the proof key
    /// (draft-ietf-oauth-attestation-based-client-auth).
    ClientAttestation,
    /// A signature by a sealed access key (AWS Signature Version 4).
    Sigv4,
}

impl ProofKind {
    /// All kinds.
    pub const ALL: [ProofKind; 6] = [
        ProofKind::Dpop,
        ProofKind::Wpt,
        ProofKind::HttpSignature,
        ProofKind::ClientAssertion,
        ProofKind::ClientAttestation,
        ProofKind::Sigv4,
    ];
    /// Their names, in the same order.
    pub const NAMES: &'static [&'static str] =
        &["dpop", "wpt", "http-signature", "client-assertion", "client-attestation", "sigv4"];

    /// The kind as the configuration, requests and policies write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            ProofKind::Dpop => "dpop",
            ProofKind::Wpt => "wpt",
            ProofKind::HttpSignature => "http-signature",
            ProofKind::ClientAssertion => "client-assertion",
            ProofKind::ClientAttestation => "client-attestation",
            ProofKind::Sigv4 => "sigv4",
        }
    }

    /// The kind with this name.
    pub fn from_name(name: &str) -> Option<ProofKind> {
        ProofKind::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// Whether the proof is for one HTTP request, and not for an authorization server as a whole.
    pub const fn is_for_action(self) -> bool {
        !matches!(self, ProofKind::ClientAssertion | ProofKind::ClientAttestation)
    }

    /// Whether the proof key of the agent's invocation makes it.
    pub const fn needs_proof_key(self) -> bool {
        !matches!(self, ProofKind::ClientAssertion | ProofKind::Sigv4)
    }

    /// Whether a sealed credential makes it. Its permission is a `[[credential]]`, and not a grant.
    pub const fn needs_credential(self) -> bool {
        matches!(self, ProofKind::Sigv4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_configuration() {
        assert_eq!(ProofKind::ALL.map(ProofKind::as_str), ProofKind::NAMES);
        for kind in ProofKind::ALL {
            assert_eq!(ProofKind::from_name(kind.as_str()), Some(kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }
}
