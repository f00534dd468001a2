//! The host's TPM objects as stored outside the TPM: format and validation.
//!
//! Private areas are encrypted and authenticated by the TPM under its SRK, so the stored form has no
//! plaintext secret. Objects are stored as areas rather than saved contexts, which a reset of the TPM
//! invalidates.

use std::fmt;

use data_encoding::BASE64;
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use tss_esapi::structures::{Attest, AttestInfo, Public, Signature};
use tss_esapi::traits::{Marshall, UnMarshall};

use super::error::{Error, command_failed};
use super::templates;

/// The version of the stored format.
const VERSION: u32 = 1;

/// Upper bound on the size of an area in bytes; the largest that hostbadge creates has less than half.
const MAX_AREA_SIZE: usize = 1024;

/// The host's objects under the SRK, with the Names that pin SRK and EK.
///
/// Serialized as a JSON object with bytes in base64; deserializing validates.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "RawTpmObjects", into = "RawTpmObjects")]
pub struct TpmObjects {
    /// Name of the SRK, under which the private areas are encrypted (34 bytes).
    pub srk_name: Vec<u8>,
    /// Name of the ECC P-256 EK (34 bytes).
    pub ek_name: Vec<u8>,
    /// The EK's TPM2B_PUBLIC.
    pub ek_public: Vec<u8>,
    /// The attestation key: a restricted ECDSA P-256 signing key.
    pub ak: KeyBlob,
    /// The host key: an unrestricted ECDSA P-256 signing key.
    pub host_key: KeyBlob,
    /// The AK's certification that the host key is in the same TPM.
    pub certification: Certification,
    /// The sealed key-encryption key (32 bytes).
    pub kek: KeyBlob,
}

impl TpmObjects {
    /// Checks what can be checked without a TPM: sizes, templates, Names, and the AK's certification of the
    /// host key.
    ///
    /// The TPM itself checks the private areas when it loads them.
    ///
    /// # Errors
    /// [`Error::InvalidObjects`] with the first fault found.
    pub fn validate(&self) -> Result<(), Error> {
        for (label, name) in [("SRK", &self.srk_name), ("EK", &self.ek_name)] {
            if name.len() != 34 || !name.starts_with(&templates::SHA256_ID) {
                return invalid_objects(format!("the {label}'s Name is not a SHA-256 Name"));
            }
        }
        let ek = read_public(&self.ek_public)?;
        if templates::object_name(&ek)? != self.ek_name
            || !templates::matches_template(&ek, &templates::ek()?)
        {
            return invalid_objects("the EK's public area does not fit its Name or its template");
        }
        self.ak.validate("AK", &templates::ak()?)?;
        self.host_key.validate("host key", &templates::host_key()?)?;
        self.kek.validate("key-encryption key", &templates::sealed_data()?)?;
        self.certification.verify("host key", &self.ak.public_area()?, &self.host_key.public_area()?)
    }

    /// The host key's uncompressed point (SEC 1, section 2.3.3).
    ///
    /// # Errors
    /// [`Error::InvalidObjects`] for an unreadable public area.
    pub fn host_key_point(&self) -> Result<[u8; 65], Error> {
        let public = self.host_key.public_area()?;
        templates::p256_point(&public)
            .ok_or_else(|| Error::InvalidObjects("the host key has no P-256 point".into()))
    }

    /// The AK's uncompressed point (SEC 1, section 2.3.3).
    ///
    /// # Errors
    /// [`Error::InvalidObjects`] for an unreadable public area.
    pub fn ak_point(&self) -> Result<[u8; 65], Error> {
        let public = self.ak.public_area()?;
        templates::p256_point(&public)
            .ok_or_else(|| Error::InvalidObjects("the AK has no P-256 point".into()))
    }

    /// The AK's Name (34 bytes), by which verifiers identify it.
    ///
    /// # Errors
    /// [`Error::InvalidObjects`] for an unreadable public area.
    pub fn ak_name(&self) -> Result<Vec<u8>, Error> {
        templates::object_name(&self.ak.public_area()?)
    }

    /// The host key's Name (34 bytes), which its certification attests.
    ///
    /// # Errors
    /// [`Error::InvalidObjects`] for an unreadable public area.
    pub fn host_key_name(&self) -> Result<Vec<u8>, Error> {
        templates::object_name(&self.host_key.public_area()?)
    }
}

/// A key or sealed data outside the TPM.
#[derive(Clone, Eq, PartialEq)]
pub struct KeyBlob {
    /// TPM2B_PUBLIC.
    pub public: Vec<u8>,
    /// TPM2B_PRIVATE, encrypted under the SRK.
    pub private: Vec<u8>,
}

