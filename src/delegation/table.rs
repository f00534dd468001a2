//! All delegations of this host.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

use super::delegated::NewDelegation;
use super::error::{Error, PlacementError};
use super::file::DelegationsFile;
use super::{MAX_DELEGATIONS, SWEEP_INTERVAL};
use crate::agents::{AgentRegistry, Delegation, DelegationSet, HeldDelegation};
use crate::clock::{BootTime, Timestamp};
use crate::mutex::lock;
use crate::store;

/// The delegations. Clones share them.
#[derive(Clone)]
pub struct Delegations(Arc<Shared>);

struct Shared {
    agents: AgentRegistry,
    state_dir: PathBuf,
    /// Held while the file is written.
    writer: Mutex<()>,
    table: Mutex<Table>,
    /// Wakes who ends and stores them.
    changed: Notify,
}

#[derive(Default)]
struct Table {
    held: Vec<Held>,
    /// Those that have ended and are not recorded.
    ended: Vec<EndedDelegation>,
    /// Why it is not known which cgroups are delegated.
    unknown: Option<String>,
    /// Whether the file has something else.
    is_unsaved: bool,
}

struct Held {
    delegation: HeldDelegation,
    /// When it ends, in time since the boot, which no change of the wall clock moves.
    ends_at: BootTime,
}

/// A delegation that has ended.
#[derive(Clone, Debug)]
pub struct EndedDelegation {
    /// The delegation.
    pub delegation: Arc<Delegation>,
    /// Why.
    pub reason: Arc<str>,
}

impl Delegations {
    /// Those that `delegations.json` has, which are in force when this returns. If the file cannot be read, agents with
    /// `[delegate]` are not identified, and no agents if a file has `[run]`. Blocking.
    pub fn open(state_dir: &Path, agents: AgentRegistry, now: Timestamp, boot_time: BootTime) -> Delegations {
        let table = match DelegationsFile::read(state_dir) {
            Ok(held) => {
                let ends_at = |one: &HeldDelegation| boot_time.after(one.delegation.expires.since(now));
                let held =
                    held.into_iter().map(|one| Held { ends_at: ends_at(&one), delegation: one }).collect();
                Table { held, ..Table::default() }
            }
            Err(error) => {
                let reason = match error {
                    store::Error::Corrupt { path, reason } => {
                        format!("{}: damaged ({reason})", path.display())
                    }
                    other => other.to_string(),
                };
                let unknown = format!(
                    "{reason}. End all processes of sub-agents, which would be their parents otherwise, then remove the \
                     file and restart hostbadged"
                );
                tracing::error!(
                    "which cgroups are delegated is not known, so agents with [delegate] are not identified, and no agent while a \
                     file has [run]: {unknown}"
                );
                Table { unknown: Some(unknown), ..Table::default() }
            }
        };
        let delegations = Delegations(Arc::new(Shared {
            agents,
            state_dir: state_dir.to_owned(),
            writer: Mutex::new(()),
            table: Mutex::new(table),
            changed: Notify::new(),
        }));
        delegations.end_due(boot_time);
        delegations.activate(&delegations.table());
        delegations
    }

    /// Delegates a cgroup, or the same one to the same sub-agent again, with other rights and from now on. It is on disk
    /// and in force when this returns. Blocking.
    ///
    /// # Errors
    /// What cannot be delegated, and why, or that the file could not be written; nothing has changed then.
    pub fn create(
        &self,
        new: NewDelegation,
        now: Timestamp,
        boot_time: BootTime,
    ) -> Result<Arc<Delegation>, Error> {
        // The table is not locked while the file is written, since requests look at it.
        let _writer = lock(&self.0.writer);
        self.end_due(boot_time);
        let delegation = Arc::new(new.delegation(now));
        let held = HeldDelegation { delegation: delegation.clone(), ended: None };
        let file = {
            let table = self.table();
            if let Some(reason) = &table.unknown {
                return Err(Error::Unknown(reason.clone()));
            }
            let known = table.position_for(&new)?;
            if known.is_none() {
                table.check_room(&new)?;
            }
            let mut all: Vec<HeldDelegation> = table.all().collect();
            match known {
                Some(at) => all[at] = held.clone(),
                None => all.push(held.clone()),
            }
            DelegationsFile::of(all.into_iter())
        };
        // In force after it is stored: a crash must not make its processes the parent.
        file.write(&self.0.state_dir)?;
        let held = Held { delegation: held, ends_at: boot_time.after(new.ttl) };
        let mut table = self.table();
        // Something may have ended meanwhile, also what it replaces.
        match table.position_for(&new) {
            Ok(Some(known)) => table.held[known] = held,
            Ok(None) => table.held.push(held),
            Err(error) => {
                table.is_unsaved = true;
                drop(table);
                self.0.changed.notify_one();
                return Err(error);
            }
        }
        self.activate(&table);
        drop(table);
        self.0.changed.notify_one();
        Ok(delegation)
    }

