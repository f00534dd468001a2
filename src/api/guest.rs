//! The caller of one connection: who it is, whether it is being served, and how patient it has to be.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hyper::StatusCode;
use tokio::sync::Notify;

use super::crowd::{Following, Seat};
use super::reply::Reply;
use crate::peer::{Caller, Look};

/// An answer to a flood waits at first this long, then twice as long each time.
const FIRST_WAIT: Duration = Duration::from_millis(25);
/// Waits double this often at most: to 1.6 s.
const DOUBLINGS: u32 = 6;

/// One connection's caller.
pub struct Guest {
    caller: Mutex<Caller>,
    seat: Seat,
    /// Answers of `slow_down` in a row.
    floods: AtomicU32,
    /// Told when the first request's head has arrived.
    spoke: Notify,
    has_spoken: AtomicBool,
}

impl Guest {
    pub fn new(caller: Caller, seat: Seat) -> Guest {
        Guest {
            caller: Mutex::new(caller),
            seat,
            floods: AtomicU32::new(0),
            spoke: Notify::new(),
            has_spoken: AtomicBool::new(false),
        }
    }

    /// A request's head has arrived.
    pub fn speaks(&self) {
        if !self.has_spoken.swap(true, Ordering::Relaxed) {
            self.spoke.notify_one();
        }
    }

    /// Returns when a request's head has arrived, once.
    pub async fn first_word(&self) {
        if !self.has_spoken.load(Ordering::Relaxed) {
            self.spoke.notified().await;
        }
    }

    /// One look at the caller, for a request that has arrived whole. From now until [`Guest::answered`] the connection
    /// does not have to make room for others; before, whoever sends slowly does.
    pub fn look(&self) -> Look {
        self.seat.set_busy(true);
        self.caller.lock().unwrap_or_else(PoisonError::into_inner).look()
    }

    /// How long the answer is to wait. A caller that goes on though it is told to slow down is slowed down, or one
    /// with a thousand connections would take the processor from the others by being refused.
    pub fn answered(&self, reply: &Reply) -> Option<Duration> {
        self.rests();
        self.pace(reply.status() == StatusCode::TOO_MANY_REQUESTS)
    }

    /// Nothing is being answered now.
    pub fn rests(&self) {
        self.seat.set_busy(false);
    }

    /// How long an answer waits that tells its caller to slow down.
    pub fn pace(&self, flood: bool) -> Option<Duration> {
        if !flood {
            self.floods.store(0, Ordering::Relaxed);
            return None;
        }
        let floods = self.floods.fetch_add(1, Ordering::Relaxed);
        Some(FIRST_WAIT * 2u32.pow(floods.min(DOUBLINGS)))
    }

    /// A place for a stream, if there is one for this caller's uid.
    pub fn follow(&self) -> Option<Following> {
        self.seat.follow()
    }

    /// Returns when this connection has to make room.
    pub async fn evicted(&self) {
        self.seat.evicted().await;
    }
}
