//! The key-encryption keys of tenants in the open keystore.

use super::super::error::Error;
use super::super::kek::KekDependent;
use super::super::tenant_keks::{self, TenantKeks, TenantKeksFile};
use super::Keystore;

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

    /// Encrypts the tenants' key-encryption keys again, if that of the host has changed.
    pub(crate) async fn rewrap_tenant_keks(&self) -> Result<(), Error> {
        let mut tenants = self.tenants.lock().await;
        let Some(keks) = self.needs_rewrap(KekDependent::Tenants).await? else { return Ok(()) };
        if !tenants.is_empty() {
            let rewrapped = tenants.rewrapped(&keks)?;
            self.write_tenants(&rewrapped).await?;
            *tenants = rewrapped;
        }
        self.mark_rewrapped(KekDependent::Tenants).await
    }

    async fn write_tenants(&self, tenants: &TenantKeksFile) -> Result<(), Error> {
        self.write_file(tenant_keks::FILE_NAME, tenant_keks::VERSION, tenants).await?;
        self.tenant_kek_reports.send_replace(tenants.reports());
        Ok(())
    }
}
