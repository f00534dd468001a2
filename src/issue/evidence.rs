//! Evidence for a verifier far away: which host this is, what it booted, and which keys its TPM stands for.

use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};

use super::evidence_slots::EvidenceSlot;
use super::{Error, IssuerState, endorsement};
use crate::agents::AuthenticatedAgent;
use crate::clock::Timestamp;
use crate::policy::{ErrorCode, Refusal};
use crate::posture::{EventLogFile, ImaListFile};
use crate::tpm::{self, Tpm};
use crate::verify::HostCertificate;
use crate::verify::eat;
use crate::verify::evidence::{EVIDENCE_VERSION, Evidence, NONCE_LEN, SignedAttestation, qualifying_data};
use crate::verify::tpm_structures::PublicKey;

/// PCRs that are quoted: firmware and its settings (0 to 7), boot loader and kernel (8, 9, 11, 12, 13), IMA (10), shim (14).
const QUOTED_PCRS: std::ops::RangeInclusive<u8> = 0..=14;

/// A verifier's challenge: bytes that it makes up and uses once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nonce(Vec<u8>);

impl Nonce {
    /// From base64url without padding. The error is for the caller.
    pub fn parse(text: &str) -> Result<Nonce, String> {
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes());
        match bytes.ok().filter(|bytes| NONCE_LEN.contains(&bytes.len())) {
            Some(bytes) => Ok(Nonce(bytes)),
            None => Err(format!(
                "a nonce is {} to {} bytes in base64url without padding",
                NONCE_LEN.start(),
                NONCE_LEN.end()
            )),
        }
    }

    /// A digest, for statements that are their own challenge.
    pub(super) fn from_digest(digest: [u8; 32]) -> Nonce {
        Nonce(digest.to_vec())
    }

    pub fn to_base64url(&self) -> String {
        BASE64URL_NOPAD.encode(&self.0)
    }
}

/// In which shape a verifier wants it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EvidenceFormat {
    /// The document alone.
    #[default]
    Evidence,
    /// An EAT (RFC 9711) around it, signed by the host key.
    Eat,
}

/// What a verifier asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttestRequest {
    pub nonce: Nonce,
    pub format: EvidenceFormat,
}

/// What the host has written down of its boot and of the files that ran.
#[derive(Clone, Debug)]
pub struct MeasurementLogs {
    pub boot: EventLogFile,
    /// None where nobody asks for so much.
    pub ima: Option<ImaListFile>,
}

/// Who asks for evidence, with the room in memory that it takes.
#[derive(Debug)]
pub struct Requester {
    pub agent: AuthenticatedAgent,
    pub slot: EvidenceSlot,
}

/// Evidence that an agent asked for.
#[derive(Debug)]
pub struct EvidenceResponse {
    agent: AuthenticatedAgent,
    document: EvidenceDocument,
    slot: EvidenceSlot,
}

/// As it is answered.
#[derive(Debug, serde::Serialize)]
#[serde(untagged)]
pub enum EvidenceDocument {
    Evidence(Box<Evidence>),
    Eat { eat: String },
}

impl EvidenceResponse {
    pub fn agent(&self) -> &AuthenticatedAgent {
        &self.agent
    }

    /// The answer's text in JSON. Blocking for a while, where the lists are long.
    pub fn into_json(self) -> Result<bytes::Bytes, serde_json::Error> {
        let json = serde_json::to_vec(&self.document)?;
        Ok(self.slot.guard_bytes(json))
    }
}

impl IssuerState {
    /// Has the TPM quote its PCRs for this nonce, and puts together what a verifier needs.
    pub async fn attest(
        &self,
        tpm: &Tpm,
        logs: MeasurementLogs,
        Requester { agent, slot }: Requester,
        request: &AttestRequest,
        certificate: Option<&HostCertificate>,
        now: Timestamp,
    ) -> Result<EvidenceResponse, Refusal> {
        match self.build_document(tpm, logs, request, certificate, now).await {
            Ok(document) => Ok(EvidenceResponse { agent, document, slot }),
            Err(e) => {
                let refusal = Refusal::new(ErrorCode::TemporarilyUnavailable, e.to_string());
                Err(refusal.with_peer(agent.peer()).with_agent(agent.name()))
            }
        }
    }

