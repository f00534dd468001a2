//! What was seen of the host, for decisions that wait for nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::{Baseline, Measured, Mode, Pcrs, Posture};
use crate::clock::{Timestamp, Uptime};

/// PCRs as the TPM quoted them.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Before the TPM was asked.
    pub taken: Uptime,
    /// The same by the machine's clock, for people.
    pub at: Timestamp,
    /// The host's id.
    pub host: String,
    pub pcrs: Pcrs,
}

/// What is known, whole. A later one takes its place.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub reading: Option<Reading>,
    pub baseline: Option<Arc<Baseline>>,
    /// What the last reading comes to, and why it is not `accepted`.
    pub verdict: Option<(Posture, String)>,
    /// Why the TPM could not be read the last time.
    pub failed: Option<String>,
    /// Why there is no baseline to compare with.
    pub trouble: Option<String>,
}

/// What the road knows of the host. Cheap to clone; every clone sees what is seen next.
#[derive(Clone, Debug)]
pub struct Watched(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    mode: Mode,
    max_age: Duration,
    /// Whether somebody looks again and again.
    watching: AtomicBool,
    seen: ArcSwap<Seen>,
    measured: Measured,
}

/// The host at one decision.
#[derive(Clone, Debug)]
pub struct Condition {
    /// What the host's configuration says; a grant may say otherwise.
    pub mode: Mode,
    pub posture: Posture,
    seen: Arc<Seen>,
    age: Duration,
}

impl Watched {
    pub fn new(mode: Mode, max_age: Duration) -> Watched {
        Watched(Arc::new(Inner {
            mode,
            max_age,
            watching: AtomicBool::new(mode != Mode::Off),
            seen: ArcSwap::default(),
            measured: Measured::default(),
        }))
    }

    pub fn mode(&self) -> Mode {
        self.0.mode
    }

    pub fn max_age(&self) -> Duration {
        self.0.max_age
    }

    /// Whether somebody looks from now on. While nobody does, what was seen is for administrators alone.
    pub fn set_watching(&self, watching: bool) {
        self.0.watching.store(watching, Ordering::Relaxed);
    }

    pub fn set(&self, seen: Seen) {
        self.0.seen.store(Arc::new(seen));
    }

    pub fn seen(&self) -> Arc<Seen> {
        self.0.seen.load_full()
    }

    /// The host's condition at this moment.
    pub fn condition(&self, now: Uptime) -> Condition {
        let seen = self.0.seen.load_full();
        let taken = seen.reading.as_ref().map(|reading| reading.taken);
        let age = taken.map_or(Duration::MAX, |taken| now.since(taken));
        let posture = match &seen.verdict {
            _ if !self.0.watching.load(Ordering::Relaxed) => Posture::Off,
            Some((posture, _)) if age <= self.0.max_age => *posture,
            _ => Posture::Stale,
        };
        Condition { mode: self.0.mode, posture, seen, age }
    }

    pub fn measured(&self) -> &Measured {
        &self.0.measured
    }
}

impl Condition {
    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    /// How long ago the PCRs were read; none if they never were.
    pub fn age(&self) -> Option<Duration> {
        (self.age != Duration::MAX).then_some(self.age)
    }

    /// Why the posture is not `accepted`, for callers and administrators. Empty where it is, or nobody looks.
    pub fn why(&self) -> String {
        match self.posture {
            Posture::Off | Posture::Accepted => String::new(),
            Posture::Stale => {
                let when = match self.age() {
                    Some(age) => format!("the PCRs were last read {} s ago", age.as_secs()),
                    None => "the PCRs were not read yet".to_owned(),
                };
                self.seen.failed.as_ref().map_or(when.clone(), |failed| format!("{when}: {failed}"))
            }
            _ => self.seen.verdict.as_ref().map_or(String::new(), |(_, why)| why.clone()),
        }
    }

    /// The same with the way out.
    pub fn remedy(&self) -> String {
        let way = match self.posture {
            Posture::Off => "nobody has looked yet; try again in a moment",
            Posture::Stale => {
                "it is looked at again as soon as the TPM answers; hostbadge status names what is wrong with it"
            }
            _ => {
                "an administrator sees what changed with hostbadge posture diff, and accepts it with hostbadge posture accept"
            }
        };
        let why = self.why();
        if why.is_empty() { way.to_owned() } else { format!("{why}; {way}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(taken: Uptime, verdict: Posture) -> Seen {
        let reading =
            Reading { taken, at: Timestamp::from_secs(1), host: "us".into(), pcrs: Pcrs::default() };
        Seen { reading: Some(reading), verdict: Some((verdict, "PCR 7 changed".into())), ..Seen::default() }
    }

    #[test]
    fn what_was_seen_counts_for_so_long_and_then_is_stale() {
        let (start, second) = (Uptime::now(), Duration::from_secs(1));
        let watched = Watched::new(Mode::Enforce, second * 60);
        let before = watched.condition(start);
        assert!(before.posture == Posture::Stale && before.why().contains("not read yet"));
        watched.set(seen(start, Posture::Changed));
        assert_eq!(watched.condition(start.after(second * 60)).posture, Posture::Changed);
        assert!(watched.condition(start).remedy().contains("PCR 7 changed; an administrator"));
        watched.set(Seen { failed: Some("it is silent".into()), ..seen(start, Posture::Accepted) });
        assert_eq!(watched.condition(start.after(second * 60)).posture, Posture::Accepted);
        let late = watched.condition(start.after(second * 61));
        assert_eq!(late.posture, Posture::Stale);
        assert!(
            late.remedy().starts_with("the PCRs were last read 61 s ago: it is silent;"),
            "{}",
            late.remedy()
        );
        // What was seen a moment after `now` was taken is not old.
        watched.set(seen(start.after(second), Posture::Accepted));
        assert_eq!(watched.condition(start).posture, Posture::Accepted);
        watched.set_watching(false);
        assert_eq!(watched.condition(start).posture, Posture::Off);
    }
}
