//! Certificate signing requests (PKCS#10, RFC 2986). Only the key of a request is used: names and extensions
//! in it are ignored.

use data_encoding::BASE64;
use der::asn1::{Any, BitString, ObjectIdentifier};
use der::oid::db::{rfc5912, rfc8410};
use der::{Decode, Encode};
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ED25519,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, UnparsedPublicKey,
    VerificationAlgorithm,
};
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::{self, PemObject};
use x509_cert::request::CertReqInfo;
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};

use crate::digest::sha256;
use crate::verify::x509::{ec_public_key, key_id, p256_spki, split_signed};

/// Characters of a CSR in base64. A CSR for an RSA key of 4096 bits has about 1,700.
const MAX_CSR_LEN: usize = 16 * 1024;
/// Bytes of an RSAPublicKey of 4096 bits with a small exponent. Larger moduli make verification too expensive
/// for relying parties.
const MAX_RSA_KEY_LEN: usize = 540;
/// Shortest RSA key in bytes: RSAPublicKey with a modulus of 2048 bits and the exponent 3.
const MIN_RSA_KEY_LEN: usize = 268;

/// Why a certificate signing request is not accepted. The texts go to callers.
#[derive(Debug, thiserror::Error)]
pub enum CsrError {
    /// Longer than 16,384 characters.
    #[error("csr: it is larger than {MAX_CSR_LEN} characters")]
    TooLarge,
    /// Begins as PEM, but is not one.
    #[error("csr: not a PEM CERTIFICATE REQUEST: {0}")]
    Pem(pem::Error),
    /// Neither PEM nor base64.
    #[error("csr: it is neither PEM nor DER in base64")]
    Base64,
    /// Not a CertificationRequest in DER.
    #[error("csr: not a PKCS#10 request: {0}")]
    Pkcs10(der::Error),
    /// An algorithm, curve or size that is not supported.
    #[error(
        "csr: the key must be P-256, P-384, Ed25519 or RSA of 2048 to 4096 bits, and sign with SHA-256 or \
         SHA-384"
    )]
    UnsupportedKey,
    /// The self-signature does not verify.
    #[error("csr: it is not signed by the key that it is for")]
    Signature,
}

/// The public key that a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectKey {
    spki: Vec<u8>,
    key_id: [u8; 20],
}

impl SubjectKey {
    /// A P-256 key, from its uncompressed point.
    ///
    /// # Errors
    ///
    /// If the key cannot be encoded.
    pub(super) fn from_point(point: &[u8; 65]) -> der::Result<SubjectKey> {
        Ok(SubjectKey { spki: p256_spki(point)?.to_der()?, key_id: key_id(point) })
    }

    /// The key of a CSR, in PEM or in base64 of DER, which the key itself has signed.
    ///
    /// # Errors
    ///
    /// If the CSR is malformed or larger than 16,384 characters, if the key is not P-256, P-384, Ed25519 or
    /// RSA of 2048 to 4096 bits, or if the signature does not verify.
    pub fn from_csr(text: &str) -> Result<SubjectKey, CsrError> {
        if text.len() > MAX_CSR_LEN {
            return Err(CsrError::TooLarge);
        }
        let der = if text.contains("-----BEGIN") {
            // Older tools write the label with "NEW" (RFC 7468, section 7).
            let text = text.replace("NEW CERTIFICATE REQUEST", "CERTIFICATE REQUEST");
            CertificateSigningRequestDer::from_pem_slice(text.as_bytes()).map_err(CsrError::Pem)?.to_vec()
        } else {
            let text: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
            BASE64.decode(text.as_bytes()).map_err(|_| CsrError::Base64)?
        };
        SubjectKey::from_der(&der)
    }