    async fn build_document(
        &self,
        tpm: &Tpm,
        logs: MeasurementLogs,
        request: &AttestRequest,
        certificate: Option<&HostCertificate>,
        now: Timestamp,
    ) -> Result<EvidenceDocument, Error> {
        let evidence = self.collect_evidence(tpm, logs, &request.nonce, certificate).await?;
        if request.format == EvidenceFormat::Evidence {
            return Ok(EvidenceDocument::Evidence(Box::new(evidence)));
        }
        let key_error = |e: crate::verify::Error| Error::Key(e.to_string());
        let (host_key, ek_digest) =
            (evidence.host_key().map_err(key_error)?, evidence.ek_digest().map_err(key_error)?);
        let header = serde_json::json!({ "alg": "ES256", "kid": host_key.kid, "typ": eat::EAT_TYP });
        let claims = eat::EatClaims {
            eat_nonce: request.nonce.to_base64url(),
            ueid: eat::ueid(&ek_digest),
            eat_profile: eat::EAT_PROFILE.to_owned(),
            iat: now.as_secs(),
            swname: "hostbadged".to_owned(),
            swversion: vec![env!("CARGO_PKG_VERSION").to_owned()],
            hostbadge_evidence: evidence,
        };
        // Some tens of megabytes, where the lists are long.
        let unsigned = move || {
            let claims = serde_json::to_vec(&claims).map_err(|e| Error::Key(e.to_string()))?;
            endorsement::unsigned_jws(&header, &claims)
        };
        let unsigned =
            tokio::task::spawn_blocking(unsigned).await.map_err(|e| Error::Key(e.to_string()))??;
        Ok(EvidenceDocument::Eat { eat: unsigned.sign(tpm).await? })
    }

    pub(super) async fn collect_evidence(
        &self,
        tpm: &Tpm,
        logs: MeasurementLogs,
        nonce: &Nonce,
        certificate: Option<&HostCertificate>,
    ) -> Result<Evidence, tpm::Error> {
        let eks = tpm.ek_info().await?;
        let attestation = tpm.attest(QUOTED_PCRS.collect(), qualifying_data(&nonce.0)).await?;
        // After the quote: what the kernel measured before it is in the list, and what it measured since is not believed.
        let base64 = |log: Option<Vec<u8>>| log.map(|log| BASE64.encode(&log));
        let read_logs = move || {
            let (ima, missing) = match logs.ima.map_or(Ok(None), |list| list.read()) {
                Ok(list) => (list, None),
                Err(omitted) => (None, Some(omitted.to_string())),
            };
            (base64(logs.boot.read()), base64(ima), missing)
        };
        let (event_log, ima_log, ima_log_missing) =
            tokio::task::spawn_blocking(read_logs).await.unwrap_or_default();
        // One that was given to an earlier key of this host says nothing of this one.
        let host_key = PublicKey::parse(&attestation.host_key_public).ok();
        let own_certificate =
            certificate.filter(|certificate| host_key.is_some_and(|key| certificate.is_for_key(&key.point)));
        let chain = own_certificate.map(HostCertificate::chain).unwrap_or_default();
        let signed = |attest: &[u8], signature: &[u8]| SignedAttestation {
            attest: BASE64.encode(attest),
            signature: BASE64.encode(signature),
        };
        Ok(Evidence {
            version: EVIDENCE_VERSION,
            host: self.host().id.clone(),
            nonce: nonce.to_base64url(),
            ek: BASE64.encode(&attestation.ek_public),
            ek_certificate: eks.p256.certificate.map(|der| BASE64.encode(&der)),
            rsa_ek: eks.rsa.as_ref().map(|ek| BASE64.encode(&ek.public)),
            rsa_ek_certificate: eks.rsa.and_then(|ek| ek.certificate).map(|der| BASE64.encode(&der)),
            ek_chain: eks.chain.iter().map(|der| BASE64.encode(der)).collect(),
            host_certificate: chain.iter().map(|der| BASE64.encode(der)).collect(),
            srk: HEXLOWER.encode(&attestation.srk_name),
            ak: BASE64.encode(&attestation.ak_public),
            quote: signed(&attestation.quote, &attestation.signature),
            pcrs: attestation.pcrs.iter().map(|(number, value)| (*number, HEXLOWER.encode(value))).collect(),
            event_log,
            ima_log,
            ima_log_missing,
            host_key: BASE64.encode(&attestation.host_key_public),
            certification: signed(&attestation.certification.attest, &attestation.certification.signature),
            endorsements: self.key_reports().iter().filter_map(|key| key.endorsement.clone()).collect(),
        })
    }
}
