//! The name of this host.

use std::fs;

/// The name that this host gave itself.
const HOSTNAME_FILE: &str = "/proc/sys/kernel/hostname";

/// The name of this host; empty where the kernel does not say.
pub(super) fn host_name() -> String {
    fs::read_to_string(HOSTNAME_FILE).map(|name| name.trim().to_owned()).unwrap_or_default()
}
