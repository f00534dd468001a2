//! Counts changes that have to be on the disk, and those that are.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// Changes of a file or directory. No thread waits here for the sync of another: each sync that begins before an
/// earlier one has succeeded is carried out.
#[derive(Debug, Default)]
pub(super) struct Changes {
    made: AtomicU64,
    /// How many of them are on the disk.
    synced: AtomicU64,
}

impl Changes {
    /// Something was changed.
    pub(super) fn note(&self) {
        self.made.fetch_add(1, Ordering::AcqRel);
    }

    /// How many changes there are.
    pub(super) fn made(&self) -> u64 {
        self.made.load(Ordering::Acquire)
    }

    /// Calls `sync` unless a sync that has succeeded covered the first `made` changes. A failure leaves them to the next
    /// call.
    pub(super) fn sync(&self, made: u64, sync: impl FnOnce() -> io::Result<()>) -> Option<io::Result<()>> {
        if self.synced.load(Ordering::Acquire) >= made {
            return None;
        }
        let result = sync();
        if result.is_ok() {
            self.synced.fetch_max(made, Ordering::AcqRel);
        }
        Some(result)
    }

    /// Whether a sync has covered all changes.
    #[cfg(test)]
    pub(super) fn are_synced(&self) -> bool {
        self.synced.load(Ordering::Acquire) >= self.made()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_covers_what_was_changed_before_it_and_a_failed_one_nothing() {
        let changes = Changes::default();
        assert!(changes.sync(changes.made(), || Ok(())).is_none(), "nothing was changed");
        changes.note();
        let made = changes.made();
        assert!(changes.sync(made, || Err(io::ErrorKind::Other.into())).unwrap().is_err());
        assert!(!changes.are_synced());
        let during = changes.sync(made, || {
            changes.note();
            Ok(())
        });
        assert!(during.unwrap().is_ok());
        assert!(changes.sync(made, || Ok(())).is_none());
        assert!(!changes.are_synced(), "what was changed during the sync is left");
        assert!(changes.sync(changes.made(), || Ok(())).is_some());
        assert!(changes.are_synced());
    }
}
