//! The handle to the revocations of this host.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use ring::hmac;
use tokio::sync::watch;

use super::error::Error;
use super::record::{EndedInvocation, Revocation, lapses_after};
use super::set::{IssuedToken, RevocationSet};
use super::target::{Target, TargetKind};
use super::tokens::{NONCE_KEY_LABEL, TokenKey, TokenTable, mark_expires};
use super::writer::{self, Batch, Pending, Writer};
use super::{BATCH_INTERVAL, MAX_ENDED, MAX_REVOCATIONS, MAX_TOKENS};
use crate::clock::{Clock, SettledClock, Timestamp};
use crate::keystore::Keystore;
use crate::mutex::lock;
use crate::store::{RevocationRows, TokenRow};

const FILE_NAME: &str = "revocations.db";
/// How long lifting a revocation waits for the revocation lists.
const CERTIFICATES_TIMEOUT: Duration = Duration::from_secs(5);
/// Bits of an epoch below the second at which a database was accepted.
const ACCEPTED_EPOCH_BITS: u32 = 20;

/// The revocations of this host. Clones share the state.
#[derive(Clone)]
pub struct Revocations(Arc<Shared>);

struct Shared {
    path: PathBuf,
    clock: Clock,
    /// Decisions read it without a lock.
    set: ArcSwap<RevocationSet>,
    tokens: RwLock<TokenTable>,
    /// Held while the set and what is to be stored change together.
    pending: Mutex<Pending>,
    /// Held while changes are stored. Those that come meanwhile are stored together, by the next one.
    writer: tokio::sync::Mutex<Writer>,
    /// Greater after each change that takes effect.
    generation: watch::Sender<u64>,
    /// The epoch up to which certificates are on the revocation lists.
    certificates: watch::Sender<u64>,
    /// Why the database is not open; `None` where it is.
    blocked_reason: watch::Sender<Option<String>>,
    /// Why the last change is not stored; `None` where it is.
    store_fault: Mutex<Option<String>>,
    settled: Mutex<SettledClock>,
    /// Authenticates nonces that this host makes; `None` until the keystore is open.
    nonce_key: ArcSwapOption<hmac::Key>,
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

    /// Revokes a target: what was issued in it is revoked at once, and nothing is issued in it while the revocation
    /// blocks. It is on disk when this returns.
    ///
    /// # Errors
    /// [`Error::NotOpen`], [`Error::LimitReached`]; [`Error::NotStored`] where it is in effect and not on disk.
    pub async fn revoke(&self, new: NewRevocation) -> Result<Outcome, Error> {
        self.require_open()?;
        let (ticket, outcome) = {
            let mut pending = self.pending();
            let set = self.0.set.load_full();
            match set.get(&new.target) {
                Some(existing) if existing.is_blocking && new.is_blocking => {
                    (pending.count, Outcome::AlreadyRevoked)
                }
                _ => {
                    if set.len() >= MAX_REVOCATIONS && new.target.kind() != TargetKind::Everything {
                        return Err(Error::LimitReached(
                            "as many targets are revoked as can be; lift revocations that are not needed",
                        ));
                    }
                    let lapses = (!new.is_blocking).then(|| lapses_after(self.0.clock.now()));
                    self.apply(&mut pending, &set, new, lapses, true);
                    (pending.count, Outcome::Revoked)
                }
            }
        };
        self.flush(ticket).await.map(|()| outcome)
    }

    /// Revokes what was issued in an invocation that has ended. A revocation by an administrator blocks nothing any
    /// more, and keeps its words. Nothing waits for the disk; [`Revocations::store`] stores it.
    ///
    /// If many invocations have ended whose tokens have not expired, what was issued to its agents is revoked for all
    /// their invocations, so that memory is bounded.
    pub fn end_invocation(&self, ended: &EndedInvocation<'_>) {
        if !self.is_open() {
            return;
        }
        let mut pending = self.pending();
        let set = self.0.set.load_full();
        let of_invocation = [Target::new(TargetKind::Invocation, ended.id)];
        let is_full =
            set.ended() >= MAX_ENDED && !ended.agents.is_empty() && set.get(&of_invocation[0]).is_none();
        let of_agents = ended.agents.iter().map(|agent| Target::new(TargetKind::Agent, agent.as_str()));
        let targets: Vec<Target> = if is_full { of_agents.collect() } else { of_invocation.into() };
        for target in targets {
            let set = self.0.set.load_full();
            let existing = set.get(&target);
            // What blocks an agent revokes its tokens, and nothing was issued since.
            if is_full && existing.is_some_and(|existing| existing.is_blocking) {
                continue;
            }
            let by_administrator = existing.filter(|existing| existing.is_blocking);
            let is_guarded =
                existing.is_some_and(|existing| existing.is_guarded) || set.len() >= MAX_REVOCATIONS;
            let new = NewRevocation {
                target,
                is_blocking: false,
                revoked_by: by_administrator.map_or("hostbadged".to_owned(), |one| one.revoked_by.clone()),
                reason: by_administrator.map_or(ended.reason.to_owned(), |one| one.reason.clone()),
            };
            let lapses = existing.and_then(|existing| existing.lapses).max(Some(ended.lapses()));
            self.apply(&mut pending, &set, new, lapses, is_guarded);
        }
    }

