//! The error type of certificate issuance.

use super::csr::CsrError;
use crate::clock::Timestamp;
use crate::{issue, keystore, store, tpm, verify};

/// Why a certificate or a CRL cannot be issued.
///
/// The texts of [`Error::Csr`] go to callers, the others to administrators.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The TPM, which holds the host key, failed or is unavailable.
    #[error(transparent)]
    Tpm(#[from] tpm::Error),
    /// The keystore, which encrypts the issuing CAs' keys, is locked or failed.
    #[error(transparent)]
    Keystore(#[from] keystore::Error),
    /// `ca.json` cannot be read.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// An issuing CA's key cannot be generated, read or used.
    #[error(transparent)]
    Issue(#[from] issue::Error),
    /// A public key is malformed.
    #[error(transparent)]
    PublicKey(#[from] verify::Error),
    /// The caller's certificate signing request is not accepted.
    #[error(transparent)]
    Csr(#[from] CsrError),
    /// A certificate, a CRL or a part of one cannot be encoded.
    #[error("cannot encode a certificate or CRL")]
    Encode(#[from] der::Error),
    /// A key or signature that was made in memory is not in the form that its algorithm prescribes.
    #[error("the {0} has an unexpected encoding")]
    UnexpectedEncoding(&'static str),
    /// The certificate by which an organization made the host key a CA has expired, at this time.
    #[error(
        "the organization's certificate for this host's CA expired at {0}; have the host certified again: \
         hostbadge enroll request"
    )]
    ParentExpired(Timestamp),
    /// As many issuing CAs have unexpired certificates as administrators can have made.
    #[error(
        "{max} issuing CAs sign lists of revoked certificates, which is the most that can be made on command; \
         the first expires at {until}"
    )]
    TooManyIssuingCas {
        /// The largest number.
        max: usize,
        /// When the first of them expires.
        until: Timestamp,
    },
    /// The kernel returned no random bytes.
    #[error("no random bytes from the kernel")]
    Random,
}
