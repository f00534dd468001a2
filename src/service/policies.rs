//! The policies for administrators: those in force, and why a request is decided as it is.

use serde::Deserialize;

use super::admin::Admin;
use super::error::{AdminError, InvalidRequest};
use super::identity_service::IdentityService;
use super::requests;
use crate::agents::{AgentEntry, IdOrName};
use crate::audit::{self, AuditQuery, PageStart};
use crate::clock::{TimeAtDecision, Timestamp};
use crate::json;
use crate::names::Resolution;
use crate::policy::cedar::{PolicyInfo, Process};
use crate::policy::{
    self, Circumstances, ExplainedRequest, Explanation, Layer, LayerOutcome, PolicySetId, Rule,
};
use crate::policy::{TokenRequest, ttl_of_record};
use crate::posture::Posture;
use crate::present::ProofKind;
use crate::revocation::{Revocation, TargetKind};
use crate::wire::agent::ProveRequest;
use crate::wire::policy::{
    DecisionLayer, DecisionRule, LayerVerdict, MAX_LISTED_POLICIES, PoliciesResponse, Policy, PolicySet,
    PolicyWhyResponse,
};

/// Length of a policy's text in a response, in characters.
const MAX_POLICY_TEXT: usize = 2000;

/// The query of `GET /v1/policies/why`. An absent member is what the agent's file says, or as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyWhyQuery {
    /// The agent; with `record`, that of the record.
    pub agent: Option<String>,
    /// The number of an audit record.
    pub record: Option<u64>,
    /// `token`, `certificate`, `attest`, `credential` or `prove`.
    pub action: Option<String>,
    /// The audience of a token, or the authorization server of a proof.
    pub audience: Option<String>,
    /// The scopes of a token; empty for all of the grant.
    pub scopes: Vec<String>,
    /// The lifetime of a token in seconds.
    pub ttl: Option<u64>,
    /// The name of a credential.
    pub credential: Option<String>,
    /// The kind of a proof.
    pub kind: Option<String>,
    /// The method of the request that it is for.
    pub method: Option<String>,
    /// The URL of that request.
    pub url: Option<String>,
    /// SHA-256 of its body.
    pub body_sha256: Option<String>,
    /// The posture.
    pub posture: Option<String>,
    /// The time.
    pub time: Option<Timestamp>,
    /// The user of the process.
    pub uid: Option<u32>,
    /// The unit of the process.
    pub unit: Option<String>,
    /// SHA-256 of the executable of the process.
    pub exe_sha256: Option<String>,
}

/// What an audit record says of a decision.
#[derive(Deserialize)]
struct DecisionRecord {
    seq: u64,
    time: Timestamp,
    event: String,
    agent: Option<String>,
    audience: Option<String>,
    scope: Option<String>,
    credential: Option<String>,
    exp: Option<u64>,
    posture: Option<String>,
    detail: Option<String>,
    peer: Option<RecordedPeer>,
    policy: Option<PolicySet>,
}

#[derive(Deserialize)]
struct RecordedPeer {
    uid: u32,
    unit: Option<String>,
    invocation: Option<String>,
    exe_sha256: Option<String>,
    pinned: bool,
}

impl IdentityService {
    /// The policies in force, or those that concern one agent.
    ///
    /// # Errors
    /// [`AdminError::UnknownAgent`].
    pub fn policies(&self, _: &Admin, agent: Option<&str>) -> Result<PoliciesResponse, AdminError> {
        let registrations = self.deps.agents.registrations();
        let entry = agent.map(|name| registrations.find(name).ok_or(AdminError::UnknownAgent)).transpose()?;
        let (status, snapshot) = (self.deps.policies.status(), self.deps.policies.snapshot());
        let concerns = |info: &&PolicyInfo| entry.is_none_or(|entry| info.scope.concerns(entry));
        let shown: Vec<&PolicyInfo> = snapshot.policies().iter().filter(concerns).collect();
        Ok(PoliciesResponse {
            set: snapshot.id().map(set),
            require_permit: status.require_permit,
            timezone: status.zone,
            omitted: shown.len().saturating_sub(MAX_LISTED_POLICIES),
            policies: shown.into_iter().take(MAX_LISTED_POLICIES).map(policy_of).collect(),
        })
    }

