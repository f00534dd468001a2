//! How the host's own state is watched, and what follows from it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::checks::duration;

/// What a posture other than `accepted` leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PostureMode {
    /// Nobody looks.
    #[default]
    Off,
    /// It is said, and tokens are issued.
    Warn,
    /// It is said, and nothing is issued.
    Enforce,
}

/// The table `[posture]`. Off by default: each look is a signature of the TPM, for as long as the daemon runs, and what it
/// finds says nothing before somebody has accepted a state of the host.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PostureSection {
    pub mode: PostureMode,
    /// PCRs of the SHA-256 bank that are compared.
    pub pcrs: Vec<u8>,
    /// How old what is known may be at a decision.
    #[serde(deserialize_with = "duration")]
    pub max_age: Duration,
    /// How often the TPM is asked; none means two fifths of `max_age`, so that one look may fail.
    #[serde(deserialize_with = "some_duration")]
    pub every: Option<Duration>,
}

/// Firmware, its settings and Secure Boot (0 to 7); what GRUB ran and read: command lines, kernel, initrd (8, 9); the
/// command line of systemd's boot stub (12); shim's keys (14). Not 10, which grows with every file that IMA measures; not
/// 11, which systemd extends at each phase of a boot; not 13, 15 and above, which are extended while the system runs.
const DEFAULT_PCRS: [u8; 12] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 14];

impl Default for PostureSection {
    fn default() -> Self {
        PostureSection {
            mode: PostureMode::Off,
            pcrs: DEFAULT_PCRS.to_vec(),
            max_age: Duration::from_secs(60),
            every: None,
        }
    }
}

impl PostureSection {
    pub fn every(&self) -> Duration {
        self.every.unwrap_or(self.max_age * 2 / 5)
    }
}

pub(super) fn check_posture(posture: &PostureSection) -> Vec<String> {
    let mut errors = Vec::new();
    let ordered = posture.pcrs.windows(2).all(|pair| pair[0] < pair[1]);
    if posture.pcrs.is_empty() || !ordered {
        errors.push("posture.pcrs are numbers of PCRs, each once, in their order".into());
    }
    for number in &posture.pcrs {
        match number {
            10 => errors.push(
                "posture.pcrs: PCR 10 changes with every file that IMA measures and never equals a baseline; leave it out, and see measured in hostbadge-agents(5)".into(),
            ),
            16 | 23 => errors.push(format!(
                "posture.pcrs: PCR {number} can be reset by anybody and proves nothing; leave it out"
            )),
            0..=22 => {}
            _ => errors.push(format!("posture.pcrs: there is no PCR {number}; give numbers from 0 to 22")),
        }
    }
    if posture.max_age < Duration::from_secs(1) {
        errors.push("posture.max_age is at least \"1s\"; \"60s\" is usual".into());
    }
    if posture.every.is_some_and(|every| every < Duration::from_millis(100) || every * 2 > posture.max_age) {
        errors.push(
            "posture.every is from \"100ms\" to half of posture.max_age, so that one look may fail".into(),
        );
    }
    errors
}

fn some_duration<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    duration(deserializer).map(Some)
}
