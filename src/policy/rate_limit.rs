//! How often an agent, or a uid that is none, may ask.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::agents::AgentName;

/// A full bucket says no more than a missing one, so this many are kept at most.
const MAX_BUCKETS: usize = 16_384;
/// A flood is written down once in this time, with its size.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Requests a second in the long run, and at once after a pause.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    pub per_second: u32,
    pub burst: u32,
}

/// Whose requests are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RateLimitKey {
    Agent(AgentName),
    UnknownUid(u32),
    /// The same agent where it has the TPM quote.
    TpmQuote(AgentName),
    /// The same agent where it has the TPM sign a token. Apart from the quotes, so that neither use starves the other.
    TpmSign(AgentName),
    /// The lines that all strangers together leave in the record.
    UnknownCallerRecords,
}

/// Lines a second that callers who are nobody may leave in the record, however many users they are.
const UNKNOWN_CALLER_RECORD_RATE: Rate = Rate { per_second: 5, burst: 200 };

/// Too many requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimited {
    pub retry_after: Duration,
    /// How many refusals went unwritten, if this one is to be written down.
    pub unlogged: Option<u64>,
}

/// One token bucket for each caller.
#[derive(Debug)]
pub struct Limiter {
    agent_rate: Rate,
    unknown_uid_rate: Rate,
    tpm_sign_rate: Rate,
    buckets: Mutex<HashMap<RateLimitKey, TokenBucket>>,
}

#[derive(Debug)]
struct TokenBucket {
    /// Requests in hand, as of `at`.
    tokens: f64,
    updated_at: Instant,
    last_logged: Option<Instant>,
    suppressed: u64,
}

/// A TPM answers a few times a second for the whole host.
const TPM_QUOTE_RATE: Rate = Rate { per_second: 1, burst: 5 };

impl Limiter {
    /// Rates of agents, of strangers, and of agents' tokens that the TPM signs.
    pub fn new(agent_rate: Rate, unknown_uid_rate: Rate, tpm_sign_rate: Rate) -> Limiter {
        Limiter { agent_rate, unknown_uid_rate, tpm_sign_rate, buckets: Mutex::default() }
    }

    /// Takes one request out of the caller's bucket.
    pub fn take(&self, key: RateLimitKey, now: Instant) -> Result<(), RateLimited> {
        let rate = self.rate_of(&key);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MAX_BUCKETS {
            buckets.retain(|key, bucket| {
                let rate = self.rate_of(key);
                bucket.tokens_at(rate, now) < f64::from(rate.burst)
            });
            // All of them in use at once is an attack by thousands of uids: begin anew rather than grow.
            if buckets.len() >= MAX_BUCKETS {
                buckets.clear();
            }
        }
        let full =
            TokenBucket { tokens: f64::from(rate.burst), updated_at: now, last_logged: None, suppressed: 0 };
        buckets.entry(key).or_insert(full).take(rate, now)
    }

    fn rate_of(&self, key: &RateLimitKey) -> Rate {
        match key {
            RateLimitKey::Agent(_) => self.agent_rate,
            RateLimitKey::UnknownUid(_) => self.unknown_uid_rate,
            RateLimitKey::TpmQuote(_) => TPM_QUOTE_RATE,
            RateLimitKey::TpmSign(_) => self.tpm_sign_rate,
            RateLimitKey::UnknownCallerRecords => UNKNOWN_CALLER_RECORD_RATE,
        }
    }
}

impl TokenBucket {
    fn tokens_at(&self, rate: Rate, now: Instant) -> f64 {
        let elapsed = now.saturating_duration_since(self.updated_at).as_secs_f64();
        (self.tokens + elapsed * f64::from(rate.per_second)).min(f64::from(rate.burst))
    }

    fn take(&mut self, rate: Rate, now: Instant) -> Result<(), RateLimited> {
        self.tokens = self.tokens_at(rate, now);
        self.updated_at = now;
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        let retry_after = Duration::from_secs_f64((1.0 - self.tokens) / f64::from(rate.per_second));
        let log_now = self.last_logged.is_none_or(|last| now.saturating_duration_since(last) >= LOG_INTERVAL);
        if !log_now {
            self.suppressed += 1;
            return Err(RateLimited { retry_after, unlogged: None });
        }
        self.last_logged = Some(now);
        Err(RateLimited { retry_after, unlogged: Some(std::mem::take(&mut self.suppressed)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allows_burst_then_rate_then_refills() {
        let rate = Rate { per_second: 10, burst: 3 };
        let limiter = Limiter::new(rate, rate, rate);
        let start = Instant::now();
        let agent = |name: &str| RateLimitKey::Agent(AgentName::parse(name).unwrap());
        for _ in 0..3 {
            limiter.take(agent("a"), start).unwrap();
        }
        let limited = limiter.take(agent("a"), start).unwrap_err();
        assert_eq!(limited, RateLimited { retry_after: Duration::from_millis(100), unlogged: Some(0) });
        assert_eq!(limiter.take(agent("a"), start).unwrap_err().unlogged, None);
        // Another agent is not held up, nor is a stranger.
        limiter.take(agent("b"), start).unwrap();
        limiter.take(RateLimitKey::UnknownUid(7), start).unwrap();
        limiter.take(agent("a"), start + Duration::from_millis(110)).unwrap();
        assert!(limiter.take(agent("a"), start + Duration::from_millis(120)).is_err());
        let later = start + Duration::from_secs(60);
        for _ in 0..3 {
            limiter.take(agent("a"), later).unwrap();
        }
        assert_eq!(limiter.take(agent("a"), later).unwrap_err().unlogged, Some(2));
    }

    #[test]
    fn bucket_count_is_bounded() {
        let rate = Rate { per_second: 1, burst: 1 };
        let limiter = Limiter::new(rate, rate, rate);
        let now = Instant::now();
        for uid in 0..40_000 {
            limiter.take(RateLimitKey::UnknownUid(uid), now).unwrap();
        }
        assert!(limiter.buckets.lock().unwrap().len() <= MAX_BUCKETS);
    }
}
