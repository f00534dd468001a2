//! One status list: its tokens, in chunks that are not copied for a snapshot.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::tokens::TokenKey;
use super::assigned::Assigned;
use super::subject::Subject;
use crate::clock::Timestamp;

/// Tokens of a chunk. A snapshot copies the tokens of the last chunk, and shares the others.
const CHUNK: usize = 1024;
/// Random indices that are tried before a free one is searched.
const ATTEMPTS: usize = 32;

/// A token that has an index.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Identifies its `jti`.
    pub key: TokenKey,
    /// What it has in common with others.
    pub subject: Arc<Subject>,
    /// Its index.
    pub index: u32,
    /// When it expires, in seconds since 1970.
    pub(super) expires: u64,
}

/// A list.
#[derive(Debug)]
pub(super) struct List {
    pub number: u32,
    pub tenant: Option<Arc<str>>,
    pub capacity: u32,
    /// Since when it gets no further tokens, because not all of its tokens are known.
    pub closed_at: Option<Timestamp>,
    /// The lowest epoch of the tokens since the last snapshot; `u64::MAX` if there are none.
    pub lowest_epoch: u64,
    assigned: Assigned,
    chunks: Vec<Arc<[Entry]>>,
    last: Vec<Entry>,
}

/// A list at one moment.
#[derive(Clone, Debug)]
pub struct ListSnapshot {
    /// Its number.
    pub number: u32,
    /// The tenant of its issuer.
    pub tenant: Option<Arc<str>>,
    /// How many indices it has.
    pub capacity: u32,
    /// Whether an index that no known token has may be a revoked token's.
    pub has_unknown_tokens: bool,
    chunks: Vec<Arc<[Entry]>>,
    last: Vec<Entry>,
}

impl ListSnapshot {
    /// The tokens, some at a time.
    pub fn chunks(&self) -> impl Iterator<Item = &[Entry]> {
        self.chunks.iter().map(|chunk| &**chunk).chain(std::iter::once(&*self.last))
    }
}

/// What is left of chunks that had expired tokens.
pub(super) struct Filtered(HashMap<usize, (Arc<[Entry]>, Arc<[Entry]>)>);

impl List {
    pub(super) fn new(number: u32, tenant: Option<Arc<str>>, capacity: u32) -> List {
        List {
            number,
            tenant,
            capacity,
            closed_at: None,
            lowest_epoch: u64::MAX,
            assigned: Assigned::new(capacity),
            chunks: Vec::new(),
            last: Vec::new(),
        }
    }

    /// How many tokens have an index.
    pub(super) fn len(&self) -> usize {
        self.assigned.count()
    }

    /// Whether it gets further tokens before a further list is made: a random index is then found soon, and says
    /// little about when the token was issued.
    pub(super) fn has_room(&self) -> bool {
        self.closed_at.is_none() && self.len() < self.capacity as usize / 2
    }

    /// A random index that no token has.
    pub(super) fn take_index(&mut self, mut random: impl FnMut() -> Option<u32>) -> Option<u32> {
        if self.closed_at.is_some() {
            return None;
        }
        for _ in 0..ATTEMPTS {
            let index = random()? % self.capacity;
            if self.assigned.insert(index) {
                return Some(index);
            }
        }
        let index = self.assigned.first_free(random()? % self.capacity)?;
        self.assigned.insert(index).then_some(index)
    }

    /// Keeps the token of an index that was taken.
    pub(super) fn push(&mut self, entry: Entry) {
        if self.last.len() >= CHUNK {
            let full = std::mem::replace(&mut self.last, Vec::with_capacity(CHUNK));
            self.chunks.push(full.into());
        }
        self.lowest_epoch = self.lowest_epoch.min(entry.subject.epoch());
        self.last.push(entry);
    }

    /// Adds a token of `status-lists.db`; false if another one has its index.
    pub(super) fn add_stored(&mut self, entry: Entry) -> bool {
        let is_new = self.assigned.insert(entry.index);
        if is_new {
            self.push(entry);
        }
        is_new
    }

    pub(super) fn snapshot(&mut self) -> ListSnapshot {
        self.lowest_epoch = u64::MAX;
        ListSnapshot {
            number: self.number,
            tenant: self.tenant.clone(),
            capacity: self.capacity,
            has_unknown_tokens: self.closed_at.is_some(),
            chunks: self.chunks.clone(),
            last: self.last.clone(),
        }
    }

    /// The chunks, for [`Filtered::of`].
    pub(super) fn shared_chunks(&self) -> Vec<Arc<[Entry]>> {
        self.chunks.clone()
    }

    /// Drops the tokens that have expired by `horizon`. The chunks were filtered without a lock.
    pub(super) fn forget(&mut self, horizon: u64, mut filtered: Filtered) {
        let mut kept = Vec::with_capacity(self.chunks.len());
        for (index, chunk) in std::mem::take(&mut self.chunks).into_iter().enumerate() {
            match filtered.0.remove(&index) {
                Some((before, after)) if Arc::ptr_eq(&before, &chunk) => {
                    before.iter().filter(|entry| entry.expires <= horizon).for_each(|entry| {
                        self.assigned.remove(entry.index);
                    });
                    kept.extend((!after.is_empty()).then_some(after));
                }
                _ => kept.push(chunk),
            }
        }
        self.chunks = kept;
        self.last.retain(|entry| {
            let is_live = entry.expires > horizon;
            if !is_live {
                self.assigned.remove(entry.index);
            }
            is_live
        });
    }
}

impl Filtered {
    /// What is left of the chunks that have tokens which expired by `horizon`.
    pub(super) fn of(chunks: Vec<Arc<[Entry]>>, horizon: u64) -> Filtered {
        let has_expired = |entry: &Entry| entry.expires <= horizon;
        let filtered = chunks.into_iter().enumerate().filter(|(_, chunk)| chunk.iter().any(has_expired));
        Filtered(
            filtered
                .map(|(index, chunk)| {
                    let live = chunk.iter().filter(|entry| !has_expired(entry)).cloned().collect();
                    (index, (chunk, live))
                })
                .collect(),
        )
    }
}
