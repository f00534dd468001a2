//! Sealed credentials: release to agents, and the commands of administrators.

use std::time::Duration;

use super::admin::{Admin, RootAdmin};
use super::command_budget::StateCommand;
use super::error::{AdminError, InvalidRequest, RequestResult};
use super::identity_service::IdentityService;
use super::rejection::Rejection;
use super::requests;
use crate::agents::{is_credential_name, is_tenant_name};
use crate::audit::Event;
use crate::credentials::{self, NewVersion, NotReleased, ReleasedCredential, SecretValue};
use crate::error_class::ErrorClass;
use crate::peer::PeerLookup;
use crate::policy::{self, CredentialPermit, CredentialRequest, ErrorCode, Refusal};
use crate::wire::credentials::{
    AcceptCredentialsResponse, PutCredentialRequest, PutCredentialResponse, ReleaseRequest,
    RemoveCredentialRequest, RemoveCredentialResponse, RotateCredentialRequest, StoredCredential,
};

/// Longest time for which earlier versions stay after a rotation: 30 days.
const MAX_OVERLAP: Duration = Duration::from_secs(30 * 24 * 3600);

impl IdentityService {
    /// The value of a sealed credential, for the agent that the caller matches.
    ///
    /// # Errors
    /// A recorded refusal, also where `request` is an error.
    pub async fn release_credential(
        &self,
        lookup: PeerLookup,
        request: Result<ReleaseRequest<'_>, InvalidRequest>,
    ) -> RequestResult<ReleasedCredential> {
        match self.decide_release(lookup, request.and_then(requests::credential_request)).await {
            Ok(released) => Ok(self.audit.record_credential(released).await?),
            Err(rejection) => Err(self.record_rejection(rejection).await),
        }
    }

    async fn decide_release(
        &self,
        lookup: PeerLookup,
        request: Result<CredentialRequest, InvalidRequest>,
    ) -> Result<ReleasedCredential, Rejection> {
        let peer = self.require_peer(lookup)?;
        let agent = match &request {
            Ok(request) => self.identify(&peer, request.agent.as_deref()).await?,
            Err(_) => self.identify_any(&peer).await?,
        };
        let request = request.map_err(|e| {
            Rejection::new(ErrorCode::InvalidRequest, e.to_string(), &peer).with_agent(&agent)
        })?;
        self.release_permitted(policy::decide_credential(agent, &self.circumstances(), request)?)
    }

    pub(super) fn release_permitted(
        &self,
        permit: CredentialPermit,
    ) -> Result<ReleasedCredential, Rejection> {
        Ok(self.deps.credentials.release(permit).map_err(|not_released| refusal(&not_released))?)
    }

    /// The stored credentials without their values, and the agents that may use each.
    ///
    /// # Errors
    /// [`AdminError::Credentials`] while they are not available.
    pub fn stored_credentials(&self, _: &Admin) -> Result<Vec<StoredCredential>, AdminError> {
        let agents = self.deps.agents.current();
        let reports = self.deps.credentials.reports()?;
        Ok(reports.iter().map(|report| StoredCredential::new(report, agents.iter())).collect())
    }

    /// Stores the first version of a credential.
    ///
    /// # Errors
    /// [`AdminError::InvalidRequest`], [`AdminError::Credentials`], [`AdminError::AuditUnavailable`],
    /// [`AdminError::BudgetExceeded`].
    pub async fn put_credential(
        &self,
        admin: &RootAdmin,
        request: PutCredentialRequest,
    ) -> Result<PutCredentialResponse, AdminError> {
        let PutCredentialRequest { name, tenant, value, expires_at: expires } = request;
        let tenant = check_names(&name, tenant)?;
        let value = SecretValue::new(value).map_err(|e| InvalidRequest::new(e.to_string()))?;
        let label = label(&tenant, &name);
        let stored = async {
            let new = NewVersion { tenant, name: name.clone(), value, expires };
            self.audit.ensure_writable()?;
            let quota = self.deps.limiter.tenants().of(Some(&new.tenant)).credentials;
            let stored_for = new.tenant.clone();
            let version = self.deps.credentials.put(new, quota).await?;
            let done = format!("stored version {version} of {label}");
            self.record_credential_change(admin, Event::CredentialStored, &stored_for, &done).await;
            Ok(PutCredentialResponse { name, version })
        };
        self.within_budget(admin, StateCommand::ChangeCredential, stored).await
    }

