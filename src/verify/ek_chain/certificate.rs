//! Certificates of TPM manufacturers, parsed as the field has them.

use der::asn1::{AnyRef, BitString};
use der::oid::{AssociatedOid, ObjectIdentifier};
use der::{Decode, Sequence, Tag, Tagged};
use x509_cert::Version;
use x509_cert::ext::Extensions;
use x509_cert::name::Name;
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use x509_cert::time::Validity;

use crate::clock::Timestamp;
use crate::verify::certificates::MAX_CERTIFICATE_SIZE;
use crate::verify::error::Error;
use crate::verify::x509::split_signed;

/// A certificate of a TPM manufacturer: an EK's, an intermediate CA's or a root's.
///
/// x509-cert's own type refuses serial numbers with needless zeros and those above 21 bytes. Nothing here
/// depends on the serial number, which the signature covers as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::verify) struct ManufacturerCertificate {
    /// The certificate as it was parsed.
    pub(in crate::verify) der: Vec<u8>,
    /// The signature's algorithm, as the signed part names it.
    pub(in crate::verify) algorithm: AlgorithmIdentifierOwned,
    pub(in crate::verify) issuer: Name,
    pub(in crate::verify) subject: Name,
    pub(in crate::verify) public_key: SubjectPublicKeyInfoOwned,
    validity: Validity,
    extensions: Extensions,
}

/// TBSCertificate (RFC 5280, section 4.1), with any serial number.
#[derive(Sequence)]
struct TbsCertificate<'a> {
    #[asn1(context_specific = "0", default = "Default::default")]
    version: Version,
    serial: AnyRef<'a>,
    algorithm: AlgorithmIdentifierOwned,
    issuer: Name,
    validity: Validity,
    subject: Name,
    public_key: SubjectPublicKeyInfoOwned,
    #[asn1(context_specific = "1", tag_mode = "IMPLICIT", optional = "true")]
    issuer_unique_id: Option<BitString>,
    #[asn1(context_specific = "2", tag_mode = "IMPLICIT", optional = "true")]
    subject_unique_id: Option<BitString>,
    #[asn1(context_specific = "3", tag_mode = "EXPLICIT", optional = "true")]
    extensions: Option<Extensions>,
}

impl ManufacturerCertificate {
    /// Parses one certificate (DER).
    ///
    /// # Errors
    ///
    /// If it is malformed, larger than 16 KiB, or has an extension twice.
    pub(in crate::verify) fn parse(der: &[u8]) -> Result<ManufacturerCertificate, Error> {
        if der.len() > MAX_CERTIFICATE_SIZE {
            let limit = MAX_CERTIFICATE_SIZE;
            return Err(Error::Certificate(format!("a certificate is larger than {limit} bytes")));
        }
        let malformed = |e: der::Error| Error::Certificate(format!("not a certificate: {e}"));
        let (content, _, _) = split_signed(der).map_err(malformed)?;
        let tbs = TbsCertificate::from_der(content).map_err(malformed)?;
        if tbs.serial.tag() != Tag::Integer {
            return Err(Error::Certificate("not a certificate: its serial number is not a number".into()));
        }
        let extensions = tbs.extensions.unwrap_or_default();
        if !extensions.is_empty() && tbs.version != Version::V3 {
            return Err(Error::Certificate("not a certificate: only version 3 has extensions".into()));
        }
        for (at, extension) in extensions.iter().enumerate() {
            if extensions[..at].iter().any(|earlier| earlier.extn_id == extension.extn_id) {
                let id = extension.extn_id;
                return Err(Error::Certificate(format!("not a certificate: it has extension {id} twice")));
            }
        }
        Ok(ManufacturerCertificate {
            der: der.to_vec(),
            algorithm: tbs.algorithm,
            issuer: tbs.issuer,
            subject: tbs.subject,
            public_key: tbs.public_key,
            validity: tbs.validity,
            extensions,
        })
    }

    /// Whether the subject is the issuer.
    pub(super) fn is_self_issued(&self) -> bool {
        self.issuer == self.subject
    }

    /// The extension of this type, if the certificate has it.
    ///
    /// # Errors
    ///
    /// If it is malformed.
    pub(super) fn extension<'a, T>(&'a self) -> der::Result<Option<T>>
    where
        T: AssociatedOid + Decode<'a, Error = der::Error>,
    {
        let found = self.extensions.iter().find(|extension| extension.extn_id == T::OID);
        found.map(|extension| T::from_der(extension.extn_value.as_bytes())).transpose()
    }

    /// The identifiers of the critical extensions.
    pub(super) fn critical_extensions(&self) -> impl Iterator<Item = ObjectIdentifier> {
        self.extensions.iter().filter(|extension| extension.critical).map(|extension| extension.extn_id)
    }

    /// Checks that the certificate is valid at `now`.
    pub(super) fn check_validity(&self, now: Timestamp) -> Result<(), &'static str> {
        let secs = now.as_secs();
        if self.validity.not_before.to_unix_duration().as_secs() > secs {
            return Err("it is not valid yet");
        }
        if self.validity.not_after.to_unix_duration().as_secs() < secs {
            return Err("it has expired");
        }
        Ok(())
    }
}
