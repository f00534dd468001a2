//! Evidence for a verifier far away: which host this is, what it booted, and which keys its TPM stands for.

use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};

use super::places::Place;
use super::{Error, Standing, endorsement};
use crate::agents::Agent;
use crate::clock::Timestamp;
use crate::policy::{Reason, Refusal};
use crate::posture::{BootLog, ImaList};
use crate::tpm::{self, Tpm};
use crate::verify::HostCertificate;
use crate::verify::eat;
use crate::verify::evidence::{Evidence, NONCE, Signed, VERSION, qualification};
use crate::verify::structures::PublicKey;

/// PCRs that are quoted: firmware and its settings (0 to 7), boot loader and kernel (8, 9, 11, 12, 13), IMA (10), shim (14).
const PCRS: std::ops::RangeInclusive<u8> = 0..=14;

/// A verifier's challenge: bytes that it makes up and uses once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nonce(Vec<u8>);

impl Nonce {
    /// From base64url without padding. The error is for the caller.
    pub fn parse(text: &str) -> Result<Nonce, String> {
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes());
        match bytes.ok().filter(|bytes| NONCE.contains(&bytes.len())) {
            Some(bytes) => Ok(Nonce(bytes)),
            None => Err(format!(
                "a nonce is {} to {} bytes in base64url without padding",
                NONCE.start(),
                NONCE.end()
            )),
        }
    }

    /// A digest, for statements that are their own challenge.
    pub(super) fn of_digest(digest: [u8; 32]) -> Nonce {
        Nonce(digest.to_vec())
    }

    pub fn text(&self) -> String {
        BASE64URL_NOPAD.encode(&self.0)
    }
}

/// In which shape a verifier wants it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// The document alone.
    #[default]
    Evidence,
    /// An EAT (RFC 9711) around it, signed by the host key.
    Eat,
}

/// What a verifier asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    pub nonce: Nonce,
    pub format: Format,
}

/// What the host has written down of its boot and of the files that ran.
#[derive(Clone, Debug)]
pub struct Logs {
    pub boot: BootLog,
    /// None where nobody asks for so much.
    pub ima: Option<ImaList>,
}

/// Who asks for evidence, with the room in memory that it takes.
#[derive(Debug)]
pub struct Asker {
    pub agent: Agent,
    pub place: Place,
}

/// Evidence that an agent asked for.
#[derive(Debug)]
pub struct Proof {
    agent: Agent,
    shown: Shown,
    place: Place,
}

/// As it is answered.
#[derive(Debug, serde::Serialize)]
#[serde(untagged)]
pub enum Shown {
    Evidence(Box<Evidence>),
    Eat { eat: String },
}

impl Proof {
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// The answer's text in JSON. Blocking for a while, where the lists are long.
    pub fn into_answer(self) -> Result<bytes::Bytes, serde_json::Error> {
        let text = serde_json::to_vec(&self.shown)?;
        Ok(self.place.keep(text))
    }
}

impl Standing {
    /// Has the TPM quote its PCRs for this nonce, and puts together what a verifier needs.
    pub async fn prove(
        &self,
        tpm: &Tpm,
        logs: Logs,
        Asker { agent, place }: Asker,
        challenge: &Challenge,
        certificate: Option<&HostCertificate>,
        now: Timestamp,
    ) -> Result<Proof, Refusal> {
        match self.show(tpm, logs, challenge, certificate, now).await {
            Ok(shown) => Ok(Proof { agent, shown, place }),
            Err(e) => {
                let no = Refusal::new(Reason::TemporarilyUnavailable, e.to_string());
                Err(no.by(agent.peer()).of(agent.name()))
            }
        }
    }

