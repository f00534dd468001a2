//! The handle to the status lists of this host.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::super::tokens::TokenKey;
use super::list::{Filtered, ListSnapshot};
use super::storage::{self, Loaded, OpenDatabase};
use super::subject::NewSubject;
use super::table::{AssignError, StatusIndex, Table};
use crate::clock::{Clock, SettledClock, Timestamp};
use crate::mutex::lock;
use crate::plural::counted;
use crate::store;

const FILE_NAME: &str = "status-lists.db";
/// How often expired tokens are dropped from memory and from the database.
const FORGET_INTERVAL: Duration = Duration::from_secs(300);

/// The status lists of this host. Clones share the state.
#[derive(Clone)]
pub struct StatusLists(Arc<Shared>);

struct Shared {
    path: PathBuf,
    clock: Clock,
    /// Whether tokens have a status whose grant does not say it.
    is_default: bool,
    /// How long a relying party may keep a list.
    ttl: Duration,
    state: Mutex<State>,
    /// Open while tokens get indices.
    database: tokio::sync::Mutex<OpenDatabase>,
    settled: Mutex<SettledClock>,
    forgotten: Mutex<Option<Instant>>,
}

struct State {
    table: Table,
    /// Why no token gets an index; `None` once the database was read.
    blocked_reason: Option<String>,
    /// Why the database does not have the last tokens; `None` where it does.
    store_fault: Option<String>,
    /// Whether a save has begun and not ended.
    is_saving: bool,
}

/// The status of a token that is about to be issued.
#[derive(Clone, Copy, Debug)]
pub struct TokenStatus<'a> {
    /// The tenant of the issuer.
    pub tenant: Option<&'a str>,
    /// What it has in common with others.
    pub subject: NewSubject<'a>,
    /// Its identifier.
    pub jti: &'a str,
    /// When it expires.
    pub expires: Timestamp,
}

/// The status lists for administrators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusReport {
    /// Whether the tokens of a grant that does not say it have a status.
    pub is_default: bool,
    /// How long a relying party may keep a list.
    pub ttl: Duration,
    /// The number of lists.
    pub lists: usize,
    /// Tokens that have an index.
    pub tokens: usize,
    /// What an administrator should know, one sentence.
    pub problem: Option<String>,
}

impl StatusLists {
    /// The lists in the state directory, which are not read yet. `is_default` is whether tokens have a status
    /// whose grant does not say it, `ttl` how long a relying party may keep a list.
    pub fn new(state_dir: &Path, clock: Clock, is_default: bool, ttl: Duration) -> StatusLists {
        let starting = "they are being read; try again in a moment";
        StatusLists(Arc::new(Shared {
            path: state_dir.join(FILE_NAME),
            clock,
            is_default,
            ttl,
            state: Mutex::new(State {
                table: Table::default(),
                blocked_reason: Some(starting.to_owned()),
                store_fault: None,
                is_saving: false,
            }),
            database: tokio::sync::Mutex::default(),
            settled: Mutex::default(),
            forgotten: Mutex::default(),
        }))
    }

    /// Whether the tokens of a grant have a status. `granted` is what the grant says.
    pub fn is_wanted(&self, granted: Option<bool>) -> bool {
        granted.unwrap_or(self.0.is_default)
    }

    /// How long a relying party may keep a list.
    pub fn ttl(&self) -> Duration {
        self.0.ttl
    }

    /// Gives a token an index. Nothing waits for the disk.
    ///
    /// # Errors
    /// [`AssignError`]; the token is not issued then.
    pub fn assign(&self, token: &TokenStatus<'_>) -> Result<StatusIndex, AssignError> {
        let key = TokenKey::of_jti(token.jti);
        let mut state = self.state();
        if let Some(reason) = &state.blocked_reason {
            return Err(AssignError::NotLoaded(reason.clone()));
        }
        state.table.assign(token.tenant, &token.subject, key, token.expires)
    }

    /// The numbers of an issuer's lists, in ascending order; `None` until they were read.
    pub fn numbers(&self, tenant: Option<&str>) -> Option<Vec<u32>> {
        let state = self.state();
        state.blocked_reason.is_none().then(|| state.table.numbers(tenant))
    }

    /// For a list of this issuer, the lowest epoch of the tokens that got an index since its last snapshot,
    /// `u64::MAX` if none did. The outer `None` until the lists were read, the inner one if there is no such list.
    pub fn lookup(&self, tenant: Option<&str>, number: u32) -> Option<Option<u64>> {
        let state = self.state();
        state.blocked_reason.is_none().then(|| state.table.lowest_epoch(tenant, number))
    }

    /// Whether there is a list of this number.
    pub fn has(&self, number: u32) -> bool {
        self.state().table.has(number)
    }

    /// A list as it is now.
    pub fn snapshot(&self, number: u32) -> Option<ListSnapshot> {
        self.state().table.snapshot(number)
    }

