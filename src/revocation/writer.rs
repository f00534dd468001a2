//! Stores changes in `revocations.db`: all that are waiting in one transaction.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::Error;
use super::record::Revocation;
use super::target::{Target, TargetKind};
use crate::clock::Timestamp;
use crate::keystore::{Keystore, StateDatabase};
use crate::store::{self, GuardedChange, RevocationDatabase, RevocationRow, RevocationRows, TokenRow};

/// Epochs that are reserved by one guarded change: so many invocations can end before the next one.
pub(super) const EPOCH_STEP: u64 = 4096;
/// How long a stored revocation waits for the TPM's counter.
const COUNTER_TIMEOUT: Duration = Duration::from_secs(1);
/// The database is closed when it has not been changed for this time.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Changes that are in effect and not stored.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Single tokens.
    pub tokens: Vec<TokenRow>,
    /// Ended invocations.
    pub ended: Vec<Revocation>,
    /// Whether the revocations of targets have to be stored, in a guarded change.
    pub is_guarded: bool,
    /// How many changes there have been.
    pub count: u64,
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.tokens.is_empty() && self.ended.is_empty() && !self.is_guarded
    }

    /// Puts changes back that could not be stored.
    pub(super) fn restore(&mut self, failed: Pending) {
        self.tokens.splice(0..0, failed.tokens);
        self.ended.splice(0..0, failed.ended);
        self.is_guarded |= failed.is_guarded;
    }
}

/// What is stored in one transaction.
pub(super) struct Batch {
    pub pending: Pending,
    /// The revocations of targets, for a guarded change.
    pub targets: Vec<Revocation>,
    /// Expired tokens up to this time are dropped by a guarded change.
    pub forget: Timestamp,
    /// The highest epoch of a revocation.
    pub epoch: u64,
}

/// The open database, and what has been stored in it.
#[derive(Default)]
pub(super) struct Writer {
    keystore: Option<Arc<Keystore>>,
    database: Option<RevocationDatabase>,
    path: PathBuf,
    last_write: Option<Instant>,
    /// Whether the state manifest lists the database: the change that creates it is guarded.
    is_listed: bool,
    /// The greatest epoch that can be stored without a guarded change.
    epoch_limit: u64,
    /// How many changes have been stored.
    pub stored: u64,
    /// Whether rows were appended since the last guarded change.
    pub has_appended: bool,
    /// When the last guarded change was stored.
    pub guarded_at: Option<Instant>,
}

impl Writer {
    /// Reads the database, and compares it with the state manifest. Without a database, nothing is revoked.
    pub(super) async fn open(
        &mut self,
        path: &Path,
        keystore: Arc<Keystore>,
    ) -> Result<RevocationRows, Error> {
        // Kept where this fails, for a database that is accepted as it is.
        self.reset(path, keystore.clone());
        let (rows, digest) = read(path).await?.unzip();
        let verified = keystore.verify_database(StateDatabase::Revocations, digest.as_ref()).await;
        self.is_listed = rows.is_some();
        let rows = rows.unwrap_or_default();
        if let Err(error) = verified {
            // A crash came after the first change had created the database and before it was in the manifest: a
            // database without rows that the manifest does not list.
            if rows != RevocationRows::default() {
                return Err(error.into());
            }
            let not_listed = keystore.verify_database(StateDatabase::Revocations, None).await;
            not_listed.map_err(|_| error)?;
            self.is_listed = false;
        }
        Ok(rows)
    }

    /// The host's keys are not available any more.
    pub(super) fn close(&mut self) {
        (self.keystore, self.database) = (None, None);
    }

    /// The keystore, unless it is closed.
    pub(super) fn keystore(&self) -> Option<&Arc<Keystore>> {
        self.keystore.as_ref()
    }

    /// Forgets what is known of the database. The first epoch after it is stored in a guarded change: those of
    /// earlier starts are not known to be stored.
    pub(super) fn reset(&mut self, path: &Path, keystore: Arc<Keystore>) {
        (self.database, self.epoch_limit, self.is_listed) = (None, 0, false);
        (self.keystore, self.path) = (Some(keystore), path.to_owned());
    }

