//! The tables of the configuration file, with their defaults.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::durations::{DAY, YEAR, duration, long_duration, optional_long_duration, probe_duration};
use crate::risk::RiskClass;

/// The table `[paths]`: the daemon's directories.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Paths {
    /// Agent files. Default: `/etc/hostbadge/agents.d`.
    pub agents: PathBuf,
    /// Files of roles. Default: `roles.d` beside the directory of agents.
    pub roles: PathBuf,
    /// Policies. Default: `policies` beside the directory of agents.
    pub policies: PathBuf,
    /// Bundle documents of other trust domains. Default: `/etc/hostbadge/federation`.
    pub federation: PathBuf,
    /// Keys and other state. Default: `/var/lib/hostbadge`.
    pub state: PathBuf,
    /// The audit log. Default: `/var/log/hostbadge/audit`.
    pub audit: PathBuf,
    /// The sockets. Default: `/run/hostbadge`.
    pub run: PathBuf,
}

/// The table `[agents]`: what the files of agents have to fulfil.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentsSection {
    /// Whether an agent without `owner` is a fault. Default: no; `hostbadge agent lint` warns.
    pub require_owner: bool,
}

/// The table `[change]`: who changes what agents may.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChangeSection {
    /// How many administrators a reload needs that makes rights of agents wider.
    pub require: RequiredAdministrators,
}

/// How many administrators a change needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RequiredAdministrators {
    /// The one who reloads.
    #[default]
    One,
    /// Another one approves.
    Two,
}

/// The table `[tpm]`: how the TPM is reached.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TpmSection {
    /// The TPM's address: `device:/dev/tpmrm0` (default), or `swtpm:host=127.0.0.1,port=2321` with
    /// `allow_emulator`.
    pub tcti: String,
    /// Whether a software TPM is accepted. Default: no. It does not protect keys from root, and tokens say
    /// so.
    pub allow_emulator: bool,
    /// How long a caller waits for one TPM request. Default: 5 s; at most 24 h.
    #[serde(deserialize_with = "duration")]
    pub deadline: Duration,
    /// The interval between probes of the TPM, from 100 ms to 1 h. Default: 1.5 s.
    #[serde(deserialize_with = "probe_duration")]
    pub probe_every: Duration,
}

/// The table `[keys]`: rotation of keys.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeysSection {
    /// The risk class of issuing keys, which bounds `rotate_every`. Default: moderate.
    pub risk: RiskClass,
    /// The maximum time that an issuing key signs, from 1 h to the longest time of the risk class; each key is
    /// replaced up to a tenth earlier. Default: 30 d, or 14 d with a high risk.
    #[serde(deserialize_with = "optional_long_duration")]
    pub rotate_every: Option<Duration>,
    /// How long a key is published in the key set before it signs; shorter than `rotate_every`. Default: 24
    /// h.
    #[serde(deserialize_with = "long_duration")]
    pub publish_before: Duration,
    /// The maximum time that the key-encryption key is in use, from 1 d to 1 y; it is replaced up to a tenth
    /// earlier. Default: 1 y.
    #[serde(deserialize_with = "long_duration")]
    pub rotate_encryption_every: Duration,
    /// The maximum time that an RSA key signs, from 1 d to 1 y, and longer than `publish_before`; it is replaced up to
    /// a tenth earlier. Default: 1 y.
    #[serde(deserialize_with = "long_duration")]
    pub rotate_rsa_every: Duration,
}

impl KeysSection {
    /// The maximum time that an issuing key signs.
    pub fn rotate_every(&self) -> Duration {
        self.rotate_every.unwrap_or((DAY * 30).min(self.risk.max_interval()))
    }
}

/// The table `[tokens]`: access tokens and JWT-SVIDs.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokensSection {
    /// Whether tokens have a status in a status list, unless their grant says otherwise. Default: no.
    pub status_list: bool,
    /// How long a relying party may keep a status list, from 10 s to 1 h. Default: 5 m.
    #[serde(deserialize_with = "duration")]
    pub status_list_ttl: Duration,
}

/// The table `[certificates]`: X.509-SVIDs of agents.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CertificatesSection {
    /// Lifetime of certificates, from 1 m to 24 h, unless an agent requests less. Default: 1 h.
    #[serde(deserialize_with = "long_duration")]
    pub ttl: Duration,
}

/// The table `[seal]`: PCRs that the key-encryption key is sealed to.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SealSection {
    /// PCRs of the SHA-256 bank (0 to 15 without 10, ascending) that must have the values of the time of
    /// sealing. Default: none, since a firmware update changes them.
    pub pcrs: Vec<u8>,
}

