//! Offboarding: the end of an agent, with a receipt.

use super::admin::RootAdmin;
use super::command_budget::StateCommand;
use super::error::{AdminError, InvalidRequest};
use super::identity_service::IdentityService;
use super::revocations::checked_reason;
use crate::agents::{AgentEntry, is_tenant_name};
use crate::audit::Event;
use crate::credentials::DestroyedCredentials;
use crate::issue::{self, IssuerState};
use crate::keystore::Erasure;
use crate::plural::counted;
use crate::revocation::{Target, TargetKind};
use crate::verify::receipt::{
    DestroyedClaim, DestroyedCredentialClaim, DestroyedKey, ErasureClaim, ReceiptClaims, RevocationClaim,
    SharedCredentialClaim,
};
use crate::wire::offboarding::{OffboardRequest, OffboardResponse};

impl IdentityService {
    /// Revokes all of an agent, destroys its own credentials and their key, and makes a receipt. It can be repeated:
    /// after a failure in the middle it completes what is left, and then it says that nothing was.
    ///
    /// # Errors
    /// [`AdminError::UnknownAgent`] if this host has nothing of an agent of this name; [`AdminError::NotErased`] where
    /// the revocation is in effect and the credentials are not destroyed; [`AdminError::NoReceipt`] where only the
    /// receipt is missing; [`AdminError::InvalidRequest`], [`AdminError::Revocation`], [`AdminError::NotReady`],
    /// [`AdminError::AuditUnavailable`], [`AdminError::BudgetExceeded`].
    pub async fn offboard_agent(
        &self,
        admin: &RootAdmin,
        request: OffboardRequest,
    ) -> Result<OffboardResponse, AdminError> {
        let OffboardRequest { name, reason, remove_usage } = request;
        if !is_tenant_name(&name) {
            return Err(InvalidRequest::new("name must be an agent's name").into());
        }
        let reason = checked_reason(reason)?;
        let target = Target::new(TargetKind::Agent, &name);
        let is_known = self.deps.agents.current().get(&name).is_some()
            || self.deps.revocations.current().get(&target).is_some()
            || self.deps.credentials.knows_agent(&name).await;
        if !is_known {
            return Err(AdminError::UnknownAgent);
        }
        let offboarded = self.offboard_known(admin, (&name, &target), reason, remove_usage);
        self.within_budget(admin, StateCommand::Offboard, offboarded).await
    }

    async fn offboard_known(
        &self,
        admin: &RootAdmin,
        (name, target): (&str, &Target),
        reason: String,
        remove_usage: bool,
    ) -> Result<OffboardResponse, AdminError> {
        self.audit.ensure_writable()?;
        let issuer_state = self.ready_issuer()?;
        let agents = self.deps.agents.current();
        let entry = agents.get(name);
        // First, so that nothing of the agent is usable while the rest takes its time.
        self.revoke_target(admin, target.clone(), reason.clone()).await?;
        let destroyed = self.deps.credentials.destroy_own(name).await.map_err(AdminError::NotErased)?;
        let shared = entry.map(|entry| self.shared_credentials(entry)).unwrap_or_default();
        let tenant = entry.and_then(|entry| entry.tenant.as_deref());
        self.record_offboarding(admin, (name, tenant), &destroyed, &shared).await;
        if remove_usage {
            self.audit.activity().forget(name);
            self.deps.anomalies.forget(name);
        }
        let revocation = self.deps.revocations.current().get(target).map(|revocation| RevocationClaim {
            epoch: revocation.epoch,
            at: revocation.revoked_at.as_secs(),
        });
        let claims = ReceiptClaims {
            iss: String::new(),
            sub: entry.map(|entry| issuer_state.host().spiffe_id(entry)),
            iat: 0,
            jti: String::new(),
            agent: name.to_owned(),
            requested_by: admin.id(),
            reason: Some(reason).filter(|reason| !reason.is_empty()),
            revocation: revocation.unwrap_or(RevocationClaim { epoch: 0, at: 0 }),
            erasure: destroyed.erasure.as_ref().map(erasure_claim),
            counter_certification: None,
            earlier_erasures: destroyed.earlier.iter().map(erasure_claim).collect(),
            destroyed: DestroyedClaim { usage: remove_usage, ..destroyed_claim(&destroyed) },
            shared_credentials: shared.clone(),
        };
        let receipt = self.sign_receipt(&issuer_state, claims).await.map_err(AdminError::NoReceipt)?;
        let next_steps = next_steps(entry.map(|entry| &**entry), &shared);
        Ok(OffboardResponse { agent: name.to_owned(), receipt, next_steps })
    }

