//! One file of `agents.d`: one agent.

use std::path::Path;

use serde::Deserialize;
use toml::Spanned;

use crate::config::{Fault, Source};

use super::{Entry, Name, grant, is_name, matching};

/// Longest SPIFFE ID that we make: Google's workload identity takes no longer subject.
const LONGEST_ID: usize = 127;
/// A host id is 26 characters of base32, whatever the host.
const HOST_ID: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaa";
const MOST_GRANTS: usize = 128;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: Spanned<String>,
    owner: Option<Spanned<String>>,
    tenant: Option<Spanned<String>>,
    #[serde(rename = "match")]
    matching: Spanned<matching::Written>,
    #[serde(default, rename = "grant")]
    grants: Vec<Spanned<grant::Written>>,
}

/// Reads one file. `trust_domain_length` bounds the SPIFFE ID before the host is known.
pub fn read(path: &Path, trust_domain_length: usize) -> Result<Entry, Vec<Fault>> {
    let source = Source::read(path).map_err(|fault| vec![fault])?;
    let written: Written = source.parse().map_err(|fault| vec![fault])?;
    let mut faults = Vec::new();

    let at = written.name.span();
    let name = Name::parse(written.name.get_ref());
    if let Err(what) = &name {
        faults.push(source.fault(at.clone(), what.as_str()));
    }
    let owner = written.owner.map(|owner| {
        if owner.get_ref().trim().is_empty() || owner.get_ref().len() > 256 {
            faults.push(
                source.fault(owner.span(), "owner is whom to ask about this agent, such as a mail address"),
            );
        }
        owner.into_inner()
    });
    let tenant = written.tenant.map(|tenant| {
        if !is_name(tenant.get_ref()) {
            faults.push(source.fault(
                tenant.span(),
                "tenant is a name like the agent's: a-z 0-9 . _ -, at most 63 characters",
            ));
        }
        tenant.into_inner()
    });
    let span = written.matching.span();
    let matching = written.matching.into_inner().check(&source, span, &mut faults);

    if let Some(extra) = written.grants.get(MOST_GRANTS) {
        faults.push(
            source
                .fault(extra.span(), format!("more than {MOST_GRANTS} grants in one agent; make two of it")),
        );
    }
    let mut grants: Vec<super::Grant> = Vec::new();
    for written in written.grants {
        let at = written.span();
        let grant = written.into_inner().check(&source, &mut faults);
        if grants.iter().any(|other| other.audience == grant.audience) {
            faults.push(source.fault(at, "a second grant for this audience; put its scopes into the first"));
        }
        grants.push(grant);
    }
    let Ok(name) = name else { return Err(faults) };
    let entry = Entry { name, owner, tenant, matching, grants };
    let length = "spiffe://".len() + trust_domain_length + entry.spiffe_path(HOST_ID).len();
    if length > LONGEST_ID {
        let over = length - LONGEST_ID;
        faults.push(source.fault(at, format!("the SPIFFE ID would have {length} characters; shorten name or tenant by {over}, relying parties take {LONGEST_ID}")));
    }
    if faults.is_empty() { Ok(entry) } else { Err(faults) }
}
