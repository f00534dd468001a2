//! The rows of `revocations.db`: revoked targets, and single tokens that are revoked or used up.
//!
//! A *guarded* change replaces the revocations of targets, drops what has expired, and has a digest for the state
//! manifest. Rows that are appended after it are not part of that digest, until the next guarded change. So a
//! copy from before the last guarded change is detected, and one from before an appended row is not.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, Row, params};

use super::Error;
use super::columns::{append, number, optional_number, signed};
use super::database::{Database, Schema};
use crate::digest::sha256;

/// Format 1.
const SCHEMA: Schema = Schema {
    application_id: 0x6862_7276, // "hbrv"
    version: 1,
    sql: "CREATE TABLE meta (
              id INTEGER PRIMARY KEY CHECK (id = 1), epoch_limit INTEGER NOT NULL, guarded INTEGER NOT NULL
          );
          INSERT INTO meta VALUES (1, 0, 0);
          CREATE TABLE target (
              kind TEXT NOT NULL, value TEXT NOT NULL, epoch INTEGER NOT NULL, blocking INTEGER NOT NULL,
              revoked_at INTEGER NOT NULL, revoked_by TEXT NOT NULL, reason TEXT NOT NULL, lapses INTEGER,
              is_guarded INTEGER NOT NULL, sequence INTEGER NOT NULL,
              PRIMARY KEY (kind, value, epoch)
          ) WITHOUT ROWID;
          CREATE TABLE token (
              used INTEGER NOT NULL, key BLOB NOT NULL, expires INTEGER NOT NULL, sequence INTEGER NOT NULL,
              PRIMARY KEY (used, key)
          ) WITHOUT ROWID;",
    migrations: &[],
};

/// The revocation of a target. Times are seconds since 1970 in UTC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationRow {
    /// The kind of the target.
    pub kind: String,
    /// What distinguishes the target from others of its kind.
    pub value: String,
    /// What was issued at a lower epoch is revoked.
    pub epoch: u64,
    /// Whether nothing is issued in the target.
    pub blocking: bool,
    /// When it was revoked.
    pub revoked_at: u64,
    /// Who revoked it.
    pub revoked_by: String,
    /// Why.
    pub reason: String,
    /// From when on it has no effect.
    pub lapses: Option<u64>,
    /// Whether the change that stored it was guarded.
    pub is_guarded: bool,
}

/// A single token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenRow {
    /// Whether it was used up, and not revoked.
    pub used: bool,
    /// Identifies it.
    pub key: [u8; 16],
    /// When it expires, in seconds since 1970 in UTC.
    pub expires: u64,
}

/// All rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RevocationRows {
    /// No token has a greater epoch.
    pub epoch_limit: u64,
    /// The revocations of targets; of one target there may be several.
    pub targets: Vec<RevocationRow>,
    /// Single tokens.
    pub tokens: Vec<TokenRow>,
}

/// What a guarded change stores.
#[derive(Clone, Debug, Default)]
pub struct GuardedChange {
    /// The new [`RevocationRows::epoch_limit`].
    pub epoch_limit: u64,
    /// The revocations of targets from now on.
    pub targets: Vec<RevocationRow>,
    /// Further tokens.
    pub tokens: Vec<TokenRow>,
    /// Tokens that expired at this time or before are dropped.
    pub forget: u64,
}

/// The open database.
pub struct RevocationDatabase {
    database: Database,
    path: PathBuf,
    /// Of the last row.
    sequence: u64,
}

impl RevocationDatabase {
    /// Opens the database; `None` if it does not exist.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::UnsupportedVersion`] or [`Error::Io`].
    pub fn open(path: &Path) -> Result<Option<RevocationDatabase>, Error> {
        Database::open(path, &SCHEMA)?.map(|database| RevocationDatabase::new(database, path)).transpose()
    }

    /// As [`RevocationDatabase::open`]; a database that does not exist is created.
    ///
    /// # Errors
    /// As [`RevocationDatabase::open`].
    pub fn open_or_create(path: &Path) -> Result<RevocationDatabase, Error> {
        RevocationDatabase::new(Database::open_or_create(path, &SCHEMA)?, path)
    }

