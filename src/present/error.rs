//! The error type of proofs.

use ring::error::{KeyRejected, Unspecified};

use crate::verify::proof::UrlError;

/// Why an action, a pattern or a parameter is not accepted, or a proof cannot be made. The messages have
/// nothing of a token or a credential.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The URL is not accepted.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// The method is not a token of RFC 9110 section 5.6.2, or too long.
    #[error("the method is not 1 to 32 letters, digits and characters of !#$%&'*+-.^_`|~")]
    Method,
    /// The target of `CONNECT` is not a URL (RFC 9110 section 9.3.6).
    #[error("CONNECT has no URL, so it cannot be an action")]
    Connect,
    /// The digest of the body has the length of another digest.
    #[error(
        "the digest of the body has {len} characters; a SHA-256 digest has 64 in hexadecimal, and 43 or, \
         with padding, 44 in base64"
    )]
    BodyDigestLength {
        /// The number of bytes of the text.
        len: usize,
    },
    /// The digest of the body has the right length, and is neither hexadecimal nor base64.
    #[error("the digest of the body is not {encoding}")]
    BodyDigestEncoding {
        /// The encoding that the length suggests.
        encoding: &'static str,
    },
    /// The pattern is not a method and a URL.
    #[error(
        "a pattern is a method, or *, one space and a URL, such as \"POST https://api.example.com/v1/*\""
    )]
    PatternForm,
    /// There is a `*` which is not the last segment of the path.
    #[error("a \"*\" is allowed in the URL of a pattern only as the last segment of the path: \"/v1/*\"")]
    PatternWildcard,
    /// The pattern has a query, which is never compared.
    #[error("a pattern has no query; remove it with its \"?\"")]
    PatternQuery,
    /// The server's identifier has a query (RFC 8414 section 2).
    #[error("the identifier of a server has no query; remove it with its \"?\"")]
    ServerQuery,
    /// A value is empty, too long, or has a character that its standard does not allow.
    #[error("{name} has to be 1 to {max} bytes of {allowed}")]
    Value {
        /// The value, with its article.
        name: &'static str,
        /// Its greatest length in bytes.
        max: usize,
        /// The characters that it may have.
        allowed: &'static str,
    },
    /// A sealed credential is no access key.
    #[error(
        "the value of the credential is no access key: a JSON object with AccessKeyId, SecretAccessKey and, if it is \
         temporary, SessionToken, as aws configure export-credentials prints it"
    )]
    AccessKeyForm,
    /// A query with `+` has two meanings for AWS, a space and a plus sign.
    #[error("the query has a \"+\", which AWS does not read as it is written; use %20 or %2B")]
    PlusInQuery,
    /// A key could not be generated.
    #[error("cannot generate a proof key: {0}")]
    KeyGeneration(Unspecified),
    /// ring refused the key that it had generated.
    #[error("the generated proof key cannot be used: {0}")]
    InvalidKey(KeyRejected),
    /// The public key does not have the form of a P-256 point.
    #[error("the generated proof key is not a P-256 key")]
    NotP256,
    /// The signature could not be made.
    #[error("cannot sign: {0}")]
    Signing(Unspecified),
    /// The kernel gave no random bytes.
    #[error("cannot get random bytes: {0}")]
    Random(Unspecified),
    /// A header or claims could not be encoded.
    #[error("cannot encode JSON: {0}")]
    Json(#[from] serde_json::Error),
}
