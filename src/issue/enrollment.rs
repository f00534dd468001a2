//! The host's side of enrollment: requests, and challenges answered once.
//!
//! [`crate::enroll`] has the file formats and the operator's side.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use data_encoding::{BASE64, HEXLOWER};
use ring::rand::{SecureRandom, SystemRandom};
use serde::Serialize;
use tokio::sync::{Mutex, MutexGuard, watch};
use zeroize::Zeroizing;

use super::certificate_file::{self, CertificateReport};
use super::delegated_ca::DelegatedCa;
use super::enrollment_file::{self, AdminClass, EnrollmentFile, VERSION};
use super::error::{EnrollmentError, Error};
use super::evidence::{MeasurementLogs, Nonce};
use super::issuer::IssuerState;
use crate::clock::Timestamp;
use crate::digest::sha256;
use crate::enroll::{
    self, ChallengeAnswer, EncryptedCredential, EnrollmentChallenge, EnrollmentRequest, Tpm2ToolsCredential,
};
use crate::keystore::Keystore;
use crate::store;
use crate::tpm::{self, CredentialBlob, EkKind, Tpm};
use crate::verify::{HostCertificate, HostSan};

/// The enrollment state of this host. Cheap to clone.
#[derive(Clone)]
pub struct Enrollment(pub(super) Arc<EnrollmentShared>);

pub(super) struct EnrollmentShared {
    state_dir: PathBuf,
    /// Serializes the steps, so that concurrent requests cannot answer a challenge twice.
    pub(super) lock: Mutex<()>,
    pub(super) certificate: ArcSwapOption<HostCertificate>,
    /// The organization's CA certificate for the host key, if it issued one.
    pub(super) delegated_ca: watch::Sender<Option<Arc<DelegatedCa>>>,
    /// Writes the files, with the anti-rollback manifest; `None` before it is open.
    keystore: ArcSwapOption<Keystore>,
}

impl Enrollment {
    /// Reads the certificates of this state directory. A certificate that cannot be read is logged and not
    /// used: only evidence and the host's CA need it, and installing it again replaces the file.
    pub fn open(state_dir: &Path) -> Enrollment {
        let certificate = certificate_file::read_certificate(state_dir).unwrap_or_else(|e| {
            tracing::error!(
                "the host certificate is not used: {e}; install it again: hostbadge enroll install"
            );
            None
        });
        let delegated_ca = DelegatedCa::read(state_dir).unwrap_or_else(|e| {
            tracing::error!(
                "the organization's CA certificate is not used: {e}; install it again: \
                 hostbadge enroll install"
            );
            None
        });
        let delegated_ca = watch::Sender::new(delegated_ca.map(Arc::new));
        let (certificate, keystore) = (ArcSwapOption::new(certificate.map(Arc::new)), ArcSwapOption::empty());
        Enrollment(Arc::new(EnrollmentShared {
            state_dir: state_dir.to_owned(),
            lock: Mutex::new(()),
            certificate,
            delegated_ca,
            keystore,
        }))
    }

    /// Sets the keystore once it is open and has checked that the files are the latest.
    pub fn set_keystore(&self, keystore: Arc<Keystore>) {
        self.0.keystore.store(Some(keystore));
    }

    /// The installed host certificate.
    pub fn certificate(&self) -> Option<Arc<HostCertificate>> {
        self.0.certificate.load_full()
    }

    /// The organization's CA certificate for the host key, now and at each change.
    pub fn delegated_ca(&self) -> watch::Receiver<Option<Arc<DelegatedCa>>> {
        self.0.delegated_ca.subscribe()
    }

    /// The installed host certificate, for administrators.
    pub fn certificate_report(&self) -> Option<CertificateReport> {
        let delegated_ca = self.0.delegated_ca.borrow();
        let certificate = self.0.certificate.load();
        certificate.as_ref().map(|certificate| CertificateReport::new(certificate, delegated_ca.as_deref()))
    }

