//! The issuing keys of the tenants: made when an agent first names a tenant, and removed when the last token of
//! a tenant that no agent names any more has expired.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use super::error::Error;
use super::host_identity::HostIdentity;
use super::issuer::IssuerKeys;
use super::key::IssuingKey;
use super::key_event::{KeyChange, KeyEvent};
use super::key_schedule::{KeySchedule, MAX_RETIRED_KEYS, MIN_RETIRED_OF_TENANT};
use super::keys::{IssuingKeys, Owner, ScheduledKeys, create_key};
use super::rotation::{RETENTION, RotationPolicy};
use super::schedule_loader::ScheduleLoader;
use super::tenant_schedules::{self, MAX_TENANTS, TenantSchedule, TenantSchedules, TenantSchedulesFile};
use crate::clock::{BootTime, ClockState, Timestamp};
use crate::keystore::{self, Keystore, TenantKekDependent, TenantKeks};
use crate::revocation::RevocationSet;
use crate::tpm::Tpm;
use crate::verify::Jwk;

/// Retired keys of all tenants, from which on each tenant can have its share alone.
const MAX_RETIRED_OF_TENANTS: usize = MAX_TENANTS * MIN_RETIRED_OF_TENANT;

/// What the keys of each tenant are made with.
#[derive(Clone)]
pub(super) struct TenantContext {
    pub(super) keystore: Arc<Keystore>,
    pub(super) host: HostIdentity,
    pub(super) host_key: Jwk,
    pub(super) rotation_policy: RotationPolicy,
    pub(super) clock: ClockState,
}

/// The issuing keys of all tenants.
pub(super) struct TenantIssuers {
    context: TenantContext,
    schedules: Arc<TenantSchedules>,
    issuers: BTreeMap<String, TenantIssuer>,
    /// How often the file was written; part of the bundle's sequence number.
    changes: u64,
}

struct TenantIssuer {
    keys: IssuingKeys,
    /// Since when no agent names the tenant, by both clocks; `None` while one does.
    left: Option<(Timestamp, BootTime)>,
}

/// What differs between the tenants that agents name and those that have keys.
struct Difference<'a> {
    /// Named, and without keys.
    missing: Vec<&'a String>,
    /// Named again, after no agent named them.
    returned: Vec<String>,
    /// Not named any more.
    left: Vec<String>,
    /// Not named for as long as a token lives.
    expired: Vec<String>,
}

impl TenantIssuers {
    /// Loads the keys of the tenants of which the state directory has keys.
    ///
    /// # Errors
    /// A file that was changed, or a TPM that is not available.
    pub(super) async fn load(context: TenantContext, state_dir: &Path) -> Result<TenantIssuers, Error> {
        let file = TenantSchedulesFile::read(state_dir)?;
        let path = tenant_schedules::path(state_dir);
        let keks = match file.tenants.is_empty() {
            true => TenantKeks::default(),
            false => context.keystore.tenant_keks().await?,
        };
        let schedules = Arc::new(TenantSchedules::new(context.keystore.clone(), file.clone()));
        let boot = context.clock.clock().boot_time();
        let mut issuers = BTreeMap::new();
        for (name, tenant) in file.tenants {
            // A crash interrupted the removal of this tenant: nothing decrypts its keys any more.
            let Some(keks) = keks.pair(&name) else { continue };
            let loader =
                ScheduleLoader { file: &path, keks, host_id: &context.host.id, host_key: &context.host_key };
            let left = tenant.left().map(|left| (left, boot));
            let keys = context.keys_of(&name, &schedules, loader.load(tenant.keys)?);
            issuers.insert(name, TenantIssuer { keys, left });
        }
        Ok(TenantIssuers { context, schedules, issuers, changes: file.changes })
    }

