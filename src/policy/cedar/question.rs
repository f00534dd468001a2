//! What a policy set is asked: who wants what, under which circumstances.

use std::collections::{HashMap, HashSet};

use cedar_policy::{
    Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, Request, RestrictedExpression as Value,
};

use crate::agents::{AgentEntry, depth_of};
use crate::clock::{LocalTime, Timestamp};

use super::error::QuestionError;
use super::needs::{Attribute, Needs};

/// The identifier of the only entity of type `Host`.
const HOST: &str = "local";

/// One request of an agent, as policies see it.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// Who asks.
    pub principal: Principal<'a>,
    /// What is asked.
    pub act: Act<'a>,
    /// The calling process.
    pub process: Process<'a>,
    /// `accepted`, `changed`, `unaccepted`, `stale` or `off`.
    pub posture: &'a str,
    /// The moment of the decision.
    pub now: Timestamp,
    /// The same in the configured zone.
    pub local_time: LocalTime,
}

/// The agent that asks.
#[derive(Clone, Debug)]
pub struct Principal<'a> {
    /// Its name in `agents.d`.
    pub name: &'a str,
    /// Its tenant.
    pub tenant: Option<&'a str>,
    /// Its owner.
    pub owner: Option<&'a str>,
    /// Its roles.
    pub roles: Vec<&'a str>,
    /// 0 for an agent of `agents.d`.
    pub depth: u32,
}

/// The calling process.
#[derive(Clone, Debug)]
pub struct Process<'a> {
    /// Its user.
    pub uid: u32,
    /// The systemd system unit.
    pub unit: Option<&'a str>,
    /// The invocation ID.
    pub invocation: Option<&'a str>,
    /// SHA-256 of its executable in hexadecimal digits, where it is known.
    pub exe_sha256: Option<String>,
    /// Whether a pidfd of the kernel pins it.
    pub pinned: bool,
    /// Of a sub-agent: `kernel` or `cooperative`.
    pub boundary: Option<&'a str>,
}

/// What is asked: the action with its resource and its own part of the context.
#[derive(Clone, Debug)]
pub enum Act<'a> {
    /// An access token or JWT-SVID.
    Token {
        /// The audience.
        audience: &'a str,
        /// The scopes that it would have.
        scopes: Vec<&'a str>,
        /// Its lifetime in seconds.
        ttl: u64,
        /// `sealed` or `tpm`.
        assurance: &'a str,
        /// `none`, `dpop` or `mtls`.
        binding: &'a str,
        /// Whether a person has approved it, or has to before it is issued.
        approved: bool,
    },
    /// An X509-SVID or WIT-SVID.
    Certificate,
    /// Evidence.
    Attest,
    /// A sealed credential.
    Credential {
        /// Its name.
        name: &'a str,
        /// `release`, `inject` or `sign`.
        usage: &'a str,
        /// Whether a person has approved it, or has to before it is used.
        approved: bool,
        /// Method and path of the request that it is injected into, or that it signs.
        request: Option<(&'a str, &'a str)>,
    },
    /// A proof for one HTTP request.
    Prove {
        /// What kind of proof.
        kind: &'a str,
        /// The URL in its normal form, or the issuer of an authorization server.
        url: &'a str,
        /// With the scheme and, where it is not the scheme's own, the port.
        origin: &'a str,
        /// The method, and the path without the query.
        request: (&'a str, &'a str),
        /// SHA-256 of the body in hexadecimal digits, where the request has one.
        body_sha256: Option<&'a str>,
    },
    /// A new sub-agent.
    Delegate {
        /// Its name, after that of its parent.
        name: &'a str,
        /// How long it would exist, in seconds.
        ttl: u64,
        /// `kernel` or `cooperative`.
        boundary: &'a str,
    },
}

/// Types and actions of the schema. Cedar parses each from text, which takes longer than a decision, so they
/// are parsed once for each policy set.
#[derive(Debug)]
pub(super) struct SchemaNames {
    agent: EntityTypeName,
    tenant: EntityTypeName,
    role: EntityTypeName,
    audience: EntityTypeName,
    credential: EntityTypeName,
    url: EntityTypeName,
    token: EntityUid,
    certificate: EntityUid,
    attest: EntityUid,
    use_credential: EntityUid,
    prove: EntityUid,
    delegate: EntityUid,
    host: EntityUid,
}

/// A question in Cedar's types.
pub(super) struct CedarQuestion {
    pub request: Request,
    pub entities: Entities,
}

impl SchemaNames {
    /// # Errors
    /// A name of the schema cannot be parsed, which a test excludes.
    pub(super) fn parse() -> Result<SchemaNames, Box<cedar_policy::ParseErrors>> {
        let type_name = |name: &str| name.parse::<EntityTypeName>().map_err(Box::new);
        let action_type = type_name("Action")?;
        let action = |name| EntityUid::from_type_name_and_id(action_type.clone(), EntityId::new(name));
        Ok(SchemaNames {
            agent: type_name("Agent")?,
            tenant: type_name("Tenant")?,
            role: type_name("Role")?,
            audience: type_name("Audience")?,
            credential: type_name("Credential")?,
            url: type_name("Url")?,
            token: action("token"),
            certificate: action("certificate"),
            attest: action("attest"),
            use_credential: action("credential"),
            prove: action("prove"),
            delegate: action("delegate"),
            host: EntityUid::from_type_name_and_id(type_name("Host")?, EntityId::new(HOST)),
        })
    }
}

