//! An organization's CA: its certificate and its key, from PEM files.

use der::asn1::{Any, AnyRef};
use der::oid::db::rfc5912;
use der::{Encode, EncodeValue, Sequence, Tag};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256,
    RsaKeyPair,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_cert::Certificate;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage, SubjectKeyIdentifier};
use x509_cert::name::Name;
use x509_cert::spki::AlgorithmIdentifierOwned;
use zeroize::Zeroizing;

use super::error::{Error, OrganizationCaError};
use crate::clock::Timestamp;
use crate::verify::x509::{ec_public_key, ecdsa_with_sha256};
use crate::verify::{not_after, parse_certificate};

/// An organization's CA, with the key that signs for it.
#[derive(Debug)]
pub struct OrganizationCa {
    key: CaSigningKey,
    signature_algorithm: AlgorithmIdentifierOwned,
    subject: Name,
    key_id: Option<Vec<u8>>,
    not_after: Timestamp,
    /// How many CAs may be between it and an end entity; `None` if unbounded.
    path_length: Option<u8>,
    /// DER: its own certificate, then those above it.
    chain: Vec<Vec<u8>>,
}

#[derive(Debug)]
enum CaSigningKey {
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

impl OrganizationCa {
    /// Parses two PEM files: the CA's certificate, first of its chain, and its key (PKCS#8, SEC 1 or PKCS#1;
    /// P-256, P-384 or RSA).
    ///
    /// # Errors
    ///
    /// If a file is malformed, the certificate is not for signing certificates, or the key is not the
    /// certificate's.
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<OrganizationCa, Error> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificates).collect();
        let chain = chain.map_err(OrganizationCaError::CertificatePem)?;
        let first = chain.first().ok_or(OrganizationCaError::NoCertificate)?;
        let certificate = parse_certificate(first).map_err(OrganizationCaError::Certificate)?;
        check_is_ca(&certificate)?;
        let key = CaSigningKey::from_pem(key)?;
        let tbs = certificate.tbs_certificate();
        let public_key = &tbs.subject_public_key_info().subject_public_key;
        if public_key.as_bytes() != Some(key.public_key()) {
            return Err(OrganizationCaError::OtherKey.into());
        }
        let constraints = tbs.get_extension::<BasicConstraints>().ok().flatten();
        let id = tbs.get_extension::<SubjectKeyIdentifier>().ok().flatten();
        Ok(OrganizationCa {
            path_length: constraints.and_then(|(_, constraints)| constraints.path_len_constraint),
            signature_algorithm: key.signature_algorithm(),
            subject: tbs.subject().clone(),
            key_id: id.map(|(_, id)| id.0.into_bytes().into_vec()),
            not_after: not_after(&certificate),
            chain: chain.iter().map(|one| one.to_vec()).collect(),
            key,
        })
    }

    /// The algorithm of its signatures.
    pub(super) fn signature_algorithm(&self) -> &AlgorithmIdentifierOwned {
        &self.signature_algorithm
    }

    pub(super) fn subject(&self) -> &Name {
        &self.subject
    }

    /// Its subjectKeyIdentifier.
    pub(super) fn key_id(&self) -> Option<&[u8]> {
        self.key_id.as_deref()
    }

    /// When its certificate expires.
    pub(super) fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Checks that a host may be a CA below it, and have a CA below itself.
    pub(super) fn check_can_certify_ca(&self) -> Result<(), OrganizationCaError> {
        match self.path_length {
            Some(length) if length < 2 => Err(OrganizationCaError::PathLength(length)),
            _ => Ok(()),
        }
    }

    /// The root (DER) that its chain ends with.
    ///
    /// # Errors
    ///
    /// If the last certificate of the file is not self-issued.
    pub fn root(&self) -> Result<&[u8], Error> {
        let last = self.chain.last().filter(|last| is_self_issued(last));
        last.map(Vec::as_slice).ok_or(OrganizationCaError::NoRoot.into())
    }

    /// The certificates (DER) that a verifier needs beside the host's and its trusted roots: all but roots.
    pub fn intermediates(&self) -> impl Iterator<Item = &[u8]> {
        self.chain.iter().map(Vec::as_slice).filter(|der| !is_self_issued(der))
    }

    /// The content of signatureValue for these bytes.
    pub(super) fn sign(&self, tbs: &[u8]) -> Result<Vec<u8>, Error> {
        let random = SystemRandom::new();
        match &self.key {
            CaSigningKey::P256(key) | CaSigningKey::P384(key) => {
                let signature = key.sign(&random, tbs).map_err(|_| Error::Random)?;
                Ok(signature.as_ref().to_vec())
            }
            CaSigningKey::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, tbs, &mut signature).map_err(|_| Error::Random)?;
                Ok(signature)
            }
        }
    }
}