    /// Makes an enrollment request, and remembers its digest for this class of administrators: only a
    /// challenge for a pending request is answered.
    ///
    /// # Errors
    /// A TPM that is not available, a file that cannot be written.
    pub async fn create_request(
        &self,
        issuer_state: &IssuerState,
        tpm: &Tpm,
        logs: MeasurementLogs,
        class: AdminClass,
        now: Timestamp,
    ) -> Result<EnrollmentRequest, Error> {
        let _guard = self.0.lock.lock().await;
        let mut enrollment_file = self.read_file()?;
        let mut id = [0; 16];
        SystemRandom::new().fill(&mut id).map_err(Error::Random)?;
        let (id, created_at) = (HEXLOWER.encode(&id), now.as_secs());
        let trust_domain = issuer_state.host().trust_domain.clone();
        let csr = BASE64.encode(&build_csr(issuer_state, tpm).await?);
        let nonce = Nonce::from_digest(EnrollmentRequest::quote_nonce(&id, created_at, &trust_domain, &csr));
        let evidence = issuer_state.collect_evidence(tpm, logs, &nonce, None, None).await?;
        let request = EnrollmentRequest {
            version: enroll::ENROLLMENT_VERSION,
            id,
            created_at,
            trust_domain,
            csr,
            evidence,
        };
        request.check().map_err(EnrollmentError::Request)?;
        enrollment_file.add_pending(request.digest().map_err(EnrollmentError::Request)?, class);
        self.write_file(enrollment_file::FILE_NAME, &enrollment_file).await?;
        Ok(request)
    }

    /// Has the TPM open a challenge's credentials. The challenge counts as answered after
    /// [`OpenedChallenge::record_answer`].
    ///
    /// # Errors
    /// An [`EnrollmentError`] that says why the challenge is rejected; a TPM that is not available.
    pub async fn open_challenge(
        &self,
        tpm: &Tpm,
        challenge: &EnrollmentChallenge,
    ) -> Result<OpenedChallenge<'_>, Error> {
        let guard = self.0.lock.lock().await;
        let enrollment_file = self.read_file()?;
        if let Some(at) = enrollment_file.challenge_answered_at(&challenge.id) {
            return Err(EnrollmentError::ChallengeAnswered(at).into());
        }
        let tpm_info = tpm.info().await?;
        if tpm_info.host_id != challenge.host {
            let (challenge, host) = (challenge.host.clone(), tpm_info.host_id);
            return Err(EnrollmentError::OtherHost { challenge, host }.into());
        }
        if tpm_info.ak_name.as_deref() != Some(challenge.ak.as_str()) {
            return Err(EnrollmentError::OtherAk.into());
        }
        if let Some(at) = enrollment_file.request_answered_at(&challenge.request) {
            return Err(EnrollmentError::RequestAnswered(at).into());
        }
        if !enrollment_file.is_pending(&challenge.request) {
            return Err(EnrollmentError::UnknownRequest.into());
        }
        // Both, before the TPM works for either: what the TPM rejects is counted, and what is malformed is
        // not.
        let p256 = decode_credential(&challenge.p256)?;
        let rsa = challenge.rsa.as_ref().map(decode_credential).transpose()?;
        let mut secrets = Zeroizing::new(Vec::with_capacity(2 * enroll::MAX_CREDENTIAL_SECRET_LEN));
        secrets.extend_from_slice(&activate_credential(tpm, EkKind::P256, p256).await?);
        if let Some(rsa) = rsa {
            secrets.extend_from_slice(&activate_credential(tpm, EkKind::Rsa, rsa).await?);
        }
        let (id, request) = (challenge.id.clone(), challenge.request.clone());
        let proof = enroll::answer_proof(&secrets, &id, &request);
        let answer = ChallengeAnswer { version: enroll::ENROLLMENT_VERSION, challenge: id, request, proof };
        Ok(OpenedChallenge { enrollment: self, enrollment_file, answer, _guard: guard })
    }

    /// Has the TPM open a credential of `tpm2_makecredential`, and returns its secret.
    ///
    /// # Errors
    /// [`EnrollmentError::ChallengeSecret`] for a credential of a hostbadge challenge,
    /// [`EnrollmentError::Credential`] for one of another TPM; a TPM that is not available.
    pub async fn open_credential(
        &self,
        tpm: &Tpm,
        ek: EkKind,
        file: Tpm2ToolsCredential,
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        let _guard = self.0.lock.lock().await;
        let credential = CredentialBlob { id_object: file.id_object, seed: file.seed };
        let secret = activate_credential(tpm, ek, credential).await?;
        if enroll::is_challenge_secret(&secret) {
            return Err(EnrollmentError::ChallengeSecret.into());
        }
        Ok(secret)
    }

    fn read_file(&self) -> Result<EnrollmentFile, Error> {
        let path = self.0.state_dir.join(enrollment_file::FILE_NAME);
        Ok(store::read(&path, VERSION)?.unwrap_or_default())
    }

    pub(super) async fn write_file<T: Serialize>(&self, name: &'static str, state: &T) -> Result<(), Error> {
        let keystore = self.0.keystore.load_full().ok_or(tpm::Error::NotProvisioned)?;
        Ok(keystore.write_file(name, VERSION, state).await?)
    }
}

