//! JSON Web Signatures in compact serialization (RFC 7515 section 7.1), parsed strictly.

use data_encoding::BASE64URL_NOPAD;
use serde::Deserialize;

use super::error::Error;
use super::jwks::Jwk;
use crate::json;

/// The longest token that is accepted, in bytes, unless the caller gives another limit.
pub(super) const MAX_JWS_LEN: usize = 16 * 1024;

/// The parts of a compact JWS, decoded. Nothing in it is verified.
#[derive(Debug)]
pub(super) struct CompactJws<'a> {
    /// The JOSE header, which should be JSON.
    pub(super) header: Vec<u8>,
    pub(super) payload: Vec<u8>,
    pub(super) signature: Vec<u8>,
    /// What the signature is over: header and payload in base64url, with the dot between them.
    pub(super) signing_input: &'a str,
}

/// A JWS with the header of hostbadge's tokens, whose signature has not been verified.
#[derive(Debug)]
pub(crate) struct Jws<'a> {
    header: JwsHeader,
    parts: CompactJws<'a>,
}

/// The header's closed set of members: the type, the key and the one algorithm (RFC 8725 sections 3.1, 3.10
/// and 3.11).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct JwsHeader {
    alg: String,
    kid: String,
    typ: String,
}

impl<'a> CompactJws<'a> {
    /// Splits and decodes a text of at most `max_len` bytes.
    pub(super) fn parse(text: &'a str, max_len: usize) -> Result<CompactJws<'a>, Error> {
        let malformed = |reason: &str| Error::Malformed(reason.into());
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
        Ok(CompactJws {
            header: decode(header, "header")?,
            payload: decode(payload, "payload")?,
            signature: decode(signature, "signature")?,
            signing_input,
        })
    }
}

impl<'a> Jws<'a> {
    /// Parses a JWS of at most 16 KiB.
    pub(crate) fn parse(text: &'a str) -> Result<Jws<'a>, Error> {
        Jws::parse_with_limit(text, MAX_JWS_LEN)
    }

    /// Parses a JWS of at most `max_len` bytes.
    pub(crate) fn parse_with_limit(text: &'a str, max_len: usize) -> Result<Jws<'a>, Error> {
        let parts = CompactJws::parse(text, max_len)?;
        let header: JwsHeader =
            json::from_object(&parts.header).map_err(|e| Error::Malformed(format!("header: {e}")))?;
        if !matches!(header.alg.as_str(), "ES256" | "RS256") {
            let alg = header.alg.escape_debug();
            return Err(Error::Malformed(format!("algorithm \"{alg}\" is neither ES256 nor RS256")));
        }
        Ok(Jws { header, parts })
    }

    /// The header's `typ`, of a text of any length; `None` if the header is none.
    pub(super) fn typ_of(text: &str) -> Option<String> {
        let header = text.split('.').next().filter(|header| header.len() <= MAX_JWS_LEN)?;
        let header = BASE64URL_NOPAD.decode(header.as_bytes()).ok()?;
        json::from_object::<JwsHeader>(&header).ok().map(|header| header.typ)
    }

    pub(crate) fn kid(&self) -> &str {
        &self.header.kid
    }

    pub(crate) fn typ(&self) -> &str {
        &self.header.typ
    }

    /// Fails unless the header's `typ` is this one (RFC 8725 section 3.11).
    pub(crate) fn expect_typ(&self, typ: &str) -> Result<(), Error> {
        if self.header.typ != typ {
            let actual = self.header.typ.escape_debug();
            return Err(Error::Malformed(format!("type \"{actual}\" is not {typ}")));
        }
        Ok(())
    }

    /// The payload before verification, for finding in it the key that has to verify it.
    pub(crate) fn unverified_payload(&self) -> &[u8] {
        &self.parts.payload
    }

    /// The payload, if `key` signed it by the key's own algorithm. The header's `alg` does not select another
    /// one (RFC 8725 section 3.1).
    ///
    /// # Errors
    ///
    /// [`Error::Signature`], or [`Error::KeySet`] if the key cannot be used.
    pub(crate) fn verify(&self, key: &Jwk) -> Result<&[u8], Error> {
        if self.header.alg != key.alg {
            return Err(Error::Signature(self.header.kid.escape_debug().to_string()));
        }
        key.verify(self.parts.signing_input.as_bytes(), &self.parts.signature)?;
        Ok(&self.parts.payload)
    }
}