/// The table `[clock]`: what the daemon requires of the host's clock.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClockSection {
    /// Whether tokens and certificates are issued only while the kernel regards the clock as synchronized.
    /// Default: no, because many virtual machines have the host's clock and no time service.
    pub require_synchronized: bool,
}

/// The table `[limits]`: rates and connections. Rates are in requests a second, from 1 to 10,000,000; a burst
/// is the number of requests that may be made at once after a pause.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsSection {
    /// Requests a second for each agent. Default: 50.
    pub rate: u32,
    /// Burst for each agent. Default: 200.
    pub burst: u32,
    /// Requests a second for each uid whose processes match no agent. Default: 10.
    pub unknown_rate: u32,
    /// Burst for each such uid. Default: 50.
    pub unknown_burst: u32,
    /// Answers a second for each uid that the other rates do not limit: public documents, health, and errors,
    /// which count five times. Further ones are delayed, at most 2 s. Default: 1,000.
    pub public_rate: u32,
    /// Burst of such answers for each uid. Default: 2,000.
    pub public_burst: u32,
    /// Tokens signed by the TPM a second, for each agent. Default: 2.
    pub tpm_rate: u32,
    /// Burst of such tokens for each agent. Default: 10.
    pub tpm_burst: u32,
    /// Open connections in total, from 1 to 100,000. Default: 10,000.
    pub connections: usize,
    /// Open connections of one uid, from 1 to 100,000. Default: 2,000.
    pub connections_per_uid: usize,
}

/// The table `[log]`: where the daemon's log goes. The audit log is separate.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSection {
    /// The destination, key `to`. Default: [`LogTarget::Auto`].
    #[serde(rename = "to")]
    pub target: LogTarget,
    /// The least severe level that is logged. Default: [`LogLevel::Info`].
    pub level: LogLevel,
}

/// A destination of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogTarget {
    /// journald if its socket exists, else standard error.
    Auto,
    /// journald, by its native protocol.
    Journal,
    /// Standard error.
    Stderr,
}

/// A severity of log entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogLevel {
    /// Errors.
    Error,
    /// Warnings and errors.
    Warn,
    /// Informational entries and the above.
    Info,
    /// Debugging entries and the above.
    Debug,
}

/// The table `[admin]`: access to the admin socket.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminSection {
    /// The group whose members may use the admin socket, besides root. Default: `hostbadge-admin`.
    pub group: String,
}

// === defaults ===

impl Default for Paths {
    fn default() -> Self {
        Paths {
            agents: "/etc/hostbadge/agents.d".into(),
            roles: "/etc/hostbadge/roles.d".into(),
            policies: "/etc/hostbadge/policies".into(),
            federation: "/etc/hostbadge/federation".into(),
            state: "/var/lib/hostbadge".into(),
            audit: "/var/log/hostbadge/audit".into(),
            run: "/run/hostbadge".into(),
        }
    }
}

impl Paths {
    /// The directories of a development instance below `dir`, for `--dev`.
    pub fn under(dir: &Path) -> Paths {
        Paths {
            agents: dir.join("etc/agents.d"),
            roles: dir.join("etc/roles.d"),
            policies: dir.join("etc/policies"),
            federation: dir.join("etc/federation"),
            state: dir.join("state"),
            audit: dir.join("audit"),
            run: dir.join("run"),
        }
    }
}

impl Default for TpmSection {
    fn default() -> Self {
        TpmSection {
            tcti: "device:/dev/tpmrm0".into(),
            allow_emulator: false,
            deadline: Duration::from_secs(5),
            probe_every: Duration::from_millis(1500),
        }
    }
}

impl Default for KeysSection {
    fn default() -> Self {
        KeysSection {
            risk: RiskClass::Moderate,
            rotate_every: None,
            publish_before: DAY,
            rotate_encryption_every: YEAR,
            rotate_rsa_every: YEAR,
        }
    }
}

impl Default for TokensSection {
    fn default() -> Self {
        TokensSection { status_list: false, status_list_ttl: Duration::from_secs(300) }
    }
}

impl Default for CertificatesSection {
    fn default() -> Self {
        CertificatesSection { ttl: Duration::from_secs(3600) }
    }
}

impl Default for LimitsSection {
    fn default() -> Self {
        LimitsSection {
            rate: 50,
            burst: 200,
            unknown_rate: 10,
            unknown_burst: 50,
            public_rate: 1_000,
            public_burst: 2_000,
            tpm_rate: 2,
            tpm_burst: 10,
            connections: 10_000,
            connections_per_uid: 2_000,
        }
    }
}

impl Default for LogSection {
    fn default() -> Self {
        LogSection { target: LogTarget::Auto, level: LogLevel::Info }
    }
}

impl Default for AdminSection {
    fn default() -> Self {
        AdminSection { group: "hostbadge-admin".into() }
    }
}
