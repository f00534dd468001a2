//! One connection: its calling process, whether a request is in progress, and the delay of its rate-limited
//! replies.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hyper::StatusCode;
use tokio::sync::Notify;

use super::connection_limits::{CallClass, CallPermit, ConnectionPermit};
use super::reply::Reply;
use crate::service::{PeerLookup, PeerTracker};

/// Delay of the first of several consecutive `slow_down` replies; it doubles with each further one.
const INITIAL_BACKOFF: Duration = Duration::from_millis(25);
/// The delay doubles this often at most: to 1.6 s.
const MAX_BACKOFF_DOUBLINGS: u32 = 6;

/// A connection of any socket.
pub struct ClientConnection {
    peer_tracker: Mutex<PeerTracker>,
    permit: ConnectionPermit,
    /// `slow_down` replies since the last other reply.
    consecutive_slow_downs: AtomicU32,
    /// Notified when the first request's head has arrived.
    first_request_started: Notify,
    request_started: AtomicBool,
}

impl ClientConnection {
    /// A connection that was just accepted.
    pub fn new(peer_tracker: PeerTracker, permit: ConnectionPermit) -> ClientConnection {
        ClientConnection {
            peer_tracker: Mutex::new(peer_tracker),
            permit,
            consecutive_slow_downs: AtomicU32::new(0),
            first_request_started: Notify::new(),
            request_started: AtomicBool::new(false),
        }
    }

    /// To be called when a request's head has arrived.
    pub fn mark_request_started(&self) {
        if !self.request_started.swap(true, Ordering::Relaxed) {
            self.first_request_started.notify_one();
        }
    }

    /// Returns when the first request's head has arrived. Only one task may wait for it.
    pub async fn first_request(&self) {
        if !self.request_started.load(Ordering::Relaxed) {
            self.first_request_started.notified().await;
        }
    }

    /// Reads the calling process, for a request that has arrived completely. From now until
    /// [`ClientConnection::finish_request`] the connection is busy and not evicted. A connection that is
    /// still sending its request can be evicted, so a slow sender does not hold a slot.
    pub fn begin_request(&self) -> PeerLookup {
        self.permit.set_busy(true);
        self.peer_tracker.lock().unwrap_or_else(PoisonError::into_inner).lookup()
    }

    /// Ends a request and returns the delay of its reply, if any. Clients that ignore `slow_down` are
    /// delayed, because many connections of refused requests would otherwise use up the processor.
    pub fn finish_request(&self, reply: &Reply) -> Option<Duration> {
        self.mark_idle();
        self.backoff(reply.status() == StatusCode::TOO_MANY_REQUESTS)
    }

    /// Marks the connection as idle: it can be evicted.
    pub fn mark_idle(&self) {
        self.permit.set_busy(false);
    }

    /// The delay of a rate-limited reply: 25 ms to 1.6 s. Any other reply resets it.
    pub fn backoff(&self, rate_limited: bool) -> Option<Duration> {
        if !rate_limited {
            self.consecutive_slow_downs.store(0, Ordering::Relaxed);
            return None;
        }
        let previous = self.consecutive_slow_downs.fetch_add(1, Ordering::Relaxed);
        Some(INITIAL_BACKOFF * 2u32.pow(previous.min(MAX_BACKOFF_DOUBLINGS)))
    }

    /// A permit for a call; `None` where the caller's uid has as many open calls as it may.
    pub fn acquire_call(&self, class: CallClass) -> Option<CallPermit> {
        self.permit.acquire_call(class)
    }

    /// The uid that connected.
    pub fn uid(&self) -> u32 {
        self.permit.uid()
    }

    /// Returns when this connection is evicted in favor of a new one.
    pub async fn evicted(&self) {
        self.permit.evicted().await;
    }
}
