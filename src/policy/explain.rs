//! Explains a decision without making it: what each of the three layers says, by which rule, and what would
//! have to change. The checks are those of the decisions themselves.

use std::time::Duration;

use crate::agents::{AgentEntry, CredentialUse};
use crate::clock::Timestamp;
use crate::posture::{Posture, PostureMode};

use super::cedar::{Act, Answer, PolicySetId, Principal, Process, Question, Verdict};
use super::circumstances::{CREDENTIAL, Circumstances, GRANT, check_draining};
use super::decision::{TokenRequest, check_posture, grant_terms};

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
}

/// One layer of a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// What it says.
    pub outcome: LayerOutcome,
    /// The rules that it follows from.
    pub rules: Vec<Rule>,
    /// The reason, one line.
    pub reason: String,
    /// What would have to change for the layer to allow the request.
    pub change: Option<String>,
}

/// What a layer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerOutcome {
    /// It allows the request.
    Allows,
    /// It refuses the request.
    Refuses,
    /// It was not asked, because an earlier one refuses.
    NotAsked,
}

/// A rule of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name: a policy's file, line and `@id`, a grant's audience, or a key of the configuration.
    pub name: String,
    /// Its text, where it is a policy.
    pub text: Option<String>,
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
        }
    }

    /// What is asked for: the audience or the credential.
    pub fn resource(&self) -> Option<&str> {
        match self {
            ExplainedRequest::Token(request) => Some(&request.audience),
            ExplainedRequest::Credential(name) => Some(name),
            ExplainedRequest::Certificate | ExplainedRequest::Attest => None,
        }
    }
}

impl Layer {
    /// A layer that was not asked.
    pub fn not_asked() -> Layer {
        let reason = "not asked, because an earlier layer refuses".to_owned();
        Layer { outcome: LayerOutcome::NotAsked, rules: Vec::new(), reason, change: None }
    }

    /// A layer that allows the request.
    pub fn allows(rules: Vec<Rule>, reason: impl Into<String>) -> Layer {
        Layer { outcome: LayerOutcome::Allows, rules, reason: reason.into(), change: None }
    }

    /// A layer that refuses the request.
    pub fn refuses(rules: Vec<Rule>, reason: impl Into<String>, change: impl Into<String>) -> Layer {
        let (reason, change) = (reason.into(), Some(change.into()));
        Layer { outcome: LayerOutcome::Refuses, rules, reason, change }
    }
}

impl Rule {
    /// A rule without a text of its own.
    pub fn named(name: impl Into<String>) -> Rule {
        Rule { name: name.into(), text: None }
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
    let (grant, asked) = match request {
        ExplainedRequest::Token(request) => explain_grant(entry, request, circumstances.time.now),
        ExplainedRequest::Credential(name) => explain_credential(entry, name),
        ExplainedRequest::Certificate => no_grant(Act::Certificate, Some(circumstances.posture.mode)),
        // Evidence states the posture, which does not forbid it.
        ExplainedRequest::Attest => no_grant(Act::Attest, None),
    };
    let Some((act, mode)) = asked else {
        return Explanation { grant, context: Layer::not_asked(), policy };
    };
    if let Some(grant) = refused_now(entry, circumstances, request) {
        return Explanation { grant, context: Layer::not_asked(), policy };
    }
    let context = explain_context(entry, process, circumstances, act, mode);
    Explanation { grant, context, policy }
}

/// The act that the policies are asked, and the effect of the posture; `None` if the grants refuse.
type Asked<'a> = Option<(Act<'a>, Option<PostureMode>)>;

fn no_grant(act: Act<'_>, mode: Option<PostureMode>) -> (Layer, Asked<'_>) {
    (Layer::allows(Vec::new(), "an identity and evidence need no grant"), Some((act, mode)))
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
            let reason = format!("the grant gives {scope} for {} s{shortened}", terms.ttl.as_secs());
            let (mode, act) = (terms.grant.posture, terms.act(audience));
            (Layer::allows(rules, reason), Some((act, mode)))
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
        Some(granted) => {
            let act = Act::Credential { name, usage: "release", request: None };
            (Layer::allows(rules, "the agent may have the value"), Some((act, granted.posture)))
        }
    }
}

/// The file of a table: the agent's own, or that of a role.
fn origin(entry: &AgentEntry, role: Option<&str>) -> String {
    match role {
        Some(role) => format!("role {role}"),
        None => format!("agent {}", entry.name),
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
    match circumstances.policies.ask(&question) {
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
