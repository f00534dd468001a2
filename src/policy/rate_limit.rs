//! Rate limits for agents and for uids without an agent: one token bucket each.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::rate::Rate;
use super::tenant_quota::TenantQuotas;
use crate::agents::AgentName;
use crate::mutex::lock;

/// Buckets in memory. Full ones are dropped first: a missing bucket counts as full.
const MAX_BUCKETS: usize = 16_384;
/// Refusals of one key are logged at most once in this time, with the number of those not logged.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Requests with equal keys share a bucket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RateLimitKey {
    /// Requests of one agent.
    Agent(AgentName),
    /// Requests of all agents of one tenant. Only a tenant whose quota has a rate has a bucket.
    Tenant(String),
    /// Requests of one uid by processes that match no agent.
    UnknownUid(u32),
    /// One agent's requests for evidence, for which the TPM signs a quote: 1 per second, burst 5.
    TpmQuote(AgentName),
    /// One agent's requests for tokens that the TPM signs. Separate from quotes, so that neither starves the
    /// other.
    TpmSign(AgentName),
    /// Audit records of all unknown callers together: 5 per second, burst 200.
    UnknownCallerRecords,
    /// Commands of one administrator's uid that change or record something: 12 a minute, burst 60.
    Admin(u32),
}

/// Unknown callers can have any number of uids, so their audit records share one bucket.
const UNKNOWN_CALLER_RECORD_RATE: Rate = Rate { per_second: 5, burst: 200 };

/// Each command takes [`ADMIN_COMMAND_COST`] of these.
const ADMIN_RATE: Rate = Rate { per_second: 1, burst: 300 };
/// A rate has whole numbers, and a command every 5 s is enough after a burst.
const ADMIN_COMMAND_COST: f64 = 5.0;

/// A request exceeds the rate limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimited {
    /// When the next request will be accepted, if no other arrives before.
    pub retry_after: Duration,
    /// `Some` if this refusal is to be logged: the number of refusals since the last logged one.
    pub unlogged: Option<u64>,
}

/// Token buckets, one for each [`RateLimitKey`], at most 16,384.
#[derive(Debug)]
pub struct Limiter {
    agent_rate: Rate,
    unknown_uid_rate: Rate,
    tpm_sign_rate: Rate,
    tenants: TenantQuotas,
    buckets: Mutex<HashMap<RateLimitKey, TokenBucket>>,
    /// The bucket of [`RateLimitKey::UnknownCallerRecords`]; `None` while it is full. Unknown callers can
    /// cause the others to be cleared, and this one bounds what all of them together can write.
    unknown_records: Mutex<Option<TokenBucket>>,
}

#[derive(Debug)]
struct TokenBucket {
    /// Requests available at `updated_at`.
    tokens: f64,
    updated_at: Instant,
    last_logged: Option<Instant>,
    suppressed: u64,
}

/// A TPM executes only a few commands per second for the whole host.
const TPM_QUOTE_RATE: Rate = Rate { per_second: 1, burst: 5 };

impl Limiter {
    /// Creates a limiter with the rates of agents, of uids without an agent, and of agents' tokens that the
    /// TPM signs.
    pub fn new(agent_rate: Rate, unknown_uid_rate: Rate, tpm_sign_rate: Rate) -> Limiter {
        Limiter {
            agent_rate,
            unknown_uid_rate,
            tpm_sign_rate,
            tenants: TenantQuotas::default(),
            buckets: Mutex::default(),
            unknown_records: Mutex::default(),
        }
    }

    /// Adds the quotas of tenants, which have none before.
    pub fn with_tenants(self, tenants: TenantQuotas) -> Limiter {
        Limiter { tenants, ..self }
    }

    /// The quotas of tenants.
    pub fn tenants(&self) -> &TenantQuotas {
        &self.tenants
    }

    /// Counts one request against the bucket of `key`.
    ///
    /// # Errors
    /// [`RateLimited`] if the bucket is empty.
    pub fn take(&self, key: RateLimitKey, now: Instant) -> Result<(), RateLimited> {
        let (rate, cost) = (self.rate_of(&key), cost_of(&key));
        if key == RateLimitKey::UnknownCallerRecords {
            let mut bucket = lock(&self.unknown_records);
            return bucket.get_or_insert_with(|| TokenBucket::full(rate, now)).take(rate, cost, now);
        }
        let mut buckets = lock(&self.buckets);
        if buckets.len() >= MAX_BUCKETS && !buckets.contains_key(&key) {
            self.make_room(&mut buckets, now);
        }
        buckets.entry(key).or_insert(TokenBucket::full(rate, now)).take(rate, cost, now)
    }

