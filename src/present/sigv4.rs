//! AWS Signature Version 4 in the header `Authorization`, for one action.

use std::fmt;
use std::time::Duration;

use data_encoding::HEXLOWER;
use ring::hmac::{HMAC_SHA256, Key, Tag, sign};
use zeroize::Zeroizing;

use super::action::Action;
use super::error::Error;
use super::proof::{Proof, ProofHeader};
use super::sigv4_request::{CanonicalRequest, payload_digest};
use super::values::{check, check_content_type, check_token};
use crate::clock::Timestamp;
use crate::stack::wiping_stack;

/// How long AWS accepts a signature after its time. The signature itself has no end, so it cannot have a
/// shorter one.
pub const SIGV4_TTL: Duration = Duration::from_secs(5 * 60);

const MAX_SCOPE_PART_LEN: usize = 64;
const MAX_ACCESS_KEY_ID_LEN: usize = 128;
const MAX_SECRET_KEY_LEN: usize = 256;

/// The region and the service for which a signature is valid, such as `eu-west-1` and `bedrock`.
#[derive(Clone, Copy, Debug)]
pub struct SigV4Scope<'a> {
    /// The region, in lower case.
    pub region: &'a str,
    /// The service, in lower case.
    pub service: &'a str,
}

/// An access key. `Debug` shows only its identifier.
#[derive(Clone, Copy)]
pub struct SigV4Credentials<'a> {
    /// The identifier of the access key.
    pub access_key_id: &'a str,
    /// The secret of the access key.
    pub secret_key: &'a Zeroizing<String>,
    /// The session token of a temporary access key.
    pub session_token: Option<&'a Zeroizing<String>>,
}

/// The time of a signature in both forms that it has.
struct SigningTime {
    /// `20150830T123600Z`.
    full: String,
    /// `20150830`.
    date: String,
}

/// Makes the headers `Authorization`, `X-Amz-Date` and `X-Amz-Content-Sha256` for an action, and
/// `X-Amz-Security-Token` for a temporary access key. The signature covers these, the method, path and query,
/// the digest of the body, `Host`, and `Content-Type` where the request has it.
///
/// The path is sent as [`crate::present::ActionUrl::request_target`] has it.
///
/// # Errors
///
/// [`Error::Value`] for a part that AWS does not define; [`Error::PlusInQuery`].
pub fn sigv4(
    action: &Action,
    scope: &SigV4Scope<'_>,
    credentials: &SigV4Credentials<'_>,
    content_type: Option<&str>,
    now: Timestamp,
) -> Result<Proof, Error> {
    scope.check()?;
    credentials.check()?;
    content_type.map_or(Ok(()), check_content_type)?;
    let time = SigningTime::new(now);
    let payload = payload_digest(action).to_hex();
    // In alphabetical order.
    let mut signed = Vec::new();
    signed.extend(content_type.map(|value| ("content-type", value)));
    signed.push(("host", action.url.authority()));
    signed.push(("x-amz-content-sha256", payload.as_str()));
    signed.push(("x-amz-date", time.full.as_str()));
    signed.extend(credentials.session_token.map(|token| ("x-amz-security-token", token.as_str())));

    let authorization = authorization(action, scope, credentials, &signed, &time)?;
    let mut headers = vec![
        ProofHeader::new("Authorization", authorization),
        ProofHeader::new("X-Amz-Content-Sha256", payload.as_str()),
        ProofHeader::new("X-Amz-Date", time.full.as_str()),
    ];
    headers.extend(
        credentials.session_token.map(|token| ProofHeader::new("X-Amz-Security-Token", token.as_str())),
    );
    Ok(Proof::new(headers, None, now.after(SIGV4_TTL)))
}

/// The value of `Authorization`.
fn authorization(
    action: &Action,
    scope: &SigV4Scope<'_>,
    credentials: &SigV4Credentials<'_>,
    signed: &[(&str, &str)],
    time: &SigningTime,
) -> Result<String, Error> {
    let request = CanonicalRequest::new(action, signed, scope.service == "s3")?;
    let SigV4Scope { region, service } = scope;
    let scope_text = format!("{}/{region}/{service}/aws4_request", time.date);
    let string_to_sign = request.string_to_sign(&time.full, &scope_text);
    let signature = wiping_stack(|| signature(credentials.secret_key, &time.date, scope, &string_to_sign));
    Ok(format!(
        "AWS4-HMAC-SHA256 Credential={}/{scope_text}, SignedHeaders={}, Signature={signature}",
        credentials.access_key_id, request.signed_headers,
    ))
}

