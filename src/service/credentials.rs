//! Sealed credentials: release to agents, and the commands of administrators.

use std::collections::HashSet;
use std::time::Duration;

use super::admin::{Admin, RootAdmin};
use super::approvals::rejection_of;
use super::command_budget::StateCommand;
use super::error::{AdminError, InvalidRequest, RequestResult};
use super::identity_service::IdentityService;
use super::rejection::Rejection;
use super::request_metrics::RequestKind;
use super::requests;
use crate::agents::{AuthenticatedAgent, is_credential_name, is_tenant_name};
use crate::audit::Event;
use crate::credentials::{
    self, CredentialReport, Holder, NewVersion, NotReleased, ReleasedCredential, SecretValue,
};
use crate::error_class::ErrorClass;
use crate::peer::PeerLookup;
use crate::policy::{self, CredentialPermit, CredentialRequest, ErrorCode, Refusal};
use crate::revocation::{Target, TargetKind};
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
        let decision = async {
            match self.decide_release(lookup, request.and_then(requests::credential_request)).await {
                Ok(released) => Ok(self.audit.record_credential(released).await?),
                Err(rejection) => Err(self.record_rejection(rejection).await),
            }
        };
        self.measured(RequestKind::Credential, decision).await
    }

    async fn decide_release(
        &self,
        lookup: PeerLookup,
        request: Result<CredentialRequest, InvalidRequest>,
    ) -> Result<ReleasedCredential, Rejection> {
        let peer = self.require_peer(lookup)?;
        let (agent, request) = self.identify_for(&peer, request, |request| request.agent.as_deref()).await?;
        self.release_approved(agent, request).await
    }

    /// Decides a request, which may have to wait for an approval, and releases the value.
    pub(super) async fn release_approved(
        &self,
        agent: AuthenticatedAgent,
        request: CredentialRequest,
    ) -> Result<ReleasedCredential, Rejection> {
        let granted = agent.entry().credential(&request.name);
        if granted.is_some_and(|granted| granted.approval.is_some()) {
            self.require_credential(&agent, &request.name, request.version)?;
            self.read_exe_for_approval(&agent).await?;
        }
        let permit =
            policy::decide_credential(agent, &self.circumstances(), request).map_err(rejection_of)?;
        self.release_permitted(permit)
    }

    /// Checks that an agent's credential is stored, before an approval is requested for it.
    pub(super) fn require_credential(
        &self,
        agent: &AuthenticatedAgent,
        name: &str,
        version: Option<u64>,
    ) -> Result<(), Refusal> {
        let tenant = agent.entry().tenant.as_deref().unwrap_or_default();
        let found = self.deps.credentials.find(tenant, agent.root_name().as_str(), name, version);
        found.map_err(|e| {
            let refusal = refusal_of(&e).with_peer(agent.peer()).with_agent(agent.name());
            refusal.with_credential(name)
        })
    }

    fn release_permitted(&self, permit: CredentialPermit) -> Result<ReleasedCredential, Rejection> {
        Ok(self.deps.credentials.release(permit).map_err(|not_released| refusal(&not_released))?)
    }

    /// The stored credentials without their values, and the agents that may use each.
    ///
    /// # Errors
    /// [`AdminError::Credentials`] while they are not available.
    pub fn stored_credentials(&self, _: &Admin) -> Result<Vec<StoredCredential>, AdminError> {
        let agents = self.deps.agents.current();
        let reports = self.deps.credentials.reports()?;
        let stored: HashSet<(&str, &str)> = reports
            .iter()
            .filter_map(|report| Some((report.agent.as_deref()?, report.name.as_str())))
            .collect();
        let of_report = |report: &CredentialReport| {
            StoredCredential::new(report, agents.iter(), |entry| match &report.agent {
                Some(agent) => entry.name.as_str() == agent,
                None => !stored.contains(&(entry.name.as_str(), report.name.as_str())),
            })
        };
        Ok(reports.iter().map(of_report).collect())
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
        let PutCredentialRequest { name, tenant, agent, value, expires_at: expires, canary } = request;
        let holder = self.holder_of_new(&name, tenant, agent)?;
        let value = SecretValue::new(value).map_err(|e| InvalidRequest::new(e.to_string()))?;
        let kind = if canary { "canary credential" } else { "credential" };
        let label = format!("the {kind} {name}{holder}");
        let stored = async {
            let stored_for = holder.tenant.clone();
            let new = NewVersion { holder, name: name.clone(), value, expires, is_canary: canary };
            self.audit.ensure_writable()?;
            let quota = self.deps.limiter.tenants().of(Some(&stored_for)).credentials;
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
        let RotateCredentialRequest { name, tenant, agent, value, expires_at: expires, overlap } = request;
        let holder = self.holder_of_stored(&name, tenant, agent)?;
        let value = SecretValue::new(value).map_err(|e| InvalidRequest::new(e.to_string()))?;
        let overlap = Duration::from_secs(overlap.unwrap_or_default());
        if overlap > MAX_OVERLAP {
            return Err(InvalidRequest::new("overlap must be at most 30 days, in seconds").into());
        }
        let label = format!("the credential {name}{holder}");
        let stored = async {
            let stored_for = holder.tenant.clone();
            let new = NewVersion { holder, name: name.clone(), value, expires, is_canary: false };
            self.audit.ensure_writable()?;
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
        let RemoveCredentialRequest { name, tenant, agent, version } = request;
        let holder = self.holder_of_stored(&name, tenant, agent)?;
        let removed = async {
            self.audit.ensure_writable()?;
            let versions = self.deps.credentials.remove(&holder, &name, version).await?;
            let numbers: Vec<String> = versions.iter().map(u64::to_string).collect();
            let done = format!("destroyed version {} of the credential {name}{holder}", numbers.join(", "));
            self.record_credential_change(admin, Event::CredentialDestroyed, &holder.tenant, &done).await;
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

    /// Who is to have a new credential.
    ///
    /// # Errors
    /// [`AdminError::InvalidRequest`]; [`AdminError::UnknownAgent`] for an agent that is not registered.
    fn holder_of_new(
        &self,
        name: &str,
        tenant: Option<String>,
        agent: Option<String>,
    ) -> Result<Holder, AdminError> {
        let Some(agent) = check_names(name, tenant.as_ref(), agent)? else {
            return Ok(Holder::shared(&tenant.unwrap_or_default()));
        };
        let agents = self.deps.agents.current();
        let entry = agents.get(&agent).ok_or(AdminError::UnknownAgent)?;
        let scope = Target::new(TargetKind::Agent, &agent);
        if self.deps.revocations.current().get(&scope).is_some_and(|one| one.is_blocking) {
            let text = "this agent is revoked; lift that first: hostbadge revoke lift agent NAME";
            return Err(InvalidRequest::new(text).into());
        }
        Ok(Holder::own(entry.tenant.as_deref().unwrap_or_default(), &agent))
    }

    /// Who has a credential that is stored. An agent's own is found without its registration too.
    fn holder_of_stored(
        &self,
        name: &str,
        tenant: Option<String>,
        agent: Option<String>,
    ) -> Result<Holder, AdminError> {
        let Some(agent) = check_names(name, tenant.as_ref(), agent)? else {
            return Ok(Holder::shared(&tenant.unwrap_or_default()));
        };
        Ok(self.deps.credentials.own_holder(&agent, name)?.ok_or(credentials::Error::UnknownCredential)?)
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

/// The agent whose own the credential is.
fn check_names(
    name: &str,
    tenant: Option<&String>,
    agent: Option<String>,
) -> Result<Option<String>, InvalidRequest> {
    if !is_credential_name(name) {
        return Err(InvalidRequest::new(
            "name must have the form of an agent name: a-z 0-9 . _ -, at most 63 characters",
        ));
    }
    match (tenant, agent) {
        (Some(_), Some(_)) => {
            Err(InvalidRequest::new("name either a tenant or an agent, whose tenant is known"))
        }
        (Some(tenant), None) if !is_tenant_name(tenant) => Err(InvalidRequest::new(
            "tenant must have the form of an agent name: a-z 0-9 . _ -, at most 63 characters",
        )),
        (None, Some(agent)) if !is_tenant_name(&agent) => {
            Err(InvalidRequest::new("agent must be an agent's name: a-z 0-9 . _ -, at most 63 characters"))
        }
        (_, agent) => Ok(agent),
    }
}

/// The refusal of a permitted release that the store cannot fulfill.
fn refusal(not_released: &NotReleased) -> Refusal {
    let NotReleased { error, permit } = not_released;
    refusal_of(error)
        .with_peer(permit.agent().peer())
        .with_agent(permit.agent().name())
        .with_credential(permit.name())
        .with_policy(permit.policy())
}

pub(super) fn refusal_of(error: &credentials::Error) -> Refusal {
    let code = match error {
        credentials::Error::UnknownCredential | credentials::Error::UnknownVersion(_) => {
            ErrorCode::InvalidTarget
        }
        credentials::Error::Expired(_) | credentials::Error::AgentKeyLost => ErrorCode::AccessDenied,
        error => match error.class() {
            ErrorClass::Internal => ErrorCode::ServerError,
            _ => ErrorCode::TemporarilyUnavailable,
        },
    };
    let refusal = Refusal::new(code, error.to_string());
    // Of what the agent may have, only the version is its own choice.
    match error {
        credentials::Error::UnknownVersion(_) => refusal,
        _ => refusal.imposed(),
    }
}