    /// What the three layers say of a request that is not carried out, or of that of an audit record, by the
    /// agents and policies of now.
    ///
    /// # Errors
    /// [`AdminError::InvalidRequest`] if the query does not say what is asked, or there is no such record;
    /// [`AdminError::ReadAudit`].
    pub async fn explain_decision(
        &self,
        admin: &Admin,
        query: PolicyWhyQuery,
    ) -> Result<PolicyWhyResponse, AdminError> {
        let record = match query.record {
            None => None,
            Some(seq) => Some(self.decision_record(admin, seq).await?),
        };
        let query = match &record {
            Some(record) => with_record(query, record),
            None => query,
        };
        let recorded_policy = record.as_ref().and_then(|record| record.policy.clone());
        let mut response = self.explain_query(&query, record.as_ref())?;
        response.recorded_policy =
            recorded_policy.filter(|recorded| response.policy.as_ref() != Some(recorded));
        Ok(response)
    }

    fn explain_query(
        &self,
        query: &PolicyWhyQuery,
        record: Option<&DecisionRecord>,
    ) -> Result<PolicyWhyResponse, AdminError> {
        let request = request_of(query)?;
        let circumstances = self.explained_circumstances(query)?;
        let registrations = self.deps.agents.registrations();
        let answer = |agent: String, identity: Layer, explanation: Option<Explanation>| {
            let policy = circumstances.policies.id().map(set);
            let (grant, context) = match explanation {
                Some(Explanation { grant, context, .. }) => (grant, context),
                None => (Layer::not_asked(), Layer::not_asked()),
            };
            let layers =
                [("identity", identity), ("least-privilege", grant), ("context", context)].map(layer_of);
            PolicyWhyResponse {
                agent,
                action: request.action().to_owned(),
                resource: request.resource().map(str::to_owned),
                allowed: layers.iter().all(|layer| layer.verdict == LayerVerdict::Allows),
                layers: layers.into(),
                policy,
                recorded_policy: None,
            }
        };
        let Some(name) = query.agent.clone() else {
            let detail = record.and_then(|record| record.detail.clone()).unwrap_or_default();
            let change = "the process would have to meet the conditions of an agent (hostbadge agent why)";
            let identity = Layer::refuses(Vec::new(), format!("the caller was no agent: {detail}"), change);
            return Ok(answer("none".to_owned(), identity, None));
        };
        let Some(entry) = registrations.find(&name) else {
            let change = "a file of agents.d would have to register it";
            let identity = Layer::refuses(Vec::new(), "no agent of this name is registered", change);
            return Ok(answer(name, identity, None));
        };
        let invocation = record.and_then(|record| record.peer.as_ref()?.invocation.as_deref());
        let revocation = circumstances.revocations.blocking_process(entry, invocation);
        let identity = match revocation {
            Some(revocation) => revoked_layer(revocation),
            None => self.identity_layer(entry, query),
        };
        if identity.outcome == LayerOutcome::Refuses {
            return Ok(answer(name, identity, None));
        }
        let recorded = record.and_then(|record| record.peer.as_ref());
        let process = Process {
            uid: query.uid.or_else(|| self.uid_of(entry)).unwrap_or_default(),
            unit: query.unit.as_deref().or(entry.selectors.unit.as_deref()),
            invocation: recorded.and_then(|peer| peer.invocation.as_deref()),
            exe_sha256: query
                .exe_sha256
                .clone()
                .or(entry.selectors.exe_sha256.map(|digest| digest.to_string())),
            pinned: recorded.is_none_or(|peer| peer.pinned),
            boundary: registrations.delegations.get(&name).map(|delegation| delegation.boundary.as_str()),
        };
        let explanation = policy::explain(entry, process, &circumstances, &request);
        Ok(answer(name, identity, Some(explanation)))
    }

    /// The host as it is now, but for what the query says.
    fn explained_circumstances(&self, query: &PolicyWhyQuery) -> Result<Circumstances, InvalidRequest> {
        let mut circumstances = self.circumstances();
        if let Some(now) = query.time {
            circumstances.time = TimeAtDecision { now, latest: now };
        }
        if let Some(posture) = &query.posture {
            let all =
                [Posture::Off, Posture::Accepted, Posture::Changed, Posture::Unaccepted, Posture::Stale];
            let known = all.into_iter().find(|known| known.as_str() == posture);
            circumstances.posture.posture = known.ok_or_else(|| {
                InvalidRequest::new("posture= must be off, accepted, changed, unaccepted or stale")
            })?;
        }
        Ok(circumstances)
    }