/// The signature in hexadecimal. Each key is derived from the one before (date, region, service, end); ring
/// keeps them on the stack.
fn signature(secret_key: &str, date: &str, scope: &SigV4Scope<'_>, string_to_sign: &str) -> String {
    let mut first = Zeroizing::new(String::with_capacity(4 + secret_key.len()));
    first.push_str("AWS4");
    first.push_str(secret_key);
    let mut key = hmac(first.as_bytes(), date);
    for part in [scope.region, scope.service, "aws4_request"] {
        key = hmac(key.as_ref(), part);
    }
    HEXLOWER.encode(hmac(key.as_ref(), string_to_sign).as_ref())
}

fn hmac(key: &[u8], text: &str) -> Tag {
    sign(&Key::new(HMAC_SHA256, key), text.as_bytes())
}

impl SigV4Scope<'_> {
    /// Checks the form of both names.
    ///
    /// # Errors
    ///
    /// [`Error::Value`].
    pub fn check(&self) -> Result<(), Error> {
        let allowed = "lower-case letters, digits and hyphens";
        let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        check("the region", self.region, MAX_SCOPE_PART_LEN, allowed, is_allowed)?;
        check("the service", self.service, MAX_SCOPE_PART_LEN, allowed, is_allowed)
    }
}

impl SigV4Credentials<'_> {
    pub(super) fn check(&self) -> Result<(), Error> {
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let (id, secret_key) = (self.access_key_id, self.secret_key);
        check("the access key id", id, MAX_ACCESS_KEY_ID_LEN, "letters, digits and underscores", is_word)?;
        let allowed = "visible ASCII characters";
        check("the secret key", secret_key, MAX_SECRET_KEY_LEN, allowed, |byte| byte.is_ascii_graphic())?;
        self.session_token.map_or(Ok(()), |token| check_token("the session token", token))
    }
}

impl fmt::Debug for SigV4Credentials<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigV4Credentials").field("access_key_id", &self.access_key_id).finish_non_exhaustive()
    }
}

