//! Evidence for a remote verifier: which host this is, what it booted, and which keys its TPM certifies.

use std::sync::Arc;

use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};
use tokio::sync::Notify;

use super::error::Error;
use super::evidence_slots::EvidenceSlot;
use super::issuer::IssuerState;
use super::jws::{SigningHeader, UnsignedJws};
use super::report::KeyReport;
use crate::agents::AuthenticatedAgent;
use crate::clock::Timestamp;
use crate::policy::{AttestationPermit, ErrorCode, PolicySetId, Refusal};
use crate::posture::{EventLogFile, ImaListFile, Posture};
use crate::tpm::{self, Tpm};
use crate::verify::HostCertificate;
use crate::verify::eat;
use crate::verify::evidence::{
    EVIDENCE_VERSION, Evidence, NONCE_LEN, REQUIRED_PCRS, SignedAttestation, qualifying_data,
};
use crate::verify::tpm_structures::PublicKey;

/// A verifier's challenge: random bytes that it uses once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nonce(Vec<u8>);

impl Nonce {
    /// Decodes base64url without padding. The error is a text for the caller.
    pub fn parse(text: &str) -> Result<Nonce, String> {
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).ok();
        bytes.filter(|bytes| NONCE_LEN.contains(&bytes.len())).map(Nonce).ok_or_else(|| {
            let (min, max) = (NONCE_LEN.start(), NONCE_LEN.end());
            format!("a nonce is {min} to {max} bytes in base64url without padding")
        })
    }

    /// A digest as a nonce, for evidence that is bound to a document.
    pub(super) fn from_digest(digest: [u8; 32]) -> Nonce {
        Nonce(digest.to_vec())
    }

    /// The nonce in base64url without padding.
    pub fn to_base64url(&self) -> String {
        BASE64URL_NOPAD.encode(&self.0)
    }
}

/// The format of evidence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EvidenceFormat {
    /// The evidence document, in JSON.
    #[default]
    Evidence,
    /// An EAT (RFC 9711) with the document as a claim, signed by the host key.
    Eat,
}

/// A request for evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttestRequest {
    /// The verifier's nonce.
    pub nonce: Nonce,
    /// The format of the response.
    pub format: EvidenceFormat,
}

/// The measurement logs of the host.
#[derive(Clone, Debug)]
pub struct MeasurementLogs {
    /// The boot event log.
    pub boot: EventLogFile,
    /// The IMA list; `None` leaves it out.
    pub ima: Option<ImaListFile>,
}

/// The decision on a request for evidence, with the caller's slot.
#[derive(Debug)]
pub struct Requester {
    /// The decision.
    pub permit: AttestationPermit,
    /// Bounds the evidence in memory.
    pub slot: EvidenceSlot,
}

/// Evidence for an agent.
#[derive(Debug)]
pub struct EvidenceResponse {
    permit: AttestationPermit,
    document: EvidenceDocument,
    slot: EvidenceSlot,
}

/// The body of the response.
#[derive(Debug, serde::Serialize)]
#[serde(untagged)]
pub enum EvidenceDocument {
    /// [`EvidenceFormat::Evidence`]
    Evidence(Box<Evidence>),
    /// [`EvidenceFormat::Eat`]
    Eat {
        /// A compact JWS.
        eat: String,
    },
}

impl EvidenceResponse {
    /// The agent that requested it.
    pub fn agent(&self) -> &AuthenticatedAgent {
        self.permit.agent()
    }

    /// The posture at the decision.
    pub fn posture(&self) -> Posture {
        self.permit.posture()
    }

    /// The policies that were in force at the decision.
    pub fn policy(&self) -> Option<PolicySetId> {
        self.permit.policy()
    }

    /// The response in JSON, which occupies the slot. `recall` is notified when others wait for the slot.
    /// This blocks: the logs may have tens of megabytes.
    pub fn into_json(self, recall: Arc<Notify>) -> Result<bytes::Bytes, serde_json::Error> {
        let json = serde_json::to_vec(&self.document)?;
        Ok(self.slot.guard_bytes(json, recall))
    }
}

