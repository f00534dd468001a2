//! The evidence document.

use std::collections::BTreeMap;

use data_encoding::BASE64;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::digest::sha256;
use crate::json;
use crate::verify::certificates::HostCertificate;
use crate::verify::error::Error;
use crate::verify::jwks::Jwk;
use crate::verify::tpm_structures::PublicKey;

/// The newest format of the document.
///
/// Format 1 has no RSA EK, no issuers' certificates, no host certificate and no IMA list. Readers refuse
/// unknown members, so that these needed a new format.
pub const EVIDENCE_VERSION: u64 = 2;
const MIN_EVIDENCE_VERSION: u64 = 1;
/// Lengths of the nonces that are accepted, in bytes.
pub const NONCE_LEN: std::ops::RangeInclusive<usize> = 8..=64;
/// The largest document that is accepted, in bytes. Measurement logs make up most of it.
pub const MAX_EVIDENCE_SIZE: usize = 64 * 1024 * 1024;

/// The longest qualifying data that every TPM accepts, in bytes.
const MAX_QUALIFYING_DATA_LEN: usize = 32;

/// The evidence document: a quote, the keys that it depends on with their certificates, and the measurement
/// logs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// The format of the document: 1 or 2.
    pub version: u64,
    /// The host's id: the first 128 bits of SHA-256 over the Name of the P-256 EK, lower-case base32 without
    /// padding.
    pub host: String,
    /// The verifier's nonce, base64url. It is compared with the nonce in the quote.
    pub nonce: String,
    /// The P-256 EK: a TPM2B_PUBLIC, base64.
    pub ek: String,
    /// The certificate of the P-256 EK, if the TPM has one: DER in base64.
    pub ek_certificate: Option<String>,
    /// The RSA-2048 EK, if the TPM has a certificate for it: a TPM2B_PUBLIC, base64.
    #[serde(default)]
    pub rsa_ek: Option<String>,
    /// The certificate of the RSA EK: DER in base64.
    #[serde(default)]
    pub rsa_ek_certificate: Option<String>,
    /// Issuers' certificates that the TPM manufacturer stored in the TPM: DER in base64.
    #[serde(default)]
    pub ek_chain: Vec<String>,
    /// The organization's certificate for the host key, first, and its issuers' certificates: DER in base64.
    /// Empty where the host is not enrolled.
    #[serde(default)]
    pub host_certificate: Vec<String>,
    /// The Name of the SRK, in hexadecimal. The check "SRK" proves it: it is part of the signer's Name in the
    /// quote.
    pub srk: String,
    /// The attestation key: a TPM2B_PUBLIC, base64.
    pub ak: String,
    /// The AK's quote of `pcrs`. Its qualifying data is the nonce, or the nonce's SHA-256 if it is longer
    /// than 32 bytes.
    pub quote: SignedAttestation,
    /// Values of the SHA-256 bank by number, in hexadecimal. No number appears twice, so that every JSON
    /// parser reads the same value.
    #[serde(deserialize_with = "unique_pcrs")]
    pub pcrs: BTreeMap<u8, String>,
    /// The boot event log of firmware and boot loaders, as the kernel exports it, base64. See
    /// [`eventlog`](crate::verify::eventlog).
    pub event_log: Option<String>,
    /// The list of files that the kernel measured, as it exports it in `binary_runtime_measurements`, base64.
    /// Since format
    /// 2. See [`ima`](crate::verify::ima).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ima_log: Option<String>,
    /// Why the document does not contain the list, although the host has one. Since format 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ima_log_missing: Option<String>,
    /// The host key: a TPM2B_PUBLIC, base64.
    pub host_key: String,
    /// The AK's certification (`TPM2_Certify`) of the host key.
    pub certification: SignedAttestation,
    /// The host key's endorsements of issuing keys. Each is a JWS of type
    /// `hostbadge-endorsement+jwt`.
    pub endorsements: Vec<String>,
}

/// An attestation and its signature by the AK.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedAttestation {
    /// A TPMS_ATTEST, base64.
    pub attest: String,
    /// A TPMT_SIGNATURE, base64.
    pub signature: String,
}

/// The qualifying data of a quote for a nonce: the nonce, or its SHA-256 if it is longer than 32 bytes, which
/// is all that every TPM accepts.
pub fn qualifying_data(nonce: &[u8]) -> Vec<u8> {
    if nonce.len() <= MAX_QUALIFYING_DATA_LEN { nonce.to_vec() } else { sha256(nonce).to_vec() }
}