    /// Compares what the query says of the process with the agent's conditions; all of them are listed.
    fn identity_layer(&self, entry: &AgentEntry, query: &PolicyWhyQuery) -> Layer {
        let selectors = &entry.selectors;
        let json = serde_json::to_value(selectors).unwrap_or_default();
        let conditions = json.as_object().into_iter().flatten();
        let rules =
            conditions.map(|(name, value)| Rule::named(format!("[match] {name} = {value}"))).collect();
        let mut unmet = Vec::new();
        let mut compare = |name: &str, required: Option<String>, given: Option<String>| {
            if let (Some(required), Some(given)) = (required, given)
                && required != given
            {
                unmet.push(format!("{name} {required} and not {given}"));
            }
        };
        compare("user", self.uid_of(entry).map(|uid| uid.to_string()), query.uid.map(|uid| uid.to_string()));
        compare("unit", selectors.unit.clone(), query.unit.clone());
        let digest = selectors.exe_sha256.map(|digest| digest.to_string());
        compare("exe_sha256", digest, query.exe_sha256.as_ref().map(|digest| digest.to_ascii_lowercase()));
        match unmet.is_empty() {
            true => {
                Layer::allows(rules, "the agent is registered, and a process that meets its conditions is it")
            }
            false => {
                let reason = "the process does not meet the agent's conditions";
                Layer::refuses(rules, reason, format!("the process would need {}", unmet.join(", ")))
            }
        }
    }

    fn uid_of(&self, entry: &AgentEntry) -> Option<u32> {
        match entry.selectors.user.as_ref()? {
            IdOrName::Id(uid) => Some(*uid),
            IdOrName::Name(name) => match self.deps.agents.names().table().user(name).current {
                Resolution::Number(uid) => Some(uid),
                Resolution::Missing | Resolution::Unknown => None,
            },
        }
    }

    async fn decision_record(&self, _: &Admin, seq: u64) -> Result<DecisionRecord, AdminError> {
        let dir = self.deps.audit_dir.clone();
        let start = PageStart::After(seq.saturating_sub(1));
        let query = AuditQuery { start, ..AuditQuery::default() };
        let page = tokio::task::spawn_blocking(move || audit::read_page(&dir, &query, 1)).await?;
        let page = page.map_err(AdminError::ReadAudit)?;
        let record = page.records.first().and_then(|line| json::from_object(line.get().as_bytes()).ok());
        let missing = || InvalidRequest::new("the audit log has no record of a decision with this number");
        let record: DecisionRecord =
            record.filter(|record: &DecisionRecord| record.seq == seq).ok_or_else(missing)?;
        Ok(record)
    }
}

/// An identity to which nothing is issued.
fn revoked_layer(revocation: &Revocation) -> Layer {
    let Revocation { target, revoked_by, reason, .. } = revocation;
    let by = if reason.is_empty() { revoked_by.clone() } else { format!("{revoked_by}: {reason}") };
    let rule = Rule { text: Some(by), ..Rule::named(format!("revocation of {target}")) };
    let change = match target.kind() {
        TargetKind::Everything => "root would have to thaw the host: hostbadge thaw".to_owned(),
        _ => format!("root would have to lift the revocation: hostbadge revoke lift {target}"),
    };
    Layer::refuses(vec![rule], revocation.description(), change)
}

/// What a query asks, with what it leaves open taken from a record.
fn with_record(query: PolicyWhyQuery, record: &DecisionRecord) -> PolicyWhyQuery {
    let action = match record.event.as_str() {
        "token-issued" | "svid-issued" => Some("token"),
        "certificate-issued" | "wit-svid-issued" => Some("certificate"),
        "attested" => Some("attest"),
        "proof-issued" => Some("prove"),
        _ if record.credential.is_some() => Some("credential"),
        _ if record.audience.is_some() => Some("token"),
        _ => None,
    };
    let is_token = action == Some("token");
    let scopes = record.scope.iter().flat_map(|scope| scope.split(' ')).filter(|scope| !scope.is_empty());
    let ttl = record.exp.and_then(|expires| ttl_of_record(record.time.as_secs(), expires));
    let peer = record.peer.as_ref();
    // "dpop GET https://api.example.com/v1/items", or a kind and an issuer.
    let proof = record.detail.as_deref().filter(|_| action == Some("prove")).unwrap_or_default();
    let mut proof = proof.split(' ').map(str::to_owned);
    let (kind, first, url) = (proof.next(), proof.next(), proof.next());
    let method = first.filter(|_| url.is_some());
    PolicyWhyQuery {
        agent: query.agent.or_else(|| record.agent.clone()),
        action: query.action.or_else(|| action.map(str::to_owned)),
        // A JWT-SVID can have several, each of which is decided; the first stands for them.
        audience: query.audience.or_else(|| Some(record.audience.as_ref()?.split(' ').next()?.to_owned())),
        scopes: if query.scopes.is_empty() { scopes.map(str::to_owned).collect() } else { query.scopes },
        ttl: query.ttl.or_else(|| ttl.filter(|_| is_token).map(|ttl| ttl.as_secs())),
        credential: query.credential.or_else(|| record.credential.clone()),
        kind: query.kind.or(kind).filter(|kind| !kind.is_empty()),
        method: query.method.or(method),
        url: query.url.or(url),
        body_sha256: query.body_sha256,
        posture: query.posture.or_else(|| record.posture.clone()),
        time: query.time.or(Some(record.time)),
        uid: query.uid.or(peer.map(|peer| peer.uid)),
        unit: query.unit.or_else(|| peer?.unit.clone()),
        exe_sha256: query.exe_sha256.or_else(|| peer?.exe_sha256.clone()),
        record: query.record,
    }
}

