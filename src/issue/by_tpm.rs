//! Tokens that the TPM signs itself: slower by far than the issuing key, so agents take turns.

use tokio::sync::watch;

use super::fair::{Full, Turn, Turns};
use super::{Standing, Token, token};
use crate::clock::Clock;
use crate::policy::{Permit, Reason, Refusal, Signer};
use crate::tpm::{self, StateKind, Tpm};

/// When it makes sense to ask again, where others stand in the way.
const AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

/// The way to the TPM for tokens. Cheap to clone.
#[derive(Clone)]
pub struct ByTpm {
    pub turns: Turns,
    pub tpm: watch::Receiver<Option<Tpm>>,
    /// Why there is no RSA key, where one is wanted.
    pub rsa_waits: watch::Receiver<Option<String>>,
}

/// Why there is no token.
struct No {
    reason: Reason,
    what: String,
    again: bool,
}

impl ByTpm {
    /// Mints what was permitted, once it is the agent's turn and the TPM has signed.
    pub async fn token(&self, standing: &Standing, permit: Permit, clock: &Clock) -> Result<Token, Refusal> {
        let (agent, audience) = (permit.agent().clone(), permit.audience().to_owned());
        self.mint(standing, permit, clock).await.map_err(|no| {
            let mut refusal =
                Refusal::new(no.reason, no.what).by(agent.peer()).of(agent.name()).about(&audience);
            refusal.retry_after = no.again.then_some(AGAIN);
            refusal
        })
    }

    async fn mint(&self, standing: &Standing, permit: Permit, clock: &Clock) -> Result<Token, No> {
        let tpm = self.tpm.borrow().clone().ok_or_else(|| no("the TPM is starting"))?;
        if permit.signer() == Signer::Rsa && standing.rsa().is_none() {
            let why = self.rsa_waits.borrow().clone();
            return Err(no(why.unwrap_or_else(|| "the RSA key is being made; ask again later".into())));
        }
        not_busy(&tpm)?;
        let _turn = self.turn(&permit, &tpm).await?;
        not_busy(&tpm)?;
        // Written only now, so that the token's times begin when it is signed.
        let token = token::write(standing, permit, clock.now()).map_err(|e| No {
            reason: Reason::ServerError,
            what: e.to_string(),
            again: false,
        })?;
        let digest = token.digest();
        let signed = match (token.permit().signer(), standing.rsa()) {
            (Signer::Rsa, Some(rsa)) => tpm.rsa_sign(rsa.in_tpm().clone(), digest).await.map(|s| s.to_vec()),
            _ => tpm.host_sign(digest).await.map(|s| s.to_vec()),
        };
        match signed {
            Ok(signature) => Ok(token.signed(&signature)),
            Err(e) => Err(no(trouble(&tpm).unwrap_or_else(|| named(&e)))),
        }
    }

    /// Waits no longer than for the TPM itself.
    async fn turn(&self, permit: &Permit, tpm: &Tpm) -> Result<Turn, No> {
        match tokio::time::timeout(tpm.deadline(), self.turns.turn(permit.agent().name())).await {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(Full::Mine)) => Err(No {
                reason: Reason::SlowDown,
                what: "as many of this agent's requests wait for the TPM as may; ask again later".into(),
                again: true,
            }),
            Ok(Err(Full::Everyone)) => {
                let what = "as many requests of all agents wait for the TPM as may; ask again later";
                Err(No { again: true, ..no(what) })
            }
            Err(_) => {
                let what = "the TPM was signing for others all the time; ask again later";
                Err(No { again: true, ..no(trouble(tpm).unwrap_or_else(|| what.into())) })
            }
        }
    }
}

/// A TPM that does not answer would hold each caller for its whole deadline. In any other state it says itself what it
/// can do, and being asked is what brings back one that was away.
fn not_busy(tpm: &Tpm) -> Result<(), No> {
    match tpm.state().borrow().kind {
        StateKind::Busy => Err(no(trouble(tpm).unwrap_or_default())),
        _ => Ok(()),
    }
}

/// The TPM's state in words, with the mend, unless it is well.
fn trouble(tpm: &Tpm) -> Option<String> {
    let state = tpm.state();
    let state = state.borrow();
    match state.kind {
        StateKind::Ready => None,
        kind => Some(format!("the TPM is {}: {}", *state, kind.remedy())),
    }
}

/// An error by the name of the state that it makes, which nobody may have noticed yet.
fn named(error: &tpm::Error) -> String {
    match error {
        tpm::Error::Deadline(_) => {
            format!("the TPM is {}: {error}; {}", StateKind::Busy, StateKind::Busy.remedy())
        }
        other => other.to_string(),
    }
}

fn no(what: impl Into<String>) -> No {
    No { reason: Reason::TemporarilyUnavailable, what: what.into(), again: false }
}
