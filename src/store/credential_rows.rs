//! The rows of `credentials.db`: sealed credentials, and the keys that they are encrypted under.
//!
//! Every secret in it is ciphertext. The rows are read completely and changed by comparison with the rows
//! before, so that a change is one transaction and its result is known before it is made.

use std::collections::BTreeSet;
use std::path::Path;

use rusqlite::{Transaction, TransactionBehavior, params};

use super::Error;
use super::columns::{append, number, optional_number, signed};
use super::database::{Database, Schema};
use crate::digest::sha256;

/// Format 3. Format 1 had no credentials of single agents, format 2 no canaries.
const SCHEMA: Schema = Schema {
    application_id: 0x6862_6372, // "hbcr"
    version: 3,
    sql: "CREATE TABLE compartment (
              tenant TEXT PRIMARY KEY NOT NULL, host_id TEXT NOT NULL, encrypted_key TEXT NOT NULL
          ) WITHOUT ROWID;
          CREATE TABLE credential (
              tenant TEXT NOT NULL, agent TEXT NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL,
              created INTEGER NOT NULL, expires INTEGER, retires INTEGER, size INTEGER NOT NULL,
              ciphertext TEXT NOT NULL, canary INTEGER NOT NULL DEFAULT 0,
              PRIMARY KEY (tenant, agent, name, version)
          ) WITHOUT ROWID;",
    migrations: &[
        "ALTER TABLE credential RENAME TO credential_1;
          CREATE TABLE credential (
              tenant TEXT NOT NULL, agent TEXT NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL,
              created INTEGER NOT NULL, expires INTEGER, retires INTEGER, size INTEGER NOT NULL,
              ciphertext TEXT NOT NULL, PRIMARY KEY (tenant, agent, name, version)
          ) WITHOUT ROWID;
          INSERT INTO credential (tenant, agent, name, version, created, expires, retires, size, ciphertext)
              SELECT tenant, '', name, version, created, expires, retires, size, ciphertext FROM credential_1;
          DROP TABLE credential_1;",
        "ALTER TABLE credential ADD COLUMN canary INTEGER NOT NULL DEFAULT 0;",
    ],
};

/// The key of a tenant's credentials.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CompartmentRow {
    /// The tenant; empty for credentials of no tenant.
    pub tenant: String,
    /// The host on which the key was made, whose id is associated data of each ciphertext.
    pub host_id: String,
    /// The key, encrypted under the key-encryption key.
    pub encrypted_key: String,
}

/// One version of a credential. Times are seconds since 1970 in UTC.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CredentialRow {
    /// The tenant; empty where the credential has none.
    pub tenant: String,
    /// The agent whose own it is; empty where all agents of the tenant may use it.
    pub agent: String,
    /// The credential's name.
    pub name: String,
    /// Counted from 1 for each name.
    pub version: u64,
    /// When the version was stored.
    pub created: u64,
    /// From when on the version is not released.
    pub expires: Option<u64>,
    /// When the version is destroyed, since a later one has replaced it.
    pub retires: Option<u64>,
    /// Length of the value in bytes.
    pub size: u64,
    /// The value, encrypted under the key of the compartment.
    pub ciphertext: String,
    /// Whether nobody should ask for it: whoever does has looked for secrets.
    pub is_canary: bool,
}

/// All rows of the database, in the order of their keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CredentialRows {
    /// One key for each tenant that has, or had, a credential.
    pub compartments: Vec<CompartmentRow>,
    /// The versions of all credentials.
    pub credentials: Vec<CredentialRow>,
}

impl CredentialRows {
    /// Reads the database; `None` if it does not exist.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::UnsupportedVersion`] or [`Error::Io`].
    pub fn read(path: &Path) -> Result<Option<CredentialRows>, Error> {
        let Some(mut database) = Database::open(path, &SCHEMA)? else { return Ok(None) };
        let rows = database.connection.transaction().and_then(|transaction| read_rows(&transaction));
        rows.map(Some).map_err(|e| database.error(e))
    }