fn request_of(query: &PolicyWhyQuery) -> Result<ExplainedRequest, InvalidRequest> {
    match (query.action.as_deref(), &query.audience, &query.credential) {
        (Some("token"), Some(audience), _) => Ok(ExplainedRequest::Token(TokenRequest {
            audience: audience.clone(),
            scopes: (!query.scopes.is_empty()).then(|| query.scopes.clone()),
            ttl: query.ttl.map(std::time::Duration::from_secs),
            bind: None,
            agent: None,
        })),
        (Some("certificate"), ..) => Ok(ExplainedRequest::Certificate),
        (Some("attest"), ..) => Ok(ExplainedRequest::Attest),
        (Some("credential"), _, Some(name)) => Ok(ExplainedRequest::Credential(name.clone())),
        (Some("prove"), ..) => proof_of(query),
        _ => Err(InvalidRequest::new(
            "the query must say what is asked: action=token with audience=, action=certificate, action=attest, \
             action=credential with credential=, or action=prove with kind=; a record may not say it",
        )),
    }
}

/// The proof that a query asks for, checked as a request for it is.
fn proof_of(query: &PolicyWhyQuery) -> Result<ExplainedRequest, InvalidRequest> {
    let kind = query.kind.as_deref().unwrap_or_default();
    let kind = serde_json::from_value(kind.into())
        .map_err(|_| InvalidRequest::new(format!("kind= must be one of {}", ProofKind::NAMES.join(", "))))?;
    let text = |text: &Option<String>| text.as_deref().map(|text| text.to_owned().into());
    let is_for_server = query.url.is_none();
    let request = ProveRequest {
        kind,
        method: text(&query.method),
        url: text(&query.url),
        body_sha256: text(&query.body_sha256),
        nonce: None,
        content_type: None,
        credential: text(&query.credential),
        token: None,
        // The record of a proof for a request has the audience of the grant.
        audience: text(&query.audience).filter(|_| is_for_server),
        agent: None,
    };
    let request = requests::proof_request(request)?.request;
    let target = format!("{} {}", request.kind.as_str(), request.target);
    Ok(ExplainedRequest::Proof(Box::new(request), target))
}

fn set(id: PolicySetId) -> PolicySet {
    PolicySet { version: id.version, sha256: id.sha256_hex() }
}

fn policy_of(info: &PolicyInfo) -> Policy {
    Policy {
        id: info.id.clone(),
        name: info.name.clone(),
        effect: info.effect.to_string(),
        scope: info.scope.to_string(),
    }
}

fn layer_of((name, layer): (&str, Layer)) -> DecisionLayer {
    let Layer { outcome, rules, reason, change } = layer;
    let text = |text: String| text.chars().take(MAX_POLICY_TEXT).collect();
    DecisionLayer {
        layer: name.to_owned(),
        verdict: match outcome {
            LayerOutcome::Allows => LayerVerdict::Allows,
            LayerOutcome::Refuses => LayerVerdict::Refuses,
            LayerOutcome::NotAsked => LayerVerdict::NotAsked,
        },
        rules: rules
            .into_iter()
            .map(|rule| DecisionRule { rule: rule.name, text: rule.text.map(text) })
            .collect(),
        reason,
        change,
    }
}
