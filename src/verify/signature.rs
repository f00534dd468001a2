//! Signatures of certificates, by the algorithms that webpki has from ring.

use der::Encode;
use der::oid::ObjectIdentifier;
use der::oid::db::rfc5912;
use rustls_pki_types::SignatureVerificationAlgorithm;
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};

use super::x509::split_signed;

/// ecdsa-with-SHA1 (RFC 3279, section 2.2.3).
const ECDSA_WITH_SHA_1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.1");

/// Why a certificate's signature is not accepted. Each text is a predicate of the certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SignatureFault {
    /// A part cannot be parsed.
    #[error("it is malformed")]
    Malformed,
    /// The signed part and the signature name different algorithms.
    #[error("it names two signature algorithms")]
    TwoAlgorithms,
    /// SHA-1 does not prevent forgeries.
    #[error("its signature is made with SHA-1")]
    Sha1,
    /// ring does not have the algorithm, for a key of this kind.
    #[error("its signature algorithm {0} is not supported, for a key as its issuer's")]
    Unsupported(ObjectIdentifier),
    /// The issuer's key did not make the signature.
    #[error("its signature is not by its issuer's key")]
    Invalid,
}

/// Checks the signature of a certificate (DER) by its issuer's key. `algorithm` is the one that the signed
/// part names.
pub(super) fn verify_signature(
    der: &[u8],
    algorithm: &AlgorithmIdentifierOwned,
    issuer: &SubjectPublicKeyInfoOwned,
) -> Result<(), SignatureFault> {
    let malformed = |_| SignatureFault::Malformed;
    let (content, outer_algorithm, signature) = split_signed(der).map_err(malformed)?;
    if *algorithm != outer_algorithm {
        return Err(SignatureFault::TwoAlgorithms);
    }
    if [rfc5912::SHA_1_WITH_RSA_ENCRYPTION, ECDSA_WITH_SHA_1].contains(&algorithm.oid) {
        return Err(SignatureFault::Sha1);
    }
    let (Some(signature), Some(key)) = (signature.as_bytes(), issuer.subject_public_key.as_bytes()) else {
        return Err(SignatureFault::Malformed);
    };
    let key_algorithm = identifier(&issuer.algorithm).map_err(malformed)?;
    let signature_algorithm = identifier(algorithm).map_err(malformed)?;
    let mut candidates = webpki::ALL_VERIFICATION_ALGS
        .iter()
        .filter(|it| {
            *it.signature_alg_id() == *signature_algorithm && *it.public_key_alg_id() == *key_algorithm
        })
        .peekable();
    if candidates.peek().is_none() {
        return Err(SignatureFault::Unsupported(algorithm.oid));
    }
    let verifies =
        |it: &&dyn SignatureVerificationAlgorithm| it.verify_signature(key, content, signature).is_ok();
    if candidates.any(verifies) { Ok(()) } else { Err(SignatureFault::Invalid) }
}

/// The content of an AlgorithmIdentifier, without the tag and the length of its SEQUENCE: the form in which
/// webpki names algorithms. Those that it knows are shorter than 128 bytes.
fn identifier(algorithm: &AlgorithmIdentifierOwned) -> der::Result<Vec<u8>> {
    Ok(algorithm.to_der()?.get(2..).unwrap_or_default().to_vec())
}