    fn new(database: Database, path: &Path) -> Result<RevocationDatabase, Error> {
        let last = "SELECT max(sequence) FROM (SELECT max(sequence) AS sequence FROM target
                    UNION ALL SELECT max(sequence) FROM token UNION ALL SELECT guarded FROM meta)";
        let sequence = database.connection.query_row(last, [], |row| number(row, 0));
        let sequence = sequence.map_err(|e| database.error(e))?;
        Ok(RevocationDatabase { database, path: path.to_owned(), sequence })
    }

    /// Where the database is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All rows, and the digest of those that the last guarded change left.
    ///
    /// # Errors
    /// [`Error::Corrupt`] or [`Error::Io`].
    pub fn read(&self) -> Result<(RevocationRows, [u8; 32]), Error> {
        let read = || Ok((read_rows(&self.database.connection)?, digest(&self.database.connection)?));
        read().map_err(|e| self.database.error(e))
    }

    /// Stores further rows. They are on disk when this returns. A token that is stored already is left as it is.
    ///
    /// # Errors
    /// [`Error::Corrupt`] or [`Error::Io`]; then nothing was changed.
    pub fn append(&mut self, targets: &[RevocationRow], tokens: &[TokenRow]) -> Result<(), Error> {
        self.begin()?;
        let result = self.insert(targets, tokens).map_err(|e| self.database.error(e));
        match result {
            Ok(()) => self.commit(),
            Err(error) => {
                self.roll_back();
                Err(error)
            }
        }
    }

    /// Begins a guarded change, and returns the digest that the rows will have.
    /// [`RevocationDatabase::commit`] ends it.
    ///
    /// # Errors
    /// As [`RevocationDatabase::append`].
    pub fn begin_guarded(&mut self, change: &GuardedChange) -> Result<[u8; 32], Error> {
        self.begin()?;
        let result = self.guarded(change).map_err(|e| self.database.error(e));
        if result.is_err() {
            self.roll_back();
        }
        result
    }

    /// Ends the change that was begun. It is on disk when this returns.
    ///
    /// # Errors
    /// As [`RevocationDatabase::append`].
    pub fn commit(&mut self) -> Result<(), Error> {
        let result = self.execute("COMMIT");
        if result.is_err() {
            self.roll_back();
        }
        result
    }

    /// Gives up the change that was begun, if there is one.
    pub fn roll_back(&mut self) {
        if !self.database.connection.is_autocommit() {
            // Where this fails, the next change cannot begin, and the database is opened again.
            let _ = self.execute("ROLLBACK");
        }
    }

    fn begin(&mut self) -> Result<(), Error> {
        self.execute("BEGIN IMMEDIATE")
    }

    fn execute(&self, sql: &str) -> Result<(), Error> {
        self.database.connection.execute_batch(sql).map_err(|e| self.database.error(e))
    }

    fn guarded(&mut self, change: &GuardedChange) -> rusqlite::Result<[u8; 32]> {
        let connection = &self.database.connection;
        connection.execute("DELETE FROM target", [])?;
        connection.execute("DELETE FROM token WHERE expires <= ?1", params![signed(change.forget)?])?;
        self.insert(&change.targets, &change.tokens)?;
        let connection = &self.database.connection;
        let update = "UPDATE meta SET epoch_limit = ?1, guarded = ?2";
        connection.execute(update, params![signed(change.epoch_limit)?, signed(self.sequence)?])?;
        digest(connection)
    }

    fn insert(&mut self, targets: &[RevocationRow], tokens: &[TokenRow]) -> rusqlite::Result<()> {
        let connection = &self.database.connection;
        let mut insert = connection
            .prepare("INSERT OR REPLACE INTO target VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)")?;
        for row in targets {
            self.sequence += 1;
            insert.execute(params![
                row.kind,
                row.value,
                signed(row.epoch)?,
                row.blocking,
                signed(row.revoked_at)?,
                row.revoked_by,
                row.reason,
                row.lapses.map(signed).transpose()?,
                row.is_guarded,
                signed(self.sequence)?
            ])?;
        }
        let mut insert = connection.prepare("INSERT OR IGNORE INTO token VALUES (?1, ?2, ?3, ?4)")?;
        for row in tokens {
            self.sequence += 1;
            insert.execute(params![row.used, row.key, signed(row.expires)?, signed(self.sequence)?])?;
        }
        Ok(())
    }
}

