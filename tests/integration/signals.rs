//! Signals from outside: security event tokens of a configured issuer revoke agents and tokens.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::thread;

use data_encoding::{BASE64URL_NOPAD, HEXUPPER};
use hostbadge::clock::Clock;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};

use crate::common::http::{Response, claims, jti};
use crate::common::{API, Host, program};

const ISSUER: &str = "https://idp.example.com";
const AUDIENCE: &str = "https://host.example.org";
const CAEP: &str = "https://schemas.openid.net/secevent/caep/event-type";
const RISC: &str = "https://schemas.openid.net/secevent/risc/event-type";

/// An issuer with a P-256 key.
struct Issuer {
    pair: EcdsaKeyPair,
}

impl Issuer {
    fn new() -> Issuer {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random);
        Issuer { pair: pair.unwrap() }
    }

    fn jwks(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        let (x, y) = (BASE64URL_NOPAD.encode(&point[1..33]), BASE64URL_NOPAD.encode(&point[33..]));
        json!({ "keys": [{ "kty": "EC", "crv": "P-256", "kid": "k", "use": "sig", "alg": "ES256", "x": x, "y": y }] })
    }

    fn sign(&self, claims: &Value) -> String {
        let header = json!({ "alg": "ES256", "kid": "k", "typ": "secevent+jwt" });
        let input = signing_input(&header, claims);
        let signature = self.pair.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
        format!("{input}.{}", BASE64URL_NOPAD.encode(signature.as_ref()))
    }
}

fn signing_input(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    format!("{}.{}", part(header), part(claims))
}

fn now() -> u64 {
    Clock::System.now().as_secs()
}

/// The claims of a signal about this subject, with a `jti` of its own.
fn event(event: &str, subject: Value) -> Value {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let jti = format!("event-{}", COUNT.fetch_add(1, Ordering::Relaxed));
    json!({
        "iss": ISSUER, "jti": jti, "iat": now(), "aud": [AUDIENCE], "txn": "8675309", "sub_id": subject,
        "events": { event: { "event_timestamp": now(), "change_type": "revoke", "credential_type": "x509" } },
    })
}

fn agent(name: &str) -> Value {
    json!({ "format": "opaque", "id": name })
}

/// A running host on which root is the agents `r`, `kept` and `reader`, and `issuer` may revoke `r`.
fn host(issuer: &Issuer) -> Host {
    let mut host = Host::new();
    for name in ["r", "kept", "reader"] {
        host.agent(name, "user = 0");
    }
    let jwks = host.path("idp.json");
    fs::write(&jwks, issuer.jwks().to_string()).unwrap();
    host.configure(&format!(
        "[[signals]]\nissuer = \"{ISSUER}\"\njwks = {jwks:?}\naudience = \"{AUDIENCE}\"\nagents = [\"r\"]\n"
    ));
    host.start();
    host
}

fn token(host: &Host, agent: &str) -> Option<String> {
    let answer = host.post("/v1/token", json!({ "audience": API, "agent": agent }));
    answer.json()["access_token"].as_str().map(str::to_owned)
}

fn is_active(host: &Host, token: &str) -> bool {
    host.introspect(token)["active"].as_bool().unwrap()
}

fn send(host: &Host, set: &str) -> Response {
    host.admin().post("/v1/revocations/signal", &json!({ "set": set }))
}

#[track_caller]
fn refused(host: &Host, set: &str, status: u16, expected: &str) {
    let answer = send(host, set);
    assert_eq!(answer.status, status, "{expected}: {}", answer.text());
    assert!(answer.text().contains(expected), "{expected}: {}", answer.text());
    let last = host.audit().pop().unwrap();
    assert_eq!(last["event"], "request-refused", "{last}");
    assert!(last["detail"].as_str().unwrap().starts_with("/v1/revocations/signal: "), "{last}");
}

