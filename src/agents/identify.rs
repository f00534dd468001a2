//! Identifies the agent that a peer is: the second step of the request path.
//!
//! [`AgentRegistry::candidates`] compares numbers and texts and waits for nothing. What takes time, the
//! digest of an executable and the user of a unit that has just started, is in [`AgentRegistry::identify`].

use std::sync::Arc;
use std::time::Duration;

use crate::peer::{DigestError, Peer, Sha256Digest};
use crate::posture::ImaDigests;

use super::authenticated_agent::AuthenticatedAgent;
use super::compared_agents::{Candidate, ComparedAgents, DelegatedPeer, Failure};
use super::contents::{ContentFault, Contents};
use super::entry::AgentEntry;
use super::identify_error::IdentifyError;
use super::index::AgentList;
use super::name::AgentName;
use super::registrations::Registrations;
use super::registry::AgentRegistry;
use super::selectors::DigestMatch;

/// How long a request waits for the user of a unit with `DynamicUser=`.
const DYNAMIC_NAME_TIMEOUT: Duration = Duration::from_secs(3);

/// The agents that a peer may be, by all that can be compared without waiting.
#[derive(Debug)]
pub struct Candidates {
    peer: Peer,
    compared: Arc<ComparedAgents>,
    /// Whether a file that a condition needs has to be read.
    reads_content: bool,
    /// What the peer was compared with.
    registrations: Arc<Registrations>,
}

impl Candidates {
    /// Whether the peer is an agent whatever the rest of the identification finds.
    pub fn has_definite_match(&self) -> bool {
        self.compared.possible.iter().any(|candidate| !candidate.entry.selectors.needs_content())
    }

    /// An agent that the peer is or may be, and `other` is not for certain.
    pub fn beyond(&self, other: &Candidates) -> Option<&str> {
        let certain = other.compared.possible.iter().filter(|one| !one.entry.selectors.needs_content());
        let of_other: Vec<&AgentName> = certain.map(|one| &one.entry.name).collect();
        let mut names = self.compared.possible.iter().map(|one| &one.entry.name);
        names.find(|name| !of_other.contains(name)).map(AgentName::as_str)
    }

    /// An agent that the peer is or may be, if the peer is not certainly `agent` as well.
    pub fn other_than(&self, agent: &str) -> Option<&str> {
        let possible = &self.compared.possible;
        let is_definitely =
            |one: &Candidate| one.entry.name.as_str() == agent && !one.entry.selectors.needs_content();
        let mut others = possible.iter().map(|one| one.entry.name.as_str()).filter(|name| *name != agent);
        others.next().filter(|_| !possible.iter().any(is_definitely))
    }

    /// Whether the rest of the identification may have to wait before it knows that the peer is an agent.
    pub fn has_to_wait(&self) -> bool {
        !self.has_definite_match() && (self.reads_content || !self.compared.missing.is_empty())
    }
}

/// The agents that a peer is, and why it is not others.
#[derive(Debug)]
pub struct Identification {
    /// In alphabetical order of their names.
    pub(super) matched: Vec<AuthenticatedAgent>,
    pub(super) failures: Vec<(AgentList, Failure)>,
    /// The sub-agent in whose cgroup the peer is, and why it is not that one.
    refused: Option<(AgentName, Box<str>)>,
    /// Whether the registered agents are known.
    is_loaded: bool,
}

impl Identification {
    /// All agents that the peer is, sorted by name. The first is its default identity.
    ///
    /// # Errors
    /// Why the peer is no agent.
    pub fn all(self) -> Result<Vec<AuthenticatedAgent>, IdentifyError> {
        if self.matched.is_empty() { Err(self.no_match()) } else { Ok(self.matched) }
    }

