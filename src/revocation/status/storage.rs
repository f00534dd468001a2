//! Reads and writes `status-lists.db`. Blocking.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use super::list::{Entry, List};
use super::subject::{Subject, SubjectData};
use super::table::{Table, stored_entry};
use super::{CAPACITIES, MAX_INDICES};
use crate::agents::MatchTag;
use crate::clock::Timestamp;
use crate::store::{Error, StatusChange, StatusDatabase, StatusListRow, StatusSubjectRow, StatusTokenRow};

/// The database is closed when it has not been written for this time.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// What the database had.
pub(super) struct Loaded {
    pub table: Table,
    /// Whether all tokens that were issued are in the table.
    pub is_complete: bool,
}

/// Reads the database, and marks on the disk that further tokens may be issued. Empty if there is none.
pub(super) fn load(path: &Path, now: Timestamp) -> Result<Loaded, Error> {
    let Some(database) = StatusDatabase::open(path)? else {
        return Ok(Loaded { table: Table::default(), is_complete: true });
    };
    let (mut table, mut is_complete) = (Table::default(), database.is_complete()?);
    for row in database.lists()? {
        let Some(list) = list(row) else {
            is_complete = false;
            continue;
        };
        table.add_list(list);
    }
    let mut subjects = HashMap::new();
    for row in database.subjects()? {
        let Some(data) = subject_data(&row, &mut table) else { continue };
        subjects.insert(row.id, table.subjects().add_stored(row.id, data));
    }
    database.for_each_token(|row| {
        let subject = subjects.get(&row.subject).filter(|_| table.count() < MAX_INDICES).cloned();
        let is_added = subject.is_some_and(|subject| {
            let entry = stored_entry(row.key, subject, row.index, row.expires);
            table.add_stored(row.list, entry)
        });
        is_complete &= is_added;
    })?;
    database.mark_incomplete()?;
    if !is_complete {
        table.close_lists(now);
    }
    Ok(Loaded { table, is_complete })
}

/// The lists and the tokens that the database does not have. They count as stored in the table from now on.
pub(super) fn take_change(table: &mut Table, forget: Option<Timestamp>, is_complete: bool) -> Unsaved {
    let tokens = std::mem::take(&mut table.unsaved);
    let are_lists_unsaved = std::mem::take(&mut table.are_lists_unsaved);
    let lists = table.lists().map(list_row).collect();
    let mut subjects: Vec<_> = tokens
        .iter()
        .map(|(_, entry)| entry.subject.clone())
        .filter(|subject| !subject.is_stored())
        .collect();
    subjects.sort_by_key(|subject| subject.id);
    subjects.dedup_by_key(|subject| subject.id);
    let change = StatusChange {
        lists,
        subjects: subjects.iter().map(|subject| subject_row(subject)).collect(),
        tokens: tokens.iter().map(token_row).collect(),
        forget: forget.map(Timestamp::as_secs),
        is_complete,
    };
    Unsaved { tokens, are_lists_unsaved, change }
}

/// The database between two writes: opening it reads all of it, to detect damage.
#[derive(Default)]
pub(super) struct OpenDatabase {
    database: Option<StatusDatabase>,
    last_write: Option<Instant>,
}

impl OpenDatabase {
    /// Writes a change. It is on disk when this returns.
    pub(super) fn write(&mut self, path: &Path, unsaved: &Unsaved) -> Result<(), Error> {
        let mut database = match self.database.take() {
            Some(database) => database,
            None => StatusDatabase::open_or_create(path)?,
        };
        database.store(&unsaved.change)?;
        (self.database, self.last_write) = (Some(database), Some(Instant::now()));
        Ok(())
    }

    /// Closes the database if it has not been written for a while.
    pub(super) fn close_if_idle(&mut self) {
        if self.last_write.is_none_or(|at| at.elapsed() >= IDLE_TIMEOUT) {
            self.database = None;
        }
    }
}

/// What one write stores.
pub(super) struct Unsaved {
    tokens: Vec<(u32, Entry)>,
    are_lists_unsaved: bool,
    change: StatusChange,
}

impl Unsaved {
    /// Whether the database has all of it.
    pub(super) fn is_empty(&self) -> bool {
        self.tokens.is_empty() && !self.are_lists_unsaved
    }

    /// Whether there are any lists.
    pub(super) fn has_lists(&self) -> bool {
        !self.change.lists.is_empty()
    }

    /// The database has it now.
    pub(super) fn stored(&self) {
        self.tokens.iter().for_each(|(_, entry)| entry.subject.set_stored());
    }

    /// Puts back into the table what could not be written.
    pub(super) fn restore(self, table: &mut Table) {
        table.unsaved.splice(0..0, self.tokens);
        table.are_lists_unsaved |= self.are_lists_unsaved;
    }
}

/// The list of a row; `None` for a number of indices that no list has.
fn list(row: StatusListRow) -> Option<List> {
    CAPACITIES.contains(&row.capacity).then(|| {
        let mut list = List::new(row.number, row.tenant.map(Into::into), row.capacity);
        list.closed_at = row.closed_at.map(Timestamp::from_secs);
        list
    })
}

fn list_row(list: &List) -> StatusListRow {
    StatusListRow {
        number: list.number,
        tenant: list.tenant.as_deref().map(str::to_owned),
        capacity: list.capacity,
        closed_at: list.closed_at.map(Timestamp::as_secs),
    }
}

fn subject_data(row: &StatusSubjectRow, table: &mut Table) -> Option<SubjectData> {
    let subjects = table.subjects();
    Some(SubjectData {
        spiffe_id: subjects.text(&row.spiffe_id),
        audiences: subjects.text(&row.audiences),
        kid: subjects.text(&row.kid),
        invocation: row.invocation.as_deref().map(Box::from),
        epoch: row.epoch,
        match_tag: MatchTag::from_bytes(row.match_tag.to_be_bytes())?,
    })
}

fn subject_row(subject: &Subject) -> StatusSubjectRow {
    let SubjectData { spiffe_id, audiences, kid, invocation, epoch, match_tag } = subject.data();
    StatusSubjectRow {
        id: subject.id,
        spiffe_id: (**spiffe_id).to_owned(),
        audiences: (**audiences).to_owned(),
        kid: (**kid).to_owned(),
        invocation: invocation.as_deref().map(str::to_owned),
        epoch: *epoch,
        match_tag: u32::from_be_bytes(match_tag.to_bytes()),
    }
}

fn token_row((list, entry): &(u32, Entry)) -> StatusTokenRow {
    StatusTokenRow {
        list: *list,
        index: entry.index,
        key: entry.key.to_bytes(),
        expires: entry.expires,
        subject: entry.subject.id,
    }
}
