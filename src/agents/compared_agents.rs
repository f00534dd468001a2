//! The comparison of a peer with all agents, by what is known without waiting.

use std::sync::Arc;

use crate::peer::{DigestError, Peer};

use super::contents::ContentFault;
use super::delegation::Delegation;
use super::delegation_set::HeldDelegation;
use super::entry::AgentEntry;
use super::index::{AgentList, Undecided};
use super::match_tag::MatchTag;
use super::name::AgentName;
use super::registrations::{Registrations, WeakRegistrations};
use super::selectors::NumberMatch;

/// The uids and gids that systemd gives to units with `DynamicUser=` (systemd.exec(5)).
const DYNAMIC_IDS: std::ops::RangeInclusive<u32> = 61184..=65519;
/// A comparison that found more agents is not kept: each connection has a peer.
const MAX_KEPT_AGENTS: usize = 16;

/// The result of comparing a peer with all agents. The peer keeps it, because most requests of a connection
/// come from an unchanged process.
#[derive(Debug)]
pub(super) struct ComparedAgents {
    /// In alphabetical order of their names.
    pub(super) possible: Vec<Candidate>,
    /// Agents that the peer is not for the same reason.
    pub(super) failures: Vec<(AgentList, Failure)>,
    /// Agents whose user or group does not exist, where it may be that of a unit that has just started.
    pub(super) missing: Vec<AgentList>,
    /// The delegation of the cgroup that the process is in.
    delegation: Option<Arc<Delegation>>,
    /// The sub-agent in whose cgroup the process is, and why it is not that one.
    pub(super) refused: Option<(AgentName, Box<str>)>,
    /// What the peer was compared with.
    registrations: WeakRegistrations,
}

/// An agent whose conditions hold, except those on the content of the executable, which are not compared yet.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) entry: Arc<AgentEntry>,
    pub(super) match_tag: MatchTag,
    /// Of a sub-agent.
    pub(super) delegated: Option<DelegatedPeer>,
}

/// A process in a delegated cgroup.
#[derive(Clone, Debug)]
pub(super) struct DelegatedPeer {
    pub(super) delegation: Arc<Delegation>,
    /// The process, in the invocation of the cgroup.
    pub(super) peer: Peer,
}

/// Why a peer that meets all other conditions of an agent is not the agent.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    Unmeasured(String),
    NoDigest(DigestError),
    /// A file or unit is another one, or cannot be read, for this reason.
    Content(ContentFault),
    Unresolved,
    TooManyGroups,
    /// Which cgroups are delegated is not known, for this reason, and the agent may have sub-agents.
    UnknownDelegations(Box<str>),
}

impl ComparedAgents {
    /// Compares a peer, unless it was compared before and neither the registrations nor the process have
    /// changed since.
    pub(super) fn of(peer: &Peer, registrations: &Arc<Registrations>) -> Arc<ComparedAgents> {
        let known = peer.finding::<ComparedAgents>();
        if let Some(known) = known.as_ref().filter(|known| known.is_of(registrations)) {
            return known.clone();
        }
        let compared = match registrations.delegations.of_peer(peer) {
            Some(held) => ComparedAgents::in_delegated(held, peer, registrations, known.as_deref()),
            None => ComparedAgents::new(peer, registrations),
        };
        let compared = Arc::new(compared);
        if compared.possible.len() + compared.failures.len() + compared.missing.len() <= MAX_KEPT_AGENTS {
            peer.store_finding(compared.clone());
        }
        compared
    }

    /// Whether a comparison with these registrations would find the same.
    fn is_of(&self, registrations: &Arc<Registrations>) -> bool {
        // Where the kernel does not tell that a cgroup is another one, its path may still be the same.
        let is_in_place = |delegation: &Delegation| delegation.cgroup.is_present();
        self.registrations.is_same(registrations) && self.delegation.as_deref().is_none_or(is_in_place)
    }

    /// A process in a delegated cgroup is the sub-agent, and no other agent.
    fn in_delegated(
        held: &HeldDelegation,
        peer: &Peer,
        registrations: &Arc<Registrations>,
        previous: Option<&ComparedAgents>,
    ) -> ComparedAgents {
        let delegation = &held.delegation;
        let mut compared = ComparedAgents::nothing(registrations);
        compared.delegation = Some(delegation.clone());
        let foreign = delegation.uid.filter(|uid| *uid != peer.uid);
        let entry = registrations.find(delegation.agent.as_str());
        let refused = match (&held.ended, foreign, entry) {
            (Some(reason), ..) => Some(format!("the sub-agent has ended: {reason}")),
            (None, Some(uid), _) => Some(format!("the sub-agent has processes of uid {uid} alone")),
            (None, None, None) => Some("its parent may not have it any more".to_owned()),
            (None, None, Some(_)) => None,
        };
        let Some(entry) = entry.filter(|_| refused.is_none()) else {
            compared.refused = Some((delegation.agent.clone(), refused.unwrap_or_default().into()));
            return compared;
        };
        // The same process stays the same peer when other delegations change.
        let known = previous.and_then(|previous| previous.possible.first()?.delegated.as_ref());
        let known = known.filter(|known| known.peer.invocation.as_ref() == Some(&delegation.invocation));
        let in_cgroup = || peer.in_invocation(delegation.invocation.clone());
        let peer = known.map_or_else(in_cgroup, |known| known.peer.clone());
        compared.possible.push(Candidate {
            entry: entry.clone(),
            match_tag: registrations.tag_of_sub_agents(),
            delegated: Some(DelegatedPeer { delegation: delegation.clone(), peer }),
        });
        compared
    }

