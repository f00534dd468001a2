//! Finds the agents that a process may be without comparing it with all of them.
//!
//! Each agent is listed under the one of its conditions that the fewest agents have: user, group, unit or
//! executable, by number or text. A process is compared with those that are listed under what it has. The
//! lists depend on the numbers of names, so they are built again when one of these changes.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::names::{NameTable, Resolution};
use crate::peer::{Groups, PeerInfo};

use super::agent_set::AgentSet;
use super::entry::AgentEntry;
use super::selectors::Selectors;

/// Agents in alphabetical order of their names.
pub(super) type AgentList = Arc<[Arc<AgentEntry>]>;

/// The agents of one set, by their conditions.
#[derive(Debug, Default)]
pub(super) struct AgentIndex {
    /// In alphabetical order. The lists have positions in this one.
    agents: Vec<Arc<AgentEntry>>,
    hasher: RandomState,
    /// Each agent, once.
    selective: Lists,
    /// The agents that `selective` has by their group, by another condition: of a process in too many groups
    /// it is not known in which it is.
    without_group: Lists,
    /// All agents with a user, by that.
    by_user: Positions,
    /// All agents with a unit, by that.
    by_unit: Positions,
}

/// Agents by one condition each.
#[derive(Debug, Default)]
struct Lists {
    by_condition: Positions,
    /// The groups in `by_condition`, sorted.
    gids: Vec<u32>,
    /// Agents without a condition that can be looked up.
    undecided: Undecided,
    /// The same with a condition on the path of the executable, by that.
    undecided_by_exe: HashMap<PathBuf, Undecided>,
}

/// Positions of agents by the hash of a condition, sorted. Two conditions of one hash cost a comparison.
#[derive(Debug, Default)]
struct Positions(Vec<(u64, u32)>);

/// Agents by what is known of them, without a comparison.
#[derive(Clone, Debug, Default)]
pub(super) struct Undecided {
    /// The user or group does not exist.
    pub(super) missing: AgentList,
    /// The number of the user or group is not known.
    pub(super) unknown: AgentList,
    /// Processes in too many groups may be in the agent's group.
    pub(super) too_many_groups: AgentList,
}

/// What a process has to be compared with.
pub(super) struct Found<'a> {
    /// In alphabetical order.
    pub(super) agents: Vec<&'a Arc<AgentEntry>>,
    pub(super) undecided: Vec<Undecided>,
}