impl KeyBlob {
    pub(super) fn new(public: &Public, private: &[u8]) -> Result<Self, Error> {
        Ok(KeyBlob { public: write_public(public)?, private: to_tpm2b(private) })
    }

    pub(super) fn public_area(&self) -> Result<Public, Error> {
        read_public(&self.public)
    }

    /// The private area without its length prefix.
    pub(super) fn private_area(&self) -> Result<&[u8], Error> {
        from_tpm2b(&self.private)
    }

    /// The kind of object, for error messages.
    pub(super) fn describe(&self) -> &'static str {
        match self.public_area() {
            Ok(Public::KeyedHash { .. }) => "the sealed data",
            Ok(public) if public.object_attributes().restricted() => "the AK",
            Ok(Public::Rsa { .. }) => "the RSA key",
            Ok(_) => "the host key",
            Err(_) => "an object",
        }
    }

    /// Checks the public area against its template, and the sizes. `label` names the object in errors.
    pub(super) fn validate(&self, label: &str, template: &Public) -> Result<(), Error> {
        let with_label = |error| match error {
            Error::InvalidObjects(reason) => Error::InvalidObjects(format!("the {label}: {reason}")),
            other => other,
        };
        let public = self.public_area().map_err(with_label)?;
        if !templates::matches_template(&public, template) {
            return invalid_objects(format!("the {label}'s public area does not match its template"));
        }
        self.private_area().map_err(with_label)?;
        Ok(())
    }
}

impl fmt::Debug for KeyBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyBlob({} + {} bytes)", self.public.len(), self.private.len())
    }
}

/// `TPM2_Certify` of a key by the AK.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Certification {
    /// The signed TPMS_ATTEST, which is the content of the TPM2B_ATTEST (TPM 2.0 Part 2, section 10.12.12).
    pub attest: Vec<u8>,
    /// The AK's TPMT_SIGNATURE over it: ECDSA with SHA-256.
    pub signature: Vec<u8>,
}

impl Certification {
    /// The signature as r and s, 32 bytes each, big endian.
    ///
    /// # Errors
    /// [`Error::InvalidObjects`] if it is not an ECDSA P-256 signature.
    pub fn fixed_signature(&self) -> Result<[u8; 64], Error> {
        let damaged =
            || Error::InvalidObjects("the certification's signature is not an ECDSA P-256 signature".into());
        let signature = Signature::unmarshall(&self.signature).map_err(|_| damaged())?;
        join_signature(&signature).ok_or_else(damaged)
    }

    /// Checks that the AK certified the key with this public area. `label` names the key in errors.
    pub(super) fn verify(&self, label: &str, ak: &Public, key: &Public) -> Result<(), Error> {
        if self.attest.len() > MAX_AREA_SIZE || self.signature.len() > MAX_AREA_SIZE {
            return invalid_objects(format!("the {label}'s certification is too long"));
        }
        let Ok(attest) = Attest::unmarshall(&self.attest) else {
            return invalid_objects(format!("the {label}'s certification cannot be read"));
        };
        let AttestInfo::Certify { info } = attest.attested() else {
            return invalid_objects(format!("the {label}'s certification is not a TPM2_Certify attestation"));
        };
        if info.name().value() != templates::object_name(key)? {
            return invalid_objects(format!("the {label}'s certification is about another key"));
        }
        let Some(point) = templates::p256_point(ak) else {
            return invalid_objects("the AK has no P-256 point");
        };
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
            .verify(&self.attest, &self.fixed_signature()?)
            .or_else(|_| invalid_objects(format!("the AK's signature over the {label} is wrong")))
    }
}

/// r and s of an ECDSA signature, 32 bytes each, big endian (RFC 7518, section 3.4).
pub(super) fn join_signature(signature: &Signature) -> Option<[u8; 64]> {
    let Signature::EcDsa(ecdsa) = signature else { return None };
    let mut joined = [0; 64];
    joined[..32].copy_from_slice(&templates::to_32_bytes(ecdsa.signature_r())?);
    joined[32..].copy_from_slice(&templates::to_32_bytes(ecdsa.signature_s())?);
    Some(joined)
}

/// A TPM2B_PUBLIC.
pub(super) fn write_public(public: &Public) -> Result<Vec<u8>, Error> {
    Ok(to_tpm2b(&public.marshall().map_err(command_failed("marshalling a public area"))?))
}

/// Reads a TPM2B_PUBLIC.
pub(super) fn read_public(area: &[u8]) -> Result<Public, Error> {
    let unreadable = || Error::InvalidObjects("a public area cannot be read".into());
    let area = from_tpm2b(area)?;
    let public = Public::unmarshall(area).map_err(|_| unreadable())?;
    // Unmarshalling ignores trailing bytes, so they are rejected here.
    match public.marshall() {
        Ok(written) if written == area => Ok(public),
        _ => Err(unreadable()),
    }
}