    /// Ends the delegations whose time is over or whose cgroups were removed.
    pub fn end_due(&self, boot_time: BootTime) {
        let registrations = self.0.agents.registrations();
        self.end(|held| {
            if held.delegation.delegation.run_by.is_some()
                && !registrations.permits_run(&held.delegation.delegation)
            {
                return Some("[run] of the agent has other users or groups than when it was started".into());
            }
            if held.ends_at <= boot_time {
                return Some("its time is over".into());
            }
            let is_removed = !held.delegation.delegation.cgroup.is_present();
            is_removed.then(|| "its cgroup was removed".into())
        });
    }

    /// Ends the delegations that end with an invocation: their own, or that of an agent above them.
    pub fn end_invocation(&self, invocation: &str, reason: &str) {
        self.end(|held| {
            let delegation = &held.delegation.delegation;
            if &*delegation.invocation == invocation {
                return Some(reason.into());
            }
            let is_below = delegation.parent_invocations.iter().any(|one| &**one == invocation);
            is_below.then(|| format!("an agent above it has ended: {reason}").into())
        });
    }

    /// Ends the delegations to this sub-agent, and to those below the agent of this name.
    pub fn end_agents(&self, agent: &str, reason: &str) {
        let is_of = |held: &Held| held.delegation.delegation.agent.lineage().any(|name| name == agent);
        self.end(|held| is_of(held).then(|| reason.into()));
    }

    /// How many go on.
    pub fn len(&self) -> usize {
        self.table().held.iter().filter(|held| held.delegation.ended.is_none()).count()
    }

    /// Whether none goes on.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Those that go on, in the order in which they were made.
    pub fn active(&self) -> Vec<Arc<Delegation>> {
        let table = self.table();
        let active = table.held.iter().filter(|held| held.delegation.ended.is_none());
        active.map(|held| held.delegation.delegation.clone()).collect()
    }

    /// Waits until something has ended or has to be stored, or until [`Delegations::end_due`] has to be called.
    pub async fn due(&self, boot_time: BootTime) {
        let (wait, is_idle) = {
            let table = self.table();
            if table.is_unsaved || !table.ended.is_empty() {
                return;
            }
            let active = table.held.iter().filter(|held| held.delegation.ended.is_none());
            let next = active.map(|held| held.ends_at.since(boot_time)).min();
            (next.unwrap_or(SWEEP_INTERVAL).min(SWEEP_INTERVAL), table.held.is_empty())
        };
        tokio::select! {
            () = self.0.changed.notified() => {}
            () = tokio::time::sleep(wait), if !is_idle => {}
        }
    }

    /// What has ended since the last call.
    pub fn take_ended(&self) -> Vec<EndedDelegation> {
        std::mem::take(&mut self.table().ended)
    }

