//! Secrets that the daemon has answered, or received, are in none of its memory afterwards.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::Duration;

use data_encoding::BASE64;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::json;

use crate::common::grpc::{
    Empty, Grpc, JwtRequest, JwtResponse, MESSAGE_TIMEOUT, WitRequest, WitResponse, X509Response,
};
use crate::common::{API, Host, until};

/// A secret in the forms in which the daemon may keep it.
struct Secret {
    what: &'static str,
    forms: Vec<Vec<u8>>,
}

impl Secret {
    fn text(what: &'static str, text: &str) -> Secret {
        Secret { what, forms: vec![text.as_bytes().to_vec()] }
    }

    /// A P-256 key as PKCS#8 in DER: as it is, in base64, and its scalar.
    fn key(what: &'static str, der: &[u8]) -> Secret {
        // ECPrivateKey (RFC 5915) begins with version 1 and an octet string of 32 bytes.
        let head = [0x02, 0x01, 0x01, 0x04, 0x20];
        let start = der.windows(5).position(|window| window == head).expect("an ECPrivateKey") + 5;
        // The text of PEM has lines of 64 characters. The first of them are the same for each key.
        let base64 = BASE64.encode(der).as_bytes()[64..112].to_vec();
        Secret { what, forms: vec![der.to_vec(), base64, der[start..start + 32].to_vec()] }
    }
}

fn der_of_pem(pem: &str) -> Vec<u8> {
    let lines: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    BASE64.decode(lines.as_bytes()).unwrap()
}

/// Where `form` begins in `bytes`.
fn positions(bytes: &[u8], form: &[u8]) -> Vec<usize> {
    let (mut found, mut from) = (Vec::new(), 0);
    loop {
        let rest = &bytes[from..];
        // SAFETY: both pointers are valid for reads of their lengths.
        let at = unsafe { libc::memmem(rest.as_ptr().cast(), rest.len(), form.as_ptr().cast(), form.len()) };
        if at.is_null() {
            return found;
        }
        let at = at as usize - bytes.as_ptr() as usize;
        found.push(at);
        from = at + 1;
    }
}

/// The mappings of the daemon that have a form of the secret.
fn places(host: &Host, secret: &Secret) -> Vec<String> {
    let maps = fs::read_to_string(format!("/proc/{}/maps", host.pid())).unwrap();
    let memory = File::open(format!("/proc/{}/mem", host.pid())).unwrap();
    let mut found = Vec::new();
    for mapping in maps.lines() {
        let fields: Vec<&str> = mapping.split_whitespace().collect();
        let (start, end) = fields[0].split_once('-').unwrap();
        let number = |text| u64::from_str_radix(text, 16).unwrap();
        let (start, end) = (number(start), number(end));
        if !fields[1].starts_with("rw") {
            continue;
        }
        let mut bytes = vec![0; (end - start) as usize];
        // Guard pages and device memory cannot be read.
        if memory.read_exact_at(&mut bytes, start).is_err() {
            continue;
        }
        for (index, form) in secret.forms.iter().enumerate() {
            for at in positions(&bytes, form) {
                let name = fields.get(5).unwrap_or(&"anonymous");
                found.push(format!("form {index} in {name} of {} KiB at {at:#x}", (end - start) / 1024));
            }
        }
    }
    found
}

/// Waits until no secret is in the daemon's memory: a worker closes a connection a moment after its client.
#[track_caller]
fn assert_forgotten(host: &Host, secrets: &[Secret]) {
    for secret in secrets {
        let mut found = places(host, secret);
        for _ in 0..50 {
            if found.is_empty() {
                break;
            }
            std::thread::park_timeout(Duration::from_millis(100));
            found = places(host, secret);
        }
        assert!(found.is_empty(), "{}: {found:#?}", secret.what);
    }
}

/// Checks that the search finds what the daemon has: a body that has not arrived completely. Otherwise a
/// search that reads nothing would find no secret either.
#[track_caller]
fn assert_search_finds(host: &Host) {
    // As long as a token, and the bytes of a key.
    let text = Secret::text("text of a body", &format!("search-control-{}", "x1y2z3".repeat(40)));
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
    let key = Secret::key("a key in a body", pkcs8.as_ref());
    let body: Vec<u8> = text.forms.iter().chain(&key.forms).flatten().copied().collect();
    let mut connection = host.connect();
    let head = "POST /v1/introspect HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";
    connection.send(format!("{head}Content-Length: {}\r\n\r\n", body.len() + 1).as_bytes()).unwrap();
    connection.send(&body).unwrap();
    for secret in [&text, &key] {
        for (index, form) in secret.forms.iter().enumerate() {
            let one = Secret { what: secret.what, forms: vec![form.clone()] };
            until(&format!("form {index} of {} is found", secret.what), || {
                (!places(host, &one).is_empty()).then_some(())
            });
        }
    }
    drop(connection);
    assert_forgotten(host, &[text, key]);
}

#[test]
fn tokens_and_keys_of_the_agent_socket_are_forgotten() {
    let host = Host::started();
    assert_search_finds(&host);
    let mut secrets = Vec::new();
    for _ in 0..8 {
        let token = host.token();
        host.introspect(&token);
        secrets.push(Secret::text("an access token", &token));
        let response = host.post("/v1/certificate", json!({}));
        assert_eq!(response.status, 200, "{}", response.text());
        let pem = response.json()["private_key"].as_str().unwrap().to_owned();
        secrets.push(Secret::key("the key of a certificate", &der_of_pem(&pem)));
    }
    let foreign = format!("{}.{}.{}", "A".repeat(40), "B".repeat(4000), "C".repeat(86));
    host.introspect(&foreign);
    secrets.push(Secret::text("a token that is not of this host", &foreign));
    assert_forgotten(&host, &secrets);
}

