//! An organisation's CA: its certificate and its key, from PEM files.

use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256,
    RsaKeyPair,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_cert::Certificate;
use x509_cert::der::Encode;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage, SubjectKeyIdentifier};
use zeroize::Zeroizing;

use super::Error;
use crate::clock::Timestamp;
use crate::verify::der::{self, integer, oid, sequence, tlv};
use crate::verify::parse_certificate;

/// A CA that can sign.
#[derive(Debug)]
pub struct OrganizationCa {
    key: CaSigningKey,
    signature_algorithm: Vec<u8>,
    /// Its subject, DER.
    subject: Vec<u8>,
    key_id: Option<Vec<u8>>,
    not_after: Timestamp,
    /// How many CAs may stand between it and a leaf, where that is bounded.
    path_length: Option<u8>,
    /// Its own certificate and those above it, DER.
    chain: Vec<Vec<u8>>,
}

#[derive(Debug)]
enum CaSigningKey {
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

impl OrganizationCa {
    /// From PEM: the CA's certificate, first of its chain, and its key (PKCS#8, SEC 1 or PKCS#1; P-256, P-384 or RSA).
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<OrganizationCa, Error> {
        let fault = |why: String| Error::OrganizationCa(why);
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificates).collect();
        let chain = chain.map_err(|e| fault(format!("its certificate is no PEM: {e}")))?;
        let first = chain.first().ok_or_else(|| fault("there is no certificate in the file".into()))?;
        let certificate = parse_certificate(first).map_err(|e| fault(e.to_string()))?;
        check_is_ca(&certificate)?;
        let key = CaSigningKey::from_pem(key)?;
        let spki = certificate.tbs_certificate().subject_public_key_info();
        if spki.subject_public_key.as_bytes() != Some(key.public_key()) {
            return Err(fault("it is not the one that the CA's certificate is for".into()));
        }
        let tbs = certificate.tbs_certificate();
        let constraints = tbs.get_extension::<BasicConstraints>().ok().flatten();
        let id = tbs.get_extension::<SubjectKeyIdentifier>().ok().flatten();
        Ok(OrganizationCa {
            path_length: constraints.and_then(|(_, constraints)| constraints.path_len_constraint),
            signature_algorithm: key.signature_algorithm(),
            subject: tbs.subject().to_der().map_err(|e| fault(e.to_string()))?,
            key_id: id.map(|(_, id)| id.0.into_bytes().into_vec()),
            not_after: Timestamp::from_secs(tbs.validity().not_after.to_unix_duration().as_secs()),
            chain: chain.iter().map(|one| one.to_vec()).collect(),
            key,
        })
    }

    /// Its AlgorithmIdentifier, DER.
    pub fn signature_algorithm(&self) -> &[u8] {
        &self.signature_algorithm
    }

    pub fn subject(&self) -> &[u8] {
        &self.subject
    }

    pub fn key_id(&self) -> Option<&[u8]> {
        self.key_id.as_deref()
    }

    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Whether a host may be a CA below it, and have a CA below itself.
    pub fn check_can_certify_ca(&self) -> Result<(), Error> {
        match self.path_length {
            Some(length) if length < 2 => Err(Error::OrganizationCa(format!(
                "its certificate lets {length} CAs stand below it, and a host that signs needs two; use another CA, or \
                 leave out --signing"
            ))),
            _ => Ok(()),
        }
    }

    /// The root that its chain ends with.
    pub fn root(&self) -> Option<&[u8]> {
        let root = self.chain.last()?;
        (!self.intermediates().any(|der| der == root.as_slice())).then_some(root.as_slice())
    }

    /// What a verifier needs beside the host's certificate: all but a root, which it has or must not take from others.
    pub fn intermediates(&self) -> impl Iterator<Item = &[u8]> {
        let is_root = |der: &[u8]| {
            parse_certificate(der)
                .is_ok_and(|one| one.tbs_certificate().issuer() == one.tbs_certificate().subject())
        };
        self.chain.iter().map(Vec::as_slice).filter(move |der| !is_root(der))
    }

    /// The signature as certificates hold it.
    pub fn sign(&self, tbs: &[u8]) -> Result<Vec<u8>, Error> {
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
        let read = PrivateKeyDer::from_pem_slice(text).map_err(|e| {
            Error::OrganizationCa(format!("there is no unencrypted PEM key in the file: {e}"))
        })?;
        let unsupported =
            || Error::OrganizationCa("it is neither P-256, P-384 nor RSA of 2048 bits and more".into());
        match &read {
            PrivateKeyDer::Pkcs1(key) => {
                RsaKeyPair::from_der(key.secret_pkcs1_der()).map(CaSigningKey::Rsa).map_err(|_| unsupported())
            }
            PrivateKeyDer::Pkcs8(key) => {
                CaSigningKey::from_pkcs8(key.secret_pkcs8_der()).ok_or_else(unsupported)
            }
            PrivateKeyDer::Sec1(key) => [der::PRIME256V1, der::SECP384R1]
                .iter()
                .find_map(|curve| {
                    let algorithm = sequence(&[&oid(der::EC_PUBLIC_KEY), &oid(curve)]);
                    let secret = Zeroizing::new(tlv(der::OCTET_STRING, &[key.secret_sec1_der()]));
                    CaSigningKey::from_pkcs8(&Zeroizing::new(sequence(&[
                        &integer(&[0]),
                        &algorithm,
                        &secret,
                    ])))
                })
                .ok_or_else(unsupported),
            _ => Err(unsupported()),
        }
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

    /// As it stands in a certificate, without the algorithm.
    fn public_key(&self) -> &[u8] {
        match self {
            CaSigningKey::P256(key) | CaSigningKey::P384(key) => key.public_key().as_ref(),
            CaSigningKey::Rsa(key) => key.public_key().as_ref(),
        }
    }

    fn signature_algorithm(&self) -> Vec<u8> {
        match self {
            CaSigningKey::P256(_) => sequence(&[&oid(der::ECDSA_SHA256)]),
            CaSigningKey::P384(_) => sequence(&[&oid(der::ECDSA_SHA384)]),
            CaSigningKey::Rsa(_) => sequence(&[&oid(der::RSA_SHA256), &tlv(0x05, &[])]),
        }
    }
}

/// What a verifier will ask of the CA's certificate is better asked before it signs.
fn check_is_ca(certificate: &Certificate) -> Result<(), Error> {
    let tbs = certificate.tbs_certificate();
    let constraints = tbs.get_extension::<BasicConstraints>().ok().flatten();
    if !constraints.is_some_and(|(_, constraints)| constraints.ca) {
        return Err(Error::OrganizationCa("its certificate is not a CA's".into()));
    }
    let usage = tbs.get_extension::<KeyUsage>();
    match usage.ok().flatten() {
        Some((_, usage)) if !usage.key_cert_sign() => {
            Err(Error::OrganizationCa("its certificate is not for signing certificates".into()))
        }
        _ => Ok(()),
    }
}
