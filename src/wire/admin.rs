//! The admin socket: agents, reload and the audit log. Status, keys, posture and enrollment have modules of
//! their own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::agent::Peer;
use super::change::PendingChange;
use super::clock::ClockSync;
use super::credentials::CredentialUse;
use super::error::Fault;
use super::host::{Posture, PostureMode};
use super::lifecycle::AgentActivity;
use super::policy::PolicySet;
use crate::clock::Timestamp;

/// Largest `limit` of `GET /v1/audit`; a larger one counts as this.
pub const MAX_AUDIT_RECORDS: u16 = 1000;

/// One agent: `200` of `GET /v1/agents/{name}`, and an item of the array of `GET /v1/agents`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Agent {
    /// `[a-z0-9][a-z0-9._-]{0,62}`.
    pub name: String,
    /// The accountable person or team.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The tenant, which is part of the SPIFFE ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Whether the agent gets nothing new; absent if it does.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drain: bool,
    /// Conditions that a process has to meet, all of them.
    #[serde(rename = "match")]
    pub selectors: AgentSelectors,
    /// The roles that the agent's file refers to, in its order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// What the agent may ask for. The list of agents has those of the agent's own file only; a single agent
    /// also those of its roles.
    pub grants: Vec<AgentGrant>,
    /// The sealed credentials that the agent may use; those of its roles as in `grants`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub credentials: Vec<AgentCredential>,
    /// What the agent did and has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activity: Option<AgentActivity>,
}

/// A sealed credential that an agent may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct AgentCredential {
    /// The credential's name.
    pub name: String,
    /// How the agent may use it.
    #[serde(rename = "use")]
    pub usage: CredentialUse,
    /// The effect of the host's posture; absent where the host's configuration decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub posture: Option<PostureMode>,
    /// Whether an administrator has to approve: `each` request, or those of a `task` once; absent where none has to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<String>,
    /// When it ends; absent where it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// The hours of the week at which it counts, as written; absent where it always does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hours: Option<String>,
    /// The role whose file has it; absent where the agent's own file has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
}

/// Conditions that a process has to meet. An absent one does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct AgentSelectors {
    /// User, by number or by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<IdOrName>,
    /// Group, by number or by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<IdOrName>,
    /// systemd unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Unit in the service manager of the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_unit: Option<String>,
    /// Whether the process must be in a login session of the user.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub session: bool,
    /// Id of a container, 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Path of the executable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    /// SHA-256 of the executable, hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe_sha256: Option<String>,
    /// Whether the kernel (IMA) must have measured the executable and a quote of PCR 10 must prove it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub measured: bool,
    /// SHA-256 digests of files, hexadecimal, by path.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, String>,
    /// SHA-256 over the files of the unit, hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit_sha256: Option<String>,
}

/// A user or group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum IdOrName {
    /// Its number.
    Id(u32),
    /// Its name.
    Name(String),
}

/// An audience and what the agent may have for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct AgentGrant {
    /// The relying party.
    pub audience: String,
    /// Scopes in alphabetical order.
    pub scopes: Vec<String>,
    /// Longest lifetime of a token in seconds.
    pub ttl: u64,
    /// `sealed` (the issuing key signs, in memory) or `tpm` (the TPM signs).
    pub assurance: String,
    /// `ES256` or `RS256` (RFC 7518 section 3.1).
    pub alg: String,
    /// `at+jwt` (RFC 9068) or `JWT`: the `typ` of the tokens.
    pub typ: String,
    /// The effect of the host's posture; absent where the host's configuration decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub posture: Option<PostureMode>,
    /// Whether the tokens have a status in a status list; absent where the host's configuration decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_list: Option<bool>,
    /// Whether an administrator has to approve: `each` request, or those of a `task` once; absent where none has to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<String>,
    /// What its tokens are bound to: `dpop` or `mtls`; absent where a request chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bind: Option<String>,
    /// The kinds of proofs that it gives; absent where it gives none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub proofs: Vec<String>,
    /// The HTTP requests that proofs may be for, each a method and a URL.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub actions: Vec<String>,
    /// When it ends; absent where it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// The hours of the week at which it counts, as written; absent where it always does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hours: Option<String>,
    /// The role whose file has it; absent where the agent's own file has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
}

/// Body of `POST /v1/agents/reload`; an empty body is a request without members.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ReloadRequest {
    /// Directories that may have become empty on purpose. Without their name here, a directory that has no
    /// files any more is a fault, and what was read before stays active.
    #[serde(default)]
    pub allow_empty: Vec<EmptyDirectory>,
}

/// A directory whose content may be removed as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum EmptyDirectory {
    /// `agents.d`: all agents are removed.
    Agents,
    /// `roles.d`, which may be missing too: all roles are removed.
    Roles,
    /// `policies`: no policy is in force any more.
    Policies,
    /// `federation`: the bundles of all other trust domains are removed.
    Federation,
}

/// `200` of `POST /v1/agents/reload`: names of agents. The same with status 422 is an
/// [`ErrorResponse`](super::error::ErrorResponse) with `faults`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ReloadResponse {
    /// Agents that are new; at most 10.
    pub added: Vec<String>,
    /// Agents whose registration changed; at most 10.
    pub changed: Vec<String>,
    /// Agents that were removed; at most 10.
    pub removed: Vec<String>,
    /// What is valid in the files and probably not meant; at most 100, and absent if there is nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Fault>,
    /// Whether a list lacks some of its members; absent if none does.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
    /// How many there are of each; absent unless a list lacks some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<ReloadCounts>,
    /// The policies that changed; absent if none did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policies: Option<ReloadedPolicies>,
    /// The change, if it is not active but waits for a second administrator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<PendingChange>,
}

