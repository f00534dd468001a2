//! Whose executable is read next: each user has one reader at a time, and all users together eight.
//!
//! A user whose executable could not be read in time gets no reader for a time that doubles with each further
//! one, so that it cannot occupy a place for others' reads again and again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::DigestError;
use crate::mutex::lock;

/// Readers at once, of different users.
const MAX_READERS: usize = 8;
/// Reads of one user that wait for its reader; more are refused.
const MAX_WAITING: usize = 32;
/// Each reader is a process, or a unit of systemd; a user that executes ever new files waits for the next
/// one.
const MIN_READ_INTERVAL: Duration = Duration::from_millis(500);
/// Reads of one user that need not wait, after a pause.
const READ_BURST: u32 = 16;
/// How long a user gets no reader after its first read that did not end, and after many.
const FIRST_BLOCK: Duration = Duration::from_secs(30);
const MAX_BLOCK: Duration = Duration::from_secs(3600);
/// Users that are remembered; beyond it, those who wait for nothing are forgotten.
const MAX_USERS: usize = 1024;

/// The turns of all users. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct ReadTurns {
    users: Arc<Mutex<HashMap<u32, UserTurns>>>,
    places: Arc<Semaphore>,
}

#[derive(Debug)]
struct UserTurns {
    reader: Arc<Semaphore>,
    /// Reads that wait or run.
    pending: usize,
    /// The time at which a user that reads no faster than once in [`MIN_READ_INTERVAL`] would read next.
    paced_until: Instant,
    /// Reads in a row that did not end in time.
    failures: u32,
    blocked_until: Option<Instant>,
}

/// A turn: its holder may have a reader. Drop passes it on.
#[derive(Debug)]
pub(super) struct ReadTurn {
    _counted: CountedRead,
    _place: OwnedSemaphorePermit,
    _reader: OwnedSemaphorePermit,
}

impl Default for ReadTurns {
    fn default() -> Self {
        ReadTurns { users: Arc::default(), places: Arc::new(Semaphore::new(MAX_READERS)) }
    }
}

impl ReadTurns {
    /// Waits until the user `uid` may have a reader.
    ///
    /// # Errors
    /// [`DigestError::Blocked`] or [`DigestError::Busy`] at once.
    pub async fn wait(&self, uid: u32) -> Result<ReadTurn, DigestError> {
        let (counted, reader) = self.enter(uid, Instant::now())?;
        let reader = reader.acquire_owned().await.map_err(|_| DigestError::NoReader)?;
        // A read that waited for this turn may have failed meanwhile.
        let pause = self.begin(uid, Instant::now())?;
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        let place = self.places.clone().acquire_owned().await.map_err(|_| DigestError::NoReader)?;
        Ok(ReadTurn { _counted: counted, _place: place, _reader: reader })
    }

    /// Whether the user has no read that waits or runs, and is not blocked.
    pub fn is_idle(&self, uid: u32) -> bool {
        self.lock()
            .get(&uid)
            .is_none_or(|user| user.pending == 0 && user.remaining_block(Instant::now()).is_none())
    }

    /// Reports how a read of this user ended: `in_time` with a result, whatever it was.
    pub fn report(&self, uid: u32, in_time: bool) {
        self.report_at(uid, in_time, Instant::now());
    }

    fn report_at(&self, uid: u32, in_time: bool, now: Instant) {
        let mut users = self.lock();
        let Some(user) = users.get_mut(&uid) else { return };
        if in_time {
            (user.failures, user.blocked_until) = (0, None);
            return;
        }
        let block = FIRST_BLOCK.saturating_mul(1 << user.failures.min(16)).min(MAX_BLOCK);
        user.failures += 1;
        user.blocked_until = Some(now + block);
    }

    fn enter(&self, uid: u32, now: Instant) -> Result<(CountedRead, Arc<Semaphore>), DigestError> {
        let mut users = self.lock();
        if users.len() >= MAX_USERS && !users.contains_key(&uid) {
            users.retain(|_, user| user.pending > 0 || user.remaining_block(now).is_some());
        }
        let user = users.entry(uid).or_insert_with(|| UserTurns {
            reader: Arc::new(Semaphore::new(1)),
            pending: 0,
            paced_until: now,
            failures: 0,
            blocked_until: None,
        });
        if let Some(remaining) = user.remaining_block(now) {
            return Err(DigestError::Blocked(remaining));
        }
        if user.pending > MAX_WAITING {
            return Err(DigestError::Busy);
        }
        user.pending += 1;
        Ok((CountedRead { turns: self.clone(), uid }, user.reader.clone()))
    }

