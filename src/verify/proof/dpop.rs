//! DPoP proofs (RFC 9449 section 4.3).

use std::time::Duration;

use serde::Deserialize;

use super::error::Error;
use super::jws::{UnverifiedProof, check_access_token, check_jti, check_not_from_the_future, numeric_date};
use super::url::ActionUrl;
use crate::clock::Timestamp;

const TYP: &str = "dpop+jwt";

/// The key and the token that a DPoP proof has to be for.
#[derive(Clone, Copy)]
pub enum DpopBinding<'a> {
    /// A request to a protected resource.
    AccessToken {
        /// The access token as the request has it.
        token: &'a str,
        /// Its claim `cnf.jkt` (RFC 9449 section 6.1).
        jkt: &'a str,
    },
    /// A request to an authorization server, with a code or a refresh token that is bound to a key.
    Key {
        /// The thumbprint of that key (RFC 7638).
        jkt: &'a str,
    },
    /// A first request to an authorization server, which binds what it issues to the key of the proof.
    AnyKey,
}

/// What a DPoP proof has to be for.
#[derive(Clone, Copy, Debug)]
pub struct DpopExpectation<'a> {
    /// The method of the request; upper and lower case differ (RFC 9110 section 9.1).
    pub method: &'a str,
    /// The URL of the request, by the verifier's own configuration and not by a header such as `Host`.
    pub url: &'a ActionUrl,
    /// The key and the token.
    pub binding: DpopBinding<'a>,
    /// The nonce that this server asked for (section 8), if it did.
    pub nonce: Option<&'a str>,
    /// The time of day.
    pub now: Timestamp,
    /// How old a proof may be, by its `iat`.
    pub max_age: Duration,
    /// How far the clocks of the two machines may be apart.
    pub leeway: Duration,
}

/// A DPoP proof that is what was expected. Whether it was presented before is not verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedDpop {
    /// Its identifier, at most 256 bytes.
    pub jti: String,
    /// The thumbprint of the key that made it (RFC 7638).
    pub jkt: String,
    /// When it was made, by the clock of its maker.
    pub issued_at: Timestamp,
    /// Until when the caller has to remember `jti` with `jkt`: from then on the proof is too old.
    pub remember_until: Timestamp,
}

#[derive(Deserialize)]
struct Claims {
    jti: String,
    htm: String,
    htu: String,
    iat: f64,
    ath: Option<String>,
    nonce: Option<String>,
}

/// Verifies a DPoP proof of at most 8 KiB: form, type, ES256 by the P-256 key in its header, method, URL,
/// age, nonce, access token, and that the token is bound to the key (RFC 9449 section 4.3). The query of the
/// URL is not compared.
///
/// The caller has to refuse a `jti` that it knows already for the same `jkt`.
///
/// # Errors
///
/// [`Error`].
pub fn verify_dpop_proof(text: &str, expected: &DpopExpectation<'_>) -> Result<VerifiedDpop, Error> {
    let proof = UnverifiedProof::parse(text, TYP)?;
    let key = proof.header_key()?;
    let claims: Claims = proof.verify(&key)?;
    check_jti(&claims.jti)?;
    if claims.htm != expected.method {
        return Err(Error::Method);
    }
    let url = ActionUrl::parse(&claims.htu).map_err(Error::InvalidUrl)?;
    if url.without_query() != expected.url.without_query() {
        return Err(Error::Url);
    }
    let issued_at = numeric_date(claims.iat, "iat")?;
    let remember_until = check_age(issued_at, expected)?;
    if expected.nonce.is_some() && claims.nonce.as_deref() != expected.nonce {
        return Err(Error::Nonce);
    }
    check_access_token(claims.ath.as_deref(), expected.binding.access_token())?;
    if expected.binding.jkt().is_some_and(|jkt| jkt != key.kid) {
        return Err(Error::OtherKey);
    }
    Ok(VerifiedDpop { jti: claims.jti, jkt: key.kid, issued_at, remember_until })
}

