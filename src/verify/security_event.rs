//! Security event tokens (RFC 8417) that say that an identity has ended: those of CAEP and RISC, as the Shared
//! Signals Framework 1.0 profiles them.

use std::fmt;
use std::time::Duration;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::error::Error;
use super::jws::CompactJws;
use super::jwt_authorities::JwtAuthorities;
use super::token::LEEWAY;
use crate::clock::Timestamp;
use crate::json;

/// The longest security event token that is accepted, in bytes.
pub const MAX_EVENT_TOKEN_LEN: usize = 64 * 1024;
/// The type in the header (RFC 8417 section 2.3); other tokens of the same issuer have another one.
const TYP: &str = "secevent+jwt";
/// The longest `jti` in bytes.
const MAX_JTI_LEN: usize = 512;
/// What all event types of the OpenID Foundation begin with.
const EVENT_PREFIX: &str = "https://schemas.openid.net/secevent/";

/// What a signal has to have.
#[derive(Clone, Copy, Debug)]
pub struct EventExpectation<'a> {
    /// The claim `iss`.
    pub issuer: &'a str,
    /// The claim `aud`, or one of several.
    pub audience: &'a str,
    /// The time of day.
    pub now: Timestamp,
    /// How old it may be, by its `iat`.
    pub max_age: Duration,
}

/// What a security event token says. Its signature, type, issuer, audience and age are verified, and not whether it
/// was presented before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecurityEvent {
    /// Its identifier, unique for its issuer.
    pub jti: String,
    /// When it was issued.
    pub issued_at: Timestamp,
    /// What happened.
    pub event: EventType,
    /// To whom.
    pub subject: EventSubject,
}

/// The events that end an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    /// The subject's session was revoked (CAEP section 3.1).
    SessionRevoked,
    /// A credential of the subject was changed, revoked or deleted (CAEP section 3.3).
    CredentialChange,
    /// The subject's account was disabled (RISC).
    AccountDisabled,
}

/// The subject of an event (RFC 9493 section 3; the format `jwt_id` is of the Shared Signals Framework).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "format", rename_all = "snake_case", deny_unknown_fields)]
pub enum EventSubject {
    /// A URI, which is a SPIFFE ID.
    Uri {
        /// The URI.
        uri: String,
    },
    /// The subject of an issuer.
    IssSub {
        /// The issuer.
        iss: String,
        /// Its claim `sub`.
        sub: String,
    },
    /// An identifier by agreement: the name of an agent.
    Opaque {
        /// The identifier.
        id: String,
    },
    /// A single token.
    JwtId {
        /// The token's issuer.
        iss: String,
        /// The token's `jti`.
        jti: String,
    },
}

/// The header. Members that are not known are ignored (RFC 7515 section 4), except those that may not be.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: String,
    typ: String,
    crit: Option<Value>,
    b64: Option<Value>,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    jti: String,
    iat: u64,
    aud: Audiences,
    sub_id: EventSubject,
    events: Events,
    /// Neither may be present (Shared Signals Framework 1.0): an access token has both.
    sub: Option<Value>,
    exp: Option<Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Several(Vec<String>),
}

/// The member `events`, also where it has a name twice.
struct Events(Vec<(String, Map<String, Value>)>);

impl EventType {
    const ALL: [EventType; 3] =
        [EventType::SessionRevoked, EventType::CredentialChange, EventType::AccountDisabled];

    /// Its name in records and messages.
    pub fn name(self) -> &'static str {
        match self {
            EventType::SessionRevoked => "session-revoked",
            EventType::CredentialChange => "credential-change",
            EventType::AccountDisabled => "account-disabled",
        }
    }

    /// The name in `events`, without the prefix of all of them.
    fn path(self) -> &'static str {
        match self {
            EventType::SessionRevoked => "caep/event-type/session-revoked",
            EventType::CredentialChange => "caep/event-type/credential-change",
            EventType::AccountDisabled => "risc/event-type/account-disabled",
        }
    }

    fn from_uri(uri: &str) -> Option<EventType> {
        let path = uri.strip_prefix(EVENT_PREFIX)?;
        EventType::ALL.into_iter().find(|event| event.path() == path)
    }
}