    /// The agent `requested_name`, or the only agent that the peer is.
    ///
    /// # Errors
    /// Any [`IdentifyError`]: a peer that is several agents has to name one.
    pub fn one(mut self, requested_name: Option<&str>) -> Result<AuthenticatedAgent, IdentifyError> {
        let Some(name) = requested_name else {
            return match self.refusal() {
                Some(error) => Err(error),
                None => Ok(self.matched.swap_remove(0)),
            };
        };
        if let Some(index) = self.matched.iter().position(|agent| agent.name().as_str() == name) {
            return Ok(self.matched.swap_remove(index));
        }
        if let Some((entry, failure)) = self.failure_of(name) {
            return Err(error_of(failure, entry));
        }
        if self.refused.is_some() {
            return Err(self.no_match());
        }
        Err(match self.matched.is_empty() {
            true if !self.is_loaded => IdentifyError::NotLoaded,
            true => IdentifyError::NoMatch,
            false => IdentifyError::AgentMismatch(name.to_owned()),
        })
    }

    /// Why a request that names no agent is refused.
    pub fn refusal(&self) -> Option<IdentifyError> {
        match self.matched.as_slice() {
            [] => Some(self.no_match()),
            [_] => None,
            several => {
                let names = several.iter().map(|agent| agent.name().to_string());
                Some(IdentifyError::Ambiguous(names.collect()))
            }
        }
    }

    /// What can be repeated with success comes first.
    fn no_match(&self) -> IdentifyError {
        if !self.is_loaded {
            return IdentifyError::NotLoaded;
        }
        if let Some((agent, reason)) = &self.refused {
            return IdentifyError::NotSubAgent { agent: agent.to_string(), reason: reason.to_string() };
        }
        let unresolved = self.failures.iter().find(|(_, failure)| matches!(failure, Failure::Unresolved));
        let first = unresolved.or_else(|| self.failures.first());
        let first = first.and_then(|(entries, failure)| Some((entries.first()?, failure)));
        first.map_or(IdentifyError::NoMatch, |(entry, failure)| error_of(failure, entry))
    }

    /// Why the peer is not the agent of this name, if it may be.
    pub(super) fn failure_of(&self, name: &str) -> Option<(&Arc<AgentEntry>, &Failure)> {
        self.failures.iter().find_map(|(entries, failure)| {
            let at = entries.binary_search_by(|entry| entry.name.as_str().cmp(name)).ok()?;
            Some((&entries[at], failure))
        })
    }
}

fn error_of(failure: &Failure, entry: &AgentEntry) -> IdentifyError {
    let agent = entry.name.to_string();
    match failure {
        Failure::Unmeasured(reason) => IdentifyError::Unmeasured { agent, reason: reason.clone() },
        Failure::NoDigest(error) => IdentifyError::NoDigest { agent, error: error.clone() },
        Failure::Content(ContentFault { reason, is_temporary }) => {
            IdentifyError::Content { agent, reason: reason.clone(), is_temporary: *is_temporary }
        }
        Failure::Unresolved => IdentifyError::Unresolved,
        Failure::TooManyGroups => IdentifyError::TooManyGroups,
        Failure::UnknownDelegations(reason) => {
            IdentifyError::UnknownDelegations { agent, reason: reason.to_string() }
        }
    }
}

impl AgentRegistry {
    /// The SHA-256 digest of the peer's executable, which is read unless it is known.
    ///
    /// # Errors
    /// It may not be read, is on a file system that its user can serve, exceeds 2 GiB, or takes longer than 10 s to
    /// read.
    pub async fn exe_sha256(&self, peer: &Peer) -> Result<Sha256Digest, DigestError> {
        peer.compute_exe_sha256(self.digest_cache()).await
    }

    /// Compares `peer` with all agents, without waiting.
    pub fn candidates(&self, peer: &Peer) -> Candidates {
        let registrations = self.registrations();
        let compared = ComparedAgents::of(peer, &registrations);
        let reads_digest = compared.needs_digest() && !peer.has_known_digest(self.digest_cache());
        let reads_content = reads_digest || compared.possible.iter().any(|one| self.reads_files(&one.entry));
        Candidates { peer: peer.clone(), compared, reads_content, registrations }
    }

