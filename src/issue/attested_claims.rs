//! The claims `attest_methods` and `binary_id`: by which contents the calling process was identified.
//!
//! Their names are those of the draft "Local Delegated Agent Identity"
//! (draft-local-delegated-agent-identity-00, section 5.2). Tokens of agents without a condition on a content
//! have neither.

use serde::Serialize;

use crate::agents::AuthenticatedAgent;
use crate::peer::Sha256Digest;

/// What the process was compared by.
#[derive(Serialize)]
pub(super) struct BinaryId {
    /// SHA-256 of the executable.
    #[serde(skip_serializing_if = "Option::is_none")]
    cdhash: Option<Sha256Digest>,
    /// One SHA-256 for all files of the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    files_sha256: Option<Sha256Digest>,
    /// SHA-256 over the files of the unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    unit_sha256: Option<Sha256Digest>,
}

/// Both claims of an agent's token; empty and absent if no condition names a content.
pub(super) fn attested_claims(agent: &AuthenticatedAgent) -> (&[&'static str], Option<BinaryId>) {
    let Some(attested) = agent.attested() else { return (&[], None) };
    let (files_sha256, unit_sha256) = (attested.files_sha256, attested.unit_sha256);
    let names_executable = attested.methods.iter().any(|method| matches!(*method, "exe-sha256" | "ima"));
    let cdhash = agent.exe_sha256().filter(|_| names_executable);
    (&attested.methods, Some(BinaryId { cdhash, files_sha256, unit_sha256 }))
}
