//! The handle to the revocations of this host.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use arc_swap::{ArcSwap, ArcSwapOption};
use ring::hmac;
use tokio::sync::watch;

use super::error::Error;
use super::set::{IssuedToken, RevocationSet};
use super::target::Target;
use super::tokens::{NONCE_KEY_LABEL, TokenKey, TokenTable};
use super::writer::{self, Pending, Writer};
use crate::clock::{Clock, SettledClock, Timestamp};
use crate::keystore::Keystore;
use crate::mutex::lock;
use crate::store::RevocationRows;

const FILE_NAME: &str = "revocations.db";
/// Bits of an epoch below the second at which a database was accepted.
const ACCEPTED_EPOCH_BITS: u32 = 20;

/// The revocations of this host. Clones share the state.
#[derive(Clone)]
pub struct Revocations(pub(super) Arc<Shared>);

pub(super) struct Shared {
    pub(super) path: PathBuf,
    pub(super) clock: Clock,
    /// Decisions read it without a lock.
    pub(super) set: ArcSwap<RevocationSet>,
    pub(super) tokens: RwLock<TokenTable>,
    /// Held while the set and what is to be stored change together.
    pub(super) pending: Mutex<Pending>,
    /// Held while changes are stored. Those that come meanwhile are stored together, by the next one.
    pub(super) writer: tokio::sync::Mutex<Writer>,
    /// Greater after each change that takes effect.
    pub(super) generation: watch::Sender<u64>,
    /// The epoch up to which certificates are on the revocation lists.
    pub(super) certificates: watch::Sender<u64>,
    /// Why the database is not open; `None` where it is.
    pub(super) blocked_reason: watch::Sender<Option<String>>,
    /// Why the last change is not stored; `None` where it is.
    pub(super) store_fault: Mutex<Option<String>>,
    pub(super) settled: Mutex<SettledClock>,
    /// Authenticates nonces that this host makes; `None` until the keystore is open.
    pub(super) nonce_key: ArcSwapOption<hmac::Key>,
}

/// The single revoked tokens at one moment.
#[derive(Clone, Copy)]
pub(crate) struct RevokedTokens<'a>(&'a TokenTable);

impl RevokedTokens<'_> {
    /// Whether this one is revoked.
    pub fn has(self, token: &TokenKey) -> bool {
        !self.0.revoked.is_empty() && self.0.revoked.contains_key(token)
    }
}

/// A target that is to be revoked.
#[derive(Clone, Debug)]
pub struct NewRevocation {
    /// The target.
    pub target: Target,
    /// Whether nothing is issued in it until the revocation is lifted.
    pub is_blocking: bool,
    /// Who revokes it.
    pub revoked_by: String,
    /// Why; may be empty.
    pub reason: String,
}

/// A revocation that is in effect, and that the disk may not have yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InEffect {
    pub(super) ticket: u64,
    /// What it changed.
    pub outcome: Outcome,
}

/// What a revocation changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is revoked now.
    Revoked,
    /// It was revoked before.
    AlreadyRevoked,
}

impl Revocations {
    /// The revocations in the state directory, which are not read yet.
    pub fn new(state_dir: &Path, clock: Clock) -> Revocations {
        let starting = "the keys of this host are being loaded; try again in a moment";
        Revocations(Arc::new(Shared {
            path: state_dir.join(FILE_NAME),
            clock,
            set: ArcSwap::default(),
            tokens: RwLock::default(),
            pending: Mutex::default(),
            writer: tokio::sync::Mutex::default(),
            generation: watch::Sender::new(0),
            certificates: watch::Sender::new(0),
            blocked_reason: watch::Sender::new(Some(starting.to_owned())),
            store_fault: Mutex::default(),
            settled: Mutex::default(),
            nonce_key: ArcSwapOption::empty(),
        }))
    }

    /// Reads the database and compares it with the state manifest of `keystore`.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Keystore`] for a database that is not the latest. Nothing is issued then.
    pub(crate) async fn open(&self, keystore: Arc<Keystore>) -> Result<(), Error> {
        let mut writer = self.0.writer.lock().await;
        let nonce_key =
            hmac::Key::new(hmac::HMAC_SHA256, keystore.derived_key(NONCE_KEY_LABEL).await.as_slice());
        self.0.nonce_key.store(Some(Arc::new(nonce_key)));
        let rows = writer.open(&self.0.path, keystore).await?;
        self.load(rows);
        Ok(())
    }

