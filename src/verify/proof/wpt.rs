//! Workload Proof Tokens (draft-ietf-wimse-wpt).

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::error::Error;
use super::jws::{
    UnverifiedProof, check_access_token, check_jti, check_not_from_the_future, numeric_date, token_hash,
};
use super::url::ActionUrl;
use crate::clock::Timestamp;
use crate::verify::jwks::Jwk;

const TYP: &str = "wpt+jwt";

/// What a WPT has to be for. A WPT does not name the method of the request.
#[derive(Clone, Copy)]
pub struct WptExpectation<'a> {
    /// The URL of the request, by the verifier's own configuration and not by a header such as `Host`.
    pub url: &'a ActionUrl,
    /// The workload identity token as the request has it. The caller has verified it.
    pub wit: &'a str,
    /// Its claim `cnf.jwk`, by [`super::p256_key_from_jwk`].
    pub wit_key: &'a Jwk,
    /// The access token of the request, if it has one.
    pub access_token: Option<&'a str>,
    /// The time of day.
    pub now: Timestamp,
    /// How long a WPT may be valid from now on.
    pub max_lifetime: Duration,
    /// How far the clocks of the two machines may be apart.
    pub leeway: Duration,
}

/// A WPT that is what was expected. Whether it was presented before is not verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedWpt {
    /// Its identifier, at most 256 bytes.
    pub jti: String,
    /// Its `exp`.
    pub expires: Timestamp,
    /// Until when the caller has to remember `jti` with the key: from then on the WPT is refused for its
    /// `exp`.
    pub remember_until: Timestamp,
}

#[derive(Deserialize)]
struct Claims {
    jti: String,
    aud: Value,
    exp: f64,
    iat: Option<f64>,
    wth: String,
    ath: Option<String>,
    tth: Option<IgnoredAny>,
    oth: Option<IgnoredAny>,
}

/// Verifies a WPT of at most 8 KiB: form, type, ES256 by the key of the WIT, URL, times, WIT and access
/// token. The query of the URL is not compared.
///
/// A WPT that binds a transaction token (`tth`) or other tokens (`oth`) is refused: the draft requires it of
/// a verifier that does not verify these. The caller has to refuse a `jti` that it knows already for the same
/// key.
///
/// # Errors
///
/// [`Error`].
pub fn verify_wpt(text: &str, expected: &WptExpectation<'_>) -> Result<VerifiedWpt, Error> {
    let proof = UnverifiedProof::parse(text, TYP)?;
    expected.wit_key.p256_point().map_err(Error::WitKey)?;
    let claims: Claims = proof.verify(expected.wit_key)?;
    check_jti(&claims.jti)?;
    let Value::String(audience) = &claims.aud else {
        return Err(Error::SeveralAudiences);
    };
    let url = ActionUrl::parse(audience).map_err(Error::InvalidUrl)?;
    if url.without_query() != expected.url.without_query() {
        return Err(Error::Url);
    }
    let expires = numeric_date(claims.exp, "exp")?;
    let remember_until = check_times(expires, claims.iat, expected)?;
    if claims.wth != token_hash(expected.wit) {
        return Err(Error::WitHash);
    }
    check_access_token(claims.ath.as_deref(), expected.access_token)?;
    for (claim, value) in [("tth", &claims.tth), ("oth", &claims.oth)] {
        if value.is_some() {
            return Err(Error::UnknownToken(claim));
        }
    }
    Ok(VerifiedWpt { jti: claims.jti, expires, remember_until })
}

/// Without the tokens.
impl fmt::Debug for WptExpectation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WptExpectation")
            .field("url", self.url)
            .field("wit_key", &self.wit_key.kid)
            .field("now", &self.now)
            .finish_non_exhaustive()
    }
}

