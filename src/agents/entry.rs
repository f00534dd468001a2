//! One registered agent, as its file describes it.

use std::path::PathBuf;

use serde::Serialize;

use crate::config::Diagnostic;

use super::credential::CredentialGrant;
use super::grant::Grant;
use super::name::AgentName;
use super::selectors::Selectors;

/// One registered agent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AgentEntry {
    /// The agent's name, unique on the host.
    pub name: AgentName,
    /// Contact for the agent, such as a mail address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Tenant that the agent belongs to; part of its SPIFFE ID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Which processes are this agent.
    #[serde(rename = "match")]
    pub selectors: Selectors,
    /// Which tokens the agent may request, at most one grant for each audience.
    pub grants: Vec<Grant>,
    /// Which sealed credentials the agent may use, each name at most once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub credentials: Vec<CredentialGrant>,
}

/// Where an agent was read.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub file: PathBuf,
    /// The line of `[match]`.
    pub match_line: Option<usize>,
}

impl Origin {
    /// A diagnostic about the agent's conditions.
    pub fn diagnostic(&self, message: String) -> Diagnostic {
        Diagnostic { file: self.file.clone(), line: self.match_line, message }
    }
}

impl AgentEntry {
    /// Returns the path of the agent's SPIFFE ID on a host: `/host/<host-id>[/tenant/<tenant>]/agent/<name>`.
    pub fn spiffe_path(&self, host_id: &str) -> String {
        match &self.tenant {
            Some(tenant) => format!("/host/{host_id}/tenant/{tenant}/agent/{}", self.name),
            None => format!("/host/{host_id}/agent/{}", self.name),
        }
    }
}