    /// The keys of a tenant, which may have as many retired keys as the others leave room for.
    pub(super) fn get_mut(&mut self, tenant: &str) -> Option<&mut IssuingKeys> {
        let retired =
            |(name, issuer): (&String, &TenantIssuer)| (name != tenant).then(|| issuer.keys.retired_count());
        let max_retired = max_retired(self.issuers.iter().filter_map(retired));
        let keys = self.issuers.get_mut(tenant).map(|issuer| &mut issuer.keys)?;
        keys.set_max_retired(max_retired);
        Some(keys)
    }

    /// The keys of each tenant.
    pub(super) fn keys(&self) -> impl Iterator<Item = &IssuingKeys> {
        self.issuers.values().map(|issuer| &issuer.keys)
    }

    /// What requests are served from, by tenant.
    pub(super) fn issuer_keys(&self, tpm_keys: &[Jwk]) -> Result<BTreeMap<String, Arc<IssuerKeys>>, Error> {
        let keys = |(name, issuer): (&String, &TenantIssuer)| {
            Ok((name.clone(), Arc::new(issuer.keys.issuer_keys(tpm_keys)?)))
        };
        self.issuers.iter().map(keys).collect()
    }

    /// Increases with each change of the keys of any tenant.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// When the next step of a tenant is due.
    pub(super) fn next_wakeup(&self) -> Option<Timestamp> {
        let step = |issuer: &TenantIssuer| match issuer.left {
            None => issuer.keys.next_wakeup(),
            Some((left, _)) => Some(left.after(RETENTION)).filter(|at| *at > self.context.clock.now()),
        };
        self.issuers.values().filter_map(step).min()
    }

    /// Takes the steps that are due at one tenant; empty if none are at any. `named` are the tenants that
    /// agents name; `None` while that is not known. An error of one tenant does not keep the others from their
    /// steps.
    pub(super) async fn advance(
        &mut self,
        tpm: &Tpm,
        named: Option<&BTreeSet<String>>,
    ) -> Result<Vec<KeyEvent>, Error> {
        let mut result = match named {
            Some(named) => self.adopt(tpm, named).await,
            None => Ok(Vec::new()),
        };
        if matches!(&result, Ok(events) if events.is_empty()) {
            result = self.rewrap().await.map(|()| Vec::new());
        }
        for (name, issuer) in &mut self.issuers {
            if matches!(&result, Ok(events) if !events.is_empty()) {
                break;
            }
            if issuer.left.is_some() {
                continue;
            }
            match issuer.keys.advance(tpm).await {
                Ok(changes) if changes.is_empty() => {}
                Ok(changes) => result = Ok(KeyEvent::all(Some(name), changes)),
                Err(error) => result = result.and(Err(error)),
            }
        }
        self.changes = self.schedules.changes().await;
        result
    }

    /// Encrypts the keys of all tenants again, if the tenants have other key-encryption keys: in one write.
    async fn rewrap(&mut self) -> Result<(), Error> {
        let keystore = self.context.keystore.clone();
        if !keystore.needs_tenant_rewrap(TenantKekDependent::IssuingKeys) {
            return Ok(());
        }
        let keks = keystore.tenant_keks().await?;
        let mut rewrapped = BTreeMap::new();
        for (name, issuer) in &self.issuers {
            let keks = keks.pair(name).ok_or_else(|| Error::NoTenantKey(name.clone()))?;
            rewrapped.insert(name.clone(), issuer.keys.rewrapped_schedule(keks)?);
        }
        if !rewrapped.is_empty() {
            self.changes = self
                .schedules
                .change(|file| {
                    for (name, keys) in &rewrapped {
                        if let Some(tenant) = file.tenants.get_mut(name) {
                            tenant.keys = keys.clone();
                        }
                    }
                })
                .await?;
            for (name, schedule) in rewrapped {
                if let Some(issuer) = self.issuers.get_mut(&name) {
                    issuer.keys.set_schedule(schedule);
                }
            }
        }
        Ok(keystore.mark_tenant_rewrapped(TenantKekDependent::IssuingKeys).await?)
    }

