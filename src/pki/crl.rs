//! Certificate revocation lists (RFC 5280, section 5).

use der::Encode;
use x509_cert::Version;
use x509_cert::crl::{RevokedCert, TbsCertList};
use x509_cert::ext::ToExtension;
use x509_cert::ext::pkix::CrlNumber;
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;

use crate::clock::Timestamp;
use crate::verify::x509::{authority_key_id, ecdsa_with_sha256, time};

/// The content of a CRL to be signed.
#[derive(Debug)]
pub(super) struct CrlFields<'a, R> {
    pub issuer: &'a Name,
    /// The issuer's subjectKeyIdentifier.
    pub issuer_key_id: [u8; 20],
    /// The cRLNumber: greater than that of every earlier CRL of the issuer.
    pub number: u64,
    pub this_update: Timestamp,
    /// A later CRL is published by then.
    pub next_update: Timestamp,
    /// Serial numbers (positive, big-endian) and when each was revoked.
    pub revoked: R,
}

impl<R: Iterator<Item = ([u8; 16], Timestamp)>> CrlFields<'_, R> {
    /// The TBSCertList in DER: the bytes that the issuer signs, with ECDSA and SHA-256.
    pub fn into_tbs_der(self) -> der::Result<Vec<u8>> {
        let revoked = self.revoked.map(|(serial, at)| {
            Ok(RevokedCert {
                serial_number: SerialNumber::new(&serial)?,
                revocation_date: time(at)?,
                crl_entry_extensions: None,
            })
        });
        let revoked = revoked.collect::<der::Result<Vec<RevokedCert>>>()?;
        let extensions = vec![
            authority_key_id(&self.issuer_key_id)?.to_extension(self.issuer, &[])?,
            CrlNumber::try_from(self.number)?.to_extension(self.issuer, &[])?,
        ];
        let list = TbsCertList {
            version: Version::V2,
            signature: ecdsa_with_sha256(),
            issuer: self.issuer.clone(),
            this_update: time(self.this_update)?,
            next_update: Some(time(self.next_update)?),
            // Absent where no certificate is revoked (RFC 5280, section 5.1.2.6).
            revoked_certificates: (!revoked.is_empty()).then_some(revoked),
            crl_extensions: Some(extensions),
        };
        list.to_der()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::x509::organization_and_common_name;
    use crate::verify::x509::tests::{HOST, golden};

    #[test]
    fn crls_keep_their_bytes() {
        let issuer = organization_and_common_name("hostbadge", &format!("{HOST} host CA")).unwrap();
        let at = Timestamp::from_secs;
        let crl = |number, revoked: Vec<([u8; 16], Timestamp)>| {
            let fields = CrlFields {
                issuer: &issuer,
                issuer_key_id: [0xAB; 20],
                number,
                this_update: at(1_800_000_000),
                next_update: at(2_530_720_000),
                revoked: revoked.into_iter(),
            };
            fields.into_tbs_der().unwrap()
        };
        assert_eq!(crl(1, Vec::new()), golden("empty-crl"));
        let mut serial = [0x11; 16];
        serial[..2].copy_from_slice(&[0, 0x8C]);
        let revoked = vec![([0xF1; 16], at(1_799_000_000)), (serial, at(1_799_000_001))];
        assert_eq!(crl(0x8000_0000_0000_0001, revoked), golden("crl"));
    }
}