impl SigningTime {
    fn new(time: Timestamp) -> SigningTime {
        let full: String =
            time.to_rfc3339_seconds().chars().filter(|character| !matches!(character, '-' | ':')).collect();
        let date = full.chars().take(8).collect();
        SigningTime { full, date }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: &str = "application/x-www-form-urlencoded";
    const SUITE_SCOPE: SigV4Scope<'_> = SigV4Scope { region: "us-east-1", service: "service" };
    /// 2015-08-30T12:36:00Z.
    const SUITE_TIME: Timestamp = Timestamp::from_secs(1_440_938_160);
    /// 2013-05-24T00:00:00Z.
    const S3_TIME: Timestamp = Timestamp::from_secs(1_369_353_600);

    fn secret(text: &str) -> Zeroizing<String> {
        Zeroizing::new(text.to_owned())
    }

    /// The value of `Authorization` for the credentials of AWS's test suite, with the headers of its vectors.
    fn suite_authorization(action: &Action, signed: &[(&str, &str)]) -> String {
        let credentials = SigV4Credentials {
            access_key_id: "AKIDEXAMPLE",
            secret_key: &secret("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
            session_token: None,
        };
        authorization(action, &SUITE_SCOPE, &credentials, signed, &SigningTime::new(SUITE_TIME)).unwrap()
    }

    #[test]
    fn signatures_are_those_of_the_test_suite() {
        let host = ("host", "example.amazonaws.com");
        let date = ("x-amz-date", "20150830T123600Z");
        let prefix =
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=";
        // get-vanilla, get-vanilla-query-order-key-case.
        for (url, signature) in [
            (
                "https://example.amazonaws.com/",
                "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
            ),
            (
                "https://example.amazonaws.com/?Param2=value2&Param1=value1",
                "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
            ),
        ] {
            let action = Action::parse("GET", url, None).unwrap();
            let expected = format!("{prefix}host;x-amz-date, Signature={signature}");
            assert_eq!(suite_authorization(&action, &[host, date]), expected);
        }
        // post-x-www-form-urlencoded: the body is Param1=value1.
        let digest = "9095672bbd1f56dfc5b65f3e153adc8731a4a654192329106275f4c7b24d0b6e";
        let action = Action::parse("POST", "https://example.amazonaws.com/", Some(digest)).unwrap();
        assert_eq!(
            suite_authorization(&action, &[("content-type", FORM), host, date]),
            format!(
                "{prefix}content-type;host;x-amz-date, \
                 Signature=ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"
            )
        );
    }

    /// The examples "GET Bucket Lifecycle" and "List Objects" of the documentation of S3.
    #[test]
    fn headers_are_those_of_the_examples_of_s3() {
        let credentials = SigV4Credentials {
            access_key_id: "AKIAIOSFODNN7EXAMPLE",
            secret_key: &secret("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
            session_token: None,
        };
        let scope = SigV4Scope { region: "us-east-1", service: "s3" };
        for (query, signature) in [
            ("lifecycle", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
            ("max-keys=2&prefix=J", "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
        ] {
            let url = format!("https://examplebucket.s3.amazonaws.com/?{query}");
            let action = Action::parse("GET", &url, None).unwrap();
            let proof = sigv4(&action, &scope, &credentials, None, S3_TIME).unwrap();
            assert_eq!(
                proof.header("Authorization").unwrap(),
                format!(
                    "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, \
                     SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature={signature}"
                )
            );
            assert_eq!(proof.header("X-Amz-Date"), Some("20130524T000000Z"));
            let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
            assert_eq!(proof.header("X-Amz-Content-Sha256"), Some(empty));
            assert_eq!(proof.header("X-Amz-Security-Token"), None);
            assert_eq!((proof.id(), proof.expires()), (None, S3_TIME.after(SIGV4_TTL)));
        }
    }

    #[test]
    fn session_token_is_sent_and_signed() {
        let (secret_key, token) = (secret("secret-key"), secret("session-token"));
        let credentials =
            SigV4Credentials { access_key_id: "ASIA1", secret_key: &secret_key, session_token: Some(&token) };
        let action = Action::parse("POST", "https://a.example:8443/", None).unwrap();
        let proof = sigv4(&action, &SUITE_SCOPE, &credentials, Some("text/plain"), SUITE_TIME).unwrap();
        assert_eq!(proof.header("X-Amz-Security-Token"), Some("session-token"));
        let authorization = proof.header("Authorization").unwrap();
        let names = "SignedHeaders=content-type;host;x-amz-content-sha256;x-amz-date;x-amz-security-token,";
        assert!(authorization.contains(names), "{authorization}");
        let shown = format!("{credentials:?} {proof:?}");
        assert!(!shown.contains("secret-key") && !shown.contains("session-token"), "{shown}");
    }

    #[test]
    fn parts_are_checked() {
        let action = Action::parse("GET", "https://a/", None).unwrap();
        let (good, bad) = (secret("good"), secret("bad key"));
        let attempt = |region, service, access_key_id, secret_key, session_token, content_type| {
            let credentials = SigV4Credentials { access_key_id, secret_key, session_token };
            sigv4(&action, &SigV4Scope { region, service }, &credentials, content_type, SUITE_TIME)
        };
        attempt("r", "s", "A", &good, Some(&good), Some("text/plain")).unwrap();
        for refused in [
            attempt("", "s", "A", &good, None, None),
            attempt("r/x", "s", "A", &good, None, None),
            attempt("r", "S", "A", &good, None, None),
            attempt("r", "s", "A/B", &good, None, None),
            attempt("r", "s", "A", &bad, None, None),
            attempt("r", "s", "A", &good, Some(&bad), None),
            attempt("r", "s", "A", &good, None, Some("a\nb")),
        ] {
            let error = refused.unwrap_err();
            assert!(matches!(error, Error::Value { .. }), "{error}");
            assert!(!error.to_string().contains("bad key"));
        }
        let plus = Action::parse("GET", "https://a/?b=c+d", None).unwrap();
        let credentials = SigV4Credentials { access_key_id: "A", secret_key: &good, session_token: None };
        assert!(matches!(
            sigv4(&plus, &SUITE_SCOPE, &credentials, None, SUITE_TIME),
            Err(Error::PlusInQuery)
        ));
    }
}
