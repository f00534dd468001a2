//! Evidence from a software TPM, checked by our verifier and by tpm2-tools.

use std::fs;
use std::process::Command;

use crate::common::callers::{Credentials, NOBODY};
use crate::common::http::request;
use crate::common::{self, Host, until_true};
use data_encoding::{BASE64, HEXLOWER};
use hostbadge::verify::evidence::{CheckOutcome, CheckResult, Evidence};
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

/// "a nonce of 18 bytes"
const NONCE: &str = "YSBub25jZSBvZiAxOCBieXRlcw";
const NONCE_BYTES: &[u8] = b"a nonce of 18 bytes";

fn attested(host: &Host, nonce: &str) -> Value {
    let answer = host.post("/v1/attest", json!({ "nonce": nonce }));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn findings(document: &Value, nonce: &[u8]) -> Vec<CheckResult> {
    Evidence::parse(document.to_string().as_bytes()).unwrap().check(nonce)
}

/// The one check that fails: its name and its detail.
#[track_caller]
fn the_fault(document: &Value, nonce: &[u8]) -> (String, String) {
    let broken: Vec<CheckResult> = findings(document, nonce)
        .into_iter()
        .filter(|finding| finding.outcome == CheckOutcome::Fail)
        .collect();
    let first = broken.first().unwrap_or_else(|| panic!("all of it holds"));
    (first.name.to_owned(), first.detail.clone())
}

#[test]
fn evidence_passes_has_host_and_keys_and_is_in_the_audit_log() {
    let host = Host::started();
    let document = attested(&host, NONCE);
    let all = findings(&document, NONCE_BYTES);
    assert!(all.iter().all(|finding| finding.is_acceptable()), "{all:#?}");
    assert_eq!(document["host"], host.status()["host"]["id"]);
    let kid = host.get("/.well-known/jwks.json").json()["keys"][0]["kid"].as_str().unwrap().to_owned();
    let issuing = all.iter().find(|finding| finding.name == "issuing keys").unwrap();
    assert!(issuing.detail.contains(&kid), "{issuing:?}");
    // The next issuing key is endorsed too, before it signs.
    let rotated = host.admin().post("/v1/keys/rotate", &json!({}));
    assert_eq!(rotated.status, 200, "{}", rotated.text());
    let document = attested(&host, NONCE);
    assert_eq!(document["endorsements"].as_array().unwrap().len(), 2);
    assert!(findings(&document, NONCE_BYTES).iter().all(|finding| finding.is_acceptable()));
    let long = "A".repeat(86);
    let nonce = [0; 64];
    let all = findings(&attested(&host, &long), &nonce);
    assert!(all.iter().all(|finding| finding.is_acceptable()), "{all:#?}");
    let audit = host.audit();
    let lines = common::audit_log::with_event(&audit, "attested");
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0]["detail"], format!("nonce {NONCE}"));
}

