//! Limits connections, in total and per uid, those that wait for the rest of a request, and the open calls of
//! a uid.
//!
//! When a limit is reached, the oldest idle connection is evicted in favor of the new one, so idle
//! connections never keep a caller out. A new connection is refused only if all connections that could be
//! evicted are busy; that of an unidentified caller also while too many evicted ones have not ended.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use self::reading::Reading;
pub use self::reading::ReadingPermit;
use super::uid_quota::decrement;
use crate::mutex::lock;

mod reading;

/// Open calls of a uid's agents, for each connection that a uid may have.
const CALLS_PER_CONNECTION: usize = 2;
/// Open calls of a uid, over all its connections, of each class that any local process can make.
const MAX_OPEN_CALLS: usize = 64;

/// Connections of a uid that wait for the rest of a request of HTTP/1.1, and its agents' gRPC calls whose
/// messages have not arrived: each occupies up to 50 KB, several times as much as others.
const MAX_RECEIVING: usize = 512;
/// Evicted connections of a uid's unidentified callers that have not ended; as long as there are as many, new
/// ones are refused.
const MAX_CLOSING: usize = 16;

/// The open connections of one socket, or of several that share the limits.
#[derive(Debug)]
pub struct ConnectionLimits {
    max_total: usize,
    max_per_uid: usize,
    max_closing: usize,
    table: Mutex<ConnectionTable>,
}

#[derive(Debug, Default)]
struct ConnectionTable {
    next_id: u64,
    total: usize,
    /// Most connections at once since [`ConnectionLimits::take_peak`].
    peak: usize,
    by_uid: HashMap<u32, UidConnections>,
    /// Evicted connections that have not ended, by uid; no entry where there is none.
    closing: HashMap<u32, usize>,
    /// Open calls by uid and class; no entry where there is none.
    calls: HashMap<(u32, CallClass), usize>,
    /// Connections that wait for the rest of a request, by uid and then in the order in which they began to;
    /// no entry for a uid without any.
    receiving: HashMap<u32, BTreeMap<u64, Arc<ConnectionSlot>>>,
}

/// The open connections of one uid.
#[derive(Debug, Default)]
struct UidConnections {
    /// By connection number, so the oldest comes first.
    slots: BTreeMap<u64, Arc<ConnectionSlot>>,
    /// Replaced when the uid has no open connection any more; evicted ones then end in the previous count.
    reading: Arc<Reading>,
}

/// State that a permit shares with the table.
#[derive(Debug, Default)]
struct ConnectionSlot {
    busy: AtomicBool,
    evicted: Notify,
    /// Notified when others wait for the rest of a request, and this connection has waited longest.
    receiving_evicted: Notify,
    /// Present from then on, until the request has arrived or the connection has ended.
    ending: Mutex<Option<ReadingPermit>>,
}

/// Permission for one connection; dropping it ends its count.
#[derive(Debug)]
pub struct ConnectionPermit {
    limits: Arc<ConnectionLimits>,
    uid: u32,
    id: u64,
    uid_connections: usize,
    slot: Arc<ConnectionSlot>,
    reading: Arc<Reading>,
}

/// What a connection that waits for the rest of a request holds.
#[derive(Debug)]
pub struct ReceivingPermit {
    limits: Arc<ConnectionLimits>,
    uid: u32,
    id: u64,
    slot: Arc<ConnectionSlot>,
}

/// Whose call it is. Each class has permits of its own, so that no other process of its uid keeps an agent
/// out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallClass {
    /// A call that any local process may make, or one that is being refused.
    Public,
    /// A call of a process that is being identified.
    Unidentified,
    /// A call of a process that was identified as an agent, whose messages have not arrived.
    Receiving,
    /// A call of an agent that has arrived.
    Agent,
}

/// Permission for one call; dropping it ends its count.
#[derive(Debug)]
pub struct CallPermit {
    limits: Arc<ConnectionLimits>,
    uid: u32,
    class: Mutex<CallClass>,
}