    /// Counts a read that begins, and returns how long it has to wait for its pace.
    fn begin(&self, uid: u32, now: Instant) -> Result<Duration, DigestError> {
        let mut users = self.lock();
        let Some(user) = users.get_mut(&uid) else { return Ok(Duration::ZERO) };
        if let Some(remaining) = user.remaining_block(now) {
            return Err(DigestError::Blocked(remaining));
        }
        user.paced_until = user.paced_until.max(now) + MIN_READ_INTERVAL;
        let ahead = user.paced_until.duration_since(now);
        Ok(ahead.saturating_sub(MIN_READ_INTERVAL * READ_BURST))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, UserTurns>> {
        lock(&self.users)
    }
}

impl UserTurns {
    fn remaining_block(&self, now: Instant) -> Option<Duration> {
        self.blocked_until?.checked_duration_since(now).filter(|remaining| !remaining.is_zero())
    }
}

/// Counts as a pending read of its user until it is dropped.
#[derive(Debug)]
struct CountedRead {
    turns: ReadTurns,
    uid: u32,
}

impl Drop for CountedRead {
    fn drop(&mut self) {
        if let Some(user) = self.turns.lock().get_mut(&self.uid) {
            user.pending -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    fn poll<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Poll<T> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[tokio::test]
    async fn users_do_not_wait_for_each_other() {
        let turns = ReadTurns::default();
        let first = turns.wait(1).await.unwrap();
        let mut second = pin!(turns.wait(1));
        assert!(poll(second.as_mut()).is_pending(), "one reader for each user");
        let others: Vec<_> = futures(&turns, 2..=8).await;
        let mut ninth = pin!(turns.wait(9));
        assert!(poll(ninth.as_mut()).is_pending(), "eight readers for all");
        assert!(!turns.is_idle(1) && !turns.is_idle(9) && turns.is_idle(10));
        drop(first);
        assert!(poll(ninth.as_mut()).is_ready());
        drop(others);
        assert!(poll(second.as_mut()).is_ready());
    }

    async fn futures(turns: &ReadTurns, users: std::ops::RangeInclusive<u32>) -> Vec<ReadTurn> {
        let mut held = Vec::new();
        for uid in users {
            held.push(turns.wait(uid).await.unwrap());
        }
        held
    }

    #[tokio::test]
    async fn reads_of_one_user_are_bounded() {
        let turns = ReadTurns::default();
        let entered: Vec<_> = (0..=MAX_WAITING).map(|_| turns.enter(1, Instant::now()).unwrap()).collect();
        assert_eq!(turns.wait(1).await.unwrap_err(), DigestError::Busy);
        assert!(turns.wait(2).await.is_ok());
        drop(entered);
        assert!(turns.wait(1).await.is_ok());
    }

    #[test]
    fn a_user_whose_reads_do_not_end_is_blocked_for_longer_each_time() {
        let turns = ReadTurns::default();
        let mut now = Instant::now();
        for seconds in [30, 60, 120, 240, 480, 960, 1920, 3600, 3600] {
            drop(turns.enter(1, now).unwrap());
            turns.report_at(1, false, now);
            let block = Duration::from_secs(seconds);
            assert_eq!(turns.enter(1, now).unwrap_err(), DigestError::Blocked(block));
            assert!(turns.enter(2, now).is_ok());
            now += block;
        }
        drop(turns.enter(1, now).unwrap());
        turns.report_at(1, true, now);
        turns.report_at(1, false, now);
        assert_eq!(turns.enter(1, now).unwrap_err(), DigestError::Blocked(FIRST_BLOCK));
    }

    #[test]
    fn a_user_that_executes_new_files_all_the_time_is_slowed_down() {
        let turns = ReadTurns::default();
        let now = Instant::now();
        let _counted = turns.enter(1, now).unwrap();
        for _ in 0..READ_BURST {
            assert_eq!(turns.begin(1, now), Ok(Duration::ZERO));
        }
        assert_eq!(turns.begin(1, now), Ok(MIN_READ_INTERVAL));
        let later = now + MIN_READ_INTERVAL * 2;
        assert_eq!(turns.begin(1, later), Ok(Duration::ZERO));
    }

    #[test]
    fn users_are_forgotten_but_not_those_who_are_blocked() {
        let turns = ReadTurns::default();
        let now = Instant::now();
        drop(turns.enter(0, now).unwrap());
        turns.report_at(0, false, now);
        for uid in 1..=2 * MAX_USERS as u32 {
            drop(turns.enter(uid, now).unwrap());
        }
        assert!(turns.lock().len() <= MAX_USERS);
        assert!(turns.enter(0, now).is_err());
    }
}