    /// Changes the database from `old` to `new` in one transaction; it is on disk when this returns. The
    /// database is created if it does not exist and `old` is empty.
    ///
    /// # Errors
    /// As [`CredentialRows::read`]; [`Error::Corrupt`] if the database does not contain `old`. Then nothing
    /// was changed.
    pub fn replace(path: &Path, old: &CredentialRows, new: &CredentialRows) -> Result<(), Error> {
        let mut database = Database::open_or_create(path, &SCHEMA)?;
        let changed = |connection: &mut rusqlite::Connection| -> rusqlite::Result<bool> {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            if read_rows(&transaction)? != *old {
                return Ok(false);
            }
            write_difference(&transaction, old, new)?;
            transaction.commit()?;
            Ok(true)
        };
        match changed(&mut database.connection) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::Corrupt {
                path: path.to_owned(),
                reason: "another program has changed it while the daemon was running".into(),
            }),
            Err(e) => Err(database.error(e)),
        }
    }

    /// SHA-256 over the length and the bytes of every value of every row. That of rows without an agent
    /// that are no canaries is the same as in format 1, and that of other rows that are none as in format 2.
    pub fn digest(&self) -> [u8; 32] {
        let mut bytes = Vec::new();
        for row in &self.compartments {
            bytes.push(0);
            for text in [&row.tenant, &row.host_id, &row.encrypted_key] {
                append(&mut bytes, text.as_bytes());
            }
        }
        for row in &self.credentials {
            bytes.push(match (row.agent.is_empty(), row.is_canary) {
                (true, false) => 1,
                (false, false) => 2,
                (true, true) => 3,
                (false, true) => 4,
            });
            // The ciphertext by its digest, so that the bytes of all rows need little memory.
            let ciphertext = sha256(row.ciphertext.as_bytes());
            for text in [row.tenant.as_bytes(), row.name.as_bytes(), &ciphertext] {
                append(&mut bytes, text);
            }
            if !row.agent.is_empty() {
                append(&mut bytes, row.agent.as_bytes());
            }
            for number in [Some(row.version), Some(row.created), Some(row.size), row.expires, row.retires] {
                append(&mut bytes, number.map(u64::to_be_bytes).as_ref().map_or(&[], |number| number));
            }
        }
        sha256(&bytes)
    }
}

fn read_rows(transaction: &Transaction<'_>) -> rusqlite::Result<CredentialRows> {
    let mut compartments =
        transaction.prepare("SELECT tenant, host_id, encrypted_key FROM compartment ORDER BY tenant")?;
    let compartments = compartments.query_map([], |row| {
        Ok(CompartmentRow { tenant: row.get(0)?, host_id: row.get(1)?, encrypted_key: row.get(2)? })
    })?;
    let mut credentials = transaction.prepare(
        "SELECT tenant, name, version, created, expires, retires, size, ciphertext, agent, canary FROM credential
         ORDER BY tenant, agent, name, version",
    )?;
    let credentials = credentials.query_map([], |row| {
        Ok(CredentialRow {
            tenant: row.get(0)?,
            name: row.get(1)?,
            version: number(row, 2)?,
            created: number(row, 3)?,
            expires: optional_number(row, 4)?,
            retires: optional_number(row, 5)?,
            size: number(row, 6)?,
            ciphertext: row.get(7)?,
            agent: row.get(8)?,
            is_canary: row.get(9)?,
        })
    })?;
    Ok(CredentialRows {
        compartments: compartments.collect::<rusqlite::Result<_>>()?,
        credentials: credentials.collect::<rusqlite::Result<_>>()?,
    })
}

