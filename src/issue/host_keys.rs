//! All keys of a host that sign tokens: its own issuing keys, those of its tenants, and the RSA keys.

use std::collections::BTreeSet;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::error::Error;
use super::issuer::IssuerState;
use super::key_event::{KeyChange, KeyEvent};
use super::keys::IssuingKeys;
use super::rsa::HostKeyRef;
use super::rsa_keys::RsaKeys;
use super::tenant_issuers::TenantIssuers;
use super::tpm_keys::TpmKeys;
use crate::clock::Timestamp;
use crate::keystore::{Keystore, RecoveryKey};
use crate::revocation::RevocationSet;
use crate::tpm::Tpm;

/// The issuing keys of this host and of its tenants, and the RSA keys.
pub struct HostKeys {
    own: IssuingKeys,
    tenants: TenantIssuers,
    /// `None` while their file cannot be used.
    rsa: Option<RsaKeys>,
}

impl HostKeys {
    pub(super) fn new(own: IssuingKeys, tenants: TenantIssuers) -> HostKeys {
        HostKeys { own, tenants, rsa: None }
    }

    /// The state from which requests are served while no key changes.
    pub fn issuer_state(&self) -> Result<IssuerState, Error> {
        let tpm_keys = TpmKeys {
            host_key: self.own.host_key_ref().host_key,
            host_key_made: self.keystore().host_keys_made(),
            rsa: self.rsa.as_ref().map(RsaKeys::key_set).unwrap_or_default(),
        };
        let tpm_jwks = tpm_keys.jwks();
        let sequence = self.own.sequence().saturating_add(self.tenants.changes());
        IssuerState::new(
            self.own.host().clone(),
            Arc::new(self.own.issuer_keys(&tpm_jwks)?),
            self.tenants.issuer_keys(&tpm_jwks)?,
            tpm_keys,
            sequence,
            self.own.clock().clock().clone(),
        )
    }

    /// The keys of the host itself.
    pub fn own(&self) -> &IssuingKeys {
        &self.own
    }

    /// The keys of a tenant, or of the host itself.
    ///
    /// # Errors
    /// [`Error::UnknownTenant`].
    pub fn of_mut(&mut self, tenant: Option<&str>) -> Result<&mut IssuingKeys, Error> {
        match tenant {
            None => Ok(&mut self.own),
            Some(name) => self.tenants.get_mut(name).ok_or_else(|| Error::UnknownTenant(name.to_owned())),
        }
    }

    /// Sets the RSA keys.
    pub fn set_rsa_keys(&mut self, rsa: RsaKeys) {
        self.rsa = Some(rsa);
    }

    /// The RSA keys; `None` while their file cannot be used.
    pub fn rsa_keys(&self) -> Option<&RsaKeys> {
        self.rsa.as_ref()
    }

    /// The RSA keys, for changing them.
    pub fn rsa_keys_mut(&mut self) -> Option<&mut RsaKeys> {
        self.rsa.as_mut()
    }

    /// The host key, which endorses the other keys of this host.
    pub fn host_key_ref(&self) -> HostKeyRef {
        self.own.host_key_ref()
    }

    /// The keystore that writes the state files.
    pub fn keystore(&self) -> &Arc<Keystore> {
        self.own.keystore()
    }

    /// As [`IssuingKeys::rotate_kek`], and then [`IssuingKeys::rewrap`].
    pub async fn rotate_kek(&mut self) -> Result<Vec<KeyEvent>, Error> {
        let change = self.own.rotate_kek().await?;
        self.own.rewrap().await?;
        Ok(KeyEvent::all(None, change.into_iter().collect()))
    }

    /// As [`IssuingKeys::create_recovery_key`].
    pub async fn create_recovery_key(&self) -> Result<Zeroizing<String>, Error> {
        self.own.create_recovery_key().await
    }

    /// As [`IssuingKeys::confirm_recovery_key`].
    pub async fn confirm_recovery_key(&mut self, recovery_key: &RecoveryKey) -> Result<(), Error> {
        self.own.confirm_recovery_key(recovery_key).await
    }

    /// When the next step of any schedule is due that is not due yet.
    pub fn next_wakeup(&self) -> Option<Timestamp> {
        self.own.next_wakeup().into_iter().chain(self.tenants.next_wakeup()).min()
    }

    /// Takes the steps that are due at the host or at one tenant; empty if none are. A step that fails changes
    /// nothing, and keeps no other owner from its steps: call this again later. `named` are the tenants that
    /// agents name; `None` while that is not known.
    pub async fn advance(
        &mut self,
        tpm: &Tpm,
        named: Option<&BTreeSet<String>>,
    ) -> Result<Vec<KeyEvent>, Error> {
        let own = self.own.advance(tpm).await;
        if let Ok(changes) = &own
            && !changes.is_empty()
        {
            return own.map(|changes| KeyEvent::all(None, changes));
        }
        match (own, self.tenants.advance(tpm, named).await) {
            (_, Ok(events)) if !events.is_empty() => Ok(events),
            (Err(error), _) | (_, Err(error)) => Err(error),
            (Ok(_), Ok(events)) => Ok(events),
        }
    }

    /// Destroys the revoked keys of the host or of one tenant; empty if none are. A failure at one owner keeps no
    /// other from this: call this again.
    pub async fn destroy_revoked(
        &mut self,
        tpm: &Tpm,
        revocations: &RevocationSet,
    ) -> Result<Vec<KeyEvent>, Error> {
        let own = self.own.destroy_revoked(tpm, revocations).await;
        if matches!(&own, Ok(changes) if !changes.is_empty()) {
            return own.map(|changes| KeyEvent::all(None, changes));
        }
        match (own, self.tenants.destroy_revoked(tpm, revocations).await) {
            (_, Ok(events)) if !events.is_empty() => Ok(events),
            (Err(error), _) | (_, Err(error)) => Err(error),
            (Ok(_), Ok(events)) => Ok(events),
        }
    }

    /// The revoked keys that would sign, which therefore wait for a successor.
    pub fn revoked_active_kids(&self, revocations: &RevocationSet) -> Vec<&str> {
        let keys = std::iter::once(&self.own).chain(self.tenants.keys());
        keys.filter(|keys| keys.is_active_revoked(revocations)).map(|keys| keys.active().kid()).collect()
    }

    /// Makes the keys of tenants that agents name and that have none, as [`HostKeys::advance`] does.
    pub async fn make_keys_of_tenants(
        &mut self,
        tpm: &Tpm,
        named: &BTreeSet<String>,
    ) -> Result<Vec<KeyEvent>, Error> {
        self.tenants.adopt(tpm, named).await
    }

    /// Destroys the key-encryption key of a tenant and its issuing keys. `None` if it has neither.
    pub async fn remove_tenant(&mut self, tenant: &str) -> Result<Option<Vec<KeyEvent>>, Error> {
        self.tenants.remove(tenant).await
    }

    /// The events of a change of one owner's issuing keys.
    pub fn events_of(tenant: Option<&String>, changes: Vec<KeyChange>) -> Vec<KeyEvent> {
        KeyEvent::all(tenant, changes)
    }

    /// The events of a change of the RSA keys.
    pub fn events_of_rsa_keys(changes: Vec<KeyChange>) -> Vec<KeyEvent> {
        KeyEvent::of_rsa_keys(changes)
    }
}
