//! Counts the rights of agents: the only place from which figures come.

use super::figures::{Count, Counts, Totals};
use super::types::{AgentReview, AgentState, Use};

/// The rights of an agent.
pub(super) fn counts_of(agent: &AgentReview) -> Counts {
    let mut counts = Counts::default();
    for grant in &agent.grants {
        add(&mut counts.audiences, grant.state);
        grant.scopes.iter().for_each(|scope| add(&mut counts.scopes, scope.state));
        counts.shorter_lifetimes += u64::from(grant.narrowing.ttl.is_some());
    }
    agent.credentials.iter().for_each(|credential| add(&mut counts.credentials, credential.state));
    counts
}

/// The sums over these agents.
pub(super) fn totals_of(agents: &[AgentReview]) -> Totals {
    let in_state = |state| agents.iter().filter(|agent| agent.state == state).count() as u64;
    let is_never_seen =
        |agent: &&AgentReview| agent.last_seen.is_none() && agent.state != AgentState::Unknown;
    Totals {
        agents: agents.len() as u64,
        never_seen: agents.iter().filter(is_never_seen).count() as u64,
        unused: in_state(AgentState::Unused),
        narrow: in_state(AgentState::Narrow),
        unknown: in_state(AgentState::Unknown),
        rights: agents.iter().map(counts_of).fold(Counts::default(), Counts::sum),
    }
}

fn add(count: &mut Count, state: Use) {
    count.granted += 1;
    match state {
        Use::Used => count.used += 1,
        Use::Unused => count.unused += 1,
        Use::Unknown => {}
    }
}
