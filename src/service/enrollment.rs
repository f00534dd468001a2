//! Enrollment steps on the host. Each is recorded before its result is returned, and one that fails by the
//! front end, as for every command.

use std::sync::Arc;

use data_encoding::BASE64;
use zeroize::Zeroizing;

use super::admin::{Admin, RootAdmin};
use super::command_budget::StateCommand;
use super::error::{AdminError, InvalidRequest};
use super::identity_service::IdentityService;
use crate::audit::Event;
use crate::enroll::{ChallengeAnswer, EnrollmentChallenge, EnrollmentRequest, Tpm2ToolsCredential};
use crate::issue::{self, CertificateReport, IssuerState, MeasurementLogs};
use crate::tpm::{EkKind, Tpm};
use crate::wire::enroll::{CredentialRequest, CredentialResponse, InstallRequest};
use crate::wire::status::HostCertificate;

impl IdentityService {
    /// An enrollment request for an operator: this host's keys, proven by its TPM.
    ///
    /// # Errors
    /// [`AdminError::NotReady`] until the issuer is ready; [`AdminError::Enrollment`];
    /// [`AdminError::AuditUnavailable`]; [`AdminError::BudgetExceeded`]. This holds for each step.
    pub async fn create_enrollment_request(&self, admin: &Admin) -> Result<EnrollmentRequest, AdminError> {
        let created = self.make_enrollment_request(admin);
        self.within_budget(admin, StateCommand::RequestEnrollment, created).await
    }

    async fn make_enrollment_request(&self, admin: &Admin) -> Result<EnrollmentRequest, AdminError> {
        let (issuer_state, tpm) = self.enrollment_deps()?;
        // The IMA list is long and serves verifiers of running software, not this operator.
        let logs = MeasurementLogs { boot: self.deps.event_log.clone(), ima: None };
        let class = self.admin_class(admin);
        let now = self.deps.clock.now();
        let request = self.deps.enrollment.create_request(&issuer_state, &tpm, logs, class, now).await?;
        let description = format!("{} requested enrollment", admin.id());
        self.audit.record_event(Event::EnrollmentRequested, &description).await?;
        Ok(request)
    }

    /// The TPM's answer to an operator's challenge, an [`EnrollmentChallenge`] in JSON. A challenge is
    /// answered once.
    ///
    /// # Errors
    /// See [`IdentityService::create_enrollment_request`].
    pub async fn answer_enrollment_challenge(
        &self,
        admin: &Admin,
        challenge: &[u8],
    ) -> Result<ChallengeAnswer, AdminError> {
        let answered = self.answer_challenge(admin, challenge);
        self.within_budget(admin, StateCommand::AnswerChallenge, answered).await
    }

    async fn answer_challenge(&self, admin: &Admin, challenge: &[u8]) -> Result<ChallengeAnswer, AdminError> {
        let (_, tpm) = self.enrollment_deps()?;
        let challenge = EnrollmentChallenge::parse(challenge).map_err(issue::Error::from)?;
        let opened = self.deps.enrollment.open_challenge(&tpm, &challenge).await?;
        // Recorded before the challenge is used up, so that a full disk does not cost the operator a
        // challenge.
        let description = format!("{} had enrollment challenge {} answered", admin.id(), opened.id());
        self.audit.record_event(Event::EnrollmentAnswered, &description).await?;
        Ok(opened.record_answer(self.deps.clock.now()).await?)
    }

    /// The secret in a credential that `tpm2_makecredential` made for this host's attestation key.
    ///
    /// # Errors
    /// See [`IdentityService::create_enrollment_request`]; [`AdminError::InvalidRequest`].
    pub async fn open_credential(
        &self,
        admin: &RootAdmin,
        request: CredentialRequest,
    ) -> Result<CredentialResponse, AdminError> {
        let (_, tpm) = self.enrollment_deps()?;
        let (ek, file) = parse_credential(&request)?;
        let secret = self.deps.enrollment.open_credential(&tpm, ek, file).await?;
        let description = format!("{} had a credential opened", admin.id());
        self.audit.record_event(Event::EnrollmentCredential, &description).await?;
        Ok(CredentialResponse { secret: Zeroizing::new(BASE64.encode(&secret)) })
    }

    /// Installs a certificate for the host key in place of the previous one. It may make a root of the
    /// organization part of the host's trust bundle, or withdraw that.
    ///
    /// # Errors
    /// See [`IdentityService::create_enrollment_request`]; [`AdminError::InvalidRequest`].
    pub async fn install_certificate(
        &self,
        admin: &RootAdmin,
        request: InstallRequest,
    ) -> Result<HostCertificate, AdminError> {
        let installed = self.install(admin, request);
        self.within_budget(admin, StateCommand::InstallCertificate, installed).await
    }

    async fn install(
        &self,
        admin: &RootAdmin,
        request: InstallRequest,
    ) -> Result<HostCertificate, AdminError> {
        let (issuer_state, tpm) = self.enrollment_deps()?;
        let InstallRequest { certificate, root_sha256 } = request;
        let (domain, now) = (&issuer_state.host().trust_domain, self.deps.clock.now());
        let (pem, root) = (certificate.as_bytes(), root_sha256.as_deref());
        let verified = self.deps.enrollment.verify_bundle(&tpm, pem, root, domain, now).await?;
        let CertificateReport { issuer, signing_root_sha256, .. } = verified.report();
        let signing = match signing_root_sha256 {
            Some(root) => format!("which lets it sign below the root with SHA-256 {root}"),
            None => "which does not let it sign".to_owned(),
        };
        let description =
            format!("{} installed a certificate by {issuer} for the host key, {signing}", admin.id());
        // Recorded before it has an effect: no root of trust is in use without a record. A failure to install
        // it has a record of its own.
        self.audit.record_event(Event::CertificateInstalled, &description).await?;
        Ok(HostCertificate::from(verified.install().await?))
    }

    fn enrollment_deps(&self) -> Result<(Arc<IssuerState>, Tpm), AdminError> {
        let issuer_state = self.ready_issuer()?;
        let tpm = self.deps.tpm.borrow().clone();
        // The issuer has read the TPM, so there is a handle.
        Ok((issuer_state, tpm.ok_or(issue::Error::Tpm(crate::tpm::Error::NotProvisioned))?))
    }
}

fn parse_credential(request: &CredentialRequest) -> Result<(EkKind, Tpm2ToolsCredential), AdminError> {
    let ek = match request.ek.as_str() {
        "ecc" => EkKind::P256,
        "rsa" => EkKind::Rsa,
        _ => return Err(InvalidRequest::new("ek must be \"ecc\" or \"rsa\"").into()),
    };
    let file = BASE64
        .decode(request.credential.as_bytes())
        .map_err(|e| InvalidRequest::new(format!("credential is not base64: {e}")))?;
    Ok((ek, Tpm2ToolsCredential::parse(&file).map_err(issue::Error::from)?))
}
