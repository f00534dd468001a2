//! What was seen of the host, for decisions that wait for nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::{Baseline, ImaDigests, Mode, PcrValues, Posture};
use crate::clock::{BootTime, Timestamp};

/// PCRs as the TPM quoted them.
#[derive(Clone, Debug)]
pub struct PcrReading {
    /// Before the TPM was asked.
    pub taken_at: BootTime,
    /// The same by the machine's clock, for people.
    pub wall_time: Timestamp,
    /// The host's id.
    pub host_id: String,
    pub pcrs: PcrValues,
}

/// What is known, whole. A later one takes its place.
#[derive(Clone, Debug, Default)]
pub struct PostureSnapshot {
    pub reading: Option<PcrReading>,
    pub baseline: Option<Arc<Baseline>>,
    /// What the last reading comes to, and why it is not `accepted`.
    pub verdict: Option<(Posture, String)>,
    /// Why the TPM could not be read the last time.
    pub read_error: Option<String>,
    /// Why there is no baseline to compare with.
    pub baseline_error: Option<String>,
}

/// What the road knows of the host. Cheap to clone; every clone sees what is seen next.
#[derive(Clone, Debug)]
pub struct PostureState(Arc<PostureStateInner>);

#[derive(Debug)]
struct PostureStateInner {
    mode: Mode,
    max_age: Duration,
    /// Whether somebody looks again and again.
    enabled: AtomicBool,
    snapshot: ArcSwap<PostureSnapshot>,
    ima_digests: ImaDigests,
}

/// The host at one decision.
#[derive(Clone, Debug)]
pub struct PostureAtDecision {
    /// What the host's configuration says; a grant may say otherwise.
    pub mode: Mode,
    pub posture: Posture,
    snapshot: Arc<PostureSnapshot>,
    age: Duration,
}

impl PostureState {
    pub fn new(mode: Mode, max_age: Duration) -> PostureState {
        PostureState(Arc::new(PostureStateInner {
            mode,
            max_age,
            enabled: AtomicBool::new(mode != Mode::Off),
            snapshot: ArcSwap::default(),
            ima_digests: ImaDigests::default(),
        }))
    }

    pub fn mode(&self) -> Mode {
        self.0.mode
    }

    pub fn max_age(&self) -> Duration {
        self.0.max_age
    }

    /// Whether somebody looks from now on. While nobody does, what was seen is for administrators alone.
    pub fn set_enabled(&self, enabled: bool) {
        self.0.enabled.store(enabled, Ordering::Relaxed);
    }

    pub fn set_snapshot(&self, snapshot: PostureSnapshot) {
        self.0.snapshot.store(Arc::new(snapshot));
    }

    pub fn snapshot(&self) -> Arc<PostureSnapshot> {
        self.0.snapshot.load_full()
    }

    /// The host's condition at this moment.
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

    pub fn ima_digests(&self) -> &ImaDigests {
        &self.0.ima_digests
    }
}

impl PostureAtDecision {
    pub fn snapshot(&self) -> &PostureSnapshot {
        &self.snapshot
    }

    /// How long ago the PCRs were read; none if they never were.
    pub fn age(&self) -> Option<Duration> {
        (self.age != Duration::MAX).then_some(self.age)
    }

    /// Why the posture is not `accepted`, for callers and administrators. Empty where it is, or nobody looks.
    pub fn reason(&self) -> String {
        match self.posture {
            Posture::Off | Posture::Accepted => String::new(),
            Posture::Stale => {
                let detail = match self.age() {
                    Some(age) => format!("the PCRs were last read {} s ago", age.as_secs()),
                    None => "the PCRs were not read yet".to_owned(),
                };
                self.snapshot.read_error.as_ref().map_or(detail.clone(), |error| format!("{detail}: {error}"))
            }
            _ => self.snapshot.verdict.as_ref().map_or(String::new(), |(_, why)| why.clone()),
        }
    }

    /// The same with the way out.
    pub fn reason_with_remedy(&self) -> String {
        let remedy = match self.posture {
            Posture::Off => "nobody has looked yet; try again in a moment",
            Posture::Stale => {
                "it is looked at again as soon as the TPM answers; hostbadge status names what is wrong with it"
            }
            _ => {
                "an administrator sees what changed with hostbadge posture diff, and accepts it with hostbadge posture accept"
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
            host_id: "us".into(),
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
        let state = PostureState::new(Mode::Enforce, second * 60);
        let before = state.evaluate(start);
        assert!(before.posture == Posture::Stale && before.reason().contains("not read yet"));
        state.set_snapshot(snapshot(start, Posture::Changed));
        assert_eq!(state.evaluate(start.after(second * 60)).posture, Posture::Changed);
        assert!(state.evaluate(start).reason_with_remedy().contains("PCR 7 changed; an administrator"));
        state.set_snapshot(PostureSnapshot {
            read_error: Some("it is silent".into()),
            ..snapshot(start, Posture::Accepted)
        });
        assert_eq!(state.evaluate(start.after(second * 60)).posture, Posture::Accepted);
        let late = state.evaluate(start.after(second * 61));
        assert_eq!(late.posture, Posture::Stale);
        assert!(
            late.reason_with_remedy().starts_with("the PCRs were last read 61 s ago: it is silent;"),
            "{}",
            late.reason_with_remedy()
        );
        // What was seen a moment after `now` was taken is not old.
        state.set_snapshot(snapshot(start.after(second), Posture::Accepted));
        assert_eq!(state.evaluate(start).posture, Posture::Accepted);
        state.set_enabled(false);
        assert_eq!(state.evaluate(start).posture, Posture::Off);
    }
}
