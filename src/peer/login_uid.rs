//! The user that logged in, which sudo and su do not change.

use std::fs;

/// What the kernel reports of a process that no login started.
const UNSET: u32 = u32::MAX;

/// The login user of a process (`/proc/PID/loginuid`, from the audit subsystem); `None` if no login started it, or the
/// kernel or the process's end does not tell. Blocking.
pub fn login_uid(pid: i32) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/loginuid")).ok()?;
    text.trim().parse().ok().filter(|uid| *uid != UNSET)
}
