//! What is minted, and by which key: the fifth step of the road.

#[cfg(test)]
mod accidents;
mod by_tpm;
mod documents;
mod endorsement;
mod enrollment;
mod evidence;
mod fair;
mod introspect;
mod issuer;
mod key;
mod keyring;
mod keys;
mod orders;
mod places;
mod recover;
mod report;
mod ring;
mod rotation;
mod rsa;
mod sealed;
mod signing;
mod svid;
mod token;
mod validate;
mod wit;

pub use by_tpm::ByTpm;
pub use documents::Documents;
pub use enrollment::{CertificateReport, Enrollment};
pub use evidence::{Asker, Challenge, Format, Logs, Nonce, Proof, Shown};
pub use fair::Turns;
pub use introspect::{Introspection, Query};
pub use issuer::{Host, Issuer, Standing};
pub use key::IssuingKey;
pub use keyring::{Established, Naming, establish, stored_objects};
pub use keys::{Change, Keys};
pub use orders::{Desk, Did, Order, Orders, Rotated, What, orders};
pub use places::{Place, Places};
pub use recover::{opens, recover};
pub use report::{KeyReport, KeyState, NextStep};
pub use ring::Unready;
pub use rotation::Rotation;
pub use rsa::{Endorser, RsaKey, load_rsa_key, make_rsa_key};
pub use signing::Signing;
pub use svid::JwtSvid;
pub use token::Token;
pub use validate::Question;
pub use wit::WitSvid;

use crate::{enroll, store, tpm, vault};

/// Why nothing can be minted. The texts go to administrators.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Tpm(#[from] tpm::Error),
    #[error("{0}")]
    Store(#[from] store::Error),
    #[error("{0}")]
    Vault(vault::Error),
    #[error("the issuing key cannot be read: {0}")]
    Key(String),
    #[error("{path}: {what}; put it back from a backup of this host, or move it away to start with a fresh issuing key", path = path.display())]
    Foreign { path: std::path::PathBuf, what: String },
    #[error("{path}: {what}; put it back from a backup of this host, or move it away to have a fresh RSA key made", path = path.display())]
    Rsa { path: std::path::PathBuf, what: String },
    #[error("the issuing key's endorsement does not hold: {0}")]
    Endorsement(String),
    #[error("{0}")]
    Enrollment(String),
    #[error("{0}")]
    Unready(#[from] Unready),
    #[error("the system gives no random numbers")]
    Random,
}

/// The TPM's own state says what is the matter better than any room that met it.
impl From<vault::Error> for Error {
    fn from(error: vault::Error) -> Error {
        match error {
            vault::Error::Tpm(error) => Error::Tpm(error),
            vault::Error::Store(error) => Error::Store(error),
            other => Error::Vault(other),
        }
    }
}

impl From<enroll::Error> for Error {
    fn from(error: enroll::Error) -> Error {
        Error::Enrollment(error.to_string())
    }
}