/// Policies that a reload added, changed and removed, by `@id`, file and line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ReloadedPolicies {
    /// Policies that are new; at most 10.
    pub added: Vec<String>,
    /// Policies that are written otherwise; at most 10.
    pub changed: Vec<String>,
    /// Policies that were removed; at most 10.
    pub removed: Vec<String>,
    /// Number of all of them.
    pub count: usize,
    /// Number of those that make rights wider.
    pub widening: usize,
}

/// Numbers of what a reload did, beside lists that do not have all names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ReloadCounts {
    /// Agents that are new.
    pub added: usize,
    /// Agents whose registration changed.
    pub changed: usize,
    /// Agents that were removed.
    pub removed: usize,
    /// Warnings, of which 1000 are counted.
    pub warnings: usize,
}

/// `200` of a command that has nothing to report: `POST /v1/keys/recover` and `POST /v1/keys/accept`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct DoneResponse {
    /// Always `true`.
    pub done: bool,
}

/// `200` of `GET /v1/audit`: the matching records of one part of the audit log.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct AuditResponse {
    /// Lines of the audit log, oldest first, exactly as they are in the file.
    #[cfg_attr(test, schemars(with = "Vec<AuditRecord>"))]
    pub records: Vec<Box<RawValue>>,
    /// The lowest sequence number that was examined; absent where there was none. A search backwards
    /// continues with `before` of this number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<u64>,
    /// The highest sequence number that was examined. A search forwards continues with `after` of this
    /// number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<u64>,
    /// Whether further records can match beyond the part that was examined.
    pub more: bool,
    /// Numbers of the part that was examined that the audit log does not have.
    pub missing: Vec<MissingRecords>,
    /// Lines of the part that was examined that are not records, such as damaged ones; absent where there are none. The
    /// next response can have some of them again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreadable: Vec<UnreadableLines>,
}

/// Sequence numbers that no record of the audit log has: the records were removed or moved elsewhere, or were
/// lost in a crash of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct MissingRecords {
    /// The first one.
    pub from: u64,
    /// The last one.
    pub to: u64,
}

impl MissingRecords {
    /// The ranges between a first and a last number.
    pub fn from_ranges(ranges: impl IntoIterator<Item = (u64, u64)>) -> Vec<MissingRecords> {
        ranges.into_iter().map(|(from, to)| MissingRecords { from, to }).collect()
    }
}

/// Consecutive lines of a file of the audit log that are not records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct UnreadableLines {
    /// The path of the file.
    pub file: String,
    /// The number of the first line in the file, from 1.
    pub from: u64,
    /// The number of the last one.
    pub to: u64,
}

/// The answers to the questions of a decision, in their order: `pass`, `fail`, or `none` where it did not come to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct AuditVerdicts {
    /// Which registered agent is the process, and is it neither revoked nor drained?
    pub identity: String,
    /// Do the agent's grants contain what it asks for?
    pub privilege: String,
    /// Do time, posture and policies allow it now?
    pub context: String,
}

/// One line of the audit log. Members that do not apply to the event are absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct AuditRecord {
    /// Version of the line's format: 1.
    pub v: u32,
    /// Sequence number, counted from 1 without gaps, except where a crash of the machine destroyed lines.
    pub seq: u64,
    /// SHA-256 of the previous line, hexadecimal; 64 zeros where no earlier line exists.
    pub prev: String,
    /// Id of the host's boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// Microseconds since that boot, which setting the clock does not change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monotonic_us: Option<u64>,
    /// Whether the clock is synchronized; absent where it is. Otherwise `time` may be wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<ClockSync>,
    /// The kernel's bound of the error of `time` in microseconds; absent where the clock is not synchronized.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_error_us: Option<u64>,
    /// Trace id of the request: of the caller's `traceparent`, or made; 32 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// Id of this request within the caller's trace: 16 hexadecimal digits; absent where the trace was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub span_id: Option<String>,
    /// What was called, such as `POST /v1/token` or `gRPC FetchJWTSVID`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// When the event happened.
    pub time: Timestamp,
    /// Name of the event, such as `token-issued`.
    pub event: String,
    /// `granted` or `refused` for what a process asked for, `done` or `failed` for what the daemon did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// The agent concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Who answers for the agent, as it was registered then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The agent's tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Audiences, separated by spaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// Scopes, separated by spaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Name of the credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
    /// Version of the credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential_version: Option<u64>,
    /// `jti` of the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// Key that signed, or that changed its state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kid: Option<String>,
    /// SPIFFE ID of the certificate or WIT-SVID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spiffe_id: Option<String>,
    /// Serial number of the certificate, hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// SHA-256 of the text of the token, or of the certificate in DER, hexadecimal. A credential has none: its value
    /// can be short enough to be guessed, so its name and version identify it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// End of validity, in seconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exp: Option<u64>,
    /// Result of an introspection, or whether a nonce was valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<bool>,
    /// Error code of a refusal, as in [`ErrorResponse`](super::error::ErrorResponse).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The rule that found something about the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// One line for a person. As all texts, cut at a length: it then ends in `…` with the length and the
    /// SHA-256 digest of the whole text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Refusals of the same caller since its previous record that have no record of their own.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub suppressed: u64,
    /// The answers to the questions of the decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdicts: Option<AuditVerdicts>,
    /// The host's posture at the decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub posture: Option<Posture>,
    /// The policies that were in force at the decision, or when another record was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicySet>,
    /// The calling process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<Peer>,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}