#[test]
fn an_agent_is_revoked_by_each_name_and_each_event_and_lifted_by_root() {
    let issuer = Issuer::new();
    let host = host(&issuer);
    let spiffe_id = claims(&token(&host, "r").unwrap())["sub"].clone();
    let own_issuer = claims(&token(&host, "r").unwrap())["iss"].clone();
    let session = format!("{CAEP}/session-revoked");
    for (event_type, subject) in [
        (session.clone(), agent("r")),
        (session.clone(), json!({ "format": "uri", "uri": spiffe_id })),
        (
            format!("{RISC}/account-disabled"),
            json!({ "format": "iss_sub", "iss": own_issuer, "sub": spiffe_id }),
        ),
        (format!("{CAEP}/credential-change"), agent("r")),
    ] {
        let (held, other) = (token(&host, "r").unwrap(), token(&host, "kept").unwrap());
        let file = host.path("signal.jwt");
        let set = issuer.sign(&event(&event_type, subject.clone()));
        fs::write(&file, format!("{set}\n")).unwrap();
        let output = host.hostbadge(&["revoke", "signal", file.to_str().unwrap()]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{subject}: {text}{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains("revoked agent r") && text.contains(ISSUER), "{text}");
        assert!(!is_active(&host, &held) && is_active(&host, &other), "{subject}");
        assert_eq!(token(&host, "r"), None, "{subject}");
        let lifted = host.admin().post("/v1/revocations/lift", &json!({ "agent": "r" }));
        assert_eq!(lifted.status, 200, "{}", lifted.text());
        assert!(token(&host, "r").is_some());
        // It does not revoke again what was given back.
        refused(&host, &set, 409, "presented before");
        assert!(token(&host, "r").is_some());
    }
    let listed = host.admin().get("/v1/revocations").text();
    let lines = host.audit();
    let details = crate::common::audit_log::with_event(&lines, "revocation-added");
    assert_eq!(details.len(), 4, "{listed}");
    assert!(
        details[0]["detail"].as_str().unwrap().contains("session-revoked by signal event-"),
        "{details:?}"
    );
}

#[test]
fn a_single_token_is_revoked_by_its_identifier() {
    let issuer = Issuer::new();
    let host = host(&issuer);
    let (first, second) = (token(&host, "r").unwrap(), token(&host, "r").unwrap());
    let kept = token(&host, "kept").unwrap();
    let own_issuer = claims(&first)["iss"].clone();
    let about = |token_id: &str| {
        let subject = json!({ "format": "jwt_id", "iss": own_issuer, "jti": token_id });
        issuer.sign(&event(&format!("{CAEP}/session-revoked"), subject))
    };
    let answer = send(&host, &about(&jti(&first)));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["revoked"]["kind"], "token");
    assert!(!is_active(&host, &first) && is_active(&host, &second));
    refused(&host, &about(&jti(&kept)), 422, "does not name the agent kept");
    refused(&host, &about("none"), 422, "has no token");
    assert!(is_active(&host, &kept));
}

