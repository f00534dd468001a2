//! The caller of one connection: who it is, whether it is being served, and how patient it has to be.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hyper::StatusCode;
use tokio::sync::Notify;

use super::connection_limits::{ConnectionPermit, StreamPermit};
use super::reply::Reply;
use crate::service::{PeerLookup, PeerTracker};

/// An answer to a flood waits at first this long, then twice as long each time.
const INITIAL_BACKOFF: Duration = Duration::from_millis(25);
/// Waits double this often at most: to 1.6 s.
const MAX_BACKOFF_DOUBLINGS: u32 = 6;

/// One connection's caller.
pub struct ClientConnection {
    peer_tracker: Mutex<PeerTracker>,
    permit: ConnectionPermit,
    /// Answers of `slow_down` in a row.
    consecutive_slow_downs: AtomicU32,
    /// Told when the first request's head has arrived.
    first_request_started: Notify,
    request_started: AtomicBool,
}

impl ClientConnection {
    pub fn new(peer_tracker: PeerTracker, permit: ConnectionPermit) -> ClientConnection {
        ClientConnection {
            peer_tracker: Mutex::new(peer_tracker),
            permit,
            consecutive_slow_downs: AtomicU32::new(0),
            first_request_started: Notify::new(),
            request_started: AtomicBool::new(false),
        }
    }

    /// A request's head has arrived.
    pub fn mark_request_started(&self) {
        if !self.request_started.swap(true, Ordering::Relaxed) {
            self.first_request_started.notify_one();
        }
    }

    /// Returns when a request's head has arrived, once.
    pub async fn first_request(&self) {
        if !self.request_started.load(Ordering::Relaxed) {
            self.first_request_started.notified().await;
        }
    }

    /// One look at the caller, for a request that has arrived whole. From now until [`Guest::answered`] the connection
    /// does not have to make room for others; before, whoever sends slowly does.
    pub fn begin_request(&self) -> PeerLookup {
        self.permit.set_busy(true);
        self.peer_tracker.lock().unwrap_or_else(PoisonError::into_inner).lookup()
    }

    /// How long the answer is to wait. A caller that goes on though it is told to slow down is slowed down, or one
    /// with a thousand connections would take the processor from the others by being refused.
    pub fn finish_request(&self, reply: &Reply) -> Option<Duration> {
        self.mark_idle();
        self.backoff(reply.status() == StatusCode::TOO_MANY_REQUESTS)
    }

    /// Nothing is being answered now.
    pub fn mark_idle(&self) {
        self.permit.set_busy(false);
    }

    /// How long an answer waits that tells its caller to slow down.
    pub fn backoff(&self, rate_limited: bool) -> Option<Duration> {
        if !rate_limited {
            self.consecutive_slow_downs.store(0, Ordering::Relaxed);
            return None;
        }
        let previous = self.consecutive_slow_downs.fetch_add(1, Ordering::Relaxed);
        Some(INITIAL_BACKOFF * 2u32.pow(previous.min(MAX_BACKOFF_DOUBLINGS)))
    }

    /// A place for a stream, if there is one for this caller's uid.
    pub fn acquire_stream(&self) -> Option<StreamPermit> {
        self.permit.acquire_stream()
    }

    /// Returns when this connection has to make room.
    pub async fn evicted(&self) {
        self.permit.evicted().await;
    }
}
