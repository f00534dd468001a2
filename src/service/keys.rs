//! Key commands: list, rotate, recovery key, recover, accept.

use super::admin::{Admin, RootAdmin};
use super::command_budget::StateCommand;
use super::error::{AdminError, InvalidRequest};
use super::identity_service::IdentityService;
use crate::issue::{AdminClass, RotationUrgency, kek_reports};
use crate::keystore::RecoveryKey;
use crate::wire::keys::{
    ConfirmRecoveryKeyRequest, Key, KeysResponse, RecoverRequest, RecoveryKeyResponse, RotateRequest,
    RotateResponse, RotationOutcome,
};

impl IdentityService {
    /// Every key with its state.
    ///
    /// # Errors
    /// [`AdminError::NotReady`] until the keys are loaded.
    pub fn keys(&self, _: &Admin) -> Result<KeysResponse, AdminError> {
        let issuer_state = self.ready_issuer()?;
        let ca_keys = self.deps.certificate_issuer.key_reports();
        let keks = self.deps.keystore.borrow().as_ref().map(|keystore| keystore.kek_reports());
        let keks = kek_reports(keks.unwrap_or_default(), &self.deps.rotation_policy);
        Ok(KeysResponse {
            blocked_reason: self.deps.key_admin.blocked_reason(),
            rsa_blocked_reason: self.deps.tpm_signer.rsa_blocked_reason.borrow().clone(),
            keys: issuer_state.key_reports().iter().chain(&ca_keys).chain(&keks).map(Key::from).collect(),
        })
    }

    /// Publishes the next issuing key, of a tenant or of agents without one, or the next RSA key, or lets it sign at
    /// once. Root can always have it sign at once: a rotation after a compromise is bounded neither in an hour nor by
    /// the number of retired keys. Or makes the next issuing CA.
    ///
    /// # Errors
    /// [`AdminError::NotReady`] until the keys are loaded; [`AdminError::InvalidRequest`] for a tenant's issuing CA or
    /// RSA key; [`AdminError::BudgetExceeded`]; [`AdminError::Keys`]; [`AdminError::Ca`].
    pub async fn rotate_keys(
        &self,
        admin: &Admin,
        request: RotateRequest,
    ) -> Result<RotateResponse, AdminError> {
        self.ready_issuer()?;
        if request.ca {
            return self.rotate_ca(admin, &request).await;
        }
        if request.rsa && request.tenant.is_some() {
            let text =
                "tenants have no RSA key of their own: it is the host's, for all; leave tenant out, or rsa";
            return Err(InvalidRequest::new(text).into());
        }
        let urgency = match (request.now, self.admin_class(admin)) {
            (true, AdminClass::Root) => RotationUrgency::Emergency,
            (true, AdminClass::Group) => RotationUrgency::Immediate,
            (false, _) => RotationUrgency::Planned,
        };
        let rotated = async {
            match request.rsa {
                true => self.rotate_rsa(urgency, admin).await,
                false => Ok(self.deps.key_admin.rotate(request.tenant, urgency, admin.id()).await?.into()),
            }
        };
        if urgency == RotationUrgency::Emergency {
            return rotated.await;
        }
        let changed = |response: &RotateResponse| response.outcome != RotationOutcome::AlreadyPublished;
        self.within_budget_if(admin, StateCommand::RotateKeys, rotated, changed).await
    }

    async fn rotate_rsa(
        &self,
        urgency: RotationUrgency,
        admin: &Admin,
    ) -> Result<RotateResponse, AdminError> {
        let rotated = self.deps.key_admin.rotate_rsa(urgency, admin.id()).await?;
        Ok(rotated.map_or(
            RotateResponse {
                outcome: RotationOutcome::Started,
                kid: None,
                active_from: None,
                retired: None,
                destroyed_early: None,
            },
            Into::into,
        ))
    }

    async fn rotate_ca(&self, admin: &Admin, request: &RotateRequest) -> Result<RotateResponse, AdminError> {
        if request.tenant.is_some() || request.rsa {
            let text = match request.rsa {
                true => "one key rotates at a time; leave ca out, or rsa",
                false => "tenants have no issuing CA of their own; leave tenant out, or ca",
            };
            return Err(InvalidRequest::new(text).into());
        }
        let rotated = async {
            let rotation = self.deps.certificate_issuer.rotate_ca(admin.id()).await?;
            Ok(RotateResponse {
                outcome: RotationOutcome::Activated,
                kid: Some(rotation.kid),
                active_from: Some(self.deps.clock.now()),
                retired: rotation.retired,
                destroyed_early: None,
            })
        };
        match self.admin_class(admin) {
            AdminClass::Root => rotated.await,
            AdminClass::Group => self.within_budget(admin, StateCommand::RotateKeys, rotated).await,
        }
    }

    /// Creates a recovery key. It is in force once [`IdentityService::confirm_recovery_key`] gets it back.
    /// This is the only time that the key is returned.
    ///
    /// # Errors
    /// [`AdminError::BudgetExceeded`]; [`AdminError::Keys`].
    pub async fn create_recovery_key(&self, admin: &RootAdmin) -> Result<RecoveryKeyResponse, AdminError> {
        let created = async {
            let recovery_key = self.deps.key_admin.create_recovery_key(admin.id()).await?;
            Ok(RecoveryKeyResponse { recovery_key, in_force: false })
        };
        self.within_budget(admin, StateCommand::CreateRecoveryKey, created).await
    }

    /// Puts the recovery key that was created last in force, and invalidates the previous one. Its creation
    /// was counted.
    ///
    /// # Errors
    /// [`AdminError::InvalidRequest`] where the text is not a recovery key, without any of the text;
    /// [`AdminError::AuditUnavailable`]; [`AdminError::Keys`].
    pub async fn confirm_recovery_key(
        &self,
        admin: &RootAdmin,
        request: ConfirmRecoveryKeyRequest,
    ) -> Result<(), AdminError> {
        self.audit.ensure_writable()?;
        let key =
            RecoveryKey::parse(&request.recovery_key).map_err(|e| InvalidRequest::new(e.to_string()))?;
        Ok(self.deps.key_admin.confirm_recovery_key(key, admin.id()).await?)
    }

    /// Opens the keystore with the recovery key and seals it to this TPM as it is now.
    ///
    /// # Errors
    /// [`AdminError::InvalidRequest`] where the text is not a recovery key, without any of the text;
    /// [`AdminError::AuditUnavailable`]; [`AdminError::Keys`].
    pub async fn recover_keys(&self, admin: &RootAdmin, request: RecoverRequest) -> Result<(), AdminError> {
        self.audit.ensure_writable()?;
        let key =
            RecoveryKey::parse(&request.recovery_key).map_err(|e| InvalidRequest::new(e.to_string()))?;
        Ok(self.deps.key_admin.recover(key, request.accept, admin.id()).await?)
    }

    /// Accepts the state directory as the latest of this host, after an older copy was restored.
    ///
    /// # Errors
    /// [`AdminError::AuditUnavailable`]; [`AdminError::Keys`].
    pub async fn accept_state(&self, admin: &RootAdmin) -> Result<(), AdminError> {
        self.audit.ensure_writable()?;
        Ok(self.deps.key_admin.accept_state(admin.id()).await?)
    }
}
