//! Name constraints along a path (RFC 5280, section 4.2.1.10).
//!
//! The names of EK certificates are distinguished names, in the subject or in subjectAltName (EK Credential
//! Profile, section 3.2). Constraints of other kinds of names are not evaluated: a certificate that has a
//! name of such a kind is refused.

use der::asn1::Any;
use der::oid::db::rfc3280;
use der::{Tag, Tagged};
use x509_cert::ext::pkix::constraints::name::GeneralSubtree;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{NameConstraints, SubjectAltName};
use x509_cert::name::{Name, RelativeDistinguishedName};

use super::certificate::ManufacturerCertificate;

/// Checks the certificates below a CA against the CA's name constraints. The reason is a predicate of the
/// certificate that does not meet them.
pub(super) fn check_name_constraints(
    ca: &ManufacturerCertificate,
    below: &[&ManufacturerCertificate],
) -> Result<(), (usize, &'static str)> {
    let constraints = ca.extension::<NameConstraints>();
    let constraints = constraints.map_err(|_| (below.len(), "its name constraints are malformed"))?;
    let Some(constraints) = constraints else { return Ok(()) };
    let permitted = constraints.permitted_subtrees.unwrap_or_default();
    let excluded = constraints.excluded_subtrees.unwrap_or_default();
    let has_distances = |subtree: &GeneralSubtree| subtree.minimum != 0 || subtree.maximum.is_some();
    if permitted.iter().chain(&excluded).any(has_distances) {
        return Err((below.len(), "its name constraints have distances, which RFC 5280 does not use"));
    }
    for (at, certificate) in below.iter().enumerate() {
        for name in names(certificate).map_err(|reason| (at, reason))? {
            check_name(&name, &permitted, &excluded).map_err(|reason| (at, reason))?;
        }
    }
    Ok(())
}

/// The subject, if it is not empty, and the subjectAltName.
fn names(certificate: &ManufacturerCertificate) -> Result<Vec<GeneralName>, &'static str> {
    let alternatives = certificate.extension::<SubjectAltName>();
    let alternatives = alternatives.map_err(|_| "its subjectAltName is malformed")?;
    let subject = Some(&certificate.subject).filter(|subject| !subject.is_empty());
    let subject = subject.map(|subject| GeneralName::DirectoryName(subject.clone()));
    Ok(subject.into_iter().chain(alternatives.map(|names| names.0).unwrap_or_default()).collect())
}

fn check_name(
    name: &GeneralName,
    permitted: &[GeneralSubtree],
    excluded: &[GeneralSubtree],
) -> Result<(), &'static str> {
    let mut of_its_kind = permitted.iter().chain(excluded).map(|subtree| &subtree.base);
    let GeneralName::DirectoryName(name) = name else {
        let is_same_kind = |base: &GeneralName| std::mem::discriminant(base) == std::mem::discriminant(name);
        return match of_its_kind.any(is_same_kind) {
            true => Err("a CA above it constrains names of a kind that is not evaluated for EK certificates"),
            false => Ok(()),
        };
    };
    // Constraints of mail addresses also cover those in a subject.
    let has_mail = name.iter().any(|attribute| attribute.oid == rfc3280::EMAIL_ADDRESS);
    if has_mail && of_its_kind.any(|base| matches!(base, GeneralName::Rfc822Name(_))) {
        return Err("a CA above it constrains mail addresses, which is not evaluated for EK certificates");
    }
    let bases = |subtrees: &[GeneralSubtree]| -> Vec<Name> {
        let directory = |subtree: &GeneralSubtree| match &subtree.base {
            GeneralName::DirectoryName(base) => Some(base.clone()),
            _ => None,
        };
        subtrees.iter().filter_map(directory).collect()
    };
    let (permitted, excluded) = (bases(permitted), bases(excluded));
    if permitted.is_empty() && excluded.is_empty() {
        return Ok(());
    }
    if permitted.iter().chain(&excluded).chain([name]).any(|name| !is_comparable(name)) {
        return Err("a CA above it constrains names, and one is in an alphabet that is not compared here");
    }
    let is_permitted = permitted.is_empty() || permitted.iter().any(|base| is_below(name, base));
    if !is_permitted || excluded.iter().any(|base| is_below(name, base)) {
        return Err("the name constraints of a CA above it do not permit its name");
    }
    Ok(())
}

