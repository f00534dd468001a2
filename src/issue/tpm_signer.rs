//! Tokens that the TPM signs itself: slower by far than the issuing key, so agents take turns.

use tokio::sync::watch;

use super::fair_queue::{FairQueue, QueueFull, SigningSlot};
use super::{AccessToken, IssuerState, access_token};
use crate::clock::Clock;
use crate::policy::{ErrorCode, Permit, Refusal, Signer};
use crate::tpm::{self, StateKind, Tpm};

/// When it makes sense to ask again, where others stand in the way.
const RETRY_AFTER: std::time::Duration = std::time::Duration::from_secs(1);

/// The way to the TPM for tokens. Cheap to clone.
#[derive(Clone)]
pub struct TpmSigner {
    pub queue: FairQueue,
    pub tpm: watch::Receiver<Option<Tpm>>,
    /// Why there is no RSA key, where one is wanted.
    pub rsa_blocked_reason: watch::Receiver<Option<String>>,
}

/// Why there is no token.
struct TpmSignError {
    code: ErrorCode,
    message: String,
    retry: bool,
}

impl TpmSigner {
    /// Mints what was permitted, once it is the agent's turn and the TPM has signed.
    pub async fn mint_token(
        &self,
        issuer_state: &IssuerState,
        permit: Permit,
        clock: &Clock,
    ) -> Result<AccessToken, Refusal> {
        let (agent, audience) = (permit.agent().clone(), permit.audience().to_owned());
        self.mint(issuer_state, permit, clock).await.map_err(|error| {
            let mut refusal = Refusal::new(error.code, error.message)
                .with_peer(agent.peer())
                .with_agent(agent.name())
                .with_audience(&audience);
            refusal.retry_after = error.retry.then_some(RETRY_AFTER);
            refusal
        })
    }

    async fn mint(
        &self,
        issuer_state: &IssuerState,
        permit: Permit,
        clock: &Clock,
    ) -> Result<AccessToken, TpmSignError> {
        let tpm = self.tpm.borrow().clone().ok_or_else(|| unavailable("the TPM is starting"))?;
        if permit.signer() == Signer::Rsa && issuer_state.rsa_key().is_none() {
            let reason = self.rsa_blocked_reason.borrow().clone();
            return Err(unavailable(
                reason.unwrap_or_else(|| "the RSA key is being made; ask again later".into()),
            ));
        }
        ensure_not_busy(&tpm)?;
        let _slot = self.acquire_slot(&permit, &tpm).await?;
        ensure_not_busy(&tpm)?;
        // Written only now, so that the token's times begin when it is signed.
        let token = access_token::build(issuer_state, permit, clock.now()).map_err(|e| TpmSignError {
            code: ErrorCode::ServerError,
            message: e.to_string(),
            retry: false,
        })?;
        let digest = token.digest();
        let result = match (token.permit().signer(), issuer_state.rsa_key()) {
            (Signer::Rsa, Some(rsa)) => tpm.rsa_sign(rsa.tpm_key().clone(), digest).await.map(|s| s.to_vec()),
            _ => tpm.host_sign(digest).await.map(|s| s.to_vec()),
        };
        match result {
            Ok(signature) => Ok(token.with_signature(&signature)),
            Err(e) => Err(unavailable(tpm_problem(&tpm).unwrap_or_else(|| describe_error(&e)))),
        }
    }

    /// Waits no longer than for the TPM itself.
    async fn acquire_slot(&self, permit: &Permit, tpm: &Tpm) -> Result<SigningSlot, TpmSignError> {
        match tokio::time::timeout(tpm.deadline(), self.queue.acquire(permit.agent().name())).await {
            Ok(Ok(slot)) => Ok(slot),
            Ok(Err(QueueFull::PerAgent)) => Err(TpmSignError {
                code: ErrorCode::SlowDown,
                message: "as many of this agent's requests wait for the TPM as may; ask again later".into(),
                retry: true,
            }),
            Ok(Err(QueueFull::Total)) => {
                let message = "as many requests of all agents wait for the TPM as may; ask again later";
                Err(TpmSignError { retry: true, ..unavailable(message) })
            }
            Err(_) => {
                let message = "the TPM was signing for others all the time; ask again later";
                Err(TpmSignError {
                    retry: true,
                    ..unavailable(tpm_problem(tpm).unwrap_or_else(|| message.into()))
                })
            }
        }
    }
}

/// A TPM that does not answer would hold each caller for its whole deadline. In any other state it says itself what it
/// can do, and being asked is what brings back one that was away.
fn ensure_not_busy(tpm: &Tpm) -> Result<(), TpmSignError> {
    match tpm.state().borrow().kind {
        StateKind::Busy => Err(unavailable(tpm_problem(tpm).unwrap_or_default())),
        _ => Ok(()),
    }
}

/// The TPM's state in words, with the mend, unless it is well.
fn tpm_problem(tpm: &Tpm) -> Option<String> {
    let state = tpm.state();
    let state = state.borrow();
    match state.kind {
        StateKind::Ready => None,
        kind => Some(format!("the TPM is {}: {}", *state, kind.remedy())),
    }
}

/// An error by the name of the state that it makes, which nobody may have noticed yet.
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