    /// Destroys the revoked keys of one tenant, also of one that no agent names any more; empty if none are
    /// revoked. An error of one tenant does not keep the others from this.
    pub(super) async fn destroy_revoked(
        &mut self,
        tpm: &Tpm,
        revocations: &RevocationSet,
    ) -> Result<Vec<KeyEvent>, Error> {
        let mut result = Ok(Vec::new());
        for (name, issuer) in &mut self.issuers {
            match issuer.keys.destroy_revoked(tpm, revocations).await {
                Ok(changes) if changes.is_empty() => {}
                Ok(changes) => {
                    result = Ok(KeyEvent::all(Some(name), changes));
                    break;
                }
                Err(error) => result = result.and(Err(error)),
            }
        }
        self.changes = self.schedules.changes().await;
        result
    }

    /// Makes the keys of tenants that are new, and removes those of tenants that have left.
    pub(super) async fn adopt(
        &mut self,
        tpm: &Tpm,
        named: &BTreeSet<String>,
    ) -> Result<Vec<KeyEvent>, Error> {
        let (now, boot) = (self.context.clock.now(), self.context.clock.clock().boot_time());
        let Difference { missing, returned, left, expired } = self.difference(named, now, boot);
        let room = MAX_TENANTS.saturating_sub(self.issuers.len() - expired.len());
        let (created, unserved) = missing.split_at(room.min(missing.len()));
        if !(created.is_empty() && returned.is_empty() && left.is_empty() && expired.is_empty()) {
            let created = self.create(tpm, created, now).await?;
            self.schedules
                .change(|file| {
                    for (name, keys, _) in &created {
                        file.tenants.insert(name.clone(), TenantSchedule::new(keys.clone()));
                    }
                    for (names, at) in [(&returned, None), (&left, Some(now))] {
                        for name in names {
                            if let Some(tenant) = file.tenants.get_mut(name) {
                                tenant.set_left(at);
                            }
                        }
                    }
                    file.tenants.retain(|name, _| !expired.contains(name));
                })
                .await?;
            return Ok(self.take(created, &returned, &left, &expired, (now, boot)));
        }
        match unserved {
            [] => Ok(Vec::new()),
            unserved => Err(Error::TooManyTenants {
                max: MAX_TENANTS,
                unserved: unserved.iter().take(8).map(|name| name.as_str()).collect::<Vec<_>>().join(", "),
            }),
        }
    }

    /// Removes the keys of a tenant, and then destroys its key-encryption key, so that nothing decrypts what it
    /// encrypted. `None` if the tenant has neither.
    pub(super) async fn remove(&mut self, tenant: &str) -> Result<Option<Vec<KeyEvent>>, Error> {
        let mut events = None;
        if self.issuers.contains_key(tenant) {
            self.changes = self.schedules.change(|file| drop(file.tenants.remove(tenant))).await?;
            let now = (self.context.clock.now(), self.context.clock.clock().boot_time());
            events = Some(self.take(Vec::new(), &[], &[], &[tenant.to_owned()], now));
        }
        let had_kek = self.context.keystore.destroy_tenant_kek(tenant).await?;
        Ok(events.or_else(|| had_kek.then(Vec::new)))
    }