fn write_difference(
    transaction: &Transaction<'_>,
    old: &CredentialRows,
    new: &CredentialRows,
) -> rusqlite::Result<()> {
    let before: BTreeSet<_> = old.credentials.iter().collect();
    let after: BTreeSet<_> = new.credentials.iter().collect();
    for row in before.difference(&after) {
        transaction.execute(
            "DELETE FROM credential WHERE tenant = ?1 AND name = ?2 AND version = ?3 AND agent = ?4",
            params![row.tenant, row.name, signed(row.version)?, row.agent],
        )?;
    }
    for row in old.compartments.iter().filter(|row| !new.compartments.contains(row)) {
        transaction.execute("DELETE FROM compartment WHERE tenant = ?1", params![row.tenant])?;
    }
    for row in new.compartments.iter().filter(|row| !old.compartments.contains(row)) {
        transaction.execute(
            "INSERT INTO compartment (tenant, host_id, encrypted_key) VALUES (?1, ?2, ?3)",
            params![row.tenant, row.host_id, row.encrypted_key],
        )?;
    }
    for row in after.difference(&before) {
        transaction.execute(
            "INSERT INTO credential
                 (tenant, name, version, created, expires, retires, size, ciphertext, agent, canary)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            params![
                row.tenant,
                row.name,
                signed(row.version)?,
                signed(row.created)?,
                row.expires.map(signed).transpose()?,
                row.retires.map(signed).transpose()?,
                signed(row.size)?,
                row.ciphertext,
                row.agent,
                row.is_canary
            ],
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn row(name: &str, version: u64) -> CredentialRow {
        CredentialRow {
            tenant: String::new(),
            agent: String::new(),
            name: name.to_owned(),
            version,
            created: 1_700_000_000,
            expires: Some(1_800_000_000),
            retires: None,
            size: 6,
            ciphertext: format!("ciphertext of {name} {version}"),
            is_canary: false,
        }
    }

    fn rows(credentials: Vec<CredentialRow>) -> CredentialRows {
        let compartment = CompartmentRow {
            tenant: String::new(),
            host_id: "host".to_owned(),
            encrypted_key: "key".to_owned(),
        };
        CredentialRows { compartments: vec![compartment], credentials }
    }

    #[test]
    fn rows_are_read_as_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credentials.db");
        assert_eq!(CredentialRows::read(&path).unwrap(), None);
        let first = rows(vec![row("a", 1), row("b", 1)]);
        CredentialRows::replace(&path, &CredentialRows::default(), &first).unwrap();
        assert_eq!(CredentialRows::read(&path).unwrap(), Some(first.clone()));
        let retired = CredentialRow { retires: Some(1_750_000_000), ..row("a", 1) };
        let second = rows(vec![retired, CredentialRow { is_canary: true, ..row("a", 2) }]);
        CredentialRows::replace(&path, &first, &second).unwrap();
        assert_eq!(CredentialRows::read(&path).unwrap(), Some(second.clone()));
        let conflict = CredentialRows::replace(&path, &first, &second).unwrap_err();
        assert!(conflict.to_string().contains("another program has changed it"), "{conflict}");
        assert_eq!(CredentialRows::read(&path).unwrap(), Some(second));
        let content = fs::read(&path).unwrap();
        let removed = b"ciphertext of b 1";
        assert!(!content.windows(removed.len()).any(|window| window == removed), "deleted content remains");
    }

    #[test]
    fn every_value_counts_in_the_digest() {
        let base = row("a", 1);
        let variants = [
            base.clone(),
            CredentialRow { tenant: "t".into(), ..base.clone() },
            CredentialRow { agent: "t".into(), ..base.clone() },
            CredentialRow { name: "b".into(), ..base.clone() },
            CredentialRow { version: 2, ..base.clone() },
            CredentialRow { created: 2, ..base.clone() },
            CredentialRow { expires: None, ..base.clone() },
            CredentialRow { expires: None, retires: base.expires, ..base.clone() },
            CredentialRow { size: 7, ..base.clone() },
            CredentialRow { ciphertext: "x".into(), ..base.clone() },
            CredentialRow { is_canary: true, ..base.clone() },
            CredentialRow { is_canary: true, agent: "t".into(), ..base.clone() },
        ];
        let digests: std::collections::HashSet<_> =
            variants.iter().map(|row| rows(vec![row.clone()]).digest()).collect();
        assert_eq!(digests.len(), variants.len());
        assert_ne!(rows(Vec::new()).digest(), CredentialRows::default().digest());
    }

    #[test]
    fn a_database_of_format_1_is_changed_and_has_the_same_digest() {
        const FORMAT_1: &str = "CREATE TABLE compartment (
                tenant TEXT PRIMARY KEY NOT NULL, host_id TEXT NOT NULL, encrypted_key TEXT NOT NULL
            ) WITHOUT ROWID;
            CREATE TABLE credential (
                tenant TEXT NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL, created INTEGER NOT NULL,
                expires INTEGER, retires INTEGER, size INTEGER NOT NULL, ciphertext TEXT NOT NULL,
                PRIMARY KEY (tenant, name, version)
            ) WITHOUT ROWID;
            INSERT INTO compartment VALUES ('', 'host', 'key');
            INSERT INTO credential VALUES
                ('', 'a', 1, 1700000000, 1800000000, NULL, 6, 'ciphertext of a 1');";
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credentials.db");
        let first = Schema { version: 1, sql: FORMAT_1, migrations: &[], ..SCHEMA };
        drop(Database::open_or_create(&path, &first).unwrap());
        let expected = rows(vec![row("a", 1)]);
        assert_eq!(CredentialRows::read(&path).unwrap(), Some(expected.clone()));
        // As the release that wrote format 1 computed it.
        let mut bytes = vec![0];
        ["", "host", "key"].iter().for_each(|text| append(&mut bytes, text.as_bytes()));
        bytes.push(1);
        append(&mut bytes, b"");
        append(&mut bytes, b"a");
        append(&mut bytes, &sha256(b"ciphertext of a 1"));
        for number in [1_u64, 1_700_000_000, 6, 1_800_000_000] {
            append(&mut bytes, &number.to_be_bytes());
        }
        append(&mut bytes, b"");
        assert_eq!(expected.digest(), sha256(&bytes));
        let own = CredentialRow { agent: "builder".into(), ..row("a", 1) };
        let both = rows(vec![row("a", 1), own]);
        CredentialRows::replace(&path, &expected, &both).unwrap();
        assert_eq!(CredentialRows::read(&path).unwrap(), Some(both.clone()));
        CredentialRows::replace(&path, &both, &expected).unwrap();
        assert_eq!(CredentialRows::read(&path).unwrap(), Some(expected));
    }

    /// Whatever is changed in a file, it is read as before or rejected, and reading does not panic.
    #[test]
    fn a_damaged_database_is_rejected_or_has_another_digest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credentials.db");
        let original = rows((1..20).map(|version| row("name", version)).collect());
        CredentialRows::replace(&path, &CredentialRows::default(), &original).unwrap();
        let good = fs::read(&path).unwrap();
        let damaged_path = dir.path().join("damaged.db");
        let check = |content: &[u8], what: &str| {
            fs::write(&damaged_path, content).unwrap();
            let Ok(Some(read)) = CredentialRows::read(&damaged_path) else { return };
            assert!(read == original || read.digest() != original.digest(), "{what}");
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
