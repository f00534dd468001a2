//! The active set of agents and its reload.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use serde::Serialize;
use tokio::sync::watch;

use crate::clock::{Clock, Timestamp};
use crate::config::Diagnostic;
use crate::mutex::lock;
use crate::names::Names;
use crate::peer::DigestCache;
use crate::plural::counted;

use super::agent_set::{AgentSet, RESOLVE_TIMEOUT};
use super::beside::{ReadBeside, joined_digest};
use super::change_approval::{ChangeApprovalError, ChangeGate, Held, PendingChange, ReloadBy};
use super::changes::AgentChanges;
use super::delegation_set::DelegationSet;
use super::registrations::Registrations;
use super::rights_changes::RightsDiff;
use super::source::AgentSource;

/// Warnings of one reload that are logged; `hostbadge agent check` prints all.
const MAX_LOGGED_WARNINGS: usize = 8;

/// The active agents of this host. Clones share the state, so a reload is visible in all of them.
#[derive(Clone)]
pub struct AgentRegistry(Arc<RegistryState>);

struct RegistryState {
    source: AgentSource,
    clock: Clock,
    current: ArcSwap<Registrations>,
    /// Serializes replacements of `current`: by a reload, and when the number of a name changes.
    activation_lock: Mutex<()>,
    load_status: ArcSwap<LoadStatus>,
    /// Notified after another set has been activated.
    change_sender: watch::Sender<()>,
    /// Serializes reloads, so that an earlier one cannot overwrite the result of a later one.
    reload_lock: Mutex<()>,
    names: Names,
    digest_cache: DigestCache,
    /// Holds wider rights back, if they need a second administrator.
    gate: Option<ChangeGate>,
}

/// Result of the last reload.
#[derive(Clone, Debug, Serialize)]
pub struct LoadStatus {
    /// When the active set was read.
    #[serde(rename = "at")]
    pub loaded_at: Timestamp,
    /// Whether the directory has been read without faults since the daemon started.
    #[serde(rename = "loaded")]
    pub is_loaded: bool,
    /// Number of active agents.
    pub agents: usize,
    /// Number of roles.
    pub roles: usize,
    /// Faults of the last reload. If there are any, the previous set stayed active.
    pub faults: Vec<Diagnostic>,
}

/// The directories whose files may all have been removed on purpose.
#[derive(Clone, Copy, Debug, Default)]
pub struct MayBeEmpty {
    /// `agents.d`: all agents are removed.
    pub agents: bool,
    /// `roles.d`, which may be missing too: all roles are removed.
    pub roles: bool,
}

/// What a reload did.
#[derive(Clone, Debug)]
pub struct Reloaded {
    /// The agents that it added, changed and removed.
    pub changes: AgentChanges,
    /// What is valid in the files but probably not meant.
    pub warnings: Vec<Diagnostic>,
    /// Why nothing of it became active; `None` if all did.
    pub held: Option<Held>,
}

impl AgentRegistry {
    /// Reads the directory. If it has faults, the registry starts with a set that is not loaded
    /// ([`AgentSet::is_loaded`]), and [`AgentRegistry::load_status`] returns them. Blocking: waits at most
    /// 5 s for `names`. `trust_domain_length` is as in [`AgentSource`], and roles are read
    /// from `roles.d` beside `dir`.
    pub fn open(dir: &Path, trust_domain_length: usize, names: Names, clock: Clock) -> AgentRegistry {
        let source = AgentSource::beside(dir, trust_domain_length);
        AgentRegistry::open_with(source, names, clock, DigestCache::default(), nothing_beside, |(), _| {})
    }