    /// Stores a batch. It is on disk when this returns.
    pub(super) async fn store(&mut self, batch: &Batch) -> Result<(), Error> {
        let keystore =
            self.keystore.clone().ok_or_else(|| Error::NotOpen("the keys are not loaded".into()))?;
        let begins_epoch = !batch.pending.ended.is_empty() && batch.epoch > self.epoch_limit;
        let is_guarded = batch.pending.is_guarded || begins_epoch || !self.is_listed;
        let mut database = self.take_database().await?;
        let result = match is_guarded {
            true => self.store_guarded(&keystore, database, batch).await,
            false => {
                let ended: Vec<RevocationRow> = batch.pending.ended.iter().map(row).collect();
                let tokens = batch.pending.tokens.clone();
                let append = move || database.append(&ended, &tokens).map(|()| database);
                run_blocking(append).await
            }
        };
        let database = result?;
        self.has_appended = !is_guarded;
        if is_guarded {
            self.guarded_at = Some(Instant::now());
        }
        (self.database, self.last_write) = (Some(database), Some(Instant::now()));
        Ok(())
    }

    async fn store_guarded(
        &mut self,
        keystore: &Arc<Keystore>,
        mut database: RevocationDatabase,
        batch: &Batch,
    ) -> Result<RevocationDatabase, Error> {
        let epoch_limit = batch.epoch + EPOCH_STEP;
        let change = GuardedChange {
            epoch_limit,
            targets: batch.targets.iter().map(row).collect(),
            tokens: batch.pending.tokens.clone(),
            forget: batch.forget.as_secs(),
        };
        let begin = move || database.begin_guarded(&change).map(|digest| (database, digest));
        let (mut database, digest) = run_blocking(begin).await?;
        let (sender, mut committed) = tokio::sync::oneshot::channel();
        let commit = move || {
            database.commit()?;
            // Fails only if no caller waits any more.
            let _ = sender.send(database);
            Ok(())
        };
        let keystore = keystore.clone();
        let mut change =
            tokio::spawn(
                async move { keystore.write_database(StateDatabase::Revocations, digest, commit).await },
            );
        let stopped = || Error::NotOpen("the daemon is shutting down".to_owned());
        let database = tokio::select! {
            result = &mut change => {
                result.map_err(|_| stopped())??;
                None
            }
            Ok(database) = &mut committed => Some(database),
        };
        let database = match database {
            None => committed.await.map_err(|_| stopped())?,
            Some(database) => {
                // On disk. A TPM that does not respond increments its counter later, as after a crash.
                let _ = tokio::time::timeout(COUNTER_TIMEOUT, change).await;
                database
            }
        };
        (self.epoch_limit, self.is_listed) = (epoch_limit, true);
        Ok(database)
    }

    /// Closes the database if it has not been changed for a while.
    pub(super) fn close_if_idle(&mut self) {
        if self.last_write.is_none_or(|at| at.elapsed() >= IDLE_TIMEOUT) {
            self.database = None;
        }
    }

    async fn take_database(&mut self) -> Result<RevocationDatabase, Error> {
        if let Some(database) = self.database.take() {
            return Ok(database);
        }
        let path = self.path.clone();
        run_blocking(move || RevocationDatabase::open_or_create(&path)).await
    }
}

/// The rows of the database and their digest; `None` if it does not exist.
pub(super) async fn read(path: &Path) -> Result<Option<(RevocationRows, [u8; 32])>, Error> {
    let path = path.to_owned();
    run_blocking(move || RevocationDatabase::open(&path)?.map(|database| database.read()).transpose()).await
}

fn row(revocation: &Revocation) -> RevocationRow {
    RevocationRow {
        kind: revocation.target.kind().name().to_owned(),
        value: revocation.target.value().to_owned(),
        epoch: revocation.epoch,
        blocking: revocation.is_blocking,
        revoked_at: revocation.revoked_at.as_secs(),
        revoked_by: revocation.revoked_by.clone(),
        reason: revocation.reason.clone(),
        lapses: revocation.lapses.map(Timestamp::as_secs),
        is_guarded: revocation.is_guarded,
    }
}

/// The revocation of a row; `None` for a kind that this release does not know.
pub(super) fn revocation(row: RevocationRow) -> Option<Revocation> {
    Some(Revocation {
        target: Target::new(TargetKind::from_name(&row.kind)?, &row.value),
        epoch: row.epoch,
        is_blocking: row.blocking,
        revoked_at: Timestamp::from_secs(row.revoked_at),
        revoked_by: row.revoked_by,
        reason: row.reason,
        lapses: row.lapses.map(Timestamp::from_secs),
        is_guarded: row.is_guarded,
    })
}

/// Runs a disk operation on a blocking thread: a disk may not respond for seconds.
async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, store::Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(Error::NotOpen("the daemon is shutting down".to_owned())),
    }
}
