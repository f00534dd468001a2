//! The registry in force, and its reload.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use serde::Serialize;
use tokio::sync::watch;

use crate::clock::{Clock, Timestamp};
use crate::config::Diagnostic;
use crate::peer::DigestCache;

use super::{AgentChanges, AgentSet, NssCache};

/// The agents of this host. Cheap to clone; every clone sees a reload at once.
#[derive(Clone)]
pub struct AgentRegistry(Arc<RegistryState>);

struct RegistryState {
    dir: PathBuf,
    trust_domain_length: usize,
    clock: Clock,
    current: ArcSwap<AgentSet>,
    load_status: ArcSwap<LoadStatus>,
    /// Sent to when another set has come into force.
    change_sender: watch::Sender<()>,
    /// One reload at a time, so that the later of two never loses to the earlier.
    reload_lock: Mutex<()>,
    nss: NssCache,
    digest_cache: DigestCache,
}

/// How the last reading of the directory went.
#[derive(Clone, Debug, Serialize)]
pub struct LoadStatus {
    /// When the set in force was read.
    pub at: Timestamp,
    pub agents: usize,
    /// Faults of the last reading; while there are any, the set before it stays in force.
    pub faults: Vec<Diagnostic>,
}

impl AgentRegistry {
    /// Reads the directory. Faults leave an empty registry and are told by [`Agents::loaded`].
    pub fn open(dir: &Path, trust_domain_length: usize, clock: Clock) -> AgentRegistry {
        let at = clock.now();
        let registry = AgentRegistry(Arc::new(RegistryState {
            dir: dir.to_owned(),
            trust_domain_length,
            clock,
            current: ArcSwap::default(),
            load_status: ArcSwap::from_pointee(LoadStatus { at, agents: 0, faults: Vec::new() }),
            change_sender: watch::Sender::new(()),
            reload_lock: Mutex::new(()),
            nss: NssCache::default(),
            digest_cache: DigestCache::default(),
        }));
        // The faults are kept where status shows them.
        let _ = registry.reload();
        registry
    }

    /// Reads the directory again: all of it comes into force, or nothing. Blocking.
    pub fn reload(&self) -> Result<AgentChanges, Vec<Diagnostic>> {
        let state = &*self.0;
        let _guard = state.reload_lock.lock().unwrap_or_else(PoisonError::into_inner);
        let previous = state.current.load_full();
        match AgentSet::read(&state.dir, state.trust_domain_length) {
            Ok(agents) => {
                let changes = agents.changes_since(&previous);
                let status = LoadStatus { at: state.clock.now(), agents: agents.len(), faults: Vec::new() };
                state.nss.clear();
                state.current.store(Arc::new(agents));
                state.load_status.store(Arc::new(status));
                state.change_sender.send_replace(());
                Ok(changes)
            }
            Err(faults) => {
                let at = state.load_status.load().at;
                state.load_status.store(Arc::new(LoadStatus {
                    at,
                    agents: previous.len(),
                    faults: faults.clone(),
                }));
                Err(faults)
            }
        }
    }

    /// The registry in force now.
    pub fn current(&self) -> Arc<AgentSet> {
        self.0.current.load_full()
    }

    /// Hears of each set that comes into force.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.0.change_sender.subscribe()
    }

    /// How the last reading went.
    pub fn load_status(&self) -> Arc<LoadStatus> {
        self.0.load_status.load_full()
    }

    pub(super) fn nss(&self) -> &NssCache {
        &self.0.nss
    }

    pub(super) fn digest_cache(&self) -> &DigestCache {
        &self.0.digest_cache
    }
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
        let registry = AgentRegistry::open(dir.path(), 35, clock);
        assert_eq!(registry.current().len(), 1);

        write_file("a.toml", "name = \"b\"\n[match]\nuser = 0\n");
        write_file("c.toml", "name = \"c\"\n[match]\nuesr = 0\n");
        let faults = registry.reload().unwrap_err();
        assert_eq!(faults.len(), 1);
        assert!(registry.current().get("a").is_some() && registry.current().get("b").is_none());
        assert_eq!(registry.load_status().faults, faults);

        write_file("c.toml", "name = \"c\"\n[match]\nuser = 0\n");
        let changes = registry.reload().unwrap();
        assert_eq!((changes.added.len(), changes.removed.len()), (2, 1));
        assert!(registry.load_status().faults.is_empty());
    }
}