impl Evidence {
    /// Parses a document of at most 64 MiB in a supported format. See [`Evidence::check`] for its content.
    ///
    /// # Errors
    ///
    /// [`Error::Evidence`].
    pub fn parse(text: &[u8]) -> Result<Evidence, Error> {
        if text.len() > MAX_EVIDENCE_SIZE {
            return Err(Error::Evidence(format!("evidence is larger than {MAX_EVIDENCE_SIZE} bytes")));
        }
        let evidence: Evidence =
            json::from_object(text).map_err(|e| Error::Evidence(format!("not an evidence document: {e}")))?;
        evidence.check_version()?;
        Ok(evidence)
    }

    /// Checks that the document's format is supported and that the document conforms to it.
    pub(in crate::verify) fn check_version(&self) -> Result<(), Error> {
        match self.version {
            MIN_EVIDENCE_VERSION if self.ima_log.is_some() || self.ima_log_missing.is_some() => {
                Err(Error::Evidence("not an evidence document: one of format 1 has no IMA list".into()))
            }
            MIN_EVIDENCE_VERSION..=EVIDENCE_VERSION => Ok(()),
            other => Err(Error::Evidence(format!(
                "evidence of format {other}; this program supports formats {MIN_EVIDENCE_VERSION} to \
                 {EVIDENCE_VERSION}"
            ))),
        }
    }

    /// The host key. It is the host's if the checks "host key" and "host key's certification" pass.
    ///
    /// # Errors
    ///
    /// If it is not a P-256 key in a TPM2B_PUBLIC.
    pub fn host_key(&self) -> Result<Jwk, Error> {
        Ok(Jwk::from_point(&self.host_key_point()?))
    }

    /// The host key as an uncompressed point (SEC 1 section 2.3.3).
    ///
    /// # Errors
    ///
    /// As of [`Evidence::host_key`].
    pub fn host_key_point(&self) -> Result<[u8; 65], Error> {
        Ok(decode_public_key(&self.host_key)?.point)
    }

    /// SHA-256 over the EK's Name. Its first half is the host's id.
    ///
    /// # Errors
    ///
    /// If the EK is not a P-256 key in a TPM2B_PUBLIC.
    pub fn ek_digest(&self) -> Result<[u8; 32], Error> {
        Ok(sha256(&decode_public_key(&self.ek)?.name))
    }

    /// The Name of the attestation key.
    ///
    /// # Errors
    ///
    /// If the AK is not a P-256 key in a TPM2B_PUBLIC.
    pub fn ak_name(&self) -> Result<Vec<u8>, Error> {
        Ok(decode_public_key(&self.ak)?.name)
    }

    /// The organization's certificate for the host key, not verified; `None` where the host is not enrolled.
    ///
    /// # Errors
    ///
    /// If a certificate is malformed.
    pub fn host_certificate(&self) -> Result<Option<HostCertificate>, Error> {
        if self.host_certificate.is_empty() {
            return Ok(None);
        }
        HostCertificate::from_der(decode_base64_list(&self.host_certificate)?).map(Some)
    }
}

/// Reads PCR values, and refuses a number that appears twice.
fn unique_pcrs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<u8, String>, D::Error> {
    struct PcrVisitor;

    impl<'de> Visitor<'de> for PcrVisitor {
        type Value = BTreeMap<u8, String>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("PCR values by number")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<BTreeMap<u8, String>, A::Error> {
            let mut pcrs = BTreeMap::new();
            while let Some((number, value)) = map.next_entry()? {
                if pcrs.insert(number, value).is_some() {
                    return Err(A::Error::custom(format!("PCR {number} appears twice")));
                }
            }
            Ok(pcrs)
        }
    }

    deserializer.deserialize_map(PcrVisitor)
}

pub(super) fn decode_base64(text: &str) -> Result<Vec<u8>, Error> {
    BASE64.decode(text.as_bytes()).map_err(|e| Error::Evidence(format!("not base64: {e}")))
}

pub(super) fn decode_base64_list(texts: &[String]) -> Result<Vec<Vec<u8>>, Error> {
    texts.iter().map(|text| decode_base64(text)).collect()
}

/// Decodes a TPM2B_PUBLIC in base64.
pub(super) fn decode_public_key(text: &str) -> Result<PublicKey, Error> {
    PublicKey::parse(&decode_base64(text)?)
}
