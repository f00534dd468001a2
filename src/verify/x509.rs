//! Builds X.509 certificates and the parts that certificates, CSRs and CRLs share (RFC 5280), from
//! x509-cert's types.
//!
//! x509-cert 0.3 keeps the fields of its `TbsCertificate` private: only its `builder` makes one. That builder
//! does not fit. It takes a signer object that holds the key and implements the traits of the `signature`
//! crate, whereas the host key signs in the TPM behind an asynchronous call, and ring's keys have their own
//! interface. Its CRL builder writes the extensions in another order than hostbadge's CRLs have, and the
//! feature brings SHA-1 and four more crates into the daemon. [`TbsCertificate`] is therefore declared here,
//! and der's derived encoder writes it.

use std::time::Duration;

use der::asn1::{Any, AnyRef, BitString, BitStringRef, Ia5String, OctetString, UintRef, Utf8StringRef};
use der::oid::ObjectIdentifier;
use der::oid::db::{rfc4519, rfc5280, rfc5912};
use der::{DateTime, Decode, Encode, EncodeRef, EncodeValue, Reader, Sequence, SliceReader};
use ring::digest::{SHA256, digest};
use x509_cert::Version;
use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages, SubjectAltName,
    SubjectKeyIdentifier,
};
use x509_cert::ext::{Extensions, ToExtension};
use x509_cert::name::{Name, RdnSequence, RelativeDistinguishedName};
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use x509_cert::time::{Time, Validity};

use crate::clock::Timestamp;

/// What a certificate lets its holder do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CertificateProfile {
    /// A CA: signs certificates and CRLs, with at most `path_length` CAs between it and an end entity.
    Ca { path_length: u8 },
    /// An end entity that signs: an organization's certificate for a host.
    EndEntity,
    /// An end entity that is both TLS server and TLS client: an X509-SVID (X509-SVID standard, section 4).
    TlsPeer,
}

/// The content of a certificate to be signed.
#[derive(Debug)]
pub(crate) struct CertificateFields<'a> {
    pub profile: CertificateProfile,
    /// A positive number, big-endian.
    pub serial: [u8; 16],
    /// The issuer's signature algorithm.
    pub algorithm: &'a AlgorithmIdentifierOwned,
    pub issuer: &'a Name,
    /// The issuer's subjectKeyIdentifier; `None` leaves authorityKeyIdentifier out, as in a root.
    pub issuer_key_id: Option<&'a [u8]>,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    pub subject: &'a Name,
    pub public_key: &'a SubjectPublicKeyInfoOwned,
    /// Becomes the subjectKeyIdentifier.
    pub key_id: [u8; 20],
    /// Critical where `subject` is empty (RFC 5280, section 4.2.1.6).
    pub alt_names: &'a SubjectAltName,
}

impl CertificateFields<'_> {
    /// The TBSCertificate in DER: the bytes that the issuer signs.
    pub fn to_tbs_der(&self) -> der::Result<Vec<u8>> {
        let tbs = TbsCertificate {
            version: Version::V3,
            serial: SerialNumber::new(&self.serial)?,
            algorithm: EncodeRef(self.algorithm),
            issuer: EncodeRef(self.issuer),
            validity: Validity::new(time(self.not_before)?, time(self.not_after)?),
            subject: EncodeRef(self.subject),
            public_key: EncodeRef(self.public_key),
            extensions: self.extensions()?,
        };
        tbs.to_der()
    }

    fn extensions(&self) -> der::Result<Extensions> {
        let (basic_constraints, usages) = match self.profile {
            CertificateProfile::Ca { path_length } => (
                BasicConstraints { ca: true, path_len_constraint: Some(path_length) },
                KeyUsages::KeyCertSign | KeyUsages::CRLSign,
            ),
            CertificateProfile::EndEntity | CertificateProfile::TlsPeer => (
                BasicConstraints { ca: false, path_len_constraint: None },
                KeyUsages::DigitalSignature.into(),
            ),
        };
        let subject = self.subject;
        let mut extensions =
            vec![basic_constraints.to_extension(subject, &[])?, KeyUsage(usages).to_extension(subject, &[])?];
        if let CertificateProfile::TlsPeer = self.profile {
            let purposes = vec![rfc5280::ID_KP_SERVER_AUTH, rfc5280::ID_KP_CLIENT_AUTH];
            extensions.push(ExtendedKeyUsage(purposes).to_extension(subject, &[])?);
        }
        extensions.push(self.alt_names.to_extension(subject, &[])?);
        let key_id = SubjectKeyIdentifier(OctetString::new(self.key_id)?);
        extensions.push(key_id.to_extension(subject, &[])?);
        if let Some(id) = self.issuer_key_id {
            extensions.push(authority_key_id(id)?.to_extension(subject, &[])?);
        }
        Ok(extensions)
    }
}

/// TBSCertificate of version 3 (RFC 5280, section 4.1).
#[derive(EncodeValue)]
struct TbsCertificate<'a> {
    #[asn1(context_specific = "0")]
    version: Version,
    serial: SerialNumber,
    algorithm: EncodeRef<'a, AlgorithmIdentifierOwned>,
    issuer: EncodeRef<'a, Name>,
    validity: Validity,
    subject: EncodeRef<'a, Name>,
    public_key: EncodeRef<'a, SubjectPublicKeyInfoOwned>,
    #[asn1(context_specific = "3")]
    extensions: Extensions,
}

