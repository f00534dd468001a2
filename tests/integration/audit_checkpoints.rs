//! Checkpoints of the audit log by a real software TPM, and `hostbadge verify audit` on what the daemon wrote.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use crate::common::audit_log::{files, with_event};
use crate::common::machine::Machine;
use crate::common::{Host, append, pause, until_true};
use serde_json::Value;

/// A checkpoint each second while there are records.
const OFTEN: &str = "[audit]\ncheckpoint_every = \"1s\"\n";

fn dir(host: &Host) -> String {
    host.path("audit").to_str().unwrap().to_owned()
}

fn keys(host: &Host) -> String {
    host.path("audit/checkpoint.keys").to_str().unwrap().to_owned()
}

/// `hostbadge verify audit --json` on a directory, with the keys beside the log.
fn verify_dir(host: &Host, dir: &Path, options: &[&str]) -> (bool, Value) {
    let keys = keys(host);
    let words = [&["verify", "audit", dir.to_str().unwrap(), "--ak", &keys, "--json"], options].concat();
    result(host.hostbadge(&words))
}

fn result(output: Output) -> (bool, Value) {
    let text = String::from_utf8_lossy(&output.stdout);
    let value: Value = serde_json::from_str(&text)
        .unwrap_or_else(|e| panic!("{e}: {text}{}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!(value["valid"], output.status.success(), "{value}");
    (output.status.success(), value)
}

/// A host of the template has used its NV index before, for a log that the copies do not have.
fn verify(host: &Host) -> (bool, Value) {
    verify_dir(host, &host.path("audit"), &["--partial"])
}

fn copy_of(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for item in fs::read_dir(dir).unwrap().map(|item| item.unwrap().path()).filter(|path| path.is_file()) {
        fs::copy(&item, copy.path().join(item.file_name().unwrap())).unwrap();
    }
    copy
}

fn covered(host: &Host) -> u64 {
    host.status()["audit"]["checkpoint"]["covered_to"].as_u64().unwrap_or_default()
}

fn last_seq(host: &Host) -> u64 {
    host.status()["audit"]["last"].as_u64().unwrap()
}

/// Requests a token, and waits until a checkpoint covers its record.
fn until_covered(host: &Host) {
    host.token();
    let seq = last_seq(host);
    until_true("a checkpoint covers the last record", || covered(host) >= seq);
}

#[test]
fn the_tpm_certifies_the_log_over_restarts_and_each_forgery_is_named() {
    let mut host = Host::never_started();
    host.agent("root", "user = 0");
    host.configure(OFTEN);
    host.start();
    until_covered(&host);
    host.token();
    assert!(host.stop().success());
    let (valid, first) = verify_dir(&host, &host.path("audit"), &[]);
    assert!(valid, "{first}");
    assert_eq!(first["not_covered"], 0, "the stop has covered everything: {first}");
    assert_eq!(first["report"]["tree_from"], 1);
    let note = host.path("last.note");
    fs::write(&note, first["report"]["note"].as_str().unwrap()).unwrap();
    let old = copy_of(&host.path("audit"));

    host.start();
    until_covered(&host);
    // The Name of the AK alone, as status has it.
    let ak = host.status()["tpm"]["ak_name"].as_str().unwrap().to_owned();
    assert!(host.stop().success());
    let by_name = host.hostbadge(&["verify", "audit", &dir(&host), "--ak", &ak]);
    let text = String::from_utf8_lossy(&by_name.stdout).into_owned();
    assert!(by_name.status.success(), "{text}");
    assert!(text.contains("VALID: the TPM certified these records"), "{text}");
    assert!(!text.contains("the AK is not pinned") && text.contains("the NV index is not pinned"), "{text}");
    let other = host.hostbadge(&["verify", "audit", &dir(&host), "--ak", &"00".repeat(34)]);
    assert_eq!(other.status.code(), Some(1));
    let (valid, report) = verify_dir(&host, &host.path("audit"), &["--known", note.to_str().unwrap()]);
    assert!(valid, "{report}");
    assert!(report["report"]["checkpoints"].as_u64() > first["report"]["checkpoints"].as_u64());
    assert_eq!(report["report"]["findings"], Value::Array(Vec::new()), "{report}");

    // An older copy is found by a checkpoint that was seen.
    fs::write(&note, report["report"]["note"].as_str().unwrap()).unwrap();
    let (valid, rolled_back) = verify_dir(&host, old.path(), &["--known", note.to_str().unwrap()]);
    assert!(!valid);
    assert_eq!(rolled_back["first_bad"]["kind"], "rolled-back", "{rolled_back}");

    let forged = |change: &dyn Fn(&Path, PathBuf)| {
        let copy = copy_of(&host.path("audit"));
        let file = files(copy.path()).remove(0);
        change(copy.path(), file);
        let (valid, report) = verify_dir(&host, copy.path(), &[]);
        assert!(!valid, "{report}");
        report["first_bad"].clone()
    };
    let lines = |path: &Path| -> Vec<String> {
        fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
    };
    let write = |path: &Path, lines: &[String]| {
        fs::write(path, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    };
    let changed = forged(&|_, file| {
        let mut all = lines(&file);
        all[2] = all[2].replace("\"event\":\"", "\"event\":\"x");
        write(&file, &all);
    });
    assert_eq!((changed["kind"].as_str(), changed["record"].as_u64()), (Some("record-changed"), Some(3)));
    assert_eq!(changed["line"], 3);
    let removed = forged(&|_, file| {
        let mut all = lines(&file);
        all.remove(2);
        write(&file, &all);
    });
    assert_eq!(removed["kind"], "record-order", "{removed}");
    let cut = forged(&|_, file| {
        let all = lines(&file);
        write(&file, &all[..all.len() - 1]);
    });
    assert_eq!(cut["kind"], "truncated", "{cut}");
    let without_checkpoint = forged(&|_, file| {
        let path = file.with_extension("checkpoints");
        let mut all = lines(&path);
        let at = all.iter().position(|line| line.contains("\"kind\":\"checkpoint\"")).unwrap();
        all.remove(at);
        write(&path, &all);
    });
    assert_eq!(without_checkpoint["kind"], "checkpoint-gap", "{without_checkpoint}");
    let without_keys = tempfile::tempdir().unwrap();
    let nothing = host.hostbadge(&["verify", "audit", without_keys.path().to_str().unwrap(), "--ak", &ak]);
    assert_eq!(nothing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nothing.stderr).contains("--chain-only"));
}

/// Who forges the log writes the keys beside it as well.
#[test]
fn keys_from_the_log_itself_pin_nothing_and_the_verdict_says_so() {
    let mut host = Host::never_started();
    host.agent("root", "user = 0");
    host.configure(OFTEN);
    host.start();
    until_covered(&host);
    let ak = host.status()["tpm"]["ak_name"].as_str().unwrap().to_owned();
    assert!(host.stop().success());
    let verify = |ak: &str, options: &[&str]| {
        let dir = dir(&host);
        let output = host.hostbadge(&[&["verify", "audit", &dir, "--ak", ak], options].concat());
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let beside = keys(&host);
    let kept = host.path("kept.keys");
    fs::copy(&beside, &kept).unwrap();
    let link = host.path("link.keys");
    std::os::unix::fs::symlink(&beside, &link).unwrap();
    for of_log in [&beside, link.to_str().unwrap()] {
        let (valid, text) = verify(of_log, &[]);
        assert!(valid && text.contains("warning: the AK is not pinned"), "{text}");
        assert!(text.contains("VALID: the AK that the log itself names certified these records"), "{text}");
        let (valid, text) = verify(of_log, &["--strict"]);
        assert!(!valid && text.contains("there are warnings: 2"), "{text}");
        let (_, json) = verify(of_log, &["--json"]);
        let json: Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&json["ak_pinned"], &json["nv_index_pinned"]), (&false.into(), &false.into()));
    }
    let (valid, text) = verify(kept.to_str().unwrap(), &["--strict"]);
    assert!(valid && !text.contains("not pinned"), "{text}");
    let (_, json) = verify(&ak, &["--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["ak_pinned"], &json["nv_index_pinned"]), (&true.into(), &false.into()));
    let nv_name = json["nv_names"][0].as_str().unwrap();
    let (valid, text) = verify(&ak, &["--nv-name", nv_name, "--strict"]);
    assert!(valid && !text.contains("not pinned"), "{text}");
}

#[test]
fn crashes_lose_no_checkpoint_and_fork_nothing() {
    let mut host = Host::new();
    host.agent("root", "user = 0");
    host.configure(OFTEN);
    for round in 0..6_u64 {
        host.start();
        host.token();
        if round == 0 {
            until_true("there is a checkpoint", || covered(&host) > 0);
        }
        // At another moment of the next checkpoint each time.
        pause(Duration::from_millis(900 + 150 * round));
        host.token();
        host.crash();
        if round % 2 == 1 {
            // As after a loss of power.
            let file = files(&host.path("audit")).pop().unwrap();
            append(&file, &vec![0; 700]);
            append(&file.with_extension("checkpoints"), &vec![0; 300]);
        }
    }
    host.start();
    until_covered(&host);
    host.stop();
    let (valid, report) = verify(&host);
    assert!(valid, "{report}");
    assert_eq!(report["not_covered"], 0);
    host.audit();
    let lines = host.audit();
    assert_eq!(with_event(&lines, "audit-torn").len(), 3);
    for event in ["audit-index-changed", "audit-tree-restarted", "audit-gap"] {
        assert!(with_event(&lines, event).is_empty(), "{event}");
    }
}

#[test]
fn an_index_that_was_deleted_is_recorded_and_the_verification_shows_the_break() {
    let mut machine = Machine::new();
    fs::write(machine.host.path("hostbadged.toml"), config_with(&machine, OFTEN)).unwrap();
    machine.start();
    until_covered(&machine.host);
    machine.host.stop();
    let (valid, report) = verify(&machine.host);
    assert!(valid, "{report}");
    let index = nv_index(&machine.host);
    machine.tool("tpm2_nvundefine", &["-C", "o", &format!("{index:#x}")]);
    machine.start();
    until_covered(&machine.host);
    machine.host.stop();
    let lines = machine.host.audit();
    let [changed] = with_event(&lines, "audit-index-changed")[..] else { panic!("one event") };
    assert!(changed["detail"].as_str().unwrap().contains("was deleted"), "{changed}");
    let (valid, report) = verify(&machine.host);
    assert!(!valid);
    assert_eq!(report["first_bad"]["kind"], "checkpoint-gap", "{report}");
    assert!(report["first_bad"]["message"].as_str().unwrap().contains("defined again"), "{report}");
}

#[test]
fn a_tpm_that_is_stalled_or_absent_delays_checkpoints_and_stops_nothing() {
    let mut machine = Machine::new();
    fs::write(machine.host.path("hostbadged.toml"), config_with(&machine, OFTEN)).unwrap();
    machine.start();
    until_covered(&machine.host);
    let problem = |machine: &Machine| machine.host.status()["audit"]["checkpoint"]["problem"].clone();
    assert_eq!(problem(&machine), Value::Null);
    machine.pause_tpm();
    machine.until_tpm_state("busy");
    for _ in 0..20 {
        machine.host.token();
    }
    until_true("status names the problem", || problem(&machine).is_string());
    machine.resume_tpm();
    machine.until_healthy();
    until_covered(&machine.host);
    assert_eq!(problem(&machine), Value::Null);
    machine.kill_tpm();
    machine.until_tpm_state("absent");
    machine.host.token();
    until_true("status names the problem", || problem(&machine).is_string());
    // After 20 s it is recorded.
    until_true("it is recorded", || machine.host.audit_text().contains("audit-checkpoints-delayed"));
    machine.restart_tpm();
    machine.until_healthy();
    until_covered(&machine.host);
    assert!(machine.host.audit_text().contains("audit-checkpoints-resumed"));
    machine.host.stop();
    let (valid, report) = verify(&machine.host);
    assert!(valid, "{report}");
    assert_eq!(report["not_covered"], 0, "{report}");
}

/// Without checkpoint.json, checkpoint.keys says which NV index the log uses: one that cannot be read is no empty one.
#[test]
fn keys_that_cannot_be_read_delay_checkpoints_and_take_no_new_index() {
    let mut host = Host::new();
    host.agent("root", "user = 0");
    host.configure(OFTEN);
    host.start();
    until_covered(&host);
    host.stop();
    let (path, state_file) = (host.path("audit/checkpoint.keys"), host.path("state/checkpoint.json"));
    let index = nv_index(&host);
    let whole = fs::read(&path).unwrap();
    let kept = host.path("kept.keys");
    fs::rename(&path, &kept).unwrap();
    let damages: [&dyn Fn(); 2] = [&|| std::os::unix::fs::symlink(&kept, &path).unwrap(), &|| {
        fs::write(&path, [b"{\"v\":1}\n", whole.as_slice()].concat()).unwrap()
    }];
    for damage in damages {
        let _ = fs::remove_file(&state_file);
        damage();
        host.start();
        host.token();
        let problem = || host.status()["audit"]["checkpoint"]["problem"].clone();
        until_true("status names the file", || problem().to_string().contains("checkpoint.keys"));
        host.stop();
        fs::remove_file(&path).unwrap();
        assert!(!state_file.exists());
    }
    fs::rename(&kept, &path).unwrap();
    host.start();
    until_covered(&host);
    host.stop();
    assert_eq!(nv_index(&host), index);
    assert_eq!(fs::read(&path).unwrap(), whole);
    let (valid, report) = verify(&host);
    assert!(valid, "{report}");
}

/// The NV index has what the checkpoint was for, and its place is gone: it cannot be completed, and is not tried for
/// ever.
#[test]
fn a_checkpoint_whose_file_was_removed_is_dropped_with_a_record() {
    let mut machine = Machine::new();
    fs::write(machine.host.path("hostbadged.toml"), config_with(&machine, OFTEN)).unwrap();
    machine.start();
    until_covered(&machine.host);
    machine.host.stop();
    let digest = [7; 32];
    let data = machine.host.path("digest");
    fs::write(&data, digest).unwrap();
    let index = format!("{:#x}", nv_index(&machine.host));
    machine.tool("tpm2_nvextend", &["-C", "o", "-i", data.to_str().unwrap(), &index]);
    let removed = format!("{:020}.jsonl", 1_u64 << 40);
    change_state(&machine.host, |state| {
        state["pending"] = serde_json::json!({
            "note": "x", "digest": data_encoding::HEXLOWER.encode(&digest),
            "before": { "attest": "AAAA", "signature": "AAAA" },
            "file": removed, "log": state["log"], "seq": state["seq"], "at": state["at"],
        });
    });
    machine.start();
    until_covered(&machine.host);
    machine.host.stop();
    let lines = machine.host.audit();
    let [dropped] = with_event(&lines, "audit-index-changed")[..] else { panic!("one event") };
    let detail = dropped["detail"].as_str().unwrap();
    assert!(detail.contains("which is dropped") && detail.contains(&removed), "{detail}");
    let beside = machine.host.path("audit").join(&removed).with_extension("checkpoints");
    assert!(!beside.exists(), "nothing is written beside a file that is not there");
    // The verification shows that the index has moved.
    let (valid, report) = verify(&machine.host);
    assert!(!valid);
    assert_eq!(report["first_bad"]["kind"], "checkpoint-gap", "{report}");
}

/// A crash after TPM2_NV_DefineSpace: the index is in the TPM, and was never extended.
#[test]
fn an_index_whose_creation_was_interrupted_is_used_and_no_other_is_taken() {
    let mut machine = Machine::new();
    fs::write(machine.host.path("hostbadged.toml"), config_with(&machine, OFTEN)).unwrap();
    machine.start();
    until_covered(&machine.host);
    machine.host.stop();
    let index = nv_index(&machine.host);
    let handle = format!("{index:#x}");
    let count = |machine: &Machine| machine.tool("tpm2_getcap", &["handles-nv-index"]).lines().count();
    let before = count(&machine);
    machine.tool("tpm2_nvundefine", &["-C", "o", &handle]);
    let attributes = "nt=extend|ownerread|ownerwrite|no_da";
    machine.tool("tpm2_nvdefine", &["-C", "o", "-s", "32", "-a", attributes, &handle]);
    change_state(&machine.host, |state| {
        state["creation"] = serde_json::json!({ "is_first": false, "message": "as before the crash" });
    });
    machine.start();
    until_covered(&machine.host);
    machine.host.stop();
    assert_eq!((nv_index(&machine.host), count(&machine)), (index, before));
    let lines = machine.host.audit();
    let [created] = with_event(&lines, "audit-index-changed")[..] else { panic!("one event") };
    assert!(
        created["detail"].as_str().unwrap().contains("as before the crash, in the NV index"),
        "{created}"
    );
}

/// Changes `checkpoint.json` of a daemon that does not run.
fn change_state(host: &Host, change: impl FnOnce(&mut Value)) {
    let path = host.path("state/checkpoint.json");
    let mut state: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut state);
    fs::write(&path, state.to_string()).unwrap();
}

/// The NV index of the checkpoints, as `checkpoint.json` has it.
fn nv_index(host: &Host) -> u64 {
    let state: Value =
        serde_json::from_slice(&fs::read(host.path("state/checkpoint.json")).unwrap()).unwrap();
    state["nv_index"].as_u64().unwrap()
}

/// The configuration of a machine with further keys.
fn config_with(machine: &Machine, toml: &str) -> String {
    let path = machine.host.start.config.clone().unwrap();
    format!("{}\n{toml}", fs::read_to_string(path).unwrap())
}

#[test]
fn a_log_of_an_earlier_release_goes_on_with_checkpoints() {
    let mut host = Host::new();
    host.agent("root", "user = 0");
    host.configure("[audit]\ncheckpoints = false\n");
    host.start();
    host.token();
    host.stop();
    // As an earlier release leaves it.
    for path in files(&host.path("audit")) {
        fs::remove_file(path.with_extension("checkpoints")).unwrap();
    }
    assert!(!host.path("audit/checkpoint.keys").exists());
    let before = host.audit().len() as u64;
    let chain = host.hostbadge(&["verify", "audit", &dir(&host), "--chain-only"]);
    let text = String::from_utf8_lossy(&chain.stdout).into_owned();
    assert!(chain.status.success() && text.contains("covered by their chain alone"), "{text}");
    assert!(text.contains("who can write to the directory can forge it"), "{text}");

    host.configure(OFTEN);
    host.start();
    until_covered(&host);
    host.stop();
    let (valid, report) = verify(&host);
    assert!(valid, "{report}");
    assert_eq!(report["report"]["tree_from"], before + 1, "{report}");
    assert_eq!(report["report"]["first_record"], 1);
    let early = host.hostbadge(&["audit", "prove", "1", "--dir", &dir(&host)]);
    assert_eq!(early.status.code(), Some(1));
    let late = host.hostbadge(&["audit", "prove", &(before + 1).to_string(), "--dir", &dir(&host), "--json"]);
    assert!(late.status.success(), "{}", String::from_utf8_lossy(&late.stderr));
    let proof: Value = serde_json::from_slice(&late.stdout).unwrap();
    assert_eq!(proof["index"], 0);
}
