//! Tenants, for administrators: what each has, and the removal of one.

use std::collections::{BTreeMap, BTreeSet};

use super::admin::{Admin, RootAdmin};
use super::command_budget::StateCommand;
use super::error::{AdminError, InvalidRequest};
use super::identity_service::IdentityService;
use crate::agents::is_tenant_name;
use crate::audit::Event;
use crate::issue::{self, KeyCommandError};
use crate::wire::tenants::{RemoveTenantRequest, RemoveTenantResponse, Tenant, TenantQuota};

impl IdentityService {
    /// The tenants that agents name, that have keys or that have credentials, in alphabetical order.
    ///
    /// # Errors
    /// [`AdminError::NotReady`] until the keys are loaded.
    pub fn tenants(&self, _: &Admin) -> Result<Vec<Tenant>, AdminError> {
        let issuer_state = self.ready_issuer()?;
        let mut agents: BTreeMap<String, u64> = BTreeMap::new();
        for entry in self.deps.agents.current().iter() {
            if let Some(tenant) = &entry.tenant {
                *agents.entry(tenant.clone()).or_default() += 1;
            }
        }
        let mut credentials: BTreeMap<String, u64> = BTreeMap::new();
        let reports = self.deps.credentials.reports();
        for tenant in reports.iter().flatten().filter_map(|report| report.tenant.as_ref()) {
            *credentials.entry(tenant.clone()).or_default() += 1;
        }
        let with_keys = issuer_state.tenants().map(str::to_owned);
        let names: BTreeSet<String> =
            agents.keys().chain(credentials.keys()).cloned().chain(with_keys).collect();
        let quotas = self.deps.limiter.tenants();
        let tenant = |name: String| {
            let issuer = issuer_state.issuer_of(Some(&name)).ok();
            let quota = quotas.of(Some(&name));
            Tenant {
                issuer: issuer.map(|issuer| issuer.issuer().to_owned()),
                kid: issuer.map(|issuer| issuer.signing_kid().to_owned()),
                agents: agents.get(&name).copied().unwrap_or_default(),
                credentials: reports.is_ok().then(|| credentials.get(&name).copied().unwrap_or_default()),
                live_tokens: quotas.live_tokens(&name, self.deps.clock.boot_time()),
                quota: TenantQuota {
                    rate: quota.rate.map(|rate| rate.per_second),
                    burst: quota.rate.map(|rate| rate.burst),
                    live_tokens: quota.live_tokens,
                    credentials: quota.credentials,
                    certificates: quota.certificates,
                },
                name,
            }
        };
        Ok(names.into_iter().map(tenant).collect())
    }

    /// Destroys the keys and the credentials of a tenant that no agent names, at once: its tokens no longer
    /// verify. The credentials are first, so that none is left that nothing decrypts.
    ///
    /// # Errors
    /// [`AdminError::Keys`] for a tenant that has neither, and while agents name it, [`AdminError::InvalidRequest`],
    /// [`AdminError::Credentials`], [`AdminError::AuditUnavailable`], [`AdminError::BudgetExceeded`].
    pub async fn remove_tenant(
        &self,
        admin: &RootAdmin,
        request: RemoveTenantRequest,
    ) -> Result<RemoveTenantResponse, AdminError> {
        let RemoveTenantRequest { name } = request;
        if !is_tenant_name(&name) {
            return Err(InvalidRequest::new(
                "name must have the form of an agent name: a-z 0-9 . _ -, at most 63 characters",
            )
            .into());
        }
        if self.deps.agents.current().iter().any(|entry| entry.tenant.as_ref() == Some(&name)) {
            return Err(KeyCommandError::TenantInUse.into());
        }
        let removed = async {
            self.audit.ensure_writable()?;
            let credentials = self.deps.credentials.remove_tenant(&name).await?;
            let had_keys = self.deps.key_admin.remove_tenant(name.clone(), admin.id()).await?;
            if credentials == 0 && !had_keys {
                return Err(KeyCommandError::from(issue::Error::UnknownTenant(name.clone())).into());
            }
            let message = format!(
                "{} removed tenant {name}: its key-encryption key is destroyed, with {credentials} credentials",
                admin.id()
            );
            // It cannot be undone: a failing audit log only adds an error to the journal.
            let recorded = self.audit.record_tenant_event(Event::TenantRemoved, Some(&name), &message).await;
            if let Err(audit_error) = recorded {
                tracing::error!("{message}; {audit_error}");
            }
            Ok(RemoveTenantResponse { name: name.clone(), credentials: credentials as u64 })
        };
        self.within_budget(admin, StateCommand::RemoveTenant, removed).await
    }
}
