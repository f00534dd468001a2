//! The last reading of the PCRs and its verdict, for decisions that do not wait for the TPM.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::baseline::Baseline;
use super::ima_digests::ImaDigests;
use super::kind::Posture;
use crate::clock::{BootTime, Timestamp};
use crate::config::PostureMode;
use crate::tpm::PcrValues;

/// PCRs as the TPM quoted them.
#[derive(Clone, Debug)]
pub struct PcrReading {
    /// When the quote was requested, since boot.
    pub taken_at: BootTime,
    /// When the quote was requested, by the wall clock, for display.
    pub wall_time: Timestamp,
    /// The host's id.
    pub host_id: String,
    /// The quoted values of the SHA-256 bank, by number.
    pub pcrs: PcrValues,
}

/// The last reading with the baseline that it was compared with. A snapshot is replaced as a whole.
#[derive(Clone, Debug, Default)]
pub struct PostureSnapshot {
    /// The last successful reading.
    pub reading: Option<PcrReading>,
    /// The baseline, accepted or only recorded.
    pub baseline: Option<Arc<Baseline>>,
    /// The posture of the last reading, and the reason if it is not `accepted`.
    pub verdict: Option<(Posture, String)>,
    /// Why the last attempt to read the PCRs failed, for display.
    pub read_error: Option<String>,
    /// Why there is no baseline to compare with, for display.
    pub baseline_error: Option<String>,
}

/// The posture of the host, shared between the monitor, which updates it, and decisions. Clones share the
/// state; a clone is cheap.
#[derive(Clone, Debug)]
pub struct PostureState(Arc<PostureStateInner>);

#[derive(Debug)]
struct PostureStateInner {
    mode: PostureMode,
    max_age: Duration,
    /// Whether a decision depends on the posture, so that the monitor reads the PCRs periodically.
    enabled: AtomicBool,
    snapshot: ArcSwap<PostureSnapshot>,
    ima_digests: ImaDigests,
}

/// The posture at the moment of one decision.
#[derive(Clone, Debug)]
pub struct PostureAtDecision {
    /// The configured effect of the posture; a grant may set another.
    pub mode: PostureMode,
    /// The posture.
    pub posture: Posture,
    snapshot: Arc<PostureSnapshot>,
    age: Duration,
}

impl PostureState {
    /// A state without a reading. `max_age` is the age from which a reading is stale.
    pub fn new(mode: PostureMode, max_age: Duration) -> PostureState {
        PostureState(Arc::new(PostureStateInner {
            mode,
            max_age,
            enabled: AtomicBool::new(mode != PostureMode::Off),
            snapshot: ArcSwap::default(),
            ima_digests: ImaDigests::default(),
        }))
    }

    /// The configured effect of the posture.
    pub fn mode(&self) -> PostureMode {
        self.0.mode
    }

    /// The age from which a reading is stale.
    pub fn max_age(&self) -> Duration {
        self.0.max_age
    }

    /// Sets whether decisions depend on the posture. While they do not, the posture is [`Posture::Off`], and
    /// readings are only reported to administrators.
    pub fn set_enabled(&self, enabled: bool) {
        self.0.enabled.store(enabled, Ordering::Relaxed);
    }

    /// Replaces the snapshot.
    pub fn set_snapshot(&self, snapshot: PostureSnapshot) {
        self.0.snapshot.store(Arc::new(snapshot));
    }

    /// The latest snapshot.
    pub fn snapshot(&self) -> Arc<PostureSnapshot> {
        self.0.snapshot.load_full()
    }

    /// The posture at the time `now`.
    pub fn evaluate(&self, now: BootTime) -> PostureAtDecision {
        let snapshot = self.0.snapshot.load_full();
        let taken_at = snapshot.reading.as_ref().map(|reading| reading.taken_at);
        let age = taken_at.map_or(Duration::MAX, |taken_at| now.since(taken_at));
        let posture = match &snapshot.verdict {
            _ if !self.0.enabled.load(Ordering::Relaxed) => Posture::Off,
            Some((posture, _)) if age <= self.0.max_age => *posture,
            _ => Posture::Stale,
        };
        PostureAtDecision { mode: self.0.mode, posture, snapshot, age }
    }

