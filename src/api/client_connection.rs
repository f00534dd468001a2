//! One connection: its calling process, whether a request is in progress, the delay of its replies, and what
//! ends it early.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hyper::StatusCode;
use hyper::header::CONNECTION;
use tokio::sync::Notify;

use super::connection_limits::{CallClass, CallPermit, ConnectionPermit, ReadingPermit, ReceivingPermit};
use super::head_deadline::HeadDeadline;
use super::pace::{Cost, MAX_DELAY, Pace};
use super::reply::{self, Reply};
use crate::mutex::lock;
use crate::service::{PeerLookup, PeerTracker};

/// Delay of the first of several consecutive `slow_down` replies; it doubles with each further one.
const INITIAL_BACKOFF: Duration = Duration::from_millis(25);
/// The delay doubles this often at most: to 1.6 s.
const MAX_BACKOFF_DOUBLINGS: u32 = 6;

/// A connection of any socket.
pub struct ClientConnection {
    peer_tracker: Mutex<PeerTracker>,
    uid: u32,
    permit: ConnectionPermit,
    /// Shared by all connections of the agent and workload sockets, or by those of the admin socket.
    pace: Arc<Pace>,
    /// `slow_down` replies since the last other reply.
    consecutive_slow_downs: AtomicU32,
    /// Notified when the first request's head has arrived.
    first_request_started: Notify,
    request_started: AtomicBool,
    /// Whether a reply is ready and delayed.
    delaying: AtomicBool,
    /// Whether a part of a request has arrived that is not complete. One permit is present then.
    partly_received: AtomicBool,
    part_permits: Mutex<PartPermits>,
    /// Notified when others wait for what this connection's reply occupies.
    recalled: Arc<Notify>,
    head_deadline: HeadDeadline,
}

/// What a connection holds while a part of a request has arrived.
#[derive(Default)]
struct PartPermits {
    /// As long as the part is being read,
    reading: Option<ReadingPermit>,
    /// and this as soon as no more bytes have arrived.
    receiving: Option<ReceivingPermit>,
}

impl ClientConnection {
    /// A connection that was just accepted.
    pub fn new(peer_tracker: PeerTracker, permit: ConnectionPermit, pace: Arc<Pace>) -> ClientConnection {
        ClientConnection {
            uid: peer_tracker.uid(),
            peer_tracker: Mutex::new(peer_tracker),
            permit,
            pace,
            consecutive_slow_downs: AtomicU32::new(0),
            first_request_started: Notify::new(),
            request_started: AtomicBool::new(false),
            delaying: AtomicBool::new(false),
            partly_received: AtomicBool::new(false),
            part_permits: Mutex::default(),
            recalled: Arc::new(Notify::new()),
            head_deadline: HeadDeadline::new(),
        }
    }

    /// The uid at connect(2).
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// To be called when a request's head has arrived.
    pub fn mark_request_started(&self) {
        self.head_deadline.mark_head_arrived();
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

    /// To be called when bytes of a request have arrived.
    pub fn mark_bytes_received(&self) {
        if !self.partly_received.swap(true, Ordering::Relaxed) {
            lock(&self.part_permits).reading = Some(self.permit.begin_reading());
        }
    }

    /// Whether a part of a request has arrived that is not complete.
    pub fn has_received_a_part(&self) -> bool {
        self.partly_received.load(Ordering::Relaxed)
    }

    /// To be called when no more bytes have arrived. A connection that waits for the rest of a request
    /// occupies more than an idle one, so it counts as receiving from now on.
    pub fn mark_waiting_for_bytes(&self) {
        if self.has_received_a_part() {
            let mut permits = lock(&self.part_permits);
            if permits.receiving.is_none() {
                permits.receiving = Some(self.permit.begin_receiving());
                permits.reading.take();
            }
        }
    }

    /// Returns when the connection may read a request; `None` where it may now, and in the middle of one.
    pub fn wait_before_reading(&self) -> Option<impl Future<Output = ()> + Send + use<>> {
        if self.has_received_a_part() { None } else { self.permit.wait_before_reading() }
    }

    /// To be called when a request has arrived completely, or is answered without its rest.
    pub fn mark_request_received(&self) {
        if self.partly_received.swap(false, Ordering::Relaxed) {
            *lock(&self.part_permits) = PartPermits::default();
        }
    }

    /// Reads the calling process, for a request that has arrived completely. From now until
    /// [`ClientConnection::finish_request`] the connection is busy and not evicted. A connection that is
    /// still sending its request can be evicted, so a slow sender does not hold a slot.
    pub fn begin_request(&self) -> PeerLookup {
        self.permit.set_busy(true);
        lock(&self.peer_tracker).lookup()
    }

    /// Ends a request: returns the reply to send and its delay. Clients that ignore `slow_down` are delayed,
    /// and so is a uid whose replies cost more than its budget, because they would otherwise use up the
    /// processor. Where the delay would be too long, the reply is 429 and closes the connection.
    pub fn finish_request(&self, reply: Reply, cost: Cost) -> (Reply, Duration) {
        if reply.headers().contains_key(CONNECTION) {
            // The request's rest is not read, and what has arrived stays in memory until the reply is sent.
            self.mark_waiting_for_bytes();
        } else {
            self.mark_request_received();
        }
        self.mark_idle();
        let backoff = self.backoff(reply.status() == StatusCode::TOO_MANY_REQUESTS);
        match self.pace.charge(self.uid, cost, Instant::now()) {
            Some(delay) => (reply, delay.max(backoff.unwrap_or_default())),
            None => (reply::too_many_answers(MAX_DELAY), MAX_DELAY),
        }
    }

    /// When the head of the next request has to arrive, on a connection of HTTP/1.1.
    pub fn head_deadline(&self) -> &HeadDeadline {
        &self.head_deadline
    }

    /// The budgets of all uids.
    pub fn pace(&self) -> &Arc<Pace> {
        &self.pace
    }

    /// Charges the uid for work before the reply, and waits for the delay.
    pub async fn throttle(&self, cost: Cost) {
        let delay = self.pace.delay(self.uid, cost, Instant::now());
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
    }

    /// Waits for the delay of a reply.
    pub async fn delay_reply(&self, delay: Duration) {
        if delay.is_zero() {
            return;
        }
        self.delaying.store(true, Ordering::Relaxed);
        tokio::time::sleep(delay).await;
        self.delaying.store(false, Ordering::Relaxed);
    }

    /// To be called when the connection is evicted. Returns the time that it has for its reply: `grace`, but
    /// none for the rest of a request, which costs the uid as much as an error, and none for a delay, during
    /// which it is not noticed that a client has gone.
    pub fn begin_eviction(&self, grace: Duration) -> Duration {
        if self.has_received_a_part() {
            self.pace.delay(self.uid, Cost::Error, Instant::now());
            return Duration::ZERO;
        }
        if self.delaying.load(Ordering::Relaxed) { Duration::ZERO } else { grace }
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

    /// What to notify to have this connection end soon, also while its client is receiving a reply.
    pub fn recall_signal(&self) -> Arc<Notify> {
        self.recalled.clone()
    }

    /// Returns when this connection is evicted in favor of a new one, or recalled.
    pub async fn evicted(&self) {
        let receiving_evicted = async {
            loop {
                self.permit.receiving_evicted().await;
                // The rest may have arrived meanwhile.
                if self.has_received_a_part() {
                    return;
                }
            }
        };
        tokio::select! {
            () = self.permit.evicted() => {}
            () = self.recalled.notified() => {}
            () = receiving_evicted => {}
        }
    }
}