    fn nothing(registrations: &Arc<Registrations>) -> ComparedAgents {
        ComparedAgents {
            possible: Vec::new(),
            failures: Vec::new(),
            missing: Vec::new(),
            delegation: None,
            refused: None,
            registrations: registrations.downgrade(),
        }
    }

    fn new(peer: &Peer, registrations: &Arc<Registrations>) -> ComparedAgents {
        let mut compared = ComparedAgents::nothing(registrations);
        let has_dynamic_id = DYNAMIC_IDS.contains(&peer.uid) || DYNAMIC_IDS.contains(&peer.gid);
        let alone = |entry: &Arc<AgentEntry>| AgentList::from([entry.clone()]);
        let found = registrations.index().find(peer, registrations.names());
        for entry in found.agents {
            match entry.selectors.match_numbers(peer, registrations.names()) {
                NumberMatch::Holds(match_tag) => match registrations.delegations.unknown_reason() {
                    // A command that a user started may be any agent of that user otherwise.
                    Some(reason) if entry.delegate.is_some() || registrations.agents.has_run() => {
                        compared.failures.push((alone(entry), Failure::UnknownDelegations(reason.into())));
                    }
                    _ => {
                        let entry = entry.clone();
                        compared.possible.push(Candidate { entry, match_tag, delegated: None });
                    }
                },
                NumberMatch::Fails => {}
                NumberMatch::Missing if has_dynamic_id => compared.missing.push(alone(entry)),
                NumberMatch::Missing => {}
                NumberMatch::Unknown => compared.failures.push((alone(entry), Failure::Unresolved)),
                NumberMatch::TooManyGroups => {
                    compared.failures.push((alone(entry), Failure::TooManyGroups));
                }
            }
        }
        for Undecided { missing, unknown, too_many_groups } in found.undecided {
            if has_dynamic_id && !missing.is_empty() {
                compared.missing.push(missing);
            }
            for (list, failure) in [(unknown, Failure::Unresolved), (too_many_groups, Failure::TooManyGroups)]
            {
                if !list.is_empty() {
                    compared.failures.push((list, failure));
                }
            }
        }
        compared
    }

    /// Whether a condition of a possible agent needs the digest of the executable.
    pub(super) fn needs_digest(&self) -> bool {
        self.possible.iter().any(|one| one.entry.selectors.needs_digest())
    }

    /// Whether a condition of a possible agent needs the content of a file, the executable or another one.
    pub(super) fn needs_content(&self) -> bool {
        self.possible.iter().any(|one| one.entry.selectors.needs_content())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agents::{AgentRegistry, MayBeEmpty};
    use crate::clock::{Clock, Timestamp};
    use crate::names::Names;
    use crate::peer::PeerTracker;
    use std::os::unix::net::UnixStream;

    #[test]
    fn an_unchanged_peer_is_compared_once_for_each_set_of_agents() {
        let dir = tempfile::tempdir().unwrap();
        let user = nix::unistd::geteuid();
        let agent = |name: &str| format!("name = \"{name}\"\n[match]\nuser = {user}\n");
        std::fs::write(dir.path().join("a.toml"), agent("a")).unwrap();
        let (clock, names) = (Clock::manual(Timestamp::from_secs(1)), Names::start([]).unwrap());
        let registry = AgentRegistry::open(dir.path(), 35, names, clock);
        let (socket, _other) = UnixStream::pair().unwrap();
        let peer = PeerTracker::from_socket(&socket).unwrap().current_peer().unwrap();

        let first = ComparedAgents::of(&peer, &registry.registrations());
        assert!(Arc::ptr_eq(&first, &ComparedAgents::of(&peer, &registry.registrations())));
        std::fs::write(dir.path().join("b.toml"), agent("b")).unwrap();
        registry.reload(MayBeEmpty::default()).unwrap();
        let second = ComparedAgents::of(&peer, &registry.registrations());
        assert_eq!((first.possible.len(), second.possible.len()), (1, 2));

        for index in 0..MAX_KEPT_AGENTS {
            std::fs::write(dir.path().join(format!("c{index}.toml")), agent(&format!("c{index}"))).unwrap();
        }
        registry.reload(MayBeEmpty::default()).unwrap();
        let many = ComparedAgents::of(&peer, &registry.registrations());
        assert_eq!(many.possible.len(), MAX_KEPT_AGENTS + 2);
        assert!(!Arc::ptr_eq(&many, &ComparedAgents::of(&peer, &registry.registrations())));
    }
}
