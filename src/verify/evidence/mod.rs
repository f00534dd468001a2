//! Evidence: the document by which a host proves its identity and its state to a remote verifier, and the
//! checks of it.
//!
//! The document is JSON around TPM structures in base64. Only these structures are signed. Every other member
//! is compared with what they prove, or is not relied on.

mod check;
mod check_result;
mod document;
mod endorsement_keys;
mod measurement_logs;
mod quote;
mod trust;

pub use check_result::{CheckOutcome, CheckResult, OptionalCheck};
pub(crate) use document::{EVIDENCE_VERSION, MAX_EVIDENCE_SIZE, NONCE_LEN, qualifying_data};
pub use document::{Evidence, SignedAttestation};
pub use endorsement_keys::EndorsementKeys;
pub(crate) use quote::REQUIRED_PCRS;
