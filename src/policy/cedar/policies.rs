//! The policies in force, and their reload.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, Guard};

use crate::agents::{AgentSet, EvaluatedAttributes, ReadBeside};
use crate::clock::{Clock, LocalTime, Timestamp, Zone};
use crate::config::Diagnostic;

use super::compile::compile;
use super::diff::PolicyChanges;
use super::policy_set::{PolicyInfo, PolicySet};
use super::set_id::PolicySetId;
use super::source;
use super::unknown_names;

/// Where the policies are, and how they are applied.
#[derive(Clone, Debug)]
pub struct PolicyConfig {
    /// The directory.
    pub dir: PathBuf,
    /// Whether it has to exist: the configuration names it.
    pub must_exist: bool,
    /// Whether a request needs a `permit` beside its grant.
    pub require_permit: bool,
    /// The zone of hours and weekdays.
    pub zone: Zone,
}

/// The policies of this host. Clones share the state.
#[derive(Clone)]
pub struct Policies(Arc<Shared>);

struct Shared {
    config: PolicyConfig,
    clock: Clock,
    current: ArcSwap<InForce>,
    /// The faults that the last reload found.
    faults: ArcSwap<Vec<Diagnostic>>,
    last_version: AtomicU64,
}

/// The policies with the settings of a decision.
struct InForce {
    state: State,
    require_permit: bool,
    zone: Zone,
}

/// Which policies are in force.
pub(super) enum State {
    /// The directory could not be read since the daemon started: nothing is permitted.
    Unknown,
    /// There are no policy files.
    Absent,
    /// These policies.
    Active(Box<ActivePolicies>),
}

/// Policies with the agents with which they were activated.
pub(super) struct ActivePolicies {
    pub id: Arc<PolicySetId>,
    pub set: PolicySet,
    pub agents: Arc<AgentSet>,
    loaded_at: Timestamp,
}

/// The content of the directory, not yet in force.
pub struct ReadPolicies {
    /// `None` without policy files.
    set: Option<PolicySet>,
    changes: PolicyChanges,
}

/// The policies at one moment. A decision works on one, so that it does not see a reload.
pub struct PolicySnapshot(Guard<Arc<InForce>>);

/// The policies for `status`.
#[derive(Clone, Debug)]
pub struct PolicyStatus {
    /// The set in force.
    pub set: Option<PolicySetId>,
    /// The number of its policies.
    pub policies: usize,
    /// When it was read.
    pub loaded_at: Option<Timestamp>,
    /// Whether the directory was read since the daemon started.
    pub is_loaded: bool,
    /// Whether a request needs a `permit`.
    pub require_permit: bool,
    /// The zone of hours and weekdays.
    pub zone: String,
    /// Faults of the last reload. If there are any, the previous policies stayed in force.
    pub faults: Vec<Diagnostic>,
}

impl Policies {
    /// Policies that are not known until [`Policies::activate`].
    pub fn new(config: PolicyConfig, clock: Clock) -> Policies {
        let current = ArcSwap::from_pointee(InForce::new(State::Unknown, &config));
        Policies(Arc::new(Shared {
            config,
            clock,
            current,
            faults: ArcSwap::default(),
            last_version: AtomicU64::new(0),
        }))
    }

    /// Reads the directory. Blocking.
    ///
    /// A directory that is missing or has no policies ends those in force only if `allow_empty` says that this
    /// is meant: a file system that is not mounted looks the same.
    ///
    /// # Errors
    /// The faults of all files, which [`Policies::status`] has from then on.
    pub fn read(&self, allow_empty: bool) -> Result<ReadPolicies, Vec<Diagnostic>> {
        let read = self.0.read(allow_empty);
        self.0.faults.store(Arc::new(read.as_ref().err().cloned().unwrap_or_default()));
        read
    }

    /// As [`Policies::read`], with what it changes in the rights of agents. Blocking.
    ///
    /// # Errors
    /// As [`Policies::read`].
    pub fn read_beside(&self, allow_empty: bool) -> Result<ReadBeside<ReadPolicies>, Vec<Diagnostic>> {
        let read = self.read(allow_empty)?;
        Ok(ReadBeside {
            has_previous: !matches!(self.0.current.load().state, State::Unknown),
            sha256: read.set.as_ref().map(|set| *set.sha256()),
            rights: read.changes.rights.clone(),
            evaluates: read
                .set
                .as_ref()
                .map_or_else(EvaluatedAttributes::default, PolicySet::evaluated_attributes),
            content: read,
        })
    }

