//! The host's side of enrollment: requests, challenges answered once, and the installed certificate.
//!
//! [`crate::enroll`] has the file formats and the operator's side.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use data_encoding::{BASE64, HEXLOWER};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, MutexGuard, watch};
use zeroize::Zeroizing;

use super::delegated_ca::{self, DelegatedCa};
use super::error::{CertificateFileError, EnrollmentError, Error};
use super::evidence::{MeasurementLogs, Nonce};
use super::issuer::IssuerState;
use crate::clock::Timestamp;
use crate::digest::sha256;
use crate::enroll::{
    self, ChallengeAnswer, EncryptedCredential, EnrollmentChallenge, EnrollmentRequest, InstallBundle,
    SigningChain, Tpm2ToolsCredential,
};
use crate::keystore::Keystore;
use crate::store;
use crate::tpm::{self, CredentialBlob, EkKind, Tpm};
use crate::verify::{HostCertificate, HostSan};

const ENROLLMENT_FILE: &str = "enrollment.json";
const CERTIFICATE_FILE: &str = "certificate.json";
const VERSION: u64 = 1;
/// Requests that wait for a challenge; a further one replaces the oldest.
const MAX_PENDING_REQUESTS: usize = 8;
/// Answered challenges that are remembered, to name the time of the answer. An older one is still rejected,
/// because its request is not pending any more.
const MAX_ANSWERED_CHALLENGES: usize = 100;

/// The enrollment state of this host. Cheap to clone.
#[derive(Clone)]
pub struct Enrollment(Arc<EnrollmentShared>);

struct EnrollmentShared {
    state_dir: PathBuf,
    /// Serializes the steps, so that concurrent requests cannot answer a challenge twice.
    lock: Mutex<()>,
    certificate: ArcSwapOption<HostCertificate>,
    /// The organization's CA certificate for the host key, if it issued one.
    delegated_ca: watch::Sender<Option<Arc<DelegatedCa>>>,
    /// Writes the files, with the anti-rollback manifest; `None` before it is open.
    keystore: ArcSwapOption<Keystore>,
}

/// `enrollment.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EnrollmentFile {
    /// Digests of requests, the oldest first.
    pending: Vec<String>,
    /// The oldest first.
    answered: Vec<AnsweredChallenge>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AnsweredChallenge {
    challenge: String,
    request: String,
    at: u64,
}

/// `certificate.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CertificateFile {
    /// DER in base64, the host's own first.
    chain: Vec<String>,
}

/// The installed host certificate, for administrators.
#[derive(Clone, Debug)]
pub struct CertificateReport {
    /// The subject's distinguished name.
    pub subject: String,
    /// The issuer's distinguished name.
    pub issuer: String,
    /// The start of its validity.
    pub not_before: Timestamp,
    /// The end of its validity.
    pub not_after: Timestamp,
    /// SHA-256 of the root below which the organization lets the host sign, in hexadecimal; `None` if it does
    /// not.
    pub signing_root_sha256: Option<String>,
}

