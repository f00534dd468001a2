//! Is the host itself: the third step of the road.
//!
//! What the TPM says of this boot is compared with a baseline that an administrator accepted. The road never asks the TPM:
//! whoever watches puts what was seen into [`Watched`], and a decision takes it from there as long as it is fresh.

pub mod baseline;
mod commands;
mod event_log;
mod ima_digests;
mod ima_list;
mod pcr_diff;
mod state;

use std::fmt;

use serde::Serialize;

pub use crate::config::PostureMode as Mode;
pub use baseline::{Acceptance, Baseline, pcr_digest};
pub use commands::{
    PostureAction, PostureCommand, PostureCommandError, PostureCommandReceiver, PostureCommandSender,
    command_channel,
};
pub use event_log::EventLogFile;
pub use ima_digests::ImaDigests;
pub use ima_list::ImaListFile;
pub use pcr_diff::{PcrValues, changed_pcrs, describe_pcr_changes};
pub use state::{PcrReading, PostureAtDecision, PostureSnapshot, PostureState};

use crate::store;

/// What is known of the host's integrity at the moment of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Posture {
    /// Nobody looks.
    Off,
    /// As in the baseline that an administrator accepted.
    Accepted,
    /// Other than in that baseline.
    Changed,
    /// There is no baseline that somebody accepted.
    Unaccepted,
    /// What was seen last is too old to decide by.
    Stale,
}

impl Posture {
    pub fn as_str(self) -> &'static str {
        match self {
            Posture::Off => "off",
            Posture::Accepted => "accepted",
            Posture::Changed => "changed",
            Posture::Unaccepted => "unaccepted",
            Posture::Stale => "stale",
        }
    }
}

impl fmt::Display for Posture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why the baseline cannot be used. The texts go to administrators.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Without what `store` says of a lost identity: a baseline is no secret, and is made anew by accepting.
    #[error("{path}: it cannot be read as a baseline ({why}); compare the host with what you know of it, then hostbadge posture accept", path = path.display())]
    Corrupt { path: std::path::PathBuf, why: String },
    #[error("{path}: it is the baseline of host {theirs}, and this is {ours}; hostbadge posture accept takes this host's state instead", path = path.display())]
    WrongHost { path: std::path::PathBuf, theirs: String, ours: String },
    #[error("{0}")]
    Store(#[from] store::Error),
}
