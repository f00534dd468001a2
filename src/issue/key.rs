//! The issuing key: a P-256 key that signs in memory.

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, Signature};
use zeroize::Zeroizing;

use super::error::Error;
use crate::clock::Timestamp;
use crate::verify::Jwk;
use crate::zeroized_key_pair::ZeroizedKeyPair;

/// A P-256 key that signs. It is not cloneable, `Debug` does not show it, and its memory is wiped when it is
/// dropped.
pub struct IssuingKey {
    key_pair: ZeroizedKeyPair,
    random: SystemRandom,
    jwk: Jwk,
    created: Timestamp,
}

impl IssuingKey {
    /// Generates a key and returns its PKCS#8 document (RFC 5958), the form in which it is encrypted at rest.
    pub fn generate() -> Result<Zeroizing<Vec<u8>>, Error> {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
            .map_err(Error::KeyGeneration)?;
        Ok(Zeroizing::new(document.as_ref().to_vec()))
    }

    /// Reads a key from its PKCS#8 document.
    ///
    /// # Errors
    /// [`Error::InvalidKey`] if the document is not a P-256 key with a matching public key.
    pub fn from_pkcs8(pkcs8: &[u8], created: Timestamp) -> Result<IssuingKey, Error> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, &random)?;
        let point: [u8; 65] = pair.public_key().as_ref().try_into().map_err(|_| Error::NotP256)?;
        Ok(IssuingKey { jwk: Jwk::from_point(&point), key_pair: ZeroizedKeyPair::new(pair), random, created })
    }

    /// The public key.
    pub fn jwk(&self) -> &Jwk {
        &self.jwk
    }

    /// The RFC 7638 thumbprint of the public key.
    pub fn kid(&self) -> &str {
        &self.jwk.kid
    }

    /// When the key was generated.
    pub fn created(&self) -> Timestamp {
        self.created
    }

    /// Signs a JWS signing input (RFC 7515 section 5.1): r and s, 32 bytes each (RFC 7518 section 3.4).
    pub fn sign(&self, input: &[u8]) -> Result<Signature, Error> {
        self.key_pair.get().sign(&self.random, input).map_err(Error::Signing)
    }
}

impl std::fmt::Debug for IssuingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuingKey").field("kid", &self.jwk.kid).finish_non_exhaustive()
    }
}
