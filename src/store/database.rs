//! SQLite databases in the state directory: how they are opened, and what their errors mean.
//!
//! A database is opened for each read and each change, and closed again: changes are rare, and an open
//! connection would occupy memory for the daemon's life. SQLite's rollback journal makes each transaction
//! atomic, also across a crash of the machine.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::Error;
use super::atomic::write_atomic;

/// Smallest database in bytes that is not empty: SQLite's smallest page.
const MIN_DATABASE_SIZE: u64 = 512;
/// Largest database in bytes.
const MAX_DATABASE_SIZE: u64 = 256 * 1024 * 1024;
/// How long another process, such as a backup, may hold the database.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// What a database contains.
pub(super) struct Schema {
    /// `PRAGMA application_id`, which marks the file as a database of this kind.
    pub application_id: i32,
    /// `PRAGMA user_version`: the format of the tables.
    pub version: i32,
    /// Creates the tables of an empty database.
    pub sql: &'static str,
    /// Changes a database of format 1 into one of format 2, then that into one of format 3, and so on.
    pub migrations: &'static [&'static str],
}

/// An open database.
pub(super) struct Database {
    pub connection: Connection,
    path: PathBuf,
}

impl Database {
    /// Opens a database that exists; `None` where it does not.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a file that is damaged or no database of this kind,
    /// [`Error::UnsupportedVersion`] for a newer format, [`Error::Io`].
    ///
    /// An older format is changed into the present one, once; a copy from before stays beside it
    /// ([`copy_path`]).
    pub fn open(path: &Path, schema: &Schema) -> Result<Option<Database>, Error> {
        let metadata = match path.symlink_metadata() {
            Ok(metadata) => metadata,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io(path)(e)),
        };
        let corrupt = |reason: &str| Error::Corrupt { path: path.to_owned(), reason: reason.to_owned() };
        if !metadata.is_file() {
            return Err(corrupt("not a regular file"));
        }
        // SQLite would take the beginning of a page for an empty database, and write over it.
        if (1..MIN_DATABASE_SIZE).contains(&metadata.len()) {
            return Err(corrupt("shorter than a database"));
        }
        if metadata.len() > MAX_DATABASE_SIZE {
            return Err(corrupt("larger than 256 MiB"));
        }
        let database = Database::connect(path)?;
        match (database.number("application_id")?, database.number("user_version")?) {
            // A crash came before the first transaction, which creates the tables.
            (0, 0) if database.number("schema_version")? == 0 => database.create(schema)?,
            (id, _) if id != i64::from(schema.application_id) => {
                return Err(corrupt("not a database of hostbadge"));
            }
            (_, version) if version == i64::from(schema.version) => {}
            (_, version) if (1..i64::from(schema.version)).contains(&version) => {
                database.check_integrity()?;
                database.migrate(schema, version)?;
            }
            (_, version) => {
                let copy = copy_path(path, schema.version.into());
                return Err(Error::UnsupportedVersion {
                    path: path.to_owned(),
                    found: version.unsigned_abs(),
                    supported: schema.version.unsigned_abs().into(),
                    copy: copy.exists().then_some(copy),
                });
            }
        }
        database.check_integrity()?;
        Ok(Some(database))
    }

    /// As [`Database::open`]; a database that does not exist is created.
    ///
    /// # Errors
    /// As [`Database::open`].
    pub fn open_or_create(path: &Path, schema: &Schema) -> Result<Database, Error> {
        // SQLite would create it with the permissions of the umask.
        let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        match created {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(Error::io(path)(e)),
        }
        Database::open(path, schema)?.ok_or_else(|| Error::io(path)(io::ErrorKind::NotFound.into()))
    }

    /// An [`Error`] for a failure of SQLite.
    pub fn error(&self, error: rusqlite::Error) -> Error {
        convert(&self.path, error)
    }

    fn connect(path: &Path) -> Result<Database, Error> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(|e| convert(path, e))?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(|e| convert(path, e))?;
        let database = Database { connection, path: path.to_owned() };
        // A commit is on disk, with the directory, when it returns. Deleted content is overwritten, and
        // nothing is written outside this directory. A schema that was tampered with runs no functions.
        let setup = "PRAGMA journal_mode = DELETE; PRAGMA synchronous = EXTRA; PRAGMA secure_delete = ON;
                     PRAGMA temp_store = MEMORY; PRAGMA cache_size = -256; PRAGMA trusted_schema = OFF;
                     PRAGMA cell_size_check = ON;";
        database.connection.execute_batch(setup).map_err(|e| database.error(e))?;
        Ok(database)
    }

    fn create(&self, schema: &Schema) -> Result<(), Error> {
        let Schema { application_id, version, sql, .. } = schema;
        let script = format!(
            "BEGIN IMMEDIATE; PRAGMA application_id = {application_id}; PRAGMA user_version = {version};
             {sql} COMMIT;"
        );
        self.connection.execute_batch(&script).map_err(|e| self.error(e))
    }

    /// Changes a database of the older format `version` into one of the present format, in one transaction,
    /// after a copy of it is on the disk. Copies of formats before are removed.
    fn migrate(&self, schema: &Schema, version: i64) -> Result<(), Error> {
        let first = usize::try_from(version - 1).unwrap_or(usize::MAX);
        let Some(steps) = schema.migrations.get(first..).filter(|steps| !steps.is_empty()) else {
            let reason = format!("this release does not know how to change format {version}");
            return Err(Error::Corrupt { path: self.path.clone(), reason });
        };
        // Before the transaction: closing the file ends this process's locks on it. Only this process writes.
        let (content, copy) =
            (fs::read(&self.path).map_err(Error::io(&self.path))?, copy_path(&self.path, version));
        write_atomic(&copy, &content, 0o600).map_err(Error::io(&copy))?;
        let steps = steps.join(" ");
        let script = format!("BEGIN IMMEDIATE; {steps} PRAGMA user_version = {}; COMMIT;", schema.version);
        self.connection.execute_batch(&script).map_err(|e| self.error(e))?;
        for older in 1..version {
            // A copy that cannot be removed does no harm.
            let _ = fs::remove_file(copy_path(&self.path, older));
        }
        tracing::info!(
            "{} is now in format {}; a copy in format {version} stays beside it",
            self.path.display(),
            schema.version
        );
        Ok(())
    }

    fn number(&self, pragma: &str) -> Result<i64, Error> {
        self.connection.pragma_query_value(None, pragma, |row| row.get(0)).map_err(|e| self.error(e))
    }

    fn check_integrity(&self) -> Result<(), Error> {
        let check = self.connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get::<_, String>(0));
        match check.map_err(|e| self.error(e))?.as_str() {
            "ok" => Ok(()),
            fault => Err(Error::Corrupt { path: self.path.clone(), reason: fault.replace('\n', ", ") }),
        }
    }
}

