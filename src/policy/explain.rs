//! Explains a decision without making it: what each of the three layers says, by which rule, and what would
//! have to change. The checks are those of the decisions themselves.

use std::time::Duration;

use crate::agents::{AgentEntry, CredentialUse};
use crate::clock::Timestamp;
use crate::posture::{Posture, PostureMode};

use super::cedar::{Act, Answer, PolicySetId, Principal, Process, Question, Verdict};
use super::circumstances::{CREDENTIAL, Circumstances, GRANT, check_draining};
use super::decision::{TokenRequest, check_posture, grant_terms};
use super::explain_proof::explain_proof;
use super::layer::{Asked, Layer, LayerOutcome, Rule, after_approval, origin};
use super::proof::{ProofPermission, ProofRequest, proof_permission};

/// What is asked, by an agent of this name.
#[derive(Clone, Debug)]
pub enum ExplainedRequest {
    /// An access token.
    Token(TokenRequest),
    /// A certificate or WIT-SVID.
    Certificate,
    /// Evidence.
    Attest,
    /// The value of a sealed credential.
    Credential(String),
    /// A proof.
    Proof(Box<ProofRequest>, String),
}

/// The layers after the identity.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// Least privilege: the grant or `[[credential]]`.
    pub grant: Layer,
    /// Context: posture and policies.
    pub context: Layer,
    /// The policies in force.
    pub policy: Option<PolicySetId>,
}

impl ExplainedRequest {
    /// The action, as policies name it.
    pub fn action(&self) -> &'static str {
        match self {
            ExplainedRequest::Token(_) => "token",
            ExplainedRequest::Certificate => "certificate",
            ExplainedRequest::Attest => "attest",
            ExplainedRequest::Credential(_) => "credential",
            ExplainedRequest::Proof(..) => "prove",
        }
    }

    /// What is asked for: the audience, the credential, or what a proof is for.
    pub fn resource(&self) -> Option<&str> {
        match self {
            ExplainedRequest::Token(request) => Some(&request.audience),
            ExplainedRequest::Credential(name) => Some(name),
            ExplainedRequest::Proof(_, target) => Some(target),
            ExplainedRequest::Certificate | ExplainedRequest::Attest => None,
        }
    }
}

/// What the grants, the posture and the policies say of a request of `process`, if that is the agent `entry`.
pub fn explain(
    entry: &AgentEntry,
    process: Process<'_>,
    circumstances: &Circumstances,
    request: &ExplainedRequest,
) -> Explanation {
    let policy = circumstances.policies.id();
    let body_sha256 = match request {
        ExplainedRequest::Proof(request, _) => request.target.body_sha256(),
        _ => None,
    };
    let (grant, asked) = match request {
        ExplainedRequest::Token(request) => explain_grant(entry, request, circumstances.time.now),
        ExplainedRequest::Credential(name) => explain_credential(entry, name),
        ExplainedRequest::Proof(request, _) => explain_proof(entry, request, body_sha256.as_deref()),
        ExplainedRequest::Certificate => no_grant(Act::Certificate, Some(circumstances.posture.mode)),
        // Evidence states the posture, which does not forbid it.
        ExplainedRequest::Attest => no_grant(Act::Attest, None),
    };
    let Some((acts, mode)) = asked else {
        return Explanation { grant, context: Layer::not_asked(), policy };
    };
    if let Some(grant) = refused_now(entry, circumstances, request) {
        return Explanation { grant, context: Layer::not_asked(), policy };
    }
    let mut context = Layer::not_asked();
    for act in acts {
        context = explain_context(entry, process.clone(), circumstances, act, mode);
        if context.outcome == LayerOutcome::Refuses {
            break;
        }
    }
    Explanation { grant, context, policy }
}

fn no_grant(act: Act<'_>, mode: Option<PostureMode>) -> (Layer, Asked<'_>) {
    (Layer::allows(Vec::new(), "an identity and evidence need no grant"), Some((vec![act], mode)))
}

fn explain_grant<'a>(entry: &'a AgentEntry, request: &'a TokenRequest, now: Timestamp) -> (Layer, Asked<'a>) {
    let audience = request.audience.as_str();
    let granted = entry.grant(audience);
    let origin = origin(entry, granted.as_ref().and_then(|granted| granted.role));
    let rules = vec![Rule::named(format!("[[grant]] audience = {audience:?} of {origin}"))];
    match grant_terms(entry, request) {
        Ok(mut terms) => {
            terms.ttl = terms.grant.limits.cap(terms.ttl, now);
            let scopes: Vec<&str> = terms.scopes.iter().copied().collect();
            let shortened = match request.ttl {
                Some(requested) if requested > terms.ttl => ", which shortens what is requested",
                _ => "",
            };
            let scope =
                if scopes.is_empty() { "no scope".to_owned() } else { format!("scope {}", scopes.join(" ")) };
            let reason = format!(
                "the grant gives {scope} for {} s{shortened}{}",
                terms.ttl.as_secs(),
                after_approval(terms.grant.approval)
            );
            let (mode, act) = (terms.grant.posture, terms.act(audience));
            (Layer::allows(rules, reason), Some((vec![act], mode)))
        }
        Err((_, reason)) => {
            let (rules, change) = match granted.is_some() {
                true => (rules, format!("the grant for {audience} would have to have the scope")),
                false => {
                    (Vec::new(), format!("the agent would need a [[grant]] with audience = {audience:?}"))
                }
            };
            (Layer::refuses(rules, reason, change), None)
        }
    }
}

