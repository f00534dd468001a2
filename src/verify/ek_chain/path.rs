//! Finds and checks the path of an EK certificate to a root (RFC 5280, section 6.1; EK Credential Profile,
//! section 3.2).
//!
//! These rules differ from those for web servers:
//!
//! - The subject of an EK certificate may be empty; a critical subjectAltName then has the TPM's
//!   manufacturer, model and version (the attributes tcg-at-tpm...), which name the kind of TPM and not a host.
//! - certificatePolicies may be critical; [`super::policies`] evaluates them.
//! - extendedKeyUsage and authorityKeyIdentifier may be absent. A purpose, where given, must include that of
//!   EK certificates, in CA certificates too.
//! - A root is trusted as a name and a key: its validity, and the algorithm by which it signed itself, do not
//!   matter. Its basic constraints, key usage and name constraints do.

use der::oid::ObjectIdentifier;
use der::oid::db::{rfc5280, tcgtpm};
use x509_cert::ext::pkix::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAltName,
    SubjectKeyIdentifier,
};

use super::certificate::ManufacturerCertificate;
use super::name_constraints::check_name_constraints;
use super::policies::check_policies;
use crate::clock::Timestamp;
use crate::verify::certificates::MAX_CHAIN_LEN;
use crate::verify::signature::{SignatureFault, verify_signature};

/// Signatures that are verified in search of one path. Manufacturers have hundreds of intermediates, some of
/// which share a name.
const MAX_SIGNATURE_CHECKS: usize = 500;

/// The critical extensions that this module evaluates, or that constrain nothing (the key identifiers).
const KNOWN_EXTENSIONS: [ObjectIdentifier; 11] = [
    rfc5280::ID_CE_AUTHORITY_KEY_IDENTIFIER,
    rfc5280::ID_CE_BASIC_CONSTRAINTS,
    rfc5280::ID_CE_CERTIFICATE_POLICIES,
    rfc5280::ID_CE_EXT_KEY_USAGE,
    rfc5280::ID_CE_INHIBIT_ANY_POLICY,
    rfc5280::ID_CE_KEY_USAGE,
    rfc5280::ID_CE_NAME_CONSTRAINTS,
    rfc5280::ID_CE_POLICY_CONSTRAINTS,
    rfc5280::ID_CE_POLICY_MAPPINGS,
    rfc5280::ID_CE_SUBJECT_ALT_NAME,
    rfc5280::ID_CE_SUBJECT_KEY_IDENTIFIER,
];

/// Why no path leads from an EK certificate to a root.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PathFault {
    /// Neither roots nor intermediates have a certificate of this issuer whose key made the signature.
    #[error("there is no certificate of \"{0}\", which issued it or a CA above it")]
    NoIssuer(String),
    /// A certificate on the path is not acceptable; the reason is a predicate.
    #[error("{certificate}: {reason}")]
    Certificate {
        /// Which certificate it is.
        certificate: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The search was given up.
    #[error("too many certificates have the name of an issuer")]
    TooManyCandidates,
}

/// Checks that an EK certificate leads to one of `roots` by way of `intermediates`, and is valid at `now`.
///
/// # Errors
///
/// The fault of the path that was found, or else why none was found.
pub(super) fn verify_path(
    leaf: &ManufacturerCertificate,
    intermediates: &[&ManufacturerCertificate],
    roots: &[ManufacturerCertificate],
    now: Timestamp,
) -> Result<(), PathFault> {
    let mut search = Search {
        intermediates,
        roots,
        now,
        signature_checks: MAX_SIGNATURE_CHECKS,
        path_fault: None,
        signature_fault: None,
        missing_issuer: None,
    };
    if search.extend(&mut vec![leaf])? {
        return Ok(());
    }
    let fault = search.path_fault.or(search.signature_fault).or(search.missing_issuer);
    Err(fault.unwrap_or_else(|| PathFault::NoIssuer(escaped(&leaf.issuer))))
}

