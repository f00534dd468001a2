//! Where systemd and the kernel say which invocations there are.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::peer::{
    INVOCATION_LINKS_DIR, InvocationEnd, is_leader_running, read_invocation_id, unified_mount,
};

/// The directories in which invocations are looked up. Those of tests are others than the host's.
#[derive(Clone, Debug)]
pub struct HostFiles {
    /// systemd's links of invocations.
    pub units: PathBuf,
    /// Where the unified hierarchy is mounted; `None` without it.
    pub cgroups: Option<PathBuf>,
}

/// Whether an invocation goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// It goes on.
    Running,
    /// Its cgroup is empty.
    Empty,
    /// It has ended.
    Ended,
}

impl HostFiles {
    /// The directories of this host.
    pub fn of_host() -> HostFiles {
        HostFiles {
            units: PathBuf::from(INVOCATION_LINKS_DIR),
            cgroups: unified_mount().map(ToOwned::to_owned),
        }
    }

    /// Whether the invocation `id` goes on. The files are in memory, so this does not block.
    pub(super) fn presence(&self, id: &str, end: &InvocationEnd) -> Presence {
        let is_present = match end {
            InvocationEnd::Unit(unit) => read_invocation_id(&self.units, unit).as_deref() == Some(id),
            InvocationEnd::Cgroup { path, id } => return self.cgroup_presence(path, *id),
            InvocationEnd::Session { leader, start_time } => is_leader_running(*leader, *start_time),
            InvocationEnd::Boot => true,
        };
        if is_present { Presence::Running } else { Presence::Ended }
    }

    /// `cgroup.events` of a cgroup (cgroups(7)).
    pub(super) fn cgroup_events(&self, path: &str) -> Option<PathBuf> {
        Some(self.cgroups.as_ref()?.join(path.trim_start_matches('/')).join("cgroup.events"))
    }

    fn cgroup_presence(&self, path: &str, id: u64) -> Presence {
        let Some(events) = self.cgroup_events(path) else { return Presence::Ended };
        let is_same = |dir: &std::path::Path| fs::metadata(dir).is_ok_and(|metadata| metadata.ino() == id);
        if !events.parent().is_some_and(is_same) {
            return Presence::Ended;
        }
        match fs::read_to_string(events) {
            Ok(text) if text.lines().any(|line| line == "populated 1") => Presence::Running,
            Ok(_) => Presence::Empty,
            Err(_) => Presence::Ended,
        }
    }
}
