//! Messages to systemd, sd_notify(3). Outside systemd they have no effect.

use std::time::Duration;

use sd_notify::NotifyState;

/// Watchdog timeout while the daemon stops. A TPM that does not respond can keep the process in the kernel
/// longer than `WatchdogSec=`, and another signal would not end it earlier.
const STOP_WATCHDOG_TIMEOUT: Duration = Duration::from_secs(600);

/// The daemon is ready, with a status line for `systemctl status`.
pub(super) fn ready(status: &str) {
    let _ = sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Replaces the status line.
pub(super) fn set_status(status: &str) {
    let _ = sd_notify::notify(&[NotifyState::Status(status)]);
}

/// A reload begins; [`ready`] ends it.
pub(super) fn reloading() {
    let mut states = vec![NotifyState::Reloading];
    states.extend(NotifyState::monotonic_usec_now());
    let _ = sd_notify::notify(&states);
}

/// The daemon stops.
pub(super) fn stopping() {
    let timeout = u32::try_from(STOP_WATCHDOG_TIMEOUT.as_micros()).unwrap_or(u32::MAX);
    let _ = sd_notify::notify(&[NotifyState::Stopping, NotifyState::WatchdogUsec(timeout)]);
}

/// The interval within which systemd expects [`keep_alive`], if the unit has a watchdog.
pub(super) fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

/// Resets systemd's watchdog.
pub(super) fn keep_alive() {
    let _ = sd_notify::notify(&[NotifyState::Watchdog]);
}
