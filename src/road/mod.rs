//! The way of a request, from one end to the other.
//!
//! ```text
//! Peer ─ agents ─> Agent ─ posture ─> Posture ─ policy ─> Permit ─ issue ─> Token ─ audit ─> Recorded<Token>
//!            └── no agent: Refusal ─────────────────┴── denied: Refusal ── audit ──> Recorded<Refusal>
//! ```
//!
//! Each step takes what only the step before can make. Nothing here blocks, and nothing is done twice.

mod administrators;
mod callers;
mod refusing;
mod svids;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::agents::{Agents, Entry};
use crate::audit::{Audit, Recorded, Unrecorded};
use crate::clock::{Clock, Uptime};
use crate::federation::Federation;
use crate::issue::{
    Asker, ByTpm, Challenge, Enrollment, Host, Introspection, Issuer, Logs, Places, Proof, Query, Standing,
    Token,
};
use crate::peer::{Look, Peer};
use crate::pki::{Authority, Certificate, HolderKey, Wanted};
use crate::policy::{self, Ask, Limiter, Reason, Refusal, Signer, Who};
use crate::posture::{BootLog, ImaList, Posture, Watched};
use crate::tpm::{self, Tpm};
pub use refusing::No;

/// When to ask again for evidence, where others are being given theirs.
const NO_PLACE: Duration = Duration::from_secs(5);

/// Why there is no answer of the wanted kind.
#[derive(Debug)]
pub enum Refused {
    /// A refusal, written down.
    Recorded(Recorded<Refusal>),
    /// Nothing could be written down, so nothing else may be said.
    Unrecorded(Unrecorded),
}

/// What a request comes to.
pub type Answer<T> = Result<Recorded<T>, Refused>;

/// Who the caller is, in its own eyes and ours.
#[derive(Debug)]
pub struct Identity {
    pub peer: Peer,
    pub agents: Vec<Arc<Entry>>,
    /// Where this host has been named already.
    pub host: Option<Host>,
    pub posture: Posture,
}

/// Everything that the road passes. Cheap to clone.
#[derive(Clone)]
pub struct Road {
    pub agents: Agents,
    /// What is known of other trust domains.
    pub federation: Federation,
    pub limiter: Arc<Limiter>,
    pub issuer: Issuer,
    pub audit: Audit,
    pub clock: Clock,
    /// Why the issuer may be waiting.
    pub tpm: watch::Receiver<tpm::State>,
    /// What else keeps the issuer from standing, such as a torn file.
    pub trouble: watch::Receiver<Option<String>>,
    /// The way to the TPM, for what it has to do itself.
    pub handle: watch::Receiver<Option<Tpm>>,
    /// The same for tokens, for which agents take turns.
    pub by_tpm: ByTpm,
    /// For proofs, which are large.
    pub places: Places,
    pub boot_log: BootLog,
    /// What an operator has certified.
    pub enrollment: Enrollment,
    pub ima: ImaList,
    pub posture: Watched,
    /// Where certificates come from.
    pub authority: Authority,
}

/// What a request for a certificate says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateAsk {
    /// A PKCS#10 request, PEM or DER in base64; none has a key made.
    pub csr: Option<String>,
    /// Which agent the caller wants to be, where it is several.
    pub agent: Option<String>,
    pub ttl: Option<Duration>,
}

impl Road {
    /// A token, or why not. `ask` is what the request's body came to.
    pub async fn token(&self, look: Look, ask: Result<Ask, String>) -> Answer<Token> {
        match self.decide_token(look, ask).await {
            Ok(token) => self.audit.token(token).await.map_err(Refused::Unrecorded),
            Err(no) => Err(self.refuse(no).await),
        }
    }

    /// A certificate for the caller's own identity.
    pub async fn certificate(&self, look: Look, ask: Result<CertificateAsk, String>) -> Answer<Certificate> {
        match self.decide_certificate(look, ask).await {
            Ok(certificate) => self.record_certificate(certificate).await,
            Err(no) => Err(self.refuse(no).await),
        }
    }

    /// What a token is worth, for a registered agent.
    pub async fn introspect(&self, look: Look, query: Result<Query, String>) -> Answer<Introspection> {
        let decided = async {
            let peer = self.known(look)?;
            // Whichever of its agents asks: the answer is the same.
            let agent = self.identify_any(&peer).await?;
            let query = query.map_err(|what| No::refusal(Reason::InvalidRequest, what, &peer).of(&agent))?;
            let standing = self.standing().map_err(|no| no.by(&peer).of(&agent))?;
            let answer = standing.introspect(&query, &self.agents.registry(), self.clock.now());
            Ok((agent, answer))
        };
        match decided.await {
            Ok((agent, answer)) => {
                self.audit.introspection(&agent, answer).await.map_err(Refused::Unrecorded)
            }
            Err(no) => Err(self.refuse(no).await),
        }
    }

