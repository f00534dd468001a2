//! Published verifiers with the settings of the guide (`docs/guide/verifiers.md`): each accepts a token of
//! the type that it is set for, and refuses a forged one, another audience and another issuer.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::http::{claims, tampered};
use crate::common::libraries::{go_program, java_with, node_with};
use crate::common::{API, Host};
use serde_json::{Value, json};

/// The audience whose grant has `typ = "JWT"`.
const TYPED: &str = "https://typed.example.com";
/// The second one decodes, and verifies no signature.
const STATUS_LIST: &[&str] = &["jose@6.2.17", "@sd-jwt/jwt-status-list@0.19.0"];
const EXPRESS: &[&str] = &["express@5.1.0", "express-oauth2-jwt-bearer@1.7.4"];

#[test]
#[ignore = "run by make test-clients: it needs newer tools than Debian 12 has"]
fn spring_accepts_jwt_by_default_and_at_jwt_by_its_setting() {
    java_accepts_by_type("spring");
}

#[test]
#[ignore = "run by make test-clients: it needs newer tools than Debian 12 has"]
fn nimbus_accepts_jwt_by_default_and_at_jwt_by_its_setting() {
    java_accepts_by_type("nimbus");
}

#[test]
#[ignore = "run by make test-clients: it needs newer tools than Debian 12 has"]
fn express_accepts_both_types_and_at_jwt_alone_when_strict() {
    let modules = node_with("express", EXPRESS);
    let case = Case::new();
    let verify = |strict: &'static str| {
        let modules = modules.clone();
        move |request: &Request<'_>| {
            let mut command = Command::new("node");
            command.env("MODULES", &modules).arg(client("node/express.mjs"));
            command.arg(request.keys).args([request.issuer, request.audience, request.token, strict]);
            command
        }
    };
    case.is_verified(API, verify("lax"));
    case.is_verified(API, verify("strict"));
    case.is_verified(TYPED, verify("lax"));
    case.is_refused(TYPED, verify("strict"), "typ");
}

/// jose verifies the list, and jwt-status-list decodes it: the index of a revoked token reads revoked at once, and
/// another one valid.
#[test]
#[ignore = "run by make test-clients: it needs newer tools than Debian 12 has"]
fn jose_and_jwt_status_list_read_a_revocation_in_the_list() {
    let modules = node_with("status-list", STATUS_LIST);
    let mut host = Host::new();
    host.configure("[tokens]\nstatus_list = true\n");
    host.agent("r", "user = 0");
    host.start();
    let token = host.token();
    let claims = claims(&token);
    let issuer = claims["iss"].as_str().unwrap();
    let uri = claims["status"]["status_list"]["uri"].as_str().unwrap();
    let list = || host.get(uri.strip_prefix(issuer).unwrap()).text();
    fs::write(host.path("jwks"), host.get("/.well-known/jwks.json").text()).unwrap();
    let read = |token: &str, list: &str| {
        for (name, text) in [("token", token), ("list", list)] {
            fs::write(host.path(name), text).unwrap();
        }
        let mut command = Command::new("node");
        command.env("MODULES", &modules).arg(client("node/status_list.mjs")).arg(host.path("jwks"));
        command.args([issuer, API]).arg(host.path("token")).arg(host.path("list"));
        verdict(&mut command)
    };
    assert_eq!(read(&token, &list()), Ok(json!({ "own": 0, "next": 0 })));
    let answer = host.admin().post("/v1/revocations/revoke", &json!({ "token": token }));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let revoked_at = std::time::Instant::now();
    let revoked = list();
    // Alone, it takes less than a second; the machine may be busy.
    assert!(revoked_at.elapsed() < std::time::Duration::from_secs(5), "{:?}", revoked_at.elapsed());
    assert_eq!(read(&token, &revoked), Ok(json!({ "own": 1, "next": 0 })));
    assert!(read(&token, &tampered(&revoked)).unwrap_err().contains("signature"), "a forged list");
    assert!(read(&tampered(&token), &revoked).unwrap_err().contains("signature"), "a forged token");
    assert!(read(&token, &token).is_err(), "a token is no list");
}

#[test]
#[ignore = "run by make test-clients: it needs newer tools than Debian 12 has"]
fn go_oidc_accepts_both_types() {
    go_accepts_both_types("go", &["go-oidc"]);
}

