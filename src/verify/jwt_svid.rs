//! Validation of JWT-SVIDs of any trust domain (SPIFFE JWT-SVID, sections 2 to 5).

use serde::Deserialize;
use serde_json::{Map, Value};

use super::error::Error;
use super::jws::{CompactJws, MAX_JWS_LEN};
use super::jwt_authorities::JwtAuthorities;
use super::spiffe_id::workload_trust_domain;
use super::token::LEEWAY;
use crate::clock::Timestamp;
use crate::json;

/// A JWT-SVID whose signature, times and audience were verified.
#[derive(Clone, Debug)]
pub struct VerifiedJwtSvid {
    /// The claim `sub`: the SPIFFE ID of a workload.
    pub spiffe_id: String,
    /// The key that signed it.
    pub kid: String,
    /// All claims as signed, except that `aud` is always a list.
    pub claims: Map<String, Value>,
}

/// The header's closed set of members (section 2).
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JwtSvidHeader {
    alg: String,
    kid: String,
    typ: Option<String>,
}

/// Validates a JWT-SVID of at most 16 KiB: form, signature, times and audience.
///
/// `keys_for` returns the JWT authorities of a trust domain, or `None` if it is unknown. `nbf` may be up to
/// [`LEEWAY`] seconds after `now`; `exp` has no leeway.
///
/// # Errors
///
/// [`Error::Malformed`], [`Error::InvalidClaim`], [`Error::UnknownTrustDomain`], [`Error::UnknownKey`] or
/// [`Error::Signature`].
pub fn validate_jwt_svid<'k>(
    text: &str,
    audience: &str,
    now: Timestamp,
    keys_for: impl FnOnce(&str) -> Option<&'k JwtAuthorities>,
) -> Result<VerifiedJwtSvid, Error> {
    let malformed = |what: &str| Error::Malformed(what.into());
    let jws = CompactJws::parse(text, MAX_JWS_LEN)?;
    let header: JwtSvidHeader =
        json::from_object(&jws.header).map_err(|e| Error::Malformed(format!("header: {e}")))?;
    if header.typ.as_deref().is_some_and(|typ| !matches!(typ, "JWT" | "JOSE")) {
        return Err(malformed("\"typ\" is neither JWT nor JOSE"));
    }
    let mut claims: Map<String, Value> =
        json::from_object(&jws.payload).map_err(|e| Error::Malformed(format!("claims: {e}")))?;

    let invalid_claim = |what: &str| Error::InvalidClaim(what.into());
    let spiffe_id =
        claims.get("sub").and_then(Value::as_str).ok_or_else(|| invalid_claim("no \"sub\""))?.to_owned();
    // The unverified claim selects the trust domain; the signature by one of its keys then proves the claim.
    let domain = workload_trust_domain(&spiffe_id)
        .ok_or_else(|| invalid_claim("\"sub\" is not the SPIFFE ID of a workload"))?;
    let keys = keys_for(domain).ok_or_else(|| Error::UnknownTrustDomain(domain.to_owned()))?;
    keys.verify(&header.kid, &header.alg, jws.signing_input.as_bytes(), &jws.signature)?;

    let now = now.as_secs();
    let exp = numeric_date(claims.get("exp")).ok_or_else(|| invalid_claim("no \"exp\" that is a number"))?;
    if now as f64 >= exp {
        return Err(invalid_claim("expired"));
    }
    if let Some(nbf) = claims.get("nbf") {
        let nbf = numeric_date(Some(nbf)).ok_or_else(|| invalid_claim("\"nbf\" is not a number"))?;
        if now.saturating_add(LEEWAY) as f64 <= nbf {
            return Err(invalid_claim("not valid yet"));
        }
    }
    let audiences = match claims.get("aud") {
        Some(Value::String(one)) => vec![Value::from(one.as_str())],
        Some(Value::Array(several)) if several.iter().all(Value::is_string) => several.clone(),
        _ => return Err(invalid_claim("no \"aud\"")),
    };
    if !audiences.iter().any(|one| one == audience) {
        return Err(Error::InvalidClaim(format!("not for audience \"{}\"", audience.escape_debug())));
    }
    claims.insert("aud".into(), Value::Array(audiences));
    Ok(VerifiedJwtSvid { spiffe_id, kid: header.kid, claims })
}

/// The value of a NumericDate, in seconds since 1970 (RFC 7519 section 2).
fn numeric_date(value: Option<&Value>) -> Option<f64> {
    value?.as_f64().filter(|seconds| seconds.is_finite())
}

#[cfg(test)]
mod tests {
    use super::super::jwks::Jwk;
    use super::*;
    use data_encoding::BASE64URL_NOPAD;
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
    use serde_json::json;

    const ID: &str = "spiffe://example.org/a/b";

    struct TestSigner {
        pair: EcdsaKeyPair,
        keys: JwtAuthorities,
        kid: String,
    }