fn read_rows(connection: &Connection) -> rusqlite::Result<RevocationRows> {
    let epoch_limit = connection.query_row("SELECT epoch_limit FROM meta", [], |row| number(row, 0))?;
    let mut targets = connection.prepare(
        "SELECT kind, value, epoch, blocking, revoked_at, revoked_by, reason, lapses, is_guarded FROM target
         ORDER BY kind, value, epoch",
    )?;
    let targets = targets.query_map([], revocation_row)?.collect::<rusqlite::Result<_>>()?;
    let mut tokens = connection.prepare("SELECT used, key, expires FROM token ORDER BY used, key")?;
    let tokens = tokens.query_map([], token_row)?.collect::<rusqlite::Result<_>>()?;
    Ok(RevocationRows { epoch_limit, targets, tokens })
}

/// SHA-256 over what the last guarded change left.
fn digest(connection: &Connection) -> rusqlite::Result<[u8; 32]> {
    let (epoch_limit, guarded) =
        connection.query_row("SELECT epoch_limit, guarded FROM meta", [], |row| {
            Ok((number(row, 0)?, number(row, 1)?))
        })?;
    let mut bytes = Vec::new();
    append(&mut bytes, &epoch_limit.to_be_bytes());
    append(&mut bytes, &guarded.to_be_bytes());
    let mut targets = connection.prepare(
        "SELECT kind, value, epoch, blocking, revoked_at, revoked_by, reason, lapses, is_guarded FROM target
         WHERE sequence <= ?1 ORDER BY kind, value, epoch",
    )?;
    for row in targets.query_map(params![signed(guarded)?], revocation_row)? {
        let row = row?;
        bytes.push(0);
        for text in [&row.kind, &row.value, &row.revoked_by, &row.reason] {
            append(&mut bytes, text.as_bytes());
        }
        let flags = u64::from(row.blocking) | u64::from(row.is_guarded) << 1;
        for number in [Some(row.epoch), Some(flags), Some(row.revoked_at), row.lapses] {
            append(&mut bytes, number.map(u64::to_be_bytes).as_ref().map_or(&[], |number| number));
        }
    }
    let mut tokens =
        connection.prepare("SELECT used, key, expires FROM token WHERE sequence <= ?1 ORDER BY used, key")?;
    for row in tokens.query_map(params![signed(guarded)?], token_row)? {
        let row = row?;
        bytes.push(1 + u8::from(row.used));
        bytes.extend_from_slice(&row.key);
        bytes.extend_from_slice(&row.expires.to_be_bytes());
    }
    Ok(sha256(&bytes))
}

fn revocation_row(row: &Row<'_>) -> rusqlite::Result<RevocationRow> {
    Ok(RevocationRow {
        kind: row.get(0)?,
        value: row.get(1)?,
        epoch: number(row, 2)?,
        blocking: row.get(3)?,
        revoked_at: number(row, 4)?,
        revoked_by: row.get(5)?,
        reason: row.get(6)?,
        lapses: optional_number(row, 7)?,
        is_guarded: row.get(8)?,
    })
}