    async fn show(
        &self,
        tpm: &Tpm,
        logs: Logs,
        challenge: &Challenge,
        certificate: Option<&HostCertificate>,
        now: Timestamp,
    ) -> Result<Shown, Error> {
        let evidence = self.evidence(tpm, logs, &challenge.nonce, certificate).await?;
        if challenge.format == Format::Evidence {
            return Ok(Shown::Evidence(Box::new(evidence)));
        }
        let odd = |e: crate::verify::Error| Error::Key(e.to_string());
        let (host_key, ek_digest) = (evidence.host_key().map_err(odd)?, evidence.ek_digest().map_err(odd)?);
        let header = serde_json::json!({ "alg": "ES256", "kid": host_key.kid, "typ": eat::TYP });
        let claims = eat::Claims {
            eat_nonce: challenge.nonce.text(),
            ueid: eat::ueid(&ek_digest),
            eat_profile: eat::PROFILE.to_owned(),
            iat: now.secs(),
            swname: "hostbadged".to_owned(),
            swversion: vec![env!("CARGO_PKG_VERSION").to_owned()],
            hostbadge_evidence: evidence,
        };
        // Some tens of megabytes, where the lists are long.
        let unsigned = move || {
            let claims = serde_json::to_vec(&claims).map_err(|e| Error::Key(e.to_string()))?;
            endorsement::unsigned(&header, &claims)
        };
        let unsigned =
            tokio::task::spawn_blocking(unsigned).await.map_err(|e| Error::Key(e.to_string()))??;
        Ok(Shown::Eat { eat: unsigned.sign(tpm).await? })
    }

    pub(super) async fn evidence(
        &self,
        tpm: &Tpm,
        logs: Logs,
        nonce: &Nonce,
        certificate: Option<&HostCertificate>,
    ) -> Result<Evidence, tpm::Error> {
        let eks = tpm.endorsement().await?;
        let made = tpm.attest(PCRS.collect(), qualification(&nonce.0)).await?;
        // After the quote: what the kernel measured before it is in the list, and what it measured since is not believed.
        let base64 = |log: Option<Vec<u8>>| log.map(|log| BASE64.encode(&log));
        let read = move || {
            let (ima, missing) = match logs.ima.map_or(Ok(None), |list| list.read()) {
                Ok(list) => (list, None),
                Err(why) => (None, Some(why)),
            };
            (base64(logs.boot.read()), base64(ima), missing)
        };
        let (event_log, ima_log, ima_log_missing) =
            tokio::task::spawn_blocking(read).await.unwrap_or_default();
        // One that was given to an earlier key of this host says nothing of this one.
        let host_key = PublicKey::parse(&made.host_key_public).ok();
        let ours = certificate.filter(|one| host_key.is_some_and(|key| one.is_for(&key.point)));
        let chain = ours.map(HostCertificate::chain).unwrap_or_default();
        let signed = |attest: &[u8], signature: &[u8]| Signed {
            attest: BASE64.encode(attest),
            signature: BASE64.encode(signature),
        };
        Ok(Evidence {
            version: VERSION,
            host: self.host().id.clone(),
            nonce: nonce.text(),
            ek: BASE64.encode(&made.ek_public),
            ek_certificate: eks.p256.certificate.map(|der| BASE64.encode(&der)),
            rsa_ek: eks.rsa.as_ref().map(|ek| BASE64.encode(&ek.public)),
            rsa_ek_certificate: eks.rsa.and_then(|ek| ek.certificate).map(|der| BASE64.encode(&der)),
            ek_chain: eks.chain.iter().map(|der| BASE64.encode(der)).collect(),
            host_certificate: chain.iter().map(|der| BASE64.encode(der)).collect(),
            srk: HEXLOWER.encode(&made.srk_name),
            ak: BASE64.encode(&made.ak_public),
            quote: signed(&made.quote, &made.signature),
            pcrs: made.pcrs.iter().map(|(number, value)| (*number, HEXLOWER.encode(value))).collect(),
            event_log,
            ima_log,
            ima_log_missing,
            host_key: BASE64.encode(&made.host_key_public),
            certification: signed(&made.certification.attest, &made.certification.signature),
            endorsements: self.keys().iter().filter_map(|key| key.endorsement.clone()).collect(),
        })
    }
}