    /// Brings what was read into force, for the agents that were read with it. A set with the same content
    /// keeps its version.
    pub fn activate(&self, read: ReadPolicies, agents: Arc<AgentSet>) {
        let shared = &*self.0;
        let Some(set) = read.set else {
            shared.store(State::Absent);
            return;
        };
        let previous = shared.current.load().state.active().map(|active| *active.id);
        let sha256 = *set.sha256();
        let version = match previous {
            Some(previous) if previous.sha256 == sha256 => previous.version,
            _ => shared.last_version.fetch_add(1, Ordering::Relaxed) + 1,
        };
        let id = Arc::new(PolicySetId { version, sha256 });
        let loaded_at = shared.clock.now();
        shared.store(State::Active(Box::new(ActivePolicies { id, set, agents, loaded_at })));
    }

    /// The policies at this moment.
    pub fn snapshot(&self) -> PolicySnapshot {
        PolicySnapshot(self.0.current.load())
    }

    /// Whether a fault concerns the directory or a file in it.
    pub fn has_file_of(&self, fault: &Diagnostic) -> bool {
        fault.file.starts_with(&self.0.config.dir)
    }

    /// What is in force, and the faults of the last reload.
    pub fn status(&self) -> PolicyStatus {
        let current = self.0.current.load();
        let active = current.state.active();
        PolicyStatus {
            set: active.map(|active| *active.id),
            policies: active.map_or(0, |active| active.set.policies().len()),
            loaded_at: active.map(|active| active.loaded_at),
            is_loaded: !matches!(current.state, State::Unknown),
            require_permit: self.0.config.require_permit,
            zone: self.0.config.zone.to_string(),
            faults: self.0.faults.load().to_vec(),
        }
    }
}

impl ReadPolicies {
    /// What is valid but probably not meant, with these agents.
    pub fn warnings(&self, agents: &AgentSet) -> Vec<Diagnostic> {
        self.set.as_ref().map(|set| unknown_names::warnings(set, agents)).unwrap_or_default()
    }

    /// What is different from the policies in force.
    pub fn changes(&self) -> &PolicyChanges {
        &self.changes
    }
}

impl PolicySet {
    /// Reads a directory, for a check without the daemon; `None` without policy files. Blocking.
    ///
    /// # Errors
    /// The faults of all files.
    pub fn read(dir: &std::path::Path) -> Result<Option<PolicySet>, Vec<Diagnostic>> {
        source::read(dir)?.map(compile).transpose()
    }
}

impl PolicySnapshot {
    /// The set in force; `None` if there is none.
    pub fn id(&self) -> Option<PolicySetId> {
        self.state().active().map(|active| *active.id)
    }

    /// The policies in force, in the order of files and lines.
    pub fn policies(&self) -> &[PolicyInfo] {
        self.state().active().map_or(&[], |active| active.set.policies())
    }

    /// The text of the policy with this label ([`PolicyInfo::label`]).
    pub fn text_of(&self, label: &str) -> Option<String> {
        self.state().active()?.set.text_of(label)
    }

    /// Whether a request needs a policy that permits it.
    pub fn requires_permit(&self) -> bool {
        self.0.require_permit
    }

    /// The time of day in the configured zone.
    pub(in crate::policy) fn local_time(&self, time: Timestamp) -> LocalTime {
        self.0.zone.local_time(time)
    }

    pub(super) fn state(&self) -> &State {
        &self.0.state
    }
}

impl InForce {
    fn new(state: State, config: &PolicyConfig) -> InForce {
        InForce { state, require_permit: config.require_permit, zone: config.zone.clone() }
    }
}

impl State {
    fn active(&self) -> Option<&ActivePolicies> {
        match self {
            State::Active(active) => Some(active),
            State::Unknown | State::Absent => None,
        }
    }
}

impl Shared {
    fn store(&self, state: State) {
        self.current.store(Arc::new(InForce::new(state, &self.config)));
    }

    fn read(&self, allow_empty: bool) -> Result<ReadPolicies, Vec<Diagnostic>> {
        let PolicyConfig { dir, must_exist, .. } = &self.config;
        let fault = |message: String| vec![Diagnostic { file: dir.clone(), line: None, message }];
        if *must_exist && !dir.exists() && !allow_empty {
            let message = "does not exist; create it, or set paths.policies to the right directory";
            return Err(fault(message.to_owned()));
        }
        let set = PolicySet::read(dir)?;
        let current = self.current.load();
        let active = current.state.active();
        if let Some(active) = active
            && set.is_none()
            && !allow_empty
        {
            let message = format!(
                "has no files *.cedar, and the daemon keeps the {} in force. Restore the files, or mount their \
                 file system; \"hostbadge agent reload --allow-empty=policies\" ends all policies",
                active.set.counted()
            );
            return Err(fault(message));
        }
        let previous = active.map(|active| &active.set);
        let changes = PolicyChanges::between(previous, set.as_ref(), self.config.require_permit);
        Ok(ReadPolicies { set, changes })
    }
}
