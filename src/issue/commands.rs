//! Commands about keys: from administrators to the component that owns the keys.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use zeroize::Zeroizing;

use super::error::Error;
use crate::clock::Timestamp;
use crate::error_class::ErrorClass;
use crate::keystore::{RecoveryKey, SealStatus};

/// Commands that wait; a further one is rejected.
const QUEUE_CAPACITY: usize = 8;
/// How long a rotation of the RSA key waits for the TPM to make a key. It goes on afterwards.
const RSA_KEY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a command may take. The receiver bounds each of its waits; this bounds their sum, and is shorter
/// than the timeout of the command line.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(25);

/// Sends administrators' commands about keys. Cheap to clone.
#[derive(Clone, Debug)]
pub struct KeyAdmin {
    commands: mpsc::Sender<KeyCommand>,
    blocked_reason: watch::Receiver<Option<String>>,
    seal_status: watch::Receiver<Option<SealStatus>>,
}

/// The receiving end, for the component that owns the keys. It also reports the state of the keys.
#[derive(Debug)]
pub struct KeyCommandReceiver {
    /// The commands, in the order of their arrival.
    pub(crate) commands: mpsc::Receiver<KeyCommand>,
    /// Why a step of the key schedule that is due cannot be taken; `None` if it can.
    pub(crate) blocked_reason: watch::Sender<Option<String>>,
    /// How the key-encryption key is sealed; `None` before the keystore is open.
    pub(crate) seal_status: watch::Sender<Option<SealStatus>>,
}

/// A command, and the administrator who sent it.
#[derive(Debug)]
pub struct KeyCommand {
    /// What to do.
    pub action: KeyAction,
    /// The administrator, for the audit log.
    pub requested_by: String,
}

/// What to do, and where to send the result.
#[derive(Debug)]
pub enum KeyAction {
    /// Accept the current state directory as the latest.
    AcceptState(ReplySender<()>),
    /// Open the secrets with the recovery key, and seal them to the current TPM and PCRs.
    Recover {
        /// The recovery key.
        key: RecoveryKey,
        /// Whether to accept a state directory that is not the latest.
        accept_rollback: bool,
        /// Receives the result.
        reply: ReplySender<()>,
    },
    /// Create a recovery key, which is not in force yet. The result is its text.
    CreateRecoveryKey(ReplySender<Zeroizing<String>>),
    /// Put the recovery key that was created last in force, in place of the previous one.
    ConfirmRecoveryKey {
        /// The recovery key.
        key: RecoveryKey,
        /// Receives the result.
        reply: ReplySender<()>,
    },
    /// Destroy the keys of a tenant that no agent names. The result is whether it had keys.
    RemoveTenant {
        /// The tenant.
        tenant: String,
        /// Receives the result.
        reply: ReplySender<bool>,
    },
    /// Rotate an issuing key.
    Rotate {
        /// The tenant whose key it is; `None` for that of agents without one.
        tenant: Option<String>,
        /// How soon the next key is active.
        urgency: RotationUrgency,
        /// Receives the result.
        reply: ReplySender<RotationResult>,
    },
    /// Rotate the RSA key.
    RotateRsa {
        /// How soon the next key is active.
        urgency: RotationUrgency,
        /// Receives the result, or the road on which it will come.
        reply: ReplySender<RsaRotation>,
    },
}

/// The result of a rotation of the RSA key.
#[derive(Debug)]
pub enum RsaRotation {
    /// It is done.
    Done(RotationResult),
    /// The TPM makes the key, which takes up to a minute; the result follows.
    Started(oneshot::Receiver<Result<RotationResult, KeyCommandError>>),
}

