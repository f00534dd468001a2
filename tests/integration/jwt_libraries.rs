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
