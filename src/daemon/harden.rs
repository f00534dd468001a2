//! What the process gives up before it touches a secret.

use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};

/// Keeps secrets out of core dumps, other processes of the user, and swap; raises the limit of open files.
///
/// To be called first, while there is one thread. Returns what could not be done and matters.
pub fn harden() -> Vec<String> {
    let mut warnings = Vec::new();
    umask(Mode::from_bits_truncate(0o077));
    if let Err(e) = nix::sys::prctl::set_dumpable(false) {
        warnings.push(format!("the process stays dumpable ({e})"));
    }
    if let Err(e) = setrlimit(Resource::RLIMIT_CORE, 0, 0) {
        warnings.push(format!("core dumps stay possible ({e})"));
    }
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Failing leaves the limit as it was, which bounds connections more tightly.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard.min(262_144), hard);
    }
    // Under a finite limit every later allocation could fail, which is worse than swap.
    let unlimited = nix::unistd::geteuid().is_root()
        || matches!(getrlimit(Resource::RLIMIT_MEMLOCK), Ok((RLIM_INFINITY, _)));
    let flags = MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | lock_on_fault();
    if !unlimited {
        warnings.push("memory can be swapped out; LimitMEMLOCK=infinity keeps it in".into());
    } else if let Err(e) = mlockall(flags) {
        warnings.push(format!("memory can be swapped out ({e})"));
    }
    // libtss2 writes warnings about TPM codes that are handled here straight to standard error.
    if std::env::var_os("TSS2_LOG").is_none() {
        // SAFETY: there is one thread, and nothing has read the environment yet.
        unsafe { std::env::set_var("TSS2_LOG", "all+NONE") };
    }
    warnings
}

/// Locks pages as they are touched, so that stacks and caches that nobody uses cost nothing.
fn lock_on_fault() -> MlockAllFlags {
    const MCL_ONFAULT: i32 = 4;
    MlockAllFlags::from_bits_retain(MCL_ONFAULT)
}

/// How many connections fit into the limit of open files: each takes up to six, and the rest of the daemon fewer than
/// 256.
pub fn max_connections_for_rlimit() -> usize {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, _)) => (usize::try_from(soft).unwrap_or(usize::MAX).saturating_sub(256) / 6).max(16),
        Err(_) => 128,
    }
}