impl ConnectionLimits {
    /// Limits without connections yet.
    pub fn new(max_total: usize, max_per_uid: usize) -> Arc<ConnectionLimits> {
        Arc::new(ConnectionLimits {
            max_total,
            max_per_uid,
            max_closing: usize::MAX,
            table: Mutex::default(),
        })
    }

    /// Limits for connections of unidentified callers, which bound also those that are being closed.
    pub fn for_unidentified(max_per_uid: usize) -> Arc<ConnectionLimits> {
        Arc::new(ConnectionLimits {
            max_total: usize::MAX,
            max_per_uid,
            max_closing: MAX_CLOSING,
            table: Mutex::default(),
        })
    }

    /// A permit for a connection of `uid`; `None` where the limit is reached and every connection that counts
    /// is busy, or where the uid connects faster than its evicted connections end.
    pub fn acquire(self: &Arc<Self>, uid: u32) -> Option<ConnectionPermit> {
        let mut table = lock(&self.table);
        if table.closing.get(&uid).is_some_and(|closing| *closing >= self.max_closing) {
            return None;
        }
        if table.by_uid.get(&uid).is_some_and(|own| own.slots.len() >= self.max_per_uid) {
            table.evict(uid)?;
        }
        if table.total >= self.max_total {
            // The uid with the most connections first; the next one where all of those are busy.
            let mut busiest: Vec<_> = table.by_uid.iter().map(|(uid, own)| (own.slots.len(), *uid)).collect();
            busiest.sort_unstable_by(|a, b| b.cmp(a));
            busiest.iter().find_map(|(_, uid)| table.evict(*uid))?;
        }
        table.next_id += 1;
        let (id, slot) = (table.next_id, Arc::new(ConnectionSlot::default()));
        let own = table.by_uid.entry(uid).or_default();
        own.slots.insert(id, slot.clone());
        let (uid_connections, reading) = (own.slots.len(), own.reading.clone());
        table.total += 1;
        table.peak = table.peak.max(table.total);
        Some(ConnectionPermit { limits: self.clone(), uid, id, uid_connections, slot, reading })
    }

    fn max_calls(&self, class: CallClass) -> usize {
        match class {
            CallClass::Public | CallClass::Unidentified => MAX_OPEN_CALLS,
            CallClass::Receiving => MAX_RECEIVING,
            CallClass::Agent => CALLS_PER_CONNECTION * self.max_per_uid,
        }
    }

    /// Number of open connections.
    pub fn len(&self) -> usize {
        lock(&self.table).total
    }

    /// Most connections that were open at once since the previous call, and those that are open now.
    pub fn take_peak(&self) -> (usize, usize) {
        let mut table = lock(&self.table);
        let open = table.total;
        (std::mem::replace(&mut table.peak, open), open)
    }

    /// Whether no connection is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl ConnectionTable {
    /// Evicts the oldest idle connection of `uid`; `None` where all are busy.
    fn evict(&mut self, uid: u32) -> Option<()> {
        let own = self.by_uid.get(&uid)?;
        let id = *own.slots.iter().find(|(_, slot)| !slot.busy.load(Ordering::Relaxed))?.0;
        if let Some(slot) = self.remove(uid, id) {
            slot.evicted.notify_one();
            *self.closing.entry(uid).or_default() += 1;
        }
        Some(())
    }

    fn remove(&mut self, uid: u32, id: u64) -> Option<Arc<ConnectionSlot>> {
        let own = self.by_uid.get_mut(&uid)?;
        let slot = own.slots.remove(&id)?;
        if own.slots.is_empty() {
            self.by_uid.remove(&uid);
        }
        self.total -= 1;
        Some(slot)
    }

    fn open_call(&mut self, uid: u32, class: CallClass, max: usize) -> Option<()> {
        let open = self.calls.entry((uid, class)).or_default();
        if *open >= max {
            return None;
        }
        *open += 1;
        Some(())
    }

