//! Certificate requests (PKCS#10, RFC 2986): of what they ask for, only the key counts.

use data_encoding::BASE64;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ED25519,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, UnparsedPublicKey,
    VerificationAlgorithm,
};
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject;
use x509_cert::der::asn1::{BitString, ObjectIdentifier};
use x509_cert::der::{Decode, Reader, SliceReader};
use x509_cert::request::CertReqInfo;
use x509_cert::spki::AlgorithmIdentifierOwned;

use super::Error;
use crate::verify::der::{self, bit_string, oid, sequence, tlv};

/// A request for an RSA key of 4096 bits has some 1,700 bytes; whoever asks for many names gets none of them.
const MAX_CSR_LEN: usize = 16 * 1024;
/// RSAPublicKey of 4096 bits with a small exponent, and little more. Larger moduli cost whoever checks too much.
const MAX_RSA_KEY_LEN: usize = 540;

const RSA_ENCRYPTION: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x01];
const RSA_SHA384: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x0C];
const RSA_SHA512: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x0D];
/// id-Ed25519, 1.3.101.112 (RFC 8410).
const ID_ED25519: &[u8] = &[0x2B, 0x65, 0x70];

/// The public key of whoever a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectKey {
    /// SubjectPublicKeyInfo, DER, written by us.
    spki: Vec<u8>,
    key_id: [u8; 20],
}

impl SubjectKey {
    /// A P-256 key that was made here.
    pub fn from_point(point: &[u8; 65]) -> SubjectKey {
        SubjectKey { spki: der::p256_spki(point), key_id: der::key_id(point) }
    }

    /// From a request, PEM or DER in base64, that the key itself has signed.
    pub fn from_csr(text: &str) -> Result<SubjectKey, Error> {
        if text.len() > MAX_CSR_LEN {
            return Err(csr_error(format!("it is larger than {MAX_CSR_LEN} characters")));
        }
        let der = match text.contains("-----BEGIN") {
            true => {
                // As some tools of old write it (RFC 7468, section 7).
                let text = text.replace("NEW CERTIFICATE REQUEST", "CERTIFICATE REQUEST");
                let der = CertificateSigningRequestDer::from_pem_slice(text.as_bytes());
                der.map_err(|e| csr_error(format!("this is no PEM of a CERTIFICATE REQUEST: {e}")))?.to_vec()
            }
            false => {
                let text: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
                let der = BASE64.decode(text.as_bytes());
                der.map_err(|_| csr_error("it is neither PEM nor DER in base64"))?
            }
        };
        SubjectKey::from_der(&der)
    }

    fn from_der(request: &[u8]) -> Result<SubjectKey, Error> {
        let (tbs, algorithm, signature) =
            split_request(request).map_err(|e| csr_error(format!("this is no PKCS#10 request: {e}")))?;
        let info =
            CertReqInfo::from_der(tbs).map_err(|e| csr_error(format!("this is no PKCS#10 request: {e}")))?;
        let key = &info.public_key;
        let curve =
            key.algorithm.parameters.as_ref().and_then(|any| any.decode_as::<ObjectIdentifier>().ok());
        let curve = curve.as_ref().map_or(&[][..], |curve| curve.as_bytes());
        let point = key.subject_public_key.as_bytes().ok_or_else(unsupported_key)?;
        let (verifier, algorithm_id) =
            select_verifier(key.algorithm.oid.as_bytes(), curve, algorithm.oid.as_bytes(), point)?;
        let signature = signature.as_bytes().ok_or_else(bad_self_signature)?;
        UnparsedPublicKey::new(verifier, point).verify(tbs, signature).map_err(|_| bad_self_signature())?;
        Ok(SubjectKey { spki: sequence(&[&algorithm_id, &bit_string(point)]), key_id: der::key_id(point) })
    }

    /// SubjectPublicKeyInfo, DER.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    pub fn key_id(&self) -> [u8; 20] {
        self.key_id
    }
}

/// What is signed, as it was sent; by what; and the signature.
fn split_request(
    request: &[u8],
) -> Result<(&[u8], AlgorithmIdentifierOwned, BitString), x509_cert::der::Error> {
    let mut reader = SliceReader::new(request)?;
    let parts = reader.sequence(|inner: &mut SliceReader<'_>| {
        Ok::<_, x509_cert::der::Error>((inner.tlv_bytes()?, inner.decode()?, inner.decode()?))
    })?;
    reader.finish()?;
    Ok(parts)
}

/// How a signature by such a key is checked, and its AlgorithmIdentifier.
fn select_verifier(
    key_oid: &[u8],
    curve_oid: &[u8],
    signature_oid: &[u8],
    public_key: &[u8],
) -> Result<(&'static dyn VerificationAlgorithm, Vec<u8>), Error> {
    let algorithm: &'static dyn VerificationAlgorithm = match (key_oid, curve_oid, signature_oid) {
        (der::EC_PUBLIC_KEY, der::PRIME256V1, der::ECDSA_SHA256) => &ECDSA_P256_SHA256_ASN1,
        (der::EC_PUBLIC_KEY, der::PRIME256V1, der::ECDSA_SHA384) => &ECDSA_P256_SHA384_ASN1,
        (der::EC_PUBLIC_KEY, der::SECP384R1, der::ECDSA_SHA256) => &ECDSA_P384_SHA256_ASN1,
        (der::EC_PUBLIC_KEY, der::SECP384R1, der::ECDSA_SHA384) => &ECDSA_P384_SHA384_ASN1,
        (ID_ED25519, _, ID_ED25519) => &ED25519,
        (RSA_ENCRYPTION, ..) if public_key.len() > MAX_RSA_KEY_LEN => return Err(unsupported_key()),
        (RSA_ENCRYPTION, _, der::RSA_SHA256) => &RSA_PKCS1_2048_8192_SHA256,
        (RSA_ENCRYPTION, _, RSA_SHA384) => &RSA_PKCS1_2048_8192_SHA384,
        (RSA_ENCRYPTION, _, RSA_SHA512) => &RSA_PKCS1_2048_8192_SHA512,
        _ => return Err(unsupported_key()),
    };
    let algorithm_id = match key_oid {
        der::EC_PUBLIC_KEY => sequence(&[&oid(key_oid), &oid(curve_oid)]),
        RSA_ENCRYPTION => sequence(&[&oid(key_oid), &tlv(0x05, &[])]),
        _ => sequence(&[&oid(key_oid)]),
    };
    Ok((algorithm, algorithm_id))
}

fn csr_error(message: impl Into<String>) -> Error {
    Error::Csr(message.into())
}

fn unsupported_key() -> Error {
    csr_error(
        "the key is to be P-256, P-384, Ed25519 or RSA of 2048 to 4096 bits, and to sign with SHA-256 or SHA-384",
    )
}

fn bad_self_signature() -> Error {
    csr_error("it is not signed by the key that it is for")
}
