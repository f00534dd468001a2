//! JWT-SVIDs, ours and those of other trust domains (SPIFFE JWT-SVID, sections 2 to 5).

use data_encoding::BASE64URL_NOPAD;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::token::LEEWAY;
use super::{Error, SvidKeys};
use crate::clock::Timestamp;

/// Longest token that is looked at.
const LONGEST: usize = 16 * 1024;
/// Longest SPIFFE ID and trust domain (SPIFFE ID, section 2.3).
const ID_MOST: usize = 2048;
const DOMAIN_MOST: usize = 255;

/// A token that holds.
#[derive(Clone, Debug)]
pub struct Svid {
    pub spiffe_id: String,
    /// As signed, but for `aud`, which is a list here.
    pub claims: Map<String, Value>,
}

/// The header is a closed set (section 2).
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    kid: String,
    typ: Option<String>,
}

/// Checks form, signature, times and audience. `keys` gives those of a trust domain, if it is known.
pub fn validate<'k>(
    text: &str,
    audience: &str,
    now: Timestamp,
    keys: impl FnOnce(&str) -> Option<&'k SvidKeys>,
) -> Result<Svid, Error> {
    let shape = |what: &str| Error::Shape(what.into());
    if text.len() > LONGEST {
        return Err(shape("longer than 16 KiB"));
    }
    let (signed, signature) = text.rsplit_once('.').ok_or_else(|| shape("no dots"))?;
    let (header, payload) = signed.split_once('.').ok_or_else(|| shape("only one dot"))?;
    let decode = |part: &str, name: &str| {
        let decoded = BASE64URL_NOPAD.decode(part.as_bytes());
        decoded.map_err(|_| Error::Shape(format!("the {name} is not base64url")))
    };
    let header: Header = serde_json::from_slice(&decode(header, "header")?)
        .map_err(|e| Error::Shape(format!("header: {e}")))?;
    if header.typ.as_deref().is_some_and(|typ| !matches!(typ, "JWT" | "JOSE")) {
        return Err(shape("\"typ\" is neither JWT nor JOSE"));
    }
    let mut claims: Map<String, Value> = serde_json::from_slice(&decode(payload, "payload")?)
        .map_err(|e| Error::Shape(format!("claims: {e}")))?;

    let claim = |what: &str| Error::Claim(what.into());
    let spiffe_id = claims.get("sub").and_then(Value::as_str).ok_or_else(|| claim("no \"sub\""))?.to_owned();
    // Whose keys are asked for is what the token says of itself; that it says the truth is what they prove.
    let domain =
        trust_domain(&spiffe_id).ok_or_else(|| claim("\"sub\" is not the SPIFFE ID of a workload"))?;
    let keys = keys(domain).ok_or_else(|| Error::UnknownDomain(domain.to_owned()))?;
    keys.check(&header.kid, &header.alg, signed.as_bytes(), &decode(signature, "signature")?)?;

    let now = now.secs();
    let exp = seconds(claims.get("exp")).ok_or_else(|| claim("no \"exp\" that is a number"))?;
    if now as f64 >= exp {
        return Err(claim("expired"));
    }
    if let Some(nbf) = claims.get("nbf") {
        let nbf = seconds(Some(nbf)).ok_or_else(|| claim("\"nbf\" is not a number"))?;
        if now.saturating_add(LEEWAY) as f64 <= nbf {
            return Err(claim("not valid yet"));
        }
    }
    let audiences = match claims.get("aud") {
        Some(Value::String(one)) => vec![Value::from(one.as_str())],
        Some(Value::Array(several)) if several.iter().all(Value::is_string) => several.clone(),
        _ => return Err(claim("no \"aud\"")),
    };
    if !audiences.iter().any(|one| one == audience) {
        return Err(Error::Claim(format!("not for audience \"{}\"", audience.escape_debug())));
    }
    claims.insert("aud".into(), Value::Array(audiences));
    Ok(Svid { spiffe_id, claims })
}

/// NumericDate (RFC 7519 section 2).
fn seconds(value: Option<&Value>) -> Option<f64> {
    value?.as_f64().filter(|seconds| seconds.is_finite())
}

/// The trust domain of a workload's SPIFFE ID; none where `id` is none (SPIFFE ID, section 2).
pub fn trust_domain(id: &str) -> Option<&str> {
    if id.len() > ID_MOST {
        return None;
    }
    let (domain, path) = id.strip_prefix("spiffe://")?.split_once('/')?;
    let segment = |text: &str| {
        let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        !matches!(text, "" | "." | "..") && text.bytes().all(fine)
    };
    (is_trust_domain(domain) && path.split('/').all(segment)).then_some(domain)
}