#[test]
fn a_signal_is_used_once_also_in_parallel_and_after_a_crash() {
    let issuer = Issuer::new();
    let mut host = host(&issuer);
    let set = issuer.sign(&event(&format!("{CAEP}/session-revoked"), agent("r")));
    let barrier = Barrier::new(8);
    let statuses: Vec<u16> = thread::scope(|scope| {
        let present = || {
            barrier.wait();
            send(&host, &set).status
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(present)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 409).count(), 7, "{statuses:?}");
    host.crash();
    host.start();
    assert_eq!(token(&host, "r"), None);
    refused(&host, &set, 409, "presented before");
}

#[test]
fn other_signals_revoke_nothing() {
    let issuer = Issuer::new();
    let host = host(&issuer);
    let held = token(&host, "r").unwrap();
    let session = format!("{CAEP}/session-revoked");
    let with = |name: &str, value: Value| {
        let mut claims = event(&session, agent("r"));
        claims[name] = value;
        issuer.sign(&claims)
    };
    let good = event(&session, agent("r"));
    refused(&host, &with("iss", json!("https://other.example.com")), 422, "no table [[signals]]");
    refused(&host, &Issuer::new().sign(&good), 422, "not valid under key");
    refused(&host, &with("aud", json!("https://elsewhere.example.org")), 422, "not for audience");
    refused(&host, &with("iat", json!(now() - 7200)), 422, "more than 3600 s");
    refused(&host, &with("iat", json!(now() + 600)), 422, "from now");
    refused(&host, &with("exp", json!(now() + 600)), 422, "neither");
    refused(
        &host,
        &with("events", json!({ format!("{CAEP}/device-compliance-change"): {} })),
        422,
        "is none of",
    );
    let two = json!({ &session: {}, format!("{RISC}/account-disabled"): {} });
    refused(&host, &with("events", two), 422, "2 events");
    refused(&host, &with("sub_id", agent("none")), 422, "no agent has the name");
    refused(&host, &with("sub_id", agent("kept")), 422, "does not name the agent kept");
    let elsewhere = json!({ "format": "uri", "uri": "spiffe://other.example.org/host/x/agent/r" });
    refused(&host, &with("sub_id", elsewhere), 422, "no agent has the SPIFFE ID");
    let of_another = json!({ "format": "iss_sub", "iss": ISSUER, "sub": claims(&held)["sub"] });
    refused(&host, &with("sub_id", of_another), 422, "its issuer is");
    // Neither a token of this host nor text is a signal.
    refused(&host, &held, 422, "no table [[signals]]");
    refused(&host, "garbage", 422, "not a compact JWS");
    let long = with("txn", json!("x".repeat(60_000)));
    assert_eq!(send(&host, &long).status, 413, "more than 64 KiB");
    assert!(is_active(&host, &held) && token(&host, "r").is_some());

    // The keys are read for each signal.
    let jwks = host.path("idp.json");
    fs::set_permissions(&jwks, fs::Permissions::from_mode(0o666)).unwrap();
    refused(&host, &issuer.sign(&event(&session, agent("r"))), 503, "writable by all users");
    fs::set_permissions(&jwks, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&jwks, Issuer::new().jwks().to_string()).unwrap();
    refused(&host, &issuer.sign(&event(&session, agent("r"))), 422, "not valid under key");
    fs::remove_file(&jwks).unwrap();
    refused(&host, &issuer.sign(&event(&session, agent("r"))), 503, "idp.json");
    assert!(is_active(&host, &held));
    fs::write(&jwks, issuer.jwks().to_string()).unwrap();
    assert_eq!(send(&host, &issuer.sign(&good)).status, 200);
    assert!(!is_active(&host, &held));
}

/// The signal is made by OpenSSL, with an RSA key.
#[test]
fn a_signal_by_rs256_is_accepted_and_a_host_without_issuers_refuses_all() {
    let mut host = Host::started();
    let key = host.path("key.pem");
    openssl(&["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out"], &key, b"");
    let modulus = openssl(&["rsa", "-noout", "-modulus", "-in"], &key, b"");
    let modulus = String::from_utf8(modulus).unwrap();
    let n = BASE64URL_NOPAD
        .encode(&HEXUPPER.decode(modulus.trim().rsplit('=').next().unwrap().as_bytes()).unwrap());
    let jwks = host.path("idp.json");
    fs::write(&jwks, json!({ "keys": [{ "kty": "RSA", "kid": "rsa", "n": n, "e": "AQAB" }] }).to_string())
        .unwrap();
    let header = json!({ "alg": "RS256", "kid": "rsa", "typ": "secevent+jwt" });
    let input = signing_input(&header, &event(&format!("{CAEP}/session-revoked"), agent("root")));
    let signature = openssl(&["dgst", "-sha256", "-sign"], &key, input.as_bytes());
    let set = format!("{input}.{}", BASE64URL_NOPAD.encode(&signature));
    refused(&host, &set, 422, "no issuer of signals is configured");

    host.stop();
    host.configure(&format!(
        "[[signals]]\nissuer = \"{ISSUER}\"\njwks = {jwks:?}\naudience = \"{AUDIENCE}\"\nagents = [\"*\"]\n"
    ));
    let check = || {
        Command::new(program("hostbadged")).arg("--check").arg("--dev").arg(host.path("")).output().unwrap()
    };
    assert!(check().status.success(), "{}", String::from_utf8_lossy(&check().stderr));
    let text = fs::read_to_string(&jwks).unwrap();
    fs::write(&jwks, "{}").unwrap();
    assert!(String::from_utf8_lossy(&check().stderr).contains("idp.json"));
    fs::write(&jwks, text).unwrap();
    host.start();
    let answer = send(&host, &set);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(host.post("/v1/token", json!({ "audience": API })).status, 403);
}

/// Runs openssl with a file and standard input, and returns standard output.
fn openssl(words: &[&str], file: &Path, input: &[u8]) -> Vec<u8> {
    let mut command = Command::new("openssl");
    command.args(words).arg(file).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}
