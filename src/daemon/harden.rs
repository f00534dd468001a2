//! Hardens the process before it handles a secret.

use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::mman::{MlockAllFlags, mlockall, munlockall};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};

/// Keeps secrets out of core dumps, swap and the reach of the user's other processes, and raises the soft
/// limit of open files, to 262144 at most.
///
/// Call it first, while the process has one thread. Returns a warning for each measure that failed.
pub fn harden() -> Vec<String> {
    let mut warnings = Vec::new();
    umask(Mode::from_bits_truncate(0o077));
    if let Err(e) = nix::sys::prctl::set_dumpable(false) {
        warnings.push(format!("the process remains dumpable ({e})"));
    }
    if let Err(e) = setrlimit(Resource::RLIMIT_CORE, 0, 0) {
        warnings.push(format!("core dumps remain possible ({e})"));
    }
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // On failure the lower limit stays, and `max_connections_for_rlimit` allows fewer connections.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard.min(262_144), hard);
    }
    // With a finite RLIMIT_MEMLOCK every later allocation could fail, which is worse than swapping.
    let unlimited = nix::unistd::geteuid().is_root()
        || matches!(getrlimit(Resource::RLIMIT_MEMLOCK), Ok((RLIM_INFINITY, _)));
    if !unlimited {
        warnings.push("memory can be swapped out; set LimitMEMLOCK=infinity to prevent it".into());
    } else if let Err(e) = lock_memory() {
        warnings.push(format!("memory can be swapped out ({e})"));
    }
    // libtss2 would write a warning to standard error for TPM response codes that the daemon handles.
    if std::env::var_os("TSS2_LOG").is_none() {
        // SAFETY: the process has one thread, and nothing has read the environment yet.
        unsafe { std::env::set_var("TSS2_LOG", "all+NONE") };
    }
    warnings
}

/// Whether [`lock_memory`] succeeded.
static MEMORY_LOCKED: AtomicBool = AtomicBool::new(false);

/// Locks all memory, also that which is mapped later.
fn lock_memory() -> nix::Result<()> {
    mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | lock_on_fault())?;
    MEMORY_LOCKED.store(true, Ordering::Relaxed);
    Ok(())
}

/// Whether memory could not be locked again after it was unlocked.
static LOCK_LOST: AtomicBool = AtomicBool::new(false);

/// Does `work` with all memory unlocked, and locks it again if it was locked. After memory could not be
/// locked again, which is logged once, this does not unlock it any more: it only tries to lock it.
pub(super) fn with_unlocked_memory(work: impl FnOnce()) {
    relock_after(work, &LOCK_LOST, MEMORY_LOCKED.load(Ordering::Relaxed), lock_memory);
}

fn relock_after(
    work: impl FnOnce(),
    lock_lost: &AtomicBool,
    is_locked: bool,
    lock: impl FnOnce() -> nix::Result<()>,
) {
    if lock_lost.load(Ordering::Relaxed) {
        // Each failure after the first is expected, and a success leaves nothing to tell.
        let _ = lock();
        return;
    }
    if is_locked {
        // A failure changes nothing: `work` finds the memory locked.
        let _ = munlockall();
    }
    work();
    if is_locked && let Err(e) = lock() {
        lock_lost.store(true, Ordering::Relaxed);
        tracing::warn!(
            "memory can be swapped out: it could not be locked again after unused memory was returned ({e}); \
             unused memory is kept from now on; restart hostbadged, with LimitMEMLOCK=infinity"
        );
    }
}

/// Locks pages on first access, so that unused stacks and caches take no memory.
fn lock_on_fault() -> MlockAllFlags {
    const MCL_ONFAULT: i32 = 4;
    MlockAllFlags::from_bits_retain(MCL_ONFAULT)
}

/// How many connections fit into the limit of open files, at least 16: a connection uses up to 6 descriptors,
/// and the rest of the daemon fewer than 256.
pub(super) fn max_connections_for_rlimit() -> usize {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, _)) => (usize::try_from(soft).unwrap_or(usize::MAX).saturating_sub(256) / 6).max(16),
        Err(_) => 128,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use nix::errno::Errno;

    use super::*;

    #[test]
    fn memory_stays_as_it_is_after_it_could_not_be_locked_again() {
        let (lost, worked, locked) = (AtomicBool::new(false), Cell::new(0), Cell::new(0));
        let run = |result| {
            let work = || worked.set(worked.get() + 1);
            let lock = || {
                locked.set(locked.get() + 1);
                result
            };
            relock_after(work, &lost, true, lock);
        };
        run(Ok(()));
        run(Ok(()));
        run(Err(Errno::ENOMEM));
        assert_eq!((worked.get(), locked.get()), (3, 3));
        run(Err(Errno::ENOMEM));
        run(Ok(()));
        assert_eq!((worked.get(), locked.get()), (3, 5), "it tries to lock, and works no more");
    }
}