impl IssuerState {
    /// Has the TPM quote its PCRs for the nonce, and collects what a verifier needs.
    ///
    /// # Errors
    /// A refusal with [`ErrorCode::TemporarilyUnavailable`].
    pub async fn attest(
        &self,
        tpm: &Tpm,
        logs: MeasurementLogs,
        Requester { permit, slot }: Requester,
        request: &AttestRequest,
        certificate: Option<&HostCertificate>,
        now: Timestamp,
    ) -> Result<EvidenceResponse, Refusal> {
        let tenant = permit.agent().entry().tenant.as_deref();
        match self.build_document(tpm, logs, request, certificate, tenant, now).await {
            Ok(document) => Ok(EvidenceResponse { permit, document, slot }),
            Err(error) => Err(Refusal::new(ErrorCode::TemporarilyUnavailable, error.to_string())
                .with_peer(permit.agent().peer())
                .with_agent(permit.agent().name())),
        }
    }

    async fn build_document(
        &self,
        tpm: &Tpm,
        logs: MeasurementLogs,
        request: &AttestRequest,
        certificate: Option<&HostCertificate>,
        tenant: Option<&str>,
        now: Timestamp,
    ) -> Result<EvidenceDocument, Error> {
        let evidence = self.collect_evidence(tpm, logs, &request.nonce, certificate, tenant).await?;
        if request.format == EvidenceFormat::Evidence {
            return Ok(EvidenceDocument::Evidence(Box::new(evidence)));
        }
        let host_key = evidence.host_key().map_err(Error::Evidence)?;
        let ek_digest = evidence.ek_digest().map_err(Error::Evidence)?;
        let header = SigningHeader::for_tpm_key(&host_key, eat::EAT_TYP)?;
        let claims = eat::EatClaims {
            eat_nonce: request.nonce.to_base64url(),
            ueid: eat::ueid(&ek_digest),
            eat_profile: eat::EAT_PROFILE.to_owned(),
            iat: now.backdated().as_secs(),
            swname: "hostbadged".to_owned(),
            swversion: vec![env!("CARGO_PKG_VERSION").to_owned()],
            hostbadge_evidence: evidence,
        };
        // Encoding and hashing block: the logs may have tens of megabytes.
        let encode = move || -> Result<_, serde_json::Error> {
            let unsigned = UnsignedJws::new(&header, &serde_json::to_vec(&claims)?);
            let digest = unsigned.digest();
            Ok((unsigned, digest))
        };
        let (unsigned, digest) = tokio::task::spawn_blocking(encode).await??;
        let signature = tpm.host_sign(digest).await?;
        Ok(EvidenceDocument::Eat { eat: unsigned.with_signature(&signature) })
    }

    /// The evidence document for a nonce, with the host's certificate if it is for the current host key.
    pub(super) async fn collect_evidence(
        &self,
        tpm: &Tpm,
        logs: MeasurementLogs,
        nonce: &Nonce,
        certificate: Option<&HostCertificate>,
        tenant: Option<&str>,
    ) -> Result<Evidence, tpm::Error> {
        let eks = tpm.ek_info().await?;
        let attestation = tpm.attest(REQUIRED_PCRS.collect(), qualifying_data(&nonce.0)).await?;
        // Read after the quote, so that the list has every entry that the quoted PCR 10 covers. Verifiers
        // ignore later ones.
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
        // A certificate for an earlier host key does not certify this one.
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
            endorsements: self.endorsements_for(tenant),
        })
    }

    /// The endorsements of the host's keys and of those of a tenant: agents are not shown other tenants.
    fn endorsements_for(&self, tenant: Option<&str>) -> Vec<String> {
        let is_shown = |report: &&KeyReport| report.tenant.is_none() || report.tenant.as_deref() == tenant;
        let reports = self.key_reports().iter().filter(is_shown);
        reports.filter_map(|report| report.endorsement.clone()).collect()
    }
}
