//! The creation of an RSA key in the TPM, which takes up to a minute, and who waits for it.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::issue::{KeyCommandError, RotationResult, RotationUrgency};
use crate::tpm::{self, RsaKeyBlob, Tpm};

/// A key that the TPM makes.
type PendingKey = Pin<Box<dyn Future<Output = Result<RsaKeyBlob, tpm::Error>> + Send>>;

/// The creation of a key in the TPM, and the commands that wait for it.
#[derive(Default)]
pub(super) struct RsaCreation {
    /// The mutex is never locked: it makes the future shareable, so that the supervisor's task can be spawned.
    running: Option<Mutex<PendingKey>>,
    /// When the next attempt begins, after one that failed.
    pub(super) retry_at: Option<Instant>,
    /// Why the last attempt failed.
    pub(super) failure: Option<String>,
    /// A key that could not be stored: the next attempt begins with it.
    pub(super) unsaved: Option<RsaKeyBlob>,
    pub(super) waiting: Vec<WaitingCommand>,
}

/// A rotation that an administrator requested.
pub(super) struct WaitingCommand {
    pub(super) urgency: RotationUrgency,
    pub(super) requested_by: String,
    pub(super) reply: oneshot::Sender<Result<RotationResult, KeyCommandError>>,
}

impl RsaCreation {
    /// Waits until the TPM has made the key; forever while it makes none. A call that is cancelled loses nothing.
    pub async fn finished(&mut self) -> Result<RsaKeyBlob, tpm::Error> {
        let Some(running) = &mut self.running else { return std::future::pending().await };
        let result = running.get_mut().unwrap_or_else(PoisonError::into_inner).await;
        self.running = None;
        result
    }

    /// Whether the TPM is making a key.
    pub(super) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Has the TPM make a key, unless it is making one or the time for another attempt has not come. Returns how long
    /// to wait for that time.
    pub(super) fn start(&mut self, tpm: &Tpm) -> Option<Duration> {
        if self.running.is_some() {
            return None;
        }
        let now = Instant::now();
        if let Some(retry_at) = self.retry_at.filter(|retry_at| *retry_at > now) {
            return Some(retry_at - now);
        }
        let (tpm, unsaved) = (tpm.clone(), self.unsaved.take());
        let pending: PendingKey = Box::pin(async move {
            match unsaved {
                Some(key) => Ok(key),
                None => tpm.create_rsa_key().await,
            }
        });
        self.running = Some(Mutex::new(pending));
        None
    }
}
