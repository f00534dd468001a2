//! What the attempts of a self-test came to.

use std::time::{Duration, Instant};

use serde::Serialize;

/// After this time no further attempt begins; what was not tried by then is skipped. The attempt that has begun ends
/// within a minute.
const MAX_TIME: Duration = Duration::from_secs(120);

/// What an attempt came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    /// The attempt failed.
    Held,
    /// The attempt succeeded.
    Hole,
    /// It could not be tried, so nothing is known.
    Skipped,
}

impl Outcome {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Outcome::Held => "held",
            Outcome::Hole => "HOLE",
            Outcome::Skipped => "skipped",
        }
    }
}

/// One attempt.
#[derive(Debug, Serialize)]
pub(super) struct Attempt {
    /// The attack that it is part of.
    pub(super) attack: &'static str,
    /// What was tried.
    pub(super) attempt: String,
    /// What came of it.
    pub(super) result: Outcome,
    /// What was seen, or why it was not tried.
    pub(super) detail: String,
}

/// All attempts so far.
#[derive(Debug)]
pub(super) struct Attempts {
    attack: &'static str,
    list: Vec<Attempt>,
    deadline: Instant,
}

impl Attempts {
    pub(super) fn new() -> Attempts {
        Attempts { attack: "", list: Vec::new(), deadline: Instant::now() + MAX_TIME }
    }

    /// The same without time for any attempt.
    #[cfg(test)]
    pub(super) fn without_time() -> Attempts {
        Attempts { deadline: Instant::now(), ..Attempts::new() }
    }

    /// The attempts that follow are part of this attack. Returns whether there is time for it.
    pub(super) fn begin(&mut self, attack: &'static str) -> bool {
        self.attack = attack;
        self.has_time("everything")
    }

    /// Whether there is time for this attempt. Where there is not, it is skipped.
    pub(super) fn has_time(&mut self, attempt: &str) -> bool {
        let has_time = Instant::now() < self.deadline;
        if !has_time {
            self.skipped(attempt, format!("the {} s of a self-test are over", MAX_TIME.as_secs()));
        }
        has_time
    }

    pub(super) fn add(&mut self, attempt: impl Into<String>, result: Outcome, detail: impl Into<String>) {
        let (attempt, detail) = (attempt.into(), detail.into());
        self.list.push(Attempt { attack: self.attack, attempt, result, detail });
    }

    pub(super) fn skipped(&mut self, attempt: impl Into<String>, why: impl Into<String>) {
        self.add(attempt, Outcome::Skipped, why);
    }

    /// The attempt failed if `is_held`, and is a hole otherwise.
    pub(super) fn judge(&mut self, attempt: impl Into<String>, is_held: bool, detail: impl Into<String>) {
        self.add(attempt, if is_held { Outcome::Held } else { Outcome::Hole }, detail);
    }

    pub(super) fn into_list(self) -> Vec<Attempt> {
        self.list
    }

    /// The results of the attempts whose names contain `part`.
    #[cfg(test)]
    pub(super) fn results(&self, part: &str) -> Vec<Outcome> {
        self.list.iter().filter(|one| one.attempt.contains(part)).map(|one| one.result).collect()
    }
}
