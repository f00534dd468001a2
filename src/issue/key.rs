//! The issuing key: a P-256 key that signs in memory.

use std::mem::MaybeUninit;

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, Signature};
use zeroize::{Zeroize, Zeroizing};

use super::Error;
use crate::clock::Timestamp;
use crate::verify::Jwk;

/// A key that signs. Neither shown nor copied, and wiped when dropped.
pub struct IssuingKey {
    key_pair: ZeroizedKeyPair,
    random: SystemRandom,
    jwk: Jwk,
    created: Timestamp,
}

impl IssuingKey {
    /// A fresh key, as PKCS#8 (RFC 5958): the form in which it is sealed.
    pub fn generate() -> Result<Zeroizing<Vec<u8>>, Error> {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
            .map_err(|_| Error::Random)?;
        Ok(Zeroizing::new(document.as_ref().to_vec()))
    }

    /// Reads a key back.
    pub fn from_pkcs8(pkcs8: &[u8], created: Timestamp) -> Result<IssuingKey, Error> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, &random)
            .map_err(|e| Error::Key(e.to_string()))?;
        let point: [u8; 65] =
            pair.public_key().as_ref().try_into().map_err(|_| Error::Key("not P-256".into()))?;
        Ok(IssuingKey { jwk: Jwk::from_point(&point), key_pair: ZeroizedKeyPair::new(pair), random, created })
    }

    pub fn jwk(&self) -> &Jwk {
        &self.jwk
    }

    /// RFC 7638 thumbprint.
    pub fn kid(&self) -> &str {
        &self.jwk.kid
    }

    pub fn created(&self) -> Timestamp {
        self.created
    }

    /// Signs a signing input (RFC 7515 section 5.1): r and s, 32 bytes each (RFC 7518 section 3.4).
    pub fn sign(&self, input: &[u8]) -> Result<Signature, Error> {
        self.key_pair.get().sign(&self.random, input).map_err(|_| Error::Random)
    }
}

impl std::fmt::Debug for IssuingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuingKey").field("kid", &self.jwk.kid).finish_non_exhaustive()
    }
}

/// ring does not wipe its keys, so this does, in the place from which the key does not move while it lives.
struct ZeroizedKeyPair(Box<MaybeUninit<EcdsaKeyPair>>);

impl ZeroizedKeyPair {
    fn new(pair: EcdsaKeyPair) -> ZeroizedKeyPair {
        // Nothing is lost by not dropping it: all that it is lies in its own bytes.
        const { assert!(!std::mem::needs_drop::<EcdsaKeyPair>()) };
        ZeroizedKeyPair(Box::new(MaybeUninit::new(pair)))
    }

    fn get(&self) -> &EcdsaKeyPair {
        // SAFETY: made of a key pair, and changed by `drop` alone.
        unsafe { self.0.assume_init_ref() }
    }
}

impl Drop for ZeroizedKeyPair {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}
