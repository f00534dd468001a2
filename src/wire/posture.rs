//! Posture commands of the admin socket: show, diff, accept.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::host::{Posture, PostureMode};
use crate::clock::Timestamp;

/// `200` of `GET /v1/posture` and of `POST /v1/posture/accept`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PostureResponse {
    /// The configured effect of the posture; a grant may set another.
    pub mode: PostureMode,
    /// The host's posture at this request.
    pub posture: Posture,
    /// Why the posture is not `accepted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// PCRs that are compared.
    pub compared: Vec<u8>,
    /// Age in seconds from which a reading is `stale`.
    pub max_age: f64,
    /// The state to compare with; `null` where none is recorded.
    pub baseline: Option<BaselineStatus>,
    /// The last reading of the PCRs; `null` where there was none.
    pub reading: Option<PcrReadingStatus>,
    /// Compared PCRs that differ from the baseline.
    pub changed: Vec<u8>,
    /// What is wrong with the baseline or with the last reading.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The IMA list; absent where no agent has the selector `measured`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<ImaStatus>,
}

/// The state that the host is compared with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaselineStatus {
    /// When the PCRs were recorded.
    pub recorded: Timestamp,
    /// `null` where no administrator has accepted the state.
    pub accepted: Option<AcceptanceStatus>,
    /// Whether the boot's event log was recorded as well, for `hostbadge posture diff`.
    pub boot_log: bool,
    /// SHA-256 bank, hexadecimal, by number.
    pub pcrs: BTreeMap<u8, String>,
}

/// Who accepted a state of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptanceStatus {
    /// When it was accepted.
    pub at: Timestamp,
    /// The administrator, as `uid N, pid N`.
    pub by: String,
    /// Digest of the compared PCRs, hexadecimal.
    pub digest: String,
}

/// A reading of the PCRs, quoted by the TPM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PcrReadingStatus {
    /// When the TPM was asked.
    pub at: Timestamp,
    /// Age in seconds.
    pub age: f64,
    /// Digest of the compared PCRs, hexadecimal: what `POST /v1/posture/accept` takes.
    pub digest: String,
    /// SHA-256 bank, hexadecimal, by number.
    pub pcrs: BTreeMap<u8, String>,
}

/// The kernel's list of measured files (IMA), compared with PCR 10.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImaStatus {
    /// Lines that PCR 10 proves.
    pub lines: usize,
    /// Why no line is proven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// `200` of `GET /v1/posture/diff`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostureDiffResponse {
    /// The host's posture at this request.
    pub posture: Posture,
    /// Digest of the compared PCRs of the last reading, hexadecimal.
    pub digest: String,
    /// Compared PCRs that differ from the baseline.
    pub changed: Vec<u8>,
    /// The differences, one line for each.
    pub changes: Vec<String>,
}

/// `POST /v1/posture/accept`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostureAcceptRequest {
    /// Digest of the state that the administrator examined, as `GET /v1/posture` gives it. Another state is
    /// not accepted.
    pub digest: String,
}