/// Whether the name begins with all RDNs of the base.
fn is_below(name: &Name, base: &Name) -> bool {
    name.len() >= base.len()
        && name.iter_rdn().zip(base.iter_rdn()).all(|(one, other)| is_same_rdn(one, other))
}

/// Whether two RDNs have the same attributes, in any order (RFC 5280, section 7.1).
fn is_same_rdn(one: &RelativeDistinguishedName, other: &RelativeDistinguishedName) -> bool {
    let contains = |attributes: &RelativeDistinguishedName, wanted: &RelativeDistinguishedName| {
        wanted.iter().all(|wanted| {
            attributes.iter().any(|it| it.oid == wanted.oid && folded(&it.value) == folded(&wanted.value))
        })
    };
    contains(one, other) && contains(other, one)
}

/// A value without the differences that RFC 5280 section 7.1 ignores: case, blanks, and the type of string.
fn folded(value: &Any) -> Vec<u8> {
    match std::str::from_utf8(value.value()) {
        Ok(text) if is_text(value) => {
            let words: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
            words.join(" ").into_bytes()
        }
        _ => value.value().to_vec(),
    }
}

fn is_text(value: &Any) -> bool {
    matches!(value.tag(), Tag::Utf8String | Tag::PrintableString | Tag::Ia5String)
}

/// Whether all values are strings that [`folded`] reads.
fn is_comparable(name: &Name) -> bool {
    name.iter().all(|attribute| {
        let value = &attribute.value;
        is_text(value) && std::str::from_utf8(value.value()).is_ok()
    })
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use super::*;

    fn directory(text: &str) -> GeneralName {
        GeneralName::DirectoryName(Name::from_str(text).unwrap())
    }

    fn subtrees(bases: &[GeneralName]) -> Vec<GeneralSubtree> {
        bases.iter().map(|base| GeneralSubtree { base: base.clone(), minimum: 0, maximum: None }).collect()
    }

    #[test]
    fn distinguished_names_are_permitted_below_a_base() {
        let below = |name: &str, permitted: &[&str], excluded: &[&str]| {
            let bases = |names: &[&str]| subtrees(&names.iter().map(|it| directory(it)).collect::<Vec<_>>());
            check_name(&directory(name), &bases(permitted), &bases(excluded)).is_ok()
        };
        // The last RDN of the text is the first of the name.
        let name = "CN=TPM,O=Example,C=DE";
        assert!(below(name, &[], &[]));
        assert!(below(name, &["O=Example,C=DE"], &[]) && below(name, &["O=Other,C=DE", "C=DE"], &[]));
        assert!(below(name, &["O=EXAMPLE ,C=DE"], &[]), "case and blanks do not matter");
        assert!(!below(name, &["O=Exam,C=DE"], &[]) && !below(name, &["O=Example"], &[]));
        assert!(!below(name, &["CN=A,CN=TPM,O=Example,C=DE"], &[]), "the base is longer");
        assert!(!below(name, &[], &["o=example,C=de"]) && !below(name, &["C=DE"], &["O=Example,C=DE"]));
        assert!(below(name, &[], &["O=Other,C=DE"]));
    }

    #[test]
    fn constraints_of_other_kinds_refuse_names_of_that_kind() {
        let dns = |name: &str| GeneralName::DnsName(der::asn1::Ia5String::new(name).unwrap());
        let constrained = subtrees(&[dns("example.org")]);
        check_name(&dns("example.org"), &constrained, &[]).unwrap_err();
        check_name(&dns("example.org"), &[], &constrained).unwrap_err();
        check_name(&directory("CN=TPM"), &constrained, &constrained).unwrap();
        check_name(&dns("example.org"), &subtrees(&[directory("CN=TPM")]), &[]).unwrap();
    }
}
