//! How often an agent, or a uid that is none, may ask.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::agents::Name;

/// A full bucket says no more than a missing one, so this many are kept at most.
const KEPT: usize = 16_384;
/// A flood is written down once in this time, with its size.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Requests a second in the long run, and at once after a pause.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    pub per_second: u32,
    pub burst: u32,
}

/// Whose requests are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    Agent(Name),
    Stranger(u32),
    /// The same agent where it has the TPM quote.
    Tpm(Name),
    /// The same agent where it has the TPM sign a token. Apart from the quotes, so that neither use starves the other.
    Signed(Name),
    /// The lines that all strangers together leave in the record.
    StrangersLines,
}

/// Lines a second that callers who are nobody may leave in the record, however many users they are.
const STRANGERS_LINES: Rate = Rate { per_second: 5, burst: 200 };

/// Too many requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limited {
    pub retry_after: Duration,
    /// How many refusals went unwritten, if this one is to be written down.
    pub tell: Option<u64>,
}

/// One token bucket for each caller.
#[derive(Debug)]
pub struct Limiter {
    agents: Rate,
    strangers: Rate,
    signed: Rate,
    buckets: Mutex<HashMap<Who, Bucket>>,
}

#[derive(Debug)]
struct Bucket {
    /// Requests in hand, as of `at`.
    level: f64,
    at: Instant,
    told: Option<Instant>,
    untold: u64,
}

/// A TPM answers a few times a second for the whole host.
const TPM: Rate = Rate { per_second: 1, burst: 5 };

impl Limiter {
    /// Rates of agents, of strangers, and of agents' tokens that the TPM signs.
    pub fn new(agents: Rate, strangers: Rate, signed: Rate) -> Limiter {
        Limiter { agents, strangers, signed, buckets: Mutex::default() }
    }

    /// Takes one request out of the caller's bucket.
    pub fn take(&self, who: Who, now: Instant) -> Result<(), Limited> {
        let rate = self.rate(&who);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= KEPT {
            buckets.retain(|who, bucket| {
                let rate = self.rate(who);
                bucket.refilled(rate, now) < f64::from(rate.burst)
            });
            // All of them in use at once is an attack by thousands of uids: begin anew rather than grow.
            if buckets.len() >= KEPT {
                buckets.clear();
            }
        }
        let full = Bucket { level: f64::from(rate.burst), at: now, told: None, untold: 0 };
        buckets.entry(who).or_insert(full).take(rate, now)
    }

    fn rate(&self, who: &Who) -> Rate {
        match who {
            Who::Agent(_) => self.agents,
            Who::Stranger(_) => self.strangers,
            Who::Tpm(_) => TPM,
            Who::Signed(_) => self.signed,
            Who::StrangersLines => STRANGERS_LINES,
        }
    }
}

impl Bucket {
    fn refilled(&self, rate: Rate, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        (self.level + passed * f64::from(rate.per_second)).min(f64::from(rate.burst))
    }

    fn take(&mut self, rate: Rate, now: Instant) -> Result<(), Limited> {
        self.level = self.refilled(rate, now);
        self.at = now;
        if self.level >= 1.0 {
            self.level -= 1.0;
            return Ok(());
        }
        let retry_after = Duration::from_secs_f64((1.0 - self.level) / f64::from(rate.per_second));
        let due = self.told.is_none_or(|told| now.saturating_duration_since(told) >= TELL_EVERY);
        if !due {
            self.untold += 1;
            return Err(Limited { retry_after, tell: None });
        }
        self.told = Some(now);
        Err(Limited { retry_after, tell: Some(std::mem::take(&mut self.untold)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate_then_a_refill() {
        let rate = Rate { per_second: 10, burst: 3 };
        let limiter = Limiter::new(rate, rate, rate);
        let start = Instant::now();
        let agent = |name: &str| Who::Agent(Name::parse(name).unwrap());
        for _ in 0..3 {
            limiter.take(agent("a"), start).unwrap();
        }
        let limited = limiter.take(agent("a"), start).unwrap_err();
        assert_eq!(limited, Limited { retry_after: Duration::from_millis(100), tell: Some(0) });
        assert_eq!(limiter.take(agent("a"), start).unwrap_err().tell, None);
        // Another agent is not held up, nor is a stranger.
        limiter.take(agent("b"), start).unwrap();
        limiter.take(Who::Stranger(7), start).unwrap();
        limiter.take(agent("a"), start + Duration::from_millis(110)).unwrap();
        assert!(limiter.take(agent("a"), start + Duration::from_millis(120)).is_err());
        let later = start + Duration::from_secs(60);
        for _ in 0..3 {
            limiter.take(agent("a"), later).unwrap();
        }
        assert_eq!(limiter.take(agent("a"), later).unwrap_err().tell, Some(2));
    }

    #[test]
    fn a_crowd_of_uids_takes_bounded_memory() {
        let rate = Rate { per_second: 1, burst: 1 };
        let limiter = Limiter::new(rate, rate, rate);
        let now = Instant::now();
        for uid in 0..40_000 {
            limiter.take(Who::Stranger(uid), now).unwrap();
        }
        assert!(limiter.buckets.lock().unwrap().len() <= KEPT);
    }
}
