//! All status lists of the host, and their tokens.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ring::rand::{SecureRandom, SystemRandom};

use super::super::tokens::TokenKey;
use super::list::{Entry, Filtered, List, ListSnapshot};
use super::subject::{NewSubject, Subject, Subjects};
use super::{CAPACITIES, LONGEST_TOKEN, MAX_INDICES, MAX_LISTS};
use crate::clock::Timestamp;

/// Random numbers that are tried for a list before none is made.
const ATTEMPTS: usize = 32;
/// Numbers of lists are from 1 to this: JSON parsers and file names take them as they are.
const MAX_NUMBER: u32 = (1 << 31) - 1;

/// Where a token is in the status lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusIndex {
    /// The number of the list.
    pub list: u32,
    /// The index in the list.
    pub index: u32,
}

/// Why a token gets no index, and is not issued.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssignError {
    /// It is not known yet which indices are free.
    #[error("the status lists of this host are not available: {0}")]
    NotLoaded(String),
    /// All indices that the issuer may have are in use.
    #[error(
        "the status lists have no free index: too many tokens with a status are valid at once; try again when \
         some have expired"
    )]
    Exhausted,
    /// `getrandom(2)` failed.
    #[error("the system random number generator failed")]
    Random,
}

/// All lists.
#[derive(Debug, Default)]
pub(super) struct Table {
    lists: BTreeMap<u32, List>,
    by_issuer: BTreeMap<Option<Arc<str>>, IssuerLists>,
    /// Tokens of all lists.
    count: usize,
    subjects: Subjects,
    random: Option<SystemRandom>,
    /// Tokens that `status-lists.db` does not have, with the numbers of their lists.
    pub(super) unsaved: Vec<(u32, Entry)>,
    /// Whether lists were made, closed or removed since the database was written.
    pub(super) are_lists_unsaved: bool,
}

/// The lists of one issuer.
#[derive(Debug, Default)]
struct IssuerLists {
    /// In the order in which they were made.
    numbers: Vec<u32>,
    /// Tokens of these lists.
    count: usize,
}

impl Table {
    /// Gives a token of an issuer a free index.
    pub(super) fn assign(
        &mut self,
        tenant: Option<&str>,
        new: &NewSubject<'_>,
        key: TokenKey,
        expires: Timestamp,
    ) -> Result<StatusIndex, AssignError> {
        let tenant = tenant.map(|tenant| self.subjects.text(tenant));
        let number = self.list_with_room(&tenant)?;
        let random = self.random.get_or_insert_with(SystemRandom::new).clone();
        let list = self.lists.get_mut(&number).ok_or(AssignError::Exhausted)?;
        let index = list.take_index(|| random_number(&random)).ok_or(AssignError::Random)?;
        let entry = Entry { key, subject: self.subjects.get(new), index, expires: expires.as_secs() };
        list.push(entry.clone());
        self.unsaved.push((number, entry));
        self.count += 1;
        self.by_issuer.entry(tenant).or_default().count += 1;
        Ok(StatusIndex { list: number, index })
    }

    /// A list of the issuer that is less than half full, else a further one, else one with any free index.
    fn list_with_room(&mut self, tenant: &Option<Arc<str>>) -> Result<u32, AssignError> {
        let issuer = self.by_issuer.entry(tenant.clone()).or_default();
        // So one issuer cannot take what others need.
        if issuer.count >= MAX_INDICES - self.count {
            return Err(AssignError::Exhausted);
        }
        let lists = || issuer.numbers.iter().filter_map(|number| self.lists.get(number));
        if let Some(list) = lists().find(|list| list.has_room()) {
            return Ok(list.number);
        }
        if issuer.numbers.len() < MAX_LISTS {
            let open = lists().filter(|list| list.closed_at.is_none()).count();
            let capacity = CAPACITIES[open.min(CAPACITIES.len() - 1)];
            return self.make_list(tenant, capacity);
        }
        let is_free = |list: &&List| list.closed_at.is_none() && list.len() < list.capacity as usize;
        lists().find(is_free).map(|list| list.number).ok_or(AssignError::Exhausted)
    }

    /// Makes a list. Its number is random, so that no number is used again after the table was lost.
    fn make_list(&mut self, tenant: &Option<Arc<str>>, capacity: u32) -> Result<u32, AssignError> {
        let random = self.random.get_or_insert_with(SystemRandom::new);
        for _ in 0..ATTEMPTS {
            let number = random_number(random).ok_or(AssignError::Random)? & MAX_NUMBER;
            if number == 0 || self.lists.contains_key(&number) {
                continue;
            }
            self.lists.insert(number, List::new(number, tenant.clone(), capacity));
            self.by_issuer.entry(tenant.clone()).or_default().numbers.push(number);
            self.are_lists_unsaved = true;
            return Ok(number);
        }
        Err(AssignError::Random)
    }

    /// Adds a list of `status-lists.db`.
    pub(super) fn add_list(&mut self, mut list: List) {
        list.tenant = list.tenant.take().map(|tenant| self.subjects.text(&tenant));
        self.by_issuer.entry(list.tenant.clone()).or_default().numbers.push(list.number);
        self.lists.insert(list.number, list);
    }

