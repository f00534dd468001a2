//! Verifies the chains that an administrator installs for the host key (RFC 5280, section 6).
//!
//! webpki verifies paths of end entities to roots that are trusted already. The chain of CAs makes a host a
//! CA, and what that host will sign does not exist yet; that of the host may end below the root.

use der::oid::db::rfc5280;
use x509_cert::Certificate;
use x509_cert::ext::pkix::constraints::name::GeneralSubtree;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage, NameConstraints};

use super::certificates::{MAX_CHAIN_LEN, not_after, not_before, parse_certificate};
use super::error::Error;
use super::signature::{SignatureFault, verify_signature};
use crate::clock::Timestamp;

/// Checks each certificate of `chain` (DER, the first CA first, the root last): the signature by the next
/// one, and the root's by itself; the validity at `now`; basic constraints, with a path length that allows
/// the certificates before it and one more CA below the first; key usage; that no critical extension is
/// unknown; and that its name constraints permit URIs of the trust domain.
///
/// # Errors
///
/// [`Error::Certificate`] with the certificate's subject and what is wrong with it.
pub(crate) fn verify_ca_chain(chain: &[Vec<u8>], trust_domain: &str, now: Timestamp) -> Result<(), Error> {
    let parsed = parse_chain(chain)?;
    for (at, (certificate, der)) in parsed.iter().zip(chain).enumerate() {
        // The root is its own issuer.
        let issuer = parsed.get(at + 1).unwrap_or(certificate);
        check_ca(certificate, at + 1, now)
            .and_then(|()| check_permits(certificate, trust_domain))
            .map_err(str::to_owned)
            .and_then(|()| check_signature(certificate, der, issuer))
            .map_err(|reason| fault(certificate, &reason))?;
    }
    Ok(())
}

/// Checks each certificate of `chain` (DER, the host's first, each followed by its issuer's), as
/// [`verify_ca_chain`] does, and that the first is no CA's. The last may be a root, whose signature is
/// verified, or one whose issuer is not given.
///
/// # Errors
///
/// As of [`verify_ca_chain`].
pub(crate) fn verify_host_chain(chain: &[Vec<u8>], now: Timestamp) -> Result<(), Error> {
    let parsed = parse_chain(chain)?;
    for (at, (certificate, der)) in parsed.iter().zip(chain).enumerate() {
        let tbs = certificate.tbs_certificate();
        let is_self_issued = tbs.issuer() == tbs.subject();
        let issuer = parsed.get(at + 1).or(is_self_issued.then_some(certificate));
        let checked = match at.checked_sub(1) {
            None => check_host(certificate, now),
            Some(cas_below) => check_ca(certificate, cas_below, now),
        };
        checked
            .map_err(str::to_owned)
            .and_then(|()| issuer.map_or(Ok(()), |issuer| check_signature(certificate, der, issuer)))
            .map_err(|reason| fault(certificate, &reason))?;
    }
    Ok(())
}

fn parse_chain(chain: &[Vec<u8>]) -> Result<Vec<Certificate>, Error> {
    if chain.is_empty() || chain.len() > MAX_CHAIN_LEN {
        return Err(Error::Certificate(format!("a chain has 1 to {MAX_CHAIN_LEN} certificates")));
    }
    chain.iter().map(|der| parse_certificate(der)).collect()
}

fn fault(certificate: &Certificate, reason: &str) -> Error {
    let subject = certificate.tbs_certificate().subject().to_string();
    Error::Certificate(format!("the certificate of {}: {reason}", subject.escape_debug()))
}

fn check_host(certificate: &Certificate, now: Timestamp) -> Result<(), &'static str> {
    check_validity(certificate, now)?;
    check_extensions(certificate)?;
    match certificate.tbs_certificate().get_extension::<BasicConstraints>() {
        Ok(Some((_, BasicConstraints { ca: true, .. }))) => Err("it is a CA's, and not the host's own"),
        Ok(_) => Ok(()),
        Err(_) => Err("its basic constraints are malformed"),
    }
}

/// Checks a certificate that has `cas_below` CAs below it.
fn check_ca(certificate: &Certificate, cas_below: usize, now: Timestamp) -> Result<(), &'static str> {
    check_validity(certificate, now)?;
    check_is_ca(certificate, cas_below)?;
    check_extensions(certificate)
}

fn check_validity(certificate: &Certificate, now: Timestamp) -> Result<(), &'static str> {
    if not_before(certificate) > now {
        return Err("it is not valid yet");
    }
    if not_after(certificate) <= now {
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

/// Checks that name constraints permit URIs whose host is the trust domain (RFC 5280, section 4.2.1.10): what
/// the host issues has these, and would verify nowhere. Constraints of other names are for the verifiers of
/// the certificates below.
fn check_permits(certificate: &Certificate, trust_domain: &str) -> Result<(), &'static str> {
    let constraints = certificate.tbs_certificate().get_extension::<NameConstraints>();
    let Some((_, constraints)) = constraints.map_err(|_| "its name constraints are malformed")? else {
        return Ok(());
    };
    let uris = |subtrees: Option<Vec<GeneralSubtree>>| -> Vec<GeneralName> {
        let names = subtrees.unwrap_or_default().into_iter().map(|subtree| subtree.base);
        names.filter(|name| matches!(name, GeneralName::UniformResourceIdentifier(_))).collect()
    };
    let contains = |name: &GeneralName| match name {
        GeneralName::UniformResourceIdentifier(uri) => uri_subtree_contains(uri.as_str(), trust_domain),
        _ => false,
    };
    let (permitted, excluded) = (uris(constraints.permitted_subtrees), uris(constraints.excluded_subtrees));
    if excluded.iter().any(contains) || !permitted.is_empty() && !permitted.iter().any(contains) {
        return Err("its name constraints do not permit URIs of this host's trust domain");
    }
    Ok(())
}

/// Whether a URI's host is in a subtree: `.example.com` has the hosts below, `example.com` that host alone,
/// and an empty one all.
fn uri_subtree_contains(subtree: &str, host: &str) -> bool {
    let (subtree, host) = (subtree.to_ascii_lowercase(), host.to_ascii_lowercase());
    if subtree.starts_with('.') {
        host.ends_with(&subtree) && host.len() > subtree.len()
    } else {
        subtree.is_empty() || host == subtree
    }
}

/// Checks that this program knows every critical extension. Policies are for the verifiers of the
/// certificates below.
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

fn check_signature(certificate: &Certificate, der: &[u8], issuer: &Certificate) -> Result<(), String> {
    let tbs = certificate.tbs_certificate();
    if tbs.issuer() != issuer.tbs_certificate().subject() {
        return Err("its issuer is not the next certificate".into());
    }
    let key = issuer.tbs_certificate().subject_public_key_info();
    verify_signature(der, tbs.signature(), key).map_err(|fault| match fault {
        SignatureFault::Invalid => "its signature is not by the next certificate's key".into(),
        fault => fault.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uri_subtrees_are_hosts_or_domains() {
        for (subtree, host, expected) in [
            ("example.com", "example.com", true),
            ("Example.COM", "example.com", true),
            ("example.com", "a.example.com", false),
            (".example.com", "a.example.com", true),
            (".example.com", "example.com", false),
            (".example.com", "anexample.com", false),
            ("example.com", "anexample.com", false),
            ("", "example.com", true),
        ] {
            assert_eq!(uri_subtree_contains(subtree, host), expected, "{subtree} {host}");
        }
    }
}
