//! What a JSON Web Token says of itself, for finding out what a text is. Nothing of it is verified.

use serde::Deserialize;
use serde_json::Value;

use super::jws::CompactJws;
use crate::json;

/// The longest token whose claims are read, in bytes.
const MAX_TOKEN_LEN: usize = 64 * 1024;

/// What a token says of itself. Anyone can write such a token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnverifiedToken {
    /// The header's `typ`.
    pub typ: Option<String>,
    /// The claim `iss`.
    pub issuer: Option<String>,
    /// The claim `sub`.
    pub subject: Option<String>,
    /// The claim `jti`.
    pub jti: Option<String>,
    /// The claim `exp`, in seconds since 1970.
    pub expires: Option<u64>,
    /// The member `host` of the private claim `hostbadge`, which every token of a hostbadge has.
    pub host: Option<String>,
}

#[derive(Deserialize)]
struct Header {
    typ: Option<Value>,
}

/// Members of any type, because other issuers decide on it.
#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    iss: Value,
    #[serde(default)]
    sub: Value,
    #[serde(default)]
    jti: Value,
    #[serde(default)]
    exp: Value,
    #[serde(default)]
    hostbadge: Value,
}

/// Reads a JSON Web Token in compact serialization, of at most 64 KiB; `None` for any other text.
pub fn unverified_token(text: &str) -> Option<UnverifiedToken> {
    let jws = CompactJws::parse(text, MAX_TOKEN_LEN).ok()?;
    let header: Header = json::from_object(&jws.header).ok()?;
    let claims: Claims = json::from_object(&jws.payload).ok()?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    Some(UnverifiedToken {
        typ: header.typ.as_ref().and_then(text),
        issuer: text(&claims.iss),
        subject: text(&claims.sub),
        jti: text(&claims.jti),
        expires: claims.exp.as_f64().filter(|exp| exp.is_finite() && *exp >= 0.0).map(|exp| exp as u64),
        host: text(&claims.hostbadge["host"]),
    })
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64URL_NOPAD;
    use serde_json::json;

    use super::*;

    fn token(header: &Value, claims: &Value) -> String {
        let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        format!("{}.{}.AAAA", part(header), part(claims))
    }

    #[test]
    fn claims_of_any_type_are_read() {
        let claims = json!({ "iss": "https://i", "exp": 17.5, "hostbadge": { "host": "h" }, "sub": 3 });
        let read = unverified_token(&token(&json!({ "alg": "x", "typ": "JWT" }), &claims)).unwrap();
        assert_eq!((read.issuer.as_deref(), read.expires, read.subject), (Some("https://i"), Some(17), None));
        assert_eq!((read.host.as_deref(), read.typ.as_deref()), (Some("h"), Some("JWT")));
        assert_eq!(unverified_token(&token(&json!({}), &json!({}))), Some(UnverifiedToken::default()));
        for text in ["", "a.b.c", "..", &token(&json!([]), &json!({})), &token(&json!({}), &json!("x"))] {
            assert_eq!(unverified_token(text), None, "{text}");
        }
    }
}
