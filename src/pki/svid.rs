//! An issued X509-SVID.

use bytes::Bytes;

use super::issued_file::LeafRecord;
use crate::clock::Timestamp;
use crate::policy::IdentityPermit;

/// An X509-SVID together with the permit that it was issued for. `Debug` does not show its key.
pub struct IssuedX509Svid {
    pub(super) permit: IdentityPermit,
    pub(super) spiffe_id: String,
    pub(super) issued: IssuedLeaf,
    /// A digest of the public key; `None` if earlier callers have received it.
    pub(super) key_digest: Option<u64>,
    /// Whether earlier callers have received the same certificate.
    pub(super) shared: bool,
}

/// The certificate itself, which many streams of one identity may share.
#[derive(Clone)]
pub(super) struct IssuedLeaf {
    pub issued_at: Timestamp,
    /// The serial number in hexadecimal.
    pub serial: String,
    pub record: LeafRecord,
    /// DER certificates, the leaf first.
    pub chain: Vec<Vec<u8>>,
    /// The private key, zeroized when its last owner drops it; `None` where the caller has it.
    pub key: Option<Bytes>,
}

impl IssuedX509Svid {
    /// The permit that the certificate was issued for.
    pub fn permit(&self) -> &IdentityPermit {
        &self.permit
    }

    /// The SPIFFE ID in the certificate.
    pub fn spiffe_id(&self) -> &str {
        &self.spiffe_id
    }

    /// The serial number in hexadecimal.
    pub fn serial(&self) -> &str {
        &self.issued.serial
    }

    /// The certificate in DER.
    pub fn leaf(&self) -> Option<&[u8]> {
        self.issued.chain.first().map(Vec::as_slice)
    }

    /// When the certificate expires.
    pub fn expires(&self) -> Timestamp {
        self.issued.record.expires
    }

    /// DER certificates, the leaf first, without the root.
    pub fn chain(&self) -> &[Vec<u8>] {
        &self.issued.chain
    }

    /// A digest of the public key; `None` if the certificate is one that earlier callers have received.
    pub fn key_digest(&self) -> Option<u64> {
        self.key_digest
    }

    /// The private key, PKCS#8 (RFC 5958) in DER; `None` if the caller supplied a CSR.
    pub fn key(&self) -> Option<&[u8]> {
        self.issued.key.as_deref()
    }

    /// The same key without a copy; empty if the caller supplied a CSR.
    pub fn shared_key(&self) -> Bytes {
        self.issued.key.clone().unwrap_or_default()
    }
}

impl std::fmt::Debug for IssuedX509Svid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuedX509Svid").field("serial", &self.issued.serial).finish_non_exhaustive()
    }
}
