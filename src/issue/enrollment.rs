//! The host's part of enrollment: requests, challenges answered once, and the certificate that comes of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use data_encoding::{BASE64, HEXLOWER};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, MutexGuard, watch};
use zeroize::Zeroizing;

use super::delegated_ca::{self, DelegatedCa};
use super::{Error, IssuerState, MeasurementLogs, Nonce};
use crate::clock::Timestamp;
use crate::enroll::{
    self, ChallengeAnswer, EncryptedCredential, EnrollmentChallenge, EnrollmentRequest, Tpm2ToolsCredential,
};
use crate::keystore::Keystore;
use crate::store;
use crate::tpm::{self, CredentialBlob, EkKind, Tpm};
use crate::verify::{HostCertificate, HostSan};

const ENROLLMENT_FILE: &str = "enrollment.json";
const CERTIFICATE_FILE: &str = "certificate.json";
const VERSION: u64 = 1;
/// Requests that may wait for a challenge; the oldest makes room.
const MAX_PENDING_REQUESTS: usize = 8;
/// Answered challenges that are remembered by name. Of others only that their request waits no more.
const MAX_ANSWERED_CHALLENGES: usize = 100;

/// What an operator and this host have between them. Cheap to clone.
#[derive(Clone)]
pub struct Enrollment(Arc<EnrollmentShared>);