/// Each response contains the whole IMA list, and stays in memory until the caller has read it. An agent has
/// one slot at a time.
#[test]
fn unread_evidence_is_bounded_and_its_slot_is_freed_when_the_caller_disconnects() {
    let host = Host::started();
    fs::write(host.path("run/ima-list"), vec![b'x'; 2 << 20]).unwrap();
    let body = json!({ "nonce": NONCE }).to_string();
    let ask = request("POST", "/v1/attest", Some("application/json"), body.as_bytes());
    let mut stalled = Vec::new();
    for made in 1..=2 {
        let mut connection = host.connect();
        connection.send(&ask).unwrap();
        stalled.push(connection);
        // The second is created when the first one's connection was ended.
        until_true("evidence is created", || {
            common::audit_log::with_event(&host.audit(), "attested").len() == made
        });
    }
    let mut read = stalled.pop().unwrap();
    assert_eq!(read.read_response().unwrap().status, 200);
    assert_eq!(attested(&host, NONCE)["nonce"], NONCE, "the slot of a caller that read its response");
    drop(stalled);
    for format in ["evidence", "eat"] {
        let answer = host.post("/v1/attest", json!({ "nonce": NONCE, "format": format }));
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

#[test]
fn tpm2_checkquote_accepts_the_quote() {
    let host = Host::started();
    let document = attested(&host, NONCE);
    let file = |name: &str, text: &Value| {
        let path = host.path(name);
        fs::write(&path, BASE64.decode(text.as_str().unwrap().as_bytes()).unwrap()).unwrap();
        path
    };
    let check = |nonce: &[u8]| {
        Command::new("tpm2_checkquote")
            .arg("--public")
            .arg(file("ak.pub", &document["ak"]))
            .arg("--message")
            .arg(file("quote", &document["quote"]["attest"]))
            .arg("--signature")
            .arg(file("signature", &document["quote"]["signature"]))
            .args(["--hash-algorithm", "sha256", "--qualification", &HEXLOWER.encode(nonce)])
            .output()
            .unwrap()
    };
    let taken = check(NONCE_BYTES);
    assert!(taken.status.success(), "{}", String::from_utf8_lossy(&taken.stderr));
    assert!(!check(b"another nonce").status.success());
    let printed = Command::new("tpm2_print")
        .args(["--type", "TPMS_ATTEST"])
        .arg(file("quote", &document["quote"]["attest"]))
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&printed.stdout).contains(&HEXLOWER.encode(NONCE_BYTES)), "{printed:?}");
}

#[test]
fn changed_or_swapped_parts_fail_the_check_that_names_them() {
    let host = Host::started();
    let mut other = Host::other();
    other.agent("root", "user = 0");
    other.start();
    let (ours, theirs) = (attested(&host, NONCE), attested(&other, NONCE));
    assert_eq!(the_fault(&ours, b"yesterday's nonce").0, "nonce");

    let with = |path: &[&str], value: Value| {
        let mut document = ours.clone();
        let at = path.iter().fold(&mut document, |at, key| &mut at[*key]);
        *at = value;
        document
    };
    assert_eq!(the_fault(&with(&["host"], theirs["host"].clone()), NONCE_BYTES).0, "EK");
    assert_eq!(the_fault(&with(&["ak"], theirs["ak"].clone()), NONCE_BYTES).0, "quote's signature");
    assert_eq!(the_fault(&with(&["ak"], ours["host_key"].clone()), NONCE_BYTES).0, "AK");
    assert_eq!(the_fault(&with(&["quote"], theirs["quote"].clone()), NONCE_BYTES).0, "quote's signature");
    let fault = the_fault(&with(&["quote"], ours["certification"].clone()), NONCE_BYTES);
    assert_eq!(fault.0, "nonce", "a certification is not a quote");
    assert_eq!(the_fault(&with(&["host_key"], ours["ak"].clone()), NONCE_BYTES).0, "host key");
    let fault = the_fault(&with(&["certification"], theirs["certification"].clone()), NONCE_BYTES);
    assert_eq!(fault, ("host key's certification".into(), "the AK did not sign this".into()));
    let fault = the_fault(&with(&["endorsements"], theirs["endorsements"].clone()), NONCE_BYTES);
    assert_eq!(fault, ("issuing keys".into(), "it is not an endorsement by this host's key".into()));
    assert_eq!(the_fault(&with(&["endorsements"], json!([])), NONCE_BYTES).0, "issuing keys");
    assert_eq!(the_fault(&with(&["pcrs", "7"], json!("11".repeat(32))), NONCE_BYTES).0, "PCR values");
    let fault = the_fault(&with(&["pcrs", "23"], json!("00".repeat(32))), NONCE_BYTES);
    assert!(fault.1.contains("other values are given"), "{fault:?}");

    // Each byte of what is signed, of signatures and of key names.
    for path in [
        &["ek"][..],
        &["rsa_ek"],
        &["ak"],
        &["host_key"],
        &["quote", "attest"],
        &["quote", "signature"],
        &["certification", "attest"],
        &["certification", "signature"],
    ] {
        let text = path.iter().fold(&ours, |at, key| &at[*key]).as_str().unwrap();
        let bytes = BASE64.decode(text.as_bytes()).unwrap();
        for at in 0..bytes.len() {
            eprintln!("byte {at} of {path:?}");
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            the_fault(&with(path, json!(BASE64.encode(&bytes))), NONCE_BYTES);
            the_fault(&with(path, json!(BASE64.encode(&bytes[..at]))), NONCE_BYTES);
        }
    }
    let old = |name: &str| {
        let mut document = with(&["version"], json!(1));
        document.as_object_mut().unwrap().remove(name);
        findings(&document, NONCE_BYTES).iter().all(|finding| finding.is_acceptable())
    };
    assert!(old("host_certificate") && old("ek_chain"), "format 1 does not have these");
    assert!(Evidence::parse(with(&["version"], json!(3)).to_string().as_bytes()).is_err());
    // An EK with the certificate of another EK.
    let fault = the_fault(&with(&["ek_certificate"], theirs["ek_certificate"].clone()), NONCE_BYTES);
    assert_eq!(fault, ("endorsement keys".into(), "the certificate is for another key".into()));
    let fault = the_fault(&with(&["rsa_ek"], theirs["rsa_ek"].clone()), NONCE_BYTES);
    assert_eq!(fault, ("endorsement keys".into(), "the certificate is for another key".into()));
    let fault = the_fault(&with(&["rsa_ek"], ours["ek"].clone()), NONCE_BYTES);
    assert_eq!(fault.0, "endorsement keys");
    assert!(Evidence::parse(b"{\"version\":1").is_err());
}

