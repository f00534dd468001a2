//! The latest time that the clock is known to have had, across restarts: a clock that is set back makes no
//! expired grant count again.
//!
//! It is in `latest-time.json` of the state directory, and written when it matters: when a grant expires, at each
//! hour while agents have grants that count only at certain times, and at the end of the daemon. It is not in the
//! state manifest, because each change of that wears the TPM's memory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::agents::AgentSet;
use crate::clock::{ClockState, Timestamp};
use crate::store;

const FILE_NAME: &str = "latest-time.json";
const VERSION: u64 = 1;
/// How old the stored time may become.
const SAVE_INTERVAL: Duration = Duration::from_secs(3600);

/// The content of the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LatestTimeFile {
    latest: Timestamp,
}

/// The file and what it contains.
pub(super) struct LatestTime {
    path: PathBuf,
    stored: Option<Timestamp>,
}

impl LatestTime {
    /// Reads the file, and makes its time known to `clock`. If it cannot be read, that is logged, and grants that
    /// expire or have hours count again once an administrator has accepted the clock. Blocking.
    pub fn open(state_dir: &Path, clock: &ClockState) -> LatestTime {
        let path = state_dir.join(FILE_NAME);
        let stored = match store::read::<LatestTimeFile>(&path, VERSION) {
            Ok(file) => file.map(|file| file.latest),
            Err(e) => {
                tracing::error!(
                    "{e}; grants with expires or hours are refused until \"hostbadge clock accept\" says that the \
                     clock is right"
                );
                Some(Timestamp::from_secs(u64::MAX))
            }
        };
        if let Some(stored) = stored {
            clock.raise_latest(stored);
        }
        LatestTime { path, stored }
    }

    /// The time to store, if one has to be stored now.
    pub fn due(&self, clock: &ClockState, agents: &AgentSet) -> Option<Timestamp> {
        if !agents.has_time_limits() && self.stored.is_none() {
            return None;
        }
        let latest = clock.latest();
        let Some(stored) = self.stored else { return Some(latest) };
        // An administrator accepted an earlier time.
        let is_earlier = latest < stored;
        let has_expired = || {
            let first = agents.expiries().partition_point(|expiry| expiry.at <= stored);
            agents.expiries().get(first).is_some_and(|expiry| expiry.at <= latest)
        };
        (is_earlier || latest.since(stored) >= SAVE_INTERVAL || has_expired()).then_some(latest)
    }

    /// Stores a time. On failure it is due again, which a later call repeats.
    pub async fn save(&mut self, latest: Timestamp) {
        let path = self.path.clone();
        let written =
            tokio::task::spawn_blocking(move || store::write(&path, VERSION, &LatestTimeFile { latest }))
                .await;
        match written {
            Ok(Ok(())) => self.stored = Some(latest),
            Ok(Err(e)) => tracing::error!("{e}; the latest time is stored later"),
            Err(e) => tracing::error!("the latest time is stored later: {e}"),
        }
    }

    /// Stores the present time at the end of the daemon, if grants depend on it.
    pub async fn save_last(&mut self, clock: &ClockState, agents: &AgentSet) {
        let latest = clock.latest();
        if (agents.has_time_limits() || self.stored.is_some()) && self.stored != Some(latest) {
            self.save(latest).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use std::fs;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
    const MINUTE: Duration = Duration::from_secs(60);

    fn agents(grant: &str) -> AgentSet {
        let dir = tempfile::tempdir().unwrap();
        let text = format!("name = \"a\"\n[match]\nuser = 0\n[[grant]]\naudience = \"https://x\"\n{grant}\n");
        fs::write(dir.path().join("a.toml"), text).unwrap();
        AgentSet::read(dir.path(), 35).unwrap()
    }

    #[tokio::test]
    async fn the_time_is_stored_when_a_grant_expires_and_each_hour() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::manual(NOW);
        let state = ClockState::new(clock.clone());
        state.take_changes();
        let mut latest = LatestTime::open(dir.path(), &state);
        assert_eq!(latest.due(&state, &agents("")), None, "no grant depends on it");
        let expires = NOW.after(MINUTE * 2).to_rfc3339_seconds();
        let agents = agents(&format!("expires = {expires}"));
        assert_eq!(latest.due(&state, &agents), Some(NOW));
        latest.save(NOW).await;
        let pass = |time| {
            clock.advance(time);
            state.take_changes();
        };
        pass(MINUTE);
        assert_eq!(latest.due(&state, &agents), None);
        pass(MINUTE);
        assert_eq!(latest.due(&state, &agents), Some(clock.now()), "a grant has expired");
        latest.save(clock.now()).await;
        pass(MINUTE);
        assert_eq!(latest.due(&state, &agents), None);
        pass(MINUTE * 60);
        assert_eq!(latest.due(&state, &agents), Some(clock.now()));
        latest.save(clock.now()).await;

        let restarted = ClockState::new(Clock::manual(NOW.before(MINUTE * 60 * 24 * 365)));
        let stored = LatestTime::open(dir.path(), &restarted);
        assert_eq!(restarted.latest(), clock.now());
        assert_eq!(stored.due(&restarted, &agents), None);
        restarted.accept();
        assert_eq!(stored.due(&restarted, &agents), Some(restarted.now()), "an administrator said so");
    }

    #[test]
    fn a_file_that_cannot_be_read_lets_nothing_count_until_the_clock_is_accepted() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE_NAME), "{\"version\": 1, \"latest\": \"").unwrap();
        let state = ClockState::new(Clock::manual(NOW));
        LatestTime::open(dir.path(), &state);
        assert!(state.at_decision().is_behind());
        state.accept();
        assert!(!state.at_decision().is_behind());
    }
}
