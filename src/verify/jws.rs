//! A compact JWS (RFC 7515 section 7.1), parsed strictly.

use data_encoding::BASE64URL_NOPAD;
use serde::Deserialize;

use super::{Error, Jwk};

/// Nothing that we sign comes near this.
const MAX_JWS_LEN: usize = 16 * 1024;

/// A JWS whose signature has not been checked.
#[derive(Debug)]
pub struct Jws<'a> {
    header: JwsHeader,
    signing_input: &'a str,
    payload: Vec<u8>,
    signature: Vec<u8>,
}

/// RFC 8725: the header names the type and the one algorithm, and asks for nothing else.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct JwsHeader {
    alg: String,
    kid: String,
    typ: String,
}

impl<'a> Jws<'a> {
    pub fn parse(text: &'a str) -> Result<Jws<'a>, Error> {
        Jws::parse_with_limit(text, MAX_JWS_LEN)
    }

    /// The same for what may be `longest` bytes long.
    pub fn parse_with_limit(text: &'a str, max_len: usize) -> Result<Jws<'a>, Error> {
        let malformed = |what: &str| Error::Malformed(what.into());
        if text.len() > max_len {
            return Err(Error::Malformed(format!("longer than {} KiB", max_len / 1024)));
        }
        let (signing_input, signature) = text.rsplit_once('.').ok_or_else(|| malformed("no dots"))?;
        let (header, payload) = signing_input.split_once('.').ok_or_else(|| malformed("only one dot"))?;
        let decode = |part: &str, name: &str| {
            BASE64URL_NOPAD
                .decode(part.as_bytes())
                .map_err(|_| Error::Malformed(format!("the {name} is not base64url")))
        };
        let header = decode(header, "header")?;
        let header: JwsHeader =
            serde_json::from_slice(&header).map_err(|e| Error::Malformed(format!("header: {e}")))?;
        if !matches!(header.alg.as_str(), "ES256" | "RS256") {
            let alg = header.alg.escape_debug();
            return Err(Error::Malformed(format!("algorithm \"{alg}\" is neither ES256 nor RS256")));
        }
        Ok(Jws {
            header,
            signing_input,
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

    /// The payload, of which nothing is certain yet: to find in it whose signature it needs.
    pub(super) fn unverified_payload(&self) -> &[u8] {
        &self.payload
    }

    /// The payload, if `key` signed it.
    pub fn verify(&self, key: &Jwk) -> Result<&[u8], Error> {
        // The key says how it signs, and a header that says otherwise is not believed (RFC 8725 section 3.1).
        if self.header.alg != key.alg {
            return Err(Error::Signature(self.header.kid.escape_debug().to_string()));
        }
        key.verify(self.signing_input.as_bytes(), &self.signature)?;
        Ok(&self.payload)
    }
}
