//! What every phase of the issuer supervisor needs: dependencies, published status, the stop token.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::agents::AgentRegistry;
use crate::audit::Audit;
use crate::clock::ClockState;
use crate::daemon::startup::StartupSignal;
use crate::daemon::watch_ext::set_if_changed;
use crate::issue::{Enrollment, Issuer, IssuerConfig, RotationPolicy};
use crate::keystore::{Keystore, SealStatus};
use crate::posture::EventLogFile;
use crate::revocation::Revocations;
use crate::tpm::{Tpm, TpmConfig, TpmState};
use crate::wire::status::TpmDescription;

/// Delay before a failed attempt to open the TPM, to load the keys, or to get a first RSA key is repeated: nothing is
/// signed in the meantime.
pub(super) const LOAD_RETRY_DELAY: Duration = Duration::from_secs(2);
/// Delay before a failed step of issuing keys or RSA keys is repeated while the active key keeps signing.
pub(super) const STEP_RETRY_DELAY: Duration = Duration::from_secs(10);

/// What the issuer supervisor is built from.
pub(in crate::daemon) struct IssuerDeps {
    /// How to reach the TPM.
    pub tpm_config: TpmConfig,
    /// State directory: `tpm.json`, `issuing.json`, `rsa.json` and the keystore's files.
    pub state_dir: PathBuf,
    /// Configured trust domain and issuer URL.
    pub issuer_config: IssuerConfig,
    /// When issuing keys rotate.
    pub rotation_policy: RotationPolicy,
    /// PCRs (SHA-256 bank) that the keys are to be sealed to; none by default.
    pub seal_pcrs: Vec<u8>,
    /// Boot event log, which explains why sealed keys do not open.
    pub event_log: EventLogFile,
    /// Receives the keys once they are loaded, and at each change.
    pub issuer: Issuer,
    /// Registered agents: whether a grant uses RS256, which needs the RSA key.
    pub agents: AgentRegistry,
    /// What has been revoked: issuing keys among it.
    pub revocations: Revocations,
    /// Audit log, for each change of a key.
    pub audit: Audit,
    /// Enrollment state, which is written through the keystore.
    pub enrollment: Enrollment,
    /// Time source.
    pub clock: ClockState,
}

/// Where the supervisor publishes its state.
pub(super) struct IssuerStatusSender {
    pub tpm_state: watch::Sender<TpmState>,
    pub blocked_reason: watch::Sender<Option<String>>,
    pub tpm_info: watch::Sender<Option<TpmDescription>>,
    pub tpm: watch::Sender<Option<Tpm>>,
    pub keystore: watch::Sender<Option<Arc<Keystore>>>,
    pub rotation_blocked_reason: watch::Sender<Option<String>>,
    pub seal_status: watch::Sender<Option<SealStatus>>,
    pub rsa_blocked_reason: watch::Sender<Option<String>>,
}

/// Shared by the phases.
pub(super) struct IssuerContext {
    pub deps: IssuerDeps,
    pub status: IssuerStatusSender,
    pub startup: StartupSignal,
    /// Cancelled when the daemon stops; observed wherever the supervisor waits between two steps.
    pub stop: CancellationToken,
}

impl IssuerContext {
    /// Publishes why no tokens are issued (`None`: they are), and logs each reason once.
    pub fn report_blocked(&self, reason: Option<String>) {
        if let Some(reason) = set_if_changed(&self.status.blocked_reason, reason) {
            tracing::error!(event = "issuer-blocked", "no tokens are issued: {reason}");
        }
    }
}
