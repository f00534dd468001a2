//! The tokens of one agent that have not expired and are not revoked, by the invocation that got them.
//!
//! A token is revoked by its agent, owner, tenant or invocation, or with everything, if the revocation has a greater
//! epoch. So each count has the epoch up to which revocations were looked at, and is cleared by a later one.

use std::time::Duration;

use crate::agents::AgentEntry;
use crate::clock::{BootTime, ExpiringCount};
use crate::revocation::{IssuedToken, RevocationSet};

/// Invocations of one agent whose tokens are counted separately. Beyond them, those that were first share a count,
/// which the end of one of them does not clear.
const MAX_INVOCATIONS: usize = 8;

/// The live tokens of one agent.
#[derive(Debug, Default)]
pub(super) struct LiveTokens(Vec<OfInvocation>);

#[derive(Debug)]
struct OfInvocation {
    /// `None` outside units, and for invocations that share a count.
    invocation: Option<Box<str>>,
    /// The latest revocation that was looked at.
    epoch: u64,
    count: Box<ExpiringCount>,
}

/// The host's revocations and the time since it started.
#[derive(Clone, Copy)]
pub(super) struct Now<'a> {
    pub revocations: &'a RevocationSet,
    pub time: BootTime,
}

impl LiveTokens {
    /// Counts a token that lives this long.
    pub(super) fn add(
        &mut self,
        agent: &AgentEntry,
        invocation: Option<&str>,
        lifetime: Duration,
        now: Now<'_>,
    ) {
        let at = match self.0.iter().position(|one| one.invocation.as_deref() == invocation) {
            Some(at) => at,
            None => {
                self.make_room(agent, now);
                let (invocation, epoch) = (invocation.map(Into::into), now.revocations.latest_epoch());
                self.0.push(OfInvocation { invocation, epoch, count: Box::default() });
                self.0.len() - 1
            }
        };
        let found = &mut self.0[at];
        found.clear_revoked(agent, now.revocations);
        found.count.add(lifetime, now.time);
    }

    /// Takes a token back that was revoked by itself.
    pub(super) fn take_back(&mut self, invocation: Option<&str>, lifetime: Duration, now: BootTime) {
        if let Some(found) = self.0.iter_mut().find(|one| one.invocation.as_deref() == invocation) {
            found.count.take_back(lifetime, now);
        }
    }

    /// How many live. Forgets invocations without live tokens.
    pub(super) fn count(&mut self, agent: &AgentEntry, now: Now<'_>) -> u32 {
        let mut total = 0u32;
        self.0.retain_mut(|one| {
            one.clear_revoked(agent, now.revocations);
            let live = one.count.count(now.time);
            total = total.saturating_add(live);
            live > 0
        });
        if self.0.is_empty() {
            self.0.shrink_to_fit();
        }
        total
    }

    /// Counts the tokens of another one, too.
    pub(super) fn add_all(&mut self, agent: &AgentEntry, other: LiveTokens, now: Now<'_>) {
        for more in other.0 {
            match self.0.iter_mut().find(|one| one.invocation == more.invocation) {
                Some(one) => one.count.add_all(*more.count, now.time),
                None => {
                    self.make_room(agent, now);
                    self.0.push(more);
                }
            }
        }
    }

    fn make_room(&mut self, agent: &AgentEntry, now: Now<'_>) {
        if self.0.len() < MAX_INVOCATIONS {
            return;
        }
        self.count(agent, now);
        if self.0.len() < MAX_INVOCATIONS {
            return;
        }
        let second = self.0.remove(1);
        let first = &mut self.0[0];
        first.count.add_all(*second.count, now.time);
        first.invocation = None;
    }
}

