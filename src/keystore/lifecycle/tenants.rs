//! The key-encryption keys of tenants in the open keystore.

use super::super::error::Error;
use super::super::kek::KekDependent;
use super::super::tenant_keks::{self, TenantKekDependent, TenantKeks, TenantKeksFile};
use super::Keystore;
use crate::mutex::lock;

impl Keystore {
    /// The key-encryption keys of all tenants. The TPM is not used where there are none.
    pub(crate) async fn tenant_keks(&self) -> Result<TenantKeks, Error> {
        let tenants = self.tenants.lock().await;
        if tenants.is_empty() { Ok(TenantKeks::default()) } else { tenants.decrypt(&self.keks().await?) }
    }

    /// As [`Keystore::tenant_keks`], after these tenants got a key if they had none.
    ///
    /// # Errors
    /// [`Error::TooManyTenants`], and failures of the disk or the TPM.
    pub(crate) async fn ensure_tenant_keks<'n>(
        &self,
        names: impl Iterator<Item = &'n str>,
    ) -> Result<TenantKeks, Error> {
        let mut tenants = self.tenants.lock().await;
        let host_keks = self.keks().await?;
        let mut changed = tenants.clone();
        for name in names {
            if !changed.contains(name) {
                let kek = self.tpm.mixed_random().await?;
                changed.add(&host_keks.latest, name, &kek, self.clock.now())?;
            }
        }
        if changed != *tenants {
            self.write_tenants(&changed).await?;
            *tenants = changed;
        }
        tenants.decrypt(&host_keks)
    }

    /// Destroys the key-encryption key of a tenant: nothing decrypts what it encrypted any more. Whether the
    /// tenant had one.
    pub(crate) async fn destroy_tenant_kek(&self, name: &str) -> Result<bool, Error> {
        let mut tenants = self.tenants.lock().await;
        let mut changed = tenants.clone();
        if !changed.remove(name) {
            return Ok(false);
        }
        self.write_tenants(&changed).await?;
        *tenants = changed;
        Ok(true)
    }

    /// Gives each tenant another key-encryption key, if that of the host has changed: with an old key of the host and
    /// an old copy of the disk, nothing of a tenant is decrypted that is encrypted later. Each
    /// [`TenantKekDependent`] then has to be encrypted again.
    pub(crate) async fn rotate_tenant_keks(&self) -> Result<(), Error> {
        let mut tenants = self.tenants.lock().await;
        let Some(keks) = self.needs_rewrap(KekDependent::Tenants).await? else { return Ok(()) };
        if !tenants.is_empty() {
            // The keys of an earlier change are still in use: they follow the host's, and no others are made.
            let changed = match tenants.has_previous() {
                true => tenants.rewrapped(&keks)?,
                false => tenants.rotated(&keks, self.clock.now())?,
            };
            self.write_tenants(&changed).await?;
            *tenants = changed;
            *lock(&self.pending_tenant_rewrap) = TenantKekDependent::ALL.into();
        }
        self.mark_rewrapped(KekDependent::Tenants).await?;
        // The users of these keys wait for a change.
        self.seal_status.send_modify(|_| {});
        Ok(())
    }

    /// Whether this is still to be encrypted under the latest keys of the tenants.
    pub(crate) fn needs_tenant_rewrap(&self, dependent: TenantKekDependent) -> bool {
        lock(&self.pending_tenant_rewrap).contains(&dependent)
    }

    /// Notes that this is under the latest keys of the tenants, `keks`. Once everything is, the previous keys are
    /// dropped.
    pub(crate) async fn mark_tenant_rewrapped(&self, dependent: TenantKekDependent) -> Result<(), Error> {
        let mut tenants = self.tenants.lock().await;
        let is_last = {
            let mut pending = lock(&self.pending_tenant_rewrap);
            pending.remove(&dependent) && pending.is_empty()
        };
        if !is_last || !tenants.has_previous() {
            return Ok(());
        }
        let changed = tenants.without_previous();
        let result = self.write_tenants(&changed).await;
        match result {
            Ok(()) => *tenants = changed,
            // The dependent calls this again.
            Err(_) => drop(lock(&self.pending_tenant_rewrap).insert(dependent)),
        }
        result
    }

    async fn write_tenants(&self, tenants: &TenantKeksFile) -> Result<(), Error> {
        self.write_file(tenant_keks::FILE_NAME, tenant_keks::VERSION, tenants).await?;
        self.tenant_kek_reports.send_replace(tenants.reports());
        Ok(())
    }
}
