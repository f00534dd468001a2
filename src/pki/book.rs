//! The book of leaves: which serial numbers each identity has that have not expired, so that they can be revoked.
//!
//! Bounded: an identity that takes more than it can use is told to wait until one of its certificates has expired.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::{BASE64, HEXLOWER};
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::store;

/// Leaves of one identity, and of all, that have not expired.
pub const MOST_OF_ONE: usize = 4096;
pub const MOST: usize = 32_768;
/// As written: serial number, seconds of the expiry, the issuing CA's tag.
const WRITTEN: usize = 16 + 8 + 4;
const NAME: &str = "leaves.json";
const VERSION: u64 = 1;

/// The first bytes of the key identifier of an issuing CA.
pub type Tag = [u8; 4];

/// A certificate that was issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    pub serial: [u8; 16],
    pub expires: Timestamp,
    pub by: Tag,
}

/// Why there is no room for another leaf, and when there may be.
#[derive(Debug, PartialEq, Eq)]
pub struct Full {
    /// Whether it is this identity that has so many.
    pub own: bool,
    pub retry_after: Duration,
}

#[derive(Debug, Default)]
pub struct Book {
    leaves: HashMap<Arc<str>, Vec<Leaf>>,
    count: usize,
    /// Whether the file says something else.
    changed: bool,
}

/// `leaves.json`: serial numbers are no secrets.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Written {
    leaves: HashMap<Arc<str>, String>,
}

impl Book {
    /// The book of an earlier start.
    pub fn read(dir: &Path) -> Result<Book, store::Error> {
        let written = store::read::<Written>(&dir.join(NAME), VERSION)?.unwrap_or_default();
        let mut book = Book::default();
        for (id, text) in written.leaves {
            let bytes = BASE64.decode(text.as_bytes()).unwrap_or_default();
            let leaves: Vec<Leaf> = bytes.chunks_exact(WRITTEN).filter_map(Leaf::read).collect();
            book.count += leaves.len();
            book.leaves.insert(id, leaves);
        }
        Ok(book)
    }

    /// What is to be written, if that is another than before.
    pub fn take_changes(&mut self, now: Timestamp) -> Option<Written> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        self.prune(now);
        let text = |leaves: &Vec<Leaf>| {
            let bytes: Vec<u8> = leaves.iter().flat_map(Leaf::written).collect();
            BASE64.encode(&bytes)
        };
        Some(Written { leaves: self.leaves.iter().map(|(id, leaves)| (id.clone(), text(leaves))).collect() })
    }

    /// Whatever could not be written is to be written later.
    pub fn changed(&mut self) {
        self.changed = true;
    }

    pub fn add(&mut self, id: &str, leaf: Leaf, now: Timestamp) -> Result<(), Full> {
        let own = self.leaves.get(id).map_or(0, Vec::len);
        if own >= MOST_OF_ONE || self.count >= MOST {
            self.make_room(id, now)?;
        }
        match self.leaves.get_mut(id) {
            Some(leaves) => leaves.push(leaf),
            None => drop(self.leaves.insert(id.into(), vec![leaf])),
        }
        self.count += 1;
        self.changed = true;
        Ok(())
    }

    /// How many leaves of an identity it has; some of them may have expired.
    pub fn count_of(&self, id: &str) -> usize {
        self.leaves.get(id).map_or(0, Vec::len)
    }

    /// Whether a leaf is in it, by its serial number in hexadecimal.
    pub fn has(&self, id: &str, serial: &str) -> bool {
        let Ok(serial) = HEXLOWER.decode(serial.as_bytes()) else { return false };
        // The latest are at the end, and are asked for most.
        self.leaves.get(id).is_some_and(|leaves| leaves.iter().rev().any(|leaf| leaf.serial[..] == serial))
    }

    fn make_room(&mut self, id: &str, now: Timestamp) -> Result<(), Full> {
        self.prune(now);
        let own = self.leaves.get(id).map_or(0, Vec::len) >= MOST_OF_ONE;
        if !own && self.count < MOST {
            return Ok(());
        }
        let all = self.leaves.iter().filter(|(of, _)| !own || ***of == *id).flat_map(|(_, leaves)| leaves);
        let next = all.map(|leaf| leaf.expires).min().unwrap_or(now);
        Err(Full { own, retry_after: next.since(now) })
    }

    /// Forgets what has expired.
    fn prune(&mut self, now: Timestamp) {
        self.leaves.retain(|_, leaves| {
            leaves.retain(|leaf| leaf.expires > now);
            !leaves.is_empty()
        });
        self.count = self.leaves.values().map(Vec::len).sum();
    }

    /// The leaves of those who are not there any more.
    pub fn of_others(&self, is_there: impl Fn(&str) -> bool) -> Vec<(Arc<str>, Vec<Leaf>)> {
        let gone = self.leaves.iter().filter(|(id, _)| !is_there(id));
        gone.map(|(id, leaves)| (id.clone(), leaves.clone())).collect()
    }

    /// Strikes leaves that are revoked now. One that was added meanwhile stays.
    pub fn strike(&mut self, id: &str, revoked: &[Leaf]) {
        let Some(leaves) = self.leaves.get_mut(id) else { return };
        let before = leaves.len();
        leaves.retain(|leaf| !revoked.contains(leaf));
        self.count -= before - leaves.len();
        self.changed = true;
        if leaves.is_empty() {
            self.leaves.remove(id);
        }
    }
}