    /// As [`AgentRegistry::open`], from any two directories, with a cache for the digests of executables, and with
    /// what `read` reads. If one of both has faults, the other becomes active alone, unless wider rights need a
    /// second administrator: then nothing does.
    pub fn open_with<T>(
        source: AgentSource,
        names: Names,
        clock: Clock,
        digest_cache: DigestCache,
        read: impl Fn() -> Result<ReadBeside<T>, Vec<Diagnostic>>,
        activate: impl Fn(T, &Arc<AgentSet>),
    ) -> AgentRegistry {
        let loaded_at = clock.now();
        let gate = source.approvals.clone().map(ChangeGate::new);
        let registry = AgentRegistry(Arc::new(RegistryState {
            gate,
            source,
            clock,
            current: ArcSwap::default(),
            activation_lock: Mutex::new(()),
            load_status: ArcSwap::from_pointee(LoadStatus {
                loaded_at,
                is_loaded: false,
                agents: 0,
                roles: 0,
                faults: Vec::new(),
            }),
            change_sender: watch::Sender::new(()),
            reload_lock: Mutex::new(()),
            names,
            digest_cache,
        }));
        // Before the new table is announced, so that each recipient finds what follows from it.
        let state = Arc::downgrade(&registry.0);
        registry.0.names.on_change(move || {
            if let Some(state) = state.upgrade() {
                state.activate(None, None);
            }
        });
        registry.read_at_start(read, activate);
        if !registry.current().is_loaded() {
            registry.0.names.resolve(&BTreeSet::new(), RESOLVE_TIMEOUT);
        }
        registry
    }

    /// The faults are in `load_status` and with `read`, and the callers report them.
    fn read_at_start<T>(
        &self,
        read: impl Fn() -> Result<ReadBeside<T>, Vec<Diagnostic>>,
        activate: impl Fn(T, &Arc<AgentSet>),
    ) {
        let both = self.reload_with(&ReloadBy::Unknown, MayBeEmpty::default(), &read, &activate);
        if both.is_ok() || self.0.gate.is_some() {
            return;
        }
        if self.load_status().faults.is_empty() {
            // Without what has faults nothing is permitted; the callers are identified all the same.
            let _ = self.reload(MayBeEmpty::default());
        } else if let Ok(beside) = read() {
            activate(beside.content, &self.current());
        }
    }

    /// Reads the directory again and activates the new set if it has no faults. Blocking: waits at most 5 s
    /// for the numbers of users and groups.
    ///
    /// A directory without files removes all active agents, or all roles, only if `may_be_empty` says that
    /// this is meant: a file system that is not mounted leaves such a directory too.
    ///
    /// # Errors
    /// All faults of all files. The previous set stays active.
    pub fn reload(&self, may_be_empty: MayBeEmpty) -> Result<Reloaded, Vec<Diagnostic>> {
        self.reload_with(&ReloadBy::Unknown, may_be_empty, nothing_beside, |(), _| {})
    }