impl Sequence<'_> for TbsCertificate<'_> {}

/// A signed structure, the common outer form of certificates, CSRs and CRLs (`SIGNED` in RFC 5912).
#[derive(EncodeValue)]
struct Signed<'a> {
    content: AnyRef<'a>,
    algorithm: EncodeRef<'a, AlgorithmIdentifierOwned>,
    signature: BitStringRef<'a>,
}

impl Sequence<'_> for Signed<'_> {}

/// Puts `content` (DER) together with its signature, in the form that `algorithm` prescribes.
pub(crate) fn assemble_signed(
    content: &[u8],
    algorithm: &AlgorithmIdentifierOwned,
    signature: &[u8],
) -> der::Result<Vec<u8>> {
    let signed = Signed {
        content: AnyRef::from_der(content)?,
        algorithm: EncodeRef(algorithm),
        signature: BitStringRef::from_bytes(signature)?,
    };
    signed.to_der()
}

/// The same for ECDSA with SHA-256: `signature` is r and s, big-endian, 32 bytes each.
pub(crate) fn assemble_p256_signed(content: &[u8], signature: &[u8; 64]) -> der::Result<Vec<u8>> {
    let (r, s) = signature.split_at(32);
    let signature = EcdsaSignature { r: UintRef::new(r)?, s: UintRef::new(s)? }.to_der()?;
    assemble_signed(content, &ecdsa_with_sha256(), &signature)
}

/// Splits a signed structure into the content as it was encoded, the signature's algorithm, and the
/// signature.
pub(crate) fn split_signed(signed: &[u8]) -> der::Result<(&[u8], AlgorithmIdentifierOwned, BitString)> {
    let mut reader = SliceReader::new(signed)?;
    let parts = reader.sequence(|inner: &mut SliceReader<'_>| {
        Ok::<_, der::Error>((inner.tlv_bytes()?, inner.decode()?, inner.decode()?))
    })?;
    reader.finish()?;
    Ok(parts)
}

/// ECDSA-Sig-Value (RFC 3279, section 2.2.3).
#[derive(EncodeValue)]
struct EcdsaSignature<'a> {
    r: UintRef<'a>,
    s: UintRef<'a>,
}

impl Sequence<'_> for EcdsaSignature<'_> {}

/// RSAPublicKey (RFC 3279, section 2.3.1).
#[derive(Sequence)]
pub(crate) struct RsaPublicKey<'a> {
    pub modulus: UintRef<'a>,
    pub public_exponent: UintRef<'a>,
}

impl<'a> RsaPublicKey<'a> {
    /// From big-endian numbers.
    pub fn new(modulus: &'a [u8], public_exponent: &'a [u8]) -> der::Result<RsaPublicKey<'a>> {
        Ok(RsaPublicKey { modulus: UintRef::new(modulus)?, public_exponent: UintRef::new(public_exponent)? })
    }
}

/// ecdsa-with-SHA256, which has no parameters (RFC 5758, section 3.2).
pub(crate) fn ecdsa_with_sha256() -> AlgorithmIdentifierOwned {
    AlgorithmIdentifierOwned { oid: rfc5912::ECDSA_WITH_SHA_256, parameters: None }
}

/// id-ecPublicKey with a named curve (RFC 5480, section 2.1.1).
pub(crate) fn ec_public_key(curve: ObjectIdentifier) -> der::Result<AlgorithmIdentifierOwned> {
    let parameters = Some(Any::encode_from(&curve)?);
    Ok(AlgorithmIdentifierOwned { oid: rfc5912::ID_EC_PUBLIC_KEY, parameters })
}

/// The SubjectPublicKeyInfo of a P-256 key from its uncompressed point (RFC 5480).
pub(crate) fn p256_spki(point: &[u8; 65]) -> der::Result<SubjectPublicKeyInfoOwned> {
    Ok(SubjectPublicKeyInfoOwned {
        algorithm: ec_public_key(rfc5912::SECP_256_R_1)?,
        subject_public_key: BitString::from_bytes(point)?,
    })
}

/// A key's identifier: the first 160 bits of SHA-256 over its subjectPublicKey (RFC 7093, section 2, method
/// 1).
pub(crate) fn key_id(subject_public_key: &[u8]) -> [u8; 20] {
    let mut id = [0; 20];
    id.copy_from_slice(&digest(&SHA256, subject_public_key).as_ref()[..20]);
    id
}

/// The authorityKeyIdentifier that names the issuer's key by its subjectKeyIdentifier alone.
pub(crate) fn authority_key_id(issuer_key_id: &[u8]) -> der::Result<AuthorityKeyIdentifier> {
    let key_identifier = Some(OctetString::new(issuer_key_id)?);
    Ok(AuthorityKeyIdentifier { key_identifier, ..Default::default() })
}

