//! The quota of certificates of a tenant.

use super::{CertificateIssuer, refusal};
use crate::clock::Timestamp;
use crate::issue::HostIdentity;
use crate::policy::{ErrorCode, IdentityPermit, Refusal};

impl CertificateIssuer {
    /// Checks that the agent's tenant can have one more unexpired certificate, of at most `quota`. This looks at
    /// the identities of all agents, so call it only where the tenant has a quota.
    ///
    /// # Errors
    ///
    /// `slow_down` if the tenant has as many.
    pub fn check_tenant_quota(
        &self,
        permit: &IdentityPermit,
        host: &HostIdentity,
        quota: u32,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let Some(tenant) = &permit.agent().entry().tenant else { return Ok(()) };
        let checked =
            self.issued_certificates().check_together(&host.spiffe_ids_of_tenant(tenant), quota, now);
        checked.map_err(|retry_after| {
            let message = format!("the agents of this tenant have {quota} certificates, which is its quota");
            let refusal = refusal(permit, ErrorCode::SlowDown, message).imposed();
            Refusal { retry_after: Some(retry_after), ..refusal }
        })
    }
}