/// The layer if the agent is drained, or its grant or credential does not count at this time.
fn refused_now(
    entry: &AgentEntry,
    circumstances: &Circumstances,
    request: &ExplainedRequest,
) -> Option<Layer> {
    if matches!(request, ExplainedRequest::Attest) {
        return None;
    }
    if let Err(refusal) = check_draining(entry) {
        let rules = vec![Rule::named(format!("drain = true of agent {}", entry.name))];
        return Some(Layer::refuses(
            rules,
            refusal.description,
            "the agent would have to be drained no more",
        ));
    }
    let (what, limits, role) = match request {
        ExplainedRequest::Token(request) => {
            let grant = entry.grant(&request.audience)?;
            (GRANT, &grant.item.limits, grant.role)
        }
        ExplainedRequest::Credential(name) => {
            let credential = entry.credential(name)?;
            (CREDENTIAL, &credential.item.limits, credential.role)
        }
        ExplainedRequest::Proof(request, _) => match proof_permission(entry, request)? {
            ProofPermission::Grant(grant) => (GRANT, &grant.item.limits, grant.role),
            ProofPermission::Credential(credential, _) => {
                (CREDENTIAL, &credential.item.limits, credential.role)
            }
        },
        ExplainedRequest::Certificate | ExplainedRequest::Attest => return None,
    };
    let refusal = circumstances.check_limits(entry, what, limits).err()?;
    let rules = vec![Rule::named(format!("expires and hours of {}", origin(entry, role)))];
    Some(Layer::refuses(rules, refusal.description, "expires or hours would have to include this time"))
}

fn explain_credential<'a>(entry: &'a AgentEntry, name: &'a str) -> (Layer, Asked<'a>) {
    let granted = entry.credential(name);
    let origin = origin(entry, granted.as_ref().and_then(|granted| granted.role));
    let rules = vec![Rule::named(format!("[[credential]] name = {name:?} of {origin}"))];
    match granted {
        None => {
            let reason = format!("agent \"{}\" has no [[credential]] of this name", entry.name);
            let change = format!("the agent would need a [[credential]] with name = {name:?}");
            (Layer::refuses(Vec::new(), reason, change), None)
        }
        Some(granted) if granted.usage == CredentialUse::Inject => {
            let reason = "the agent may use the credential only through the egress proxy";
            (Layer::refuses(rules, reason, "the [[credential]] would need use = \"release\""), None)
        }
        Some(granted) if granted.usage == CredentialUse::Sign => {
            let reason = "the credential signs the agent's requests, and the agent does not get the value";
            (Layer::refuses(rules, reason, "the [[credential]] would need use = \"release\""), None)
        }
        Some(granted) => {
            let approved = granted.approval.is_some();
            let act = Act::Credential { name, usage: "release", approved, request: None };
            let reason = format!("the agent may have the value{}", after_approval(granted.approval));
            (Layer::allows(rules, reason), Some((vec![act], granted.posture)))
        }
    }
}

fn explain_context(
    entry: &AgentEntry,
    process: Process<'_>,
    circumstances: &Circumstances,
    act: Act<'_>,
    mode: Option<PostureMode>,
) -> Layer {
    let host_posture = &circumstances.posture;
    let posture = match act {
        Act::Attest if host_posture.mode == PostureMode::Off => Posture::Off,
        Act::Attest => host_posture.posture,
        _ => match check_posture(mode.unwrap_or(host_posture.mode), host_posture) {
            Ok(posture) => posture,
            Err(refusal) => {
                let rules = vec![Rule::named(match mode {
                    Some(_) => "posture = \"enforce\" of the grant",
                    None => "[posture] mode = \"enforce\"",
                })];
                return Layer::refuses(
                    rules,
                    refusal.description,
                    "the host's posture would have to be accepted",
                );
            }
        },
    };
    let principal = Principal::of(entry);
    let now = circumstances.time.now;
    let local_time = circumstances.policies.local_time(now);
    let question = Question { principal, act, process, posture: posture.as_str(), now, local_time };
    match circumstances.policies.ask(entry, question) {
        Err(refusal) => {
            Layer::refuses(Vec::new(), refusal.description, "the policy files would have to be corrected")
        }
        Ok(verdict) => of_verdict(verdict, circumstances),
    }
}

fn of_verdict(verdict: Verdict, circumstances: &Circumstances) -> Layer {
    let rule = |label: &String| Rule { name: label.clone(), text: circumstances.policies.text_of(label) };
    let rules: Vec<Rule> = verdict.policies.iter().map(rule).collect();
    match verdict.answer {
        Answer::Permit => Layer::allows(rules, "a policy permits the request, and none forbids it"),
        Answer::Silent if !circumstances.policies.requires_permit() => {
            let rules = vec![Rule::named("implicit permit ([policy] require_permit = false)")];
            Layer::allows(rules, "no policy applies, so the grant suffices")
        }
        Answer::Silent => {
            let rules = vec![Rule::named("[policy] require_permit = true")];
            let change = "a policy would have to permit the request";
            Layer::refuses(rules, "no policy permits the request, and one has to", change)
        }
        Answer::Forbid => {
            let change = "the conditions of each of these policies would have to be otherwise, or the policies changed";
            Layer::refuses(rules, "a policy forbids the request", change)
        }
        Answer::Error => {
            let errors: Vec<String> =
                verdict.errors.iter().map(|(policy, error)| format!("{policy}: {error}")).collect();
            let failed = verdict.errors.iter().map(|(label, _)| rule(label));
            let reason = format!("a policy cannot be evaluated: {}", errors.join("; "));
            let change = "these policies would have to be corrected, so that they can be evaluated";
            Layer::refuses(failed.chain(rules).collect(), reason, change)
        }
    }
}

/// A lifetime that a record states, for the request that led to it.
pub fn ttl_of_record(time: u64, expires: u64) -> Option<Duration> {
    expires.checked_sub(time).filter(|ttl| *ttl > 0).map(Duration::from_secs)
}
