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

use super::signing::{self, Signing};
use super::{Error, Logs, Nonce, Standing};
use crate::clock::Timestamp;
use crate::enroll::{self, Answer, Challenge, Request, Sealed, ToolsFile};
use crate::store;
use crate::tpm::{self, Credential, EkKind, Tpm};
use crate::vault::Vault;
use crate::verify::{HostCertificate, Names};

const ENROLLMENT: &str = "enrollment.json";
const CERTIFICATE: &str = "certificate.json";
const VERSION: u64 = 1;
/// Requests that may wait for a challenge; the oldest makes room.
const PENDING_MOST: usize = 8;
/// Answered challenges that are remembered by name. Of others only that their request waits no more.
const ANSWERED_MOST: usize = 100;

/// What an operator and this host have between them. Cheap to clone.
#[derive(Clone)]
pub struct Enrollment(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    /// One at a time, so that no challenge is answered twice at once.
    turn: Mutex<()>,
    certificate: ArcSwapOption<HostCertificate>,
    /// The organisation's word that this host is a CA, where it gave it.
    signing: watch::Sender<Option<Arc<Signing>>>,
    /// What our files are written by, once it is open: an older copy of them is told from the latest.
    vault: ArcSwapOption<Vault>,
}

/// `enrollment.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    /// Digests of requests, the oldest first.
    pending: Vec<String>,
    /// The oldest first.
    answered: Vec<Answered>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Answered {
    challenge: String,
    request: String,
    at: u64,
}