impl Enrollment {
    /// Reads the certificates of this state directory. A certificate that cannot be read is logged and not
    /// used: only evidence and the host's CA need it, and installing it again replaces the file.
    pub fn open(state_dir: &Path) -> Enrollment {
        let certificate = read_certificate(&state_dir.join(CERTIFICATE_FILE)).unwrap_or_else(|e| {
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
        self.0.certificate.load().as_ref().map(|certificate| self.report(certificate))
    }

    /// Makes an enrollment request, and remembers its digest: only a challenge for a pending request is
    /// answered.
    ///
    /// # Errors
    /// A TPM that is not available, a file that cannot be written.
    pub async fn create_request(
        &self,
        issuer_state: &IssuerState,
        tpm: &Tpm,
        logs: MeasurementLogs,
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
        let evidence = issuer_state.collect_evidence(tpm, logs, &nonce, None).await?;
        let request = EnrollmentRequest {
            version: enroll::ENROLLMENT_VERSION,
            id,
            created_at,
            trust_domain,
            csr,
            evidence,
        };
        request.check().map_err(EnrollmentError::Request)?;
        enrollment_file.pending.push(request.digest().map_err(EnrollmentError::Request)?);
        let excess = enrollment_file.pending.len().saturating_sub(MAX_PENDING_REQUESTS);
        enrollment_file.pending.drain(..excess);
        self.write_file(ENROLLMENT_FILE, &enrollment_file).await?;
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
        if let Some(answered) = enrollment_file.answered.iter().find(|old| old.challenge == challenge.id) {
            return Err(EnrollmentError::ChallengeAnswered(Timestamp::from_secs(answered.at)).into());
        }
        let tpm_info = tpm.info().await?;
        if tpm_info.host_id != challenge.host {
            let (challenge, host) = (challenge.host.clone(), tpm_info.host_id);
            return Err(EnrollmentError::OtherHost { challenge, host }.into());
        }
        if tpm_info.ak_name.as_deref() != Some(challenge.ak.as_str()) {
            return Err(EnrollmentError::OtherAk.into());
        }
        if let Some(answered) = enrollment_file.answered.iter().find(|old| old.request == challenge.request) {
            return Err(EnrollmentError::RequestAnswered(Timestamp::from_secs(answered.at)).into());
        }
        if !enrollment_file.pending.contains(&challenge.request) {
            return Err(EnrollmentError::UnknownRequest.into());
        }
        let mut secrets = Zeroizing::new(Vec::with_capacity(2 * enroll::MAX_CREDENTIAL_SECRET_LEN));
        let p256_secret = activate_credential(tpm, EkKind::P256, decode_credential(&challenge.p256)?).await?;
        secrets.extend_from_slice(&p256_secret);
        if let Some(rsa) = &challenge.rsa {
            let rsa_secret = activate_credential(tpm, EkKind::Rsa, decode_credential(rsa)?).await?;
            secrets.extend_from_slice(&rsa_secret);
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

    /// Installs a certificate for the host key, in place of an earlier one. `pem` may also have a CA
    /// certificate for the host key, in place of an earlier one; without one, an earlier one is removed.
    ///
    /// A CA certificate makes its root a root of the host's trust bundle. It is installed only if `root_sha256`
    /// is that root's digest (see [`enroll::certificate_sha256`]), so that the administrator knows which root
    /// that is.
    ///
    /// # Errors
    /// An [`EnrollmentError`] that says why the certificate is rejected; a file that cannot be written.
    pub async fn install(
        &self,
        tpm: &Tpm,
        pem: &[u8],
        root_sha256: Option<&str>,
        trust_domain: &str,
        now: Timestamp,
    ) -> Result<CertificateReport, Error> {
        let _guard = self.0.lock.lock().await;
        let certificate = HostCertificate::from_pem(pem).map_err(EnrollmentError::Certificate)?;
        let host_key = tpm.info().await?.host_key.ok_or(EnrollmentError::NoHostKey)?;
        if !certificate.is_for_key(&host_key) {
            return Err(EnrollmentError::OtherKey.into());
        }
        if certificate.not_after() <= now {
            return Err(EnrollmentError::Expired(certificate.not_after()).into());
        }
        let bundle = InstallBundle::split(certificate.chain()).map_err(EnrollmentError::DelegatedCa)?;
        let delegated_ca = match &bundle.signing_chain {
            Some(chain) => Some(verify_signing_chain(chain, root_sha256, trust_domain, now)?),
            None => None,
        };
        let certificate =
            HostCertificate::from_der(bundle.host_chain).map_err(EnrollmentError::Certificate)?;
        let chain = certificate.chain().iter().map(|der| BASE64.encode(der)).collect();
        self.write_file(CERTIFICATE_FILE, &CertificateFile { chain }).await?;
        if delegated_ca.is_some() || self.0.delegated_ca.borrow().is_some() {
            self.write_file(delegated_ca::FILE_NAME, &DelegatedCa::to_file(delegated_ca.as_ref())).await?;
            self.0.delegated_ca.send_replace(delegated_ca.map(Arc::new));
        }
        let report = self.report(&certificate);
        self.0.certificate.store(Some(Arc::new(certificate)));
        Ok(report)
    }

    fn report(&self, certificate: &HostCertificate) -> CertificateReport {
        let delegated_ca = self.0.delegated_ca.borrow();
        CertificateReport {
            subject: certificate.subject(),
            issuer: certificate.issuer(),
            not_before: certificate.not_before(),
            not_after: certificate.not_after(),
            signing_root_sha256: delegated_ca.as_ref().map(|ca| enroll::certificate_sha256(ca.root())),
        }
    }

    fn read_file(&self) -> Result<EnrollmentFile, Error> {
        Ok(store::read(&self.0.state_dir.join(ENROLLMENT_FILE), VERSION)?.unwrap_or_default())
    }

    async fn write_file<T: Serialize>(&self, name: &'static str, state: &T) -> Result<(), Error> {
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
        self.enrollment_file.pending.retain(|pending| pending != request);
        let answered =
            AnsweredChallenge { challenge: challenge.clone(), request: request.clone(), at: now.as_secs() };
        self.enrollment_file.answered.push(answered);
        let excess = self.enrollment_file.answered.len().saturating_sub(MAX_ANSWERED_CHALLENGES);
        self.enrollment_file.answered.drain(..excess);
        self.enrollment.write_file(ENROLLMENT_FILE, &self.enrollment_file).await?;
        Ok(self.answer)
    }
}

fn read_certificate(file: &Path) -> Result<Option<HostCertificate>, Error> {
    let Some(certificate_file) = store::read::<CertificateFile>(file, VERSION)? else { return Ok(None) };
    let invalid =
        |source: CertificateFileError| EnrollmentError::InvalidFile { path: file.to_owned(), source };
    let chain: Result<Vec<_>, _> =
        certificate_file.chain.iter().map(|text| BASE64.decode(text.as_bytes())).collect();
    let chain = chain.map_err(|error| invalid(error.into()))?;
    let certificate = HostCertificate::from_der(chain).map_err(|error| invalid(error.into()))?;
    Ok(Some(certificate))
}

/// Verifies a chain that lets the host sign, and that the administrator named its root.
fn verify_signing_chain(
    chain: &SigningChain,
    root_sha256: Option<&str>,
    trust_domain: &str,
    now: Timestamp,
) -> Result<DelegatedCa, EnrollmentError> {
    chain.verify(trust_domain, now).map_err(EnrollmentError::DelegatedCa)?;
    let found = chain.root_sha256();
    match root_sha256 {
        None => Err(EnrollmentError::RootNotNamed { found }),
        Some(named) if !named.eq_ignore_ascii_case(&found) => Err(EnrollmentError::OtherRoot { found }),
        Some(_) => DelegatedCa::from_chain(chain, now),
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