    /// The first 64 bits of a digest of the public key.
    pub(super) fn short_digest(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = sha256(&self.spki);
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    fn from_der(request: &[u8]) -> Result<SubjectKey, CsrError> {
        let (info, algorithm, signature) = split_signed(request).map_err(CsrError::Pkcs10)?;
        let key = CertReqInfo::from_der(info).map_err(CsrError::Pkcs10)?.public_key;
        let curve =
            key.algorithm.parameters.as_ref().and_then(|any| any.decode_as::<ObjectIdentifier>().ok());
        let public_key = key.subject_public_key.as_bytes().ok_or(CsrError::UnsupportedKey)?;
        let verifier = select_verifier(key.algorithm.oid, curve, algorithm.oid, public_key)?;
        let signature = signature.as_bytes().ok_or(CsrError::Signature)?;
        UnparsedPublicKey::new(verifier, public_key)
            .verify(info, signature)
            .map_err(|_| CsrError::Signature)?;
        let spki = SubjectPublicKeyInfoOwned {
            algorithm: canonical_algorithm(key.algorithm.oid, curve).map_err(CsrError::Pkcs10)?,
            subject_public_key: BitString::from_bytes(public_key).map_err(CsrError::Pkcs10)?,
        };
        let spki = spki.to_der().map_err(CsrError::Pkcs10)?;
        Ok(SubjectKey { spki, key_id: key_id(public_key) })
    }

    /// The SubjectPublicKeyInfo in DER, with the parameters that the algorithm prescribes.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// The subjectKeyIdentifier: the first 160 bits of SHA-256 over the key (RFC 7093, section 2, method 1).
    pub(super) fn key_id(&self) -> [u8; 20] {
        self.key_id
    }
}

/// How ring verifies a signature of this algorithm by such a key.
fn select_verifier(
    key_oid: ObjectIdentifier,
    curve: Option<ObjectIdentifier>,
    signature_oid: ObjectIdentifier,
    public_key: &[u8],
) -> Result<&'static dyn VerificationAlgorithm, CsrError> {
    use rfc5912::{
        ECDSA_WITH_SHA_256, ECDSA_WITH_SHA_384, ID_EC_PUBLIC_KEY, RSA_ENCRYPTION, SECP_256_R_1, SECP_384_R_1,
        SHA_256_WITH_RSA_ENCRYPTION, SHA_384_WITH_RSA_ENCRYPTION, SHA_512_WITH_RSA_ENCRYPTION,
    };
    use rfc8410::ID_ED_25519;
    Ok(match (key_oid, curve, signature_oid) {
        (ID_EC_PUBLIC_KEY, Some(SECP_256_R_1), ECDSA_WITH_SHA_256) => &ECDSA_P256_SHA256_ASN1,
        (ID_EC_PUBLIC_KEY, Some(SECP_256_R_1), ECDSA_WITH_SHA_384) => &ECDSA_P256_SHA384_ASN1,
        (ID_EC_PUBLIC_KEY, Some(SECP_384_R_1), ECDSA_WITH_SHA_256) => &ECDSA_P384_SHA256_ASN1,
        (ID_EC_PUBLIC_KEY, Some(SECP_384_R_1), ECDSA_WITH_SHA_384) => &ECDSA_P384_SHA384_ASN1,
        (ID_ED_25519, _, ID_ED_25519) => &ED25519,
        (RSA_ENCRYPTION, ..) if !(MIN_RSA_KEY_LEN..=MAX_RSA_KEY_LEN).contains(&public_key.len()) => {
            return Err(CsrError::UnsupportedKey);
        }
        (RSA_ENCRYPTION, _, SHA_256_WITH_RSA_ENCRYPTION) => &RSA_PKCS1_2048_8192_SHA256,
        (RSA_ENCRYPTION, _, SHA_384_WITH_RSA_ENCRYPTION) => &RSA_PKCS1_2048_8192_SHA384,
        (RSA_ENCRYPTION, _, SHA_512_WITH_RSA_ENCRYPTION) => &RSA_PKCS1_2048_8192_SHA512,
        _ => return Err(CsrError::UnsupportedKey),
    })
}

/// The AlgorithmIdentifier of a supported key: a named curve, NULL for RSA (RFC 3279), nothing for Ed25519
/// (RFC 8410).
fn canonical_algorithm(
    oid: ObjectIdentifier,
    curve: Option<ObjectIdentifier>,
) -> der::Result<AlgorithmIdentifierOwned> {
    match (oid, curve) {
        (rfc5912::ID_EC_PUBLIC_KEY, Some(curve)) => ec_public_key(curve),
        (rfc5912::RSA_ENCRYPTION, _) => Ok(AlgorithmIdentifierOwned { oid, parameters: Some(Any::null()) }),
        _ => Ok(AlgorithmIdentifierOwned { oid, parameters: None }),
    }
}