    /// Revokes everything that was issued before the host was started again, because no invocation outlives that.
    /// Revocations of invocations block nothing any more. Returns when it is on disk.
    ///
    /// # Errors
    /// As [`Revocations::revoke`].
    pub(crate) async fn end_earlier_boot(&self) -> Result<(), Error> {
        self.require_open()?;
        let ticket = {
            let mut pending = self.pending();
            let now = self.0.clock.now();
            let set = self.0.set.load_full();
            let of_invocation =
                |one: &&Revocation| one.target.kind() == TargetKind::Invocation && one.is_blocking;
            let lifted: Vec<Revocation> =
                set.iter().filter(of_invocation).map(|one| one.lifted(now)).collect();
            let set = Arc::new(lifted.into_iter().fold((*set).clone(), |set, one| set.with(one)));
            self.publish((*set).clone());
            // A host that is frozen has issued nothing since.
            if set.freeze().is_none() {
                let new = NewRevocation {
                    target: Target::everything(),
                    is_blocking: false,
                    revoked_by: "hostbadged".to_owned(),
                    reason: "the host was started again".to_owned(),
                };
                self.apply(&mut pending, &set, new, Some(lapses_after(now)), true);
            }
            pending.is_guarded = true;
            pending.count += 1;
            pending.count
        };
        self.flush(ticket).await
    }

    /// Lifts the revocation of a target: what was issued before stays revoked, and what is issued from now on is
    /// valid. Returns when its certificates are on the revocation lists and the change is on disk.
    ///
    /// # Errors
    /// [`Error::NotRevoked`], [`Error::CertificatesPending`], and as [`Revocations::revoke`].
    pub async fn lift(&self, target: &Target) -> Result<Revocation, Error> {
        self.require_open()?;
        let find = |set: &RevocationSet| match set.get(target).filter(|one| one.is_blocking) {
            Some(revocation) => Ok(revocation.clone()),
            None => Err(Error::NotRevoked(match target.kind() {
                TargetKind::Everything => "this host is not frozen".to_owned(),
                _ => format!("{target} is not revoked"),
            })),
        };
        let epoch = find(&self.0.set.load())?.epoch;
        let mut certificates = self.0.certificates.subscribe();
        let are_revoked = certificates.wait_for(|applied| *applied >= epoch);
        if tokio::time::timeout(CERTIFICATES_TIMEOUT, are_revoked).await.is_err() {
            return Err(Error::CertificatesPending);
        }
        let (ticket, lifted) = {
            let mut pending = self.pending();
            let set = self.0.set.load_full();
            let revocation = find(&set)?;
            self.publish(set.with(revocation.lifted(self.0.clock.now())));
            pending.is_guarded = true;
            pending.count += 1;
            (pending.count, revocation)
        };
        self.flush(ticket).await.map(|()| lifted)
    }

    /// Revokes a single token until it has expired. It is on disk when this returns.
    ///
    /// # Errors
    /// As [`Revocations::revoke`].
    pub async fn revoke_token(&self, jti: &str, expires: Timestamp) -> Result<Outcome, Error> {
        match self.add_token(jti, expires, false).await? {
            true => Ok(Outcome::Revoked),
            false => Ok(Outcome::AlreadyRevoked),
        }
    }

    /// Uses a token up: returns true for the first call with this `jti`, on this host and for ever, and false for
    /// each other one. The use is on disk when this returns.
    ///
    /// # Errors
    /// As [`Revocations::revoke`]; the token counts as used then, except after [`Error::LimitReached`].
    pub async fn use_once(&self, jti: &str, expires: Timestamp) -> Result<bool, Error> {
        self.add_token(jti, mark_expires(expires), true).await
    }

    /// Whether a token was used up.
    pub fn is_token_used(&self, jti: &str) -> bool {
        let tokens = self.0.tokens.read().unwrap_or_else(|poison| poison.into_inner());
        tokens.used.contains_key(&TokenKey::of_jti(jti))
    }

    async fn add_token(&self, jti: &str, expires: Timestamp, is_use: bool) -> Result<bool, Error> {
        self.require_open()?;
        let key = TokenKey::of_jti(jti);
        let (ticket, is_new) = {
            let mut pending = self.pending();
            let mut tokens = self.0.tokens.write().unwrap_or_else(|poison| poison.into_inner());
            let is_full = tokens.len() >= MAX_TOKENS;
            let table = if is_use { &mut tokens.used } else { &mut tokens.revoked };
            let is_new = !table.contains_key(&key);
            if is_new {
                if is_full {
                    return Err(Error::LimitReached(
                        "as many tokens are revoked or used up as can be; those that expire make room within the \
                         hour",
                    ));
                }
                table.insert(key, expires);
                pending.tokens.push(TokenRow {
                    used: is_use,
                    key: key.to_bytes(),
                    expires: expires.as_secs(),
                });
                pending.count += 1;
            }
            (pending.count, is_new)
        };
        if is_new && !is_use {
            self.notify();
        }
        if is_new || !is_use {
            self.flush(ticket).await?;
        }
        Ok(is_new)
    }