#[test]
fn recovery_keys_are_forgotten() {
    let host = Host::started();
    assert_search_finds(&host);
    let answer = host.admin().post("/v1/keys/recovery", &json!({}));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let key = answer.json()["recovery_key"].as_str().unwrap().to_owned();
    let wrong = format!("hbr1-{}", "abcdefgh".repeat(7));
    for (sent, status) in [(&wrong, 400), (&key, 200), (&key, 200)] {
        let confirmed = host.admin().post("/v1/keys/recovery/confirm", &json!({ "recovery_key": sent }));
        assert_eq!(confirmed.status, status, "{}", confirmed.text());
    }
    // The daemon refuses it, because nothing is to be recovered.
    let refused = host.admin().post("/v1/keys/recover", &json!({ "recovery_key": key }));
    assert_eq!(refused.status, 409, "{}", refused.text());
    let refused = host.admin().post("/v1/keys/recover", &json!({ "recovery_key": wrong }));
    assert!(refused.status >= 400, "{}", refused.text());
    assert_forgotten(
        &host,
        &[
            Secret::text("a recovery key", &key),
            Secret::text("a recovery key without its prefix", key.trim_start_matches("hbr1-")),
            Secret::text("a wrong recovery key", &wrong),
        ],
    );
}

#[test]
fn tokens_and_keys_of_the_workload_socket_are_forgotten() {
    let host = Host::started();
    assert_search_finds(&host);
    let mut secrets = Vec::new();
    let client = Grpc::connect(&host.workload_socket());
    let request = JwtRequest { audience: vec![API.to_owned()], spiffe_id: String::new() };
    let jwt: JwtResponse = client.unary("FetchJWTSVID", &request).unwrap();
    secrets.push(Secret::text("a JWT-SVID", &jwt.svids[0].svid));
    let mut call = client.stream("FetchX509SVID", &Empty {}).unwrap();
    let x509: X509Response = until("an X509-SVID", || client.next(&mut call, MESSAGE_TIMEOUT)).unwrap();
    secrets.push(Secret::key("the key of an X509-SVID", &x509.svids[0].x509_svid_key));
    drop(call);
    let mut call = client.stream("FetchWITSVID", &WitRequest::default()).unwrap();
    let wit: WitResponse = until("a WIT-SVID", || client.next(&mut call, MESSAGE_TIMEOUT)).unwrap();
    let jwk: serde_json::Value = serde_json::from_str(&wit.svids[0].wit_svid_key).unwrap();
    let scalar = data_encoding::BASE64URL_NOPAD.decode(jwk["d"].as_str().unwrap().as_bytes()).unwrap();
    secrets.push(Secret {
        what: "the key of a WIT-SVID",
        forms: vec![scalar, jwk["d"].as_str().unwrap().as_bytes().to_vec()],
    });
    drop((call, client));
    assert_forgotten(&host, &secrets);
}

#[test]
fn opened_credentials_are_forgotten() {
    let host = Host::started();
    assert_search_finds(&host);
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let requested = host.hostbadge(&["enroll", "request", "--output", &path("request")]);
    assert!(requested.status.success(), "{requested:?}");
    let request: serde_json::Value = serde_json::from_slice(&fs::read(path("request")).unwrap()).unwrap();
    let ek = BASE64.decode(request["evidence"]["ek"].as_str().unwrap().as_bytes()).unwrap();
    let ak = host.status()["tpm"]["ak_name"].as_str().unwrap().to_owned();
    let secret = b"what only the TPM gives out";
    fs::write(path("ek.pub"), ek).unwrap();
    fs::write(path("secret"), secret).unwrap();
    let made = Command::new("tpm2_makecredential")
        .args(["--tcti", "none", "-u", &path("ek.pub"), "-s", &path("secret"), "-n", &ak])
        .args(["-o", &path("credential")])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let opened = host.hostbadge(&["enroll", "activate", "--credential", &path("credential"), "--ek", "ecc"]);
    assert_eq!(opened.stdout.trim_ascii(), secret, "{opened:?}");
    let forms = vec![secret.to_vec(), BASE64.encode(secret).into_bytes()];
    assert_forgotten(&host, &[Secret { what: "the secret of a credential", forms }]);
}

#[test]
fn values_of_sealed_credentials_are_forgotten() {
    let mut host = Host::new();
    let grant = "[[credential]]\nname = \"github\"\nuse = \"release\"\n";
    host.agents_file("root", &format!("name = \"root\"\n[match]\nuser = 0\n{grant}"));
    host.start();
    assert_search_finds(&host);
    let values = ["first", "second", "third"].map(|which| format!("the {which} value {}", which.repeat(400)));
    let admin = |path: &str, body: serde_json::Value| {
        let response = host.admin().post(path, &body);
        assert_eq!(response.status, 200, "{}", response.text());
    };
    let release = |expected: &str| {
        let response = host.post("/v1/credential", json!({ "name": "github" }));
        assert_eq!(response.json()["value"], expected);
    };
    admin("/v1/credentials/put", json!({ "name": "github", "value": values[0] }));
    release(&values[0]);
    admin("/v1/credentials/rotate", json!({ "name": "github", "value": values[1], "overlap": 60 }));
    release(&values[1]);
    admin("/v1/credentials/remove", json!({ "name": "github" }));
    // A request that is refused had its value in memory too.
    let refused =
        host.admin().post("/v1/credentials/rotate", &json!({ "name": "github", "value": values[2] }));
    assert_eq!(refused.status, 422);
    assert_forgotten(&host, &values.map(|value| Secret::text("the value of a credential", &value)));
}