    fn close_call(&mut self, uid: u32, class: CallClass) {
        decrement(&mut self.calls, (uid, class));
    }
}

impl ConnectionPermit {
    /// Sets whether a complete request is in progress.
    pub fn set_busy(&self, busy: bool) {
        self.slot.busy.store(busy, Ordering::Relaxed);
    }

    /// Returns when this connection is evicted.
    pub fn evicted(&self) -> impl Future<Output = ()> + use<> {
        let slot = self.slot.clone();
        async move { slot.evicted.notified().await }
    }

    /// Returns when this connection has waited longest for the rest of a request. That may have arrived
    /// meanwhile.
    pub async fn receiving_evicted(&self) {
        self.slot.receiving_evicted.notified().await;
    }

    /// Connections of the uid when this one was accepted, with it.
    pub fn uid_connections(&self) -> usize {
        self.uid_connections
    }

    /// Counts the connection as one of which a part of a request was read.
    pub fn begin_reading(&self) -> ReadingPermit {
        self.reading.add()
    }

    /// Returns when the connection may begin to read a request; `None` where it may now.
    pub fn wait_before_reading(&self) -> Option<impl Future<Output = ()> + Send + use<>> {
        self.reading.wait()
    }

    /// Counts the connection as one that waits for the rest of a request. Where its uid has too many of them,
    /// the one that has waited longest is evicted: a client that sends its request in one piece is not the
    /// one.
    pub fn begin_receiving(&self) -> ReceivingPermit {
        let mut table = lock(&self.limits.table);
        let table = &mut *table;
        table.next_id += 1;
        let id = table.next_id;
        let receiving = table.receiving.entry(self.uid).or_default();
        if receiving.len() >= MAX_RECEIVING
            && let Some((_, longest)) = receiving.pop_first()
        {
            // It occupies what it has read until it ends.
            *lock(&longest.ending) = Some(self.reading.add());
            longest.receiving_evicted.notify_one();
        }
        receiving.insert(id, self.slot.clone());
        ReceivingPermit { limits: self.limits.clone(), uid: self.uid, id, slot: self.slot.clone() }
    }

    /// A permit for a call; `None` where the uid has as many open calls of this class as it may.
    pub fn acquire_call(&self, class: CallClass) -> Option<CallPermit> {
        let mut table = lock(&self.limits.table);
        table.open_call(self.uid, class, self.limits.max_calls(class))?;
        Some(CallPermit { limits: self.limits.clone(), uid: self.uid, class: Mutex::new(class) })
    }
}

impl CallPermit {
    /// Counts the call in another class from now on; `None` where the uid has as many open calls of that
    /// class as it may.
    pub fn move_to(&self, class: CallClass) -> Option<()> {
        let mut current = lock(&self.class);
        let mut table = lock(&self.limits.table);
        if *current != class {
            table.open_call(self.uid, class, self.limits.max_calls(class))?;
            table.close_call(self.uid, *current);
            *current = class;
        }
        Some(())
    }
}

impl Drop for CallPermit {
    fn drop(&mut self) {
        let class = *self.class.get_mut().unwrap_or_else(PoisonError::into_inner);
        lock(&self.limits.table).close_call(self.uid, class);
    }
}

impl Drop for ReceivingPermit {
    fn drop(&mut self) {
        let mut table = lock(&self.limits.table);
        if let Some(receiving) = table.receiving.get_mut(&self.uid) {
            receiving.remove(&self.id);
            if receiving.is_empty() {
                table.receiving.remove(&self.uid);
            }
        }
        lock(&self.slot.ending).take();
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut table = lock(&self.limits.table);
        if table.remove(self.uid, self.id).is_none() {
            decrement(&mut table.closing, self.uid);
        }
    }
}

#[cfg(test)]
mod tests;