impl Question<'_> {
    /// The question in Cedar's types, with the attributes that `needs` has.
    ///
    /// The engine does not compare the request with the schema: each value is made here with the type that the
    /// schema gives it, which a test checks for every action, and an attribute is left out only if no policy that
    /// is evaluated can read it.
    ///
    /// # Errors
    /// Cedar does not accept a value, which is no case that the schema's types allow.
    pub(super) fn to_cedar(&self, names: &SchemaNames, needs: Needs) -> Result<CedarQuestion, QuestionError> {
        let agent = uid(&names.agent, self.principal.name);
        let resource = self.act.resource(names);
        let context = Context::from_pairs(self.context(needs)?)?;
        let entities = match needs.has_entities() {
            false => Entities::empty(),
            true => {
                let principal = self.principal.to_entity(agent.clone(), names, needs)?;
                let resource = match &self.act {
                    Act::Delegate { name, .. } => {
                        let sub_agent = self.principal.sub_agent(name);
                        sub_agent.to_entity(resource.clone(), names, needs)?
                    }
                    act => act.to_entity(resource.clone())?,
                };
                Entities::empty().add_entities([principal, resource], None)?
            }
        };
        let request = Request::new(agent, self.act.action(names).clone(), resource, context, None)?;
        Ok(CedarQuestion { request, entities })
    }

    fn context(&self, needs: Needs) -> Result<Vec<(String, Value)>, QuestionError> {
        let mut context = Members::new(needs);
        context.add(Attribute::Posture, "posture", || text(self.posture));
        match &self.act {
            Act::Token { scopes, ttl, assurance, binding, approved, .. } => {
                let scopes = || Value::new_set(scopes.iter().map(|scope| text(scope)));
                context.add(Attribute::Scopes, "scopes", scopes);
                context.add(Attribute::Ttl, "ttl", || long(*ttl));
                context.add(Attribute::Assurance, "assurance", || text(assurance));
                context.add(Attribute::Binding, "binding", || text(binding));
                context.add(Attribute::Approved, "approved", || Value::new_bool(*approved));
            }
            Act::Credential { usage, approved, request, .. } => {
                context.add(Attribute::Usage, "usage", || text(usage));
                context.add(Attribute::Approved, "approved", || Value::new_bool(*approved));
                context.add_some(Attribute::Method, "method", request.map(|(method, _)| method), text);
                context.add_some(Attribute::Path, "path", request.map(|(_, path)| path), text);
            }
            Act::Prove { kind, request: (method, path), body_sha256, .. } => {
                context.add(Attribute::Kind, "kind", || text(kind));
                context.add(Attribute::Method, "method", || text(method));
                context.add(Attribute::Path, "path", || text(path));
                context.add_some(Attribute::BodySha256, "body_sha256", *body_sha256, text);
            }
            Act::Delegate { ttl, boundary, .. } => {
                context.add(Attribute::Ttl, "ttl", || long(*ttl));
                context.add(Attribute::Boundary, "boundary", || text(boundary));
            }
            Act::Certificate | Act::Attest => {}
        }
        if needs.has(Attribute::Peer) {
            context.members.push(pair("peer", Value::new_record(self.peer(needs))?));
        }
        if needs.has(Attribute::Time) {
            context.members.push(pair("time", Value::new_record(self.time(needs))?));
        }
        Ok(context.members)
    }

    fn peer(&self, needs: Needs) -> Vec<(String, Value)> {
        let Process { uid, unit, invocation, exe_sha256, pinned, boundary } = &self.process;
        let mut peer = Members::new(needs);
        peer.add(Attribute::Uid, "uid", || long(u64::from(*uid)));
        peer.add(Attribute::Pinned, "pinned", || Value::new_bool(*pinned));
        peer.add_some(Attribute::Unit, "unit", *unit, text);
        peer.add_some(Attribute::Invocation, "invocation", *invocation, text);
        peer.add_some(Attribute::ExeSha256, "exe_sha256", exe_sha256.as_deref(), text);
        peer.add_some(Attribute::Boundary, "boundary", *boundary, text);
        peer.members
    }

    fn time(&self, needs: Needs) -> Vec<(String, Value)> {
        let LocalTime { weekday, hour, minute } = self.local_time;
        let mut time = Members::new(needs);
        time.add(Attribute::Instant, "instant", || Value::new_datetime(self.now.to_rfc3339_seconds()));
        time.add(Attribute::Hour, "hour", || long(u64::from(hour)));
        time.add(Attribute::Minute, "minute", || long(u64::from(minute)));
        time.add(Attribute::Weekday, "weekday", || text(weekday.as_str()));
        time.members
    }
}

