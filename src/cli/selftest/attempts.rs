//! What the attempts of a self-test came to.

use std::time::{Duration, Instant};

use serde::Serialize;

/// The self-test ends after this time; what was not tried by then is skipped.
const MAX_TIME: Duration = Duration::from_secs(120);

/// What an attempt came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    /// The host withstood.
    Held,
    /// The host did not withstand.
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

    /// The attempts that follow are part of this attack. Returns whether there is time for it.
    pub(super) fn begin(&mut self, attack: &'static str) -> bool {
        self.attack = attack;
        let has_time = Instant::now() < self.deadline;
        if !has_time {
            self.skipped("everything", format!("the {} s of a self-test are over", MAX_TIME.as_secs()));
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

    /// The host withstood if `withstood`.
    pub(super) fn judge(&mut self, attempt: impl Into<String>, withstood: bool, detail: impl Into<String>) {
        self.add(attempt, if withstood { Outcome::Held } else { Outcome::Hole }, detail);
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
