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
use crate::verify::der::{self, bits, oid, sequence, tlv};

/// A request for an RSA key of 4096 bits has some 1,700 bytes; whoever asks for many names gets none of them.
const LARGEST: usize = 16 * 1024;
/// RSAPublicKey of 4096 bits with a small exponent, and little more. Larger moduli cost whoever checks too much.
const LARGEST_RSA: usize = 540;

const RSA: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x01];
const RSA_SHA384: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x0C];
const RSA_SHA512: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x0D];
/// id-Ed25519, 1.3.101.112 (RFC 8410).
const ED25519_KEY: &[u8] = &[0x2B, 0x65, 0x70];

/// The public key of whoever a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HolderKey {
    /// SubjectPublicKeyInfo, DER, written by us.
    info: Vec<u8>,
    id: [u8; 20],
}

impl HolderKey {
    /// A P-256 key that was made here.
    pub fn of_point(point: &[u8; 65]) -> HolderKey {
        HolderKey { info: der::p256_key(point), id: der::key_id(point) }
    }

    /// From a request, PEM or DER in base64, that the key itself has signed.
    pub fn from_csr(text: &str) -> Result<HolderKey, Error> {
        if text.len() > LARGEST {
            return Err(fault(format!("it is larger than {LARGEST} characters")));
        }
        let der = match text.contains("-----BEGIN") {
            true => {
                // As some tools of old write it (RFC 7468, section 7).
                let text = text.replace("NEW CERTIFICATE REQUEST", "CERTIFICATE REQUEST");
                let der = CertificateSigningRequestDer::from_pem_slice(text.as_bytes());
                der.map_err(|e| fault(format!("this is no PEM of a CERTIFICATE REQUEST: {e}")))?.to_vec()
            }
            false => {
                let text: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
                let der = BASE64.decode(text.as_bytes());
                der.map_err(|_| fault("it is neither PEM nor DER in base64"))?
            }
        };
        HolderKey::from_der(&der)
    }

    fn from_der(request: &[u8]) -> Result<HolderKey, Error> {
        let (signed, algorithm, signature) =
            parts(request).map_err(|e| fault(format!("this is no PKCS#10 request: {e}")))?;
        let info =
            CertReqInfo::from_der(signed).map_err(|e| fault(format!("this is no PKCS#10 request: {e}")))?;
        let key = &info.public_key;
        let curve =
            key.algorithm.parameters.as_ref().and_then(|any| any.decode_as::<ObjectIdentifier>().ok());
        let curve = curve.as_ref().map_or(&[][..], |curve| curve.as_bytes());
        let point = key.subject_public_key.as_bytes().ok_or_else(unfit)?;
        let (check, kind) = check(key.algorithm.oid.as_bytes(), curve, algorithm.oid.as_bytes(), point)?;
        let signature = signature.as_bytes().ok_or_else(unsigned)?;
        UnparsedPublicKey::new(check, point).verify(signed, signature).map_err(|_| unsigned())?;
        Ok(HolderKey { info: sequence(&[&kind, &bits(point)]), id: der::key_id(point) })
    }

    /// SubjectPublicKeyInfo, DER.
    pub fn info(&self) -> &[u8] {
        &self.info
    }

    pub fn id(&self) -> [u8; 20] {
        self.id
    }
}

/// What is signed, as it was sent; by what; and the signature.
fn parts(request: &[u8]) -> Result<(&[u8], AlgorithmIdentifierOwned, BitString), x509_cert::der::Error> {
    let mut reader = SliceReader::new(request)?;
    let parts = reader.sequence(|inner: &mut SliceReader<'_>| {
        Ok::<_, x509_cert::der::Error>((inner.tlv_bytes()?, inner.decode()?, inner.decode()?))
    })?;
    reader.finish()?;
    Ok(parts)
}

/// How a signature by such a key is checked, and its AlgorithmIdentifier.
fn check(
    key: &[u8],
    curve: &[u8],
    signature: &[u8],
    point: &[u8],
) -> Result<(&'static dyn VerificationAlgorithm, Vec<u8>), Error> {
    let algorithm: &'static dyn VerificationAlgorithm = match (key, curve, signature) {
        (der::EC_PUBLIC_KEY, der::PRIME256V1, der::ECDSA_SHA256) => &ECDSA_P256_SHA256_ASN1,
        (der::EC_PUBLIC_KEY, der::PRIME256V1, der::ECDSA_SHA384) => &ECDSA_P256_SHA384_ASN1,
        (der::EC_PUBLIC_KEY, der::SECP384R1, der::ECDSA_SHA256) => &ECDSA_P384_SHA256_ASN1,
        (der::EC_PUBLIC_KEY, der::SECP384R1, der::ECDSA_SHA384) => &ECDSA_P384_SHA384_ASN1,
        (ED25519_KEY, _, ED25519_KEY) => &ED25519,
        (RSA, ..) if point.len() > LARGEST_RSA => return Err(unfit()),
        (RSA, _, der::RSA_SHA256) => &RSA_PKCS1_2048_8192_SHA256,
        (RSA, _, RSA_SHA384) => &RSA_PKCS1_2048_8192_SHA384,
        (RSA, _, RSA_SHA512) => &RSA_PKCS1_2048_8192_SHA512,
        _ => return Err(unfit()),
    };
    let kind = match key {
        der::EC_PUBLIC_KEY => sequence(&[&oid(key), &oid(curve)]),
        RSA => sequence(&[&oid(key), &tlv(0x05, &[])]),
        _ => sequence(&[&oid(key)]),
    };
    Ok((algorithm, kind))
}

fn fault(what: impl Into<String>) -> Error {
    Error::Csr(what.into())
}

fn unfit() -> Error {
    fault(
        "the key is to be P-256, P-384, Ed25519 or RSA of 2048 to 4096 bits, and to sign with SHA-256 or SHA-384",
    )
}

fn unsigned() -> Error {
    fault("it is not signed by the key that it is for")
}
