//! Tokens that this host did not sign are shown to its introspection, and verified by its published keys.

use serde_json::{Value, json};

use super::attempts::Attempts;
use super::context::Context;
use super::forged_tokens::{ForgedToken, forgeries, genuine};
use super::replay::said;
use crate::clock::Clock;
use crate::verify::{Expectation, Jwks, verify_token};

pub(super) fn run(context: &Context, attempts: &mut Attempts) {
    let keys = match published_keys(context) {
        Ok(keys) => keys,
        Err(why) => return attempts.skipped("forged tokens", why),
    };
    let real = context.token();
    let claims = real.as_deref().ok().and_then(claims_of).unwrap_or_else(|| made_up_claims(context));
    let Some(forged) = forgeries(&keys, &claims, real.as_deref().ok()) else {
        return attempts.skipped("forged tokens", "the host publishes no P-256 key");
    };
    let is_valid_by = |keys: &Jwks, token: &str| {
        verify_token(token, keys, Clock::System.now(), true, Expectation::default()).is_ok()
    };
    let accepts_any = match &real {
        Ok(real) => is_valid_by(&keys, real),
        Err(_) => genuine(&claims).is_some_and(|(keys, token)| is_valid_by(&keys, &token)),
    };
    by_keys(attempts, &forged, accepts_any, |token| is_valid_by(&keys, token));
    by_introspection(attempts, &forged, &real, |token| {
        said(&context.ask_as_agent("/v1/introspect", &json!({ "token": token }))?, "active")
    });
}

/// The verification that relying parties do, by `hostbadge verify token`. It has to accept a real token, or one of the
/// same claims by the key that signed it.
fn by_keys(
    attempts: &mut Attempts,
    forged: &[ForgedToken],
    accepts_any: bool,
    is_valid: impl Fn(&str) -> bool,
) {
    let attempt = "verification by the published keys";
    if !accepts_any {
        return attempts.skipped(attempt, "a token that is no forgery does not pass either");
    }
    let accepted: Vec<_> = forged.iter().filter(|one| is_valid(&one.token)).map(|one| one.what).collect();
    attempts.judge(attempt, accepted.is_empty(), summary(&accepted, forged.len()));
}

/// The host's own answer to relying parties on it. A real token has to be active, or nothing was tried.
fn by_introspection(
    attempts: &mut Attempts,
    forged: &[ForgedToken],
    real: &Result<String, String>,
    is_active: impl Fn(&str) -> Result<bool, String>,
) {
    let attempt = "introspection";
    match real.as_deref().map_err(String::to_owned).and_then(&is_active) {
        Err(why) => return attempts.skipped(attempt, why),
        Ok(false) => return attempts.skipped(attempt, "a token of this host is not active either"),
        Ok(true) => {}
    }
    let (mut active, mut tried) = (Vec::new(), 0);
    for one in forged {
        if !attempts.has_time(&format!("{attempt} of {}", one.what)) {
            continue;
        }
        match is_active(&one.token) {
            Err(why) => {
                attempts.skipped(format!("{attempt} of {}", one.what), why);
                continue;
            }
            Ok(true) => active.push(one.what),
            Ok(false) => {}
        }
        tried += 1;
    }
    if tried > 0 {
        attempts.judge(attempt, active.is_empty(), summary(&active, tried));
    }
}

fn summary(accepted: &[&str], count: usize) -> String {
    match accepted.is_empty() {
        true => format!("{count} forgeries refused"),
        false => format!("accepted: {}", accepted.join("; ")),
    }
}

fn published_keys(context: &Context) -> Result<Jwks, String> {
    let path = "/.well-known/jwks.json";
    let answer = context.ask("GET", path, None).map_err(|e| format!("{path}: {e}"))?;
    if answer.status != 200 {
        return Err(format!("{path}: the daemon answered {}", answer.summary()));
    }
    Jwks::parse(answer.body.to_string().as_bytes()).map_err(|e| format!("{path}: {e}"))
}

fn claims_of(token: &str) -> Option<Value> {
    let payload = token.split('.').nth(1)?;
    serde_json::from_slice(&data_encoding::BASE64URL_NOPAD.decode(payload.as_bytes()).ok()?).ok()
}

