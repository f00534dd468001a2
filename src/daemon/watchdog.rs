//! Resets systemd's watchdog while the daemon makes progress, and reports changes in the audit log's health.
//!
//! The daemon makes progress while this task runs and every worker responds. A stalled disk or TPM is
//! reported by name and does not stop the watchdog from being reset, because a restart would not fix it. For
//! any other reason, one worker that never responds again is enough for a restart: its callers would wait for
//! ever.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::component::ComponentTask;
use super::notify;
use crate::api::WorkerPool;
use crate::audit::Audit;

/// Longest time between two checks. With a systemd watchdog it is a third of the watchdog's interval, at
/// least 100 ms.
const MAX_CHECK_INTERVAL: Duration = Duration::from_secs(1);
const MIN_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// The running watchdog.
pub(super) struct WatchdogHandle(ComponentTask);

/// Starts the watchdog on the current runtime.
pub(super) fn spawn(audit: Audit, workers: Arc<WorkerPool>) -> WatchdogHandle {
    WatchdogHandle(ComponentTask::spawn(|stop| run(audit, workers, stop)))
}

impl WatchdogHandle {
    /// Stops the watchdog. Call [`notify::stopping`] before, which extends systemd's timeout.
    pub async fn stop(self) {
        self.0.stop().await;
    }
}

async fn run(audit: Audit, workers: Arc<WorkerPool>, stop: CancellationToken) {
    let timeout = notify::watchdog_interval();
    let check_interval = timeout
        .map_or(MAX_CHECK_INTERVAL, |timeout| (timeout / 3).clamp(MIN_CHECK_INTERVAL, MAX_CHECK_INTERVAL));
    let mut ticks = interval(check_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let health = audit.health();
        health.report_transitions();
        let workers_alive = workers.check_heartbeats(Instant::now());
        if timeout.is_some() && (workers_alive || health.stall_error().is_some()) {
            notify::keep_alive();
        }
    }
}
