//! The RSA host key.
//!
//! It is created on demand, certified by the AK like the host key, and stored by the caller beside
//! [`TpmObjects`].

use std::fmt;

use data_encoding::BASE64;
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use serde::{Deserialize, Serialize};
use tss_esapi::structures::{Digest, Public, Signature, SignatureScheme};

use super::connection::TpmConnection;
use super::error::{Error, command_failed, unexpected_response};
use super::objects::{Certification, KeyBlob, TpmObjects, decode_base64};
use super::{keys, templates};

/// The public exponent 65537, big endian. The TPM's public areas have zero for it.
const PUBLIC_EXPONENT: [u8; 3] = [1, 0, 1];

/// The length of modulus and signatures in bytes.
pub(super) const MODULUS_LEN: usize = 256;

/// An RSA-2048 key under the SRK that signs any SHA-256 digest with RSASSA-PKCS1-v1_5, with the AK's
/// certification.
///
/// Serialized as a JSON object with the areas in base64.
#[derive(Clone, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "RawRsaKeyBlob", into = "RawRsaKeyBlob")]
pub struct RsaKeyBlob {
    key: KeyBlob,
    /// The AK's certification that the key is in the same TPM.
    certification: Certification,
    modulus: Vec<u8>,
}

impl RsaKeyBlob {
    fn new(key: KeyBlob, certification: Certification) -> Result<RsaKeyBlob, Error> {
        key.validate("RSA key", &templates::rsa_key()?)?;
        let Public::Rsa { unique, .. } = key.public_area()? else {
            return Err(Error::InvalidObjects(
                "the RSA key's public area is that of another kind of key".into(),
            ));
        };
        let modulus = unique.value().to_vec();
        if modulus.len() != MODULUS_LEN || modulus[0] < 0x80 {
            return Err(Error::InvalidObjects("the RSA key's modulus does not have 2048 bits".into()));
        }
        Ok(RsaKeyBlob { key, certification, modulus })
    }

    /// Modulus (256 bytes) and public exponent (3 bytes), big endian.
    pub fn modulus_and_exponent(&self) -> (&[u8], &[u8]) {
        (&self.modulus, &PUBLIC_EXPONENT)
    }

    /// The key's Name, which the certification attests.
    ///
    /// # Errors
    /// [`Error::InvalidObjects`] for an unreadable public area.
    pub fn name(&self) -> Result<Vec<u8>, Error> {
        templates::object_name(&self.key.public_area()?)
    }

    /// The AK's certification that the key is in the same TPM.
    pub fn certification(&self) -> &Certification {
        &self.certification
    }

    /// Checks that this host's AK certified the key's Name.
    fn verify_certification(&self, objects: &TpmObjects) -> Result<(), Error> {
        self.certification.verify("RSA key", &objects.ak.public_area()?, &self.key.public_area()?)
    }
}

impl fmt::Debug for RsaKeyBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RsaKeyBlob({:?})", self.key)
    }
}

/// Creates the key, which takes a TPM seconds to a minute, and certifies it with the AK.
pub(super) fn create(connection: &mut TpmConnection, objects: &TpmObjects) -> Result<RsaKeyBlob, Error> {
    let key = connection.create_object(templates::rsa_key()?, None)?;
    let certification = keys::certify(connection, &key, &objects.ak)?;
    let key = RsaKeyBlob::new(key, certification)?;
    verify(connection, objects, &key)?;
    Ok(key)
}

/// Checks the key's certification, and that this TPM signs with it.
pub(super) fn verify(
    connection: &mut TpmConnection,
    objects: &TpmObjects,
    key: &RsaKeyBlob,
) -> Result<(), Error> {
    key.verify_certification(objects)?;
    let message = b"hostbadge: is this key ours?";
    let digest = ring::digest::digest(&ring::digest::SHA256, message);
    let digest = digest.as_ref().try_into().map_err(|_| unexpected_response("TPM2_Sign"))?;
    let signature = sign(connection, key, &digest)?;
    let (n, e) = key.modulus_and_exponent();
    RsaPublicKeyComponents { n, e }
        .verify(&RSA_PKCS1_2048_8192_SHA256, message, &signature)
        .map_err(|_| unexpected_response("TPM2_Sign"))
}

/// RSASSA-PKCS1-v1_5 over a SHA-256 digest (RFC 8017 section 8.2): 256 bytes, big endian.
pub(super) fn sign(
    connection: &mut TpmConnection,
    key: &RsaKeyBlob,
    digest: &[u8; 32],
) -> Result<[u8; MODULUS_LEN], Error> {
    let digest = Digest::try_from(digest.as_slice()).map_err(command_failed("TPM2_Sign"))?;
    let ticket = keys::null_hashcheck_ticket()?;
    let signature = connection.with_loaded(&key.key, |connection, key| {
        connection.run("TPM2_Sign", |context| context.sign(key, digest, SignatureScheme::Null, ticket))
    })?;
    let Signature::RsaSsa(signature) = signature else { return Err(unexpected_response("TPM2_Sign")) };
    signature.signature().value().try_into().map_err(|_| unexpected_response("TPM2_Sign"))
}

/// The serialized form.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct RawRsaKeyBlob {
    public: String,
    private: String,
    attest: String,
    signature: String,
}

impl From<RsaKeyBlob> for RawRsaKeyBlob {
    fn from(key: RsaKeyBlob) -> RawRsaKeyBlob {
        RawRsaKeyBlob {
            public: BASE64.encode(&key.key.public),
            private: BASE64.encode(&key.key.private),
            attest: BASE64.encode(&key.certification.attest),
            signature: BASE64.encode(&key.certification.signature),
        }
    }
}

impl TryFrom<RawRsaKeyBlob> for RsaKeyBlob {
    type Error = Error;

    fn try_from(raw: RawRsaKeyBlob) -> Result<RsaKeyBlob, Error> {
        let key = KeyBlob {
            public: decode_base64("public", &raw.public)?,
            private: decode_base64("private", &raw.private)?,
        };
        let certification = Certification {
            attest: decode_base64("attest", &raw.attest)?,
            signature: decode_base64("signature", &raw.signature)?,
        };
        RsaKeyBlob::new(key, certification)
    }
}
