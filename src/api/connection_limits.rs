//! How many connections there may be, altogether and of one uid.
//!
//! At the bound the oldest connection on which nothing is being done makes room, so that a crowd of idle ones never
//! keeps an honest caller out.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// Streams that a uid may follow, for each connection that it may have.
const STREAMS_PER_CONNECTION: usize = 2;

/// All open connections of one socket.
#[derive(Debug)]
pub struct ConnectionLimits {
    max_total: usize,
    max_per_uid: usize,
    table: Mutex<ConnectionTable>,
}

#[derive(Debug, Default)]
struct ConnectionTable {
    next_id: u64,
    total: usize,
    /// By number, hence oldest first.
    by_uid: HashMap<u32, BTreeMap<u64, Arc<ConnectionSlot>>>,
    /// Streams that are followed on these connections, by uid.
    streams: HashMap<u32, usize>,
}

/// What the two ends of a connection share with the crowd.
#[derive(Debug, Default)]
struct ConnectionSlot {
    busy: AtomicBool,
    evicted: Notify,
}

/// The right to one connection; given back when dropped.
#[derive(Debug)]
pub struct ConnectionPermit {
    limits: Arc<ConnectionLimits>,
    uid: u32,
    id: u64,
    slot: Arc<ConnectionSlot>,
}

/// The right to follow one stream; given back when dropped.
#[derive(Debug)]
pub struct StreamPermit {
    limits: Arc<ConnectionLimits>,
    uid: u32,
}

impl ConnectionLimits {
    pub fn new(max_total: usize, max_per_uid: usize) -> Arc<ConnectionLimits> {
        Arc::new(ConnectionLimits { max_total, max_per_uid, table: Mutex::default() })
    }

    /// A seat for a connection of `uid`. None where all are taken and at work.
    pub fn acquire(self: &Arc<Self>, uid: u32) -> Option<ConnectionPermit> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if table.by_uid.get(&uid).is_some_and(|connections| connections.len() >= self.max_per_uid) {
            table.evict(uid)?;
        }
        if table.total >= self.max_total {
            // Whoever has the most makes room, or the next where all of that are at work.
            let mut busiest: Vec<_> =
                table.by_uid.iter().map(|(uid, connections)| (connections.len(), *uid)).collect();
            busiest.sort_unstable_by(|a, b| b.cmp(a));
            busiest.iter().find_map(|(_, uid)| table.evict(*uid))?;
        }
        table.next_id += 1;
        let (id, slot) = (table.next_id, Arc::new(ConnectionSlot::default()));
        table.by_uid.entry(uid).or_default().insert(id, slot.clone());
        table.total += 1;
        Some(ConnectionPermit { limits: self.clone(), uid, id, slot })
    }

    /// How many connections are open.
    pub fn len(&self) -> usize {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).total
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl ConnectionTable {
    /// Sends the oldest idle connection of `uid` away.
    fn evict(&mut self, uid: u32) -> Option<()> {
        let connections = self.by_uid.get(&uid)?;
        let id = *connections.iter().find(|(_, slot)| !slot.busy.load(Ordering::Relaxed))?.0;
        if let Some(slot) = self.remove(uid, id) {
            slot.evicted.notify_one();
        }
        Some(())
    }

    fn remove(&mut self, uid: u32, id: u64) -> Option<Arc<ConnectionSlot>> {
        let connections = self.by_uid.get_mut(&uid)?;
        let slot = connections.remove(&id)?;
        if connections.is_empty() {
            self.by_uid.remove(&uid);
        }
        self.total -= 1;
        Some(slot)
    }
}

impl ConnectionPermit {
    /// Marks whether a request, arrived whole, is being answered.
    pub fn set_busy(&self, busy: bool) {
        self.slot.busy.store(busy, Ordering::Relaxed);
    }

    /// Returns when this connection has to make room.
    pub async fn evicted(&self) {
        self.slot.evicted.notified().await;
    }

    /// A place for a stream. None where the uid follows as many as it may: two for each connection that it may have.
    pub fn acquire_stream(&self) -> Option<StreamPermit> {
        let mut table = self.limits.table.lock().unwrap_or_else(PoisonError::into_inner);
        let open_streams = table.streams.entry(self.uid).or_default();
        if *open_streams >= STREAMS_PER_CONNECTION * self.limits.max_per_uid {
            return None;
        }
        *open_streams += 1;
        Some(StreamPermit { limits: self.limits.clone(), uid: self.uid })
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        let mut table = self.limits.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open_streams) = table.streams.get_mut(&self.uid) {
            *open_streams -= 1;
            if *open_streams == 0 {
                table.streams.remove(&self.uid);
            }
        }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.limits.table.lock().unwrap_or_else(PoisonError::into_inner).remove(self.uid, self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn oldest_idle_connection_is_evicted() {
        let limits = ConnectionLimits::new(4, 2);
        let first = limits.acquire(1).unwrap();
        first.set_busy(true);
        let second = limits.acquire(1).unwrap();
        let third = limits.acquire(1).unwrap();
        second.evicted().await;
        assert_eq!(limits.len(), 2);
        third.set_busy(true);
        assert!(limits.acquire(1).is_none(), "both are at work");
        let _other = limits.acquire(2).unwrap();
        drop(first);
        drop(second);
        assert_eq!(limits.len(), 2);
        drop(third);
        assert_eq!(limits.len(), 1);
    }

    #[test]
    fn streams_are_limited_per_uid() {
        let limits = ConnectionLimits::new(4, 2);
        let (a, b) = (limits.acquire(1).unwrap(), limits.acquire(1).unwrap());
        let mut streams: Vec<_> = (0..4)
            .map(|index| if index % 2 == 0 { a.acquire_stream() } else { b.acquire_stream() })
            .collect();
        assert!(
            streams.iter().all(Option::is_some)
                && a.acquire_stream().is_none()
                && b.acquire_stream().is_none()
        );
        assert!(limits.acquire(2).unwrap().acquire_stream().is_some());
        streams.pop();
        assert!(b.acquire_stream().is_some());
    }

    #[tokio::test]
    async fn uid_with_most_connections_is_evicted_first() {
        let limits = ConnectionLimits::new(3, 3);
        let a = limits.acquire(1).unwrap();
        let _b = limits.acquire(1).unwrap();
        let _c = limits.acquire(2).unwrap();
        let _d = limits.acquire(3).unwrap();
        a.evicted().await;
        assert_eq!(limits.len(), 3);
    }
}