/// Returns when the WPT will be refused for its `exp`.
fn check_times(
    expires: Timestamp,
    iat: Option<f64>,
    expected: &WptExpectation<'_>,
) -> Result<Timestamp, Error> {
    let (now, leeway) = (expected.now, expected.leeway);
    if let Some(iat) = iat {
        check_not_from_the_future(numeric_date(iat, "iat")?, now, leeway)?;
    }
    let end = expires.after(leeway);
    if now >= end {
        return Err(Error::Expired { seconds: now.since(expires).as_secs() });
    }
    if expires > now.after(expected.max_lifetime).after(leeway) {
        return Err(Error::TooLongValid { seconds: expires.since(now).as_secs() });
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::super::sample::{SampleKey, with};
    use super::*;
    use serde_json::json;

    const NOW: Timestamp = Timestamp::from_secs(1_790_000_000);
    const WIT: &str = "wit-1";

    fn url() -> ActionUrl {
        ActionUrl::parse("https://api.example.com/v1/a?page=2").unwrap()
    }

    fn verify_with(
        key: &SampleKey,
        members: Value,
        claims: Value,
        access_token: Option<&str>,
    ) -> Result<VerifiedWpt, Error> {
        let header = with(&json!({ "typ": "wpt+jwt", "alg": "ES256" }), members);
        let usual = json!({
            "jti": "j", "aud": "https://api.example.com/v1/a", "exp": NOW.as_secs() + 60,
            "wth": token_hash(WIT),
        });
        let expected = WptExpectation {
            url: &url(),
            wit: WIT,
            wit_key: &key.jwk(),
            access_token,
            now: NOW,
            max_lifetime: Duration::from_secs(60),
            leeway: Duration::from_secs(5),
        };
        verify_wpt(&key.sign(&header, &with(&usual, claims)), &expected)
    }

    fn verify(key: &SampleKey, claims: Value) -> Result<VerifiedWpt, Error> {
        verify_with(key, json!({}), claims, None)
    }

    #[test]
    fn expected_wpt_is_accepted() {
        let key = SampleKey::generate();
        let verified = verify(&key, json!({ "unknown": 1, "iat": NOW.as_secs() })).unwrap();
        let expires = Timestamp::from_secs(1_790_000_060);
        let remember_until = Timestamp::from_secs(1_790_000_065);
        assert_eq!(verified, VerifiedWpt { jti: "j".into(), expires, remember_until });
        verify(&key, json!({ "aud": "https://API.example.com:443/v1/%61?x" })).unwrap();
        verify_with(&key, json!({}), json!({ "ath": token_hash("t") }), Some("t")).unwrap();
    }

    #[test]
    fn headers_of_other_kinds_are_refused() {
        let key = SampleKey::generate();
        for typ in ["JWT", "wit+jwt", "dpop+jwt"] {
            let refused = verify_with(&key, json!({ "typ": typ }), json!({}), None);
            assert!(matches!(refused, Err(Error::Type { expected: "wpt+jwt" })), "{typ}");
        }
        for alg in ["none", "HS256", "RS256"] {
            let refused = verify_with(&key, json!({ "alg": alg }), json!({}), None);
            assert!(matches!(refused, Err(Error::Algorithm)), "{alg}");
        }
    }

    #[test]
    fn another_key_is_refused() {
        let (key, other) = (SampleKey::generate(), SampleKey::generate());
        // The key in the header of a WPT means nothing.
        let header = json!({ "typ": "wpt+jwt", "alg": "ES256", "jwk": other.public_members() });
        let mut expected = WptExpectation {
            url: &url(),
            wit: WIT,
            wit_key: &key.jwk(),
            access_token: None,
            now: NOW,
            max_lifetime: Duration::from_secs(60),
            leeway: Duration::ZERO,
        };
        let text = other.sign(&header, &json!({}));
        assert!(matches!(verify_wpt(&text, &expected), Err(Error::Signature)));
        let rsa = Jwk::from_rsa(&[200; 256], &[1, 0, 1]);
        expected.wit_key = &rsa;
        assert!(matches!(verify_wpt(&text, &expected), Err(Error::WitKey(_))));
        assert!(matches!(verify_wpt(&"a".repeat(8193), &expected), Err(Error::TooLong)));
        assert!(!format!("{expected:?}").contains(WIT));
    }

    #[test]
    fn claims_for_another_request_are_refused() {
        let key = SampleKey::generate();
        for aud in [json!(["https://api.example.com/v1/a"]), json!(["a", "b"]), json!(1), json!({})] {
            assert!(matches!(verify(&key, json!({ "aud": aud })), Err(Error::SeveralAudiences)), "{aud}");
        }
        for aud in ["https://api.example.com/v1/b", "https://other.example/v1/a", "https://api.example.com/"]
        {
            assert!(matches!(verify(&key, json!({ "aud": aud })), Err(Error::Url)), "{aud}");
        }
        assert!(matches!(verify(&key, json!({ "aud": "agent" })), Err(Error::InvalidUrl(_))));
        assert!(matches!(verify(&key, json!({ "wth": token_hash("other") })), Err(Error::WitHash)));
        assert!(matches!(verify(&key, json!({ "ath": token_hash("t") })), Err(Error::UnexpectedTokenHash)));
        let refused = verify_with(&key, json!({}), json!({}), Some("t"));
        assert!(matches!(refused, Err(Error::NoTokenHash)));
        let refused = verify_with(&key, json!({}), json!({ "ath": token_hash("u") }), Some("t"));
        assert!(matches!(refused, Err(Error::TokenHash)));
        for claim in ["tth", "oth"] {
            let refused = verify(&key, json!({ claim: {} }));
            assert!(matches!(refused, Err(Error::UnknownToken(name)) if name == claim), "{claim}");
        }
        for missing in ["jti", "exp", "wth"] {
            assert!(matches!(verify(&key, json!({ missing: null })), Err(Error::Claims(_))), "{missing}");
        }
        assert!(matches!(verify(&key, json!({ "jti": "" })), Err(Error::Jti)));
    }

    #[test]
    fn lifetime_is_bounded_on_both_sides() {
        let (key, now) = (SampleKey::generate(), NOW.as_secs());
        for exp in [now - 4, now + 65] {
            verify(&key, json!({ "exp": exp })).unwrap();
        }
        assert!(matches!(verify(&key, json!({ "exp": now - 5 })), Err(Error::Expired { seconds: 5 })));
        assert!(matches!(verify(&key, json!({ "exp": now + 66 })), Err(Error::TooLongValid { seconds: 66 })));
        assert!(matches!(verify(&key, json!({ "iat": now + 6 })), Err(Error::FromTheFuture { seconds: 6 })));
        assert!(matches!(verify(&key, json!({ "exp": 1e300 })), Err(Error::Time("exp"))));
    }
}