/// A challenge that the TPM has opened. While it exists, no other step of enrollment is taken.
pub struct OpenedChallenge<'e> {
    enrollment: &'e Enrollment,
    enrollment_file: EnrollmentFile,
    answer: ChallengeAnswer,
    _guard: MutexGuard<'e, ()>,
}

impl OpenedChallenge<'_> {
    /// The challenge's id.
    pub fn id(&self) -> &str {
        &self.answer.challenge
    }

    /// Marks the challenge as answered, and returns the answer once that is on disk.
    pub async fn record_answer(mut self, now: Timestamp) -> Result<ChallengeAnswer, Error> {
        let ChallengeAnswer { challenge, request, .. } = &self.answer;
        self.enrollment_file.mark_answered(challenge, request, now);
        self.enrollment.write_file(enrollment_file::FILE_NAME, &self.enrollment_file).await?;
        Ok(self.answer)
    }
}

/// A CSR for the host key, signed by it in the TPM.
async fn build_csr(issuer_state: &IssuerState, tpm: &Tpm) -> Result<Vec<u8>, Error> {
    let (tpm_info, eks) = (tpm.info().await?, tpm.ek_info().await?);
    let host_key = tpm_info.host_key.ok_or(EnrollmentError::NoHostKey)?;
    let ak_name = tpm_info.ak_name.ok_or(EnrollmentError::NoHostKey)?;
    let decode_name = |text: &str| HEXLOWER.decode(text.as_bytes()).map_err(|_| EnrollmentError::NoHostKey);
    let (ek_name, ak_name) = (decode_name(&tpm_info.ek_name)?, decode_name(&ak_name)?);
    let rsa = eks.rsa.as_ref().and_then(|ek| ek.certificate.as_deref());
    let names = HostSan {
        trust_domain: &issuer_state.host().trust_domain,
        host: &issuer_state.host().id,
        ek_name: &ek_name,
        ek_certificates: eks.p256.certificate.as_deref().into_iter().chain(rsa).collect(),
        ak_name: &ak_name,
    };
    let info = enroll::csr_info(&names, &host_key).map_err(EnrollmentError::Request)?;
    let signature = tpm.host_sign(sha256(&info)).await?;
    Ok(enroll::build_csr(&info, &signature).map_err(EnrollmentError::Request)?)
}

fn decode_credential(credential: &EncryptedCredential) -> Result<CredentialBlob, Error> {
    let (id_object, seed) = credential.decode()?;
    Ok(CredentialBlob { id_object, seed })
}

/// Has the TPM open a credential. A credential that it rejects is the request's fault, and not the TPM's.
async fn activate_credential(
    tpm: &Tpm,
    ek: EkKind,
    credential: CredentialBlob,
) -> Result<Zeroizing<Vec<u8>>, Error> {
    tpm.activate_credential(ek, credential).await.map_err(|error| match error {
        tpm::Error::RequestFailed(_) => EnrollmentError::Credential(error).into(),
        other => Error::Tpm(other),
    })
}
