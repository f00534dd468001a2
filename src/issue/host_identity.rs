//! The names of this host: its id, its trust domain and its issuer URL.

use crate::agents::{AgentEntry, AgentName};

/// The names of a host, and whether its TPM is a chip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostIdentity {
    /// The first 128 bits of SHA-256 over the EK's Name, in lower-case base32 without padding: 26 characters.
    pub id: String,
    /// The SPIFFE trust domain.
    pub trust_domain: String,
    /// `iss` of the tokens of agents without a tenant: an https URL without a trailing slash.
    pub issuer: String,
    /// Whether the TPM is an emulator (swtpm).
    pub software_tpm: bool,
}

impl HostIdentity {
    /// The agent's SPIFFE ID on this host.
    pub fn spiffe_id(&self, agent: &AgentEntry) -> String {
        format!("spiffe://{}{}", self.trust_domain, agent.spiffe_path(&self.id))
    }

    /// The SPIFFE ID of a sub-agent of this agent. `name` has those of both.
    pub fn sub_agent_id(&self, parent: &AgentEntry, name: &AgentName) -> String {
        let path = parent.spiffe_path(&self.id);
        let above = path.strip_suffix(parent.name.as_str()).unwrap_or(&path);
        format!("spiffe://{}{above}{name}", self.trust_domain)
    }

    /// `iss` of the tokens of a tenant's agents, or of agents without one.
    pub fn issuer_of(&self, tenant: Option<&str>) -> String {
        match tenant {
            None => self.issuer.clone(),
            Some(tenant) => format!("{}/tenant/{tenant}", self.issuer),
        }
    }

    /// How the SPIFFE IDs of all agents of a tenant begin, and no others.
    pub fn spiffe_ids_of_tenant(&self, tenant: &str) -> String {
        format!("spiffe://{}/host/{}/tenant/{tenant}/", self.trust_domain, self.id)
    }

    /// `hostbadge.tpm` of each token: `hardware` or `software`.
    pub fn tpm_kind(&self) -> &'static str {
        if self.software_tpm { "software" } else { "hardware" }
    }
}

/// The configured names of a host.
#[derive(Clone, Debug, Default)]
pub struct IssuerConfig {
    /// Default: `<host id>.internal`.
    pub trust_domain: Option<String>,
    /// Default: `https://<trust domain>`.
    pub issuer: Option<String>,
}

impl IssuerConfig {
    /// The names of the host with this id.
    pub fn host_identity(&self, id: &str, software_tpm: bool) -> HostIdentity {
        let trust_domain = self.trust_domain.clone().unwrap_or_else(|| format!("{id}.internal"));
        let issuer = self.issuer.clone().unwrap_or_else(|| format!("https://{trust_domain}"));
        HostIdentity { id: id.to_owned(), trust_domain, issuer, software_tpm }
    }
}
