//! Verifies a chain of CA certificates up to a root that is part of it (RFC 5280, section 6).
//!
//! webpki verifies paths of end entities alone. This chain is one of CAs: its first certificate makes a host
//! a CA, and what that host will sign does not exist yet.

use der::Encode;
use der::oid::db::rfc5280;
use rustls_pki_types::SignatureVerificationAlgorithm;
use x509_cert::Certificate;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage};
use x509_cert::spki::AlgorithmIdentifierOwned;

use super::certificates::{MAX_CHAIN_LEN, parse_certificate};
use super::error::Error;
use super::x509::split_signed;
use crate::clock::Timestamp;

/// Checks each certificate of `chain` (DER, the first CA first, the root last): the signature by the next
/// one, and the root's by itself; the validity at `now`; basic constraints, with a path length that allows
/// the certificates before it and one more CA below the first; key usage; and that no critical extension is
/// unknown.
///
/// # Errors
///
/// [`Error::Certificate`] with the certificate's subject and what is wrong with it.
pub(crate) fn verify_ca_chain(chain: &[Vec<u8>], now: Timestamp) -> Result<(), Error> {
    if chain.is_empty() || chain.len() > MAX_CHAIN_LEN {
        return Err(Error::Certificate(format!("a chain has 1 to {MAX_CHAIN_LEN} certificates")));
    }
    let parsed = chain.iter().map(|der| parse_certificate(der)).collect::<Result<Vec<_>, _>>()?;
    for (at, (certificate, der)) in parsed.iter().zip(chain).enumerate() {
        let fault = |reason: &str| {
            let subject = certificate.tbs_certificate().subject().to_string();
            Error::Certificate(format!("the certificate of {}: {reason}", subject.escape_debug()))
        };
        check_validity(certificate, now).map_err(fault)?;
        check_is_ca(certificate, at + 1).map_err(fault)?;
        check_extensions(certificate).map_err(fault)?;
        // The root is its own issuer.
        let issuer = parsed.get(at + 1).unwrap_or(certificate);
        check_signature(certificate, der, issuer).map_err(fault)?;
    }
    Ok(())
}

fn check_validity(certificate: &Certificate, now: Timestamp) -> Result<(), &'static str> {
    let validity = certificate.tbs_certificate().validity();
    if validity.not_before.to_unix_duration().as_secs() > now.as_secs() {
        return Err("it is not valid yet");
    }
    if validity.not_after.to_unix_duration().as_secs() <= now.as_secs() {
        return Err("it has expired");
    }
    Ok(())
}

/// Checks that a certificate is a CA's, with `cas_below` CAs below it.
fn check_is_ca(certificate: &Certificate, cas_below: usize) -> Result<(), &'static str> {
    let tbs = certificate.tbs_certificate();
    let constraints =
        tbs.get_extension::<BasicConstraints>().map_err(|_| "its basic constraints are malformed")?;
    let Some((_, BasicConstraints { ca: true, path_len_constraint })) = constraints else {
        return Err("it is not a CA's");
    };
    if path_len_constraint.is_some_and(|length| usize::from(length) < cas_below) {
        return Err("its path length allows fewer CAs below it");
    }
    match tbs.get_extension::<KeyUsage>().map_err(|_| "its key usage is malformed")? {
        Some((_, usage)) if !usage.key_cert_sign() => {
            Err("its key usage does not allow to sign certificates")
        }
        _ => Ok(()),
    }
}

/// Checks that this program knows every critical extension. Name constraints and policies are for the
/// verifiers of the certificates below.
fn check_extensions(certificate: &Certificate) -> Result<(), &'static str> {
    const KNOWN: [der::oid::ObjectIdentifier; 8] = [
        rfc5280::ID_CE_BASIC_CONSTRAINTS,
        rfc5280::ID_CE_KEY_USAGE,
        rfc5280::ID_CE_EXT_KEY_USAGE,
        rfc5280::ID_CE_SUBJECT_ALT_NAME,
        rfc5280::ID_CE_NAME_CONSTRAINTS,
        rfc5280::ID_CE_CERTIFICATE_POLICIES,
        rfc5280::ID_CE_POLICY_CONSTRAINTS,
        rfc5280::ID_CE_INHIBIT_ANY_POLICY,
    ];
    let extensions = certificate.tbs_certificate().extensions().map(Vec::as_slice).unwrap_or_default();
    if extensions.iter().any(|extension| extension.critical && !KNOWN.contains(&extension.extn_id)) {
        return Err("it has a critical extension that is unknown here");
    }
    Ok(())
}

fn check_signature(certificate: &Certificate, der: &[u8], issuer: &Certificate) -> Result<(), &'static str> {
    let tbs = certificate.tbs_certificate();
    if tbs.issuer() != issuer.tbs_certificate().subject() {
        return Err("its issuer is not the next certificate");
    }
    let malformed = |_| "it is malformed";
    let (content, algorithm, signature) = split_signed(der).map_err(malformed)?;
    if *tbs.signature() != algorithm {
        return Err("it names two signature algorithms");
    }
    let key = issuer.tbs_certificate().subject_public_key_info();
    let (Some(signature), Some(point)) = (signature.as_bytes(), key.subject_public_key.as_bytes()) else {
        return Err("it is malformed");
    };
    let (key_algorithm, algorithm) =
        (identifier(&key.algorithm).map_err(malformed)?, identifier(&algorithm).map_err(malformed)?);
    let mut candidates = webpki::ALL_VERIFICATION_ALGS
        .iter()
        .filter(|it| *it.signature_alg_id() == *algorithm && *it.public_key_alg_id() == *key_algorithm)
        .peekable();
    if candidates.peek().is_none() {
        return Err("its signature algorithm is not supported");
    }
    let verifies =
        |it: &&dyn SignatureVerificationAlgorithm| it.verify_signature(point, content, signature).is_ok();
    if candidates.any(verifies) { Ok(()) } else { Err("its signature is not by the next certificate's key") }
}

/// The content of an AlgorithmIdentifier, without the tag and the length of its SEQUENCE: the form in which
/// webpki names algorithms. Those that it knows are shorter than 128 bytes.
fn identifier(algorithm: &AlgorithmIdentifierOwned) -> der::Result<Vec<u8>> {
    Ok(algorithm.to_der()?.get(2..).unwrap_or_default().to_vec())
}
