//! The key of one agent's invocation, by which it proves that a token is its own.

use std::fmt;

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, Signature};

use super::error::Error;
use crate::clock::Timestamp;
use crate::stack::wiping_stack;
use crate::verify::Jwk;
use crate::zeroized_key_pair::ZeroizedKeyPair;

/// A P-256 key that signs proofs. It is made in memory and cannot be exported or cloned, `Debug` does not
/// show it, and its memory is wiped when it is dropped.
pub struct ProofKey {
    key_pair: ZeroizedKeyPair,
    random: SystemRandom,
    jwk: Jwk,
    created: Timestamp,
}

impl ProofKey {
    /// Generates a key.
    ///
    /// # Errors
    ///
    /// [`Error::KeyGeneration`], [`Error::InvalidKey`] or [`Error::NotP256`].
    pub fn generate(now: Timestamp) -> Result<ProofKey, Error> {
        // ring keeps the key as a document and as a number, on the stack.
        wiping_stack(|| {
            let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
            let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).map_err(Error::KeyGeneration)?;
            let pair =
                EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).map_err(Error::InvalidKey)?;
            let point: [u8; 65] = pair.public_key().as_ref().try_into().map_err(|_| Error::NotP256)?;
            let (key_pair, jwk) = (ZeroizedKeyPair::new(pair), Jwk::from_point(&point));
            Ok(ProofKey { key_pair, random, jwk, created: now })
        })
    }

    /// The public key, with its thumbprint as `kid`. The members of a `cnf.jwk` (RFC 7800 section 3.2) are
    /// its `params` and its `alg`.
    pub fn jwk(&self) -> &Jwk {
        &self.jwk
    }

    /// The RFC 7638 thumbprint of the public key in base64url: the claim `cnf.jkt` of a token that is bound
    /// to the key (RFC 9449 section 6.1).
    pub fn jkt(&self) -> &str {
        &self.jwk.kid
    }

    /// When the key was generated.
    pub fn created(&self) -> Timestamp {
        self.created
    }

    /// Signs what a builder of this module has made: r and s, 32 bytes each (RFC 7518 section 3.4, RFC 9421
    /// section 3.3.4).
    pub(super) fn sign(&self, input: &[u8]) -> Result<Signature, Error> {
        self.key_pair.get().sign(&self.random, input).map_err(Error::Signing)
    }
}

impl fmt::Debug for ProofKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProofKey")
            .field("jkt", &self.jkt())
            .field("created", &self.created)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_signs_and_has_its_thumbprint() {
        let now = Timestamp::from_secs(1);
        let (key, other) = (ProofKey::generate(now).unwrap(), ProofKey::generate(now).unwrap());
        key.jwk().check().unwrap();
        assert_ne!(key.jkt(), other.jkt());
        assert_eq!(key.created(), now);
        let signature = key.sign(b"input").unwrap();
        key.jwk().verify(b"input", signature.as_ref()).unwrap();
        assert!(other.jwk().verify(b"input", signature.as_ref()).is_err());
    }

    #[test]
    fn debug_shows_only_thumbprint_and_time() {
        let key = ProofKey::generate(Timestamp::from_secs(1)).unwrap();
        assert_eq!(
            format!("{key:?}"),
            format!("ProofKey {{ jkt: {:?}, created: Timestamp(1000000), .. }}", key.jkt())
        );
    }
}
