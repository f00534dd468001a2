//! Checks what a hostbadge and its TPM signed, and what a host measured, with no daemon and no TPM.

mod certificates;
pub mod der;
pub mod eat;
mod ek;
pub mod endorsement;
pub mod eventlog;
pub mod evidence;
pub mod ima;
mod jwks;
mod jws;
mod pcr_policy;
mod quote;
pub mod structures;
mod svid;
mod svid_keys;
mod token;
mod vouching;

pub use certificates::{
    HostCertificate, LONGEST_CHAIN, Names, Roots, is_certificate_of, parse as parse_certificate,
};
pub use ek::{Ek, EkKey};
pub use jwks::{Jwk, Jwks, Numbers};
pub use jws::Jws;
pub use pcr_policy::PcrPolicy;
pub use quote::check_quote;
pub use svid::{Svid, is_trust_domain, trust_domain, validate};
pub use svid_keys::SvidKeys;
pub use token::{Claims, Expectation, LEEWAY, Verified, verify};

/// Why something does not hold. The texts name the check that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("not a compact JWS: {0}")]
    Shape(String),
    #[error("there is no bundle of trust domain \"{0}\" here")]
    UnknownDomain(String),
    #[error("key set: {0}")]
    Keys(String),
    #[error("no key \"{0}\" in the key set")]
    UnknownKey(String),
    #[error("the signature does not hold under key \"{0}\"")]
    Signature(String),
    #[error("{0}")]
    Certificate(String),
    #[error("{0}")]
    Claim(String),
    #[error("{0}")]
    Endorsement(String),
    #[error("{0}")]
    Evidence(String),
    #[error("boot event log, at byte {offset}: {what}")]
    EventLog { offset: usize, what: String },
    #[error("IMA list, line {line}: {what}")]
    Ima { line: usize, what: String },
}
