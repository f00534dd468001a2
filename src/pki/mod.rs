//! Issues certificates to agents: X509-SVIDs (SPIFFE X509-SVID standard) below a CA of this host.
//!
//! ```text
//! host CA: the host key, in the TPM               self-signed, in the bundle; 20 years
//!   └── issuing CA: in memory, encrypted at rest  24 hours, replaced after about half of them
//!         └── leaves: signed in memory            one hour by default
//! ```
//!
//! The TPM signs once in about 12 hours, so agents do not wait for it, and leaves are issued while it is
//! unavailable, until the issuing CA expires. A new issuing CA is below the same root: leaves of its
//! predecessor remain valid.
//!
//! [`CertificateIssuer`] is what the request path and the Workload API use, and works in memory:
//! [`CertificateIssuer::issue`] for what was permitted, [`CertificateIssuer::bundle`] and
//! [`CertificateIssuer::crls`] for relying parties, and [`CertificateIssuer::subscribe`] to learn of changes.
//! [`HostCa`] creates and stores the CAs that it issues from, and belongs to one task.

mod bundle;
mod ca_file;
mod ca_rotation;
mod certificate_issuer;
mod crl;
mod csr;
mod error;
mod host_ca;
mod invocation_tag;
mod issued;
mod issued_file;
mod issuing_ca;
mod issuing_cas;
mod lost_records;
mod presented;
mod quota;
mod root_ca;
mod svid;

pub use bundle::bundle_document;
pub use ca_rotation::{CaRotation, CaRotationError, CaRotationRequest};
pub use certificate_issuer::{CaReport, CaSnapshot, CertificateIssuer, CertificateParams};
pub use csr::{CsrError, SubjectKey};
pub use error::Error;
pub use host_ca::{CaChange, HostCa};
pub use invocation_tag::InvocationTag;
pub use issued_file::{CaTag, LeafRecord};
pub use issuing_cas::{FutureLeaves, NotRevoked};
pub use lost_records::LostRecords;
pub use presented::NotOwnCertificate;
pub use root_ca::RootRenewal;
pub use svid::IssuedX509Svid;
