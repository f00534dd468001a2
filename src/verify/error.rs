//! The error type of offline verification.

use super::ima::entry::EntryError;

/// Why a token, key set, certificate, evidence document or measurement log was rejected.
///
/// The messages are for administrators, and for agents that validate tokens. Untrusted text in them is
/// escaped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text is not a JWS in compact serialization (RFC 7515 section 7.1) with an accepted header.
    #[error("not a compact JWS: {0}")]
    Malformed(String),
    /// No bundle of this trust domain is loaded.
    #[error("no bundle of trust domain \"{0}\" is loaded")]
    UnknownTrustDomain(String),
    /// The key set is not a JWK Set (RFC 7517 section 5), or a key in it cannot be used.
    #[error("key set: {0}")]
    KeySet(String),
    /// The key set has no key with this `kid`.
    #[error("no key \"{0}\" in the key set")]
    UnknownKey(String),
    /// The key with this `kid` did not make the signature.
    #[error("the signature is not valid under key \"{0}\"")]
    Signature(String),
    /// A certificate, or a file of trusted certificates, was rejected.
    #[error("{0}")]
    Certificate(String),
    /// A signed claim is missing, has the wrong type or is not the expected one.
    #[error("{0}")]
    InvalidClaim(String),
    /// A signed JWS is not an endorsement of an issuing key.
    #[error("{0}")]
    Endorsement(String),
    /// Evidence, a TPM structure in it, or a PCR policy was rejected.
    #[error("{0}")]
    Evidence(String),
    /// A checkpoint of an audit log, a proof, or the keys that verify them were rejected.
    #[error("{0}")]
    Audit(String),
    /// The boot event log is malformed.
    #[error("boot event log, at byte {offset}: {reason}")]
    EventLog {
        /// Offset of the faulty structure from the start of the log, in bytes.
        offset: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// An entry of the IMA list is malformed.
    #[error("IMA list, entry {entry}: {error}")]
    Ima {
        /// Position in the list, from 1.
        entry: usize,
        /// What is wrong with it.
        error: EntryError,
    },
    /// The IMA list is too long to be parsed at once.
    #[error("the IMA list is longer than {} MiB", max_len >> 20)]
    ImaListTooLong {
        /// The longest list that is accepted, in bytes.
        max_len: usize,
    },
}
