//! The agent socket: sub-agents.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::agent::{Bind, Ttl};
use super::boundary::Boundary;
use crate::clock::Timestamp;

/// `POST /v1/delegate`, as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DelegateRequest<'a> {
    /// The sub-agent's own name: `a-z 0-9 . _ -`, beginning with a letter or digit; with `run-` where a user starts it by
    /// `[run]`, and only there.
    #[serde(borrow)]
    pub name: Cow<'a, str>,
    /// The cgroup whose processes are the sub-agent: its path in the unified hierarchy, or below the agent's own cgroup
    /// where it does not begin with a slash.
    pub cgroup: Cow<'a, str>,
    /// What of the agent's rights the sub-agent has: at most 128. All of them if absent, none if empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grants: Option<Vec<DelegatedGrant<'a>>>,
    /// How long the sub-agent exists, unless it is delegated again. It can shorten `ttl` in the agent's `[delegate]`
    /// or `[run]`, which is also the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Ttl<'a>>,
    /// The agent to act as; required where the caller matches several agents, or is not the agent and its user may start
    /// commands for it (`[run]`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<Cow<'a, str>>,
}

/// A right of a sub-agent: a part of a grant, which has `audience`, or a credential.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct DelegatedGrant<'a> {
    /// The audience of a grant of the agent.
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub audience: Option<Cow<'a, str>>,
    /// Its scopes, separated by spaces; all of the grant if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<Cow<'a, str>>,
    /// The longest lifetime of a token; that of the grant if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Ttl<'a>>,
    /// What tokens have to be bound to; what the grant says if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind: Option<Bind>,
    /// The name of a credential of the agent, instead of an audience.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<Cow<'a, str>>,
}

/// `200` of `POST /v1/delegate`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct DelegateResponse {
    /// The sub-agent's name, after that of its parent and `/sub/`.
    pub agent: String,
    /// Its SPIFFE ID.
    pub spiffe_id: String,
    /// Its cgroup, from the root of the unified hierarchy.
    pub cgroup: String,
    /// `kernel` if only root can move its processes into other cgroups, else `cooperative`.
    pub boundary: Boundary,
    /// When it ends.
    pub expires_at: Timestamp,
}