/// `certificate.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredCertificate {
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
    pub fn open(dir: &Path) -> Enrollment {
        let certificate = read_certificate(&dir.join(CERTIFICATE)).unwrap_or_else(|e| {
            tracing::error!(
                "the host certificate is not used: {e}; install it again: hostbadge enroll install"
            );
            None
        });
        let signing = Signing::read(dir).unwrap_or_else(|e| {
            tracing::error!(
                "the host is no CA of its organisation's: {e}; install it again: hostbadge enroll install"
            );
            None
        });
        let signing = watch::Sender::new(signing.map(Arc::new));
        let (certificate, vault) = (ArcSwapOption::new(certificate.map(Arc::new)), ArcSwapOption::empty());
        Enrollment(Arc::new(Inner { dir: dir.to_owned(), turn: Mutex::new(()), certificate, signing, vault }))
    }

    /// The vault is open, and has found our files to be the latest.
    pub fn write_by(&self, vault: Arc<Vault>) {
        self.0.vault.store(Some(vault));
    }

    pub fn certificate(&self) -> Option<Arc<HostCertificate>> {
        self.0.certificate.load_full()
    }

    /// What the organisation lets the host sign with, now and at each change.
    pub fn signing(&self) -> watch::Receiver<Option<Arc<Signing>>> {
        self.0.signing.subscribe()
    }

    pub fn report(&self) -> Option<CertificateReport> {
        self.0.certificate.load().as_ref().map(|certificate| report(certificate))
    }

    /// Makes a request. Only a challenge for a request of ours is answered.
    pub async fn request(
        &self,
        standing: &Standing,
        tpm: &Tpm,
        logs: Logs,
        now: Timestamp,
    ) -> Result<Request, Error> {
        let _turn = self.0.turn.lock().await;
        let mut stored = self.read()?;
        let mut id = [0; 16];
        SystemRandom::new().fill(&mut id).map_err(|_| Error::Random)?;
        let (id, made) = (HEXLOWER.encode(&id), now.secs());
        let trust_domain = standing.host().trust_domain.clone();
        let csr = BASE64.encode(&csr(standing, tpm).await?);
        let nonce = Nonce::of_digest(Request::bound(&id, made, &trust_domain, &csr));
        let evidence = standing.evidence(tpm, logs, &nonce, None).await?;
        let request = Request { version: enroll::VERSION, id, made, trust_domain, csr, evidence };
        request.check()?;
        stored.pending.push(request.digest()?);
        let surplus = stored.pending.len().saturating_sub(PENDING_MOST);
        stored.pending.drain(..surplus);
        self.write(ENROLLMENT, &stored).await?;
        Ok(request)
    }

    /// Has the TPM open a challenge's credentials. Nothing is used up before [`Opened::answer`].
    pub async fn open_challenge(&self, tpm: &Tpm, challenge: &Challenge) -> Result<Opened<'_>, Error> {
        let turn = self.0.turn.lock().await;
        let stored = self.read()?;
        let refused = |why: String| Err(Error::Enrollment(why));
        if let Some(old) = stored.answered.iter().find(|old| old.challenge == challenge.id) {
            let at = Timestamp::from_secs(old.at);
            return refused(format!("this challenge was answered at {at}; a challenge is answered once"));
        }
        let facts = tpm.facts().await?;
        if facts.host_id != challenge.host {
            return refused(format!(
                "the challenge is for host {}, and this is {}",
                challenge.host, facts.host_id
            ));
        }
        if facts.ak_name.as_deref() != Some(challenge.ak.as_str()) {
            return refused("the challenge is for another attestation key than this host's".into());
        }
        if let Some(old) = stored.answered.iter().find(|old| old.request == challenge.request) {
            let at = Timestamp::from_secs(old.at);
            return refused(format!(
                "another challenge for the same request was answered at {at}; make a new request"
            ));
        }
        if !stored.pending.contains(&challenge.request) {
            return refused(
                "the challenge is for no request that this host waits for; make a new one".into(),
            );
        }
        let mut secrets = Zeroizing::new(Vec::with_capacity(2 * enroll::LARGEST_SECRET));
        secrets.extend_from_slice(&tpm.activate(EkKind::P256, credential(&challenge.p256)?).await?);
        if let Some(rsa) = &challenge.rsa {
            secrets.extend_from_slice(&tpm.activate(EkKind::Rsa, credential(rsa)?).await?);
        }
        let (id, request) = (challenge.id.clone(), challenge.request.clone());
        let proof = enroll::proof(&secrets, &id, &request);
        let answer = Answer { version: enroll::VERSION, challenge: id, request, proof };
        Ok(Opened { enrollment: self, stored, answer, _turn: turn })
    }

    /// Has the TPM open a credential that other tools made, for an administrator.
    pub async fn open_credential(
        &self,
        tpm: &Tpm,
        ek: EkKind,
        file: ToolsFile,
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        let _turn = self.0.turn.lock().await;
        let secret = tpm.activate(ek, Credential { id_object: file.id_object, seed: file.seed }).await?;
        if enroll::is_of_challenge(&secret) {
            let why = "this is part of a hostbadge challenge, which is answered and not given out: hostbadge enroll activate CHALLENGE";
            return Err(Error::Enrollment(why.into()));
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
        let _turn = self.0.turn.lock().await;
        let refused = |why: String| Err(Error::Enrollment(why));
        let certificate = match HostCertificate::from_pem(pem) {
            Ok(certificate) => certificate,
            Err(e) => return refused(e.to_string()),
        };
        let Some(host_key) = tpm.facts().await?.host_key else {
            return refused("this host has no host key yet".into());
        };
        if !certificate.is_for(&host_key) {
            return refused("the certificate is for another key than this host's host key".into());
        }
        if certificate.not_after() <= now {
            return refused(format!("the certificate has expired at {}", certificate.not_after()));
        }
        let (chain, signing) = Signing::split(certificate.chain(), &host_key, trust_domain, now)?;
        let certificate = match HostCertificate::from_der(chain) {
            Ok(certificate) => certificate,
            Err(e) => return refused(e.to_string()),
        };
        let chain = certificate.chain().iter().map(|der| BASE64.encode(der)).collect();
        self.write(CERTIFICATE, &StoredCertificate { chain }).await?;
        if signing.is_some() || self.0.signing.borrow().is_some() {
            self.write(signing::NAME, &Signing::stored(signing.as_ref())).await?;
            self.0.signing.send_replace(signing.map(Arc::new));
        }
        let report = report(&certificate);
        self.0.certificate.store(Some(Arc::new(certificate)));
        Ok(report)
    }

    fn read(&self) -> Result<Stored, Error> {
        Ok(store::read(&self.0.dir.join(ENROLLMENT), VERSION)?.unwrap_or_default())
    }

    async fn write<T: Serialize>(&self, name: &'static str, state: &T) -> Result<(), Error> {
        match self.0.vault.load_full() {
            Some(vault) => Ok(vault.write(name, VERSION, state).await?),
            None => Err(Error::Tpm(tpm::Error::NotProvisioned)),
        }
    }
}