/// A uniformResourceIdentifier, the form of a SPIFFE ID in subjectAltName.
pub(crate) fn uri_name(uri: &str) -> der::Result<GeneralName> {
    Ok(GeneralName::UniformResourceIdentifier(Ia5String::new(uri)?))
}

/// A Name of one commonName.
pub(crate) fn common_name(name: &str) -> der::Result<Name> {
    distinguished_name(&[(rfc4519::COMMON_NAME, name)])
}

/// A Name of organizationName and commonName, in this order.
pub(crate) fn organization_and_common_name(organization: &str, name: &str) -> der::Result<Name> {
    distinguished_name(&[(rfc4519::ORGANIZATION_NAME, organization), (rfc4519::COMMON_NAME, name)])
}

/// A Name of UTF8String attributes, each an RDN of its own.
fn distinguished_name(attributes: &[(ObjectIdentifier, &str)]) -> der::Result<Name> {
    let mut rdns = RdnSequence::default();
    for (oid, text) in attributes {
        let value = Any::encode_from(&Utf8StringRef::new(text)?)?;
        let attribute = AttributeTypeAndValue { oid: *oid, value };
        rdns.push(RelativeDistinguishedName::try_from(vec![attribute])?);
    }
    // x509-cert makes a Name from RDNs by decoding alone, without its feature `hazmat`.
    Name::from_der(&rdns.to_der()?)
}

/// Seconds since the epoch as UTCTime until 2049, and as GeneralizedTime from 2050 on (RFC 5280, section
/// 4.1.2.5).
pub(crate) fn time(at: Timestamp) -> der::Result<Time> {
    Ok(DateTime::from_unix_duration(Duration::from_secs(at.as_secs()))?.into())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A point that is not on the curve; nothing here verifies a signature.
    pub(crate) const POINT: [u8; 65] = {
        let mut point = [0x5A; 65];
        point[0] = 4;
        point[64] = 0x99;
        point
    };

    pub(crate) const HOST: &str = "7fz2xk4wq3m5n6p7r2s3t4u5va";

    /// The structure of this name in `testdata/x509.txt`.
    pub(crate) fn golden(name: &str) -> Vec<u8> {
        let lines = include_str!("testdata/x509.txt").lines();
        let hex = lines.filter_map(|line| line.split_once(' ')).find(|(first, _)| *first == name).unwrap().1;
        data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap()
    }

    #[test]
    fn certificates_keep_their_bytes() {
        let name = organization_and_common_name("hostbadge", &format!("{HOST} host CA")).unwrap();
        let (public_key, algorithm) = (p256_spki(&POINT).unwrap(), ecdsa_with_sha256());
        let (empty, at) = (Name::default(), Timestamp::from_secs);
        let uri = |uri| SubjectAltName(vec![uri_name(uri).unwrap()]);
        let (domain, agent) = (uri("spiffe://example.org"), uri("spiffe://example.org/tenant/agent"));
        let root = || CertificateFields {
            profile: CertificateProfile::Ca { path_length: 1 },
            serial: [0xF1; 16],
            algorithm: &algorithm,
            issuer: &name,
            issuer_key_id: None,
            not_before: at(1_799_999_940),
            // In 2050: a GeneralizedTime.
            not_after: at(2_530_720_000),
            subject: &name,
            public_key: &public_key,
            key_id: key_id(&POINT),
            alt_names: &domain,
        };
        // Leading zeros and a high bit are not part of the number.
        let mut serial = [0x11; 16];
        serial[..2].copy_from_slice(&[0, 0x8C]);
        let issuing = CertificateFields {
            profile: CertificateProfile::Ca { path_length: 0 },
            serial,
            issuer_key_id: Some(&[0xAB; 20]),
            not_after: at(1_800_086_400),
            ..root()
        };
        let leaf = CertificateFields {
            profile: CertificateProfile::TlsPeer,
            serial: [0; 16],
            subject: &empty,
            issuer_key_id: Some(&[0xAB; 20]),
            not_after: at(1_800_003_600),
            alt_names: &agent,
            ..root()
        };
        for (name, fields) in [("root", root()), ("issuing", issuing), ("leaf", leaf)] {
            assert_eq!(fields.to_tbs_der().unwrap(), golden(name), "{name}");
        }
    }

    #[test]
    fn signed_structures_keep_their_bytes() {
        // r begins with zeros, and s has its high bit set.
        let mut signature = [0x7F; 64];
        (signature[0], signature[32]) = (0, 0x80);
        let signed = assemble_p256_signed(&golden("empty-crl"), &signature).unwrap();
        assert_eq!(signed, golden("signed"));
        let (content, algorithm, _) = split_signed(&signed).unwrap();
        assert_eq!((content, algorithm), (&golden("empty-crl")[..], ecdsa_with_sha256()));
    }

    #[test]
    fn time_is_generalized_from_2050() {
        let der = |secs| time(Timestamp::from_secs(secs)).unwrap().to_der().unwrap();
        assert_eq!(der(0), b"\x17\x0d700101000000Z");
        assert_eq!(der(2_524_607_999), b"\x17\x0d491231235959Z");
        assert_eq!(der(2_524_608_000), b"\x18\x0f20500101000000Z");
    }
}