impl CaSigningKey {
    fn from_pem(text: &[u8]) -> Result<CaSigningKey, Error> {
        let key = match &PrivateKeyDer::from_pem_slice(text).map_err(OrganizationCaError::KeyPem)? {
            PrivateKeyDer::Pkcs1(key) => {
                RsaKeyPair::from_der(key.secret_pkcs1_der()).map(CaSigningKey::Rsa).ok()
            }
            PrivateKeyDer::Pkcs8(key) => CaSigningKey::from_pkcs8(key.secret_pkcs8_der()),
            PrivateKeyDer::Sec1(key) => CaSigningKey::from_sec1(key.secret_sec1_der())?,
            _ => None,
        };
        key.ok_or(OrganizationCaError::UnsupportedKey.into())
    }

    fn from_pkcs8(der: &[u8]) -> Option<CaSigningKey> {
        let random = SystemRandom::new();
        let p256 = || {
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der, &random)
                .map(CaSigningKey::P256)
                .ok()
        };
        let p384 = || {
            EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_ASN1_SIGNING, der, &random)
                .map(CaSigningKey::P384)
                .ok()
        };
        p256().or_else(p384).or_else(|| RsaKeyPair::from_pkcs8(der).map(CaSigningKey::Rsa).ok())
    }

    /// ring reads EC keys as PKCS#8 alone: wraps an ECPrivateKey (RFC 5915) for each supported curve in turn.
    fn from_sec1(der: &[u8]) -> Result<Option<CaSigningKey>, Error> {
        for curve in [rfc5912::SECP_256_R_1, rfc5912::SECP_384_R_1] {
            let wrapped = PrivateKeyInfo {
                version: 0,
                algorithm: ec_public_key(curve)?,
                private_key: AnyRef::new(Tag::OctetString, der)?,
            };
            let pkcs8 = Zeroizing::new(wrapped.to_der()?);
            if let Some(key) = CaSigningKey::from_pkcs8(&pkcs8) {
                return Ok(Some(key));
            }
        }
        Ok(None)
    }

    /// The content of subjectPublicKey in a certificate for the key.
    fn public_key(&self) -> &[u8] {
        match self {
            CaSigningKey::P256(key) | CaSigningKey::P384(key) => key.public_key().as_ref(),
            CaSigningKey::Rsa(key) => key.public_key().as_ref(),
        }
    }

    fn signature_algorithm(&self) -> AlgorithmIdentifierOwned {
        match self {
            CaSigningKey::P256(_) => ecdsa_with_sha256(),
            CaSigningKey::P384(_) => {
                AlgorithmIdentifierOwned { oid: rfc5912::ECDSA_WITH_SHA_384, parameters: None }
            }
            // With parameters NULL (RFC 4055, section 5).
            CaSigningKey::Rsa(_) => AlgorithmIdentifierOwned {
                oid: rfc5912::SHA_256_WITH_RSA_ENCRYPTION,
                parameters: Some(Any::null()),
            },
        }
    }
}

/// PrivateKeyInfo (RFC 5208, section 5).
#[derive(EncodeValue)]
struct PrivateKeyInfo<'a> {
    version: u8,
    algorithm: AlgorithmIdentifierOwned,
    private_key: AnyRef<'a>,
}

impl Sequence<'_> for PrivateKeyInfo<'_> {}

fn is_self_issued(der: &[u8]) -> bool {
    parse_certificate(der).is_ok_and(|one| one.tbs_certificate().issuer() == one.tbs_certificate().subject())
}

/// Checks before signing what verifiers check of a CA's certificate.
fn check_is_ca(certificate: &Certificate) -> Result<(), OrganizationCaError> {
    let tbs = certificate.tbs_certificate();
    let constraints = tbs.get_extension::<BasicConstraints>().ok().flatten();
    if !constraints.is_some_and(|(_, constraints)| constraints.ca) {
        return Err(OrganizationCaError::NotCa);
    }
    match tbs.get_extension::<KeyUsage>().ok().flatten() {
        Some((_, usage)) if !usage.key_cert_sign() => Err(OrganizationCaError::NotForSigning),
        _ => Ok(()),
    }
}
