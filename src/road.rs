//! The way of a request, from one end to the other.
//!
//! ```text
//! Peer ─ agents ─> Agent ─ posture ─> Posture ─ policy ─> Permit ─ issue ─> Token ─ audit ─> Recorded<Token>
//!            └── no agent: Refusal ─────────────────┴── denied: Refusal ── audit ──> Recorded<Refusal>
//! ```
//!
//! Each step takes what only the step before can make. Nothing here blocks, and nothing is done twice.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::agents::{Agent, Agents, Changes, Entry, Unidentified};
use crate::audit::{Audit, Event, Recorded, Unrecorded};
use crate::clock::{Clock, Uptime};
use crate::config::Fault;
use crate::federation::Federation;
use crate::issue::{
    Asker, ByTpm, Challenge, Enrollment, Host, Introspection, Issuer, JwtSvid, Logs, Places, Proof, Query,
    Question, Standing, Token,
};
use crate::peer::{Look, Peer};
use crate::pki::{Authority, Certificate, HolderKey, Wanted};
use crate::policy::{self, Ask, Gate, Limiter, Reason, Refusal, Signer, SvidAsk, Who};
use crate::posture::{BootLog, ImaList, Posture, Watched};
use crate::tpm::{self, Tpm};

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
            Ok(certificate) => self.audit.certificate(certificate).await.map_err(Refused::Unrecorded),
            Err(no) => Err(self.refuse(no).await),
        }
    }

    /// SPIFFE tokens of all the caller's identities that are granted the audiences, or why there are none.
    pub async fn svids(&self, look: Look, ask: Result<SvidAsk, String>) -> Answer<Vec<JwtSvid>> {
        match self.decide_svids(look, ask).await {
            Ok(svids) => self.audit.svids(svids).await.map_err(Refused::Unrecorded),
            Err(no) => Err(self.refuse(no).await),
        }
    }

    /// Whether a SPIFFE token holds, for a registered agent.
    pub async fn validate(&self, look: Look, question: Result<Question, String>) -> Answer<Introspection> {
        let decided = async {
            let peer = self.known(look)?;
            let agent = self.identify_any(&peer).await?;
            let question =
                question.map_err(|what| No::refusal(Reason::InvalidRequest, what, &peer).of(&agent))?;
            let standing = self.standing().map_err(|no| no.by(&peer).of(&agent))?;
            let bundles = self.federation.bundles();
            let foreign = |domain: &str| bundles.get(domain).map(|bundle| &bundle.keys);
            let answer = standing.validate(&question, &self.agents.registry(), foreign, self.clock.now());
            Ok((agent, answer))
        };
        match decided.await {
            Ok((agent, answer)) => {
                self.audit.introspection(&agent, answer).await.map_err(Refused::Unrecorded)
            }
            Err(no) => Err(self.refuse(no).await),
        }
    }

    /// Every agent that the caller is, the default one first: who may follow a stream.
    pub async fn identities(&self, look: Look) -> Result<Vec<Agent>, Refused> {
        let decided = async {
            let peer = self.known(look)?;
            self.identify_all(&peer).await
        };
        match decided.await {
            Ok(agents) => Ok(agents),
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

    /// An administrator, or a refusal.
    pub async fn administrator(&self, look: Look, gate: Gate) -> Result<Peer, Refused> {
        let decided = self.known(look).and_then(|peer| {
            if gate.admits(&peer) {
                return Ok(peer);
            }
            self.within_rate(Who::Stranger(peer.uid), Some(&peer))?;
            Err(No::refusal(Reason::AccessDenied, "the admin socket is for root and the admin group", &peer))
        });
        match decided {
            Ok(peer) => Ok(peer),
            Err(no) => Err(self.refuse(no).await),
        }
    }

    /// Whether an administrator may do what comes to holding the host's keys, or a refusal.
    pub async fn owner(&self, peer: &Peer, gate: Gate) -> Result<(), Refused> {
        if gate.owns(peer) {
            return Ok(());
        }
        let decided = self.within_rate(Who::Stranger(peer.uid), Some(peer)).err().unwrap_or_else(|| {
            let what = "this comes to holding the host's keys: it is for root, and not for the admin group; use sudo";
            No::refusal(Reason::AccessDenied, what, peer)
        });
        Err(self.refuse(decided).await)
    }

    /// Reads the agents again, off the road, and writes down what changed.
    pub async fn reload(&self, by: &str) -> Result<Result<Recorded<Changes>, Vec<Fault>>, Refused> {
        let (agents, federation) = (self.agents.clone(), self.federation.clone());
        let outcome = tokio::task::spawn_blocking(move || {
            // Either comes into force without the other.
            let bundles = federation.reload();
            match (agents.reload(), bundles) {
                (Ok(changes), Ok(_)) => Ok(changes),
                (Ok(_), Err(faults)) => Err(faults),
                (Err(faults), bundles) => Err([faults, bundles.err().unwrap_or_default()].concat()),
            }
        })
        .await;
        let failed = |e: tokio::task::JoinError| Refused::Unrecorded(Unrecorded(e.to_string()));
        match outcome.map_err(failed)? {
            Ok(changes) => self.audit.reload(changes, by).await.map(Ok).map_err(Refused::Unrecorded),
            Err(faults) => {
                for fault in &faults {
                    tracing::error!(event = "agents-rejected", "{fault}");
                }
                let what = format!(
                    "{by} asked for a reload; {} faults, the last good set stays in force",
                    faults.len()
                );
                self.audit.event(Event::AgentsRejected, &what).await.map_err(Refused::Unrecorded)?;
                Ok(Err(faults))
            }
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

    async fn decide_svids(&self, look: Look, ask: Result<SvidAsk, String>) -> Result<Vec<JwtSvid>, No> {
        let peer = self.known(look)?;
        let agents = self.identify_all(&peer).await?;
        let ask = ask.map_err(|what| No::refusal(Reason::InvalidRequest, what, &peer))?;
        let standing = self.standing().map_err(|no| no.by(&peer))?;
        let condition = self.posture.condition(Uptime::now());
        let (mut svids, mut refused) = (Vec::new(), None);
        for agent in agents {
            let spiffe_id = standing.host().spiffe_id(agent.entry());
            if ask.spiffe_id.as_ref().is_some_and(|wanted| *wanted != spiffe_id) {
                continue;
            }
            match policy::decide_svid(agent, &condition, &ask.audiences) {
                Ok(permit) => svids.push(standing.jwt_svid(permit, self.clock.now())?),
                Err(refusal) => refused = refused.or(Some(refusal)),
            }
        }
        if !svids.is_empty() {
            return Ok(svids);
        }
        let stranger =
            || Refusal::new(Reason::InvalidClient, "this process is not of that SPIFFE ID").by(&peer);
        Err(refused.unwrap_or_else(stranger).into())
    }

    /// A caller that cannot be told is nobody's agent.
    fn known(&self, look: Look) -> Result<Peer, No> {
        look.peer.or_else(|e| {
            let no = No { refusal: Refusal::new(Reason::InvalidClient, e.to_string()), tell: true };
            self.within_rate(Who::Stranger(look.uid), None)?;
            Err(no)
        })
    }

    /// The agent that the peer is, within its rate.
    async fn identify(&self, peer: &Peer, wanted: Option<&str>) -> Result<Agent, No> {
        match self.agents.identify(peer, wanted, self.posture.measured()).await {
            Ok(agent) => {
                self.within_rate(Who::Agent(agent.name().clone()), Some(peer)).map_err(|no| no.of(&agent))?;
                Ok(agent)
            }
            Err(unidentified) => {
                self.within_rate(Who::Stranger(peer.uid), Some(peer))?;
                let reason = match unidentified {
                    Unidentified::Stranger | Unidentified::NotThat(_) | Unidentified::Unmeasured { .. } => {
                        Reason::InvalidClient
                    }
                    Unidentified::Ambiguous(_) => Reason::InvalidRequest,
                };
                Err(No::refusal(reason, unidentified.to_string(), peer))
            }
        }
    }

    /// Every agent that the peer is, each within its rate.
    async fn identify_all(&self, peer: &Peer) -> Result<Vec<Agent>, No> {
        match self.agents.identify_all(peer, self.posture.measured()).await {
            Ok(agents) => {
                for agent in &agents {
                    self.within_rate(Who::Agent(agent.name().clone()), Some(peer))
                        .map_err(|no| no.of(agent))?;
                }
                Ok(agents)
            }
            Err(unidentified) => {
                self.within_rate(Who::Stranger(peer.uid), Some(peer))?;
                Err(No::refusal(Reason::InvalidClient, unidentified.to_string(), peer))
            }
        }
    }

    /// Any of the agents that the peer is: the first by name.
    async fn identify_any(&self, peer: &Peer) -> Result<Agent, No> {
        let first = match self.agents.identify(peer, None, self.posture.measured()).await {
            Err(Unidentified::Ambiguous(mut names)) if !names.is_empty() => Some(names.swap_remove(0)),
            _ => None,
        };
        self.identify(peer, first.as_deref()).await
    }

    fn within_rate(&self, who: Who, peer: Option<&Peer>) -> Result<(), No> {
        self.limiter.take(who, Instant::now()).map_err(|limited| {
            let mut no = No::from(Refusal::new(Reason::SlowDown, "too many requests; ask again later"));
            no.refusal.peer = peer.cloned();
            no.refusal.retry_after = Some(limited.retry_after);
            no.refusal.suppressed = limited.tell.unwrap_or(0);
            no.tell = limited.tell.is_some();
            no
        })
    }

    /// Callers who are nobody fill neither the log, however many users they are, nor the last of a disk.
    fn bound_strangers(&self, no: &mut No) {
        if let Err(limited) = self.limiter.take(Who::StrangersLines, Instant::now()) {
            no.tell = limited.tell.is_some();
            no.refusal.suppressed += limited.tell.unwrap_or(0);
        }
        no.tell &= !self.audit.health().scarce();
    }

    /// Writes a refusal down.
    async fn refuse(&self, mut no: No) -> Refused {
        if no.tell && no.refusal.agent.is_none() {
            self.bound_strangers(&mut no);
        }
        if !no.tell {
            return Refused::Recorded(self.audit.counted(no.refusal));
        }
        match self.audit.refusal(no.refusal).await {
            Ok(refusal) => Refused::Recorded(refusal),
            Err(unrecorded) => Refused::Unrecorded(unrecorded),
        }
    }
}

/// A refusal on its way to the record.
#[derive(Debug)]
pub struct No {
    refusal: Refusal,
    /// Whether it gets a line of its own, or is counted with others of a flood.
    tell: bool,
}

impl No {
    fn refusal(reason: Reason, what: impl Into<String>, peer: &Peer) -> No {
        No { refusal: Refusal::new(reason, what).by(peer), tell: true }
    }

    fn by(mut self, peer: &Peer) -> No {
        self.refusal = self.refusal.by(peer);
        self
    }

    fn of(mut self, agent: &Agent) -> No {
        self.refusal = self.refusal.of(agent.name());
        self
    }
}

impl From<Refusal> for No {
    fn from(refusal: Refusal) -> No {
        No { refusal, tell: true }
    }
}