struct EnrollmentShared {
    state_dir: PathBuf,
    /// One at a time, so that no challenge is answered twice at once.
    lock: Mutex<()>,
    certificate: ArcSwapOption<HostCertificate>,
    /// The organisation's word that this host is a CA, where it gave it.
    delegated_ca: watch::Sender<Option<Arc<DelegatedCa>>>,
    /// What our files are written by, once it is open: an older copy of them is told from the latest.
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

/// The installed certificate, for administrators.
#[derive(Clone, Debug, Serialize)]
pub struct CertificateReport {
    pub subject: String,
    pub issuer: String,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

impl Enrollment {
    /// Reads the certificate of this state directory. One that cannot be read is told, and as good as none: nothing but
    /// evidence needs it, and installing it again mends it.
    pub fn open(state_dir: &Path) -> Enrollment {
        let certificate = read_certificate(&state_dir.join(CERTIFICATE_FILE)).unwrap_or_else(|e| {
            tracing::error!(
                "the host certificate is not used: {e}; install it again: hostbadge enroll install"
            );
            None
        });
        let delegated_ca = DelegatedCa::read(state_dir).unwrap_or_else(|e| {
            tracing::error!(
                "the host is no CA of its organisation's: {e}; install it again: hostbadge enroll install"
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

    /// The vault is open, and has found our files to be the latest.
    pub fn set_keystore(&self, keystore: Arc<Keystore>) {
        self.0.keystore.store(Some(keystore));
    }

    pub fn certificate(&self) -> Option<Arc<HostCertificate>> {
        self.0.certificate.load_full()
    }

    /// What the organisation lets the host sign with, now and at each change.
    pub fn delegated_ca(&self) -> watch::Receiver<Option<Arc<DelegatedCa>>> {
        self.0.delegated_ca.subscribe()
    }

    pub fn certificate_report(&self) -> Option<CertificateReport> {
        self.0.certificate.load().as_ref().map(|certificate| certificate_report(certificate))
    }

    /// Makes a request. Only a challenge for a request of ours is answered.
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
        SystemRandom::new().fill(&mut id).map_err(|_| Error::Random)?;
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
        request.check()?;
        enrollment_file.pending.push(request.digest()?);
        let excess = enrollment_file.pending.len().saturating_sub(MAX_PENDING_REQUESTS);
        enrollment_file.pending.drain(..excess);
        self.write_file(ENROLLMENT_FILE, &enrollment_file).await?;
        Ok(request)
    }

    /// Has the TPM open a challenge's credentials. Nothing is used up before [`Opened::answer`].
    pub async fn open_challenge(
        &self,
        tpm: &Tpm,
        challenge: &EnrollmentChallenge,
    ) -> Result<OpenedChallenge<'_>, Error> {
        let guard = self.0.lock.lock().await;
        let enrollment_file = self.read_file()?;
        let reject = |reason: String| Err(Error::Enrollment(reason));
        if let Some(answered) = enrollment_file.answered.iter().find(|old| old.challenge == challenge.id) {
            let at = Timestamp::from_secs(answered.at);
            return reject(format!("this challenge was answered at {at}; a challenge is answered once"));
        }
        let tpm_info = tpm.info().await?;
        if tpm_info.host_id != challenge.host {
            return reject(format!(
                "the challenge is for host {}, and this is {}",
                challenge.host, tpm_info.host_id
            ));
        }
        if tpm_info.ak_name.as_deref() != Some(challenge.ak.as_str()) {
            return reject("the challenge is for another attestation key than this host's".into());
        }
        if let Some(answered) = enrollment_file.answered.iter().find(|old| old.request == challenge.request) {
            let at = Timestamp::from_secs(answered.at);
            return reject(format!(
                "another challenge for the same request was answered at {at}; make a new request"
            ));
        }
        if !enrollment_file.pending.contains(&challenge.request) {
            return reject("the challenge is for no request that this host waits for; make a new one".into());
        }
        let mut secrets = Zeroizing::new(Vec::with_capacity(2 * enroll::MAX_CREDENTIAL_SECRET_LEN));
        secrets.extend_from_slice(
            &tpm.activate_credential(EkKind::P256, decode_credential(&challenge.p256)?).await?,
        );
        if let Some(rsa) = &challenge.rsa {
            secrets.extend_from_slice(&tpm.activate_credential(EkKind::Rsa, decode_credential(rsa)?).await?);
        }
        let (id, request) = (challenge.id.clone(), challenge.request.clone());
        let proof = enroll::answer_proof(&secrets, &id, &request);
        let answer = ChallengeAnswer { version: enroll::ENROLLMENT_VERSION, challenge: id, request, proof };
        Ok(OpenedChallenge { enrollment: self, enrollment_file, answer, _guard: guard })
    }

    /// Has the TPM open a credential that other tools made, for an administrator.
    pub async fn open_credential(
        &self,
        tpm: &Tpm,
        ek: EkKind,
        file: Tpm2ToolsCredential,
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        let _guard = self.0.lock.lock().await;
        let secret = tpm
            .activate_credential(ek, CredentialBlob { id_object: file.id_object, seed: file.seed })
            .await?;
        if enroll::is_challenge_secret(&secret) {
            let reason = "this is part of a hostbadge challenge, which is answered and not given out: hostbadge enroll activate CHALLENGE";
            return Err(Error::Enrollment(reason.into()));
        }
        Ok(secret)
    }

    /// Keeps a certificate for the host key, in place of an earlier one, and the one that it signs with, if there is one.
    pub async fn install(
        &self,
        tpm: &Tpm,
        pem: &[u8],
        trust_domain: &str,
        now: Timestamp,
    ) -> Result<CertificateReport, Error> {
        let _guard = self.0.lock.lock().await;
        let reject = |reason: String| Err(Error::Enrollment(reason));
        let certificate = match HostCertificate::from_pem(pem) {
            Ok(certificate) => certificate,
            Err(e) => return reject(e.to_string()),
        };
        let Some(host_key) = tpm.info().await?.host_key else {
            return reject("this host has no host key yet".into());
        };
        if !certificate.is_for_key(&host_key) {
            return reject("the certificate is for another key than this host's host key".into());
        }
        if certificate.not_after() <= now {
            return reject(format!("the certificate has expired at {}", certificate.not_after()));
        }
        let (chain, delegated_ca) =
            DelegatedCa::from_install_bundle(certificate.chain(), &host_key, trust_domain, now)?;
        let certificate = match HostCertificate::from_der(chain) {
            Ok(certificate) => certificate,
            Err(e) => return reject(e.to_string()),
        };
        let chain = certificate.chain().iter().map(|der| BASE64.encode(der)).collect();
        self.write_file(CERTIFICATE_FILE, &CertificateFile { chain }).await?;
        if delegated_ca.is_some() || self.0.delegated_ca.borrow().is_some() {
            self.write_file(delegated_ca::FILE_NAME, &DelegatedCa::to_file(delegated_ca.as_ref())).await?;
            self.0.delegated_ca.send_replace(delegated_ca.map(Arc::new));
        }
        let report = certificate_report(&certificate);
        self.0.certificate.store(Some(Arc::new(certificate)));
        Ok(report)
    }

    fn read_file(&self) -> Result<EnrollmentFile, Error> {
        Ok(store::read(&self.0.state_dir.join(ENROLLMENT_FILE), VERSION)?.unwrap_or_default())
    }

    async fn write_file<T: Serialize>(&self, name: &'static str, state: &T) -> Result<(), Error> {
        match self.0.keystore.load_full() {
            Some(keystore) => Ok(keystore.write_file(name, VERSION, state).await?),
            None => Err(Error::Tpm(tpm::Error::NotProvisioned)),
        }
    }
}

/// A challenge that the TPM has opened. No other step is taken meanwhile.
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

    /// Uses the challenge up. The answer leaves only once it is on the disk that there was one.
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
    let corrupt = |reason: String| Error::Enrollment(format!("{}: {reason}", file.display()));
    let chain: Result<Vec<_>, _> =
        certificate_file.chain.iter().map(|text| BASE64.decode(text.as_bytes())).collect();
    let chain = chain.map_err(|e| corrupt(e.to_string()))?;
    HostCertificate::from_der(chain).map(Some).map_err(|e| corrupt(e.to_string()))
}

fn certificate_report(certificate: &HostCertificate) -> CertificateReport {
    CertificateReport {
        subject: certificate.subject(),
        issuer: certificate.issuer(),
        not_before: certificate.not_before(),
        not_after: certificate.not_after(),
    }
}

/// A CSR for the host key, signed by it in the TPM.
async fn build_csr(issuer_state: &IssuerState, tpm: &Tpm) -> Result<Vec<u8>, Error> {
    let (tpm_info, eks) = (tpm.info().await?, tpm.ek_info().await?);
    let missing = || Error::Enrollment("this host has no keys in its TPM yet".into());
    let host_key = tpm_info.host_key.ok_or_else(missing)?;
    let decode_name = |text: &str| HEXLOWER.decode(text.as_bytes()).map_err(|_| missing());
    let (ek_name, ak_name) =
        (decode_name(&tpm_info.ek_name)?, decode_name(&tpm_info.ak_name.ok_or_else(missing)?)?);
    let rsa = eks.rsa.as_ref().and_then(|ek| ek.certificate.as_deref());
    let names = HostSan {
        trust_domain: &issuer_state.host().trust_domain,
        host: &issuer_state.host().id,
        ek_name: &ek_name,
        ek_certificates: eks.p256.certificate.as_deref().into_iter().chain(rsa).collect(),
        ak_name: &ak_name,
    };
    let info = enroll::csr_info(&names, &host_key)?;
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, &info).as_ref());
    Ok(enroll::build_csr(&info, &tpm.host_sign(hash).await?)?)
}

fn decode_credential(sealed_credential: &EncryptedCredential) -> Result<CredentialBlob, Error> {
    let (id_object, seed) = sealed_credential.decode()?;
    Ok(CredentialBlob { id_object, seed })
}