/// A search in depth for an acceptable path.
struct Search<'a> {
    intermediates: &'a [&'a ManufacturerCertificate],
    roots: &'a [ManufacturerCertificate],
    now: Timestamp,
    /// How many more signatures may be verified.
    signature_checks: usize,
    /// The first fault of a path that led to a root.
    path_fault: Option<PathFault>,
    /// The first signature that no candidate's key can have made.
    signature_fault: Option<PathFault>,
    /// The first issuer that was not found.
    missing_issuer: Option<PathFault>,
}

impl<'a> Search<'a> {
    /// Extends the path (the EK's certificate first) to a root. Returns whether an acceptable one was found.
    fn extend(&mut self, path: &mut Vec<&'a ManufacturerCertificate>) -> Result<bool, PathFault> {
        let Some(&last) = path.last() else { return Ok(false) };
        let mut has_issuer = false;
        for root in self.roots.iter().filter(|root| root.subject == last.issuer) {
            if !self.is_signed_by(last, root)? {
                continue;
            }
            has_issuer = true;
            match check_path(path, root, self.now) {
                Ok(()) => return Ok(true),
                Err(fault) => {
                    self.path_fault.get_or_insert(fault);
                }
            }
        }
        let mut candidates: Vec<&ManufacturerCertificate> =
            self.intermediates.iter().copied().filter(|it| it.subject == last.issuer).collect();
        // Key identifiers are hints; some manufacturers' do not match.
        candidates.sort_by_cached_key(|candidate| !has_matching_key_id(last, candidate));
        for candidate in candidates {
            let is_used = path.iter().any(|used| used.der == candidate.der);
            if is_used || path.len() + 1 >= MAX_CHAIN_LEN || !self.is_signed_by(last, candidate)? {
                continue;
            }
            has_issuer = true;
            path.push(candidate);
            if self.extend(path)? {
                return Ok(true);
            }
            path.pop();
        }
        if !has_issuer {
            self.missing_issuer.get_or_insert_with(|| PathFault::NoIssuer(escaped(&last.issuer)));
        }
        Ok(false)
    }

    fn is_signed_by(
        &mut self,
        certificate: &ManufacturerCertificate,
        issuer: &ManufacturerCertificate,
    ) -> Result<bool, PathFault> {
        self.signature_checks = self.signature_checks.checked_sub(1).ok_or(PathFault::TooManyCandidates)?;
        match verify_signature(&certificate.der, &certificate.algorithm, &issuer.public_key) {
            Ok(()) => Ok(true),
            // Another issuer of the same name may have made it.
            Err(SignatureFault::Invalid) => Ok(false),
            Err(fault) => {
                self.signature_fault.get_or_insert_with(|| fault_of(certificate, &fault.to_string()));
                Ok(false)
            }
        }
    }
}

/// Checks a path whose signatures are verified.
fn check_path(
    path: &[&ManufacturerCertificate],
    root: &ManufacturerCertificate,
    now: Timestamp,
) -> Result<(), PathFault> {
    let mut cas_below = 0;
    for (at, certificate) in path.iter().enumerate() {
        let checked = match at {
            0 => check_leaf(certificate),
            _ => check_intermediate(certificate, cas_below),
        };
        checked
            .and_then(|()| certificate.check_validity(now))
            .map_err(|reason| fault_of(certificate, reason))?;
        // Self-issued certificates, which replace a CA's key, do not count (RFC 5280, section 6.1.4, step l).
        cas_below += usize::from(at > 0 && !certificate.is_self_issued());
    }
    check_root(root, cas_below).map_err(|reason| fault_of(root, reason))?;
    let with_root: Vec<&ManufacturerCertificate> = path.iter().copied().chain([root]).collect();
    for (at, ca) in with_root.iter().enumerate().skip(1) {
        check_name_constraints(ca, &with_root[..at])
            .map_err(|(at, reason)| fault_of(with_root.get(at).unwrap_or(ca), reason))?;
    }
    check_policies(path).map_err(|(at, reason)| fault_of(path.get(at).unwrap_or(&root), reason))
}

fn check_leaf(certificate: &ManufacturerCertificate) -> Result<(), &'static str> {
    check_extensions(certificate)?;
    if basic_constraints(certificate)?.is_some_and(|constraints| constraints.ca) {
        return Err("it is a CA's, and not an EK's");
    }
    // Profile, section 3.2: an RSA EK decrypts a key, an ECC EK agrees on one. Either is accepted for both.
    let usage = certificate.extension::<KeyUsage>().map_err(|_| "its key usage is malformed")?;
    if usage.is_some_and(|usage| !usage.key_encipherment() && !usage.key_agreement()) {
        return Err("its key usage is not that of an EK");
    }
    check_purpose(certificate)
}

