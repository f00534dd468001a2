//! `delegations.json`: the delegations, so that a restart of the daemon makes no sub-agent its parent.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::agents::{
    AgentName, Binding, DelegatedGrant, DelegatedRight, DelegatedRights, Delegation, HeldDelegation,
};
use crate::clock::Timestamp;
use crate::invocations::StoredEnd;
use crate::peer::{Boundary, Cgroup, Invocation, boot_id};
use crate::store;

const FILE_NAME: &str = "delegations.json";
const VERSION: u64 = 1;
/// Larger files are not written, in bytes; larger ones than 8 MiB are not read.
const MAX_SIZE: usize = 4 * 1024 * 1024;

/// The content of the file. No cgroup of another boot exists.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DelegationsFile {
    boot: String,
    delegations: Vec<RawDelegation>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDelegation {
    agent: String,
    cgroup: String,
    cgroup_id: u64,
    parent_invocations: Vec<RawInvocation>,
    root_tag: String,
    /// Absent where no user started it by `[run]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    run_by: Option<u32>,
    /// Absent for processes of all users.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    /// Absent for all rights of the parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rights: Option<Vec<RawRight>>,
    expires: u64,
    boundary: String,
    /// Why it has ended; absent where it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ended: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct RawInvocation {
    id: String,
    #[serde(flatten)]
    end: StoredEnd,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum RawRight {
    Grant {
        audience: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        scopes: Option<Vec<String>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ttl: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bind: Option<Binding>,
    },
    Credential {
        credential: String,
    },
}

impl DelegationsFile {
    /// The file for these delegations.
    pub(super) fn of(held: impl Iterator<Item = HeldDelegation>) -> DelegationsFile {
        let delegations = held.map(|one| RawDelegation::of(&one)).collect();
        DelegationsFile { boot: boot_id().to_owned(), delegations }
    }

    /// Writes the file, which is on disk when this returns. Blocking.
    ///
    /// # Errors
    /// It cannot be written, or would be larger than what is read.
    pub(super) fn write(&self, dir: &Path) -> Result<(), store::Error> {
        let path = dir.join(FILE_NAME);
        let text = store::to_bytes(&path, VERSION, self)?;
        if text.len() > MAX_SIZE {
            let full = std::io::Error::other("the delegations of this host are too many and too long");
            return Err(store::Error::Io { path, source: full });
        }
        store::write_atomic(&path, &text, 0o600).map_err(|source| store::Error::Io { path, source })
    }

    /// Reads the delegations of this boot from the file. Blocking.
    ///
    /// # Errors
    /// It cannot be read, or is damaged.
    pub(super) fn read(dir: &Path) -> Result<Vec<HeldDelegation>, store::Error> {
        let path = dir.join(FILE_NAME);
        let Some(file) = store::read::<DelegationsFile>(&path, VERSION)? else { return Ok(Vec::new()) };
        if file.boot != boot_id() {
            return Ok(Vec::new());
        }
        let damaged = |reason: String| store::Error::Corrupt { path: path.clone(), reason };
        file.delegations.into_iter().map(|raw| raw.into_held().map_err(damaged)).collect()
    }
}

impl RawDelegation {
    fn of(held: &HeldDelegation) -> RawDelegation {
        let delegation = &held.delegation;
        RawDelegation {
            agent: delegation.agent.to_string(),
            cgroup: delegation.cgroup.path().to_owned(),
            cgroup_id: delegation.cgroup.id(),
            parent_invocations: delegation.parent_invocations.iter().map(RawInvocation::of).collect(),
            root_tag: delegation.root_tag.to_string(),
            run_by: delegation.run_by,
            uid: delegation.uid,
            // One that has ended has none.
            rights: match &delegation.rights {
                _ if held.ended.is_some() => Some(Vec::new()),
                DelegatedRights::All => None,
                DelegatedRights::Some(rights) => Some(rights.iter().map(RawRight::of).collect()),
            },
            expires: delegation.expires.as_secs(),
            boundary: delegation.boundary.as_str().to_owned(),
            ended: held.ended.as_deref().map(ToOwned::to_owned),
        }
    }

    fn into_held(self) -> Result<HeldDelegation, String> {
        let agent = AgentName::parse_any(&self.agent).map_err(|e| e.to_string())?;
        let cgroup = Cgroup::known(&self.cgroup, self.cgroup_id);
        let boundary = Boundary::from_name(&self.boundary);
        let delegation = Delegation {
            invocation: Invocation::of_delegated(&cgroup, agent.as_str()),
            agent,
            cgroup,
            parent_invocations: self
                .parent_invocations
                .into_iter()
                .map(RawInvocation::into_invocation)
                .collect(),
            root_tag: self.root_tag.parse().map_err(|e| format!("the match tag is {e}"))?,
            run_by: self.run_by,
            uid: self.uid,
            rights: match self.rights {
                None => DelegatedRights::All,
                Some(rights) => DelegatedRights::Some(rights.into_iter().map(RawRight::into_right).collect()),
            },
            expires: Timestamp::from_secs(self.expires),
            boundary: boundary.ok_or_else(|| format!("\"{}\" is no boundary", self.boundary))?,
        };
        Ok(HeldDelegation { delegation: Arc::new(delegation), ended: self.ended.map(Arc::from) })
    }
}

impl RawInvocation {
    fn of(invocation: &Invocation) -> RawInvocation {
        RawInvocation { id: invocation.to_string(), end: invocation.end().clone().into() }
    }

    fn into_invocation(self) -> Invocation {
        Invocation::stored(&self.id, self.end.into())
    }
}

impl RawRight {
    fn of(right: &DelegatedRight) -> RawRight {
        match right.clone() {
            DelegatedRight::Grant(DelegatedGrant { audience, scopes, ttl, bind }) => {
                RawRight::Grant { audience, scopes, ttl: ttl.map(|ttl| ttl.as_secs()), bind }
            }
            DelegatedRight::Credential(credential) => RawRight::Credential { credential },
        }
    }

    fn into_right(self) -> DelegatedRight {
        match self {
            RawRight::Grant { audience, scopes, ttl, bind } => {
                let ttl = ttl.map(Duration::from_secs);
                DelegatedRight::Grant(DelegatedGrant { audience, scopes, ttl, bind })
            }
            RawRight::Credential { credential } => DelegatedRight::Credential(credential),
        }
    }
}