pub fn is_trust_domain(text: &str) -> bool {
    let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    (1..=DOMAIN_MOST).contains(&text.len()) && text.bytes().all(fine)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::Jwk;
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
    use serde_json::json;

    const ID: &str = "spiffe://example.org/a/b";

    struct Signer {
        pair: EcdsaKeyPair,
        keys: SvidKeys,
        kid: String,
    }

    fn signer() -> Signer {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).unwrap();
        let jwk = Jwk::from_point(pair.public_key().as_ref().try_into().unwrap());
        let mut key = serde_json::to_value(&jwk).unwrap();
        key["use"] = "jwt-svid".into();
        let set = json!({ "keys": [key] });
        Signer { pair, keys: SvidKeys::parse(set.to_string().as_bytes()).unwrap(), kid: jwk.kid }
    }

    impl Signer {
        fn header(&self) -> Value {
            json!({ "alg": "ES256", "kid": self.kid, "typ": "JWT" })
        }

        fn sign(&self, header: &Value, claims: &Value) -> String {
            let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
            let input = format!("{}.{}", part(header), part(claims));
            let signature = self.pair.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
            format!("{input}.{}", BASE64URL_NOPAD.encode(signature.as_ref()))
        }

        fn judge(&self, text: &str) -> Result<Svid, Error> {
            let known = |domain: &str| (domain == "example.org").then_some(&self.keys);
            validate(text, "x", Timestamp::from_secs(1000), known)
        }
    }

    fn claims() -> Value {
        json!({ "sub": ID, "aud": ["y", "x"], "exp": 1001, "nbf": 1000, "own": { "a": 1 } })
    }

    #[test]
    fn a_good_token_holds_with_its_audience_as_a_list() {
        let signer = signer();
        let svid = signer.judge(&signer.sign(&signer.header(), &claims())).unwrap();
        assert_eq!((svid.spiffe_id.as_str(), &svid.claims["own"]), (ID, &json!({ "a": 1 })));
        let mut one = claims();
        one["aud"] = "x".into();
        let svid = signer.judge(&signer.sign(&json!({ "alg": "ES256", "kid": signer.kid }), &one)).unwrap();
        assert_eq!(svid.claims["aud"], json!(["x"]));
    }

    #[test]
    fn each_rule_of_header_and_claims_is_kept() {
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
        for (wanted, header, claims) in [
            ("algorithm", with(&header, "alg", "none".into()), claims.clone()),
            ("algorithm", with(&header, "alg", "HS256".into()), claims.clone()),
            ("algorithm", with(&header, "alg", "EdDSA".into()), claims.clone()),
            ("algorithm", with(&header, "alg", "RS256".into()), claims.clone()),
            ("algorithm", with(&header, "alg", "ES384".into()), claims.clone()),
            ("unknown field", with(&header, "crit", json!(["b64"])), claims.clone()),
            ("unknown field", with(&header, "jku", "https://x".into()), claims.clone()),
            ("typ", with(&header, "typ", "at+jwt".into()), claims.clone()),
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
            let error = signer.judge(&signer.sign(&header, &claims)).unwrap_err().to_string();
            assert!(error.contains(wanted), "{wanted}: {error} {header} {claims}");
        }
        let good = signer.sign(&header, &claims);
        let (rest, _) = good.rsplit_once('.').unwrap();
        let forged = format!("{rest}.{}", BASE64URL_NOPAD.encode(&[7; 64]));
        assert!(matches!(signer.judge(&forged), Err(Error::Signature(_))));
        for broken in ["", "a", "a.b", "{\"payload\":\"\"}", "a.b.c.d", &"a".repeat(20_000)] {
            assert!(matches!(signer.judge(broken), Err(Error::Shape(_))), "{broken}");
        }
    }

    #[test]
    fn ids() {
        for good in [ID, "spiffe://a/B", "spiffe://a_b-c.d/e..f/-/_"] {
            assert!(trust_domain(good).is_some(), "{good}");
        }
        for bad in [
            "spiffe://a",
            "spiffe://a/",
            "spiffe:///a",
            "spiffe://A/b",
            "spiffe://a:1/b",
            "spiffe://a/b/",
            "spiffe://a//b",
            "spiffe://a/./b",
            "spiffe://a/../b",
            "spiffe://a/b?c",
            "spiffe://a/b#c",
            "spiffe://a/%41",
            "https://a/b",
            "",
        ] {
            assert!(trust_domain(bad).is_none(), "{bad}");
        }
        assert!(trust_domain(&format!("spiffe://a/{}", "b".repeat(2037))).is_some());
        assert!(trust_domain(&format!("spiffe://a/{}", "b".repeat(2038))).is_none());
    }

    #[test]
    fn a_private_key_and_a_nameless_one_make_no_bundle() {
        for (key, wanted) in [
            (
                json!({ "use": "jwt-svid", "kty": "EC", "crv": "P-256", "kid": "a", "x": "", "y": "", "d": "" }),
                "private",
            ),
            (json!({ "use": "jwt-svid", "kty": "RSA", "n": "AQ", "e": "AQAB" }), "kid"),
            (
                json!({ "use": "jwt-svid", "kty": "EC", "crv": "P-256", "kid": "a", "x": "AQ", "y": "AQ" }),
                "32 bytes",
            ),
        ] {
            let error = SvidKeys::parse(json!({ "keys": [key] }).to_string().as_bytes()).unwrap_err();
            assert!(error.to_string().contains(wanted), "{error}");
        }
        let other = json!({ "keys": [{ "use": "x509-svid", "kty": "EC" }, { "use": "jwt-svid", "kty": "OKP", "kid": "b" }] });
        assert!(SvidKeys::parse(other.to_string().as_bytes()).unwrap().is_empty());
    }
}
