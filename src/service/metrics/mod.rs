//! `GET /v1/metrics`: what a monitoring system reads.
//!
//! What threads count is added up here with what can be read at any time: the state of the TPM, keys, agents and the
//! audit log. Label values are names of this program, but for `agent`: series of single agents are made for at most as
//! many as the configuration or the request says.

mod agents;
mod anomalies;
mod audit;
mod catalog;
mod host;
mod keys;
mod requests;
mod tpm;

use super::admin::Monitor;
use super::error::AdminError;
use super::identity_service::IdentityService;
use crate::metrics::{Exposition, ProcessUsage, TextFormat};

/// Which metrics are asked for, and how they are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MetricsQuery {
    /// The text format.
    pub format: TextFormat,
    /// How many agents get series of their own; as the configuration says if absent.
    pub agents: Option<usize>,
}

/// The metrics at one moment.
#[derive(Clone, Debug)]
pub struct MetricsText {
    /// The media type.
    pub content_type: &'static str,
    /// The text.
    pub text: String,
}

impl IdentityService {
    /// All metrics as they are now. `connections` is the number of open connections of the agent socket and the
    /// workload socket, which the service does not know.
    ///
    /// # Errors
    /// [`AdminError::Metrics`], which does not happen as long as each value has the kind of its metric.
    pub fn metrics(
        &self,
        _: &Monitor,
        query: MetricsQuery,
        connections: usize,
    ) -> Result<MetricsText, AdminError> {
        let mut exposition = Exposition::new(catalog::CATALOG.iter().copied());
        self.add_host(&mut exposition, connections);
        self.add_requests(&mut exposition);
        self.add_tpm(&mut exposition);
        self.add_keys(&mut exposition);
        self.add_audit(&mut exposition);
        self.add_anomalies(&mut exposition);
        add_process(&mut exposition, ProcessUsage::read());
        self.add_agents(&mut exposition, query.agents.unwrap_or(self.deps.agent_series));
        let text = exposition.into_text(query.format).map_err(AdminError::Metrics)?;
        Ok(MetricsText { content_type: query.format.content_type(), text })
    }
}

fn add_process(exposition: &mut Exposition, usage: ProcessUsage) {
    let values = [
        (&catalog::RESIDENT, usage.resident.map(|bytes| bytes as f64)),
        (&catalog::VIRTUAL, usage.virtual_memory.map(|bytes| bytes as f64)),
        (&catalog::CPU, usage.cpu.map(|time| time.as_secs_f64())),
        (&catalog::OPEN_FDS, usage.open_fds.map(|number| number as f64)),
        (&catalog::MAX_FDS, usage.max_fds.map(|number| number as f64)),
    ];
    for (metric, value) in values {
        if let Some(value) = value {
            exposition.add(metric, [], value);
        }
    }
}