    /// The certificates of all revocations up to this epoch are on the revocation lists.
    pub(crate) fn certificates_revoked(&self, epoch: u64) {
        self.0.certificates.send_if_modified(|applied| std::mem::replace(applied, epoch) != epoch);
    }

    /// Stores what is in effect and not stored, forgets what has expired, and closes an idle database.
    ///
    /// # Errors
    /// [`Error::NotStored`].
    pub(crate) async fn store(&self) -> Result<(), Error> {
        if !self.is_open() {
            return Ok(());
        }
        let horizon = lock(&self.0.settled).horizon(self.0.clock.now());
        let (ticket, has_changes) = {
            let mut pending = self.pending();
            self.0.tokens.write().unwrap_or_else(|poison| poison.into_inner()).forget(horizon);
            let (set, lapsed) = self.0.set.load().without_lapsed(horizon);
            if !lapsed.is_empty() {
                self.publish(set);
            }
            (pending.count, !pending.is_empty() || self.is_batch_due(&mut pending))
        };
        if has_changes {
            self.flush_all(ticket).await?;
        }
        self.0.writer.lock().await.close_if_idle();
        Ok(())
    }

    /// Whether appended rows have to be in the state manifest now. Marks the next change as guarded then.
    fn is_batch_due(&self, pending: &mut Pending) -> bool {
        let Ok(writer) = self.0.writer.try_lock() else { return false };
        let is_old = writer.guarded_at.is_none_or(|at| at.elapsed() >= BATCH_INTERVAL);
        let is_due = writer.has_appended && is_old;
        pending.is_guarded |= is_due;
        is_due
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

    /// Puts a revocation into effect.
    fn apply(
        &self,
        pending: &mut Pending,
        set: &RevocationSet,
        new: NewRevocation,
        lapses: Option<Timestamp>,
        is_guarded: bool,
    ) {
        let now = self.0.clock.now();
        let NewRevocation { target, is_blocking, revoked_by, reason } = new;
        let epoch = set.next_epoch();
        let revocation = Revocation {
            target,
            epoch,
            is_blocking,
            revoked_at: now,
            revoked_by,
            reason,
            lapses,
            is_guarded,
        };
        self.publish(set.with(revocation.clone()));
        pending.count += 1;
        match is_guarded {
            true => pending.is_guarded = true,
            false => pending.ended.push(revocation),
        }
    }

    fn publish(&self, set: RevocationSet) {
        self.0.set.store(Arc::new(set));
        self.notify();
    }

    fn notify(&self) {
        self.0.generation.send_modify(|generation| *generation += 1);
    }

    /// Stores all changes up to the `ticket`, in a task, so that a caller that goes away does not stop it.
    async fn flush(&self, ticket: u64) -> Result<(), Error> {
        let this = self.clone();
        let task = tokio::spawn(async move { this.flush_all(ticket).await });
        task.await.unwrap_or_else(|_| Err(Error::NotOpen("the daemon is shutting down".to_owned())))
    }

    async fn flush_all(&self, ticket: u64) -> Result<(), Error> {
        let mut writer = self.0.writer.lock().await;
        if writer.stored >= ticket && self.pending().is_empty() {
            return Ok(());
        }
        if writer.stored >= ticket && ticket > 0 && !self.pending().is_guarded {
            return Ok(());
        }
        let forget = lock(&self.0.settled).horizon(self.0.clock.now());
        let (batch, count) = {
            let mut pending = self.pending();
            let count = pending.count;
            let batch = std::mem::replace(&mut *pending, Pending { count, ..Pending::default() });
            let set = self.0.set.load_full();
            let targets = set.iter().cloned().collect();
            (Batch { pending: batch, targets, forget, epoch: set.next_epoch() - 1 }, count)
        };
        match writer.store(&batch).await {
            Ok(()) => {
                writer.stored = count;
                *lock(&self.0.store_fault) = None;
                self.raise_issue_epoch(batch.epoch);
                Ok(())
            }
            Err(error) => {
                self.pending().restore(batch.pending);
                *lock(&self.0.store_fault) = Some(error.to_string());
                Err(Error::NotStored(error.to_string()))
            }
        }
    }

    /// Tokens carry an epoch only once the revocation that began it is on disk: otherwise a crash could lose it,
    /// and a later revocation would have the same epoch as tokens from before it.
    fn raise_issue_epoch(&self, epoch: u64) {
        let _pending = self.pending();
        let set = self.0.set.load_full();
        if set.epoch() < epoch {
            self.0.set.store(Arc::new(set.with_issue_epoch(epoch)));
        }
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        lock(&self.0.pending)
    }

    fn require_open(&self) -> Result<(), Error> {
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
        revocations.load(RevocationRows::default());
        revocations
    }
}

#[cfg(test)]
mod tests {
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