/// The claim `iss` of a token whose signature is not verified, for finding the keys that have to verify it.
///
/// # Errors
///
/// [`Error::Malformed`], [`Error::InvalidClaim`].
pub fn unverified_issuer(text: &str) -> Result<String, Error> {
    #[derive(Deserialize)]
    struct IssuerClaim {
        iss: String,
    }
    let jws = CompactJws::parse(text, MAX_EVENT_TOKEN_LEN)?;
    let claim: IssuerClaim =
        json::from_object(&jws.payload).map_err(|e| Error::InvalidClaim(e.to_string()))?;
    Ok(claim.iss)
}

/// Verifies a security event token of at most 64 KiB: form, type, signature by ES256 or RS256, issuer, audience and
/// age; that it has exactly one event, which is known; and that its subject has a known form.
///
/// # Errors
///
/// [`Error::Malformed`], [`Error::UnknownKey`], [`Error::Signature`] or [`Error::InvalidClaim`].
pub fn verify_security_event(
    text: &str,
    keys: &JwtAuthorities,
    expected: EventExpectation<'_>,
) -> Result<SecurityEvent, Error> {
    let jws = CompactJws::parse(text, MAX_EVENT_TOKEN_LEN)?;
    let header: Header =
        json::from_object(&jws.header).map_err(|e| Error::Malformed(format!("header: {e}")))?;
    if header.typ != TYP {
        return Err(Error::Malformed(format!("type \"{}\" is not {TYP}", header.typ.escape_debug())));
    }
    if header.crit.is_some() || header.b64.is_some() {
        return Err(Error::Malformed("the header has an extension that must be understood".into()));
    }
    if !matches!(header.alg.as_str(), "ES256" | "RS256") {
        let alg = header.alg.escape_debug();
        return Err(Error::Malformed(format!("algorithm \"{alg}\" is neither ES256 nor RS256")));
    }
    keys.verify(&header.kid, &header.alg, jws.signing_input.as_bytes(), &jws.signature)?;
    let claims: Claims =
        json::from_object(&jws.payload).map_err(|e| Error::InvalidClaim(format!("claims: {e}")))?;
    check_claims(claims, expected)
}

fn check_claims(claims: Claims, expected: EventExpectation<'_>) -> Result<SecurityEvent, Error> {
    let invalid = |text: String| Err(Error::InvalidClaim(text));
    let EventExpectation { issuer, audience, now, max_age } = expected;
    if claims.iss != issuer {
        return invalid(format!("issued by \"{}\", not by \"{issuer}\"", claims.iss.escape_debug()));
    }
    if claims.sub.is_some() || claims.exp.is_some() {
        return invalid("a security event token has neither \"sub\" nor \"exp\"".into());
    }
    let is_for_audience = match &claims.aud {
        Audiences::One(one) => one == audience,
        Audiences::Several(several) => several.iter().any(|one| one == audience),
    };
    if !is_for_audience {
        return invalid(format!("not for audience \"{audience}\""));
    }
    if claims.jti.is_empty() || claims.jti.len() > MAX_JTI_LEN {
        return invalid(format!("\"jti\" has not 1 to {MAX_JTI_LEN} bytes"));
    }
    let age = now.as_secs().saturating_sub(claims.iat);
    if age > max_age.as_secs() {
        return invalid(format!("issued {age} s ago, which is more than {} s", max_age.as_secs()));
    }
    if claims.iat > now.as_secs().saturating_add(LEEWAY) {
        return invalid(format!("issued {} s from now", claims.iat - now.as_secs()));
    }
    let event = claims.events.only()?;
    let subject = claims.sub_id;
    if event == EventType::AccountDisabled && matches!(subject, EventSubject::JwtId { .. }) {
        return invalid("account-disabled is about an account, and its subject is a single token".into());
    }
    Ok(SecurityEvent { jti: claims.jti, issued_at: Timestamp::from_secs(claims.iat), event, subject })
}

impl Events {
    /// The one event, if it ends something.
    fn only(&self) -> Result<EventType, Error> {
        let [(uri, members)] = self.0.as_slice() else {
            return Err(Error::InvalidClaim(format!("{} events; exactly one is accepted", self.0.len())));
        };
        let Some(event) = EventType::from_uri(uri) else {
            let uri: String = uri.chars().take(200).collect();
            return Err(Error::InvalidClaim(format!(
                "the event \"{}\" is none of session-revoked, credential-change and account-disabled",
                uri.escape_debug()
            )));
        };
        if event == EventType::CredentialChange {
            let change = members.get("change_type").and_then(Value::as_str);
            if !matches!(change, Some("revoke" | "update" | "delete")) {
                return Err(Error::InvalidClaim(
                    "\"change_type\" of credential-change is none of revoke, update and delete, so it ends nothing"
                        .into(),
                ));
            }
        }
        Ok(event)
    }
}

