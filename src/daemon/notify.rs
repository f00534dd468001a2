//! What systemd is told, sd_notify(3). Without systemd nobody listens, which is no fault.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};

use crate::api::WorkerPool;
use crate::audit::Audit;

pub fn ready(status: &str) {
    let _ = sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

pub fn set_status(status: &str) {
    let _ = sd_notify::notify(&[NotifyState::Status(status)]);
}

pub fn reloading() {
    let mut states = vec![NotifyState::Reloading];
    states.extend(NotifyState::monotonic_usec_now());
    let _ = sd_notify::notify(&states);
}

pub fn stopping() {
    // A TPM that does not answer keeps the process until the kernel gives up, which another signal would not hasten.
    let _ = sd_notify::notify(&[NotifyState::Stopping, NotifyState::WatchdogUsec(600_000_000)]);
}

/// Looks every second whether the daemon gets on, and feeds systemd's watchdog while it does.
///
/// It does while every lane turns, and this task runs. A disk or a TPM that stalls is told by name; it is no reason for
/// a restart, which would not mend it.
pub struct Watchdog {
    pub audit: Audit,
    pub workers: Arc<WorkerPool>,
}

impl Watchdog {
    /// Runs for ever.
    pub async fn run(self) {
        let watchdog = sd_notify::watchdog_enabled();
        let period = watchdog.map_or(SECOND, |deadline| (deadline / 3).clamp(SECOND / 10, SECOND));
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let health = self.audit.health();
            health.report_transitions();
            let workers_alive = self.workers.check_heartbeats();
            if watchdog.is_some() && (workers_alive || health.stall_error().is_some()) {
                let _ = sd_notify::notify(&[NotifyState::Watchdog]);
            }
        }
    }
}

const SECOND: Duration = Duration::from_secs(1);