    /// Adds a token of `status-lists.db`; false if no list has its index, or another token does.
    pub(super) fn add_stored(&mut self, number: u32, entry: Entry) -> bool {
        let Some(list) = self.lists.get_mut(&number).filter(|list| entry.index < list.capacity) else {
            return false;
        };
        let is_added = list.add_stored(entry);
        self.count += usize::from(is_added);
        if let Some(issuer) = self.by_issuer.get_mut(&list.tenant) {
            issuer.count += usize::from(is_added);
        }
        is_added
    }

    pub(super) fn subjects(&mut self) -> &mut Subjects {
        &mut self.subjects
    }

    /// Gives none of these lists further tokens: some of theirs are not known.
    pub(super) fn close_lists(&mut self, now: Timestamp) {
        for list in self.lists.values_mut() {
            // An earlier end of the daemon is over once as long has passed since this one.
            list.closed_at = Some(now);
        }
        self.are_lists_unsaved = true;
    }

    pub(super) fn snapshot(&mut self, number: u32) -> Option<ListSnapshot> {
        self.lists.get_mut(&number).map(List::snapshot)
    }

    /// The lowest epoch of the tokens that got an index in an issuer's list since its last snapshot.
    pub(super) fn lowest_epoch(&self, tenant: Option<&str>, number: u32) -> Option<u64> {
        self.lists.get(&number).filter(|list| list.tenant.as_deref() == tenant).map(|list| list.lowest_epoch)
    }

    /// The numbers of an issuer's lists.
    pub(super) fn numbers(&self, tenant: Option<&str>) -> Vec<u32> {
        let lists = self.lists.values().filter(|list| list.tenant.as_deref() == tenant);
        lists.map(|list| list.number).collect()
    }

    /// Whether there is a list of this number.
    pub(super) fn has(&self, number: u32) -> bool {
        self.lists.contains_key(&number)
    }

    pub(super) fn lists(&self) -> impl Iterator<Item = &List> {
        self.lists.values()
    }

    /// Tokens that have an index.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// The issuers that get no further token now, by tenant.
    pub(super) fn exhausted(&self) -> Vec<Option<Arc<str>>> {
        let is_exhausted = |(tenant, issuer): (&Option<Arc<str>>, &IssuerLists)| {
            let lists = || issuer.numbers.iter().filter_map(|number| self.lists.get(number));
            let is_full = |list: &List| list.closed_at.is_some() || list.len() >= list.capacity as usize;
            let has_no_list = issuer.numbers.len() >= MAX_LISTS && lists().all(is_full);
            (issuer.count >= MAX_INDICES - self.count || has_no_list).then(|| tenant.clone())
        };
        self.by_issuer.iter().filter_map(is_exhausted).collect()
    }

    /// Drops the tokens that have expired by `horizon`, and lists that are not needed any more. `filtered` has
    /// the chunks of lists that were filtered without a lock.
    pub(super) fn forget(&mut self, horizon: Timestamp, mut filtered: BTreeMap<u32, Filtered>) {
        let seconds = horizon.as_secs();
        let before = self.count;
        self.unsaved.retain(|(_, entry)| entry.expires > seconds);
        for (number, list) in &mut self.lists {
            let Some(filtered) = filtered.remove(number) else { continue };
            let length = list.len();
            list.forget(seconds, filtered);
            let dropped = length - list.len();
            self.count -= dropped;
            if let Some(issuer) = self.by_issuer.get_mut(&list.tenant) {
                issuer.count -= dropped;
            }
        }
        self.remove_lists(horizon);
        if self.count < before {
            self.subjects.drop_unused();
        }
    }

    /// Removes empty lists: those that are closed, once none of their unknown tokens can be valid, and those of
    /// an issuer that has another one.
    fn remove_lists(&mut self, horizon: Timestamp) {
        let mut removed = BTreeSet::new();
        for issuer in self.by_issuer.values() {
            let lists = || issuer.numbers.iter().filter_map(|number| self.lists.get(number));
            let mut open = lists().filter(|list| list.closed_at.is_none()).count();
            // The first one stays, so that its address does.
            for list in lists().collect::<Vec<_>>().into_iter().rev().filter(|list| list.len() == 0) {
                let is_over = match list.closed_at {
                    Some(closed) => closed.after(LONGEST_TOKEN) <= horizon,
                    None => open > 1,
                };
                if is_over {
                    open -= usize::from(list.closed_at.is_none());
                    removed.insert(list.number);
                }
            }
        }
        if removed.is_empty() {
            return;
        }
        self.lists.retain(|number, _| !removed.contains(number));
        for issuer in self.by_issuer.values_mut() {
            issuer.numbers.retain(|number| !removed.contains(number));
        }
        self.by_issuer.retain(|_, issuer| !issuer.numbers.is_empty());
        self.are_lists_unsaved = true;
    }

    #[cfg(test)]
    pub(super) fn subject_count(&self) -> usize {
        self.subjects.len()
    }
}

/// A token of `status-lists.db`.
pub(super) fn stored_entry(key: [u8; 16], subject: Arc<Subject>, index: u32, expires: u64) -> Entry {
    Entry { key: TokenKey::from_bytes(key), subject, index, expires }
}

fn random_number(random: &SystemRandom) -> Option<u32> {
    let mut bytes = [0; 4];
    random.fill(&mut bytes).ok()?;
    Some(u32::from_ne_bytes(bytes))
}
