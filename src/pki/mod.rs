//! Certificates for agents: X509-SVIDs (SPIFFE's X509-SVID standard), below an authority of this host.
//!
//! ```text
//! host CA: the host key, in the TPM            self-signed, in the bundle; years
//!   └── issuing CA: in memory, sealed at rest  one day, the next one after half of it
//!         └── leaves: signed in memory         one hour
//! ```
//!
//! The TPM signs once in half a day, so a thousand agents do not wait for it, and leaves go on while it is away, until the
//! issuing CA expires. A new issuing CA stands below the same root: leaves of the one before stay good.
//!
//! What others need of this room is [`Authority`]: [`Authority::issue`] for what was permitted, [`Authority::bundle`] and
//! [`Authority::crls`] for whoever checks, and [`Authority::changed`] to hear that one of these is another. It answers from
//! memory. [`HostCa`] is the other side: it makes and keeps what the authority stands on, and is one task's alone.

mod bundle;
mod ca_file;
mod certificate_issuer;
mod csr;
mod host_ca;
mod issued;
mod issuing_ca;
mod x509;

pub use bundle::bundle_document;
pub use certificate_issuer::{CaReport, CaSnapshot, CertificateIssuer, CertificateParams, IssuedX509Svid};
pub use csr::SubjectKey;
pub use host_ca::{CaChange, HostCa};

use crate::{issue, keystore, store, tpm};

/// Why there is no certificate. The texts of [`Error::Csr`] go to callers, the others to administrators.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Tpm(#[from] tpm::Error),
    #[error("{0}")]
    Vault(#[from] keystore::Error),
    #[error("{0}")]
    Store(#[from] store::Error),
    #[error("{0}")]
    Issue(#[from] issue::Error),
    #[error("csr: {0}")]
    Csr(String),
    #[error(
        "the certificate by which the organisation lets this host sign has expired at {0}; have the host certified again: \
         hostbadge enroll request"
    )]
    ParentExpired(crate::clock::Timestamp),
    #[error("the system gives no random numbers")]
    Random,
}
