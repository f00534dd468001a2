//! The tables of the configuration, with their defaults.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::checks::{DAY, duration, long_duration, probe_duration};

/// Where things lie.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Paths {
    pub agents: PathBuf,
    /// Bundle documents of other trust domains.
    pub federation: PathBuf,
    pub state: PathBuf,
    pub audit: PathBuf,
    pub run: PathBuf,
}

/// How to reach the TPM.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TpmSection {
    /// `device:/dev/tpmrm0`, or `swtpm:host=127.0.0.1,port=2321` with `allow_emulator`.
    pub tcti: String,
    /// A software TPM guards nothing against root; tokens say so.
    pub allow_emulator: bool,
    /// How long a caller waits for one TPM command.
    #[serde(deserialize_with = "duration")]
    pub deadline: Duration,
    /// How often the TPM is asked whether it is there and well.
    #[serde(deserialize_with = "probe_duration")]
    pub probe_every: Duration,
}

/// How issuing keys rotate.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeysSection {
    /// The longest that a key signs; each is replaced up to a tenth earlier.
    #[serde(deserialize_with = "long_duration")]
    pub rotate_every: Duration,
    /// How long a key is in the key set before it signs.
    #[serde(deserialize_with = "long_duration")]
    pub publish_before: Duration,
}

/// The certificates of agents.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CertificatesSection {
    /// How long they live, unless an agent asks for less.
    #[serde(deserialize_with = "long_duration")]
    pub ttl: Duration,
}

/// What the keys at rest are sealed to, beside this TPM.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SealSection {
    /// PCRs of the SHA-256 bank, whose values must be those of when the keys were sealed. None by default: a firmware
    /// update changes them.
    pub pcrs: Vec<u8>,
}

/// Bounds on what callers may take.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsSection {
    /// Requests a second, for each agent.
    pub rate: u32,
    /// Requests an agent may make at once after a pause.
    pub burst: u32,
    /// The same two for each uid that is no agent.
    pub stranger_rate: u32,
    pub stranger_burst: u32,
    /// The same two for the tokens of each agent that the TPM signs.
    pub tpm_rate: u32,
    pub tpm_burst: u32,
    /// Open connections altogether, and of one uid.
    pub connections: usize,
    pub connections_per_uid: usize,
}

/// Where the daemon's own words go.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSection {
    pub to: LogTarget,
    pub level: LogLevel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogTarget {
    /// journald where its socket is, else standard error.
    Auto,
    Journal,
    Stderr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
}

/// Who may use the admin socket beside root.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminSection {
    pub group: String,
}

// === defaults ===

impl Default for Paths {
    fn default() -> Self {
        Paths {
            agents: "/etc/hostbadge/agents.d".into(),
            federation: "/etc/hostbadge/federation".into(),
            state: "/var/lib/hostbadge".into(),
            audit: "/var/log/hostbadge/audit".into(),
            run: "/run/hostbadge".into(),
        }
    }
}

impl Paths {
    /// A whole host in one directory, for `--dev`.
    pub fn under(dir: &Path) -> Paths {
        Paths {
            agents: dir.join("etc/agents.d"),
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
        KeysSection { rotate_every: DAY * 30, publish_before: DAY }
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
            stranger_rate: 10,
            stranger_burst: 50,
            tpm_rate: 2,
            tpm_burst: 10,
            connections: 10_000,
            connections_per_uid: 2_000,
        }
    }
}

impl Default for LogSection {
    fn default() -> Self {
        LogSection { to: LogTarget::Auto, level: LogLevel::Info }
    }
}

impl Default for AdminSection {
    fn default() -> Self {
        AdminSection { group: "hostbadge-admin".into() }
    }
}
