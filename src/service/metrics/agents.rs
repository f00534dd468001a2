//! Metrics of agents: of all together, and of a bounded number of single ones.

use super::catalog;
use crate::agents::AgentName;
use crate::metrics::Exposition;
use crate::service::identity_service::IdentityService;
use crate::wire::metrics::MAX_AGENT_SERIES;

impl IdentityService {
    /// `series` is the number of agents that get series of their own: those that were seen last.
    pub(super) fn add_agents(&self, exposition: &mut Exposition, series: usize) {
        let (agents, activity) = (self.deps.agents.current(), self.audit.activity());
        exposition.add(&catalog::AGENTS, [], agents.len() as f64);
        let live = agents.iter().map(|entry| u64::from(activity.of(entry).live_tokens)).sum::<u64>();
        exposition.add(&catalog::LIVE_TOKENS, [], live as f64);
        let is_registered = |name: &AgentName| agents.get(name.as_str()).is_some();
        for counts in activity.latest(series.min(MAX_AGENT_SERIES), is_registered) {
            let Some(entry) = agents.get(counts.name.as_str()) else { continue };
            let label = || [counts.name.to_string().into()];
            exposition.add(&catalog::AGENT_GRANTED, label(), counts.granted as f64);
            exposition.add(&catalog::AGENT_REFUSED, label(), counts.refused as f64);
            exposition.add(&catalog::AGENT_LIVE_TOKENS, label(), f64::from(activity.of(entry).live_tokens));
            exposition.add(&catalog::AGENT_LAST_SEEN, label(), counts.last_seen.as_secs_f64());
        }
    }
}