/// A condition that a process can be looked up by.
#[derive(Hash)]
enum Key<'a> {
    User(u32),
    Group(u32),
    Unit(&'a str),
    UserUnit(&'a str),
    Container(&'a str),
    Session,
    Exe(&'a Path),
}

impl AgentIndex {
    /// The index of a set, with the numbers of its users and groups.
    pub(super) fn new(agents: &AgentSet, names: &NameTable) -> AgentIndex {
        let index = AgentIndex { agents: agents.iter().cloned().collect(), ..AgentIndex::default() };
        let all: Vec<u32> = (0..).take(index.agents.len()).collect();
        let (selective, by_group) = index.lists(&all, names, true);
        let (without_group, _) = index.lists(&by_group, names, false);
        let positions_by = |key_of: &dyn Fn(&Selectors) -> Option<u64>| {
            let key_of =
                |position: &u32| Some((key_of(&index.agents[*position as usize].selectors)?, *position));
            Positions::new(all.iter().filter_map(key_of).collect())
        };
        let by_user = positions_by(&|selectors| match selectors.uid(names)? {
            Resolution::Number(uid) => Some(index.hash(&Key::User(uid))),
            Resolution::Missing | Resolution::Unknown => None,
        });
        let by_unit = positions_by(&|selectors| Some(index.hash(&Key::Unit(selectors.unit.as_deref()?))));
        AgentIndex { selective, without_group, by_user, by_unit, ..index }
    }

    /// What `peer` has to be compared with to find all agents that it may be. `names` are those of the index.
    pub(super) fn find(&self, peer: &PeerInfo, names: &NameTable) -> Found<'_> {
        let exe = peer.exe().map(PathBuf::as_path);
        let keys = [
            Some(Key::User(peer.uid)),
            peer.unit.as_deref().map(Key::Unit),
            peer.own_user_unit().map(Key::UserUnit),
            peer.own_container().map(|container| Key::Container(&container.id)),
            peer.is_in_own_session().then_some(Key::Session),
            exe.map(Key::Exe),
        ];
        let hashes: Vec<u64> = keys.iter().flatten().map(|key| self.hash(key)).collect();
        let mut positions: Vec<u32> =
            hashes.iter().flat_map(|hash| self.selective.by_condition.get(*hash)).collect();
        for gid in self.selective.gids_of(peer) {
            positions.extend(self.selective.by_condition.get(self.hash(&Key::Group(gid))));
        }
        let mut undecided: Vec<Undecided> = self.selective.undecided_by(exe).cloned().collect();
        if peer.has_too_many_groups() {
            positions.extend(hashes.iter().flat_map(|hash| self.without_group.by_condition.get(*hash)));
            // The agents with the primary group are among those that are compared.
            let is_other =
                |entry: &Arc<AgentEntry>| entry.selectors.gid(names) != Some(Resolution::Number(peer.gid));
            let has_primary = self.selective.gids.binary_search(&peer.gid).is_ok();
            undecided.extend(self.without_group.undecided_by(exe).map(|lists| match has_primary {
                true => lists.filtered(is_other),
                false => lists.clone(),
            }));
        }
        Found { agents: self.at(positions), undecided }
    }

    /// The agents that have the user or the unit of `peer`, and those that it may be.
    pub(super) fn find_related(&self, peer: &PeerInfo, names: &NameTable) -> Vec<&Arc<AgentEntry>> {
        let unit = peer.unit.as_deref().map(|unit| self.hash(&Key::Unit(unit)));
        let positions = self.by_user.get(self.hash(&Key::User(peer.uid)));
        let mut related =
            self.at(positions.chain(unit.into_iter().flat_map(|unit| self.by_unit.get(unit))).collect());
        related.extend(self.find(peer, names).agents);
        related.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        related.dedup_by(|one, other| Arc::ptr_eq(one, other));
        related
    }

    fn at(&self, mut positions: Vec<u32>) -> Vec<&Arc<AgentEntry>> {
        positions.sort_unstable();
        positions.dedup();
        positions.into_iter().filter_map(|position| self.agents.get(position as usize)).collect()
    }

    /// The lists of the agents at these positions, and the positions of those that are listed by their group.
    fn lists(&self, positions: &[u32], names: &NameTable, with_groups: bool) -> (Lists, Vec<u32>) {
        let selectors = |position: &u32| &self.agents[*position as usize].selectors;
        let mut counts: HashMap<u64, u32> = HashMap::new();
        for position in positions {
            for key in keys(selectors(position), names, with_groups) {
                *counts.entry(self.hash(&key)).or_default() += 1;
            }
        }
        let (mut by_condition, mut gids, mut by_group) = (Vec::new(), Vec::new(), Vec::new());
        let mut undecided_by_exe: HashMap<Option<&Path>, [Vec<Arc<AgentEntry>>; 3]> = HashMap::new();
        for position in positions {
            let selectors = selectors(position);
            let keys = keys(selectors, names, with_groups);
            let count = |key: &Key<'_>| counts.get(&self.hash(key)).copied();
            match keys.iter().min_by_key(|key| count(key)) {
                Some(key) => {
                    by_condition.push((self.hash(key), *position));
                    if let Key::Group(gid) = key {
                        gids.push(*gid);
                        by_group.push(*position);
                    }
                }
                None => {
                    let user_and_group = [selectors.uid(names), selectors.gid(names)];
                    let kind = match user_and_group {
                        both if both.contains(&Some(Resolution::Missing)) => 0,
                        both if both.contains(&Some(Resolution::Unknown)) => 1,
                        _ => 2,
                    };
                    let lists = undecided_by_exe.entry(selectors.exe.as_deref()).or_default();
                    lists[kind].push(self.agents[*position as usize].clone());
                }
            }
        }
        gids.sort_unstable();
        gids.dedup();
        let undecided = undecided_by_exe.remove(&None).map(Undecided::new).unwrap_or_default();
        let undecided_by_exe = undecided_by_exe
            .into_iter()
            .filter_map(|(exe, lists)| Some((exe?.to_owned(), Undecided::new(lists))));
        let lists = Lists {
            by_condition: Positions::new(by_condition),
            gids,
            undecided,
            undecided_by_exe: undecided_by_exe.collect(),
        };
        (lists, by_group)
    }

    fn hash(&self, key: &Key<'_>) -> u64 {
        self.hasher.hash_one(key)
    }
}

impl Lists {
    /// The groups of `peer` that agents are listed by; of too many groups, the primary one.
    fn gids_of<'a>(&'a self, peer: &'a PeerInfo) -> Box<dyn Iterator<Item = u32> + 'a> {
        match &peer.groups {
            Groups::Known(groups) if groups.len() < self.gids.len() => {
                Box::new(groups.iter().copied().filter(|gid| *gid != peer.gid).chain([peer.gid]))
            }
            _ => Box::new(self.gids.iter().copied().filter(|gid| peer.in_group(*gid))),
        }
    }

    /// The agents without an executable, and those with this one.
    fn undecided_by<'a>(&'a self, exe: Option<&Path>) -> impl Iterator<Item = &'a Undecided> + use<'a> {
        [&self.undecided].into_iter().chain(exe.and_then(|exe| self.undecided_by_exe.get(exe)))
    }
}

impl Undecided {
    fn new(lists: [Vec<Arc<AgentEntry>>; 3]) -> Undecided {
        let [missing, unknown, too_many_groups] = lists.map(AgentList::from);
        Undecided { missing, unknown, too_many_groups }
    }

    fn filtered(&self, is_kept: impl Fn(&Arc<AgentEntry>) -> bool) -> Undecided {
        let filter = |list: &AgentList| list.iter().filter(|entry| is_kept(entry)).cloned().collect();
        Undecided::new([filter(&self.missing), filter(&self.unknown), filter(&self.too_many_groups)])
    }
}

impl Positions {
    fn new(mut positions: Vec<(u64, u32)>) -> Positions {
        positions.sort_unstable();
        Positions(positions)
    }

    fn get(&self, hash: u64) -> impl Iterator<Item = u32> + '_ {
        let start = self.0.partition_point(|(other, _)| *other < hash);
        self.0[start..].iter().take_while(move |(other, _)| *other == hash).map(|(_, position)| *position)
    }
}

/// What an agent can be listed by, the one that says most first; none where the executable is all that can be
/// compared.
fn keys<'a>(selectors: &'a Selectors, names: &NameTable, with_groups: bool) -> Vec<Key<'a>> {
    let number = |resolution: Option<Resolution>| match resolution {
        Some(Resolution::Number(number)) => Some(number),
        _ => None,
    };
    let unit = selectors.unit.as_deref().map(Key::Unit);
    let user = number(selectors.uid(names)).map(Key::User);
    let group = number(selectors.gid(names)).filter(|_| with_groups).map(Key::Group);
    let user_unit = selectors.user_unit.as_deref().map(Key::UserUnit);
    let container = selectors.container.as_deref().map(Key::Container);
    let session = selectors.session.then_some(Key::Session);
    let mut keys: Vec<Key<'a>> =
        [container, unit, user_unit, user, group, session].into_iter().flatten().collect();
    if !keys.is_empty() {
        keys.extend(selectors.exe.as_deref().map(Key::Exe));
    }
    keys
}