impl OfInvocation {
    /// Drops the tokens that were revoked since the last look.
    fn clear_revoked(&mut self, agent: &AgentEntry, revocations: &RevocationSet) {
        let latest = revocations.latest_epoch();
        if self.epoch == latest || !revocations.is_loaded() {
            return;
        }
        let (invocation, epoch) = (self.invocation.as_deref(), self.epoch);
        let tokens = IssuedToken { agent, invocation, parent_invocations: &[], kid: "", jti: "", epoch };
        if revocations.revoking(&tokens).is_some() {
            *self.count = ExpiringCount::default();
        }
        self.epoch = latest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agents::AgentSet;
    use crate::clock::{Clock, Timestamp};
    use crate::revocation::{EndedInvocation, NewRevocation, Revocations, Target, TargetKind};

    const MINUTE: Duration = Duration::from_secs(60);

    struct World {
        agents: AgentSet,
        clock: Clock,
        revocations: Revocations,
    }

    impl World {
        fn new() -> World {
            let dir = tempfile::tempdir().unwrap();
            let text = "name = \"a\"\nowner = \"team\"\n[match]\nuser = 1\n";
            std::fs::write(dir.path().join("a.toml"), text).unwrap();
            let clock = Clock::manual(Timestamp::from_secs(1_800_000_000));
            let revocations = Revocations::of_test(clock.clone());
            World { agents: AgentSet::read(dir.path(), 35).unwrap(), clock, revocations }
        }

        fn entry(&self) -> &AgentEntry {
            self.agents.get("a").unwrap()
        }

        fn add(&self, tokens: &mut LiveTokens, invocation: Option<&str>) {
            let set = self.revocations.current();
            let now = Now { revocations: &set, time: self.clock.boot_time() };
            tokens.add(self.entry(), invocation, MINUTE, now);
        }

        fn count(&self, tokens: &mut LiveTokens) -> u32 {
            let set = self.revocations.current();
            tokens.count(self.entry(), Now { revocations: &set, time: self.clock.boot_time() })
        }

        /// Without a disk it is in effect, and not acknowledged.
        async fn revoke(&self, kind: TargetKind, value: &str) {
            let new = NewRevocation {
                target: Target::new(kind, value),
                is_blocking: false,
                revoked_by: String::new(),
                reason: String::new(),
            };
            self.revocations.revoke(new).await.unwrap_err();
        }

        fn end(&self, invocation: &str) {
            let until = self.clock.now().after(MINUTE * 60);
            let ended = EndedInvocation { id: invocation, agents: &[], until, reason: "ended" };
            self.revocations.end_invocation(&ended);
        }
    }

    #[tokio::test]
    async fn tokens_live_until_they_expire_or_a_scope_of_theirs_is_revoked() {
        let (world, mut tokens) = (World::new(), LiveTokens::default());
        for invocation in [Some("one"), Some("one"), Some("two"), None] {
            world.add(&mut tokens, invocation);
        }
        assert_eq!(world.count(&mut tokens), 4);
        world.end("one");
        assert_eq!(world.count(&mut tokens), 2);
        world.revoke(TargetKind::Agent, "other").await;
        world.add(&mut tokens, Some("two"));
        assert_eq!(world.count(&mut tokens), 3, "of another agent");
        world.revoke(TargetKind::Owner, "team").await;
        world.add(&mut tokens, Some("two"));
        assert_eq!(world.count(&mut tokens), 1, "issued after it");
        tokens.take_back(Some("two"), MINUTE, world.clock.boot_time());
        tokens.take_back(Some("two"), MINUTE, world.clock.boot_time());
        assert_eq!(world.count(&mut tokens), 0);
        world.add(&mut tokens, None);
        world.clock.advance(MINUTE * 2);
        assert_eq!(world.count(&mut tokens), 0);
        assert!(tokens.0.is_empty());
    }

    #[tokio::test]
    async fn any_number_of_invocations_takes_the_room_of_eight() {
        let (world, mut tokens) = (World::new(), LiveTokens::default());
        for n in 0..100 {
            world.add(&mut tokens, Some(&n.to_string()));
        }
        assert_eq!((world.count(&mut tokens), tokens.0.len()), (100, MAX_INVOCATIONS));
        world.end("99");
        assert_eq!(world.count(&mut tokens), 99);
        world.revoke(TargetKind::Everything, "").await;
        assert_eq!(world.count(&mut tokens), 0);
        let mut other = LiveTokens::default();
        world.add(&mut other, Some("a"));
        world.add(&mut tokens, Some("a"));
        let set = world.revocations.current();
        let now = Now { revocations: &set, time: world.clock.boot_time() };
        tokens.add_all(world.entry(), other, now);
        assert_eq!(world.count(&mut tokens), 2);
    }
}