/// Where the copy of a database in an older format is: `credentials.db.format-1`.
fn copy_path(path: &Path, version: i64) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".format-{version}"));
    name.into()
}

fn convert(path: &Path, error: rusqlite::Error) -> Error {
    let path = path.to_owned();
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => Error::Io { path, source: io::ErrorKind::StorageFull.into() },
        Some(
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::ReadOnly
            | ErrorCode::SystemIoFailure
            | ErrorCode::CannotOpen
            | ErrorCode::OutOfMemory
            | ErrorCode::PermissionDenied,
        ) => Error::Io { path, source: io::Error::other(error) },
        // Damaged pages, or content that the tables of this format do not have.
        _ => Error::Corrupt { path, reason: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA: Schema =
        Schema { application_id: 77, version: 1, sql: "CREATE TABLE t (a TEXT NOT NULL);", migrations: &[] };

    #[test]
    fn a_database_is_created_with_mode_0600_and_opened_again() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.db");
        assert!(Database::open(&path, &SCHEMA).unwrap().is_none());
        let database = Database::open_or_create(&path, &SCHEMA).unwrap();
        database.connection.execute("INSERT INTO t VALUES ('v')", []).unwrap();
        drop(database);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let database = Database::open(&path, &SCHEMA).unwrap().unwrap();
        let value: String = database.connection.query_row("SELECT a FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(value, "v");
    }

    const SECOND: Schema = Schema {
        version: 2,
        sql: "CREATE TABLE t (a TEXT NOT NULL, b TEXT);",
        migrations: &["ALTER TABLE t ADD COLUMN b TEXT;"],
        ..SCHEMA
    };

    #[test]
    fn an_older_format_is_changed_once_and_a_copy_is_the_way_back() {
        let dir = tempfile::tempdir().unwrap();
        let (path, copy) = (dir.path().join("x.db"), dir.path().join("x.db.format-1"));
        let first = Database::open_or_create(&path, &SCHEMA).unwrap();
        first.connection.execute("INSERT INTO t VALUES ('v')", []).unwrap();
        drop(first);
        let before = fs::read(&path).unwrap();
        let second = Database::open(&path, &SECOND).unwrap().unwrap();
        second.connection.execute("INSERT INTO t VALUES ('w', 'x')", []).unwrap();
        let count: i64 = second.connection.query_row("SELECT count(b) FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(count, 1);
        drop(second);
        assert_eq!(fs::read(&copy).unwrap(), before);
        drop(Database::open(&path, &SECOND).unwrap().unwrap());
        assert_eq!(fs::read(&copy).unwrap(), before, "only once");

        let older = Database::open(&path, &SCHEMA).err().unwrap();
        assert!(matches!(older, Error::UnsupportedVersion { found: 2, supported: 1, .. }), "{older}");
        assert!(older.to_string().contains(&format!("replace it by {}", copy.display())), "{older}");
        fs::rename(&copy, &path).unwrap();
        let first = Database::open(&path, &SCHEMA).unwrap().unwrap();
        let value: String = first.connection.query_row("SELECT a FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(value, "v");
    }

    #[test]
    fn a_change_of_the_format_that_fails_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.db");
        drop(Database::open_or_create(&path, &SCHEMA).unwrap());
        let before = fs::read(&path).unwrap();
        let faulty = Schema { migrations: &["ALTER TABLE t ADD COLUMN b TEXT; SELECT nonsense;"], ..SECOND };
        assert!(Database::open(&path, &faulty).is_err());
        assert_eq!(fs::read(&path).unwrap(), before);
        assert!(Database::open(&path, &SCHEMA).unwrap().is_some());
        let missing = Schema { migrations: &[], ..SECOND };
        assert!(matches!(Database::open(&path, &missing).err().unwrap(), Error::Corrupt { .. }));
    }

    /// The build's setting is in `.cargo/config.toml`.
    #[test]
    fn sqlite_has_no_extensions_and_no_modules_that_are_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::open_or_create(&dir.path().join("x.db"), &SCHEMA).unwrap();
        let mut statement = database.connection.prepare("PRAGMA compile_options").unwrap();
        let options: Vec<String> =
            statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        assert!(options.iter().any(|option| option == "OMIT_LOAD_EXTENSION"), "{options:?}");
        for part in ["FTS", "RTREE", "DBSTAT"] {
            assert!(!options.iter().any(|option| option.contains(part)), "{options:?}");
        }
        let modules: Vec<String> = database
            .connection
            .prepare("SELECT name FROM pragma_module_list")
            .unwrap()
            .query_map([], |row| row.get(0))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert!(
            !modules.iter().any(|module| ["fts5", "rtree", "json_each"].contains(&&**module)),
            "{modules:?}"
        );
    }

    #[test]
    fn other_formats_and_files_are_rejected() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.db");
        drop(Database::open_or_create(&path, &Schema { version: 2, ..SCHEMA }).unwrap());
        let newer = Database::open(&path, &SCHEMA).err().unwrap();
        assert!(matches!(newer, Error::UnsupportedVersion { found: 2, supported: 1, .. }), "{newer}");
        let other = Database::open(&path, &Schema { application_id: 78, ..SCHEMA }).err().unwrap();
        assert!(matches!(other, Error::Corrupt { .. }), "{other}");
        std::fs::write(
            &path,
            "no database at all, but longer than the header of one, which has 100 bytes; ".repeat(20),
        )
        .unwrap();
        assert!(matches!(Database::open(&path, &SCHEMA).err().unwrap(), Error::Corrupt { .. }));
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(matches!(Database::open(&path, &SCHEMA).err().unwrap(), Error::Corrupt { .. }));
    }
}