/// Where the result of a command goes.
pub type ReplySender<T> = oneshot::Sender<Result<T, KeyCommandError>>;

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyCommandError {
    /// 8 commands are waiting.
    #[error("another key operation is in progress; try again in a moment")]
    Busy,
    /// The receiver of the commands has ended.
    #[error("the daemon is shutting down")]
    ShuttingDown,
    /// No result within 25 seconds. The operation may still end.
    #[error(
        "the operation has not finished within {} seconds; see hostbadge status and hostbadge key list",
        COMMAND_TIMEOUT.as_secs()
    )]
    TimedOut,
    /// The command needs open keys.
    #[error("no keys are open; see hostbadge status")]
    KeysNotOpen,
    /// The command opens keys that are open.
    #[error(
        "the keys of this host are open, so no recovery key and no accepting of state is needed; hostbadge \
         status has what else keeps it from issuing"
    )]
    KeysOpen,
    /// The keys of a tenant cannot be destroyed while agents need them.
    #[error(
        "agents name this tenant; remove their files, and reload the agents first: hostbadge agent reload"
    )]
    TenantInUse,
    /// No grant needs RS256, so that the host has no RSA key.
    #[error("this host has no RSA key: no grant of agents.d has alg = \"RS256\"")]
    NoRsaKey,
    /// The TPM has not made the RSA key that the command waited for.
    #[error("the RSA key was not made: {0}")]
    RsaKeyNotMade(#[source] Arc<Error>),
    /// The TPM was replaced or cleared while the keys of the previous TPM are in memory.
    #[error("restart the daemon first: the keys in its memory are those of the previous TPM")]
    RestartRequired,
    /// The operation failed.
    #[error(transparent)]
    Operation(#[from] Error),
    /// The audit log cannot be written, so the operation was not carried out, or its result is not returned.
    #[error(transparent)]
    Audit(Box<dyn std::error::Error + Send + Sync>),
}

impl KeyCommandError {
    /// [`KeyCommandError::Audit`] with the audit log's error.
    pub fn audit(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> KeyCommandError {
        KeyCommandError::Audit(error.into())
    }

    /// What this failure means for the administrator's request.
    pub fn class(&self) -> ErrorClass {
        match self {
            KeyCommandError::Busy
            | KeyCommandError::KeysOpen
            | KeyCommandError::TenantInUse
            | KeyCommandError::NoRsaKey
            | KeyCommandError::RestartRequired => ErrorClass::Conflict,
            KeyCommandError::ShuttingDown
            | KeyCommandError::TimedOut
            | KeyCommandError::KeysNotOpen
            | KeyCommandError::Audit(_) => ErrorClass::Unavailable,
            KeyCommandError::RsaKeyNotMade(error) => error.class(),
            KeyCommandError::Operation(error) => error.class(),
        }
    }
}

/// How soon the next key is active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RotationUrgency {
    /// Once relying parties have had time to fetch it.
    Planned,
    /// At once, even though relying parties may not know it yet.
    Immediate,
    /// At once, even if a retired key must be destroyed before the last token that it signed has expired.
    Emergency,
}

/// The result of a rotation.
#[derive(Debug)]
pub struct RotationResult {
    /// What was done.
    pub outcome: RotationOutcome,
    /// The key that is active next, or now.
    pub kid: String,
    /// When it is active.
    pub active_from: Timestamp,
    /// The key that does not sign any more.
    pub retired: Option<String>,
    /// A retired key that was destroyed early to make room. Tokens that it signed do not verify any more.
    pub destroyed_early: Option<String>,
}

/// What a rotation did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RotationOutcome {
    /// A key was published, and becomes active later.
    Published,
    /// Nothing: a key is published already, and becomes active as scheduled.
    AlreadyPublished,
    /// The next key is active now.
    Activated,
}

/// Makes both ends.
pub fn key_command_channel() -> (KeyAdmin, KeyCommandReceiver) {
    let (sender, commands) = mpsc::channel(QUEUE_CAPACITY);
    let (blocked_reason, blocked_reason_rx) = watch::channel(None);
    let (seal_status, seal_status_rx) = watch::channel(None);
    let admin = KeyAdmin { commands: sender, blocked_reason: blocked_reason_rx, seal_status: seal_status_rx };
    (admin, KeyCommandReceiver { commands, blocked_reason, seal_status })
}

impl KeyAdmin {
    /// Rotates the issuing key of a tenant, or of agents without one.
    pub async fn rotate(
        &self,
        tenant: Option<String>,
        urgency: RotationUrgency,
        requested_by: String,
    ) -> Result<RotationResult, KeyCommandError> {
        self.send(requested_by, |reply| KeyAction::Rotate { tenant, urgency, reply }).await
    }

    /// Rotates the RSA key. `None` if the TPM has not made the key within 10 s: the rotation goes on, and the list of
    /// keys shows its result.
    pub async fn rotate_rsa(
        &self,
        urgency: RotationUrgency,
        requested_by: String,
    ) -> Result<Option<RotationResult>, KeyCommandError> {
        match self.send(requested_by, |reply| KeyAction::RotateRsa { urgency, reply }).await? {
            RsaRotation::Done(result) => Ok(Some(result)),
            RsaRotation::Started(result) => match tokio::time::timeout(RSA_KEY_TIMEOUT, result).await {
                Ok(Ok(result)) => result.map(Some),
                Ok(Err(_)) => Err(KeyCommandError::ShuttingDown),
                Err(_) => Ok(None),
            },
        }
    }