#[test]
#[ignore = "run by make test-clients: it needs newer tools than Debian 12 has"]
fn the_library_of_vault_and_openbao_accepts_both_types() {
    go_accepts_both_types("go", &["vault"]);
}

#[test]
#[ignore = "run by make test-clients: it needs newer tools than Debian 12 has"]
fn the_authenticator_of_kubernetes_accepts_both_types() {
    go_accepts_both_types("kubernetes", &[]);
}

fn java_accepts_by_type(party: &'static str) {
    let jars = java_with("java-relying-parties", &client("java"));
    let case = Case::new();
    let verify = |typ: &'static str| {
        let jars = jars.clone();
        move |request: &Request<'_>| {
            let mut command = Command::new("java");
            command.arg("-cp").arg(jars.join("*")).arg(client("java/Verify.java")).args([party, typ]);
            command.arg(request.keys).args([request.issuer, request.audience, request.token]);
            command
        }
    };
    case.is_verified(TYPED, verify("default"));
    case.is_refused(API, verify("default"), "typ");
    case.is_verified(API, verify("at+jwt"));
}

fn go_accepts_both_types(module: &str, party: &[&str]) {
    let program = go_program(&format!("{module}-relying-parties"), &client(module));
    let case = Case::new();
    let verify = |request: &Request<'_>| {
        let mut command = Command::new(&program);
        command.args(party).arg(request.keys).args([request.issuer, request.audience, request.token]);
        command
    };
    case.is_verified(API, verify);
    case.is_verified(TYPED, verify);
}

/// What a verifier is set for, and a token.
struct Request<'a> {
    keys: &'a Path,
    issuer: &'a str,
    audience: &'a str,
    token: &'a str,
}

/// A host that issues tokens of both types, and its key set in a file.
struct Case {
    host: Host,
    keys: PathBuf,
    issuer: String,
}

impl Case {
    fn new() -> Case {
        let mut host = Host::new();
        let grant =
            |audience: &str, typ: &str| format!("[[grant]]\naudience = \"{audience}\"\ntyp = \"{typ}\"\n");
        let grants = grant(API, "at+jwt") + &grant(TYPED, "JWT");
        host.agents_file("r", &format!("name = \"r\"\n[match]\nuser = 0\n{grants}"));
        host.start();
        let keys = host.path("jwks.json");
        fs::write(&keys, host.get("/.well-known/jwks.json").text()).unwrap();
        let issuer = host.get("/.well-known/openid-configuration").json()["issuer"].clone();
        Case { host, keys, issuer: issuer.as_str().unwrap().to_owned() }
    }

    fn token(&self, audience: &str) -> String {
        let answer = self.host.post("/v1/token", json!({ "audience": audience })).json();
        answer["access_token"].as_str().unwrap().to_owned()
    }

    /// The verifier accepts the host's token for the audience, and no other.
    #[track_caller]
    fn is_verified(&self, audience: &str, verify: impl Fn(&Request<'_>) -> Command) {
        let token = self.token(audience);
        let forged = tampered(&token);
        let request = Request { keys: &self.keys, issuer: &self.issuer, audience, token: &token };
        assert_eq!(verdict(&mut verify(&request)), Ok(claims(&token)));
        for wrong in [
            Request { token: &forged, ..request },
            Request { audience: "https://bank.example.com", ..request },
            Request { issuer: "https://bank.example.com", ..request },
        ] {
            let refused = verdict(&mut verify(&wrong)).unwrap_err();
            assert!(refused.starts_with("invalid: "), "{refused}");
        }
    }

    /// The verifier refuses the host's token for the audience, and says why.
    #[track_caller]
    fn is_refused(&self, audience: &str, verify: impl Fn(&Request<'_>) -> Command, why: &str) {
        let token = self.token(audience);
        let request = Request { keys: &self.keys, issuer: &self.issuer, audience, token: &token };
        let refused = verdict(&mut verify(&request)).unwrap_err();
        assert!(refused.starts_with("invalid: ") && refused.contains(why), "{refused}");
    }
}

fn client(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/relying-parties").join(file)
}

/// The claims, or the error, which is the last line after what the library logs.
fn verdict(command: &mut Command) -> Result<Value, String> {
    let output = command.output().unwrap();
    match output.status.success() {
        true => Ok(serde_json::from_slice(&output.stdout).unwrap()),
        false => Err(String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned()),
    }
}