    /// Stops issuing, because the keys of this host are not available any more.
    pub(crate) async fn close(&self) {
        self.0.writer.lock().await.close();
        self.0.nonce_key.store(None);
        self.0.blocked_reason.send_replace(Some("the host is being moved to another TPM".to_owned()));
        self.publish(RevocationSet::default());
    }

    /// Accepts the database as it is, after an older copy of it was put back, or it was damaged or moved away.
    /// Since revocations may be missing, everything that was issued is revoked, and nothing is issued until the
    /// revocation of everything is lifted.
    ///
    /// # Errors
    /// [`Error::NothingToAccept`], [`Error::NotOpen`], failures of the disk.
    pub async fn accept(&self, accepted_by: &str) -> Result<(), Error> {
        if self.is_open() {
            return Err(Error::NothingToAccept);
        }
        let now = self.0.clock.now();
        {
            let mut writer = self.0.writer.lock().await;
            let Some(keystore) = writer.keystore().cloned() else { return Err(self.not_open()) };
            let rows = match writer::read(&self.0.path).await {
                Ok(rows) => rows.map(|(rows, _)| rows).unwrap_or_default(),
                Err(Error::Damaged { .. }) => {
                    move_away(&self.0.path, now).await?;
                    RevocationRows::default()
                }
                Err(error) => return Err(error),
            };
            writer.reset(&self.0.path, keystore);
            // Greater than the epoch of any token, also where the database is lost.
            let epoch_limit = rows.epoch_limit.max(now.as_secs() << ACCEPTED_EPOCH_BITS);
            self.load(RevocationRows { epoch_limit, ..rows });
        }
        let reason = "revocations.db was accepted as it was".to_owned();
        let everything = Target::everything();
        let new = NewRevocation {
            target: everything,
            is_blocking: true,
            revoked_by: accepted_by.to_owned(),
            reason,
        };
        self.revoke(new).await.map(drop)
    }

    /// Whether the database is open. Nothing is issued before it is.
    pub fn is_open(&self) -> bool {
        self.0.blocked_reason.borrow().is_none()
    }

    /// Why the database is not open; `None` where it is.
    pub(crate) fn blocked_reason(&self) -> &watch::Sender<Option<String>> {
        &self.0.blocked_reason
    }

    /// Why a change that is in effect is not stored; `None` where all are.
    pub fn store_fault(&self) -> Option<String> {
        lock(&self.0.store_fault).clone()
    }

    /// The revoked targets now.
    pub fn current(&self) -> Arc<RevocationSet> {
        self.0.set.load_full()
    }

    /// Changes with each revocation.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.generation.subscribe()
    }

    /// A number that is greater after each change.
    pub fn generation(&self) -> u64 {
        *self.0.generation.borrow()
    }

    /// The number of single tokens that are revoked, and of those that were used up.
    pub fn token_counts(&self) -> (usize, usize) {
        let tokens = self.0.tokens.read().unwrap_or_else(|poison| poison.into_inner());
        (tokens.revoked.len(), tokens.used.len())
    }

    /// Why a token is revoked; `None` if it is not.
    pub fn revoked_reason(&self, token: &IssuedToken<'_>) -> Option<String> {
        if let Some(revocation) = self.0.set.load().revoking(token) {
            return Some(revocation.description());
        }
        self.is_token_revoked(token.jti).then(|| "the token is revoked".to_owned())
    }

    /// Whether this single token is revoked.
    pub fn is_token_revoked(&self, jti: &str) -> bool {
        let tokens = self.0.tokens.read().unwrap_or_else(|poison| poison.into_inner());
        !tokens.revoked.is_empty() && tokens.revoked.contains_key(&TokenKey::of_jti(jti))
    }

    /// Passes the single revoked tokens to `ask`. A revocation waits until it returns.
    pub(crate) fn with_revoked_tokens(&self, ask: impl FnOnce(RevokedTokens<'_>)) {
        let tokens = self.0.tokens.read().unwrap_or_else(|poison| poison.into_inner());
        ask(RevokedTokens(&tokens));
    }

    /// The certificates of all revocations up to this epoch are on the revocation lists.
    pub(crate) fn certificates_revoked(&self, epoch: u64) {
        self.0.certificates.send_if_modified(|applied| std::mem::replace(applied, epoch) != epoch);
    }

    fn load(&self, rows: RevocationRows) {
        let RevocationRows { epoch_limit, targets, tokens } = rows;
        let mut latest = std::collections::HashMap::new();
        // In the order of their epochs.
        for revocation in targets.into_iter().filter_map(writer::revocation) {
            latest.insert(revocation.target.clone(), revocation);
        }
        let mut table = TokenTable::default();
        for row in tokens {
            let rows = if row.used { &mut table.used } else { &mut table.revoked };
            rows.insert(TokenKey::from_bytes(row.key), Timestamp::from_secs(row.expires));
        }
        *self.0.tokens.write().unwrap_or_else(|poison| poison.into_inner()) = table;
        self.publish(RevocationSet::new(epoch_limit, latest.into_values()));
        self.0.blocked_reason.send_replace(None);
    }

    pub(super) fn publish(&self, set: RevocationSet) {
        self.0.set.store(Arc::new(set));
        self.notify();
    }

    pub(super) fn notify(&self) {
        self.0.generation.send_modify(|generation| *generation += 1);
    }

    pub(super) fn pending(&self) -> MutexGuard<'_, Pending> {
        lock(&self.0.pending)
    }

    pub(super) fn require_open(&self) -> Result<(), Error> {
        if self.is_open() { Ok(()) } else { Err(self.not_open()) }
    }

    pub(super) fn nonce_key(&self) -> Option<Arc<hmac::Key>> {
        self.0.nonce_key.load_full()
    }

    pub(super) fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    pub(super) fn not_open(&self) -> Error {
        Error::NotOpen(self.0.blocked_reason.borrow().clone().unwrap_or_default())
    }
}