/// Prefixes the bytes with their length (16 bits, big endian), as in every TPM2B.
fn to_tpm2b(bytes: &[u8]) -> Vec<u8> {
    // Areas from the TPM are shorter than 64 KiB by their wire format.
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes(), bytes].concat()
}

/// The content of a TPM2B, which must have the whole slice.
fn from_tpm2b(area: &[u8]) -> Result<&[u8], Error> {
    if area.len() > MAX_AREA_SIZE {
        return invalid_objects(format!("an area is too long ({} bytes)", area.len()));
    }
    match area.split_first_chunk::<2>() {
        Some((length, rest))
            if usize::from(u16::from_be_bytes(*length)) == rest.len() && !rest.is_empty() =>
        {
            Ok(rest)
        }
        _ => invalid_objects("an area's length prefix does not match its size"),
    }
}

fn invalid_objects<T>(reason: impl Into<String>) -> Result<T, Error> {
    Err(Error::InvalidObjects(reason.into()))
}

/// The stored form. Fields are optional, so that another version is reported as such and not as missing
/// fields.
#[derive(Deserialize, Serialize)]
struct RawTpmObjects {
    version: u32,
    srk_name: Option<String>,
    ek_name: Option<String>,
    ek_public: Option<String>,
    ak: Option<RawKeyBlob>,
    host_key: Option<RawKeyBlob>,
    certification: Option<RawCertification>,
    kek: Option<RawKeyBlob>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct RawKeyBlob {
    public: String,
    private: String,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct RawCertification {
    attest: String,
    signature: String,
}

impl From<TpmObjects> for RawTpmObjects {
    fn from(objects: TpmObjects) -> Self {
        let blob = |blob: &KeyBlob| {
            Some(RawKeyBlob { public: BASE64.encode(&blob.public), private: BASE64.encode(&blob.private) })
        };
        RawTpmObjects {
            version: VERSION,
            srk_name: Some(BASE64.encode(&objects.srk_name)),
            ek_name: Some(BASE64.encode(&objects.ek_name)),
            ek_public: Some(BASE64.encode(&objects.ek_public)),
            ak: blob(&objects.ak),
            host_key: blob(&objects.host_key),
            certification: Some(RawCertification {
                attest: BASE64.encode(&objects.certification.attest),
                signature: BASE64.encode(&objects.certification.signature),
            }),
            kek: blob(&objects.kek),
        }
    }
}

impl TryFrom<RawTpmObjects> for TpmObjects {
    type Error = Error;

    fn try_from(raw: RawTpmObjects) -> Result<Self, Error> {
        if raw.version != VERSION {
            let version = raw.version;
            return invalid_objects(format!(
                "they are of format {version}, and this release reads only format {VERSION}"
            ));
        }
        let certification = require_field("certification", raw.certification)?;
        let objects = TpmObjects {
            srk_name: decode_base64("srk_name", &require_field("srk_name", raw.srk_name)?)?,
            ek_name: decode_base64("ek_name", &require_field("ek_name", raw.ek_name)?)?,
            ek_public: decode_base64("ek_public", &require_field("ek_public", raw.ek_public)?)?,
            ak: decode_blob("ak", raw.ak)?,
            host_key: decode_blob("host_key", raw.host_key)?,
            certification: Certification {
                attest: decode_base64("certification.attest", &certification.attest)?,
                signature: decode_base64("certification.signature", &certification.signature)?,
            },
            kek: decode_blob("kek", raw.kek)?,
        };
        objects.validate()?;
        Ok(objects)
    }
}

fn require_field<T>(field: &str, value: Option<T>) -> Result<T, Error> {
    value.ok_or_else(|| Error::InvalidObjects(format!("{field} is missing")))
}

fn decode_blob(field: &str, raw: Option<RawKeyBlob>) -> Result<KeyBlob, Error> {
    let raw = require_field(field, raw)?;
    Ok(KeyBlob { public: decode_base64(field, &raw.public)?, private: decode_base64(field, &raw.private)? })
}

/// Decodes a base64 field with a bound on its length.
pub(super) fn decode_base64(field: &str, text: &str) -> Result<Vec<u8>, Error> {
    if text.len() > 2 * MAX_AREA_SIZE {
        return invalid_objects(format!("{field} is too long"));
    }
    BASE64
        .decode(text.as_bytes())
        .map_err(|error| Error::InvalidObjects(format!("{field} is not base64: {error}")))
}