#[test]
fn evidence_needs_an_agent_and_a_valid_nonce_and_is_rate_limited() {
    let host = Host::started();
    let unknown = Credentials::user(NOBODY).curl(&host, "/v1/attest", &["-d", &format!("nonce={NONCE}")]);
    assert_eq!((unknown.status, unknown.error().as_str()), (401, "invalid_client"));
    for nonce in ["", "AAAA", &"A".repeat(87), "not base64!", "YSBub25jZSBvZiAxOCBieXRlcw=="] {
        let answer = host.post("/v1/attest", json!({ "nonce": nonce }));
        assert_eq!((answer.status, answer.error().as_str()), (400, "invalid_request"), "{nonce}");
    }
    let answers: Vec<u16> =
        (0..8).map(|_| host.post("/v1/attest", json!({ "nonce": NONCE })).status).collect();
    assert!(answers.contains(&200) && answers.contains(&429), "{answers:?}");
    // Tokens do not use the TPM and are not limited with it.
    assert!(!host.token().is_empty());
}

#[test]
fn a_stalled_tpm_is_reported() {
    let host = Host::started();
    let tpm = host.swtpm();
    kill(tpm, Signal::SIGSTOP).unwrap();
    let answer = host.post("/v1/attest", json!({ "nonce": NONCE }));
    assert_eq!((answer.status, answer.error().as_str()), (503, "temporarily_unavailable"));
    assert!(answer.text().contains("the TPM has not answered"), "{}", answer.text());
    kill(tpm, Signal::SIGCONT).unwrap();
    until_true("evidence is created", || host.post("/v1/attest", json!({ "nonce": NONCE })).status == 200);
}