fn check_intermediate(certificate: &ManufacturerCertificate, cas_below: usize) -> Result<(), &'static str> {
    check_extensions(certificate)?;
    let Some(constraints) = basic_constraints(certificate)? else { return Err(NOT_A_CA) };
    check_ca(certificate, &constraints, cas_below)
}

/// Old roots have no basic constraints; the administrator vouches that they are CAs.
fn check_root(root: &ManufacturerCertificate, cas_below: usize) -> Result<(), &'static str> {
    check_extensions(root)?;
    let trusted = BasicConstraints { ca: true, path_len_constraint: None };
    check_ca(root, &basic_constraints(root)?.unwrap_or(trusted), cas_below)
}

const NOT_A_CA: &str = "it is not a CA's";

fn check_ca(
    certificate: &ManufacturerCertificate,
    constraints: &BasicConstraints,
    cas_below: usize,
) -> Result<(), &'static str> {
    if !constraints.ca {
        return Err(NOT_A_CA);
    }
    if constraints.path_len_constraint.is_some_and(|length| usize::from(length) < cas_below) {
        return Err("its path length allows fewer CAs below it");
    }
    let usage = certificate.extension::<KeyUsage>().map_err(|_| "its key usage is malformed")?;
    if usage.is_some_and(|usage| !usage.key_cert_sign()) {
        return Err("its key usage does not allow to sign certificates");
    }
    check_purpose(certificate)
}

/// Checks that extendedKeyUsage, if there is one, has the purpose of EK certificates.
fn check_purpose(certificate: &ManufacturerCertificate) -> Result<(), &'static str> {
    const ANY: ObjectIdentifier = rfc5280::ANY_EXTENDED_KEY_USAGE;
    let purposes = certificate.extension::<ExtendedKeyUsage>();
    match purposes.map_err(|_| "its extended key usage is malformed")? {
        Some(ExtendedKeyUsage(purposes))
            if !purposes.iter().any(|it| [tcgtpm::TCG_KP_EK_CERTIFICATE, ANY].contains(it)) =>
        {
            Err("its extended key usage is not for EK certificates")
        }
        _ => Ok(()),
    }
}

/// Checks that this module evaluates every critical extension, and that subjectAltName can be parsed.
fn check_extensions(certificate: &ManufacturerCertificate) -> Result<(), &'static str> {
    if certificate.critical_extensions().any(|id| !KNOWN_EXTENSIONS.contains(&id)) {
        return Err("it has a critical extension that is unknown here");
    }
    let names = certificate.extension::<SubjectAltName>();
    names.map(drop).map_err(|_| "its subjectAltName is malformed")
}

fn basic_constraints(
    certificate: &ManufacturerCertificate,
) -> Result<Option<BasicConstraints>, &'static str> {
    certificate.extension().map_err(|_| "its basic constraints are malformed")
}

/// Whether the certificate names the issuer's key as the issuer does.
fn has_matching_key_id(certificate: &ManufacturerCertificate, issuer: &ManufacturerCertificate) -> bool {
    let named = certificate.extension::<AuthorityKeyIdentifier>().ok().flatten();
    let named = named.and_then(|id| id.key_identifier);
    let own = issuer.extension::<SubjectKeyIdentifier>().ok().flatten().map(|id| id.0);
    named.is_some() && named == own
}

fn fault_of(certificate: &ManufacturerCertificate, reason: &str) -> PathFault {
    // An EK certificate often has no subject.
    let certificate = match certificate.subject.is_empty() {
        true => format!("the one that \"{}\" issued", escaped(&certificate.issuer)),
        false => format!("the certificate of \"{}\"", escaped(&certificate.subject)),
    };
    PathFault::Certificate { certificate, reason: reason.to_owned() }
}

fn escaped(name: &x509_cert::name::Name) -> String {
    name.to_string().escape_debug().to_string()
}