    /// As [`AgentRegistry::reload`], together with what `read` reads: either both become active, or none.
    /// `activate` gets what was read with the new set, just before that becomes active. Reloads do not
    /// overlap. `by` decides whether wider rights become active, where that needs a second administrator.
    ///
    /// # Errors
    /// The faults of both.
    pub fn reload_with<T>(
        &self,
        by: &ReloadBy,
        may_be_empty: MayBeEmpty,
        read: impl FnOnce() -> Result<ReadBeside<T>, Vec<Diagnostic>>,
        activate: impl FnOnce(T, &Arc<AgentSet>),
    ) -> Result<Reloaded, Vec<Diagnostic>> {
        let state = &*self.0;
        let _guard = lock(&state.reload_lock);
        let previous = self.current();
        match (state.read(&previous, may_be_empty), read()) {
            (Ok(agents), Ok(beside)) => {
                let changes = agents.changes_since(&previous, beside.evaluates);
                let rights = changes.rights.joined(&beside.rights);
                let digest = joined_digest(agents.digest(), beside.sha256.as_ref());
                let has_previous = previous.is_loaded() && beside.has_previous;
                if let Err(held) = state.admit(by, &digest, has_previous, &rights) {
                    let loaded = LoadStatus { faults: Vec::new(), ..(**state.load_status.load()).clone() };
                    state.load_status.store(Arc::new(loaded));
                    return Ok(Reloaded { changes, warnings: Vec::new(), held: Some(held) });
                }
                let used_names = agents.user_and_group_names();
                // What is not known by then is `temporarily_unavailable` until it is.
                state.names.resolve(&used_names, RESOLVE_TIMEOUT);
                let mut warnings = agents.warnings(&state.names.table());
                let summary = agents.advice_summary(&state.source.agents, &state.names.table());
                for warning in warnings.iter().take(MAX_LOGGED_WARNINGS) {
                    tracing::warn!("{warning}");
                }
                if let Some(more) = warnings.len().checked_sub(MAX_LOGGED_WARNINGS).filter(|more| *more > 0) {
                    tracing::warn!("{}; \"hostbadge agent check\" prints all", counted(more, "more warning"));
                }
                if let Some(summary) = summary {
                    tracing::info!("{summary}");
                    warnings.insert(0, summary);
                }
                let status = LoadStatus {
                    loaded_at: state.clock.now(),
                    is_loaded: true,
                    agents: agents.len(),
                    roles: agents.roles().len(),
                    faults: Vec::new(),
                };
                let agents = Arc::new(agents.reusing(&previous));
                activate(beside.content, &agents);
                state.activate(Some(agents), None);
                state.names.retain(&used_names);
                state.load_status.store(Arc::new(status));
                state.change_sender.send_replace(());
                Ok(Reloaded { changes, warnings, held: None })
            }
            (agents, beside) => {
                let faults = agents.err().unwrap_or_default();
                let loaded_at = state.load_status.load().loaded_at;
                state.load_status.store(Arc::new(LoadStatus {
                    loaded_at,
                    is_loaded: previous.is_loaded(),
                    agents: previous.len(),
                    roles: previous.roles().len(),
                    faults: faults.clone(),
                }));
                Err([faults, beside.err().unwrap_or_default()].concat())
            }
        }
    }

    /// The change that waits for a second administrator.
    pub fn pending_change(&self) -> Option<PendingChange> {
        self.0.gate.as_ref()?.pending()
    }

    /// Returns the active set.
    pub fn current(&self) -> Arc<AgentSet> {
        self.0.current.load().agents.clone()
    }

    /// Returns the active set with the numbers of its users and groups.
    pub fn registrations(&self) -> Arc<Registrations> {
        self.0.current.load_full()
    }

    /// Replaces the delegations. From then on, requests are decided by these.
    pub fn set_delegations(&self, delegations: DelegationSet) {
        self.0.activate(None, Some(Arc::new(delegations)));
        self.0.change_sender.send_replace(());
    }

    /// Returns a receiver that is notified of each newly activated set.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.0.change_sender.subscribe()
    }

    /// Returns the result of the last reload.
    pub fn load_status(&self) -> Arc<LoadStatus> {
        self.0.load_status.load_full()
    }

    /// The numbers of users and groups.
    pub fn names(&self) -> &Names {
        &self.0.names
    }

    pub(super) fn digest_cache(&self) -> &DigestCache {
        &self.0.digest_cache
    }
}

impl RegistryState {
    /// Replaces the agents and the delegations, or keeps them, with the present numbers of their users and groups. A reload calls
    /// it after its names were looked up, and before those of the previous set are forgotten.
    fn activate(&self, agents: Option<Arc<AgentSet>>, delegations: Option<Arc<DelegationSet>>) {
        let _guard = lock(&self.activation_lock);
        let (current, names) = (self.current.load_full(), self.names.table());
        let agents = agents.unwrap_or_else(|| current.agents.clone());
        let delegations = delegations.unwrap_or_else(|| current.delegations.clone());
        if current.is_outdated(&agents, &delegations, &names) {
            self.current.store(Arc::new(Registrations::new(agents, delegations, names, &current)));
        }
    }