    /// Stores what has ended, on a thread that may wait. What cannot be stored has ended nevertheless; it is logged, and the
    /// next call tries it again. Returns whether everything is stored.
    pub async fn store(&self) -> bool {
        let delegations = self.clone();
        match tokio::task::spawn_blocking(move || delegations.save()).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::warn!("cannot write delegations.json: {error}");
                false
            }
            Err(_) => false,
        }
    }

    /// Stores what has ended. Blocking.
    ///
    /// # Errors
    /// It cannot be stored; the next call tries it again.
    pub(super) fn save(&self) -> Result<(), store::Error> {
        let _writer = lock(&self.0.writer);
        let file = {
            let mut table = self.table();
            if !table.is_unsaved || table.unknown.is_some() {
                return Ok(());
            }
            table.is_unsaved = false;
            DelegationsFile::of(table.all())
        };
        let written = file.write(&self.0.state_dir);
        self.table().is_unsaved |= written.is_err();
        written
    }

    /// Ends those for which there is a reason, and those below them, and forgets those that have ended and whose cgroups
    /// do not exist. It is in force when this returns, and on disk after [`Delegations::store`].
    fn end(&self, mut reason: impl FnMut(&Held) -> Option<Arc<str>>) {
        let mut table = self.table();
        let mut ended: Vec<EndedDelegation> = Vec::new();
        // The least deep first, so that a parent comes before its sub-agents.
        table.held.sort_by_key(|held| held.delegation.delegation.agent.depth());
        for held in &mut table.held {
            if held.delegation.ended.is_some() {
                continue;
            }
            let delegation = &held.delegation.delegation;
            let above = ended.iter().find(|one| delegation.is_below(&one.delegation));
            let above = above.map(|one| format!("sub-agent \"{}\" has ended", one.delegation.agent).into());
            if let Some(reason) = above.or_else(|| reason(held)) {
                ended.push(EndedDelegation { delegation: delegation.clone(), reason: reason.clone() });
                held.delegation.ended = Some(reason);
            }
        }
        let before = table.held.len();
        table.held.retain(|held| {
            let HeldDelegation { delegation, ended } = &held.delegation;
            ended.is_none() || delegation.cgroup.is_present()
        });
        if ended.is_empty() && table.held.len() == before {
            return;
        }
        table.ended.append(&mut ended);
        table.is_unsaved = true;
        self.activate(&table);
        drop(table);
        self.0.changed.notify_one();
    }

    fn activate(&self, table: &Table) {
        self.0.agents.set_delegations(match &table.unknown {
            Some(reason) => DelegationSet::unknown(reason),
            None => DelegationSet::new(table.all()),
        });
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.0.table)
    }
}

impl Table {
    fn all(&self) -> impl Iterator<Item = HeldDelegation> + '_ {
        self.held.iter().map(|held| held.delegation.clone())
    }

    /// The delegation that the new one replaces; `None` if it is another one.
    fn position_for(&self, new: &NewDelegation) -> Result<Option<usize>, Error> {
        let mut known = None;
        for (at, held) in self.held.iter().enumerate() {
            let HeldDelegation { delegation, ended } = &held.delegation;
            let is_same_agent = delegation.agent == new.agent && ended.is_none();
            if delegation.cgroup == new.cgroup {
                match ended {
                    // Not what another user has started.
                    None if is_same_agent && (delegation.uid, delegation.run_by) == (new.uid, new.run_by) => {
                        known = Some(at);
                    }
                    None => return Err(overlap(new, delegation).into()),
                    Some(_) => {
                        return Err(PlacementError::Ended { agent: delegation.agent.to_string() }.into());
                    }
                }
                continue;
            }
            if is_same_agent && delegation.cgroup.is_present() {
                let (agent, cgroup) = (delegation.agent.to_string(), delegation.cgroup.path().to_owned());
                return Err(Error::NameInUse { agent, cgroup });
            }
            let is_above = delegation.cgroup.contains(new.cgroup.path());
            let is_parent = new.parent_invocations.contains(&delegation.invocation);
            let is_child = delegation.parent_invocations.contains(&new.invocation());
            let is_below = new.cgroup.contains(delegation.cgroup.path());
            let overlaps = (is_above && !is_parent) || (is_below && !is_child);
            if overlaps && delegation.cgroup.is_present() {
                return Err(overlap(new, delegation).into());
            }
        }
        Ok(known)
    }

    fn check_room(&self, new: &NewDelegation) -> Result<(), Error> {
        let root = new.agent.root();
        let table = if new.run_by.is_some() { "run" } else { "delegate" };
        // With those that have ended and whose cgroups are there still.
        let is_of_root = |held: &&Held| {
            let delegation = &held.delegation.delegation;
            // What users start does not take the places of what the agent starts itself.
            delegation.agent.root() == root && delegation.run_by.is_some() == new.run_by.is_some()
        };
        if self.held.iter().filter(is_of_root).count() >= new.max as usize {
            return Err(Error::TooManyOfAgent(root.to_owned(), new.max, table));
        }
        if self.held.len() >= MAX_DELEGATIONS { Err(Error::TooMany) } else { Ok(()) }
    }
}

fn overlap(new: &NewDelegation, other: &Delegation) -> PlacementError {
    PlacementError::Delegated { cgroup: new.cgroup.path().to_owned(), agent: other.agent.to_string() }
}