impl Written {
    /// On disk when this returns. Blocking.
    pub fn write(&self, dir: &Path) -> Result<(), store::Error> {
        store::write(&dir.join(NAME), VERSION, self)
    }
}

impl Leaf {
    fn written(&self) -> Vec<u8> {
        [&self.serial[..], &self.expires.secs().to_be_bytes(), &self.by].concat()
    }

    fn read(bytes: &[u8]) -> Option<Leaf> {
        let (serial, rest) = bytes.split_first_chunk::<16>()?;
        let (expires, by) = rest.split_first_chunk::<8>()?;
        let expires = Timestamp::from_secs(u64::from_be_bytes(*expires));
        Some(Leaf { serial: *serial, expires, by: by.try_into().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

    fn leaf(n: usize, lives: u64) -> Leaf {
        let mut serial = [0; 16];
        serial[..8].copy_from_slice(&n.to_be_bytes());
        Leaf { serial, expires: NOW.after(Duration::from_secs(lives)), by: *b"ca 1" }
    }

    #[test]
    fn who_has_too_many_waits_for_the_first_to_expire_and_nobody_else_does() {
        let mut book = Book::default();
        for n in 0..MOST_OF_ONE {
            book.add("a", leaf(n, 100 + n as u64), NOW).unwrap();
        }
        let full = book.add("a", leaf(0, 9), NOW).unwrap_err();
        assert_eq!(full, Full { own: true, retry_after: Duration::from_secs(100) });
        book.add("b", leaf(0, 9), NOW).unwrap();
        book.add("a", leaf(0, 9), NOW.after(Duration::from_secs(101))).unwrap();
    }

    #[test]
    fn all_together_are_bounded() {
        let mut book = Book::default();
        for n in 0..MOST {
            book.add(&(n % 100).to_string(), leaf(n, 100), NOW).unwrap();
        }
        assert!(!book.add("new", leaf(0, 9), NOW).unwrap_err().own);
        book.add("new", leaf(0, 300), NOW.after(Duration::from_secs(200))).unwrap();
        assert_eq!(book.count, 1);
    }

    #[test]
    fn a_book_is_read_as_it_was_written_and_a_full_one_is_no_larger_than_a_state_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut book = Book::default();
        for n in 0..MOST {
            let id = format!("spiffe://{}/{}", "d".repeat(100), n % 10_000);
            book.add(&id, leaf(n, 100), NOW).unwrap();
        }
        book.take_changes(NOW).unwrap().write(dir.path()).unwrap();
        assert!(book.take_changes(NOW).is_none());
        let read = Book::read(dir.path()).unwrap();
        assert_eq!((read.count, &read.leaves), (MOST, &book.leaves));
        assert_eq!(Book::read(&dir.path().join("none")).unwrap().count, 0);
    }

    #[test]
    fn what_is_struck_is_gone_and_what_came_meanwhile_is_not() {
        let mut book = Book::default();
        book.add("a", leaf(1, 100), NOW).unwrap();
        book.add("b", leaf(2, 100), NOW).unwrap();
        let gone = book.of_others(|id| id == "b");
        assert_eq!(gone, [("a".into(), vec![leaf(1, 100)])]);
        book.add("a", leaf(3, 100), NOW).unwrap();
        book.strike("a", &gone[0].1);
        assert_eq!(book.of_others(|_| false).len(), 2);
        assert_eq!(book.leaves["a"], [leaf(3, 100)]);
    }
}
