//! Proofs of the audit log, checked by the code of transparency-dev.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::libraries::go_program;
use crate::common::{Host, until_true};
use serde_json::Value;

#[test]
#[ignore = "run by make test-clients: it needs newer tools than Debian 12 has"]
fn transparency_dev_verifies_records_and_the_growth_of_the_log() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/audit-log");
    let program = go_program("audit-log", &source);
    let mut host = Host::new();
    host.agent("root", "user = 0");
    host.configure("[audit]\ncheckpoint_every = \"1s\"\n");
    host.start();
    for _ in 0..5 {
        host.token();
    }
    let covered =
        |host: &Host| host.status()["audit"]["checkpoint"]["covered_to"].as_u64().unwrap_or_default();
    until_true("a checkpoint covers the tokens", || covered(&host) >= 5);
    let audit = host.path("audit");
    let dir = audit.to_str().unwrap();
    let first = json(&host, &["audit", "prove", "3", "--dir", dir, "--json"]);
    for _ in 0..6 {
        host.token();
    }
    host.stop();
    let last = host.audit().last().unwrap()["seq"].as_u64().unwrap();
    let origin =
        |proof: &Value| proof["checkpoint"]["note"].as_str().unwrap().lines().next().unwrap().to_owned();
    let write = |name: &str, text: &[u8]| -> PathBuf {
        let path = host.path(name);
        fs::write(&path, text).unwrap();
        path
    };
    for seq in 1..=last {
        let words = ["audit", "prove", &seq.to_string(), "--dir", dir];
        let text = host.hostbadge(&words);
        assert!(text.status.success(), "{}", String::from_utf8_lossy(&text.stderr));
        let proof = json(&host, &[&words[..], &["--json"]].concat());
        let (origin, key) = (origin(&proof), proof["note_key"].as_str().unwrap());
        let check = |text: &[u8], key: &str| {
            let mut command = Command::new(&program);
            command.args(["record", &origin, key]).arg(write("proof", text)).output().unwrap()
        };
        let checked = check(&text.stdout, key);
        let record = String::from_utf8_lossy(&checked.stdout);
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
        assert_eq!(record.trim_end(), proof["record"].as_str().unwrap());
        assert!(record.contains(&format!("\"seq\":{seq},")));
        // Another record, another index, another root.
        let text = String::from_utf8(text.stdout).unwrap();
        let index = format!("index {}\n", proof["index"]);
        let forged = [
            text.replacen("extra ", "extra AAAA", 1),
            text.replacen(&index, "index 4294967296\n", 1),
            text.replacen(&format!("\nseq {}", note_seq(&proof)), "\nseq 99999", 1),
        ];
        for forged in forged {
            assert_ne!(forged, text);
            assert!(!check(forged.as_bytes(), key).status.success(), "{forged}");
        }
    }
    let old = write("old.note", first["checkpoint"]["note"].as_str().unwrap().as_bytes());
    let proof = json(&host, &["audit", "prove", "--since", old.to_str().unwrap(), "--dir", dir, "--json"]);
    let new = write("new.note", proof["checkpoint"]["note"].as_str().unwrap().as_bytes());
    assert_eq!(note_seq(&proof), last);
    let key = proof["note_key"].as_str().unwrap();
    let check = |old: &Path, new: &Path, proof: &Path| {
        let mut command = Command::new(&program);
        command.args(["consistency", &origin(&first), key]).args([old, new, proof]).output().unwrap()
    };
    let file = write("proof.json", proof.to_string().as_bytes());
    let checked = check(&old, &new, &file);
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    assert!(!check(&new, &old, &file).status.success(), "a log does not shrink");
    let none = write("none.json", b"{\"proof\":[]}");
    assert!(!check(&old, &new, &none).status.success());
}

fn json(host: &Host, words: &[&str]) -> Value {
    let output = host.hostbadge(words);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The number of the last record that a proof's checkpoint covers.
fn note_seq(proof: &Value) -> u64 {
    let note = proof["checkpoint"]["note"].as_str().unwrap();
    let line = note.lines().find_map(|line| line.strip_prefix("seq ")).unwrap();
    line.parse().unwrap()
}
