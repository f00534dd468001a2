//! Access tokens are verified by third-party JWT libraries: PyJWT, and jose for Node.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::http::{claims, tampered};
use crate::common::libraries::{node_with, python_with};
use crate::common::{API, Host};
use serde_json::Value;

#[test]
fn pyjwt_accepts_a_token_and_refuses_forgeries() {
    let python = python_with("pyjwt", &["pyjwt[crypto]==2.10.1"]);
    let command = || {
        let mut command = Command::new(&python);
        command.arg(client("verify.py"));
        command
    };
    accepts_only_a_valid_token(command, ["InvalidSignatureError", "InvalidAudienceError"]);
}

#[test]
fn jose_accepts_a_token_and_refuses_forgeries() {
    let jose = node_with("jose", &["jose@5.10.0"]);
    let command = || {
        let mut command = Command::new("node");
        command.env("JOSE", &jose).arg(client("verify.mjs"));
        command
    };
    let faults = ["ERR_JWS_SIGNATURE_VERIFICATION_FAILED", "ERR_JWT_CLAIM_VALIDATION_FAILED"];
    accepts_only_a_valid_token(command, faults);
}

/// The libraries refuse a token of the future with their default leeway, which is none.
#[test]
fn a_relying_party_whose_clock_is_behind_accepts_a_new_token() {
    let host = Host::started();
    let keys = host.path("jwks.json");
    fs::write(&keys, host.get("/.well-known/jwks.json").text()).unwrap();
    let python = python_with("slow-clock", &["authlib==1.6.5", "joserfc==1.4.0"]);
    let jose = node_with("jose", &["jose@5.10.0"]);
    let judge = |seconds: &str| {
        // A new token for each: the time of the verification is not that of the start of a library.
        let mut node = Command::new("node");
        node.env("JOSE", &jose).arg(client("slow_clock.mjs"));
        let mut python = Command::new(&python);
        python.arg(client("slow_clock.py"));
        let texts = [node, python].map(|mut command| {
            let output = command.arg(&keys).args([&host.token(), seconds]).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        });
        texts.concat()
    };
    assert_eq!(judge("9"), "accepted by jose\naccepted by joserfc\naccepted by authlib\n");
    let refused = judge("3600");
    assert_eq!(refused.lines().filter(|line| line.starts_with("refused by ")).count(), 3, "{refused}");
}

fn client(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(file)
}

/// `command` takes a JWKS file, a token and an audience. The errors are those for a forged token and another
/// audience.
fn accepts_only_a_valid_token(command: impl Fn() -> Command, [forged, elsewhere]: [&str; 2]) {
    let host = Host::started();
    let keys = host.path("jwks.json");
    fs::write(&keys, host.get("/.well-known/jwks.json").text()).unwrap();
    let judge = |token: &str, audience: &str| verdict(command().arg(&keys).args([token, audience]));
    let token = host.token();
    assert_eq!(judge(&token, API), Ok(claims(&token)));
    assert_eq!(judge(&tampered(&token), API), Err(format!("invalid: {forged}")));
    assert_eq!(judge(&token, "https://bank.example.com"), Err(format!("invalid: {elsewhere}")));
}

/// The claims, or the error.
fn verdict(command: &mut Command) -> Result<Value, String> {
    let output = command.output().unwrap();
    match output.status.success() {
        true => Ok(serde_json::from_slice(&output.stdout).unwrap()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}
