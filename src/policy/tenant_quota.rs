//! Quotas of tenants: what all agents of one tenant may have together, so that it leaves some to others.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::time::Duration;

use super::rate::Rate;
use crate::clock::{BootTime, ExpiringCount};
use crate::mutex::lock;

/// What all agents of one tenant may have together; `None` sets no bound beside those of the host.
#[derive(Clone, Copy, Debug, Default)]
pub struct TenantQuota {
    /// Requests, beside the rate of each agent.
    pub rate: Option<Rate>,
    /// Tokens that have not expired: access tokens, JWT-SVIDs and WIT-SVIDs that this process issued.
    pub live_tokens: Option<u32>,
    /// Sealed credentials.
    pub credentials: Option<u32>,
    /// X.509 certificates that have not expired.
    pub certificates: Option<u32>,
}

/// The tenant has as many tokens that have not expired as it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyTokens {
    /// How many it may have.
    pub limit: u32,
    /// When the first of them has expired.
    pub retry_after: Duration,
}

/// The quotas by tenant, and the tokens of those that have a bound for them.
#[derive(Debug, Default)]
pub struct TenantQuotas {
    quotas: BTreeMap<String, TenantQuota>,
    live: Mutex<HashMap<String, ExpiringCount>>,
}

impl TenantQuotas {
    /// These quotas; other tenants have none.
    pub fn new(quotas: BTreeMap<String, TenantQuota>) -> TenantQuotas {
        TenantQuotas { quotas, live: Mutex::default() }
    }

    /// The quota of a tenant; without bounds where none is configured. Agents without a tenant have none.
    pub fn of(&self, tenant: Option<&str>) -> TenantQuota {
        tenant.and_then(|tenant| self.quotas.get(tenant)).copied().unwrap_or_default()
    }

    /// Counts a token of this tenant that is valid for `lifetime` from now on.
    ///
    /// The time is that since the host started, so that setting the clock neither frees a tenant's tokens
    /// nor keeps it from getting others.
    ///
    /// # Errors
    /// [`TooManyTokens`], and the token is not counted.
    pub fn take_token(
        &self,
        tenant: Option<&str>,
        lifetime: Duration,
        now: BootTime,
    ) -> Result<(), TooManyTokens> {
        let (Some(tenant), Some(limit)) = (tenant, self.of(tenant).live_tokens) else { return Ok(()) };
        let mut live = lock(&self.live);
        let tokens = match live.get_mut(tenant) {
            Some(tokens) => tokens,
            None => live.entry(tenant.to_owned()).or_default(),
        };
        if tokens.count(now) >= limit {
            return Err(TooManyTokens { limit, retry_after: tokens.until_first_end(now) });
        }
        tokens.add(lifetime, now);
        Ok(())
    }

    /// How many tokens of this tenant have not expired; `None` where it has no bound for them.
    pub fn live_tokens(&self, tenant: &str, now: BootTime) -> Option<u32> {
        self.of(Some(tenant)).live_tokens?;
        let mut live = lock(&self.live);
        Some(live.get_mut(tenant).map_or(0, |tokens| tokens.count(now)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, Timestamp};

    fn quotas(live_tokens: u32) -> TenantQuotas {
        let quota = TenantQuota { live_tokens: Some(live_tokens), ..TenantQuota::default() };
        TenantQuotas::new([("acme".to_owned(), quota)].into())
    }

    fn take(quotas: &TenantQuotas, tenant: &str, seconds: u64, clock: &Clock) -> Result<(), TooManyTokens> {
        quotas.take_token(Some(tenant), Duration::from_secs(seconds), clock.boot_time())
    }

    #[test]
    fn tokens_count_until_they_have_expired() {
        let (quotas, clock) = (quotas(3), Clock::manual(Timestamp::from_secs(1_800_000_000)));
        take(&quotas, "acme", 60, &clock).unwrap();
        take(&quotas, "acme", 300, &clock).unwrap();
        take(&quotas, "acme", 3600, &clock).unwrap();
        let refused = take(&quotas, "acme", 60, &clock).unwrap_err();
        assert_eq!(refused.limit, 3);
        assert!((60..=120).contains(&refused.retry_after.as_secs()), "{refused:?}");
        clock.advance(refused.retry_after);
        take(&quotas, "acme", 60, &clock).unwrap();
        assert!(take(&quotas, "acme", 60, &clock).is_err());
        clock.advance(Duration::from_secs(24 * 3600));
        assert_eq!(quotas.live_tokens("acme", clock.boot_time()), Some(0));
        for _ in 0..3 {
            take(&quotas, "acme", 3600, &clock).unwrap();
        }
        assert!(take(&quotas, "acme", 1, &clock).is_err());
    }

    #[test]
    fn a_clock_that_is_set_frees_no_tokens() {
        let (quotas, clock) = (quotas(1), Clock::manual(Timestamp::from_secs(1_800_000_000)));
        take(&quotas, "acme", 3600, &clock).unwrap();
        clock.set(Timestamp::from_secs(1_900_000_000));
        assert!(take(&quotas, "acme", 60, &clock).is_err());
        clock.set(Timestamp::from_secs(1_700_000_000));
        assert!(take(&quotas, "acme", 60, &clock).is_err());
    }

    #[test]
    fn tenants_without_a_quota_are_not_counted() {
        let (quotas, clock) = (quotas(0), Clock::manual(Timestamp::from_secs(1_800_000_000)));
        assert!(take(&quotas, "acme", 60, &clock).is_err());
        take(&quotas, "other", 60, &clock).unwrap();
        quotas.take_token(None, Duration::from_secs(60), clock.boot_time()).unwrap();
        assert!(lock(&quotas.live).len() <= 1);
        assert_eq!(quotas.live_tokens("other", clock.boot_time()), None);
    }
}
