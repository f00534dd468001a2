//! The revoked targets at one moment.

use std::collections::HashMap;
use std::sync::Arc;

use super::record::Revocation;
use super::target::{Target, TargetKind};
use crate::agents::{AgentEntry, AuthenticatedAgent};
use crate::clock::Timestamp;
use crate::peer::Invocation;

/// The revoked targets at one moment. A change makes another set.
#[derive(Clone, Debug, Default)]
pub struct RevocationSet {
    /// Whether the revocations are known.
    is_loaded: bool,
    /// The greatest epoch of a revocation that is on disk.
    issue_epoch: u64,
    /// The greatest epoch of a revocation.
    latest_epoch: u64,
    /// The greatest epoch of a revocation when the revocations were read.
    loaded_epoch: u64,
    by_target: HashMap<Target, Arc<Revocation>>,
    blocking: usize,
    /// Invocations whose revocation does not block: those that have ended.
    ended: usize,
}

/// What a revocation can find in a token.
#[derive(Clone, Copy, Debug)]
pub struct IssuedToken<'a> {
    /// The agent, as it is registered now.
    pub agent: &'a AgentEntry,
    /// The invocation of the process that got it.
    pub invocation: Option<&'a str>,
    /// Of a sub-agent: the invocations of the agents above it.
    pub parent_invocations: &'a [Invocation],
    /// The key that signed it.
    pub kid: &'a str,
    /// Its identifier.
    pub jti: &'a str,
    /// The epoch at its issue; 0 for tokens of earlier releases, which have none.
    pub epoch: u64,
}

impl RevocationSet {
    pub(super) fn new(epoch: u64, revocations: impl IntoIterator<Item = Revocation>) -> RevocationSet {
        let by_target: HashMap<_, _> =
            revocations.into_iter().map(|one| (one.target.clone(), Arc::new(one))).collect();
        let latest_epoch = by_target.values().map(|one| one.epoch).fold(epoch, u64::max);
        let mut set = RevocationSet {
            is_loaded: true,
            issue_epoch: latest_epoch,
            latest_epoch,
            loaded_epoch: latest_epoch,
            by_target,
            ..RevocationSet::default()
        };
        set.count();
        set
    }

    /// A set of these revocations.
    #[cfg(test)]
    pub(crate) fn of_test(revocations: impl IntoIterator<Item = Revocation>) -> RevocationSet {
        RevocationSet::new(0, revocations)
    }

    /// Whether the revocations are known. Nothing is issued while they are not.
    pub fn is_loaded(&self) -> bool {
        self.is_loaded
    }

    /// The epoch that tokens carry which are issued now.
    pub fn epoch(&self) -> u64 {
        self.issue_epoch
    }

    /// The epoch of the next revocation.
    pub(super) fn next_epoch(&self) -> u64 {
        self.latest_epoch + 1
    }

    pub(super) fn with_issue_epoch(&self, issue_epoch: u64) -> RevocationSet {
        RevocationSet { issue_epoch, ..self.clone() }
    }

    /// The greatest epoch of a revocation.
    pub fn latest_epoch(&self) -> u64 {
        self.latest_epoch
    }

    /// The greatest epoch of a revocation when the revocations were read at the start.
    pub fn loaded_epoch(&self) -> u64 {
        self.loaded_epoch
    }

