//! The keys under which the keys of compartments are encrypted.

use zeroize::Zeroizing;

use crate::keystore::{Kek, KekPair, TenantKeks};

/// The key-encryption keys of the host and of its tenants.
#[derive(Clone)]
pub(super) struct CompartmentKeks {
    /// Of the credentials of no tenant, and of every compartment that an earlier release made.
    pub host: KekPair,
    pub tenants: TenantKeks,
}

impl CompartmentKeks {
    /// The key that encrypts the key of a tenant's compartment; the tenant is empty for credentials of none.
    /// `None` if the tenant has none.
    pub fn latest(&self, tenant: &str) -> Option<&Kek> {
        if tenant.is_empty() { Some(&self.host.latest) } else { self.tenants.get(tenant) }
    }

    /// Decrypts the key of a tenant's compartment. The flag is whether it is to be encrypted again, because it
    /// is under the host's key and not under the tenant's.
    pub fn decrypt(&self, tenant: &str, aad: &[u8], text: &str) -> Option<(Zeroizing<Vec<u8>>, bool)> {
        let own = self.tenants.pair(tenant);
        let under_own = own.and_then(|keks| keks.decrypt(aad, text)).map(|key| (key, false));
        under_own.or_else(|| Some((self.host.decrypt(aad, text)?, !tenant.is_empty())))
    }
}
