//! `GET /v1/status`: what `hostbadge status` prints.

use serde::{Deserialize, Serialize};

use super::change::PendingChange;
use super::clock::ClockStatus;
use super::error::Fault;
use super::host::{Health, Posture, TpmKind};
use super::keys::Key;
use super::lifecycle::ActivitySummary;
use super::policy::PolicySet;
use crate::clock::Timestamp;

/// `200` of `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct StatusResponse {
    /// Version of the daemon.
    pub version: String,
    /// Process id of the daemon.
    pub pid: u32,
    /// When the daemon started.
    pub started: Timestamp,
    /// Whether the daemon does everything that it is configured to do.
    pub status: Health,
    /// What an administrator has to do although tokens and certificates are issued, one sentence each with
    /// the remedy: a reload that was refused, credentials that are not available.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Names of this host.
    pub host: HostNames,
    /// The TPM.
    pub tpm: TpmStatus,
    /// The host key's certificate; `null` where the host is not enrolled.
    pub certificate: Option<HostCertificate>,
    /// The host's certificate authority.
    pub ca: CaStatus,
    /// The host's clock.
    pub clock: ClockStatus,
    /// The host's posture at this request.
    pub posture: Posture,
    /// Why the posture is not `accepted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub posture_reason: Option<String>,
    /// How the keys are protected at rest; `null` until the keystore is open.
    pub seal: Option<SealStatus>,
    /// Why nothing is issued; `null` where the issuer is ready.
    pub issuer_blocked_reason: Option<String>,
    /// Signing keys, without destroyed ones.
    pub keys: Vec<Key>,
    /// Why the RSA key is missing although a grant uses RS256, or its successor although it is due.
    pub rsa_blocked_reason: Option<String>,
    /// The registered agents.
    pub agents: AgentsStatus,
    /// The policies.
    pub policies: PoliciesStatus,
    /// The sealed credentials.
    pub credentials: CredentialsStatus,
    /// The status lists of tokens.
    pub status_lists: StatusListsStatus,
    /// What rules found about agents.
    #[serde(default)]
    pub anomalies: AnomaliesStatus,
    /// The group of administrators.
    pub admin_group: AdminGroupStatus,
    /// The bundles of other trust domains.
    pub federation: FederationStatus,
    /// Why the processes of other users are not identified, and the way out; absent where they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden_processes: Option<String>,
    /// Lookups of users and groups that failed, one line each; their last numbers stay in use.
    pub name_problems: Vec<String>,
    /// The audit log.
    pub audit: AuditStatus,
    /// The journal.
    pub journal: JournalStatus,
    /// The threads that serve the agent socket and the workload socket.
    pub workers: WorkersStatus,
    /// Open connections of the agent socket and the workload socket.
    pub connections: usize,
}

/// The sealed credentials.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CredentialsStatus {
    /// Number of credentials; `null` while they are not available.
    pub stored: Option<usize>,
    /// Why they are not available; `null` where they are.
    pub blocked_reason: Option<String>,
}

/// What rules found about agents.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct AnomaliesStatus {
    /// Alerts of the last 24 hours, of the latest 256.
    pub alerts: usize,
    /// Agents that are suspended by a rule.
    pub suspended: usize,
}

/// The status lists of tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct StatusListsStatus {
    /// Whether tokens have a status where their grant does not say it: `[tokens] status_list`.
    pub by_default: bool,
    /// How long a relying party may keep a list, in seconds: `[tokens] status_list_ttl`.
    pub ttl: u64,
    /// Number of lists.
    pub lists: usize,
    /// Tokens that have an index in one.
    pub tokens: usize,
    /// What an administrator should know; `null` if there is nothing.
    pub problem: Option<String>,
}

/// The policies in force and the last reading of their directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PoliciesStatus {
    /// Whether the directory has been read without faults since the daemon started. Before that, nothing is
    /// permitted.
    pub loaded: bool,
    /// The set in force; `null` without policy files.
    pub set: Option<PolicySet>,
    /// Number of policies in force.
    pub policies: usize,
    /// When they were read; `null` without policy files.
    pub at: Option<Timestamp>,
    /// Whether a request needs a policy that permits it.
    pub require_permit: bool,
    /// The time zone of hours and weekdays.
    pub timezone: String,
    /// Faults of the last reading. While there are any, the previous policies stay in force.
    pub faults: Vec<Fault>,
}

/// The threads that serve connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct WorkersStatus {
    /// Number of workers.
    pub count: usize,
    /// Which of them do not run; `null` where all run.
    pub problem: Option<String>,
}

/// Names of this host; each is `null` until the issuer is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct HostNames {
    /// 26 characters, derived from the endorsement key.
    pub id: Option<String>,
    /// SPIFFE trust domain.
    pub trust_domain: Option<String>,
    /// `iss` of each token.
    pub issuer: Option<String>,
}

/// The TPM and its queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TpmStatus {
    /// `starting`, `ready`, `busy`, `reset`, `lockout`, `owner-auth`, `cleared`, `replaced` or `absent`.
    pub state: String,
    /// One line about this occurrence of the state; may be empty.
    pub detail: String,
    /// What an administrator does about the state.
    pub remedy: String,
    /// `null` until the issuer is ready.
    pub kind: Option<TpmKind>,
    /// Token requests that wait for the TPM to sign.
    pub waiting_to_sign: usize,
    /// Absent until the TPM has been read.
    #[serde(flatten)]
    pub description: Option<TpmDescription>,
}