    /// The revocations, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Revocation> {
        self.by_target.values().map(|one| &**one)
    }

    /// The number of revocations.
    pub fn len(&self) -> usize {
        self.by_target.len()
    }

    /// The number of invocations that have ended.
    pub(super) fn ended(&self) -> usize {
        self.ended
    }

    /// Whether no target is revoked.
    pub fn is_empty(&self) -> bool {
        self.by_target.is_empty()
    }

    /// The revocation of a target.
    pub fn get(&self, target: &Target) -> Option<&Revocation> {
        self.by_target.get(target).map(|one| &**one)
    }

    /// Whether everything is revoked and nothing is issued.
    pub fn freeze(&self) -> Option<&Revocation> {
        self.get(&Target::everything()).filter(|one| one.is_blocking)
    }

    /// Why an agent's process gets nothing; `None` if no revocation is the reason.
    pub fn blocking(&self, agent: &AuthenticatedAgent) -> Option<&Revocation> {
        if self.blocking == 0 {
            return None;
        }
        self.find(agent.entry(), agent.invocations().map(|one| &**one), |one| one.is_blocking)
    }

    /// Why an agent gets nothing, whichever of its processes asks.
    pub fn blocking_entry(&self, agent: &AgentEntry) -> Option<&Revocation> {
        self.blocking_process(agent, None)
    }

    /// Why a process of an agent gets nothing, in this invocation.
    pub fn blocking_process(&self, agent: &AgentEntry, invocation: Option<&str>) -> Option<&Revocation> {
        if self.blocking == 0 {
            return None;
        }
        self.find(agent, invocation.into_iter(), |one| one.is_blocking)
    }

    /// Whether nothing is signed by this key any more.
    pub fn blocks_key(&self, kid: &str) -> bool {
        self.blocking > 0 && self.get(&Target::new(TargetKind::Key, kid)).is_some_and(|one| one.is_blocking)
    }

    /// The revocation of a target that has the token; `None` if it is revoked by none.
    pub fn revoking(&self, token: &IssuedToken<'_>) -> Option<&Revocation> {
        if self.by_target.is_empty() {
            return None;
        }
        let by_key = self.get(&Target::new(TargetKind::Key, token.kid));
        let above = token.parent_invocations.iter().map(|one| &**one);
        let invocations = token.invocation.into_iter().chain(above);
        by_key.or_else(|| self.find(token.agent, invocations, |one| token.epoch < one.epoch))
    }

    /// A revocation of an agent is one of its sub-agents too.
    fn find<'a>(
        &self,
        agent: &AgentEntry,
        mut invocations: impl Iterator<Item = &'a str>,
        holds: impl Fn(&Revocation) -> bool,
    ) -> Option<&Revocation> {
        let find = |kind, value: Option<&str>| self.get(&Target::new(kind, value?)).filter(|one| holds(one));
        find(TargetKind::Everything, Some(""))
            .or_else(|| find(TargetKind::Tenant, agent.tenant.as_deref()))
            .or_else(|| find(TargetKind::Owner, agent.owner.as_deref()))
            .or_else(|| agent.name.lineage().find_map(|name| find(TargetKind::Agent, Some(name))))
            .or_else(|| invocations.find_map(|id| find(TargetKind::Invocation, Some(id))))
    }

    /// A set with this revocation in place of an earlier one of the target.
    pub(super) fn with(&self, revocation: Revocation) -> RevocationSet {
        let mut set = self.clone();
        set.latest_epoch = set.latest_epoch.max(revocation.epoch);
        set.by_target.insert(revocation.target.clone(), Arc::new(revocation));
        set.count();
        set
    }

    /// A set without the revocations that have lapsed by `horizon`, and those.
    pub(super) fn without_lapsed(&self, horizon: Timestamp) -> (RevocationSet, Vec<Target>) {
        let has_lapsed = |one: &Revocation| one.lapses.is_some_and(|lapses| lapses <= horizon);
        let lapsed: Vec<Target> =
            self.iter().filter(|one| has_lapsed(one)).map(|one| one.target.clone()).collect();
        let mut set = self.clone();
        set.by_target.retain(|_, one| !has_lapsed(one));
        set.count();
        (set, lapsed)
    }

    fn count(&mut self) {
        let is_ended = |one: &Revocation| one.target.kind() == TargetKind::Invocation && !one.is_blocking;
        self.blocking = self.by_target.values().filter(|one| one.is_blocking).count();
        self.ended = self.by_target.values().filter(|one| is_ended(one)).count();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn revocation(kind: TargetKind, value: &str, epoch: u64) -> Revocation {
        Revocation {
            target: Target::new(kind, value),
            epoch,
            is_blocking: true,
            revoked_at: NOW,
            revoked_by: String::new(),
            reason: String::new(),
            lapses: None,
            is_guarded: true,
        }
    }

    fn entry() -> Arc<AgentEntry> {
        let dir = tempfile::tempdir().unwrap();
        let text = "name = \"a\"\nowner = \"team\"\ntenant = \"acme\"\n[match]\nuser = 0\n";
        std::fs::write(dir.path().join("a.toml"), text).unwrap();
        let names = crate::names::Names::start([]).unwrap();
        let registry = crate::agents::AgentRegistry::open(dir.path(), 35, names, crate::clock::Clock::System);
        registry.current().get("a").unwrap().clone()
    }

    #[test]
    fn each_scope_revokes_what_was_issued_before_and_blocks_until_it_is_lifted() {
        let agent = entry();
        let token = |epoch| IssuedToken {
            agent: &agent,
            invocation: Some("i"),
            parent_invocations: &[],
            kid: "k",
            jti: "j",
            epoch,
        };
        for (kind, value) in [
            (TargetKind::Everything, ""),
            (TargetKind::Tenant, "acme"),
            (TargetKind::Owner, "team"),
            (TargetKind::Agent, "a"),
            (TargetKind::Invocation, "i"),
        ] {
            let set = RevocationSet::new(4, [revocation(kind, value, 7)]);
            assert_eq!((set.epoch(), set.next_epoch()), (7, 8));
            assert!(set.revoking(&token(6)).is_some() && set.revoking(&token(7)).is_none(), "{kind:?}");
            assert!(set.blocking_process(&agent, Some("i")).is_some(), "{kind:?}");
            let lifted = set.with(set.iter().next().unwrap().lifted(NOW));
            assert!(lifted.blocking_process(&agent, Some("i")).is_none(), "{kind:?}");
            assert!(lifted.revoking(&token(6)).is_some() && lifted.revoking(&token(7)).is_none());
            let (forgotten, lapsed) = lifted.without_lapsed(NOW.after(std::time::Duration::from_secs(3660)));
            assert_eq!((forgotten.len(), lapsed.len(), forgotten.epoch()), (0, 1, 7));
        }
        for (kind, value) in [
            (TargetKind::Tenant, "other"),
            (TargetKind::Owner, "acme"),
            (TargetKind::Agent, "b"),
            (TargetKind::Invocation, "a"),
            (TargetKind::Key, "a"),
        ] {
            let set = RevocationSet::new(0, [revocation(kind, value, 7)]);
            assert!(set.revoking(&token(0)).is_none() && set.blocking_process(&agent, Some("i")).is_none());
        }
        // What is revoked of an agent is revoked of its sub-agents, and not the reverse.
        let parents = ["p", "i"].map(Invocation::of_test);
        let sub_agent = AgentEntry { name: agent.name.of_sub_agent("s").unwrap(), ..(*agent).clone() };
        let of_sub = IssuedToken {
            agent: &sub_agent,
            invocation: Some("s"),
            parent_invocations: &parents,
            ..token(6)
        };
        for (kind, value) in
            [(TargetKind::Agent, "a"), (TargetKind::Agent, "a/sub/s"), (TargetKind::Invocation, "p")]
        {
            let set = RevocationSet::new(4, [revocation(kind, value, 7)]);
            assert!(
                set.revoking(&of_sub).is_some()
                    && set.revoking(&IssuedToken { epoch: 7, ..of_sub }).is_none()
            );
        }
        let set = RevocationSet::new(4, [revocation(TargetKind::Agent, "a/sub/s", 7)]);
        assert!(set.revoking(&token(6)).is_none() && set.blocking_entry(&agent).is_none());
        assert!(set.blocking_entry(&sub_agent).is_some());
        // A key signs nothing that is valid, whatever the epoch.
        let set = RevocationSet::new(0, [revocation(TargetKind::Key, "k", 1)]);
        assert!(set.revoking(&token(9)).is_some() && set.blocks_key("k") && !set.blocks_key("a"));
    }
}
