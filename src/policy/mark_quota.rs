//! How many single tokens an agent may mark: by using them once, or by revoking its own.
//!
//! A mark stays in memory and on disk until its token has expired, and a host has room for
//! [`MAX_TOKENS`](crate::revocation::MAX_TOKENS). Each registered agent has a share: [`RESERVED`] divided by their
//! number, at least 1. Below it, an agent can mark a token whatever others have marked. Beyond it, an agent may have
//! at most a quarter of what is left of [`MAX_BEYOND_SHARES`] for all marks, so that a few agents leave some to
//! others. The rest is for administrators, who revoke by `jti`.
//!
//! The counts are in memory: after a restart, which root makes, an agent has its share again. The marks themselves
//! survive, and those beyond the shares count them.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use crate::agents::AgentName;
use crate::clock::{BootTime, ExpiringCount};
use crate::mutex::lock;
use crate::revocation::MAX_TOKENS;

/// Marks that are divided among the registered agents.
const RESERVED: usize = 98_304;
/// Marks beyond the shares, of all agents together.
const MAX_BEYOND_SHARES: usize = 98_304;
/// An agent may have one in this number of what is left of them.
const BEYOND_SHARE_DIVISOR: usize = 4;
/// Marks are not forgotten within this time after the start, because the clock may be set back.
const UNSETTLED_TIME: Duration = Duration::from_secs(3600);
/// Agents whose marks are counted; those without marks are dropped first.
const MAX_COUNTED: usize = 16_384;

const _: () = assert!(RESERVED + MAX_BEYOND_SHARES < MAX_TOKENS, "administrators have the rest");

/// The agent has marked as many tokens as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyMarks {
    /// When the first of its tokens has expired.
    pub retry_after: Duration,
}

/// The marks of all agents.
#[derive(Clone, Copy, Debug)]
pub struct Marks {
    /// Those that are kept, whoever made them.
    pub kept: usize,
    /// The number of registered agents.
    pub registered: usize,
}

/// The marks of each agent that have not expired.
#[derive(Debug)]
pub struct MarkQuota {
    started: BootTime,
    by_agent: Mutex<HashMap<AgentName, ExpiringCount>>,
}

impl MarkQuota {
    /// A quota without marks, for a daemon that started at this time.
    pub fn new(started: BootTime) -> MarkQuota {
        MarkQuota { started, by_agent: Mutex::default() }
    }

    /// Counts a mark of this agent on a token that expires after `lifetime`.
    ///
    /// # Errors
    /// [`TooManyMarks`], and the mark is not counted.
    pub fn take(
        &self,
        agent: &AgentName,
        marks: Marks,
        lifetime: Duration,
        now: BootTime,
    ) -> Result<(), TooManyMarks> {
        let mut by_agent = lock(&self.by_agent);
        if by_agent.len() >= MAX_COUNTED && !by_agent.contains_key(agent) {
            by_agent.retain(|_, count| count.count(now) > 0);
        }
        let own = by_agent.entry(agent.clone()).or_default();
        let (count, share) = (own.count(now) as usize, (RESERVED / marks.registered.max(1)).max(1));
        let left = MAX_BEYOND_SHARES.saturating_sub(marks.kept);
        if count >= share && (count - share) * BEYOND_SHARE_DIVISOR >= left {
            return Err(TooManyMarks { retry_after: own.until_first_end(now) });
        }
        own.add(self.kept_for(lifetime, now), now);
        Ok(())
    }

    /// Takes a mark back that was not made, because the token had it already.
    pub fn take_back(&self, agent: &AgentName, lifetime: Duration, now: BootTime) {
        if let Some(own) = lock(&self.by_agent).get_mut(agent) {
            own.take_back(self.kept_for(lifetime, now), now);
        }
    }

    /// How long a mark is kept.
    fn kept_for(&self, lifetime: Duration, now: BootTime) -> Duration {
        lifetime.max(UNSETTLED_TIME.saturating_sub(now.since(self.started)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn name(text: &str) -> AgentName {
        AgentName::parse(text).unwrap()
    }

    /// Marks tokens of an agent until it may not.
    fn fill(quota: &MarkQuota, agent: &str, kept: &mut usize, registered: usize, now: BootTime) -> usize {
        let mut taken = 0;
        while quota.take(&name(agent), Marks { kept: *kept, registered }, MINUTE, now).is_ok() {
            (*kept, taken) = (*kept + 1, taken + 1);
        }
        taken
    }

    #[test]
    fn agents_that_mark_all_they_can_leave_each_other_its_share() {
        let now = BootTime::now();
        let quota = MarkQuota::new(now);
        let (registered, mut kept) = (50, 0);
        let share = RESERVED / registered;
        let first = fill(&quota, "a0", &mut kept, registered, now);
        assert!(first > 10 * share, "{first}");
        for n in 1..registered {
            let taken = fill(&quota, &format!("a{n}"), &mut kept, registered, now);
            assert!(taken >= share, "agent {n}: {taken}");
        }
        assert!(kept < MAX_TOKENS, "{kept}");
    }

    #[test]
    fn marks_count_until_they_are_forgotten() {
        let start = BootTime::now();
        let quota = MarkQuota::new(start);
        let (agent, marks) = (name("a"), Marks { kept: MAX_BEYOND_SHARES, registered: RESERVED });
        quota.take(&agent, marks, MINUTE, start).unwrap();
        let refused = quota.take(&agent, marks, MINUTE, start).unwrap_err();
        assert!(refused.retry_after > Duration::from_secs(3500), "nothing is forgotten within an hour");
        quota.take(&name("b"), marks, MINUTE, start).unwrap();
        quota.take_back(&agent, MINUTE, start);
        quota.take(&agent, marks, MINUTE, start).unwrap();
        let later = start.after(Duration::from_secs(4000));
        quota.take(&agent, marks, MINUTE, later).unwrap();
        let refused = quota.take(&agent, marks, MINUTE, later).unwrap_err();
        assert!(refused.retry_after <= Duration::from_secs(121), "{refused:?}");
    }
}