#[test]
fn an_agent_that_is_removed_while_its_evidence_is_made_gets_none() {
    let mut host = Host::new();
    host.configure("[tpm]\ndeadline = \"30s\"\n");
    host.agent("root", "user = 0");
    host.start();
    let tpm = host.swtpm();
    kill(tpm, Signal::SIGSTOP).unwrap();
    let body = json!({ "nonce": NONCE }).to_string();
    let text = request("POST", "/v1/attest", Some("application/json"), body.as_bytes());
    let (sender, answers) = std::sync::mpsc::channel();
    for _ in 0..2 {
        let (mut connection, text, sender) = (host.connect(), text.clone(), sender.clone());
        std::thread::spawn(move || {
            connection.send(&text).unwrap();
            sender.send(connection.read_response().expect("an answer")).unwrap();
        });
    }
    // An agent has one place for evidence. Once a request is refused for that, the other one waits.
    assert_ne!(answers.recv().unwrap().status, 200);
    host.agent("another", "user = 4711");
    fs::remove_file(host.path("etc/agents.d/root.toml")).unwrap();
    host.reload();
    kill(tpm, Signal::SIGCONT).unwrap();
    let answer = answers.recv().unwrap();
    assert_eq!((answer.status, answer.error().as_str()), (503, "temporarily_unavailable"));
    assert!(answer.text().contains("the agent configuration has changed"), "{}", answer.text());
    let lines = host.audit();
    assert!(crate::common::audit_log::with_event(&lines, "attested").is_empty());
}

#[test]
fn the_commands_create_and_check_evidence() {
    let host = Host::started();
    let file = host.path("evidence.json");
    let hostbadge = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hostbadge"));
        command.args(words).env("HOSTBADGE_SOCKET", host.agent_socket()).output().unwrap()
    };
    let name = file.to_str().unwrap();
    assert!(hostbadge(&["attest", "--nonce", NONCE, "--output", name]).status.success());
    let id = host.status()["host"]["id"].as_str().unwrap().to_owned();
    let ak = host.status()["tpm"]["ak_name"].as_str().unwrap().to_owned();
    let verify = |nonce: &str, id: &str| {
        hostbadge(&["verify", "evidence", name, "--nonce", nonce, "--host", id, "--ak", &ak])
    };
    let good = verify(NONCE, &id);
    let table = String::from_utf8_lossy(&good.stdout).into_owned();
    assert!(good.status.success() && !table.contains("FAILED"), "{table}");
    let policy = host.path("pcrs.toml");
    let zeros = "0".repeat(64);
    let judged = |values: String| {
        fs::write(&policy, format!("version = 1\n[sha256]\n{values}")).unwrap();
        let policy = policy.to_str().unwrap();
        hostbadge(&["verify", "evidence", name, "--nonce", NONCE, "--ak", &ak, "--pcrs", policy])
            .status
            .code()
    };
    // All PCRs are zero: no firmware extends them.
    assert_eq!(judged(format!("0 = \"{zeros}\"\n7 = [\"{}\", \"{zeros}\"]\n", "1".repeat(64))), Some(0));
    assert_eq!(judged(format!("0 = \"{}\"\n", "1".repeat(64))), Some(1));
    assert_eq!(judged(format!("23 = \"{zeros}\"\n")), Some(1), "it was not quoted");
    assert_eq!(judged("0 = 7\n".into()), Some(1));
    // An EK's public area is not secret: without the AK's Name, evidence could combine it with any AK.
    let unknown = hostbadge(&["verify", "evidence", name, "--nonce", NONCE, "--host", &id]);
    assert_eq!(unknown.status.code(), Some(1));
    let table = String::from_utf8_lossy(&unknown.stdout).into_owned();
    assert!(table.contains("nothing here ties the AK to this host"), "{table}");
    let other = ak.replace(&ak[60..], "00000000");
    let another = hostbadge(&["verify", "evidence", name, "--nonce", NONCE, "--ak", &other]);
    assert_eq!(another.status.code(), Some(1));
    let bad = verify("AAAAAAAAAAAA", "somebody");
    assert_eq!(bad.status.code(), Some(1));
    let table = String::from_utf8_lossy(&bad.stdout).into_owned();
    assert_eq!(table.matches("FAILED").count(), 2, "{table}");
}
