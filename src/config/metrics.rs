//! The table `[metrics]`.

use serde::Deserialize;

/// Largest `agents`, also that of a request for metrics.
pub const MAX_AGENT_SERIES: usize = 1000;

/// The table `[metrics]`: who may read metrics, and how much they say of single agents.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsSection {
    /// How many agents have metrics of their own, at most 1000; if there are more agents, those that were seen last.
    /// Default: 0. Each costs four time series.
    pub agents: usize,
    /// The group whose members may read metrics, besides administrators. Default: `hostbadge-metrics`.
    pub group: String,
}

impl Default for MetricsSection {
    fn default() -> MetricsSection {
        MetricsSection { agents: 0, group: "hostbadge-metrics".to_owned() }
    }
}

pub(super) fn check_metrics(metrics: &MetricsSection) -> Vec<String> {
    match metrics.agents {
        0..=MAX_AGENT_SERIES => Vec::new(),
        _ => vec![format!("agents must be at most {MAX_AGENT_SERIES}")],
    }
}