    async fn sign_receipt(
        &self,
        issuer_state: &IssuerState,
        claims: ReceiptClaims,
    ) -> Result<String, issue::Error> {
        let tpm = self.deps.tpm.borrow().clone().ok_or(issue::Error::Tpm(crate::tpm::Error::Stopped))?;
        issue::sign_receipt(&tpm, issuer_state, claims, self.deps.clock.now()).await
    }

    /// The stored credentials that the agent can have used and that are not its own. One that its own of the same
    /// name hid was in its reach before that one was stored.
    fn shared_credentials(&self, entry: &AgentEntry) -> Vec<SharedCredentialClaim> {
        let tenant = entry.tenant.as_deref().unwrap_or_default();
        let names = entry.credentials().map(|granted| &granted.item.name);
        let is_stored = |name: &&String| self.deps.credentials.is_shared(tenant, name).unwrap_or_default();
        let claim =
            |name: &String| SharedCredentialClaim { name: name.clone(), tenant: entry.tenant.clone() };
        names.filter(is_stored).map(claim).collect()
    }

    /// It cannot be undone: a failing audit log only adds an error to the journal.
    async fn record_offboarding(
        &self,
        admin: &RootAdmin,
        (name, tenant): (&str, Option<&str>),
        destroyed: &DestroyedCredentials,
        shared: &[SharedCredentialClaim],
    ) {
        let names: Vec<&str> = destroyed.credentials.iter().map(|one| one.name.as_str()).collect();
        let own = match names.as_slice() {
            [] => "it had no credentials of its own".to_owned(),
            names => format!("destroyed {} of its own", counted(names.len(), "credential")),
        };
        let key = destroyed.erasure.as_ref().map(|erasure| {
            let Erasure { counter, before, after, .. } = erasure;
            format!(" with their key, by the erasure counter {counter:#x} from {before} to {after}")
        });
        let message = format!(
            "{} offboarded agent {name}: {own}{}; {} that it could use stay{}{}",
            admin.id(),
            key.unwrap_or_default(),
            counted(shared.len(), "shared credential"),
            if names.is_empty() { "" } else { ". Destroyed: " },
            names.join(", ")
        );
        if let Err(audit_error) =
            self.audit.record_tenant_event(Event::AgentOffboarded, tenant, &message).await
        {
            tracing::error!("{message}; {audit_error}");
        }
    }
}

fn erasure_claim(erasure: &Erasure) -> ErasureClaim {
    let Erasure { counter, before, after, at, .. } = *erasure;
    ErasureClaim { nv_index: counter, before, after, at }
}

fn destroyed_claim(destroyed: &DestroyedCredentials) -> DestroyedClaim {
    let credential = |one: &crate::credentials::DestroyedCredential| DestroyedCredentialClaim {
        name: one.name.clone(),
        tenant: one.tenant.clone(),
        versions: one.versions.clone(),
    };
    DestroyedClaim {
        credentials: destroyed.credentials.iter().map(credential).collect(),
        keys: destroyed.erasure.iter().map(|_| DestroyedKey::KeyEncryptionKey).collect(),
        usage: false,
    }
}

/// What the administrator still has to do. The agent's files are root's, and the daemon does not write there.
fn next_steps(entry: Option<&AgentEntry>, shared: &[SharedCredentialClaim]) -> Vec<String> {
    let mut steps = Vec::new();
    if let Some(entry) = entry {
        steps.push(format!(
            "remove agent {} from agents.d, then: hostbadge agent reload. Until then it stays revoked",
            entry.name
        ));
    }
    for SharedCredentialClaim { name, tenant } in shared {
        let option = tenant.as_ref().map(|tenant| format!(" --tenant {tenant}")).unwrap_or_default();
        steps.push(format!(
            "the credential {name} is shared and stays; if the agent may have copied its value, replace it: \
             hostbadge credential rotate {name}{option}"
        ));
    }
    steps
}
