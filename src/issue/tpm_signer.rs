//! Tokens that the TPM signs: some per second for the whole host, so agents take turns in a [`FairQueue`].

use std::time::Duration;

use tokio::sync::watch;

use super::access_token::{self, AccessToken, UnsignedToken};
use super::fair_queue::{FairQueue, QueueFull, SigningSlot};
use super::issuer::IssuerState;
use crate::clock::Clock;
use crate::policy::{ErrorCode, Permit, Refusal, Signer};
use crate::revocation::status::StatusLists;
use crate::tpm::{self, StateKind, Tpm};

/// Why there is no RS256 token until the RSA key exists.
pub const RSA_KEY_PENDING: &str =
    "the RSA key is being created in the TPM, which can take up to a minute; retry later";

/// `Retry-After` when the queue is full or did not advance in time.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Signs tokens in the TPM. Cheap to clone.
#[derive(Clone)]
pub struct TpmSigner {
    /// Gives tokens their status.
    pub statuses: StatusLists,
    /// Decides which agent's request is next.
    pub queue: FairQueue,
    /// The TPM; `None` before it is open.
    pub tpm: watch::Receiver<Option<Tpm>>,
    /// Why there is no RSA key, if a grant needs one.
    pub rsa_blocked_reason: watch::Receiver<Option<String>>,
}

/// Why the TPM signed no token.
struct TpmSignError {
    code: ErrorCode,
    message: String,
    /// Whether the response has `Retry-After`, [`RETRY_AFTER`].
    retry: bool,
}

impl TpmSigner {
    /// Issues a token that the TPM signs, once it is the agent's turn.
    ///
    /// # Errors
    /// A refusal if the TPM is not available, the queue is full, or the agent's turn does not come within the
    /// TPM's deadline.
    pub async fn mint_token(
        &self,
        issuer_state: &IssuerState,
        permit: Permit,
        clock: &Clock,
    ) -> Result<AccessToken, Refusal> {
        match self.sign(issuer_state, &permit, clock).await {
            Ok((token, signature)) => Ok(token.with_signature(&signature, permit)),
            Err(error) => {
                let mut refusal = Refusal::new(error.code, error.message)
                    .with_peer(permit.agent().peer())
                    .with_agent(permit.agent().name())
                    .with_audience(permit.audience());
                refusal.retry_after = error.retry.then_some(RETRY_AFTER);
                Err(refusal)
            }
        }
    }

    /// A token and its signature.
    async fn sign(
        &self,
        issuer_state: &IssuerState,
        permit: &Permit,
        clock: &Clock,
    ) -> Result<(UnsignedToken, Vec<u8>), TpmSignError> {
        let tpm = self.tpm.borrow().clone().ok_or_else(|| unavailable("the TPM is starting"))?;
        if permit.signer() == Signer::Rsa && issuer_state.rsa_key().is_none() {
            let reason = self.rsa_blocked_reason.borrow().clone();
            // The issuer supervisor publishes it too, but a request can come before that.
            return Err(unavailable(reason.unwrap_or_else(|| RSA_KEY_PENDING.into())));
        }
        ensure_not_busy(&tpm)?;
        let _slot = self.acquire_slot(permit, &tpm).await?;
        ensure_not_busy(&tpm)?;
        // Built after the wait, so that the token's lifetime begins when it is signed.
        let token =
            access_token::build(issuer_state, permit, &self.statuses, clock.now()).map_err(|error| {
                TpmSignError { code: error.refusal_code(), message: error.to_string(), retry: false }
            })?;
        let digest = token.digest();
        let result = match (permit.signer(), issuer_state.rsa_key()) {
            (Signer::Rsa, Some(rsa)) => tpm.rsa_sign(rsa.tpm_key().clone(), digest).await.map(|s| s.to_vec()),
            _ => tpm.host_sign(digest).await.map(|s| s.to_vec()),
        };
        match result {
            Ok(signature) => Ok((token, signature)),
            Err(error) => Err(unavailable(tpm_problem(&tpm).unwrap_or_else(|| describe_error(&error)))),
        }
    }

    /// Waits for the agent's turn, for at most the deadline of a TPM command.
    async fn acquire_slot(&self, permit: &Permit, tpm: &Tpm) -> Result<SigningSlot, TpmSignError> {
        match tokio::time::timeout(tpm.deadline(), self.queue.acquire(permit.agent().root_name())).await {
            Ok(Ok(slot)) => Ok(slot),
            Ok(Err(QueueFull::PerAgent)) => Err(TpmSignError {
                code: ErrorCode::SlowDown,
                message: "TPM signing queue for this agent is full; retry later".into(),
                retry: true,
            }),
            Ok(Err(QueueFull::Total)) => {
                Err(TpmSignError { retry: true, ..unavailable("TPM signing queue is full; retry later") })
            }
            Err(_) => {
                let message = "timed out waiting for the TPM signing queue; retry later";
                Err(TpmSignError {
                    retry: true,
                    ..unavailable(tpm_problem(tpm).unwrap_or_else(|| message.into()))
                })
            }
        }
    }
}

/// A TPM that does not respond would make each caller wait for its whole deadline. In every other state a
/// command is sent: its error names the state, and it makes the TPM thread reconnect.
fn ensure_not_busy(tpm: &Tpm) -> Result<(), TpmSignError> {
    match tpm.state().borrow().kind {
        StateKind::Busy => Err(unavailable(tpm_problem(tpm).unwrap_or_default())),
        _ => Ok(()),
    }
}

/// The TPM's state with its remedy; `None` in state `ready`.
fn tpm_problem(tpm: &Tpm) -> Option<String> {
    let state = tpm.state();
    let state = state.borrow();
    match state.kind {
        StateKind::Ready => None,
        kind => Some(format!("the TPM is {}: {}", *state, kind.remedy())),
    }
}

/// The error's text. A missed deadline gets the text of state `busy`, which the TPM's watchdog may not have
/// set yet.
fn describe_error(error: &tpm::Error) -> String {
    match error {
        tpm::Error::DeadlineExceeded(_) => {
            format!("the TPM is {}: {error}; {}", StateKind::Busy, StateKind::Busy.remedy())
        }
        other => other.to_string(),
    }
}

fn unavailable(message: impl Into<String>) -> TpmSignError {
    TpmSignError { code: ErrorCode::TemporarilyUnavailable, message: message.into(), retry: false }
}
