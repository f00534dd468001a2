//! Offline verification of what a hostbadge and its TPM signed, and of what a host measured. It needs no
//! daemon and no TPM.
//!
//! All input is untrusted: it is bounded in size, parsed strictly, and escaped in messages.

pub mod audit;
mod byte_reader;
pub(crate) mod ca_chain;
mod certificates;
mod default_leeways;
pub mod eat;
mod ek;
mod ek_chain;
pub(crate) mod endorsement;
mod error;
pub mod eventlog;
pub mod evidence;
mod host_san;
pub mod ima;
mod jwks;
pub(crate) mod jws;
mod jwt_authorities;
mod jwt_svid;
mod pcr;
mod pcr_policy;
pub mod proof;
mod quote;
pub mod receipt;
mod security_event;
mod signature;
mod spiffe_id;
mod status_list;
mod token;
mod tpm_reader;
pub(crate) mod tpm_structures;
mod unverified;
pub(crate) mod x509;

pub use certificates::{HostCertificate, Roots};
pub(crate) use certificates::{not_after, not_before, parse_certificate};
pub use ek::{Ek, EkKey};
pub(crate) use ek_chain::check_ek_certificate;
pub use ek_chain::{ManufacturerRoots, PassedOver};
pub use error::Error;
pub use host_san::HostSan;
pub use jwks::{Jwk, Jwks, KeyParams};
pub use jwt_authorities::JwtAuthorities;
pub use jwt_svid::{VerifiedJwtSvid, validate_jwt_svid};
pub use pcr_policy::PcrPolicy;
pub(crate) use quote::check_quote;
pub use security_event::{
    EventExpectation, EventSubject, EventType, MAX_EVENT_TOKEN_LEN, SecurityEvent, unverified_issuer,
    verify_security_event,
};
pub(crate) use spiffe_id::{agent_of_id, is_trust_domain, workload_trust_domain};
pub use status_list::{MAX_STATUS_LIST_LEN, STATUS_LIST_TYP, Status, StatusList, StatusReference};
pub(crate) use token::WIT_KID_PREFIX;
pub use token::{
    Expectation, LEEWAY, TokenClaims, TokenKind, VerifiedAccessToken, VerifiedToken, VerifiedTokenClaims,
    verify_access_token, verify_token, verify_token_signature,
};
pub(crate) use tpm_reader::TpmReader;
pub use unverified::{UnverifiedToken, unverified_token};