    fn signer() -> TestSigner {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).unwrap();
        let jwk = Jwk::from_point(pair.public_key().as_ref().try_into().unwrap());
        let mut key = serde_json::to_value(&jwk).unwrap();
        key["use"] = "jwt-svid".into();
        let set = json!({ "keys": [key] });
        TestSigner { pair, keys: JwtAuthorities::parse(set.to_string().as_bytes()).unwrap(), kid: jwk.kid }
    }

    impl TestSigner {
        fn header(&self) -> Value {
            json!({ "alg": "ES256", "kid": self.kid, "typ": "JWT" })
        }

        fn sign(&self, header: &Value, claims: &Value) -> String {
            let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
            let input = format!("{}.{}", part(header), part(claims));
            let signature = self.pair.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
            format!("{input}.{}", BASE64URL_NOPAD.encode(signature.as_ref()))
        }

        fn validate(&self, text: &str) -> Result<VerifiedJwtSvid, Error> {
            let keys_for = |domain: &str| (domain == "example.org").then_some(&self.keys);
            validate_jwt_svid(text, "x", Timestamp::from_secs(1000), keys_for)
        }
    }

    fn claims() -> Value {
        json!({ "sub": ID, "aud": ["y", "x"], "exp": 1001, "nbf": 1000, "own": { "a": 1 } })
    }

    #[test]
    fn valid_token_returns_audience_as_list() {
        let signer = signer();
        let svid = signer.validate(&signer.sign(&signer.header(), &claims())).unwrap();
        assert_eq!((svid.spiffe_id.as_str(), &svid.claims["own"]), (ID, &json!({ "a": 1 })));
        let mut one = claims();
        one["aud"] = "x".into();
        let svid =
            signer.validate(&signer.sign(&json!({ "alg": "ES256", "kid": signer.kid }), &one)).unwrap();
        assert_eq!(svid.claims["aud"], json!(["x"]));
    }

    #[test]
    fn header_and_claim_rules_are_enforced() {
        let signer = signer();
        let with = |part: &Value, name: &str, value: Value| {
            let mut part = part.clone();
            part[name] = value;
            part
        };
        let without = |part: &Value, name: &str| {
            let mut part = part.clone();
            part.as_object_mut().unwrap().remove(name);
            part
        };
        let (header, claims) = (signer.header(), claims());
        for (expected, header, claims) in [
            ("algorithm", with(&header, "alg", "none".into()), claims.clone()),
            ("algorithm", with(&header, "alg", "HS256".into()), claims.clone()),
            ("algorithm", with(&header, "alg", "EdDSA".into()), claims.clone()),
            ("algorithm", with(&header, "alg", "RS256".into()), claims.clone()),
            ("algorithm", with(&header, "alg", "ES384".into()), claims.clone()),
            ("unknown field", with(&header, "crit", json!(["b64"])), claims.clone()),
            ("unknown field", with(&header, "jku", "https://x".into()), claims.clone()),
            ("typ", with(&header, "typ", "at+jwt".into()), claims.clone()),
            ("not a JSON object", json!(["ES256", signer.kid, "JWT"]), claims.clone()),
            ("not a JSON object", header.clone(), json!([ID, ["x"], 1001])),
            ("missing field", without(&header, "kid"), claims.clone()),
            ("no key", with(&header, "kid", "other".into()), claims.clone()),
            ("expired", header.clone(), with(&claims, "exp", 1000.into())),
            ("exp", header.clone(), with(&claims, "exp", "1001".into())),
            ("exp", header.clone(), without(&claims, "exp")),
            ("not valid yet", header.clone(), with(&claims, "nbf", 1030.into())),
            ("aud", header.clone(), without(&claims, "aud")),
            ("aud", header.clone(), with(&claims, "aud", json!([1, "x"]))),
            ("not for audience", header.clone(), with(&claims, "aud", json!(["y"]))),
            ("sub", header.clone(), without(&claims, "sub")),
            ("SPIFFE ID", header.clone(), with(&claims, "sub", "spiffe://example.org".into())),
            ("no bundle", header.clone(), with(&claims, "sub", "spiffe://example.com/a".into())),
        ] {
            let error = signer.validate(&signer.sign(&header, &claims)).unwrap_err().to_string();
            assert!(error.contains(expected), "{expected}: {error} {header} {claims}");
        }
        let good = signer.sign(&header, &claims);
        let (rest, _) = good.rsplit_once('.').unwrap();
        let forged = format!("{rest}.{}", BASE64URL_NOPAD.encode(&[7; 64]));
        assert!(matches!(signer.validate(&forged), Err(Error::Signature(_))));
        for broken in ["", "a", "a.b", "{\"payload\":\"\"}", "a.b.c.d", &"a".repeat(20_000)] {
            assert!(matches!(signer.validate(broken), Err(Error::Malformed(_))), "{broken}");
        }
    }
}