fn token_row(row: &Row<'_>) -> rusqlite::Result<TokenRow> {
    Ok(TokenRow { used: row.get(0)?, key: row.get(1)?, expires: number(row, 2)? })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn target(value: &str, epoch: u64) -> RevocationRow {
        RevocationRow {
            kind: "agent".into(),
            value: value.into(),
            epoch,
            blocking: true,
            revoked_at: 1_700_000_000,
            revoked_by: "uid 0, pid 7".into(),
            reason: "left".into(),
            lapses: None,
            is_guarded: true,
        }
    }

    fn token(n: u8, expires: u64) -> TokenRow {
        TokenRow { used: n.is_multiple_of(2), key: [n; 16], expires }
    }

    fn guarded(targets: Vec<RevocationRow>, tokens: Vec<TokenRow>, forget: u64) -> GuardedChange {
        GuardedChange { epoch_limit: 4096, targets, tokens, forget }
    }

    #[test]
    fn appended_rows_do_not_change_the_digest_and_guarded_changes_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("revocations.db");
        assert!(RevocationDatabase::open(&path).unwrap().is_none());
        let mut database = RevocationDatabase::open_or_create(&path).unwrap();
        let first = database.begin_guarded(&guarded(vec![target("a", 1)], vec![token(1, 10)], 0)).unwrap();
        database.commit().unwrap();
        assert_eq!(database.read().unwrap().1, first);
        database.append(&[RevocationRow { is_guarded: false, ..target("b", 2) }], &[token(2, 20)]).unwrap();
        database.append(&[], &[token(1, 99), token(2, 99)]).unwrap();
        drop(database);
        let mut database = RevocationDatabase::open(&path).unwrap().unwrap();
        let (rows, digest) = database.read().unwrap();
        assert_eq!(digest, first);
        assert_eq!((rows.targets.len(), rows.epoch_limit), (2, 4096));
        assert_eq!(rows.tokens, [token(1, 10), token(2, 20)], "the first row of a token stays");
        let second = database.begin_guarded(&guarded(vec![target("b", 2)], vec![], 10)).unwrap();
        database.commit().unwrap();
        let (rows, digest) = database.read().unwrap();
        assert!(digest == second && second != first);
        assert_eq!((rows.targets, rows.tokens), (vec![target("b", 2)], vec![token(2, 20)]));
    }

    #[test]
    fn a_change_that_is_given_up_leaves_the_rows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("revocations.db");
        let mut database = RevocationDatabase::open_or_create(&path).unwrap();
        database.append(&[], &[token(1, 10)]).unwrap();
        let before = database.read().unwrap();
        database.begin_guarded(&guarded(vec![target("a", 1)], vec![token(3, 30)], 99)).unwrap();
        database.roll_back();
        assert_eq!(database.read().unwrap(), before);
        database.begin_guarded(&guarded(vec![target("a", 1)], vec![token(3, 30)], 99)).unwrap();
        drop(database);
        let database = RevocationDatabase::open(&path).unwrap().unwrap();
        assert_eq!(database.read().unwrap(), before);
    }

    /// Whatever is changed in a file, it is read as before or rejected, and reading does not panic.
    #[test]
    fn a_damaged_database_is_rejected_or_has_other_rows() {
        let dir = tempfile::tempdir().unwrap();
        let (path, damaged_path) = (dir.path().join("revocations.db"), dir.path().join("damaged.db"));
        let mut database = RevocationDatabase::open_or_create(&path).unwrap();
        let targets = (0..20).map(|n| target(&format!("agent-{n}"), n)).collect();
        database.begin_guarded(&guarded(targets, (0..20).map(|n| token(n, 99)).collect(), 0)).unwrap();
        database.commit().unwrap();
        let original = database.read().unwrap();
        drop(database);
        let good = fs::read(&path).unwrap();
        let check = |content: &[u8], what: &str| {
            fs::write(&damaged_path, content).unwrap();
            let Ok(Some(database)) = RevocationDatabase::open(&damaged_path) else { return };
            let Ok((rows, digest)) = database.read() else { return };
            assert!(rows == original.0 || digest != original.1, "{what}");
        };
        for length in (0..good.len()).step_by(61) {
            check(&good[..length], &format!("cut to {length}"));
        }
        for index in (0..good.len()).step_by(7) {
            let mut changed = good.clone();
            changed[index] ^= 0x55;
            check(&changed, &format!("byte {index}"));
        }
    }
}
