//! One file of `agents.d`: one agent.

use std::path::Path;

use serde::Deserialize;
use toml::Spanned;

use crate::config::{Diagnostic, SourceFile};

use super::{AgentEntry, AgentName, grant, is_valid_name, selectors};

/// Longest SPIFFE ID that we make: Google's workload identity takes no longer subject.
const MAX_SPIFFE_ID_LEN: usize = 127;
/// A host id is 26 characters of base32, whatever the host.
const HOST_ID_PLACEHOLDER: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaa";
const MAX_GRANTS: usize = 128;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AgentFile {
    name: Spanned<String>,
    owner: Option<Spanned<String>>,
    tenant: Option<Spanned<String>>,
    #[serde(rename = "match")]
    selectors: Spanned<selectors::RawSelectors>,
    #[serde(default, rename = "grant")]
    grants: Vec<Spanned<grant::RawGrant>>,
}

/// Reads one file. `trust_domain_length` bounds the SPIFFE ID before the host is known.
pub fn read(path: &Path, trust_domain_length: usize) -> Result<AgentEntry, Vec<Diagnostic>> {
    let source = SourceFile::read(path).map_err(|fault| vec![fault])?;
    let raw: AgentFile = source.parse().map_err(|fault| vec![fault])?;
    let mut faults = Vec::new();

    let name_span = raw.name.span();
    let name = AgentName::parse(raw.name.get_ref());
    if let Err(message) = &name {
        faults.push(source.diagnostic(name_span.clone(), message.as_str()));
    }
    let owner =
        raw.owner.map(|owner| {
            if owner.get_ref().trim().is_empty() || owner.get_ref().len() > 256 {
                faults.push(source.diagnostic(
                    owner.span(),
                    "owner is whom to ask about this agent, such as a mail address",
                ));
            }
            owner.into_inner()
        });
    let tenant = raw.tenant.map(|tenant| {
        if !is_valid_name(tenant.get_ref()) {
            faults.push(source.diagnostic(
                tenant.span(),
                "tenant is a name like the agent's: a-z 0-9 . _ -, at most 63 characters",
            ));
        }
        tenant.into_inner()
    });
    let selectors_span = raw.selectors.span();
    let selectors = raw.selectors.into_inner().validate(&source, selectors_span, &mut faults);

    if let Some(excess_grant) = raw.grants.get(MAX_GRANTS) {
        faults.push(source.diagnostic(
            excess_grant.span(),
            format!("more than {MAX_GRANTS} grants in one agent; make two of it"),
        ));
    }
    let mut grants: Vec<super::Grant> = Vec::new();
    for raw_grant in raw.grants {
        let span = raw_grant.span();
        let grant = raw_grant.into_inner().validate(&source, &mut faults);
        if grants.iter().any(|existing| existing.audience == grant.audience) {
            faults.push(
                source.diagnostic(span, "a second grant for this audience; put its scopes into the first"),
            );
        }
        grants.push(grant);
    }
    let Ok(name) = name else { return Err(faults) };
    let entry = AgentEntry { name, owner, tenant, selectors, grants };
    let length = "spiffe://".len() + trust_domain_length + entry.spiffe_path(HOST_ID_PLACEHOLDER).len();
    if length > MAX_SPIFFE_ID_LEN {
        let excess = length - MAX_SPIFFE_ID_LEN;
        faults.push(source.diagnostic(name_span, format!("the SPIFFE ID would have {length} characters; shorten name or tenant by {excess}, relying parties take {MAX_SPIFFE_ID_LEN}")));
    }
    if faults.is_empty() { Ok(entry) } else { Err(faults) }
}
