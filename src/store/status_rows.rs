//! The rows of `status-lists.db`: the status lists of this host, and the tokens that have an index in one.

use std::path::Path;

use rusqlite::{Connection, Row, params};

use super::Error;
use super::database::{Database, Schema};

/// Format 1. Tokens are in the order in which they were stored, so that a change writes few pages.
const SCHEMA: Schema = Schema {
    application_id: 0x6862_736c, // "hbsl"
    version: 1,
    sql: "CREATE TABLE meta (id INTEGER PRIMARY KEY CHECK (id = 1), is_complete INTEGER NOT NULL);
          INSERT INTO meta VALUES (1, 0);
          CREATE TABLE list (
              number INTEGER PRIMARY KEY, tenant TEXT, capacity INTEGER NOT NULL, closed_at INTEGER
          );
          CREATE TABLE subject (
              id INTEGER PRIMARY KEY, spiffe_id TEXT NOT NULL, audiences TEXT NOT NULL, kid TEXT NOT NULL,
              invocation TEXT, epoch INTEGER NOT NULL, match_tag INTEGER NOT NULL
          );
          CREATE TABLE token (
              id INTEGER PRIMARY KEY, list INTEGER NOT NULL, idx INTEGER NOT NULL, key BLOB NOT NULL,
              expires INTEGER NOT NULL, subject INTEGER NOT NULL
          );",
    migrations: &[],
};

/// A status list. Times are seconds since 1970 in UTC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusListRow {
    /// Its number, unique on the host.
    pub number: u32,
    /// The tenant of its issuer.
    pub tenant: Option<String>,
    /// How many indices it has.
    pub capacity: u32,
    /// Since when it gets no further tokens.
    pub closed_at: Option<u64>,
}

/// What several tokens have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusSubjectRow {
    /// Identifies it in this database.
    pub id: u64,
    /// The SPIFFE ID of the agent.
    pub spiffe_id: String,
    /// The audiences, separated by spaces.
    pub audiences: String,
    /// The key that signed.
    pub kid: String,
    /// The invocation of the process.
    pub invocation: Option<String>,
    /// The epoch of the revocations at the issue.
    pub epoch: u64,
    /// The conditions that the process met.
    pub match_tag: u32,
}

/// A token that has an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusTokenRow {
    /// The number of the list.
    pub list: u32,
    /// Its index in the list.
    pub index: u32,
    /// Identifies its `jti`.
    pub key: [u8; 16],
    /// When it expires.
    pub expires: u64,
    /// [`StatusSubjectRow::id`].
    pub subject: u64,
}

/// What one transaction stores.
#[derive(Clone, Debug, Default)]
pub struct StatusChange {
    /// All lists.
    pub lists: Vec<StatusListRow>,
    /// Further subjects, and those that may be stored already.
    pub subjects: Vec<StatusSubjectRow>,
    /// Further tokens.
    pub tokens: Vec<StatusTokenRow>,
    /// Tokens that expired at this time or before are dropped; `None` drops none.
    pub forget: Option<u64>,
    /// Whether the database has all tokens then, because no further ones are issued.
    pub is_complete: bool,
}

/// The open database.
pub struct StatusDatabase(Database);

impl StatusDatabase {
    /// Opens the database; `None` if it does not exist.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::UnsupportedVersion`] or [`Error::Io`].
    pub fn open(path: &Path) -> Result<Option<StatusDatabase>, Error> {
        Ok(Database::open(path, &SCHEMA)?.map(StatusDatabase))
    }

    /// As [`StatusDatabase::open`]; a database that does not exist is created.
    ///
    /// # Errors
    /// As [`StatusDatabase::open`].
    pub fn open_or_create(path: &Path) -> Result<StatusDatabase, Error> {
        Database::open_or_create(path, &SCHEMA).map(StatusDatabase)
    }

    /// Whether it has all tokens that were issued.
    ///
    /// # Errors
    /// [`Error::Corrupt`] or [`Error::Io`].
    pub fn is_complete(&self) -> Result<bool, Error> {
        let query = "SELECT is_complete FROM meta";
        self.0.connection.query_row(query, [], |row| row.get(0)).map_err(|e| self.0.error(e))
    }

    /// Marks that tokens are issued that the database does not have yet. The mark is on disk when this returns.
    ///
    /// # Errors
    /// As [`StatusDatabase::is_complete`].
    pub fn mark_incomplete(&self) -> Result<(), Error> {
        self.0.connection.execute("UPDATE meta SET is_complete = 0", []).map_err(|e| self.0.error(e))?;
        Ok(())
    }

    /// All lists.
    ///
    /// # Errors
    /// As [`StatusDatabase::is_complete`].
    pub fn lists(&self) -> Result<Vec<StatusListRow>, Error> {
        self.rows("SELECT number, tenant, capacity, closed_at FROM list ORDER BY number", |row| {
            Ok(StatusListRow {
                number: row.get(0)?,
                tenant: row.get(1)?,
                capacity: row.get(2)?,
                closed_at: row.get::<_, Option<i64>>(3)?.map(i64::unsigned_abs),
            })
        })
    }

    /// All subjects.
    ///
    /// # Errors
    /// As [`StatusDatabase::is_complete`].
    pub fn subjects(&self) -> Result<Vec<StatusSubjectRow>, Error> {
        let query = "SELECT id, spiffe_id, audiences, kid, invocation, epoch, match_tag FROM subject";
        self.rows(query, |row| {
            Ok(StatusSubjectRow {
                id: number(row, 0)?,
                spiffe_id: row.get(1)?,
                audiences: row.get(2)?,
                kid: row.get(3)?,
                invocation: row.get(4)?,
                epoch: number(row, 5)?,
                match_tag: row.get(6)?,
            })
        })
    }

