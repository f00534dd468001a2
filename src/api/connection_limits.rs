//! Limits connections, in total and per uid.
//!
//! When a limit is reached, the oldest idle connection is evicted in favor of the new one, so idle connections never keep a
//! caller out. A new connection is refused only if all connections that could be evicted are busy.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// Streams per uid, for each connection that a uid may have.
const STREAMS_PER_CONNECTION: usize = 2;

/// The open connections of one socket, or of several that share the limits.
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
    /// By connection number, so the oldest comes first.
    by_uid: HashMap<u32, BTreeMap<u64, Arc<ConnectionSlot>>>,
    /// Open streams by uid; no entry where there is none.
    streams: HashMap<u32, usize>,
}

/// State that a permit shares with the table.
#[derive(Debug, Default)]
struct ConnectionSlot {
    busy: AtomicBool,
    evicted: Notify,
}

/// Permission for one connection; dropping it frees the slot.
#[derive(Debug)]
pub struct ConnectionPermit {
    limits: Arc<ConnectionLimits>,
    uid: u32,
    id: u64,
    slot: Arc<ConnectionSlot>,
}

/// Permission for one stream; dropping it frees the slot.
#[derive(Debug)]
pub struct StreamPermit {
    limits: Arc<ConnectionLimits>,
    uid: u32,
}

impl ConnectionLimits {
    /// Limits without connections yet.
    pub fn new(max_total: usize, max_per_uid: usize) -> Arc<ConnectionLimits> {
        Arc::new(ConnectionLimits { max_total, max_per_uid, table: Mutex::default() })
    }

    /// A permit for a connection of `uid`; `None` where the limit is reached and every connection that counts is busy.
    pub fn acquire(self: &Arc<Self>, uid: u32) -> Option<ConnectionPermit> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if table.by_uid.get(&uid).is_some_and(|connections| connections.len() >= self.max_per_uid) {
            table.evict(uid)?;
        }
        if table.total >= self.max_total {
            // The uid with the most connections first; the next one where all of those are busy.
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

    /// Number of open connections.
    pub fn len(&self) -> usize {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).total
    }

    /// Whether no connection is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl ConnectionTable {
    /// Evicts the oldest idle connection of `uid`; `None` where all are busy.
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
    /// Sets whether a complete request is in progress.
    pub fn set_busy(&self, busy: bool) {
        self.slot.busy.store(busy, Ordering::Relaxed);
    }

    /// Returns when this connection is evicted.
    pub async fn evicted(&self) {
        self.slot.evicted.notified().await;
    }

    /// A permit for a stream; `None` where the uid has two open streams for each connection that it may have.
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
        assert!(limits.acquire(1).is_none(), "both are busy");
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