    /// Destroys the keys of a tenant that no agent names. Whether it had keys.
    pub async fn remove_tenant(&self, tenant: String, requested_by: String) -> Result<bool, KeyCommandError> {
        self.send(requested_by, |reply| KeyAction::RemoveTenant { tenant, reply }).await
    }

    /// Creates a recovery key, which is not in force yet, and returns its text.
    pub async fn create_recovery_key(
        &self,
        requested_by: String,
    ) -> Result<Zeroizing<String>, KeyCommandError> {
        self.send(requested_by, KeyAction::CreateRecoveryKey).await
    }

    /// Puts the recovery key that was created last in force.
    pub async fn confirm_recovery_key(
        &self,
        key: RecoveryKey,
        requested_by: String,
    ) -> Result<(), KeyCommandError> {
        self.send(requested_by, |reply| KeyAction::ConfirmRecoveryKey { key, reply }).await
    }

    /// Opens the secrets with the recovery key.
    pub async fn recover(
        &self,
        key: RecoveryKey,
        accept_rollback: bool,
        requested_by: String,
    ) -> Result<(), KeyCommandError> {
        self.send(requested_by, |reply| KeyAction::Recover { key, accept_rollback, reply }).await
    }

    /// Accepts the current state directory as the latest.
    pub async fn accept_state(&self, requested_by: String) -> Result<(), KeyCommandError> {
        self.send(requested_by, KeyAction::AcceptState).await
    }

    /// Why a step of the key schedule that is due cannot be taken.
    pub fn blocked_reason(&self) -> Option<String> {
        self.blocked_reason.borrow().clone()
    }

    /// How the key-encryption key is sealed; `None` before the keystore is open.
    pub fn seal_status(&self) -> Option<SealStatus> {
        self.seal_status.borrow().clone()
    }

    fn send<T>(
        &self,
        requested_by: String,
        action: impl FnOnce(ReplySender<T>) -> KeyAction,
    ) -> impl Future<Output = Result<T, KeyCommandError>> {
        let (reply, response) = oneshot::channel();
        let sent = self.commands.try_send(KeyCommand { action: action(reply), requested_by });
        async move {
            sent.map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => KeyCommandError::Busy,
                mpsc::error::TrySendError::Closed(_) => KeyCommandError::ShuttingDown,
            })?;
            match tokio::time::timeout(COMMAND_TIMEOUT, response).await {
                Ok(Ok(result)) => result,
                Ok(Err(_)) => Err(KeyCommandError::ShuttingDown),
                Err(_) => Err(KeyCommandError::TimedOut),
            }
        }
    }
}

impl KeyCommand {
    /// Whether the administrator's request has ended. Such a command must not be carried out later.
    pub fn is_cancelled(&self) -> bool {
        match &self.action {
            KeyAction::AcceptState(reply)
            | KeyAction::ConfirmRecoveryKey { reply, .. }
            | KeyAction::Recover { reply, .. } => reply.is_closed(),
            KeyAction::CreateRecoveryKey(reply) => reply.is_closed(),
            KeyAction::RemoveTenant { reply, .. } => reply.is_closed(),
            KeyAction::Rotate { reply, .. } => reply.is_closed(),
            KeyAction::RotateRsa { reply, .. } => reply.is_closed(),
        }
    }

    /// Replies that the command was not carried out.
    pub fn reject(self, error: KeyCommandError) {
        let _closed = match self.action {
            KeyAction::AcceptState(reply)
            | KeyAction::ConfirmRecoveryKey { reply, .. }
            | KeyAction::Recover { reply, .. } => reply.send(Err(error)).is_err(),
            KeyAction::CreateRecoveryKey(reply) => reply.send(Err(error)).is_err(),
            KeyAction::RemoveTenant { reply, .. } => reply.send(Err(error)).is_err(),
            KeyAction::Rotate { reply, .. } => reply.send(Err(error)).is_err(),
            KeyAction::RotateRsa { reply, .. } => reply.send(Err(error)).is_err(),
        };
    }
}