    /// The lists for administrators.
    pub fn report(&self) -> StatusReport {
        let state = self.state();
        let exhausted = state.table.exhausted();
        let names: Vec<&str> =
            exhausted.iter().map(|tenant| tenant.as_deref().unwrap_or("the host itself")).collect();
        let closed = state.table.lists().filter(|list| list.closed_at.is_some()).count();
        let problem = match (&state.blocked_reason, &state.store_fault) {
            (Some(reason), _) => {
                Some(format!("no token gets a status, and none that needs one is issued: {reason}"))
            }
            _ if !names.is_empty() => Some(format!(
                "all indices are in use, and no further token with a status is issued, for: {}",
                names.join(", ")
            )),
            (None, Some(fault)) => Some(format!(
                "the last tokens would read revoked after a restart, because they are not stored: {fault}"
            )),
            (None, None) if closed > 0 => Some(format!(
                "the daemon ended unexpectedly: in {} of before, each index that no known token has reads revoked, \
                 until all tokens of before have expired",
                counted(closed, "list")
            )),
            (None, None) => None,
        };
        StatusReport {
            is_default: self.0.is_default,
            ttl: self.0.ttl,
            lists: state.table.lists().count(),
            tokens: state.table.count(),
            problem,
        }
    }

    /// Reads the database. Without this, no token gets an index.
    ///
    /// # Errors
    /// A database that cannot be read or written; a damaged one is moved away.
    pub(crate) async fn open(&self) -> Result<(), String> {
        let loaded = self.load().await.map_err(|error| {
            let reason = error.to_string();
            self.state().blocked_reason = Some(reason.clone());
            reason
        })?;
        if !loaded.is_complete {
            tracing::warn!(
                "the daemon ended without storing which indices of the status lists its last tokens have: each \
                 index of these lists that no known token has reads revoked"
            );
        }
        let mut state = self.state();
        state.table = loaded.table;
        state.blocked_reason = None;
        Ok(())
    }

    async fn load(&self) -> Result<Loaded, store::Error> {
        let (path, now) = (self.0.path.clone(), self.0.clock.now());
        let (path, reason) = match run_blocking(move || storage::load(&path, now)).await {
            Err(store::Error::Corrupt { path, reason }) => (path, reason),
            loaded => return loaded,
        };
        let name = format!("{}.damaged-{}", path.display(), now.as_secs());
        tracing::error!(
            "{}: damaged ({reason}); it is {name} from now on, and tokens of before have no status list any more",
            path.display()
        );
        run_blocking(move || {
            std::fs::rename(&path, name).map_err(|source| store::Error::Io { path, source })
        })
        .await?;
        Ok(Loaded { table: Table::default(), is_complete: true })
    }

    /// Stores what is not stored, and drops what has expired. `is_last` is whether no token is issued any more.
    ///
    /// # Errors
    /// The database cannot be written; what is not stored then is stored by the next call.
    pub(crate) async fn save(&self, is_last: bool) -> Result<(), String> {
        if self.state().blocked_reason.is_some() {
            return Ok(());
        }
        let forget = self.forget_if_due().await;
        let unsaved = {
            let mut state = self.state();
            // A save that was given up may not have stored its tokens.
            let is_complete = is_last && !std::mem::replace(&mut state.is_saving, true);
            storage::take_change(&mut state.table, forget, is_complete)
        };
        let has_file = unsaved.has_lists() || self.0.path.exists();
        if !has_file || (unsaved.is_empty() && forget.is_none() && !is_last) {
            self.state().is_saving = false;
            self.0.database.lock().await.close_if_idle();
            return Ok(());
        }
        let path = self.0.path.clone();
        let mut database = self.0.database.lock().await;
        let mut open = std::mem::take(&mut *database);
        let write = move || {
            let result = open.write(&path, &unsaved);
            Ok((unsaved, open, result))
        };
        let (unsaved, open, result) =
            run_blocking(write).await.map_err(|error: store::Error| error.to_string())?;
        *database = open;
        let mut state = self.state();
        state.is_saving = false;
        match result {
            Ok(()) => {
                unsaved.stored();
                state.store_fault = None;
                Ok(())
            }
            Err(error) => {
                unsaved.restore(&mut state.table);
                state.store_fault = Some(error.to_string());
                Err(error.to_string())
            }
        }
    }

    /// Drops expired tokens, at most every [`FORGET_INTERVAL`]. Returns until when they have expired.
    async fn forget_if_due(&self) -> Option<Timestamp> {
        let horizon = lock(&self.0.settled).horizon_at(self.0.clock.now(), self.0.clock.boot_time());
        if lock(&self.0.forgotten).is_some_and(|at| at.elapsed() < FORGET_INTERVAL) {
            return None;
        }
        if horizon.as_secs() == 0 {
            return None;
        }
        *lock(&self.0.forgotten) = Some(Instant::now());
        self.forget(horizon).await;
        Some(horizon)
    }

    async fn forget(&self, horizon: Timestamp) {
        let chunks: Vec<_> =
            self.state().table.lists().map(|list| (list.number, list.shared_chunks())).collect();
        let filter = move || {
            let seconds = horizon.as_secs();
            let filter = |(number, chunks)| (number, Filtered::of(chunks, seconds));
            Ok(chunks.into_iter().map(filter).collect())
        };
        if let Ok(filtered) = run_blocking(filter).await {
            self.state().table.forget(horizon, filtered);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }
}

/// Runs a disk operation on a blocking thread: a disk may not respond for seconds.
async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, store::Error> + Send + 'static,
) -> Result<T, store::Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(store::Error::Io {
            path: PathBuf::from(FILE_NAME),
            source: std::io::Error::other("the daemon is shutting down"),
        }),
    }
}

#[cfg(test)]
impl StatusLists {
    /// Lists that are not stored.
    pub(crate) fn of_test(clock: Clock) -> StatusLists {
        let lists = StatusLists::new(Path::new("/nonexistent"), clock, false, Duration::from_secs(300));
        lists.state().blocked_reason = None;
        lists
    }
}
