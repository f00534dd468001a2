//! Verifies the certificates of endorsement keys, up to the roots of TPM manufacturers, by the rules of the
//! TCG EK Credential Profile for TPM Family 2.0 and RFC 5280, section 6.
//!
//! webpki, which verifies the other certificates, refuses every critical extension that the web does not use.
//! Manufacturers' intermediates have critical certificatePolicies, and some of their certificates have serial
//! numbers that are negative or longer than RFC 5280 allows. The paths of EK certificates are therefore
//! verified here; the signatures are verified by the same code of ring.
//!
//! A critical extension is accepted only if this module evaluates it: see [`path`], [`policies`] and
//! [`name_constraints`].

mod certificate;
mod files;
mod key;
mod name_constraints;
mod path;
mod policies;
mod roots;

pub use files::PassedOver;
pub(super) use key::check_certificate_is_for_ek;
pub(crate) use key::check_ek_certificate;
pub use roots::ManufacturerRoots;
