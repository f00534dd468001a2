//! The table `[posture]`: how often the host's state is checked, and its effect on issuance.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::checks::duration;

/// The effect of a posture other than `accepted`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PostureMode {
    /// The posture is not evaluated, unless a grant requires it.
    #[default]
    Off,
    /// The posture is reported, and tokens are issued.
    Warn,
    /// The posture is reported, and nothing is issued.
    Enforce,
}

/// The table `[posture]`.
///
/// Off by default: each check takes a TPM signature, and the result means nothing before an administrator has
/// accepted a baseline.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PostureSection {
    /// The effect of a posture other than `accepted`. Default: [`PostureMode::Off`].
    pub mode: PostureMode,
    /// PCRs of the SHA-256 bank that are compared with the baseline. Default: 0 to 9, 12 and 14.
    pub pcrs: Vec<u8>,
    /// The maximum age of a result at a decision. Default: 60 s; at least 1 s.
    #[serde(deserialize_with = "duration")]
    pub max_age: Duration,
    /// The interval between quotes, from 100 ms to half of `max_age`. Default: two fifths of `max_age`, so
    /// that one quote may fail.
    #[serde(deserialize_with = "optional_duration")]
    pub every: Option<Duration>,
}

/// Firmware, its settings and Secure Boot (0 to 7); GRUB's command lines, kernel and initrd (8, 9); the
/// command line of systemd's boot stub (12); shim's keys (14). Not 10, which changes with every file that IMA
/// measures; not 11, which systemd extends at each phase of a boot; not 13, 15 and above, which are extended
/// while the system runs.
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
    /// The interval between quotes, with its default.
    pub fn every(&self) -> Duration {
        self.every.unwrap_or(self.max_age * 2 / 5)
    }
}

pub(super) fn check_posture(posture: &PostureSection) -> Vec<String> {
    let mut errors = Vec::new();
    let ordered = posture.pcrs.windows(2).all(|pair| pair[0] < pair[1]);
    if posture.pcrs.is_empty() || !ordered {
        errors.push("posture.pcrs must be PCR numbers, each once, in ascending order".into());
    }
    for number in &posture.pcrs {
        match number {
            10 => errors.push(
                "posture.pcrs: PCR 10 changes with every file that IMA measures and never equals a baseline; \
                 leave it out, and see measured in hostbadge-agents(5)"
                    .into(),
            ),
            16 | 23 => errors.push(format!(
                "posture.pcrs: PCR {number} can be reset by any program and proves nothing; leave it out"
            )),
            0..=22 => {}
            _ => errors.push(format!("posture.pcrs: there is no PCR {number}; give numbers from 0 to 22")),
        }
    }
    if posture.max_age < Duration::from_secs(1) {
        errors.push("posture.max_age must be at least \"1s\"; the default is \"60s\"".into());
    }
    if posture.every.is_some_and(|every| every < Duration::from_millis(100) || every * 2 > posture.max_age) {
        errors.push(
            "posture.every must be from \"100ms\" to half of posture.max_age, so that one quote may fail"
                .into(),
        );
    }
    errors
}

fn optional_duration<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    duration(deserializer).map(Some)
}