    /// Whether files with this digest may become active now. `has_previous` says whether it is known what was active
    /// before, with which `rights` compares.
    fn admit(
        &self,
        by: &ReloadBy,
        digest: &str,
        has_previous: bool,
        rights: &RightsDiff,
    ) -> Result<(), Held> {
        let Some(gate) = &self.gate else {
            return match by {
                ReloadBy::Approval { .. } => Err(Held::Refused(ChangeApprovalError::NothingPending)),
                ReloadBy::Unknown | ReloadBy::Administrator(_) => Ok(()),
            };
        };
        let admitted = gate.admit(by, digest, has_previous, rights, self.clock.now());
        if let Err(Held::Pending(pending)) = &admitted {
            tracing::warn!(
                "changes of rights wait for a second administrator: \"hostbadge agent approve {}\"",
                pending.digest
            );
        }
        admitted
    }

    /// Reads the directories. An empty one is refused while its agents or roles are active, unless that is
    /// meant.
    fn read(&self, previous: &AgentSet, may_be_empty: MayBeEmpty) -> Result<AgentSet, Vec<Diagnostic>> {
        let roles_vanished = |is_gone: bool| is_gone && !previous.roles().is_empty() && !may_be_empty.roles;
        let agents = AgentSet::read_from(&self.source).map_err(|mut faults| {
            // Without their roles, all agents that refer to them have faults.
            if roles_vanished(!self.source.has_roles()) {
                faults.insert(0, self.no_roles(previous));
            }
            faults
        })?;
        let mut faults = Vec::new();
        if roles_vanished(agents.roles().is_empty()) {
            faults.push(self.no_roles(previous));
        }
        if agents.is_empty() && !previous.is_empty() && !may_be_empty.agents {
            let message = format!(
                "has no files *.toml, and the daemon keeps its {}. Restore the files, or mount their file \
                 system; \"hostbadge agent reload --allow-empty\" removes all agents",
                counted(previous.len(), "active agent")
            );
            faults.push(Diagnostic { file: self.source.agents.clone(), line: None, message });
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(agents.confirm_empty(may_be_empty.agents || previous.is_confirmed_empty()))
    }

    fn no_roles(&self, previous: &AgentSet) -> Diagnostic {
        let message = format!(
            "has no files *.toml, or does not exist, and the daemon keeps its {}. Restore the files, or mount \
             their file system; \"hostbadge agent reload --allow-empty=roles\" removes all roles",
            counted(previous.roles().len(), "role")
        );
        Diagnostic { file: self.source.roles.clone(), line: None, message }
    }
}

/// For agents that are read alone.
fn nothing_beside() -> Result<ReadBeside<()>, Vec<Diagnostic>> {
    Ok(ReadBeside { has_previous: true, ..ReadBeside::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn invalid_file_keeps_previous_set_active() {
        let dir = tempfile::tempdir().unwrap();
        let write_file = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write_file("a.toml", "name = \"a\"\n[match]\nuser = 0\n");
        let clock = Clock::manual(Timestamp::from_secs(1));
        let names = Names::start([]).unwrap();
        let registry = AgentRegistry::open(dir.path(), 35, names, clock);
        assert_eq!(registry.current().len(), 1);

        write_file("a.toml", "name = \"b\"\n[match]\nuser = 0\n");
        write_file("c.toml", "name = \"c\"\n[match]\nuesr = 0\n");
        let faults = registry.reload(MayBeEmpty::default()).unwrap_err();
        assert_eq!(faults.len(), 1);
        assert!(registry.current().get("a").is_some() && registry.current().get("b").is_none());
        assert_eq!(registry.load_status().faults, faults);

        write_file("c.toml", "name = \"c\"\n[match]\nuser = 0\n");
        let changes = registry.reload(MayBeEmpty::default()).unwrap().changes;
        assert_eq!((changes.added.len(), changes.removed.len()), (2, 1));
        assert!(registry.load_status().faults.is_empty());
    }
}
