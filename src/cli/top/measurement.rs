//! What one look at the daemon returned.

use std::time::{Duration, Instant};

use super::super::client;
use super::super::common::CommonArgs;
use super::super::error::CliError;
use super::super::metric_samples::Samples;
use super::super::metrics::read_samples;
use crate::clock::{Clock, Timestamp};
use crate::wire::status::StatusResponse;

/// Agents that are asked for. A terminal has fewer lines.
const AGENTS: usize = 200;
/// The status is asked for less often than the metrics, because it takes the daemon longer.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

/// The metrics of one moment, and the status of this or an earlier one.
pub(super) struct Measurement {
    /// When the metrics were read.
    pub(super) taken_at: Instant,
    /// The same, of this host's clock.
    pub(super) time: Timestamp,
    pub(super) samples: Samples,
    pub(super) status: StatusResponse,
    status_at: Instant,
}

impl Measurement {
    /// Asks the daemon; the status only if that of `last` is older than 5 s, or of a daemon that was started before.
    pub(super) async fn take(
        common: &CommonArgs,
        last: Option<&Measurement>,
    ) -> Result<Measurement, CliError> {
        let path = format!("/v1/metrics?agents={AGENTS}");
        let samples = read_samples(&client::get_text(&common.admin_socket, &path).await?)?;
        let (taken_at, time) = (Instant::now(), Clock::System.now());
        let started = |samples: &Samples| samples.sum("hostbadge_start_time_seconds", &[]);
        let recent = last.filter(|last| {
            taken_at.duration_since(last.status_at) < STATUS_INTERVAL
                && started(&last.samples) == started(&samples)
        });
        let (status, status_at) = match recent {
            Some(last) => (last.status.clone(), last.status_at),
            None => (client::get::<StatusResponse>(&common.admin_socket, "/v1/status").await?.body, taken_at),
        };
        Ok(Measurement { taken_at, time, samples, status, status_at })
    }
}
