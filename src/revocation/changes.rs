//! Changes of what is revoked: they take effect in memory, and return once they are on disk.

use std::sync::Arc;
use std::time::Duration;

use super::error::Error;
use super::handle::{InEffect, NewRevocation, Outcome, Revocations};
use super::record::{EndedInvocation, Revocation, lapses_after, rule_of};
use super::set::RevocationSet;
use super::target::{Target, TargetKind};
use super::tokens::{TokenKey, mark_expires};
use super::writer::Pending;
use super::{MAX_ENDED, MAX_REVOCATIONS, MAX_TOKENS};
use crate::clock::Timestamp;
use crate::store::TokenRow;

/// How long lifting a revocation waits for the revocation lists.
const CERTIFICATES_TIMEOUT: Duration = Duration::from_secs(5);

impl Revocations {
    /// Revokes a target: what was issued in it is revoked at once, and nothing is issued in it while the revocation
    /// blocks. It is on disk when this returns. The revocation of a target by a person takes the place of that by a
    /// rule for anomalies, so that ending the suspension does not lift it.
    ///
    /// # Errors
    /// [`Error::NotOpen`], [`Error::LimitReached`]; [`Error::NotStored`] where it is in effect and not on disk.
    pub async fn revoke(&self, new: NewRevocation) -> Result<Outcome, Error> {
        let in_effect = self.put_into_effect(new)?;
        self.stored(in_effect).await
    }

    /// As [`Revocations::revoke`], without waiting for the disk: [`Revocations::stored`] does.
    ///
    /// # Errors
    /// [`Error::NotOpen`], [`Error::LimitReached`].
    pub(crate) fn put_into_effect(&self, new: NewRevocation) -> Result<InEffect, Error> {
        self.require_open()?;
        let mut pending = self.pending();
        let set = self.0.set.load_full();
        let existing = set.get(&new.target);
        if existing.is_some_and(|existing| !replaces(&new, existing)) {
            return Ok(InEffect { ticket: pending.count, outcome: Outcome::AlreadyRevoked });
        }
        let needs_room = existing.is_none() && new.target.kind() != TargetKind::Everything;
        if needs_room && set.len() >= MAX_REVOCATIONS {
            return Err(Error::LimitReached(
                "as many targets are revoked as can be; lift revocations that are not needed",
            ));
        }
        let lapses = (!new.is_blocking).then(|| lapses_after(self.0.clock.now()));
        self.apply(&mut pending, &set, new, lapses, true);
        Ok(InEffect { ticket: pending.count, outcome: Outcome::Revoked })
    }

    /// Returns when what is in effect is on disk.
    ///
    /// # Errors
    /// [`Error::NotStored`]; the daemon goes on trying to store it.
    pub(crate) async fn stored(&self, in_effect: InEffect) -> Result<Outcome, Error> {
        self.flush(in_effect.ticket).await.map(|()| in_effect.outcome)
    }

    /// Revokes what was issued in an invocation that has ended. A revocation by an administrator blocks nothing any
    /// more, and keeps its words. Nothing waits for the disk; the revocation manager stores it within a second.
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
    /// [`Error::NotRevoked`], [`Error::CertificatesPending`], [`Error::RevokedAgain`], and as [`Revocations::revoke`].
    pub async fn lift(&self, target: &Target) -> Result<Revocation, Error> {
        let epoch = self.0.set.load().get(target).map_or(0, |revocation| revocation.epoch);
        self.lift_epoch(target, epoch).await
    }

    /// As [`Revocations::lift`], only if the target's revocation is still the one of this epoch.
    ///
    /// # Errors
    /// As [`Revocations::lift`].
    pub async fn lift_epoch(&self, target: &Target, epoch: u64) -> Result<Revocation, Error> {
        self.require_open()?;
        let find = |set: &RevocationSet| match set.get(target).filter(|one| one.is_blocking) {
            Some(revocation) if revocation.epoch == epoch => Ok(revocation.clone()),
            Some(_) => Err(Error::RevokedAgain(match target.kind() {
                TargetKind::Everything => "everything".to_owned(),
                _ => target.to_string(),
            })),
            None => Err(Error::NotRevoked(match target.kind() {
                TargetKind::Everything => "this host is not frozen".to_owned(),
                _ => format!("{target} is not revoked"),
            })),
        };
        find(&self.0.set.load())?;
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
}

/// Whether a revocation takes the place of an existing one of its target.
fn replaces(new: &NewRevocation, existing: &Revocation) -> bool {
    let is_by_person_after_rule = existing.rule().is_some() && rule_of(&new.revoked_by).is_none();
    !(existing.is_blocking && new.is_blocking) || is_by_person_after_rule
}
