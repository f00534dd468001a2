//! What systemd is told, sd_notify(3). Without systemd nobody listens, which is no fault.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::audit::Audit;

pub fn ready(status: &str) {
    let _ = sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

pub fn tell(status: &str) {
    let _ = sd_notify::notify(&[NotifyState::Status(status)]);
}

pub fn reloading() {
    let mut states = vec![NotifyState::Reloading];
    states.extend(NotifyState::monotonic_usec_now());
    let _ = sd_notify::notify(&states);
}

pub fn stopping() {
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
}

/// Feeds systemd's watchdog while the daemon really gets on.
///
/// It does when a task spawned on the runtime runs, and the log's thread turns. A TPM that stalls is a named state
/// and no reason for a restart, which would not mend it.
pub struct Pulse {
    pub audit: Audit,
}

impl Pulse {
    /// Runs for ever; returns at once where systemd asks for no watchdog.
    pub async fn beat(self) {
        let Some(deadline) = sd_notify::watchdog_enabled() else { return };
        let every = (deadline / 3).max(Duration::from_millis(100));
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = None;
        loop {
            ticks.tick().await;
            let beats = self.audit.health().beats();
            let log_turns = last.replace(beats) != Some(beats);
            let tasks_run = timeout(every, tokio::spawn(async {})).await.is_ok();
            if log_turns && tasks_run {
                let _ = sd_notify::notify(&[NotifyState::Watchdog]);
            }
        }
    }
}
