//! Observes the clock once a second: records when it was set and whether it is synchronized, wakes the
//! components that have something to make again, and stores the latest time.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::audit_ext::record_completed;
use super::component::ComponentTask;
use super::latest_time::LatestTime;
use crate::agents::AgentRegistry;
use crate::audit::{Audit, Event};
use crate::clock::ClockState;

const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The running clock monitor.
pub(super) struct ClockMonitorHandle(ComponentTask);

/// Starts the clock monitor on the current runtime.
pub(super) fn spawn(
    clock: ClockState,
    audit: Audit,
    agents: AgentRegistry,
    latest_time: LatestTime,
) -> ClockMonitorHandle {
    ClockMonitorHandle(ComponentTask::spawn(|stop| run(clock, audit, agents, latest_time, stop)))
}

impl ClockMonitorHandle {
    /// Stops the clock monitor.
    pub async fn stop(self) {
        self.0.stop().await;
    }
}

async fn run(
    clock: ClockState,
    audit: Audit,
    agents: AgentRegistry,
    mut latest_time: LatestTime,
    stop: CancellationToken,
) {
    let mut ticks = interval(CHECK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => {
                latest_time.save_last(&clock, &agents.current()).await;
                return;
            }
            _ = ticks.tick() => {}
        }
        for change in clock.take_changes() {
            record_completed(&audit, Event::ClockChanged, &change.to_string()).await;
        }
        if let Some(latest) = latest_time.due(&clock, &agents.current()) {
            latest_time.save(latest).await;
        }
    }
}