    fn difference<'a>(&self, named: &'a BTreeSet<String>, now: Timestamp, boot: BootTime) -> Difference<'a> {
        let is_settled = self.context.clock.is_settled();
        let has_expired = |left: Option<(Timestamp, BootTime)>| {
            left.is_some_and(|(at, since)| {
                (is_settled && at.after(RETENTION) <= now) || boot.since(since) >= RETENTION
            })
        };
        let mut difference = Difference {
            missing: named.iter().filter(|name| !self.issuers.contains_key(*name)).collect(),
            returned: Vec::new(),
            left: Vec::new(),
            expired: Vec::new(),
        };
        for (name, issuer) in &self.issuers {
            match (named.contains(name), issuer.left) {
                (true, Some(_)) => difference.returned.push(name.clone()),
                (false, None) => difference.left.push(name.clone()),
                (false, left) if has_expired(left) => difference.expired.push(name.clone()),
                _ => {}
            }
        }
        difference
    }

    /// Makes the first key of each of these tenants.
    async fn create(
        &self,
        tpm: &Tpm,
        names: &[&String],
        now: Timestamp,
    ) -> Result<Vec<(String, KeySchedule, IssuingKey)>, Error> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let TenantContext { keystore, host, host_key, .. } = &self.context;
        let keks = keystore.ensure_tenant_keks(names.iter().map(|name| name.as_str())).await?;
        let mut created = Vec::new();
        for name in names {
            let kek = keks.get(name).ok_or(keystore::Error::ShuttingDown)?;
            let (key, encrypted_key) = create_key(tpm, kek, &host.id, host_key, now).await?;
            let schedule = KeySchedule::with_first_key(encrypted_key, now).with_bounds_of_tenant();
            created.push(((*name).clone(), schedule, key));
        }
        Ok(created)
    }

    /// Takes in memory what is on disk.
    fn take(
        &mut self,
        created: Vec<(String, KeySchedule, IssuingKey)>,
        returned: &[String],
        left: &[String],
        expired: &[String],
        now: (Timestamp, BootTime),
    ) -> Vec<KeyEvent> {
        let mut events = Vec::new();
        for name in expired {
            let Some(issuer) = self.issuers.remove(name) else { continue };
            let destroyed = |kid| KeyChange::Destroyed { kid, tokens_valid_until: None };
            events.extend(KeyEvent::all(Some(name), issuer.keys.kids().map(destroyed).collect()));
        }
        for (names, at) in [(returned, None), (left, Some(now))] {
            for name in names {
                if let Some(issuer) = self.issuers.get_mut(name) {
                    issuer.left = at;
                }
            }
        }
        for (name, schedule, key) in created {
            events
                .extend(KeyEvent::all(Some(&name), vec![KeyChange::Activated { kid: key.kid().to_owned() }]));
            let scheduled =
                ScheduledKeys { schedule, active: Arc::new(key), next: None, retired: Vec::new() };
            let keys = self.context.keys_of(&name, &self.schedules, scheduled);
            self.issuers.insert(name, TenantIssuer { keys, left: None });
        }
        events
    }
}

/// How many retired keys a tenant may have beside those of the others.
fn max_retired(of_others: impl Iterator<Item = usize>) -> usize {
    let others: usize = of_others.map(|retired| retired.max(MIN_RETIRED_OF_TENANT)).sum();
    MAX_RETIRED_OF_TENANTS.saturating_sub(others).clamp(MIN_RETIRED_OF_TENANT, MAX_RETIRED_KEYS)
}

impl TenantContext {
    fn keys_of(&self, tenant: &str, schedules: &Arc<TenantSchedules>, keys: ScheduledKeys) -> IssuingKeys {
        let TenantContext { keystore, host, host_key, rotation_policy, clock } = self.clone();
        let owner = Owner::Tenant { name: tenant.to_owned(), schedules: schedules.clone() };
        IssuingKeys::new(owner, keystore, host, host_key, rotation_policy, clock, keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_has_more_retired_keys_while_others_have_room() {
        assert_eq!(max_retired(std::iter::empty()), MAX_RETIRED_KEYS);
        assert_eq!(max_retired([0, 3].into_iter()), MAX_RETIRED_KEYS);
        assert_eq!(max_retired([0; 63].into_iter()), MIN_RETIRED_OF_TENANT);
        assert_eq!(max_retired([MAX_RETIRED_KEYS; 10].into_iter()), 24);
        assert_eq!(max_retired([MAX_RETIRED_KEYS; 20].into_iter()), MIN_RETIRED_OF_TENANT);
    }
}