/// The members of a record, or the attributes of an entity, as far as they are needed.
struct Members {
    needs: Needs,
    members: Vec<(String, Value)>,
}

impl Members {
    fn new(needs: Needs) -> Members {
        Members { needs, members: Vec::new() }
    }

    fn add(&mut self, attribute: Attribute, name: &str, value: impl FnOnce() -> Value) {
        if self.needs.has(attribute) {
            self.members.push(pair(name, value()));
        }
    }

    /// Adds the member if it has a value.
    fn add_some<T>(
        &mut self,
        attribute: Attribute,
        name: &str,
        value: Option<T>,
        to_value: impl FnOnce(T) -> Value,
    ) {
        if let Some(value) = value {
            self.add(attribute, name, || to_value(value));
        }
    }
}

impl<'a> Principal<'a> {
    /// An agent. A sub-agent has the roles of the registered agent above it.
    pub fn of(entry: &'a AgentEntry) -> Principal<'a> {
        Principal {
            name: entry.name.as_str(),
            tenant: entry.tenant.as_deref(),
            owner: entry.owner.as_deref(),
            roles: entry.root().roles.iter().map(|role| role.name()).collect(),
            depth: entry.name.depth(),
        }
    }

    /// A sub-agent of this one.
    fn sub_agent(&self, name: &'a str) -> Principal<'a> {
        Principal { name, depth: depth_of(name), ..self.clone() }
    }
}

impl Principal<'_> {
    fn to_entity(
        &self,
        agent: EntityUid,
        names: &SchemaNames,
        needs: Needs,
    ) -> Result<Entity, QuestionError> {
        let mut attributes = Members::new(needs);
        attributes.add(Attribute::Name, "name", || text(self.name));
        attributes.add(Attribute::Depth, "depth", || long(u64::from(self.depth)));
        let roles = || Value::new_set(self.roles.iter().map(|role| text(role)));
        attributes.add(Attribute::Roles, "roles", roles);
        attributes.add_some(Attribute::Tenant, "tenant", self.tenant, text);
        attributes.add_some(Attribute::Owner, "owner", self.owner, text);
        let mut parents = HashSet::new();
        if needs.has(Attribute::Parents) {
            parents.extend(self.roles.iter().map(|role| uid(&names.role, role)));
            parents.extend(self.tenant.map(|tenant| uid(&names.tenant, tenant)));
        }
        Ok(Entity::new(agent, attributes.members.into_iter().collect(), parents)?)
    }
}

impl Act<'_> {
    /// The name of the action.
    pub fn name(&self) -> &'static str {
        match self {
            Act::Token { .. } => "token",
            Act::Certificate => "certificate",
            Act::Attest => "attest",
            Act::Credential { .. } => "credential",
            Act::Prove { .. } => "prove",
            Act::Delegate { .. } => "delegate",
        }
    }

    fn action<'n>(&self, names: &'n SchemaNames) -> &'n EntityUid {
        match self {
            Act::Token { .. } => &names.token,
            Act::Certificate => &names.certificate,
            Act::Attest => &names.attest,
            Act::Credential { .. } => &names.use_credential,
            Act::Prove { .. } => &names.prove,
            Act::Delegate { .. } => &names.delegate,
        }
    }

    fn resource(&self, names: &SchemaNames) -> EntityUid {
        match self {
            Act::Token { audience, .. } => uid(&names.audience, audience),
            Act::Credential { name, .. } => uid(&names.credential, name),
            Act::Prove { url, .. } => uid(&names.url, url),
            Act::Delegate { name, .. } => uid(&names.agent, name),
            Act::Certificate | Act::Attest => names.host.clone(),
        }
    }

    /// The resource with its attributes, which the host does not have.
    fn to_entity(&self, resource: EntityUid) -> Result<Entity, QuestionError> {
        let name = match self {
            Act::Token { audience, .. } => audience,
            Act::Credential { name, .. } => name,
            Act::Prove { url, origin, .. } => {
                let attributes = HashMap::from([pair("url", text(url)), pair("origin", text(origin))]);
                return Ok(Entity::new(resource, attributes, HashSet::new())?);
            }
            Act::Delegate { .. } | Act::Certificate | Act::Attest => {
                return Ok(Entity::new_no_attrs(resource, HashSet::new()));
            }
        };
        Ok(Entity::new(resource, HashMap::from([pair("name", text(name))]), HashSet::new())?)
    }
}

fn pair(name: &str, value: Value) -> (String, Value) {
    (name.to_owned(), value)
}

fn text(value: &str) -> Value {
    Value::new_string(value.to_owned())
}

/// Cedar's numbers have a sign; none of ours exceeds its range.
fn long(value: u64) -> Value {
    Value::new_long(i64::try_from(value).unwrap_or(i64::MAX))
}

fn uid(type_name: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(type_name.clone(), EntityId::new(id))
}

#[cfg(test)]
pub(super) mod tests;
