//! How often a new file may be started because syncs fail.

use std::time::{Duration, Instant};

/// Least time between new files that are started because syncs fail; it doubles up to the maximum.
const MIN_NEW_FILE_DELAY: Duration = Duration::from_secs(10);
const MAX_NEW_FILE_DELAY: Duration = Duration::from_secs(600);

/// When a new file may be started after a failed sync: at once, and then ever less often while syncs of the
/// new files fail too, so that a broken disk does not get a file each second.
#[derive(Debug, Default)]
pub(super) struct NewFilePace {
    not_before: Option<Instant>,
    delay: Duration,
}

impl NewFilePace {
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        if self.not_before.is_some_and(|not_before| now < not_before) {
            return false;
        }
        let fails_again = self.not_before.is_some_and(|not_before| now < not_before + self.delay);
        self.delay = if fails_again { self.delay * 2 } else { MIN_NEW_FILE_DELAY }.min(MAX_NEW_FILE_DELAY);
        self.not_before = Some(now + self.delay);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_files_after_failed_syncs_become_rare() {
        let mut pace = NewFilePace::default();
        let start = Instant::now();
        let due = (0..36_000).filter(|second| pace.is_due(start + Duration::from_secs(*second))).count();
        assert!((60..80).contains(&due), "{due}");
        let after = start + Duration::from_secs(40_000);
        assert!(pace.is_due(after) && pace.delay == MIN_NEW_FILE_DELAY);
    }
}
