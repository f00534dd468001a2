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
    let is_not_seen = |agent: &&AgentReview| agent.last_seen.is_none() && agent.state != AgentState::Unknown;
    let is_to_narrow =
        |agent: &&AgentReview| agent.state == AgentState::Narrow && agent.not_narrowed.is_none();
    Totals {
        agents: agents.len() as u64,
        not_seen: agents.iter().filter(is_not_seen).count() as u64,
        unused: in_state(AgentState::Unused),
        narrow: agents.iter().filter(is_to_narrow).count() as u64,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::review::samples::agent_review;

    #[test]
    fn files_that_are_not_narrowed_and_agents_that_are_not_known_are_not_counted() {
        let agent = |state| AgentReview { state, last_seen: None, ..agent_review("a", &[], &[]) };
        let left = AgentReview { not_narrowed: Some("x".to_owned()), ..agent(AgentState::Narrow) };
        let states = [AgentState::Narrow, AgentState::Unused, AgentState::Unknown];
        let agents: Vec<AgentReview> = states.map(agent).into_iter().chain([left]).collect();
        let totals = totals_of(&agents);
        assert_eq!((totals.agents, totals.narrow, totals.unused, totals.unknown), (4, 1, 1, 1));
        assert_eq!(totals.not_seen, 3, "of the unknown one it is not known");
    }
}
