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

mod authority;
mod book;
mod bundle;
mod ca_file;
mod csr;
mod host_ca;
mod issuing;
mod x509;

pub use authority::{Authority, Certificate, InForce, Report, Wanted};
pub use bundle::document as bundle_document;
pub use csr::HolderKey;
pub use host_ca::{Change, HostCa};

use crate::{issue, store, tpm, vault};

/// Why there is no certificate. The texts of [`Error::Csr`] go to callers, the others to administrators.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Tpm(#[from] tpm::Error),
    #[error("{0}")]
    Vault(#[from] vault::Error),
    #[error("{0}")]
    Store(#[from] store::Error),
    #[error("{0}")]
    Key(#[from] issue::Error),
    #[error("csr: {0}")]
    Csr(String),
    #[error(
        "the certificate by which the organisation lets this host sign has expired at {0}; have the host certified again: \
         hostbadge enroll request"
    )]
    Expired(crate::clock::Timestamp),
    #[error("the system gives no random numbers")]
    Random,
}