impl<'de> Deserialize<'de> for Events {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Events, D::Error> {
        struct EventsVisitor;

        impl<'de> Visitor<'de> for EventsVisitor {
            type Value = Events;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of events")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Events, A::Error> {
                let mut events = Vec::new();
                while let Some(event) = map.next_entry()? {
                    events.push(event);
                }
                Ok(Events(events))
            }
        }
        deserializer.deserialize_map(EventsVisitor)
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64URL_NOPAD;
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    struct Signer {
        pair: EcdsaKeyPair,
        keys: JwtAuthorities,
    }

    impl Signer {
        fn new() -> Signer {
            let random = SystemRandom::new();
            let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
            let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random)
                .unwrap();
            let point = pair.public_key().as_ref();
            let (x, y) = (BASE64URL_NOPAD.encode(&point[1..33]), BASE64URL_NOPAD.encode(&point[33..]));
            let set = json!({ "keys": [{ "kty": "EC", "crv": "P-256", "kid": "k", "x": x, "y": y }] });
            let keys = JwtAuthorities::parse_signing_keys(set.to_string().as_bytes()).unwrap();
            Signer { pair, keys }
        }

        fn sign(&self, header: &Value, claims: &str) -> String {
            let part = |text: &str| BASE64URL_NOPAD.encode(text.as_bytes());
            let input = format!("{}.{}", part(&header.to_string()), part(claims));
            let signature = self.pair.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
            format!("{input}.{}", BASE64URL_NOPAD.encode(signature.as_ref()))
        }

