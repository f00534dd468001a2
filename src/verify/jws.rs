//! A compact JWS (RFC 7515 section 7.1), parsed strictly.

use data_encoding::BASE64URL_NOPAD;
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use serde::Deserialize;

use super::{Error, Jwk};

/// Nothing that we sign comes near this.
const LONGEST: usize = 16 * 1024;

/// A JWS whose signature has not been checked.
#[derive(Debug)]
pub struct Jws<'a> {
    header: Header,
    signed: &'a str,
    payload: Vec<u8>,
    signature: Vec<u8>,
}

/// RFC 8725: the header names the type and the one algorithm, and asks for nothing else.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    kid: String,
    typ: String,
}

impl<'a> Jws<'a> {
    pub fn parse(text: &'a str) -> Result<Jws<'a>, Error> {
        let shape = |what: &str| Error::Shape(what.into());
        if text.len() > LONGEST {
            return Err(shape("longer than 16 KiB"));
        }
        let (signed, signature) = text.rsplit_once('.').ok_or_else(|| shape("no dots"))?;
        let (header, payload) = signed.split_once('.').ok_or_else(|| shape("only one dot"))?;
        let decode = |part: &str, name: &str| {
            BASE64URL_NOPAD
                .decode(part.as_bytes())
                .map_err(|_| Error::Shape(format!("the {name} is not base64url")))
        };
        let header = decode(header, "header")?;
        let header: Header =
            serde_json::from_slice(&header).map_err(|e| Error::Shape(format!("header: {e}")))?;
        if header.alg != "ES256" {
            return Err(Error::Shape(format!("algorithm \"{}\" is not ES256", header.alg.escape_debug())));
        }
        Ok(Jws {
            header,
            signed,
            payload: decode(payload, "payload")?,
            signature: decode(signature, "signature")?,
        })
    }

    pub fn kid(&self) -> &str {
        &self.header.kid
    }

    pub fn typ(&self) -> &str {
        &self.header.typ
    }

    /// The payload, if `key` signed it.
    pub fn verify(&self, key: &Jwk) -> Result<&[u8], Error> {
        let point = key.point()?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
            .verify(self.signed.as_bytes(), &self.signature)
            .map_err(|_| Error::Signature(self.header.kid.clone()))?;
        Ok(&self.payload)
    }
}