/// What the TPM reports about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TpmDescription {
    /// `TPM2_PT_MANUFACTURER`, four characters.
    pub manufacturer: String,
    /// The `TPM2_PT_VENDOR_STRING` properties, joined.
    pub vendor: String,
    /// The `TPM2_PT_FIRMWARE_VERSION` properties.
    pub firmware: String,
    /// Whether the TPM has a certificate for its ECC P-256 endorsement key.
    pub ek_certificate: bool,
    /// Why the NV index for that certificate does not give one; absent if it does, or is not defined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ek_certificate_fault: Option<String>,
    /// Name of the attestation key in hexadecimal, for `hostbadge verify evidence --ak`.
    pub ak_name: Option<String>,
}

/// The certificate that an organization issued for the host key; also `200` of `POST /v1/enroll/install`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct HostCertificate {
    /// Distinguished name of the subject.
    pub subject: String,
    /// Distinguished name of the issuer.
    pub issuer: String,
    /// Start of validity.
    pub not_before: Timestamp,
    /// End of validity.
    pub not_after: Timestamp,
    /// SHA-256 digest of the root below which the organization lets the host sign, in hexadecimal; absent
    /// where it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing_root_sha256: Option<String>,
}

/// The host's certificate authority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CaStatus {
    /// End of validity of the active issuing CA; `null` where there is no issuing CA yet.
    pub issues_until: Option<Timestamp>,
    /// Why a change that is due has not been made.
    pub blocked_reason: Option<String>,
    /// Which certificates cannot be revoked, because their records were lost; absent where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_records: Option<String>,
}

/// How the key-encryption key is protected at rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SealStatus {
    /// PCRs of the SHA-256 bank that the key is sealed to. With an empty list the key is sealed to this TPM
    /// only.
    pub pcrs: Vec<u8>,
    /// PCRs that the key will be sealed to once a recovery key exists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending_pcrs: Vec<u8>,
    /// When the recovery key was made; `null` where there is none.
    pub recovery: Option<Timestamp>,
}

/// The registered agents and the last reading of `agents.d`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct AgentsStatus {
    /// When the active set was read.
    #[serde(rename = "at")]
    pub loaded_at: Timestamp,
    /// Whether the agents have been read without faults since the daemon started. Before that, no caller is
    /// identified.
    #[serde(rename = "loaded")]
    pub is_loaded: bool,
    /// Number of agents in the active set.
    pub agents: usize,
    /// Number of roles that agents can refer to.
    pub roles: usize,
    /// Grants and credentials that have expired or will within 7 days, the earliest first; at most 100.
    #[serde(default)]
    pub expiring: Vec<ExpiringGrant>,
    /// How many there are of these.
    #[serde(default)]
    pub expiring_count: usize,
    /// The change that waits for a second administrator; absent if none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<PendingChange>,
    /// What the agents did and have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activity: Option<ActivitySummary>,
    /// Faults of the last reading. While there are any, the previous set stays active.
    pub faults: Vec<Fault>,
}

/// A grant or credential that has expired or will soon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ExpiringGrant {
    /// The agent whose file has it; absent where a role's file has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The role whose file has it; absent where an agent's file has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// The grant's audience; absent of a credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// The credential's name; absent of a grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
    /// When it ends or ended.
    pub expires: Timestamp,
    /// Whether it has ended.
    pub expired: bool,
}

/// The group whose members may use the admin socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct AdminGroupStatus {
    /// Its name.
    pub name: String,
    /// Its number.
    pub gid: Option<u32>,
    /// Why it has none; only root may use the admin socket meanwhile.
    pub problem: Option<String>,
}

/// Bundles of other trust domains and the last reading of `federation`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct FederationStatus {
    /// Trust domains with an active bundle.
    pub trust_domains: Vec<String>,
    /// Faults of the last reading. While there are any, the previous bundles stay active.
    pub faults: Vec<Fault>,
}

/// The audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct AuditStatus {
    /// Sequence number of the last record.
    #[serde(rename = "last")]
    pub last_seq: u64,
    /// Why records cannot be written. Nothing is issued until they can be.
    pub problem: Option<String>,
    /// What is wrong with the disk although records can be written.
    pub disk_fault: Option<String>,
    /// When the disk will be full; absent where it will not be within a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filling: Option<String>,
    /// The directory with the log's files. Daemons before `audit query` do not tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// The checkpoints by the TPM. Daemons that make none do not tell it.
    #[serde(default)]
    pub checkpoint: CheckpointStatus,
}

/// The checkpoints of the audit log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CheckpointStatus {
    /// The number of the last record that a checkpoint covers; absent before the first checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub covered_to: Option<u64>,
    /// When the last checkpoint was made; absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// Why a checkpoint that is due cannot be made; absent where none is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// The journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct JournalStatus {
    /// `journald` or `standard error`.
    pub sink: String,
    /// Entries dropped since the start because the journal did not accept them in time.
    pub dropped: u64,
}