        fn verify(&self, header: &Value, claims: &str) -> Result<SecurityEvent, Error> {
            let expected = EventExpectation {
                issuer: "https://idp.example.com",
                audience: "host",
                now: Timestamp::from_secs(NOW),
                max_age: Duration::from_secs(3600),
            };
            verify_security_event(&self.sign(header, claims), &self.keys, expected)
        }
    }

    fn header() -> Value {
        json!({ "alg": "ES256", "kid": "k", "typ": "secevent+jwt", "jku": "https://ignored" })
    }

    fn claims() -> Value {
        json!({
            "iss": "https://idp.example.com", "jti": "1", "iat": NOW - 10, "aud": ["other", "host"], "txn": "t",
            "sub_id": { "format": "opaque", "id": "researcher" },
            "events": { "https://schemas.openid.net/secevent/caep/event-type/session-revoked":
                { "event_timestamp": NOW, "reason_admin": { "en": "x" } } },
        })
    }

    fn with(name: &str, value: Value) -> String {
        let mut claims = claims();
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value,
        }
        claims.to_string()
    }

    #[test]
    fn known_events_and_subjects_are_read() {
        let signer = Signer::new();
        let event = signer.verify(&header(), &claims().to_string()).unwrap();
        assert_eq!((event.jti.as_str(), event.event), ("1", EventType::SessionRevoked));
        assert_eq!(event.subject, EventSubject::Opaque { id: "researcher".into() });
        for subject in [
            json!({ "format": "uri", "uri": "spiffe://a/b" }),
            json!({ "format": "iss_sub", "iss": "i", "sub": "s" }),
            json!({ "format": "jwt_id", "iss": "i", "jti": "j" }),
        ] {
            signer
                .verify(&header(), &with("sub_id", subject.clone()))
                .unwrap_or_else(|e| panic!("{subject}: {e}"));
        }
        let disabled = json!({ "https://schemas.openid.net/secevent/risc/event-type/account-disabled": {} });
        let event = signer.verify(&header(), &with("events", disabled)).unwrap();
        assert_eq!(event.event, EventType::AccountDisabled);
        let revoked = json!({ "https://schemas.openid.net/secevent/caep/event-type/credential-change":
            { "credential_type": "x509", "change_type": "revoke" } });
        let event = signer.verify(&header(), &with("events", revoked)).unwrap();
        assert_eq!(event.event, EventType::CredentialChange);
    }

    #[test]
    fn everything_else_is_refused_with_its_reason() {
        let signer = Signer::new();
        let session = "https://schemas.openid.net/secevent/caep/event-type/session-revoked";
        let change = "https://schemas.openid.net/secevent/caep/event-type/credential-change";
        for (name, value, expected) in [
            ("iss", json!("https://other"), "not by"),
            ("aud", json!("other"), "not for audience"),
            ("aud", json!(["other"]), "not for audience"),
            ("aud", Value::Null, "missing field `aud`"),
            ("jti", Value::Null, "missing field `jti`"),
            ("jti", json!(""), "jti"),
            ("jti", json!("x".repeat(513)), "jti"),
            ("iat", json!(NOW - 3601), "more than 3600 s"),
            ("iat", json!(NOW + 31), "31 s from now"),
            ("iat", json!("now"), "invalid type"),
            ("sub", json!("x"), "neither"),
            ("exp", json!(NOW + 60), "neither"),
            ("events", json!({}), "0 events"),
            ("events", json!({ session: {}, change: { "change_type": "revoke" } }), "2 events"),
            ("events", json!({ session: [] }), "invalid type"),
            ("events", json!([session]), "invalid type"),
            ("events", json!({ "https://example.com/other": {} }), "none of session-revoked"),
            ("events", json!({ change: { "change_type": "create" } }), "change_type"),
            ("events", json!({ change: {} }), "change_type"),
            ("sub_id", Value::Null, "missing field `sub_id`"),
            ("sub_id", json!({ "format": "email", "email": "a@b" }), "unknown variant"),
            ("sub_id", json!({ "format": "opaque" }), "missing field `id`"),
            ("sub_id", json!({ "format": "opaque", "id": "a", "uri": "b" }), "unknown field"),
            ("sub_id", json!({ "id": "a" }), "format"),
        ] {
            let error = signer.verify(&header(), &with(name, value.clone())).unwrap_err().to_string();
            assert!(error.contains(expected), "{name} {value}: {error}");
        }
        for (name, value, expected) in [
            ("typ", json!("JWT"), "is not secevent+jwt"),
            ("typ", json!("at+jwt"), "is not secevent+jwt"),
            ("alg", json!("none"), "neither ES256 nor RS256"),
            ("alg", json!("HS256"), "neither ES256 nor RS256"),
            ("alg", json!("RS256"), "not one of"),
            ("kid", json!("other"), "no key"),
            ("crit", json!(["b64"]), "extension"),
            ("b64", json!(false), "extension"),
        ] {
            let mut header = header();
            header[name] = value;
            let error = signer.verify(&header, &claims().to_string()).unwrap_err().to_string();
            assert!(error.contains(expected), "{header}: {error}");
        }
        let disabled = json!({ "https://schemas.openid.net/secevent/risc/event-type/account-disabled": {} });
        let mut one_token = claims();
        one_token["events"] = disabled;
        one_token["sub_id"] = json!({ "format": "jwt_id", "iss": "i", "jti": "j" });
        let error = signer.verify(&header(), &one_token.to_string()).unwrap_err().to_string();
        assert!(error.contains("single token"), "{error}");
    }

    #[test]
    fn members_that_stand_twice_and_other_keys_are_refused() {
        let signer = Signer::new();
        let event = "\"https://schemas.openid.net/secevent/caep/event-type/session-revoked\":";
        let twice = claims().to_string().replace(event, &format!("{event}{{}},{event}"));
        assert!(signer.verify(&header(), &twice).unwrap_err().to_string().contains("2 events"));
        let twice = claims().to_string().replace("\"jti\":", "\"jti\":\"0\",\"jti\":");
        assert!(signer.verify(&header(), &twice).unwrap_err().to_string().contains("duplicate field"));
        let forged = Signer { keys: signer.keys.clone(), ..Signer::new() };
        assert!(matches!(forged.verify(&header(), &claims().to_string()), Err(Error::Signature(_))));
        let long = with("txn", json!("x".repeat(MAX_EVENT_TOKEN_LEN)));
        assert!(matches!(signer.verify(&header(), &long), Err(Error::Malformed(_))));
        assert_eq!(unverified_issuer(&signer.sign(&header(), "{\"iss\":\"i\"}")).unwrap(), "i");
        assert!(unverified_issuer("a.b.c").is_err());
    }
}
