//! The identity of a TPM, as the daemon pins it.

use super::error::{Error, unexpected_response};
use super::objects::read_public;
use super::templates;

/// Identifies a TPM by its EK, and its current owner hierarchy by the SRK.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct TpmIdentity {
    pub(super) srk_name: Vec<u8>,
    pub(super) ek_name: Vec<u8>,
    /// TPM2B_PUBLIC
    pub(super) ek_public: Vec<u8>,
}

impl TpmIdentity {
    /// The EK's uncompressed point (SEC 1, section 2.3.3).
    pub(super) fn ek_point(&self) -> Result<[u8; 65], Error> {
        templates::p256_point(&read_public(&self.ek_public)?)
            .ok_or_else(|| unexpected_response("TPM2_CreatePrimary"))
    }
}