    /// Stores a new version of a credential.
    ///
    /// # Errors
    /// As [`IdentityService::put_credential`].
    pub async fn rotate_credential(
        &self,
        admin: &RootAdmin,
        request: RotateCredentialRequest,
    ) -> Result<PutCredentialResponse, AdminError> {
        let RotateCredentialRequest { name, tenant, value, expires_at: expires, overlap } = request;
        let tenant = check_names(&name, tenant)?;
        let value = SecretValue::new(value).map_err(|e| InvalidRequest::new(e.to_string()))?;
        let overlap = Duration::from_secs(overlap.unwrap_or_default());
        if overlap > MAX_OVERLAP {
            return Err(InvalidRequest::new("overlap must be at most 30 days, in seconds").into());
        }
        let label = label(&tenant, &name);
        let stored = async {
            let new = NewVersion { tenant, name: name.clone(), value, expires };
            self.audit.ensure_writable()?;
            let stored_for = new.tenant.clone();
            let version = self.deps.credentials.rotate(new, overlap).await?;
            let earlier = match overlap.as_secs() {
                0 => "destroyed the earlier ones".to_owned(),
                seconds => format!("the earlier ones are destroyed in {seconds} s"),
            };
            let done = format!("rotated to version {version} of {label}, and {earlier}");
            self.record_credential_change(admin, Event::CredentialStored, &stored_for, &done).await;
            Ok(PutCredentialResponse { name, version })
        };
        self.within_budget(admin, StateCommand::ChangeCredential, stored).await
    }

    /// Destroys a credential or one version of it.
    ///
    /// # Errors
    /// As [`IdentityService::put_credential`].
    pub async fn remove_credential(
        &self,
        admin: &RootAdmin,
        request: RemoveCredentialRequest,
    ) -> Result<RemoveCredentialResponse, AdminError> {
        let RemoveCredentialRequest { name, tenant, version } = request;
        let tenant = check_names(&name, tenant)?;
        let removed = async {
            self.audit.ensure_writable()?;
            let versions = self.deps.credentials.remove(&tenant, &name, version).await?;
            let numbers: Vec<String> = versions.iter().map(u64::to_string).collect();
            let done = format!("destroyed version {} of {}", numbers.join(", "), label(&tenant, &name));
            self.record_credential_change(admin, Event::CredentialDestroyed, &tenant, &done).await;
            Ok(RemoveCredentialResponse { name: name.clone(), versions })
        };
        self.within_budget(admin, StateCommand::ChangeCredential, removed).await
    }

    /// Accepts `credentials.db` as it is, after an older copy of it was put back or it was moved away.
    ///
    /// # Errors
    /// [`AdminError::Credentials`], [`AdminError::AuditUnavailable`].
    pub async fn accept_credentials(
        &self,
        admin: &RootAdmin,
    ) -> Result<AcceptCredentialsResponse, AdminError> {
        self.audit.ensure_writable()?;
        let credentials = self.deps.credentials.accept().await?;
        let done = format!("accepted credentials.db with {credentials} credentials");
        self.record_credential_change(admin, Event::CredentialsAccepted, "", &done).await;
        Ok(AcceptCredentialsResponse { credentials })
    }

    /// Records a change that is on disk already and cannot be undone: a failing audit log only adds an error
    /// to the journal.
    /// `tenant` is empty where the change concerns none.
    async fn record_credential_change(&self, admin: &RootAdmin, event: Event, tenant: &str, done: &str) {
        let message = format!("{} {done}", admin.id());
        let tenant = Some(tenant).filter(|tenant| !tenant.is_empty());
        if let Err(audit_error) = self.audit.record_tenant_event(event, tenant, &message).await {
            tracing::error!("{message}; {audit_error}");
        }
    }
}

/// The tenant as the store names it: empty where the credential has none.
fn check_names(name: &str, tenant: Option<String>) -> Result<String, InvalidRequest> {
    if !is_credential_name(name) {
        return Err(InvalidRequest::new(
            "name must have the form of an agent name: a-z 0-9 . _ -, at most 63 characters",
        ));
    }
    match tenant {
        Some(tenant) if !is_tenant_name(&tenant) => Err(InvalidRequest::new(
            "tenant must have the form of an agent name: a-z 0-9 . _ -, at most 63 characters",
        )),
        tenant => Ok(tenant.unwrap_or_default()),
    }
}

fn label(tenant: &str, name: &str) -> String {
    match tenant {
        "" => format!("the credential {name}"),
        tenant => format!("the credential {name} of tenant {tenant}"),
    }
}

/// The refusal of a permitted release that the store cannot fulfill.
fn refusal(not_released: &NotReleased) -> Refusal {
    let NotReleased { error, permit } = not_released;
    let code = match error {
        credentials::Error::UnknownCredential | credentials::Error::UnknownVersion(_) => {
            ErrorCode::InvalidTarget
        }
        credentials::Error::Expired(_) => ErrorCode::AccessDenied,
        error => match error.class() {
            ErrorClass::Internal => ErrorCode::ServerError,
            _ => ErrorCode::TemporarilyUnavailable,
        },
    };
    Refusal::new(code, error.to_string())
        .with_peer(permit.agent().peer())
        .with_agent(permit.agent().name())
        .with_credential(permit.name())
        .with_policy(permit.policy())
}
