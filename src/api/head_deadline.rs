//! The time in which the head of a connection's next request has to arrive.
//!
//! The HTTP library's own timeout creates, registers and removes a timer for each request. Here a request
//! only stores when the wait began, and the connection's one timer is set again only when it fires.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// `waiting_since` while a request is in progress.
const NOT_WAITING: u64 = u64::MAX;

/// Since when a connection waits for the head of a request.
#[derive(Debug)]
pub struct HeadDeadline {
    connected: Instant,
    /// Microseconds after `connected`, or [`NOT_WAITING`].
    waiting_since: AtomicU64,
    /// Whether a reply was made and is not sent completely.
    is_replying: AtomicBool,
}

impl HeadDeadline {
    /// Of a connection that was just accepted: it waits from now on.
    pub fn new() -> HeadDeadline {
        HeadDeadline {
            connected: Instant::now(),
            waiting_since: AtomicU64::new(0),
            is_replying: AtomicBool::new(false),
        }
    }

    /// To be called when a head has arrived.
    pub fn mark_head_arrived(&self) {
        self.waiting_since.store(NOT_WAITING, Ordering::Relaxed);
    }

    /// To be called when a reply was made.
    pub fn mark_reply_made(&self) {
        self.is_replying.store(true, Ordering::Relaxed);
    }

    /// To be called when everything is written. The connection waits for the next head from now on, if that
    /// was a reply; the HTTP library flushes also while a head arrives in pieces.
    pub fn mark_flushed(&self, now: Instant) {
        if self.is_replying.load(Ordering::Relaxed) {
            self.is_replying.store(false, Ordering::Relaxed);
            let since = now.duration_since(self.connected).as_micros() as u64;
            self.waiting_since.store(since, Ordering::Relaxed);
        }
    }

    /// Returns when the connection has waited for a head for `timeout`.
    pub async fn expired(&self, timeout: Duration) {
        loop {
            let rest = self.rest(timeout, Instant::now());
            if rest.is_zero() {
                return;
            }
            tokio::time::sleep(rest).await;
        }
    }

    /// The earliest time after which the connection can have waited for `timeout`.
    fn rest(&self, timeout: Duration, now: Instant) -> Duration {
        match self.waiting_since.load(Ordering::Relaxed) {
            NOT_WAITING => timeout,
            since => {
                let waited = now.duration_since(self.connected).saturating_sub(Duration::from_micros(since));
                timeout.saturating_sub(waited)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_expires_only_while_it_waits_for_a_head() {
        let deadline = HeadDeadline::new();
        let at = |seconds| deadline.connected + Duration::from_secs(seconds);
        let rest_at = |seconds| deadline.rest(Duration::from_secs(60), at(seconds)).as_secs();
        assert_eq!((rest_at(0), rest_at(59), rest_at(60), rest_at(61)), (60, 1, 0, 0));
        deadline.mark_head_arrived();
        deadline.mark_flushed(at(1));
        assert_eq!(rest_at(1000), 60, "a request is in progress");
        deadline.mark_reply_made();
        assert_eq!(rest_at(1000), 60, "its client receives the reply");
        deadline.mark_flushed(at(1000));
        assert_eq!((rest_at(1000), rest_at(1059)), (60, 1));
        deadline.mark_flushed(at(1059));
        assert_eq!(rest_at(1060), 0, "a piece of a head does not extend the time");
    }
}
