//! The keys of a trust domain: those of a SPIFFE bundle that sign JWT-SVIDs.
//!
//! They are others' keys, so here are all the algorithms of JWT-SVID section 2.2 that our cryptography knows; ES512 is
//! the one that it does not.

use data_encoding::BASE64URL_NOPAD;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm};
use serde::Deserialize;

use super::Error;

/// Keys that one trust domain may have.
const KEYS_MOST: usize = 128;

/// JWT authorities by their `kid`.
#[derive(Clone, Debug, Default)]
pub struct SvidKeys(Vec<(String, Public)>);

#[derive(Clone, Debug)]
enum Public {
    P256(Vec<u8>),
    P384(Vec<u8>),
    Rsa { n: Vec<u8>, e: Vec<u8> },
}

/// A JWK as far as it concerns us (RFC 7518 section 6).
#[derive(Deserialize)]
struct Written {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
    /// What a public key has not.
    d: Option<serde_json::Value>,
}

impl SvidKeys {
    /// The JWT authorities of a bundle document. Authorities of other uses are passed over, as are curves that are not
    /// known here; what cannot be a key is an error.
    pub fn parse(document: &[u8]) -> Result<SvidKeys, Error> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Written>,
        }
        let set: Set = serde_json::from_slice(document).map_err(|e| Error::Keys(e.to_string()))?;
        if set.keys.len() > KEYS_MOST {
            return Err(Error::Keys(format!("more than {KEYS_MOST} keys")));
        }
        let mut keys = SvidKeys::default();
        for written in set.keys.into_iter().filter(|key| key.usage.as_deref() == Some("jwt-svid")) {
            let kid = written.kid.clone().filter(|kid| !kid.is_empty());
            let kid = kid.ok_or_else(|| Error::Keys("a jwt-svid key has no \"kid\"".into()))?;
            if keys.find(&kid).is_some() {
                return Err(Error::Keys(format!("two keys are named \"{}\"", kid.escape_debug())));
            }
            if let Some(public) = Public::of(&written)
                .map_err(|what| Error::Keys(format!("key \"{}\" {what}", kid.escape_debug())))?
            {
                keys.0.push((kid, public));
            }
        }
        Ok(keys)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn find(&self, kid: &str) -> Option<&Public> {
        self.0.iter().find(|(known, _)| known == kid).map(|(_, public)| public)
    }

    /// Whether the key `kid` signed `signed` by the algorithm `alg`, which has to be one of that key's kind.
    pub(super) fn check(&self, kid: &str, alg: &str, signed: &[u8], signature: &[u8]) -> Result<(), Error> {
        let public = self.find(kid).ok_or_else(|| Error::UnknownKey(kid.escape_debug().to_string()))?;
        let fine = match (public, alg) {
            (Public::P256(point), "ES256") => {
                point_signed(&signature::ECDSA_P256_SHA256_FIXED, point, signed, signature)
            }
            (Public::P384(point), "ES384") => {
                point_signed(&signature::ECDSA_P384_SHA384_FIXED, point, signed, signature)
            }
            (Public::Rsa { n, e }, alg) => {
                let parameters = match alg {
                    "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
                    "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
                    "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
                    "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
                    "PS384" => &signature::RSA_PSS_2048_8192_SHA384,
                    "PS512" => &signature::RSA_PSS_2048_8192_SHA512,
                    _ => return Err(unfit(alg, kid)),
                };
                RsaPublicKeyComponents { n, e }.verify(parameters, signed, signature).is_ok()
            }
            _ => return Err(unfit(alg, kid)),
        };
        if fine { Ok(()) } else { Err(Error::Signature(kid.escape_debug().to_string())) }
    }
}

fn unfit(alg: &str, kid: &str) -> Error {
    Error::Shape(format!(
        "algorithm \"{}\" is none of SPIFFE's for the key \"{}\"",
        alg.escape_debug(),
        kid.escape_debug()
    ))
}

fn point_signed(
    algorithm: &'static dyn VerificationAlgorithm,
    point: &[u8],
    signed: &[u8],
    signature: &[u8],
) -> bool {
    UnparsedPublicKey::new(algorithm, point).verify(signed, signature).is_ok()
}

impl Public {
    fn of(written: &Written) -> Result<Option<Public>, String> {
        if written.d.is_some() {
            return Err("is a private key; a bundle holds public ones".into());
        }
        let bytes = |name: &str, text: &Option<String>| {
            let text = text.as_deref().ok_or_else(|| format!("has no \"{name}\""))?;
            BASE64URL_NOPAD
                .decode(text.as_bytes())
                .map_err(|_| format!("has a \"{name}\" that is no base64url"))
        };
        let point = |half: usize| {
            let (x, y) = (bytes("x", &written.x)?, bytes("y", &written.y)?);
            if x.len() != half || y.len() != half {
                return Err(format!("has coordinates that are not {half} bytes"));
            }
            Ok([&[4], &x[..], &y[..]].concat())
        };
        Ok(Some(match (written.kty.as_str(), written.crv.as_deref()) {
            ("EC", Some("P-256")) => Public::P256(point(32)?),
            ("EC", Some("P-384")) => Public::P384(point(48)?),
            ("RSA", _) => Public::Rsa { n: bytes("n", &written.n)?, e: bytes("e", &written.e)? },
            _ => return Ok(None),
        }))
    }
}
