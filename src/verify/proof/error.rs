//! The error type of the verification of proofs.

use super::public_jwk::JwkFault;
use super::url_error::UrlError;
use crate::verify::error::Error as VerifyError;

/// The longest proof that is accepted, in bytes.
pub const MAX_PROOF_LEN: usize = 8 * 1024;

/// Why a proof is not accepted. The messages have nothing of the tokens.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text exceeds [`MAX_PROOF_LEN`].
    #[error("the proof is longer than {} KiB", MAX_PROOF_LEN / 1024)]
    TooLong,
    /// The text is not a JWS in compact serialization (RFC 7515 section 7.1).
    #[error("the proof is {0}")]
    Malformed(#[source] VerifyError),
    /// The JOSE header is not an object with the members that it needs.
    #[error("the header of the proof: {0}")]
    Header(#[source] serde_json::Error),
    /// The header has `crit` or `b64`, which change what the signature means (RFC 7515 section 4.1.11, RFC
    /// 7797).
    #[error("the header of the proof has an extension that must be understood")]
    Extension,
    /// The header has another `typ` (RFC 8725 section 3.11).
    #[error("the type of the proof is not {expected}")]
    Type {
        /// The type that is required.
        expected: &'static str,
    },
    /// The header has another `alg`, such as `none`.
    #[error("the algorithm of the proof is not ES256")]
    Algorithm,
    /// The header of a DPoP proof has no `jwk`.
    #[error("the header of the proof has no \"jwk\"")]
    NoKey,
    /// The key in a header or a token cannot be used.
    #[error(transparent)]
    Key(#[from] JwkFault),
    /// The key of the WIT cannot be used.
    #[error("the key of the workload identity token: {0}")]
    WitKey(#[source] VerifyError),
    /// The key did not make the signature.
    #[error("the signature of the proof is not valid")]
    Signature,
    /// The token is bound to another key.
    #[error("the proof is made with another key than the one to which the token is bound")]
    OtherKey,
    /// The claims are not an object with the members that they need.
    #[error("the claims of the proof: {0}")]
    Claims(#[source] serde_json::Error),
    /// `jti` is empty or too long.
    #[error("the \"jti\" of the proof does not have 1 to 256 bytes")]
    Jti,
    /// `htm` is another method.
    #[error("the proof is for another method")]
    Method,
    /// `htu` or `aud` is not a URL that is accepted.
    #[error("the URL in the proof: {0}")]
    InvalidUrl(#[source] UrlError),
    /// `htu` or `aud` is another URL.
    #[error("the proof is for another URL")]
    Url,
    /// `aud` is not one text.
    #[error("the \"aud\" of the proof is not exactly one audience")]
    SeveralAudiences,
    /// There is an access token, and no `ath`.
    #[error("the proof has no \"ath\", and the request has an access token")]
    NoTokenHash,
    /// There is `ath`, and no access token.
    #[error("the proof has \"ath\", and the request has no access token")]
    UnexpectedTokenHash,
    /// `ath` is not the digest of the access token.
    #[error("the proof is for another access token")]
    TokenHash,
    /// `wth` is not the digest of the WIT.
    #[error("the proof is for another workload identity token")]
    WitHash,
    /// The claim binds a token that the verifier does not know.
    #[error("the proof has \"{0}\", which binds a token that is not verified here")]
    UnknownToken(&'static str),
    /// `nonce` is missing or another one.
    #[error("the proof does not have the \"nonce\" of this server")]
    Nonce,
    /// `iat` or `exp` is not a time.
    #[error("the \"{0}\" of the proof is not a time from 1970 to 9999")]
    Time(&'static str),
    /// `iat` is later than the clock and the leeway allow.
    #[error("the proof was made {seconds} s from now; the clock of its maker is ahead")]
    FromTheFuture {
        /// How far from now, in seconds.
        seconds: u64,
    },
    /// The proof is older than it may be.
    #[error("the proof is {seconds} s old")]
    TooOld {
        /// Its age, in seconds.
        seconds: u64,
    },
    /// `exp` has passed.
    #[error("the proof expired {seconds} s ago")]
    Expired {
        /// How long ago, in seconds.
        seconds: u64,
    },
    /// `exp` is later than a proof may have it.
    #[error("the proof expires {seconds} s from now, which is too long for a proof")]
    TooLongValid {
        /// How far from now, in seconds.
        seconds: u64,
    },
}
