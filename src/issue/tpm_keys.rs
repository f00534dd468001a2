//! The keys in the TPM that sign tokens, as requests see them: the host key and the RSA keys.

use super::report::{KeyReport, host_key_report};
use super::rsa::{RsaKeySet, RsaSigningKey};
use crate::clock::Timestamp;
use crate::revocation::RevocationSet;
use crate::verify::Jwk;

/// The signing keys in the TPM.
#[derive(Clone, Debug)]
pub(super) struct TpmKeys {
    /// It signs ES256 where a grant requires the TPM, and endorses all other keys.
    pub(super) host_key: Jwk,
    /// When it was made; `None` where that is not known.
    pub(super) host_key_made: Option<Timestamp>,
    pub(super) rsa: RsaKeySet,
}

impl TpmKeys {
    /// The public keys in the order of the key set.
    pub(super) fn jwks(&self) -> Vec<Jwk> {
        std::iter::once(&self.host_key).chain(&self.rsa.published).cloned().collect()
    }

    /// The key that signs RS256.
    pub(super) fn rsa_key(&self) -> Option<&RsaSigningKey> {
        self.rsa.active.as_deref()
    }

    /// Every key with its state, in the order of the key set.
    pub(super) fn reports(&self) -> impl Iterator<Item = KeyReport> {
        let host_key = host_key_report(&self.host_key, self.host_key_made);
        std::iter::once(host_key).chain(self.rsa.reports.iter().cloned())
    }

    /// The same keys without the revoked ones. The host key cannot be revoked.
    pub(super) fn without_revoked(&self, revocations: &RevocationSet) -> TpmKeys {
        TpmKeys { rsa: self.rsa.without_revoked(revocations), ..self.clone() }
    }
}