/// A challenge that the TPM has opened. No other step is taken meanwhile.
pub struct Opened<'e> {
    enrollment: &'e Enrollment,
    stored: Stored,
    answer: Answer,
    _turn: MutexGuard<'e, ()>,
}

impl Opened<'_> {
    /// The challenge's id.
    pub fn id(&self) -> &str {
        &self.answer.challenge
    }

    /// Uses the challenge up. The answer leaves only once it is on the disk that there was one.
    pub async fn answer(mut self, now: Timestamp) -> Result<Answer, Error> {
        let Answer { challenge, request, .. } = &self.answer;
        self.stored.pending.retain(|waiting| waiting != request);
        let answered = Answered { challenge: challenge.clone(), request: request.clone(), at: now.secs() };
        self.stored.answered.push(answered);
        let surplus = self.stored.answered.len().saturating_sub(ANSWERED_MOST);
        self.stored.answered.drain(..surplus);
        self.enrollment.write(ENROLLMENT, &self.stored).await?;
        Ok(self.answer)
    }
}

fn read_certificate(file: &Path) -> Result<Option<HostCertificate>, Error> {
    let Some(stored) = store::read::<StoredCertificate>(file, VERSION)? else { return Ok(None) };
    let torn = |what: String| Error::Enrollment(format!("{}: {what}", file.display()));
    let chain: Result<Vec<_>, _> = stored.chain.iter().map(|text| BASE64.decode(text.as_bytes())).collect();
    let chain = chain.map_err(|e| torn(e.to_string()))?;
    HostCertificate::from_der(chain).map(Some).map_err(|e| torn(e.to_string()))
}

fn report(certificate: &HostCertificate) -> CertificateReport {
    CertificateReport {
        subject: certificate.subject(),
        issuer: certificate.issuer(),
        not_before: certificate.not_before(),
        not_after: certificate.not_after(),
    }
}

/// A CSR for the host key, signed by it in the TPM.
async fn csr(standing: &Standing, tpm: &Tpm) -> Result<Vec<u8>, Error> {
    let (facts, eks) = (tpm.facts().await?, tpm.endorsement().await?);
    let missing = || Error::Enrollment("this host has no keys in its TPM yet".into());
    let host_key = facts.host_key.ok_or_else(missing)?;
    let name = |text: &str| HEXLOWER.decode(text.as_bytes()).map_err(|_| missing());
    let (ek_name, ak_name) = (name(&facts.ek_name)?, name(&facts.ak_name.ok_or_else(missing)?)?);
    let rsa = eks.rsa.as_ref().and_then(|ek| ek.certificate.as_deref());
    let names = Names {
        trust_domain: &standing.host().trust_domain,
        host: &standing.host().id,
        ek_name: &ek_name,
        ek_certificates: eks.p256.certificate.as_deref().into_iter().chain(rsa).collect(),
        ak_name: &ak_name,
    };
    let info = enroll::csr_info(&names, &host_key);
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, &info).as_ref());
    Ok(enroll::csr(&info, &tpm.host_sign(hash).await?))
}

fn credential(sealed: &Sealed) -> Result<Credential, Error> {
    let (id_object, seed) = sealed.decode()?;
    Ok(Credential { id_object, seed })
}