    /// The digests of the programs that IMA measured.
    pub fn ima_digests(&self) -> &ImaDigests {
        &self.0.ima_digests
    }
}

impl PostureAtDecision {
    /// The snapshot that was evaluated.
    pub fn snapshot(&self) -> &PostureSnapshot {
        &self.snapshot
    }

    /// The age of the last reading; `None` if there was none.
    pub fn age(&self) -> Option<Duration> {
        (self.age != Duration::MAX).then_some(self.age)
    }

    /// Why the posture is not `accepted`, for agents and administrators. Empty if it is accepted or off.
    pub fn reason(&self) -> String {
        match self.posture {
            Posture::Off | Posture::Accepted => String::new(),
            Posture::Stale => {
                let detail = match self.age() {
                    Some(age) => format!("the PCRs were last read {} s ago", age.as_secs()),
                    None => "the PCRs have not been read yet".to_owned(),
                };
                match &self.snapshot.read_error {
                    Some(error) => format!("{detail}: {error}"),
                    None => detail,
                }
            }
            _ => self.snapshot.verdict.as_ref().map_or(String::new(), |(_, reason)| reason.clone()),
        }
    }

    /// The reason, and what an administrator does about it.
    pub fn reason_with_remedy(&self) -> String {
        let remedy = match self.posture {
            Posture::Off => "the PCRs have not been read yet; try again in a moment",
            Posture::Stale => {
                "they are read again when the TPM responds; hostbadge status shows the state of the TPM"
            }
            _ => {
                "an administrator reviews the changes with hostbadge posture diff and accepts them with \
                 hostbadge posture accept"
            }
        };
        let reason = self.reason();
        if reason.is_empty() { remedy.to_owned() } else { format!("{reason}; {remedy}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(taken: BootTime, verdict: Posture) -> PostureSnapshot {
        let reading = PcrReading {
            taken_at: taken,
            wall_time: Timestamp::from_secs(1),
            host_id: "host".into(),
            pcrs: PcrValues::default(),
        };
        PostureSnapshot {
            reading: Some(reading),
            verdict: Some((verdict, "PCR 7 changed".into())),
            ..PostureSnapshot::default()
        }
    }

    #[test]
    fn snapshot_is_stale_after_max_age() {
        let (start, second) = (BootTime::now(), Duration::from_secs(1));
        let state = PostureState::new(PostureMode::Enforce, second * 60);
        let before = state.evaluate(start);
        assert!(before.posture == Posture::Stale && before.reason().contains("have not been read yet"));
        state.set_snapshot(snapshot(start, Posture::Changed));
        assert_eq!(state.evaluate(start.after(second * 60)).posture, Posture::Changed);
        assert!(state.evaluate(start).reason_with_remedy().contains("PCR 7 changed; an administrator"));
        state.set_snapshot(PostureSnapshot {
            read_error: Some("it does not respond".into()),
            ..snapshot(start, Posture::Accepted)
        });
        assert_eq!(state.evaluate(start.after(second * 60)).posture, Posture::Accepted);
        let late = state.evaluate(start.after(second * 61));
        assert_eq!(late.posture, Posture::Stale);
        assert!(
            late.reason_with_remedy().starts_with("the PCRs were last read 61 s ago: it does not respond;"),
            "{}",
            late.reason_with_remedy()
        );
        // A reading that is a moment younger than `now` is not old.
        state.set_snapshot(snapshot(start.after(second), Posture::Accepted));
        assert_eq!(state.evaluate(start).posture, Posture::Accepted);
        state.set_enabled(false);
        assert_eq!(state.evaluate(start).posture, Posture::Off);
    }
}