    /// Evidence about the host for a verifier's nonce, for a registered agent.
    pub async fn attest(&self, look: Look, challenge: Result<Challenge, String>) -> Answer<Proof> {
        let decided = async {
            let peer = self.known(look)?;
            let agent = self.identify_any(&peer).await?;
            let challenge =
                challenge.map_err(|what| No::refusal(Reason::InvalidRequest, what, &peer).of(&agent))?;
            self.within_rate(Who::Tpm(agent.name().clone()), Some(&peer)).map_err(|no| no.of(&agent))?;
            let standing = self.standing().map_err(|no| no.by(&peer).of(&agent))?;
            // Whoever stands has a handle.
            let tpm = self.handle.borrow().clone().ok_or_else(|| {
                No::refusal(Reason::TemporarilyUnavailable, "the TPM is starting", &peer).of(&agent)
            })?;
            let place = self.places.take().await.ok_or_else(|| {
                let what = "evidence is being made and taken for others; ask again later";
                let mut no = No::refusal(Reason::TemporarilyUnavailable, what, &peer).of(&agent);
                no.refusal.retry_after = Some(NO_PLACE);
                no
            })?;
            let logs = Logs { boot: self.boot_log.clone(), ima: Some(self.ima.clone()) };
            let certificate = self.enrollment.certificate();
            let proof = standing
                .prove(
                    &tpm,
                    logs,
                    Asker { agent, place },
                    &challenge,
                    certificate.as_deref(),
                    self.clock.now(),
                )
                .await?;
            Ok((proof, challenge.nonce))
        };
        match decided.await {
            Ok((proof, nonce)) => self.audit.proof(proof, &nonce).await.map_err(Refused::Unrecorded),
            Err(no) => Err(self.refuse(no).await),
        }
    }

    /// Who is asking. Nothing is given away, so only refusals are written down.
    pub async fn whoami(&self, look: Look) -> Result<Identity, Refused> {
        let decided = async {
            let peer = self.known(look)?;
            let agent = self.identify_any(&peer).await?;
            let agents = self.agents.all_of(agent.peer(), self.posture.measured()).await;
            let host = self.issuer.standing().map(|standing| standing.host().clone());
            Ok(Identity { peer, agents, host, posture: self.posture() })
        };
        match decided.await {
            Ok(identity) => Ok(identity),
            Err(no) => Err(self.refuse(no).await),
        }
    }

    /// The issuer's standing, or why there is none yet.
    pub fn standing(&self) -> Result<Arc<Standing>, No> {
        self.issuer.standing().ok_or_else(|| No {
            refusal: Refusal::new(Reason::TemporarilyUnavailable, self.why_not_standing()),
            tell: true,
        })
    }

    /// What keeps the issuer waiting, with the mend.
    pub fn why_not_standing(&self) -> String {
        if let Some(trouble) = &*self.trouble.borrow() {
            return trouble.clone();
        }
        let state = self.tpm.borrow();
        match state.kind {
            tpm::StateKind::Ready => "the issuing key is being loaded; try again in a moment".into(),
            kind => format!("the TPM is {}: {}", *state, kind.remedy()),
        }
    }

    /// The host's posture as it is known now.
    pub fn posture(&self) -> Posture {
        self.posture.condition(Uptime::now()).posture
    }

    async fn decide_token(&self, look: Look, ask: Result<Ask, String>) -> Result<Token, No> {
        let peer = self.known(look)?;
        let wanted = ask.as_ref().ok().and_then(|ask| ask.agent.as_deref());
        let agent = match ask {
            Ok(_) => self.identify(&peer, wanted).await?,
            Err(_) => self.identify_any(&peer).await?,
        };
        let ask = ask.map_err(|what| No::refusal(Reason::InvalidRequest, what, &peer).of(&agent))?;
        let permit = policy::decide(agent.clone(), &self.posture.condition(Uptime::now()), ask)?;
        let standing = self.standing().map_err(|no| no.by(&peer).of(&agent))?;
        if permit.signer() == Signer::Issuing {
            return Ok(standing.token(permit, self.clock.now())?);
        }
        self.within_rate(Who::Signed(agent.name().clone()), Some(&peer)).map_err(|no| no.of(&agent))?;
        Ok(self.by_tpm.token(&standing, permit, &self.clock).await?)
    }

    async fn decide_certificate(
        &self,
        look: Look,
        ask: Result<CertificateAsk, String>,
    ) -> Result<Certificate, No> {
        let peer = self.known(look)?;
        let wanted = ask.as_ref().ok().and_then(|ask| ask.agent.as_deref());
        let agent = match ask {
            Ok(_) => self.identify(&peer, wanted).await?,
            Err(_) => self.identify_any(&peer).await?,
        };
        let invalid = |what| No::refusal(Reason::InvalidRequest, what, &peer).of(&agent);
        let ask = ask.map_err(invalid)?;
        // Only now: a signature is not checked for strangers, nor beyond the agent's rate.
        let key = ask.csr.as_deref().map(HolderKey::from_csr).transpose();
        let key = key.map_err(|e| invalid(e.to_string()))?;
        let permit = policy::decide_identity(agent.clone(), &self.posture.condition(Uptime::now()))?;
        let standing = self.standing().map_err(|no| no.by(&peer).of(&agent))?;
        let wanted = Wanted { key, ttl: ask.ttl };
        Ok(self.authority.issue(permit, standing.host(), wanted, self.clock.now())?)
    }
}
