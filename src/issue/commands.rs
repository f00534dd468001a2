//! The way from an administrator to the one who keeps the keys.

use std::future::Future;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};
use zeroize::Zeroizing;

use crate::clock::Timestamp;
use crate::keystore::{RecoveryKey, SealStatus};

/// Orders that may wait; more at once is no administrator.
const QUEUE_CAPACITY: usize = 8;
/// The keeper bounds each of its waits; this bounds their sum, below the patience of the command.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(25);

/// Where administrators' orders about keys go. Cheap to clone.
#[derive(Clone, Debug)]
pub struct KeyAdmin {
    commands: mpsc::Sender<KeyCommand>,
    blocked_reason: watch::Receiver<Option<String>>,
    seal_status: watch::Receiver<Option<SealStatus>>,
}

/// The other end: who keeps the keys takes orders here, and says what a due step waits for and how the keys are guarded.
#[derive(Debug)]
pub struct KeyCommandReceiver {
    pub commands: mpsc::Receiver<KeyCommand>,
    pub blocked_reason: watch::Sender<Option<String>>,
    pub seal_status: watch::Sender<Option<SealStatus>>,
}

/// Something to be done, and who ordered it, for the record.
#[derive(Debug)]
pub struct KeyCommand {
    pub action: KeyAction,
    pub requested_by: String,
}

/// What is to be done, and where the outcome goes. Errors are for administrators.
#[derive(Debug)]
pub enum KeyAction {
    /// Take the state directory as it is for the latest.
    AcceptState(ReplySender<()>),
    /// Open the secrets with the recovery key, and seal them to this TPM as it is now; `accept` says whether the state is
    /// taken even if it is not the latest.
    Recover { key: RecoveryKey, accept_rollback: bool, reply: ReplySender<()> },
    /// Make a recovery key, in place of the one before.
    CreateRecoveryKey(ReplySender<Zeroizing<String>>),
    /// Rotate the issuing key; `at_once` says whether the next one signs now, unknown to relying parties as it may be.
    Rotate { immediately: bool, reply: ReplySender<RotationResult> },
}

pub type ReplySender<T> = oneshot::Sender<Result<T, String>>;

/// What a rotation came to.
#[derive(Debug, Serialize)]
pub struct RotationResult {
    pub did: RotationOutcome,
    /// The key that signs next, or now.
    pub kid: String,
    /// When it signs.
    pub active_from: Timestamp,
    /// The key that signs no more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retired: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RotationOutcome {
    /// A key is published and signs later.
    Published,
    /// One was published before, and signs when it was to.
    Nothing,
    /// The next key signs now.
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
    /// Has the issuing key rotated. The error is for the administrator, as it is of each order.
    pub async fn rotate(&self, immediately: bool, requested_by: String) -> Result<RotationResult, String> {
        self.send(requested_by, |reply| KeyAction::Rotate { immediately, reply }).await
    }

    /// Has a recovery key made: its text.
    pub async fn create_recovery_key(&self, requested_by: String) -> Result<Zeroizing<String>, String> {
        self.send(requested_by, KeyAction::CreateRecoveryKey).await
    }

    /// Has the secrets opened by the recovery key.
    pub async fn recover(
        &self,
        key: RecoveryKey,
        accept_rollback: bool,
        requested_by: String,
    ) -> Result<(), String> {
        self.send(requested_by, |reply| KeyAction::Recover { key, accept_rollback, reply }).await
    }

    /// Has the state directory taken as it is.
    pub async fn accept_state(&self, requested_by: String) -> Result<(), String> {
        self.send(requested_by, KeyAction::AcceptState).await
    }

    /// What keeps a step that is due from being taken.
    pub fn blocked_reason(&self) -> Option<String> {
        self.blocked_reason.borrow().clone()
    }

    /// How the keys are guarded at rest, once they are open.
    pub fn seal_status(&self) -> Option<SealStatus> {
        self.seal_status.borrow().clone()
    }

    fn send<T>(
        &self,
        requested_by: String,
        action: impl FnOnce(ReplySender<T>) -> KeyAction,
    ) -> impl Future<Output = Result<T, String>> {
        let (reply, response) = oneshot::channel();
        let sent = self.commands.try_send(KeyCommand { action: action(reply), requested_by });
        async move {
            sent.map_err(|_| "the keys are being seen to; try again in a moment".to_owned())?;
            match tokio::time::timeout(COMMAND_TIMEOUT, response).await {
                Ok(Ok(result)) => result,
                Ok(Err(_)) => Err("the daemon ends".into()),
                Err(_) => Err("this takes long; see hostbadge status and hostbadge key list".into()),
            }
        }
    }
}

impl KeyCommand {
    /// Whether whoever ordered it has gone: they are not to find it done later.
    pub fn is_cancelled(&self) -> bool {
        match &self.action {
            KeyAction::AcceptState(reply) | KeyAction::Recover { reply, .. } => reply.is_closed(),
            KeyAction::CreateRecoveryKey(reply) => reply.is_closed(),
            KeyAction::Rotate { reply, .. } => reply.is_closed(),
        }
    }

    /// Says that it is not done, and why.
    pub fn reject(self, reason: &str) {
        let reason = reason.to_owned();
        let _closed = match self.action {
            KeyAction::AcceptState(reply) | KeyAction::Recover { reply, .. } => {
                reply.send(Err(reason)).is_err()
            }
            KeyAction::CreateRecoveryKey(reply) => reply.send(Err(reason)).is_err(),
            KeyAction::Rotate { reply, .. } => reply.send(Err(reason)).is_err(),
        };
    }
}
