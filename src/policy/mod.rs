//! May it: the fourth step of the road. Default deny; only this room makes a [`Permit`].

mod rate;
mod refusal;
mod svid;

use std::time::Duration;

use crate::agents::{Agent, Algorithm, Assurance};
use crate::peer::Peer;
use crate::posture::{Condition, Mode, Posture};

pub use rate::{Limited, Limiter, Rate, Who};
pub use refusal::{Reason, Refusal};
pub use svid::{AUDIENCES_MOST, SvidAsk, SvidPermit, decide_svid};

/// Who may administer, beside root.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gate {
    /// The admin group, where the host has it.
    pub group: Option<u32>,
    /// A developer's own uid; none on a real host.
    pub developer: Option<u32>,
}

impl Gate {
    pub fn admits(&self, peer: &Peer) -> bool {
        peer.uid == 0
            || self.group.is_some_and(|group| peer.in_group(group))
            || self.developer == Some(peer.uid)
    }

    /// Who may do what comes to holding the host's keys. The admin group is for those who run agents.
    pub fn owns(&self, peer: &Peer) -> bool {
        peer.uid == 0 || self.developer == Some(peer.uid)
    }
}

/// What a caller asks for, well-formed but not yet decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    pub audience: String,
    /// Scopes asked for; none means all that the grant has (RFC 6749 section 3.3).
    pub scopes: Option<Vec<String>>,
    /// Wanted lifetime; none means the grant's.
    pub ttl: Option<Duration>,
    /// Which agent the caller wants to be, where it is several.
    pub agent: Option<String>,
}

/// A decision in favour. `issue` mints only from this.
#[derive(Debug)]
pub struct Permit {
    agent: Agent,
    posture: Posture,
    audience: String,
    scope: String,
    ttl: Duration,
    signer: Signer,
}

/// A decision that an agent may show who it is. Needs no grant: an identity opens nothing by itself.
#[derive(Debug)]
pub struct IdentityPermit {
    agent: Agent,
    posture: Posture,
}

impl IdentityPermit {
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    pub fn posture(&self) -> Posture {
        self.posture
    }
}

/// Which key of this host a grant has its tokens signed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signer {
    /// The issuing key, in memory: ES256.
    Issuing,
    /// The host key, in the TPM: ES256.
    Host,
    /// The RSA key, in the TPM: RS256.
    Rsa,
}

impl Permit {
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    pub fn posture(&self) -> Posture {
        self.posture
    }

    pub fn audience(&self) -> &str {
        &self.audience
    }

    /// Scopes in the order of the alphabet, separated by spaces; may be empty.
    pub fn scope(&self) -> &str {
        &self.scope
    }

    /// How long what is minted may live.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    pub fn signer(&self) -> Signer {
        self.signer
    }
}

/// Decides by the agent's grants.
pub fn decide(agent: Agent, host: &Condition, ask: Ask) -> Result<Permit, Refusal> {
    let refuse = |reason, what: String| {
        Refusal::new(reason, what).by(agent.peer()).of(agent.name()).about(&ask.audience)
    };
    let Some(grant) = agent.entry().grants.iter().find(|grant| grant.audience == ask.audience) else {
        return Err(refuse(
            Reason::InvalidTarget,
            format!("agent \"{}\" has no grant for this audience", agent.name()),
        ));
    };
    let scope = match &ask.scopes {
        None => join(grant.scopes.iter()),
        Some(wanted) => {
            if let Some(extra) = wanted.iter().find(|scope| !grant.scopes.contains(*scope)) {
                let what = format!("the grant for this audience has no scope \"{}\"", extra.escape_debug());
                return Err(refuse(Reason::InvalidScope, what));
            }
            // Through a set, so that the same scopes read the same however they were asked for.
            join(wanted.iter().collect::<std::collections::BTreeSet<_>>().into_iter())
        }
    };
    let posture =
        weigh(grant.posture.unwrap_or(host.mode), host).map_err(|what| refuse(Reason::AccessDenied, what))?;
    // A request can shorten, never lengthen.
    let ttl = ask.ttl.map_or(grant.ttl, |wanted| wanted.min(grant.ttl));
    let signer = match (grant.assurance, grant.alg) {
        (_, Algorithm::Rs256) => Signer::Rsa,
        (Assurance::Tpm, Algorithm::Es256) => Signer::Host,
        (Assurance::Sealed, Algorithm::Es256) => Signer::Issuing,
    };
    Ok(Permit { posture, audience: ask.audience, scope, ttl, signer, agent })
}

/// Decides whether an agent may have a proof of its own identity.
pub fn decide_identity(agent: Agent, host: &Condition) -> Result<IdentityPermit, Refusal> {
    match weigh(host.mode, host) {
        Ok(posture) => Ok(IdentityPermit { agent, posture }),
        Err(what) => Err(Refusal::new(Reason::AccessDenied, what).by(agent.peer()).of(agent.name())),
    }
}

/// The posture that a decision goes by, or why there is nothing for anybody.
fn weigh(mode: Mode, host: &Condition) -> Result<Posture, String> {
    match mode {
        Mode::Off => Ok(Posture::Off),
        Mode::Enforce if host.posture != Posture::Accepted => {
            Err(format!("the host's posture is {}: {}", host.posture, host.remedy()))
        }
        Mode::Enforce | Mode::Warn => Ok(host.posture),
    }
}

fn join<'a>(scopes: impl Iterator<Item = &'a String>) -> String {
    scopes.map(String::as_str).collect::<Vec<_>>().join(" ")
}
