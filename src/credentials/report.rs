//! What is known of stored credentials without their values.

use crate::clock::Timestamp;
use crate::store::CredentialRow;

/// One stored credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialReport {
    /// The tenant; `None` where the credential has none.
    pub tenant: Option<String>,
    /// The agent whose own it is; `None` for a shared one.
    pub agent: Option<String>,
    /// The credential's name.
    pub name: String,
    /// Whether nobody should ask for it.
    pub is_canary: bool,
    /// Its versions, the latest last.
    pub versions: Vec<VersionReport>,
}

/// One version of a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionReport {
    /// Counted from 1.
    pub version: u64,
    /// When it was stored.
    pub created: Timestamp,
    /// From when on it is not released; `None` where it does not expire.
    pub expires: Option<Timestamp>,
    /// When it is destroyed, since a later version has replaced it.
    pub retires: Option<Timestamp>,
    /// Length of the value in bytes.
    pub size: u64,
}

impl From<&CredentialRow> for VersionReport {
    fn from(row: &CredentialRow) -> Self {
        VersionReport {
            version: row.version,
            created: Timestamp::from_secs(row.created),
            expires: row.expires.map(Timestamp::from_secs),
            retires: row.retires.map(Timestamp::from_secs),
            size: row.size,
        }
    }
}

/// One report for each credential; the rows are in the order of tenant, agent, name and version.
pub(super) fn reports(rows: &[CredentialRow]) -> Vec<CredentialReport> {
    let same = |a: &CredentialRow, b: &CredentialRow| {
        (&a.tenant, &a.agent, &a.name) == (&b.tenant, &b.agent, &b.name)
    };
    let report = |versions: &[CredentialRow]| {
        let first = versions.first()?;
        Some(CredentialReport {
            tenant: Some(first.tenant.clone()).filter(|tenant| !tenant.is_empty()),
            agent: Some(first.agent.clone()).filter(|agent| !agent.is_empty()),
            name: first.name.clone(),
            is_canary: versions.iter().any(|row| row.is_canary),
            versions: versions.iter().map(VersionReport::from).collect(),
        })
    };
    rows.chunk_by(same).filter_map(report).collect()
}
