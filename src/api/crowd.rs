//! How many connections there may be, altogether and of one uid.
//!
//! At the bound the oldest connection on which nothing is being done makes room, so that a crowd of idle ones never
//! keeps an honest caller out.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// Streams that a uid may follow, for each connection that it may have.
const STREAMS: usize = 2;

/// All open connections of one socket.
#[derive(Debug)]
pub struct Crowd {
    most: usize,
    most_of_uid: usize,
    seats: Mutex<Seats>,
}

#[derive(Debug, Default)]
struct Seats {
    next: u64,
    total: usize,
    /// By number, hence oldest first.
    by_uid: HashMap<u32, BTreeMap<u64, Arc<Place>>>,
    /// Streams that are followed on these connections, by uid.
    streams: HashMap<u32, usize>,
}

/// What the two ends of a connection share with the crowd.
#[derive(Debug, Default)]
struct Place {
    busy: AtomicBool,
    leave: Notify,
}

/// The right to one connection; given back when dropped.
#[derive(Debug)]
pub struct Seat {
    crowd: Arc<Crowd>,
    uid: u32,
    number: u64,
    place: Arc<Place>,
}

/// The right to follow one stream; given back when dropped.
#[derive(Debug)]
pub struct Following {
    crowd: Arc<Crowd>,
    uid: u32,
}

impl Crowd {
    pub fn new(most: usize, most_of_uid: usize) -> Arc<Crowd> {
        Arc::new(Crowd { most, most_of_uid, seats: Mutex::default() })
    }

    /// A seat for a connection of `uid`. None where all are taken and at work.
    pub fn admit(self: &Arc<Self>, uid: u32) -> Option<Seat> {
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        if seats.by_uid.get(&uid).is_some_and(|own| own.len() >= self.most_of_uid) {
            seats.evict(uid)?;
        }
        if seats.total >= self.most {
            // Whoever has the most makes room, or the next where all of that are at work.
            let mut crowded: Vec<_> = seats.by_uid.iter().map(|(uid, own)| (own.len(), *uid)).collect();
            crowded.sort_unstable_by(|a, b| b.cmp(a));
            crowded.iter().find_map(|(_, uid)| seats.evict(*uid))?;
        }
        seats.next += 1;
        let (number, place) = (seats.next, Arc::new(Place::default()));
        seats.by_uid.entry(uid).or_default().insert(number, place.clone());
        seats.total += 1;
        Some(Seat { crowd: self.clone(), uid, number, place })
    }

    /// How many connections are open.
    pub fn len(&self) -> usize {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner).total
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Seats {
    /// Sends the oldest idle connection of `uid` away.
    fn evict(&mut self, uid: u32) -> Option<()> {
        let own = self.by_uid.get(&uid)?;
        let number = *own.iter().find(|(_, place)| !place.busy.load(Ordering::Relaxed))?.0;
        if let Some(place) = self.remove(uid, number) {
            place.leave.notify_one();
        }
        Some(())
    }

    fn remove(&mut self, uid: u32, number: u64) -> Option<Arc<Place>> {
        let own = self.by_uid.get_mut(&uid)?;
        let place = own.remove(&number)?;
        if own.is_empty() {
            self.by_uid.remove(&uid);
        }
        self.total -= 1;
        Some(place)
    }
}

impl Seat {
    /// Marks whether a request, arrived whole, is being answered.
    pub fn set_busy(&self, busy: bool) {
        self.place.busy.store(busy, Ordering::Relaxed);
    }

    /// Returns when this connection has to make room.
    pub async fn evicted(&self) {
        self.place.leave.notified().await;
    }

    /// A place for a stream. None where the uid follows as many as it may: two for each connection that it may have.
    pub fn follow(&self) -> Option<Following> {
        let mut seats = self.crowd.seats.lock().unwrap_or_else(PoisonError::into_inner);
        let open = seats.streams.entry(self.uid).or_default();
        if *open >= STREAMS * self.crowd.most_of_uid {
            return None;
        }
        *open += 1;
        Some(Following { crowd: self.crowd.clone(), uid: self.uid })
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let mut seats = self.crowd.seats.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = seats.streams.get_mut(&self.uid) {
            *open -= 1;
            if *open == 0 {
                seats.streams.remove(&self.uid);
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.crowd.seats.lock().unwrap_or_else(PoisonError::into_inner).remove(self.uid, self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_idle_connection_makes_room() {
        let crowd = Crowd::new(4, 2);
        let first = crowd.admit(1).unwrap();
        first.set_busy(true);
        let second = crowd.admit(1).unwrap();
        let third = crowd.admit(1).unwrap();
        second.evicted().await;
        assert_eq!(crowd.len(), 2);
        third.set_busy(true);
        assert!(crowd.admit(1).is_none(), "both are at work");
        let _other = crowd.admit(2).unwrap();
        drop(first);
        drop(second);
        assert_eq!(crowd.len(), 2);
        drop(third);
        assert_eq!(crowd.len(), 1);
    }

    #[test]
    fn streams_are_bounded_for_a_uid_whatever_its_connections() {
        let crowd = Crowd::new(4, 2);
        let (a, b) = (crowd.admit(1).unwrap(), crowd.admit(1).unwrap());
        let mut followed: Vec<_> =
            (0..4).map(|turn| if turn % 2 == 0 { a.follow() } else { b.follow() }).collect();
        assert!(followed.iter().all(Option::is_some) && a.follow().is_none() && b.follow().is_none());
        assert!(crowd.admit(2).unwrap().follow().is_some());
        followed.pop();
        assert!(b.follow().is_some());
    }

    #[tokio::test]
    async fn a_full_house_takes_from_whoever_has_the_most() {
        let crowd = Crowd::new(3, 3);
        let a = crowd.admit(1).unwrap();
        let _b = crowd.admit(1).unwrap();
        let _c = crowd.admit(2).unwrap();
        let _d = crowd.admit(3).unwrap();
        a.evicted().await;
        assert_eq!(crowd.len(), 3);
    }
}
