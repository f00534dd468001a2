//! Checks what a hostbadge and its TPM signed, and what a host measured, with no daemon and no TPM.

mod certificates;
pub mod eat;
mod ek;
pub mod endorsement;
pub mod eventlog;
pub mod evidence;
mod evidence_trust;
mod host_san;
pub mod ima;
mod jwks;
mod jws;
mod jwt_authorities;
mod jwt_svid;
mod pcr_policy;
mod quote;
mod token;
pub mod tpm_structures;
pub(crate) mod x509;

pub use certificates::{
    HostCertificate, MAX_CHAIN_LEN, Roots, check_certificate_is_for_ek, parse_certificate,
};
pub use ek::{Ek, EkKey};
pub use host_san::HostSan;
pub use jwks::{Jwk, Jwks, KeyParams};
pub use jws::Jws;
pub use jwt_authorities::JwtAuthorities;
pub use jwt_svid::{VerifiedJwtSvid, is_trust_domain, validate_jwt_svid, workload_trust_domain};
pub use pcr_policy::PcrPolicy;
pub use quote::check_quote;
pub use token::{Expectation, LEEWAY, VerifiedAccessToken, VerifiedTokenClaims, verify_access_token};

/// Why something does not hold. The texts name the check that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("not a compact JWS: {0}")]
    Malformed(String),
    #[error("there is no bundle of trust domain \"{0}\" here")]
    UnknownTrustDomain(String),
    #[error("key set: {0}")]
    KeySet(String),
    #[error("no key \"{0}\" in the key set")]
    UnknownKey(String),
    #[error("the signature does not hold under key \"{0}\"")]
    Signature(String),
    #[error("{0}")]
    Certificate(String),
    #[error("{0}")]
    InvalidClaim(String),
    #[error("{0}")]
    Endorsement(String),
    #[error("{0}")]
    Evidence(String),
    #[error("boot event log, at byte {offset}: {what}")]
    EventLog { offset: usize, what: String },
    #[error("IMA list, entry {entry}: {what}")]
    Ima { entry: usize, what: String },
}
