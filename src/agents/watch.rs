//! The registry in force, and its reload.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use serde::Serialize;
use tokio::sync::watch;

use crate::clock::{Clock, Timestamp};
use crate::config::Fault;
use crate::peer::Digests;

use super::{Changes, Names, Registry};

/// The agents of this host. Cheap to clone; every clone sees a reload at once.
#[derive(Clone)]
pub struct Agents(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    trust_domain_length: usize,
    clock: Clock,
    current: ArcSwap<Registry>,
    last: ArcSwap<Loaded>,
    /// Sent to when another set has come into force.
    changed: watch::Sender<()>,
    /// One reload at a time, so that the later of two never loses to the earlier.
    reload: Mutex<()>,
    names: Names,
    digests: Digests,
}

/// How the last reading of the directory went.
#[derive(Clone, Debug, Serialize)]
pub struct Loaded {
    /// When the set in force was read.
    pub at: Timestamp,
    pub agents: usize,
    /// Faults of the last reading; while there are any, the set before it stays in force.
    pub faults: Vec<Fault>,
}

impl Agents {
    /// Reads the directory. Faults leave an empty registry and are told by [`Agents::loaded`].
    pub fn open(dir: &Path, trust_domain_length: usize, clock: Clock) -> Agents {
        let at = clock.now();
        let agents = Agents(Arc::new(Inner {
            dir: dir.to_owned(),
            trust_domain_length,
            clock,
            current: ArcSwap::default(),
            last: ArcSwap::from_pointee(Loaded { at, agents: 0, faults: Vec::new() }),
            changed: watch::Sender::new(()),
            reload: Mutex::new(()),
            names: Names::default(),
            digests: Digests::default(),
        }));
        // The faults are kept where status shows them.
        let _ = agents.reload();
        agents
    }

    /// Reads the directory again: all of it comes into force, or nothing. Blocking.
    pub fn reload(&self) -> Result<Changes, Vec<Fault>> {
        let inner = &*self.0;
        let _one = inner.reload.lock().unwrap_or_else(PoisonError::into_inner);
        let before = inner.current.load_full();
        match Registry::read(&inner.dir, inner.trust_domain_length) {
            Ok(registry) => {
                let changes = registry.changes_since(&before);
                let loaded = Loaded { at: inner.clock.now(), agents: registry.len(), faults: Vec::new() };
                inner.names.forget();
                inner.current.store(Arc::new(registry));
                inner.last.store(Arc::new(loaded));
                inner.changed.send_replace(());
                Ok(changes)
            }
            Err(faults) => {
                let at = inner.last.load().at;
                inner.last.store(Arc::new(Loaded { at, agents: before.len(), faults: faults.clone() }));
                Err(faults)
            }
        }
    }

    /// The registry in force now.
    pub fn registry(&self) -> Arc<Registry> {
        self.0.current.load_full()
    }

    /// Hears of each set that comes into force.
    pub fn changed(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    /// How the last reading went.
    pub fn loaded(&self) -> Arc<Loaded> {
        self.0.last.load_full()
    }

    pub(super) fn names(&self) -> &Names {
        &self.0.names
    }

    pub(super) fn digests(&self) -> &Digests {
        &self.0.digests
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn one_bad_file_leaves_the_last_good_set_in_force() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        file("a.toml", "name = \"a\"\n[match]\nuser = 0\n");
        let clock = Clock::manual(Timestamp::from_secs(1));
        let agents = Agents::open(dir.path(), 35, clock);
        assert_eq!(agents.registry().len(), 1);

        file("a.toml", "name = \"b\"\n[match]\nuser = 0\n");
        file("c.toml", "name = \"c\"\n[match]\nuesr = 0\n");
        let faults = agents.reload().unwrap_err();
        assert_eq!(faults.len(), 1);
        assert!(agents.registry().find("a").is_some() && agents.registry().find("b").is_none());
        assert_eq!(agents.loaded().faults, faults);

        file("c.toml", "name = \"c\"\n[match]\nuser = 0\n");
        let changes = agents.reload().unwrap();
        assert_eq!((changes.added.len(), changes.removed.len()), (2, 1));
        assert!(agents.loaded().faults.is_empty());
    }
}