/// Claims as in a token of this host, for a host that gives this process none.
fn made_up_claims(context: &Context) -> Value {
    let path = "/.well-known/openid-configuration";
    let issuer = context.ask("GET", path, None).map(|answer| answer.body["issuer"].clone());
    let now = Clock::System.now().as_secs();
    json!({
        "iss": issuer.unwrap_or_default(), "sub": "spiffe://selftest.invalid/agent/selftest",
        "aud": context.audience, "client_id": "selftest", "scope": "", "jti": "selftest",
        "iat": now, "nbf": now, "exp": now + 60, "hostbadge": {},
    })
}

#[cfg(test)]
mod tests {
    use super::super::attempts::Outcome;
    use super::*;
    use crate::verify::Jwk;

    fn forged(real: Option<&str>) -> Vec<ForgedToken> {
        let pkcs8 = ring::signature::EcdsaKeyPair::generate_pkcs8(
            &ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING,
            &ring::rand::SystemRandom::new(),
        );
        let pair = ring::signature::EcdsaKeyPair::from_pkcs8(
            &ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING,
            pkcs8.unwrap().as_ref(),
            &ring::rand::SystemRandom::new(),
        );
        let point: [u8; 65] =
            ring::signature::KeyPair::public_key(&pair.unwrap()).as_ref().try_into().unwrap();
        let keys = Jwks { keys: vec![Jwk::from_point(&point)] };
        forgeries(&keys, &json!({ "exp": 9 }), real).unwrap()
    }

    #[test]
    fn a_verifier_that_accepts_a_forgery_is_a_hole() {
        let forged = forged(None);
        for one in &forged {
            let mut attempts = Attempts::new();
            by_keys(&mut attempts, &forged, true, |token| token == one.token);
            by_introspection(&mut attempts, &forged, &Ok("real".to_owned()), |token| {
                Ok(token == one.token || token == "real")
            });
            assert_eq!(attempts.results(""), [Outcome::Hole, Outcome::Hole], "{}", one.what);
        }
        let mut attempts = Attempts::new();
        by_keys(&mut attempts, &forged, true, |_| false);
        by_introspection(&mut attempts, &forged, &Ok("real".to_owned()), |token| Ok(token == "real"));
        assert_eq!(attempts.results(""), [Outcome::Held, Outcome::Held]);
    }

    #[test]
    fn what_accepts_no_real_token_shows_nothing() {
        let forged = forged(Some("e30.eyJleHAiOjl9.AAAA"));
        assert_eq!(forged.len(), 10);
        let mut attempts = Attempts::new();
        by_keys(&mut attempts, &forged, false, |_| false);
        by_introspection(&mut attempts, &forged, &Ok("real".to_owned()), |_| Ok(false));
        by_introspection(&mut attempts, &forged, &Err("no agent".to_owned()), |_| Ok(false));
        assert_eq!(attempts.results(""), [Outcome::Skipped; 3]);
    }

    #[test]
    fn a_forgery_without_an_answer_hides_no_other_that_is_active() {
        let forged = forged(None);
        let (silent, accepted) = (&forged[1].token, &forged[2].token);
        let mut attempts = Attempts::new();
        by_introspection(&mut attempts, &forged, &Ok("real".to_owned()), |token| match token {
            _ if token == silent => Err("no answer".to_owned()),
            _ => Ok(token == accepted || token == "real"),
        });
        assert_eq!(attempts.results(""), [Outcome::Skipped, Outcome::Hole]);
        let mut attempts = Attempts::without_time();
        by_introspection(&mut attempts, &forged, &Ok("real".to_owned()), |_| Ok(true));
        assert_eq!(attempts.results(""), vec![Outcome::Skipped; forged.len()]);
    }

    #[test]
    fn claims_that_no_verification_accepts_show_nothing() {
        let passes = |claims: &Value| {
            let (keys, token) = genuine(claims).unwrap();
            verify_token(&token, &keys, Clock::System.now(), true, Expectation::default()).is_ok()
        };
        let now = Clock::System.now().as_secs();
        let mut claims = json!({
            "iss": "https://selftest.invalid", "sub": "spiffe://selftest.invalid/agent/selftest", "aud": "a",
            "client_id": "selftest", "scope": "", "jti": "selftest", "iat": now, "nbf": now, "exp": now + 60,
            "hostbadge": {},
        });
        assert!(passes(&claims));
        claims["iss"] = Value::Null;
        assert!(!passes(&claims));
    }
}