/// Gives a damaged database another name.
async fn move_away(path: &Path, now: Timestamp) -> Result<(), Error> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".damaged-{}", now.as_secs()));
    let from = path.to_owned();
    match tokio::task::spawn_blocking(move || std::fs::rename(from, name)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(e)) => Err(Error::NotOpen(format!("{}: {e}", path.display()))),
        Err(_) => Err(Error::NotOpen("the daemon is shutting down".to_owned())),
    }
}

#[cfg(test)]
impl Revocations {
    /// Revocations that are not stored.
    pub(crate) fn of_test(clock: Clock) -> Revocations {
        let revocations = Revocations::new(Path::new("/nonexistent"), clock);
        revocations.open_of_test();
        revocations
    }

    /// Opens them without a database.
    pub(crate) fn open_of_test(&self) {
        self.load(RevocationRows::default());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::target::TargetKind;
    use super::*;

    fn agent() -> NewRevocation {
        let target = Target::new(TargetKind::Agent, "a");
        NewRevocation { target, is_blocking: true, revoked_by: "uid 0".into(), reason: String::new() }
    }

    /// Without a keystore, nothing is on disk, and nothing is acknowledged.
    #[tokio::test]
    async fn what_cannot_be_stored_is_in_effect_and_not_acknowledged() {
        let clock = Clock::manual(Timestamp::from_secs(1_800_000_000));
        let revocations = Revocations::of_test(clock.clone());
        let expires = clock.now().after(Duration::from_secs(60));
        for _ in 0..2 {
            assert!(matches!(revocations.revoke(agent()).await, Err(Error::NotStored(_))));
            assert!(matches!(revocations.revoke_token("j", expires).await, Err(Error::NotStored(_))));
        }
        assert!(revocations.is_token_revoked("j") && !revocations.is_token_revoked("k"));
        let set = revocations.current();
        assert!(set.get(&agent().target).is_some());
        // Tokens do not carry an epoch that a crash could lose.
        assert_eq!((set.epoch(), set.latest_epoch()), (0, 1));
        assert!(revocations.store_fault().is_some());
        assert!(matches!(revocations.use_once("u", expires).await, Err(Error::NotStored(_))));
        // It counts as used.
        assert!(!matches!(revocations.use_once("u", expires).await, Ok(true)));
    }

    #[tokio::test]
    async fn a_token_is_forgotten_once_it_has_expired_for_certain() {
        let clock = Clock::manual(Timestamp::from_secs(1_800_000_000));
        let revocations = Revocations::of_test(clock.clone());
        let expires = clock.now().after(Duration::from_secs(60));
        let _ = revocations.revoke_token("j", expires).await;
        // The horizon is the clock's, an hour after the start at the earliest.
        let _ = revocations.store().await;
        clock.advance(Duration::from_secs(61));
        let _ = revocations.store().await;
        assert!(revocations.is_token_revoked("j"), "the clock may be set back");
    }
}
