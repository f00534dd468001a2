//! Reads one file of `agents.d`, which describes one agent.

use std::path::Path;

use serde::Deserialize;
use toml::Spanned;

use crate::config::{Diagnostic, SourceFile};

use super::entry::AgentEntry;
use super::grant::{Grant, RawGrant};
use super::lint;
use super::name::{AgentName, is_valid_name};
use super::selectors::RawSelectors;

/// Length of the longest SPIFFE ID, in bytes: Google's workload identity federation accepts no longer
/// subject.
const MAX_SPIFFE_ID_LEN: usize = 127;
/// Placeholder for the host id, which has 26 base32 characters on every host.
const HOST_ID_PLACEHOLDER: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaa";
/// Grants of one agent.
const MAX_GRANTS: usize = 128;
/// Length of the longest owner, in bytes.
const MAX_OWNER_LEN: usize = 256;

/// The file as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AgentFile {
    name: Spanned<String>,
    owner: Option<Spanned<String>>,
    tenant: Option<Spanned<String>>,
    #[serde(rename = "match")]
    selectors: Spanned<RawSelectors>,
    #[serde(default, rename = "grant")]
    grants: Vec<Spanned<RawGrant>>,
}

/// Reads one file: the agent, and a warning about its selectors. `trust_domain_length`, in bytes, limits the
/// agent's SPIFFE ID before the host id is known.
///
/// # Errors
/// All faults of the file.
pub(super) fn read(
    path: &Path,
    trust_domain_length: usize,
) -> Result<(AgentEntry, Option<Diagnostic>), Vec<Diagnostic>> {
    let source = SourceFile::read(path).map_err(|fault| vec![fault])?;
    let raw: AgentFile = source.parse().map_err(|fault| vec![fault])?;
    let mut faults = Vec::new();

    let name_span = raw.name.span();
    let name = AgentName::parse(raw.name.get_ref());
    if let Err(message) = &name {
        faults.push(source.diagnostic(name_span.clone(), message.to_string()));
    }
    let owner = raw.owner.map(|owner| {
        if owner.get_ref().trim().is_empty() || owner.get_ref().len() > MAX_OWNER_LEN {
            faults.push(source.diagnostic(
                owner.span(),
                format!(
                    "owner must be a contact for this agent, such as a mail address, \
                         of at most {MAX_OWNER_LEN} bytes"
                ),
            ));
        }
        owner.into_inner()
    });
    let tenant = raw.tenant.map(|tenant| {
        if !is_valid_name(tenant.get_ref()) {
            faults.push(source.diagnostic(
                tenant.span(),
                "tenant must have the form of an agent name: a-z 0-9 . _ -, at most 63 characters",
            ));
        }
        tenant.into_inner()
    });
    let selectors_span = raw.selectors.span();
    let selectors = raw.selectors.into_inner().validate(&source, selectors_span.clone(), &mut faults);
    let warning = lint::warning(&selectors).map(|message| source.diagnostic(selectors_span, message));

    if let Some(excess_grant) = raw.grants.get(MAX_GRANTS) {
        faults.push(source.diagnostic(
            excess_grant.span(),
            format!("more than {MAX_GRANTS} grants in one agent; split it into two agents"),
        ));
    }
    let mut grants: Vec<Grant> = Vec::new();
    for raw_grant in raw.grants {
        let span = raw_grant.span();
        let grant = raw_grant.into_inner().validate(&source, &mut faults);
        if grants.iter().any(|existing| existing.audience == grant.audience) {
            faults
                .push(source.diagnostic(span, "second grant for this audience; add its scopes to the first"));
        }
        grants.push(grant);
    }
    let Ok(name) = name else { return Err(faults) };
    let entry = AgentEntry { name, owner, tenant, selectors, grants };
    let length = "spiffe://".len() + trust_domain_length + entry.spiffe_path(HOST_ID_PLACEHOLDER).len();
    if length > MAX_SPIFFE_ID_LEN {
        let excess = length - MAX_SPIFFE_ID_LEN;
        let message = format!(
            "the SPIFFE ID would have {length} characters; shorten name or tenant by {excess}, \
             because relying parties accept at most {MAX_SPIFFE_ID_LEN}"
        );
        faults.push(source.diagnostic(name_span, message));
    }
    if faults.is_empty() { Ok((entry, warning)) } else { Err(faults) }
}
