//! What SPIFFE's Workload API asks: tokens for audiences, and credentials that show who an agent is.

use super::{Answer, No, Refused, Road};
use crate::agents::Agent;
use crate::clock::Uptime;
use crate::issue::{Introspection, JwtSvid, Question, WitSvid};
use crate::peer::Look;
use crate::pki::{Authority, Certificate};
use crate::policy::{self, IdentityPermit, Reason, Refusal, SvidAsk};

impl Road {
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

    /// Whether an agent that follows a stream may show who it is, as the host is now.
    pub fn may_identify(&self, agent: &Agent) -> bool {
        self.permit_identity(agent).is_ok()
    }

    /// An X509-SVID with a key that was made for it, for an agent that follows a stream. With `told` a refusal has its line already.
    pub async fn x509_svid(&self, agent: &Agent, told: bool) -> Answer<Certificate> {
        let decided = || {
            self.current(agent)?;
            let permit = self.permit_identity(agent)?;
            let standing = self.standing().map_err(|no| no.by(agent.peer()).of(agent))?;
            Ok(self.authority.issue_to_stream(permit, standing.host(), self.clock.now())?)
        };
        match decided() {
            Ok(certificate) => {
                let recorded = self.record_certificate(certificate).await?;
                self.authority.share(recorded.get());
                Ok(recorded)
            }
            Err(no) => Err(self.refuse(No { tell: !told, ..no }).await),
        }
    }

    /// Writes down what was signed. What cannot be is nobody's, and forgotten.
    pub(super) async fn record_certificate(&self, certificate: Certificate) -> Answer<Certificate> {
        let trace = Authority::trace(&certificate);
        self.audit.certificate(certificate).await.map_err(|unrecorded| {
            trace.into_iter().for_each(|trace| self.authority.take_back(trace));
            Refused::Unrecorded(unrecorded)
        })
    }

    /// A WIT-SVID with its key, for an agent that follows a stream. `told` as above.
    pub async fn wit_svid(&self, agent: &Agent, told: bool) -> Answer<WitSvid> {
        let decided = || {
            self.current(agent)?;
            let permit = self.permit_identity(agent)?;
            let standing = self.standing().map_err(|no| no.by(agent.peer()).of(agent))?;
            Ok(standing.wit_svid(permit, self.authority.ttl(), self.clock.now())?)
        };
        match decided() {
            Ok(svid) => self.audit.wit_svid(svid).await.map_err(Refused::Unrecorded),
            Err(no) => Err(self.refuse(No { tell: !told, ..no }).await),
        }
    }

    /// Who follows a stream was looked at a while ago, or is being looked at: nothing new for who is another since.
    fn current(&self, agent: &Agent) -> Result<(), No> {
        if self.agents.is_current(agent) {
            return Ok(());
        }
        let what = "the agents were changed; who asks is looked at anew";
        Err(No::refusal(Reason::TemporarilyUnavailable, what, agent.peer()).of(agent))
    }

    fn permit_identity(&self, agent: &Agent) -> Result<IdentityPermit, No> {
        Ok(policy::decide_identity(agent.clone(), &self.posture.condition(Uptime::now()))?)
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
}