    /// Drops full buckets. The numbers of their refusals go to the bucket of unknown callers' records, so
    /// that a later record has them.
    fn make_room(&self, buckets: &mut HashMap<RateLimitKey, TokenBucket>, now: Instant) {
        let mut unlogged = 0;
        buckets.retain(|key, bucket| {
            let rate = self.rate_of(key);
            let is_full = bucket.tokens_at(rate, now) >= f64::from(rate.burst);
            unlogged += if is_full { bucket.suppressed } else { 0 };
            !is_full
        });
        // Only an attack by thousands of uids uses all buckets at once. Clearing them bounds the memory.
        if buckets.len() >= MAX_BUCKETS {
            unlogged += buckets.drain().map(|(_, bucket)| bucket.suppressed).sum::<u64>();
        }
        if unlogged > 0 {
            let full = TokenBucket::full(UNKNOWN_CALLER_RECORD_RATE, now);
            lock(&self.unknown_records).get_or_insert(full).suppressed += unlogged;
        }
    }

    fn rate_of(&self, key: &RateLimitKey) -> Rate {
        match key {
            RateLimitKey::Agent(_) => self.agent_rate,
            // A bucket is taken from only where the quota has a rate.
            RateLimitKey::Tenant(name) => self.tenants.of(Some(name)).rate.unwrap_or(self.agent_rate),
            RateLimitKey::UnknownUid(_) => self.unknown_uid_rate,
            RateLimitKey::TpmQuote(_) => TPM_QUOTE_RATE,
            RateLimitKey::TpmSign(_) => self.tpm_sign_rate,
            RateLimitKey::UnknownCallerRecords => UNKNOWN_CALLER_RECORD_RATE,
            RateLimitKey::Admin(_) => ADMIN_RATE,
        }
    }
}

/// What one request takes from its bucket.
fn cost_of(key: &RateLimitKey) -> f64 {
    match key {
        RateLimitKey::Admin(_) => ADMIN_COMMAND_COST,
        _ => 1.0,
    }
}

impl TokenBucket {
    fn full(rate: Rate, now: Instant) -> TokenBucket {
        TokenBucket { tokens: f64::from(rate.burst), updated_at: now, last_logged: None, suppressed: 0 }
    }

    fn tokens_at(&self, rate: Rate, now: Instant) -> f64 {
        let elapsed = now.saturating_duration_since(self.updated_at).as_secs_f64();
        (self.tokens + elapsed * f64::from(rate.per_second)).min(f64::from(rate.burst))
    }

    fn take(&mut self, rate: Rate, cost: f64, now: Instant) -> Result<(), RateLimited> {
        self.tokens = self.tokens_at(rate, now);
        self.updated_at = now;
        if self.tokens >= cost {
            self.tokens -= cost;
            return Ok(());
        }
        let retry_after = Duration::from_secs_f64((cost - self.tokens) / f64::from(rate.per_second));
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
        // Other agents and unknown uids are not affected.
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
    fn an_administrator_has_a_burst_of_60_commands_and_then_12_a_minute() {
        let rate = Rate { per_second: 1, burst: 1 };
        let limiter = Limiter::new(rate, rate, rate);
        let start = Instant::now();
        for _ in 0..60 {
            limiter.take(RateLimitKey::Admin(7), start).unwrap();
        }
        let limited = limiter.take(RateLimitKey::Admin(7), start).unwrap_err();
        assert_eq!(limited.retry_after, Duration::from_secs(5));
        limiter.take(RateLimitKey::Admin(8), start).unwrap();
        let accepted = (1..=60).filter(|second: &u64| {
            limiter.take(RateLimitKey::Admin(7), start + Duration::from_secs(*second)).is_ok()
        });
        assert_eq!(accepted.count(), 12);
    }

    #[test]
    fn dropped_buckets_lose_no_counted_refusals() {
        let rate = Rate { per_second: 1, burst: 1 };
        let limiter = Limiter::new(rate, rate, rate);
        let start = Instant::now();
        let mut counted = 0;
        for uid in 0..40_000 {
            // Half of the buckets are full again when room is needed.
            let now = start + Duration::from_secs(u64::from(uid % 2) * 1000);
            limiter.take(RateLimitKey::UnknownUid(uid), now).unwrap();
            assert_eq!(limiter.take(RateLimitKey::UnknownUid(uid), now).unwrap_err().unlogged, Some(0));
            assert_eq!(limiter.take(RateLimitKey::UnknownUid(uid), now).unwrap_err().unlogged, None);
            counted += 1;
        }
        let buckets = limiter.buckets.lock().unwrap();
        assert!(buckets.len() <= MAX_BUCKETS);
        let unknown_records = limiter.unknown_records.lock().unwrap();
        let all = buckets.values().chain(unknown_records.iter());
        assert_eq!(all.map(|bucket| bucket.suppressed).sum::<u64>(), counted);
    }

    #[test]
    fn the_bucket_of_unknown_callers_records_outlives_those_of_any_number_of_uids() {
        let rate = Rate { per_second: 1, burst: 1 };
        let limiter = Limiter::new(rate, rate, rate);
        let now = Instant::now();
        let mut written = 0;
        for uid in 0..60_000 {
            limiter.take(RateLimitKey::UnknownUid(uid), now).unwrap();
            written += usize::from(limiter.take(RateLimitKey::UnknownCallerRecords, now).is_ok());
        }
        assert_eq!(written, UNKNOWN_CALLER_RECORD_RATE.burst as usize);
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