    /// Passes each token to `visit`, in the order in which they were stored.
    ///
    /// # Errors
    /// As [`StatusDatabase::is_complete`].
    pub fn for_each_token(&self, mut visit: impl FnMut(StatusTokenRow)) -> Result<(), Error> {
        let mut read = |connection: &Connection| {
            let query = "SELECT list, idx, key, expires, subject FROM token ORDER BY id";
            let mut statement = connection.prepare(query)?;
            for row in statement.query_map([], token_row)? {
                visit(row?);
            }
            Ok(())
        };
        read(&self.0.connection).map_err(|e| self.0.error(e))
    }

    /// Stores a change. It is on disk when this returns.
    ///
    /// # Errors
    /// [`Error::Corrupt`] or [`Error::Io`]; then nothing was changed.
    pub fn store(&mut self, change: &StatusChange) -> Result<(), Error> {
        let result = write(&mut self.0.connection, change);
        result.map_err(|e| self.0.error(e))
    }

    fn rows<T>(
        &self,
        query: &str,
        convert: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, Error> {
        let read =
            || self.0.connection.prepare(query)?.query_map([], convert)?.collect::<rusqlite::Result<_>>();
        read().map_err(|e| self.0.error(e))
    }
}

fn write(connection: &mut Connection, change: &StatusChange) -> rusqlite::Result<()> {
    // Rolled back where it is dropped before the commit.
    let transaction = connection.transaction()?;
    transaction.execute("DELETE FROM list", [])?;
    for row in &change.lists {
        transaction.execute(
            "INSERT INTO list VALUES (?1, ?2, ?3, ?4)",
            params![row.number, row.tenant, row.capacity, row.closed_at.map(signed).transpose()?],
        )?;
    }
    {
        let mut insert =
            transaction.prepare("INSERT OR REPLACE INTO subject VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?;
        for row in &change.subjects {
            insert.execute(params![
                signed(row.id)?,
                row.spiffe_id,
                row.audiences,
                row.kid,
                row.invocation,
                signed(row.epoch)?,
                row.match_tag
            ])?;
        }
        let mut insert = transaction
            .prepare("INSERT INTO token (list, idx, key, expires, subject) VALUES (?1, ?2, ?3, ?4, ?5)")?;
        for row in &change.tokens {
            let (expires, subject) = (signed(row.expires)?, signed(row.subject)?);
            insert.execute(params![row.list, row.index, row.key, expires, subject])?;
        }
    }
    if let Some(forget) = change.forget {
        transaction.execute("DELETE FROM token WHERE expires <= ?1", params![signed(forget)?])?;
        transaction.execute("DELETE FROM subject WHERE id NOT IN (SELECT subject FROM token)", [])?;
    }
    transaction.execute("UPDATE meta SET is_complete = ?1", params![change.is_complete])?;
    transaction.commit()
}

fn token_row(row: &Row<'_>) -> rusqlite::Result<StatusTokenRow> {
    Ok(StatusTokenRow {
        list: row.get(0)?,
        index: row.get(1)?,
        key: row.get(2)?,
        expires: number(row, 3)?,
        subject: number(row, 4)?,
    })
}

/// SQLite's integers are signed; those of this format are not negative.
fn number(row: &Row<'_>, index: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(index)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(index, value))
}

/// A clock that is far ahead gives times that SQLite has no integers for: they count as its last one.
fn signed(number: u64) -> rusqlite::Result<i64> {
    Ok(i64::try_from(number).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(n: u32, expires: u64) -> StatusTokenRow {
        StatusTokenRow { list: 7, index: n, key: [n as u8; 16], expires, subject: u64::from(n % 2) }
    }

    fn subject(id: u64) -> StatusSubjectRow {
        StatusSubjectRow {
            id,
            spiffe_id: "spiffe://example.org/host/x/agent/a".into(),
            audiences: "https://a https://b".into(),
            kid: "kid".into(),
            invocation: Some("00".into()),
            epoch: 3,
            match_tag: u32::MAX,
        }
    }

    fn tokens(database: &StatusDatabase) -> Vec<StatusTokenRow> {
        let mut rows = Vec::new();
        database.for_each_token(|row| rows.push(row)).unwrap();
        rows
    }

    #[test]
    fn what_is_stored_is_read_and_what_has_expired_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("status-lists.db");
        assert!(StatusDatabase::open(&path).unwrap().is_none());
        let list = StatusListRow { number: 7, tenant: Some("t".into()), capacity: 8192, closed_at: Some(9) };
        let change = StatusChange {
            lists: vec![list.clone()],
            subjects: vec![subject(0), subject(1)],
            tokens: vec![token(2, 10), token(1, u64::MAX), token(4, 20)],
            forget: None,
            is_complete: true,
        };
        StatusDatabase::open_or_create(&path).unwrap().store(&change).unwrap();
        let mut database = StatusDatabase::open(&path).unwrap().unwrap();
        assert!(database.is_complete().unwrap());
        database.mark_incomplete().unwrap();
        assert!(!database.is_complete().unwrap());
        assert_eq!((database.lists().unwrap(), database.subjects().unwrap()), (vec![list], change.subjects));
        assert_eq!(tokens(&database), [token(2, 10), token(1, i64::MAX as u64), token(4, 20)]);

        database.store(&StatusChange { forget: Some(20), ..StatusChange::default() }).unwrap();
        assert_eq!(tokens(&database), [token(1, i64::MAX as u64)]);
        assert_eq!(database.subjects().unwrap(), [subject(1)]);
        assert!(database.lists().unwrap().is_empty());
    }
}
