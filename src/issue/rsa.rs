//! The RSA keys as requests see them: the one that signs RS256, and those that verify.

use std::fmt;
use std::sync::Arc;

use super::report::{KeyReport, KeyState};
use crate::revocation::{RevocationSet, Target, TargetKind};
use crate::tpm;
use crate::verify::Jwk;

/// The host key of a host, which endorses its other keys.
#[derive(Clone, Debug)]
pub struct HostKeyRef {
    /// The host's id.
    pub host_id: String,
    /// The public key.
    pub host_key: Jwk,
}

/// An RSA key with which this host's TPM signs RS256.
pub struct RsaSigningKey {
    tpm_key: Arc<tpm::RsaKeyBlob>,
    jwk: Jwk,
}

impl RsaSigningKey {
    pub(super) fn new(tpm_key: &tpm::RsaKeyBlob) -> RsaSigningKey {
        RsaSigningKey { jwk: public_key(tpm_key), tpm_key: Arc::new(tpm_key.clone()) }
    }

    /// The key's areas, for [`tpm::Tpm::rsa_sign`].
    pub fn tpm_key(&self) -> &Arc<tpm::RsaKeyBlob> {
        &self.tpm_key
    }

    /// The public key.
    pub fn jwk(&self) -> &Jwk {
        &self.jwk
    }

    /// The RFC 7638 thumbprint of the public key.
    pub fn kid(&self) -> &str {
        &self.jwk.kid
    }
}

impl fmt::Debug for RsaSigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RsaSigningKey").field("kid", &self.jwk.kid).finish_non_exhaustive()
    }
}

/// The public half of a key.
pub(super) fn public_key(tpm_key: &tpm::RsaKeyBlob) -> Jwk {
    let (modulus, exponent) = tpm_key.modulus_and_exponent();
    Jwk::from_rsa(modulus, exponent)
}

/// The RSA keys of a host at one time; none by default.
#[derive(Clone, Debug, Default)]
pub(super) struct RsaKeySet {
    /// The key that signs.
    pub(super) active: Option<Arc<RsaSigningKey>>,
    /// The public keys in the order of the key set: active, published, then retired ones, the latest first.
    pub(super) published: Vec<Jwk>,
    /// Every key with its state.
    pub(super) reports: Vec<KeyReport>,
}

impl RsaKeySet {
    /// How many of the keys are revoked and not destroyed yet.
    pub(super) fn count_revoked(&self, revocations: &RevocationSet) -> usize {
        let is_revoked =
            |report: &&KeyReport| report.state != KeyState::Destroyed && revocations.blocks_key(&report.kid);
        self.reports.iter().filter(is_revoked).count()
    }

    /// The same keys without the revoked ones, which neither sign nor verify.
    pub(super) fn without_revoked(&self, revocations: &RevocationSet) -> RsaKeySet {
        let is_valid = |kid: &str| !revocations.blocks_key(kid);
        let report = |report: &KeyReport| match revocations.get(&Target::new(TargetKind::Key, &report.kid)) {
            Some(revocation) if report.state != KeyState::Destroyed => {
                report.as_revoked(revocation.revoked_at)
            }
            _ => report.clone(),
        };
        RsaKeySet {
            active: self.active.clone().filter(|key| is_valid(key.kid())),
            published: self.published.iter().filter(|key| is_valid(&key.kid)).cloned().collect(),
            reports: self.reports.iter().map(report).collect(),
        }
    }
}