    /// Whether a file of the agent, or its unit, has to be read.
    fn reads_files(&self, entry: &AgentEntry) -> bool {
        let (selectors, known) = (&entry.selectors, self.digest_cache().contents());
        let reads_unit = || {
            let unit = selectors.unit.as_deref().filter(|_| selectors.unit_sha256.is_some());
            unit.is_some_and(|unit| known.known_unit_digest(unit).is_none())
        };
        selectors.files.keys().any(|path| known.known_file_digest(path).is_none()) || reads_unit()
    }

    /// Identifies a peer: reads its executable if a condition needs it, and waits at most 3 s for the user of
    /// a unit with `DynamicUser=` if nothing else matches.
    pub async fn identify(&self, candidates: Candidates, ima_digests: &ImaDigests) -> Identification {
        if candidates.compared.missing.is_empty() && !candidates.compared.needs_content() {
            return self.conclude(candidates, None, &Contents::default(), ima_digests);
        }
        // Boxed, because most requests do not need the room for it.
        Box::pin(self.identify_with_waits(candidates, ima_digests)).await
    }

    async fn identify_with_waits(&self, candidates: Candidates, ima_digests: &ImaDigests) -> Identification {
        let (peer, is_dynamic) = (candidates.peer.clone(), !candidates.compared.missing.is_empty());
        let identification = self.check_digests(candidates, ima_digests).await;
        if !identification.matched.is_empty() || !is_dynamic {
            return identification;
        }
        let was_answered = self.names().demand(DYNAMIC_NAME_TIMEOUT).await;
        let candidates = self.candidates(&peer);
        let missing = if was_answered { Vec::new() } else { candidates.compared.missing.clone() };
        let mut identification = self.check_digests(candidates, ima_digests).await;
        let unresolved = missing.into_iter().map(|entries| (entries, Failure::Unresolved));
        identification.failures.extend(unresolved);
        identification
    }

    async fn check_digests(&self, mut candidates: Candidates, ima_digests: &ImaDigests) -> Identification {
        if !candidates.compared.needs_content() {
            return self.conclude(candidates, None, &Contents::default(), ima_digests);
        }
        let digest = match candidates.compared.needs_digest() {
            true => Some(candidates.peer.compute_exe_sha256(self.digest_cache()).await),
            false => None,
        };
        // A reload may have taken place while the digest was read.
        if !self.registrations().is_same(&candidates.registrations) {
            candidates = self.candidates(&candidates.peer);
        }
        let compared = candidates.compared.clone();
        let selectors = compared.possible.iter().map(|one| &one.entry.selectors);
        let contents = Contents::find(selectors, self.digest_cache().contents()).await;
        self.conclude(candidates, digest.as_ref(), &contents, ima_digests)
    }

