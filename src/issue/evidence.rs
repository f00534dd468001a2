//! Evidence for a verifier far away: which host this is, what it booted, and which keys its TPM stands for.

use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};

use super::Standing;
use crate::agents::Agent;
use crate::policy::{Reason, Refusal};
use crate::tpm::{self, Tpm};
use crate::verify::HostCertificate;
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

/// Evidence that an agent asked for.
#[derive(Debug)]
pub struct Proof {
    agent: Agent,
    evidence: Evidence,
}

impl Proof {
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    pub fn evidence(&self) -> &Evidence {
        &self.evidence
    }
}

impl Standing {
    /// Has the TPM quote its PCRs for this nonce, and puts together what a verifier needs.
    pub async fn prove(
        &self,
        tpm: &Tpm,
        event_log: Option<Vec<u8>>,
        agent: Agent,
        nonce: &Nonce,
        certificate: Option<&HostCertificate>,
    ) -> Result<Proof, Refusal> {
        let made = self.evidence(tpm, event_log, nonce, certificate).await;
        let evidence = made.map_err(|e: tpm::Error| {
            Refusal::new(Reason::TemporarilyUnavailable, e.to_string()).by(agent.peer()).of(agent.name())
        })?;
        Ok(Proof { agent, evidence })
    }

    pub(super) async fn evidence(
        &self,
        tpm: &Tpm,
        event_log: Option<Vec<u8>>,
        nonce: &Nonce,
        certificate: Option<&HostCertificate>,
    ) -> Result<Evidence, tpm::Error> {
        let eks = tpm.endorsement().await?;
        let made = tpm.attest(PCRS.collect(), qualification(&nonce.0)).await?;
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
            event_log: event_log.map(|log| BASE64.encode(&log)),
            host_key: BASE64.encode(&made.host_key_public),
            certification: signed(&made.certification.attest, &made.certification.signature),
            endorsements: self.keys().iter().filter_map(|key| key.endorsement.clone()).collect(),
        })
    }
}
