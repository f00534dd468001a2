//! State at rest: rollback detection, sealing to PCRs, and recovery by the recovery key.

use std::fs;
use std::process::Command;

use crate::common::http::part;
use crate::common::{API, Host, template, until, until_true};
use serde_json::{Value, json};

const PCRS: &str = "[seal]\npcrs = [0, 7, 12]\n";

#[track_caller]
fn done(host: &Host, words: &[&str], typed: &str) -> String {
    let output = host.hostbadge_with(words, typed);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn refused(host: &Host, words: &[&str], typed: &str) -> String {
    let output = host.hostbadge_with(words, typed);
    assert_eq!(output.status.code(), Some(1), "{words:?}: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).unwrap()
}

fn blocked_reason(host: &Host) -> String {
    host.status()["issuer_blocked_reason"].as_str().unwrap_or_default().to_owned()
}

fn issues(host: &Host) -> bool {
    host.post("/v1/token", json!({ "audience": API })).status == 200
}

fn kid(host: &Host) -> String {
    part(&host.token(), 0)["kid"].as_str().unwrap().to_owned()
}

fn host() -> Host {
    let host = Host::new();
    host.agent("root", "user = 0");
    host
}

fn event(host: &Host, name: &str) -> Value {
    until(&format!("{name} is recorded"), || host.audit().into_iter().find(|line| line["event"] == name))
}

/// Extends a PCR of the host's TPM, as other boot software would have.
fn extend(host: &Host, pcr: u8) {
    let port = swtpm_port(host);
    let what = format!("{pcr}:sha256={}", "cd".repeat(32));
    let tool = Command::new("tpm2_pcrextend")
        .args([&what, "-T", &format!("swtpm:host=127.0.0.1,port={port}")])
        .output()
        .unwrap();
    assert!(tool.status.success(), "{}", String::from_utf8_lossy(&tool.stderr));
}

/// The port in the command line of swtpm.
fn swtpm_port(host: &Host) -> u16 {
    let line = fs::read(format!("/proc/{}/cmdline", host.swtpm())).unwrap();
    let line = String::from_utf8_lossy(&line).replace('\0', " ");
    let port = line.split("--server").nth(1).and_then(|rest| rest.split("port=").nth(1)).unwrap();
    port.split([',', ' ']).next().unwrap().parse().unwrap()
}

#[test]
fn an_older_copy_of_the_state_is_refused_until_an_administrator_accepts_it() {
    let mut host = host();
    host.start();
    let first = kid(&host);
    assert!(host.stop().success());
    let old = host.path("old");
    template::copy(&host.path("state"), &old);

    host.start();
    done(&host, &["key", "rotate", "--now"], "");
    let second = kid(&host);
    assert!(host.stop().success());
    let latest = host.path("latest");
    template::copy(&host.path("state"), &latest);

    let put = |host: &Host, copy: &std::path::Path| {
        fs::remove_dir_all(host.path("state")).unwrap();
        template::copy(copy, &host.path("state"));
        fs::set_permissions(host.path("state"), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    };
    put(&host, &old);
    host.start();
    let said = blocked_reason(&host);
    assert!(said.contains("not the latest of this host") && said.contains("hostbadge key accept"), "{said}");
    assert!(!issues(&host));
    assert_eq!(host.status()["status"], "degraded");
    assert!(host.stop().success());

    // One file of the old copy, a missing ledger, a ledger of another host, a changed ledger.
    put(&host, &latest);
    fs::copy(old.join("issuing.json"), host.path("state/issuing.json")).unwrap();
    host.start();
    assert!(
        blocked_reason(&host).contains("issuing.json is not what this host wrote last"),
        "{}",
        blocked_reason(&host)
    );
    assert!(!issues(&host));
    assert!(host.stop().success());
    put(&host, &latest);
    fs::remove_file(host.path("state/ledger.json")).unwrap();
    host.start();
    assert!(blocked_reason(&host).contains("ledger.json is missing"), "{}", blocked_reason(&host));
    assert!(host.stop().success());
    put(&host, &latest);
    fs::copy(Host::other().path("state/ledger.json"), host.path("state/ledger.json")).unwrap();
    host.start();
    assert!(
        blocked_reason(&host).contains("ledger.json: is another host's or was changed"),
        "{}",
        blocked_reason(&host)
    );
    assert!(host.stop().success());
    put(&host, &latest);
    let text = fs::read_to_string(host.path("state/ledger.json")).unwrap();
    let mut ledger: Value = serde_json::from_str(&text).unwrap();
    ledger["entry"]["generation"] = json!(ledger["entry"]["generation"].as_u64().unwrap() + 1);
    fs::write(host.path("state/ledger.json"), ledger.to_string()).unwrap();
    host.start();
    assert!(blocked_reason(&host).contains("ledger.json: was changed"), "{}", blocked_reason(&host));
    assert!(host.stop().success());

    // The latest copy is accepted.
    put(&host, &latest);
    host.start();
    assert_eq!(kid(&host), second);
    assert!(refused(&host, &["key", "accept"], "").contains("the keys of this host are open"));
    assert!(host.stop().success());

    // `key accept` makes the older copy the latest.
    put(&host, &old);
    host.start();
    done(&host, &["key", "accept"], "");
    until_true("it issues again", || issues(&host));
    assert_eq!(kid(&host), first);
    event(&host, "state-accepted");
    assert!(host.stop().success());
    host.start();
    assert_eq!(kid(&host), first);
    assert!(host.stop().success());
    put(&host, &latest);
    host.start();
    assert!(
        blocked_reason(&host).contains("not the latest"),
        "the accepted copy is the latest: {}",
        blocked_reason(&host)
    );
}

#[test]
fn keys_sealed_to_pcrs_open_after_a_pcr_change_only_with_the_recovery_key() {
    let mut host = host();
    host.configure(PCRS);
    host.start();
    // Nothing is sealed to PCRs before there is a recovery key.
    assert_eq!(host.status()["seal"], json!({ "pcrs": [], "pending_pcrs": [0, 7, 12], "recovery": null }));
    let first = kid(&host);
    extend(&host, 12);
    let lost = done(&host, &["key", "recovery"], "");
    let key = done(&host, &["key", "recovery"], "");
    assert!(key.starts_with("hbr1-") && key != lost, "{key}");
    until_true("the keys are sealed to PCRs", || host.status()["seal"]["pcrs"] == json!([0, 7, 12]));
    let seal = host.status()["seal"].clone();
    assert!(seal["recovery"].is_string() && seal["pending_pcrs"].is_null(), "{seal}");
    event(&host, "recovery-key-created");
    for place in ["audit", "state"] {
        let found = Command::new("grep").args(["-r", key.trim()]).arg(host.path(place)).output().unwrap();
        assert_eq!(found.status.code(), Some(1), "the recovery key is in {place}");
    }

    // The keys are in memory, so tokens are issued. Operations that need the sealed key again wait and report
    // why.
    extend(&host, 12);
    assert!(issues(&host));
    let waits = host.hostbadge_with(&["key", "rotate"], "");
    assert_eq!(waits.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&waits.stderr).contains("PCR 12 changed"), "{waits:?}");
    // The next boot: a development host's PCRs start at zero.
    assert!(host.stop().success());
    host.start();
    let said = blocked_reason(&host);
    assert!(said.contains("PCR 12 changed") && said.contains("--recovery"), "{said}");
    assert!(said.contains("changed from") && said.contains("no boot event log"), "{said}");
    assert!(!issues(&host));
    for (typed, wanted) in [
        (lost.as_str(), "not the current recovery key of this host"),
        ("hbr1-aaaaaaa", "this is not a recovery key"),
        ("", "standard input is empty"),
    ] {
        let said = refused(&host, &["key", "recover"], typed);
        assert!(said.contains(wanted), "{said}");
        assert!(!said.contains("aaaaaaa"), "{said}");
    }
    assert!(!issues(&host));
    let accepted = done(&host, &["posture", "accept", "--recovery", "--json"], &key.to_uppercase());
    let accepted: Value = serde_json::from_str(&accepted).unwrap();
    assert!(accepted["baseline"]["accepted"]["by"].is_string(), "{accepted}");
    until_true("it issues again", || issues(&host));
    assert_eq!(kid(&host), first, "the same data");
    assert_eq!(host.status()["seal"]["pcrs"], json!([0, 7, 12]));
    event(&host, "state-recovered");
    done(&host, &["key", "rotate", "--now"], "");
    assert!(host.stop().success());
    host.start();
    assert!(issues(&host), "{}", blocked_reason(&host));

    // Without configured PCRs the keys are sealed without PCRs again.
    assert!(host.stop().success());
    host.configure("");
    host.start();
    until_true("the keys are sealed without PCRs", || host.status()["seal"]["pcrs"] == json!([]));
    extend(&host, 12);
    done(&host, &["key", "rotate", "--now"], "");
    assert!(issues(&host), "{}", blocked_reason(&host));
}

/// Makes replacing a state file fail, as a full disk does: its temporary names are directories.
fn block(host: &Host, name: &str) {
    temporary_names(host, name).for_each(|path| fs::create_dir(path).unwrap());
}

fn unblock(host: &Host, name: &str) {
    temporary_names(host, name).for_each(|path| fs::remove_dir(path).unwrap());
}

fn temporary_names(host: &Host, name: &str) -> impl Iterator<Item = std::path::PathBuf> {
    (0..16).map(move |n| host.path(&format!("state/{name}.{n}.tmp")))
}

fn counters(host: &Host) -> usize {
    let port = swtpm_port(host);
    let tool = Command::new("tpm2_getcap")
        .args(["handles-nv-index", "-T", &format!("swtpm:host=127.0.0.1,port={port}")])
        .output()
        .unwrap();
    String::from_utf8(tool.stdout).unwrap().matches("0x180486").count()
}

fn state(host: &Host, name: &str) -> Value {
    serde_json::from_slice(&fs::read(host.path(&format!("state/{name}"))).unwrap()).unwrap()
}

#[test]
fn missing_state_files_do_not_reset_the_host() {
    let mut host = host();
    for gone in [&["ledger.json", "issuing.json"][..], &["ledger.json", "issuing.json", "baseline.json"]] {
        let latest = host.path(&format!("latest-{}", gone.len()));
        template::copy(&host.path("state"), &latest);
        for name in gone {
            let _ = fs::remove_file(host.path("state").join(name));
        }
        host.start();
        assert!(
            blocked_reason(&host).contains("ledger.json is missing"),
            "{gone:?}: {}",
            blocked_reason(&host)
        );
        assert!(!issues(&host));
        assert!(host.stop().success());
        fs::remove_dir_all(host.path("state")).unwrap();
        template::copy(&latest, &host.path("state"));
    }
    host.start();
    assert!(issues(&host), "{}", blocked_reason(&host));
}

/// A process with access to the TPM can seal a key of its own, and present the real one as the previous key.
#[test]
fn a_key_sealed_by_another_process_is_refused() {
    let mut host = host();
    host.start();
    done(&host, &["key", "recovery"], "");
    assert!(host.stop().success());
    let mut seal = state(&host, "seal.json");
    // A key that this TPM opens: the one from provisioning.
    let tpm = state(&host, "tpm.json");
    let planted = tpm["objects"]["kek"].clone();
    let mut kek = json!({ "made": 0, "public": planted["public"], "private": planted["private"] });
    for link in [None, Some(seal["kek"]["private"].clone())] {
        if let Some(link) = link {
            kek["link"] = link;
        }
        seal["previous"] = state(&host, "seal.json")["kek"].clone();
        seal["kek"] = kek.clone();
        let whole = fs::read(host.path("state/seal.json")).unwrap();
        fs::write(host.path("state/seal.json"), seal.to_string()).unwrap();
        host.start();
        assert!(
            blocked_reason(&host).contains("a key that this host did not make"),
            "{}",
            blocked_reason(&host)
        );
        assert_eq!(host.hostbadge_with(&["key", "accept"], "").status.code(), Some(1));
        assert!(!issues(&host));
        assert!(host.stop().success());
        fs::write(host.path("state/seal.json"), whole).unwrap();
    }
    host.start();
    assert!(issues(&host), "{}", blocked_reason(&host));
}

#[test]
fn a_failed_write_does_not_advance_the_generation() {
    let mut host = host();
    host.start();
    let before = state(&host, "ledger.json")["entry"]["generation"].clone();
    block(&host, "ledger.json");
    let waits = host.hostbadge_with(&["posture", "accept"], "");
    assert!(!waits.status.success(), "{waits:?}");
    // A rotation raises the counter, which waits for the ledger.
    let _ = host.hostbadge_with(&["key", "rotate"], "");
    host.crash();
    unblock(&host, "ledger.json");
    assert_eq!(state(&host, "ledger.json")["entry"]["generation"], before);
    host.start();
    assert!(issues(&host), "{}", blocked_reason(&host));
}

#[test]
fn a_full_disk_at_the_first_start_uses_one_nv_counter() {
    let mut host = Host::never_started();
    host.agent("root", "user = 0");
    fs::create_dir_all(host.path("state")).unwrap();
    fs::set_permissions(host.path("state"), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    block(&host, "ledger.json");
    host.launch();
    until_true("status has the problem", || blocked_reason(&host).contains("ledger.json"));
    for _ in 0..3 {
        assert_eq!(host.hostbadge_with(&["key", "accept"], "").status.code(), Some(4));
    }
    assert!(counters(&host) <= 1);
    unblock(&host, "ledger.json");
    until_true("it issues", || issues(&host));
    assert_eq!(counters(&host), 1);
}

#[test]
fn a_pcr_change_together_with_an_older_copy_can_be_recovered() {
    let mut host = host();
    host.configure(PCRS);
    host.start();
    extend(&host, 12);
    let key = done(&host, &["key", "recovery"], "");
    assert!(host.stop().success());
    let old = host.path("old");
    template::copy(&host.path("state"), &old);
    // The next boot has other PCRs. The state is recovered, and then lost.
    host.start();
    done(&host, &["key", "recover"], &key);
    until_true("it issues", || issues(&host));
    assert!(host.stop().success());
    fs::remove_dir_all(host.path("state")).unwrap();
    template::copy(&old, &host.path("state"));
    host.start();
    assert!(blocked_reason(&host).contains("PCR 12 changed"), "{}", blocked_reason(&host));
    let said = refused(&host, &["key", "recover"], &key);
    assert!(said.contains("hostbadge key recover --accept"), "{said}");
    assert!(!issues(&host));
    done(&host, &["key", "recover", "--accept"], &key);
    until_true("it issues", || issues(&host));
    assert!(host.stop().success());
    host.start();
    assert!(issues(&host), "{}", blocked_reason(&host));
}

#[test]
fn an_interrupted_change_of_the_key_encryption_key_is_reported_and_finished() {
    let mut host = host();
    host.configure(PCRS);
    host.start();
    block(&host, "issuing.json");
    done(&host, &["key", "recovery"], "");
    assert_eq!(host.status()["seal"]["pcrs"], json!([]), "the issuing key is not sealed to PCRs yet");
    assert_eq!(host.status()["seal"]["pending_pcrs"], json!([0, 7, 12]));
    unblock(&host, "issuing.json");
    assert!(host.stop().success());
    host.start();
    until_true("the change is finished", || host.status()["seal"]["pcrs"] == json!([0, 7, 12]));
    assert!(state(&host, "seal.json")["previous"].is_null());
    assert!(issues(&host));
}

/// An older recovery key with an older copy of seal.json.
#[test]
fn an_older_recovery_key_does_not_open_the_current_state() {
    let mut host = host();
    host.start();
    let old_key = done(&host, &["key", "recovery"], "");
    assert!(host.stop().success());
    let old = fs::read(host.path("state/seal.json")).unwrap();
    host.start();
    done(&host, &["key", "recovery"], "");
    assert!(host.stop().success());
    fs::write(host.path("state/seal.json"), old).unwrap();
    host.start();
    assert!(!issues(&host));
    // The older seal.json is accepted, but its key does not decrypt the state.
    let _ = host.hostbadge_with(&["key", "recover", "--accept"], &old_key);
    until_true("status has the problem", || blocked_reason(&host).contains("issuing.json: does not open"));
}

#[test]
fn the_recovery_key_moves_a_host_to_another_tpm() {
    let mut host = host();
    host.configure("trust_domain = \"example.org\"\n");
    host.start();
    let key = done(&host, &["key", "recovery"], "");
    let token = host.token();
    let before = host.status();
    done(&host, &["key", "rotate", "--now"], "");
    let second = kid(&host);
    assert!(host.stop().success());

    // Another machine with the same disk.
    fs::remove_dir_all(host.path("tpm")).unwrap();
    template::copy(&Host::other().path("tpm"), &host.path("tpm"));
    host.start();
    assert_eq!(host.status()["tpm"]["state"], "replaced");
    assert!(!issues(&host));
    let elsewhere = Host::started();
    let other = done(&elsewhere, &["key", "recovery"], "");
    assert!(
        refused(&host, &["key", "recover"], &other).contains("not the current recovery key of this host")
    );
    assert_eq!(host.status()["tpm"]["state"], "replaced");
    assert!(!issues(&host));

    done(&host, &["key", "recover"], &key);
    until_true("it issues again", || issues(&host));
    let after = host.status();
    assert_ne!(after["host"]["id"], before["host"]["id"]);
    assert_eq!(after["tpm"]["state"], "ready");
    assert_eq!(kid(&host), second, "relying parties need no new key set");
    assert_eq!(host.introspect(&token)["active"], json!(false), "the host ID is in the agent's subject");
    assert!(host.path("state/tpm.json.replaced").exists());
    for _ in 0..2 {
        done(&host, &["key", "rotate", "--now"], "");
        assert!(host.stop().success());
        host.start();
        assert!(issues(&host), "{}", blocked_reason(&host));
    }
}

#[test]
fn the_recovery_key_opens_after_the_tpm_was_cleared() {
    let mut host = host();
    host.start();
    let key = done(&host, &["key", "recovery"], "");
    let (token, id) = (host.token(), host.status()["host"]["id"].clone());
    let port = swtpm_port(&host);
    let tool = Command::new("tpm2_clear")
        .args(["-c", "p", "-T", &format!("swtpm:host=127.0.0.1,port={port}")])
        .output()
        .unwrap();
    assert!(tool.status.success(), "{}", String::from_utf8_lossy(&tool.stderr));
    assert!(host.stop().success());
    host.start();
    assert_eq!(host.status()["tpm"]["state"], "cleared");
    assert!(!issues(&host));
    done(&host, &["key", "recover"], &key);
    until_true("it issues again", || issues(&host));
    assert_eq!(host.status()["host"]["id"], id, "the EK is the same, so the host is");
    assert_eq!(host.introspect(&token)["active"], true, "earlier tokens stay valid");
    assert!(host.stop().success());
    host.start();
    assert!(issues(&host), "{}", blocked_reason(&host));
}