    /// Evaluates the conditions on contents. The digest of the executable is `Some` where one needs it.
    fn conclude(
        &self,
        candidates: Candidates,
        digest: Option<&Result<Sha256Digest, DigestError>>,
        contents: &Contents<'_>,
        ima_digests: &ImaDigests,
    ) -> Identification {
        let Candidates { peer, compared, registrations, .. } = candidates;
        let (is_loaded, mut failures) = (registrations.agents.is_loaded(), compared.failures.clone());
        if compared.possible.is_empty() {
            let refused = compared.refused.clone();
            return Identification { matched: Vec::new(), failures, refused, is_loaded };
        }
        let exe_sha256 = peer.known_exe_sha256(self.digest_cache());
        let mut matched = Vec::with_capacity(compared.possible.len());
        for Candidate { entry, match_tag, delegated } in &compared.possible {
            let digest_match = match (entry.selectors.needs_digest(), digest) {
                (false, _) => DigestMatch::Holds,
                (true, Some(digest)) => entry.selectors.match_digest(digest, ima_digests),
                (true, None) => DigestMatch::Fails,
            };
            let (entry, match_tag) = (entry.clone(), *match_tag);
            match digest_match {
                DigestMatch::Holds => match contents.compare(&entry.selectors, ima_digests) {
                    Ok(attested) => {
                        let attested = attested.map(Arc::new);
                        let (peer, delegation) = match delegated {
                            Some(DelegatedPeer { peer, delegation }) => {
                                (peer.clone(), Some(delegation.clone()))
                            }
                            None => (peer.clone(), None),
                        };
                        let is_runner = false;
                        matched.push(AuthenticatedAgent {
                            entry,
                            peer,
                            exe_sha256,
                            match_tag,
                            attested,
                            delegation,
                            is_runner,
                        });
                    }
                    Err(fault) => failures.push((AgentList::from([entry]), Failure::Content(fault))),
                },
                DigestMatch::Fails => {}
                DigestMatch::Unmeasured(reason) => {
                    failures.push((AgentList::from([entry]), Failure::Unmeasured(reason)));
                }
                DigestMatch::NoDigest(error) => {
                    failures.push((AgentList::from([entry]), Failure::NoDigest(error)));
                }
            }
        }
        Identification { matched, failures, refused: None, is_loaded }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, Timestamp};
    use crate::names::Names;
    use crate::peer::PeerTracker;
    use crate::posture::{PostureMode, PostureState};
    use std::os::unix::net::UnixStream;

    /// Identifies this process, with these `[match]` tables.
    async fn identify(tables: &[&str]) -> (bool, bool, Result<AuthenticatedAgent, IdentifyError>) {
        let dir = tempfile::tempdir().unwrap();
        for (index, table) in tables.iter().enumerate() {
            let text = format!("name = \"a{index}\"\n[match]\n{table}\n");
            std::fs::write(dir.path().join(format!("{index}.toml")), text).unwrap();
        }
        let (clock, names) = (Clock::manual(Timestamp::from_secs(1)), Names::start([]).unwrap());
        let agents = AgentRegistry::open(dir.path(), 35, names, clock);
        assert!(agents.load_status().faults.is_empty(), "{:?}", agents.load_status().faults);
        let (socket, _other) = UnixStream::pair().unwrap();
        let peer = PeerTracker::from_socket(&socket).unwrap().current_peer().unwrap();
        let posture = PostureState::new(PostureMode::Off, Duration::from_secs(60));
        let before = agents.candidates(&peer).has_to_wait();
        let identification = agents.identify(agents.candidates(&peer), posture.ima_digests()).await;
        (before, agents.candidates(&peer).has_to_wait(), identification.one(None))
    }

    fn own_user() -> String {
        format!("user = {}", nix::unistd::geteuid())
    }

    #[tokio::test]
    async fn only_a_digest_that_decides_and_is_not_known_is_waited_for() {
        let user = own_user();
        let program = format!("{user}\nexe_sha256 = \"{}\"", "00".repeat(32));
        let (before, after, result) = identify(&[&program]).await;
        assert_eq!((before, after), (true, false), "the digest is known afterwards");
        assert_eq!(result.unwrap_err(), IdentifyError::NoMatch);
        // Another agent matches in any case.
        let (before, _, result) = identify(&[&program, &user]).await;
        assert!(!before);
        assert_eq!(result.unwrap().name().as_str(), "a1");
        // Another condition does not hold.
        let other = format!("user = 4242\nexe_sha256 = \"{}\"", "00".repeat(32));
        assert!(!identify(&[&other]).await.0);
    }

    #[tokio::test]
    async fn missing_name_matches_no_process() {
        let (_, _, result) = identify(&["user = \"hostbadge-no-such-user\""]).await;
        assert_eq!(result.unwrap_err(), IdentifyError::NoMatch);
        let both = format!("{}\ngroup = \"hostbadge-no-such-group\"", own_user());
        assert_eq!(identify(&[&both]).await.2.unwrap_err(), IdentifyError::NoMatch);
    }
}