impl<'a> DpopBinding<'a> {
    fn access_token(self) -> Option<&'a str> {
        match self {
            DpopBinding::AccessToken { token, .. } => Some(token),
            DpopBinding::Key { .. } | DpopBinding::AnyKey => None,
        }
    }

    fn jkt(self) -> Option<&'a str> {
        match self {
            DpopBinding::AccessToken { jkt, .. } | DpopBinding::Key { jkt } => Some(jkt),
            DpopBinding::AnyKey => None,
        }
    }
}

/// Without the access token.
impl std::fmt::Debug for DpopBinding<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self {
            DpopBinding::AccessToken { .. } => "AccessToken",
            DpopBinding::Key { .. } => "Key",
            DpopBinding::AnyKey => "AnyKey",
        };
        f.debug_struct(name).field("jkt", &self.jkt()).finish_non_exhaustive()
    }
}

/// Returns when the proof will be too old.
fn check_age(issued_at: Timestamp, expected: &DpopExpectation<'_>) -> Result<Timestamp, Error> {
    check_not_from_the_future(issued_at, expected.now, expected.leeway)?;
    let end = issued_at.after(expected.max_age).after(expected.leeway);
    if expected.now >= end {
        return Err(Error::TooOld { seconds: expected.now.since(issued_at).as_secs() });
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::super::public_jwk::JwkFault;
    use super::super::sample::{SampleKey, with};
    use super::*;
    use serde_json::{Value, json};

    const NOW: Timestamp = Timestamp::from_secs(1_790_000_000);
    const TOKEN: &str = "token-1";
    const ATH: &str = "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo";

    /// The key and the access token of the examples in RFC 9449.
    const RFC_JKT: &str = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I";
    const RFC_TOKEN: &str = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU";

    fn expectation<'a>(url: &'a ActionUrl, binding: DpopBinding<'a>) -> DpopExpectation<'a> {
        DpopExpectation {
            method: "POST",
            url,
            binding,
            nonce: None,
            now: NOW,
            max_age: Duration::from_secs(60),
            leeway: Duration::from_secs(5),
        }
    }

    fn url() -> ActionUrl {
        ActionUrl::parse("https://api.example.com/v1/a?page=2").unwrap()
    }

    fn header(key: &SampleKey) -> Value {
        json!({ "typ": "dpop+jwt", "alg": "ES256", "jwk": key.public_members() })
    }

    fn claims() -> Value {
        json!({ "jti": "j", "htm": "POST", "htu": "https://api.example.com/v1/a", "iat": NOW.as_secs() })
    }

    /// The outcome for a proof with other members in its header and its claims.
    fn verify(key: &SampleKey, members: Value, other_claims: Value) -> Result<VerifiedDpop, Error> {
        let text = key.sign(&with(&header(key), members), &with(&claims(), other_claims));
        verify_dpop_proof(&text, &expectation(&url(), DpopBinding::AnyKey))
    }

    #[test]
    fn proofs_of_rfc_9449_verify() {
        let header = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgt\
                      MzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VO\
                      SmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19";
        // Figure 2: a request to a token endpoint.
        let text = format!(
            "{header}.eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIjoiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyL\
             mV4YW1wbGUuY29tL3Rva2VuIiwiaWF0IjoxNTYyMjYyNjE2fQ.2-GxA6T8lP4vfrg8v-FdWP0A0zdrj8igiMLvqRMU\
             vwnQg4PtFLbdLXiOSsX0x7NVY-FNyJK70nfbV37xRZT3Lg",
        );
        let token_url = ActionUrl::parse("https://server.example.com/token").unwrap();
        let mut expected = expectation(&token_url, DpopBinding::AnyKey);
        expected.now = Timestamp::from_secs(1_562_262_616);
        let verified = verify_dpop_proof(&text, &expected).unwrap();
        assert_eq!((verified.jti.as_str(), verified.jkt.as_str()), ("-BwC3ESc6acc2lTc", RFC_JKT));
        assert_eq!(verified.issued_at, expected.now);
        assert_eq!(verified.remember_until, Timestamp::from_secs(1_562_262_616 + 65));

        // Figure 13: a request to a protected resource.
        let text = format!(
            "{header}.eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZ\
             S5leGFtcGxlLm9yZy9wcm90ZWN0ZWRyZXNvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0R\
             aNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9.2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemA\
             gR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA",
        );
        let resource = ActionUrl::parse("https://resource.example.org/protectedresource").unwrap();
        let binding = DpopBinding::AccessToken { token: RFC_TOKEN, jkt: RFC_JKT };
        let mut expected = DpopExpectation { method: "GET", ..expectation(&resource, binding) };
        expected.now = Timestamp::from_secs(1_562_262_618);
        assert_eq!(verify_dpop_proof(&text, &expected).unwrap().jti, "e1j3V_bKic8-LAEB");

        let mut changed = text.clone().into_bytes();
        let at = changed.len() - 20;
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert!(matches!(verify_dpop_proof(&changed, &expected), Err(Error::Signature)));
        expected.binding = DpopBinding::AccessToken { token: "other", jkt: RFC_JKT };
        assert!(matches!(verify_dpop_proof(&text, &expected), Err(Error::TokenHash)));
        expected.binding = DpopBinding::AccessToken { token: RFC_TOKEN, jkt: "other" };
        assert!(matches!(verify_dpop_proof(&text, &expected), Err(Error::OtherKey)));
        expected.binding = DpopBinding::Key { jkt: RFC_JKT };
        assert!(matches!(verify_dpop_proof(&text, &expected), Err(Error::UnexpectedTokenHash)));
    }

    #[test]
    fn headers_of_other_kinds_are_refused() {
        let key = SampleKey::generate();
        verify(&key, json!({ "kid": "x", "jku": "https://a/" }), json!({})).unwrap();
        for typ in ["JWT", "wpt+jwt", "DPOP+JWT", "application/dpop+jwt"] {
            assert!(
                matches!(verify(&key, json!({ "typ": typ }), json!({})), Err(Error::Type { .. })),
                "{typ}"
            );
        }
        for alg in ["none", "HS256", "RS256", "ES384", "es256", ""] {
            assert!(matches!(verify(&key, json!({ "alg": alg }), json!({})), Err(Error::Algorithm)), "{alg}");
        }
        assert!(matches!(verify(&key, json!({ "crit": ["x"] }), json!({})), Err(Error::Extension)));
        assert!(matches!(verify(&key, json!({ "b64": false }), json!({})), Err(Error::Extension)));
        assert!(matches!(verify(&key, json!({ "jwk": null }), json!({})), Err(Error::NoKey)));
        assert!(matches!(verify(&key, json!({ "typ": null }), json!({})), Err(Error::Header(_))));
        let private = with(&key.public_members(), json!({ "d": "AAAA" }));
        let refused = verify(&key, json!({ "jwk": private }), json!({}));
        assert!(matches!(refused, Err(Error::Key(JwkFault::Private))));
        let other = SampleKey::generate().public_members();
        assert!(matches!(verify(&key, json!({ "jwk": other }), json!({})), Err(Error::Signature)));
        let rsa = json!({ "kty": "RSA", "n": "AQAB", "e": "AQAB" });
        assert!(matches!(verify(&key, json!({ "jwk": rsa }), json!({})), Err(Error::Key(JwkFault::NotP256))));
    }

    #[test]
    fn malformed_and_long_texts_are_refused() {
        let (url, key) = (url(), SampleKey::generate());
        let expected = expectation(&url, DpopBinding::AnyKey);
        for text in ["", "a", "a.b", "..", "a.b.c.d", "e30.e30.", "[].e30.AA"] {
            let error = verify_dpop_proof(text, &expected).unwrap_err();
            assert!(matches!(error, Error::Malformed(_) | Error::Header(_)), "{text}: {error}");
        }
        let text = key.sign(&header(&key), &with(&claims(), json!({ "x": "y".repeat(8192) })));
        assert!(matches!(verify_dpop_proof(&text, &expected), Err(Error::TooLong)));
        let array =
            key.sign(&header(&key), &json!(["j", "POST", "https://api.example.com/v1/a", 1_790_000_000]));
        assert!(matches!(verify_dpop_proof(&array, &expected), Err(Error::Claims(_))));
    }

    #[test]
    fn claims_for_another_request_are_refused() {
        let key = SampleKey::generate();
        for htu in ["https://API.example.com:443/v1/%61", "https://api.example.com/v1/a?other=query"] {
            verify(&key, json!({}), json!({ "htu": htu })).unwrap();
        }
        for htu in [
            "https://api.example.com/v1/A",
            "https://api.example.com/v1/a/",
            "http://api.example.com/v1/a",
            "https://api.example.com:8443/v1/a",
            "https://other.example/v1/a",
        ] {
            assert!(matches!(verify(&key, json!({}), json!({ "htu": htu })), Err(Error::Url)), "{htu}");
        }
        for htu in ["/v1/a", "https://api.example.com/v1/x/../a", "https://api.example.com/v1/a#b"] {
            assert!(
                matches!(verify(&key, json!({}), json!({ "htu": htu })), Err(Error::InvalidUrl(_))),
                "{htu}"
            );
        }
        for htm in ["GET", "post", ""] {
            assert!(matches!(verify(&key, json!({}), json!({ "htm": htm })), Err(Error::Method)), "{htm}");
        }
        for jti in [String::new(), "j".repeat(257)] {
            assert!(matches!(verify(&key, json!({}), json!({ "jti": jti })), Err(Error::Jti)));
        }
        for missing in ["jti", "htm", "htu", "iat"] {
            assert!(
                matches!(verify(&key, json!({}), json!({ missing: null })), Err(Error::Claims(_))),
                "{missing}"
            );
        }
        assert!(matches!(verify(&key, json!({}), json!({ "ath": ATH })), Err(Error::UnexpectedTokenHash)));
    }

    #[test]
    fn age_is_bounded_on_both_sides() {
        let key = SampleKey::generate();
        let now = NOW.as_secs();
        for iat in [now - 64, now, now + 5] {
            verify(&key, json!({}), json!({ "iat": iat })).unwrap();
        }
        verify(&key, json!({}), json!({ "iat": now as f64 + 0.5 })).unwrap();
        let too_old = verify(&key, json!({}), json!({ "iat": now - 65 }));
        assert!(matches!(too_old, Err(Error::TooOld { seconds: 65 })));
        let future = verify(&key, json!({}), json!({ "iat": now + 6 }));
        assert!(matches!(future, Err(Error::FromTheFuture { seconds: 6 })));
        assert!(matches!(verify(&key, json!({}), json!({ "iat": -1 })), Err(Error::Time("iat"))));
        assert!(matches!(verify(&key, json!({}), json!({ "iat": "1790000000" })), Err(Error::Claims(_))));
    }

    #[test]
    fn nonce_and_token_are_those_of_the_request() {
        let (url, key) = (url(), SampleKey::generate());
        let jkt = key.jwk().kid;
        let binding = DpopBinding::AccessToken { token: TOKEN, jkt: &jkt };
        let expected = DpopExpectation { nonce: Some("n"), ..expectation(&url, binding) };
        let sign = |other: Value| key.sign(&header(&key), &with(&claims(), other));
        let ath = super::super::jws::token_hash(TOKEN);
        verify_dpop_proof(&sign(json!({ "ath": ath, "nonce": "n" })), &expected).unwrap();
        for nonce in [json!(null), json!("N"), json!("")] {
            let text = sign(json!({ "ath": ath, "nonce": nonce }));
            assert!(matches!(verify_dpop_proof(&text, &expected), Err(Error::Nonce)), "{nonce}");
        }
        assert!(matches!(
            verify_dpop_proof(&sign(json!({ "nonce": "n" })), &expected),
            Err(Error::NoTokenHash)
        ));
        assert!(!format!("{expected:?}").contains(TOKEN));
    }
}
