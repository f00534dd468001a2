//! What the component that makes checkpoints is built from.

use std::path::PathBuf;

use tokio::sync::watch;

use crate::audit::Audit;
use crate::clock::Clock;
use crate::config::CheckpointSettings;
use crate::daemon::startup::StartupStep;
use crate::tpm::Tpm;

/// What the component is built from.
#[derive(Clone)]
pub(in crate::daemon) struct CheckpointDeps {
    /// When checkpoints are due; `None` makes none.
    pub settings: Option<CheckpointSettings>,
    /// The audit log.
    pub audit: Audit,
    /// The directory of the audit log.
    pub audit_dir: PathBuf,
    /// State directory, with `checkpoint.json`.
    pub state_dir: PathBuf,
    /// Time source.
    pub clock: Clock,
    /// The TPM in use.
    pub tpm: watch::Receiver<Option<Tpm>>,
    /// First attempt of the issuer supervisor: before its end there may be no AK.
    pub issuer_first_attempt: StartupStep,
}
