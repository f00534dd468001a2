//! Each state of the TPM, reached by its real cause: it is in status, health and journal, tokens are issued
//! from memory where that is safe, and the daemon recovers without a restart when the cause ends.

use std::fs;
use std::time::Duration;

use crate::common::http::part;
use crate::common::machine::Machine;
use crate::common::proxy::{Fault, port};
use crate::common::{self, Host, until_true};
use hostbadge::tpm::SoftwareTpm;
use serde_json::{Value, json};

const CC_CREATE_PRIMARY: u32 = 0x131;
const CC_LOAD: u32 = 0x157;
/// "a nonce of 18 bytes"
const NONCE: &str = "YSBub25jZSBvZiAxOCBieXRlcw";

fn detail(status: &Value) -> &str {
    status["tpm"]["detail"].as_str().unwrap()
}

fn kid(token: &str) -> String {
    part(token, 0)["kid"].as_str().unwrap().to_owned()
}

#[test]
fn a_stalled_tpm_is_busy() {
    let mut machine = Machine::with_journal();
    machine.start();
    machine.pause_tpm();
    let status = machine.until_tpm_state("busy");
    assert!(detail(&status).contains("no response for 1000 ms"), "{status}");
    assert!(!machine.host.token().is_empty());
    machine.resume_tpm();
    machine.until_healthy();
    machine.until_journaled("the TPM is ready");
}

#[test]
fn a_dead_tpm_is_absent() {
    let mut machine = Machine::with_journal();
    machine.start();
    machine.kill_tpm();
    machine.until_tpm_state("absent");
    assert!(!machine.host.token().is_empty());
    machine.restart_tpm();
    machine.until_healthy();
    assert_eq!(machine.loaded_handles()[0], 1, "the SRK");
}

#[test]
fn a_reset_tpm_is_reconnected() {
    let mut machine = Machine::with_journal();
    machine.start();
    machine.power_cycle();
    // A command that is in progress loses its connection instead, and the daemon reconnects without that state.
    machine.until_journaled_any(&["the TPM is reset", "the connection to the TPM failed"]);
    machine.until_healthy();
    // The startup fails for a while.
    machine.proxy.inject(CC_CREATE_PRIMARY, Fault::Answer(0x100), 1000);
    machine.power_cycle();
    machine.until_tpm_state("reset");
    assert!(!machine.host.token().is_empty());
    machine.proxy.clear_faults();
    machine.until_healthy();
}

/// Another program used wrong passwords. The daemon's keys have no password, so it works also after a
/// restart.
#[test]
fn too_many_wrong_passwords_are_a_lockout() {
    let mut machine = Machine::with_journal();
    machine.start();
    lock_out(&machine);
    let status = machine.until_tpm_state("lockout");
    assert!(detail(&status).contains("too many failed authorizations"), "{status}");
    let kid_before = kid(&machine.host.token());
    assert_eq!(machine.host.admin().post("/v1/keys/rotate", &json!({ "now": true })).status, 200);
    assert_ne!(kid(&machine.host.token()), kid_before);
    assert_eq!(machine.host.post("/v1/attest", json!({ "nonce": NONCE })).status, 200);

    assert!(machine.host.stop().success());
    machine.launch();
    until_true("it serves", || machine.host.status()["issuer_blocked_reason"].is_null());
    machine.until_tpm_state("lockout");
    assert!(!machine.host.token().is_empty());
    machine.tool("tpm2_dictionarylockout", &["-c"]);
    machine.until_healthy();
}

fn lock_out(machine: &Machine) {
    let index = "0x1500001";
    machine.tool("tpm2_nvdefine", &[index, "-C", "o", "-s", "8", "-p", "right", "-a", "authread|authwrite"]);
    for _ in 0..4 {
        assert!(!machine.command("tpm2_nvread", &[index, "-P", "wrong"]).output().unwrap().status.success());
    }
}

/// Reported while everything works, since the daemon fails after the next boot.
#[test]
fn an_owner_password_is_reported_before_and_after_it_matters() {
    for (hierarchy, letter) in [("owner", "o"), ("endorsement", "e")] {
        let mut machine = Machine::with_journal();
        machine.start();
        machine.tool("tpm2_changeauth", &["-c", letter, "secret"]);
        let status = machine.until_tpm_state("owner-auth");
        assert!(
            detail(&status).contains(&format!("a password was set for the {hierarchy} hierarchy")),
            "{status}"
        );
        assert!(!machine.host.token().is_empty());
        assert_eq!(machine.host.post("/v1/attest", json!({ "nonce": NONCE })).status, 200);

        machine.power_cycle();
        until_true("the daemon cannot connect", || {
            detail(&machine.host.status()).contains(&format!("in the {hierarchy} hierarchy"))
        });
        machine.until_tpm_state("owner-auth");
        assert!(!machine.host.token().is_empty(), "from memory");
        assert_eq!(machine.host.post("/v1/attest", json!({ "nonce": NONCE })).status, 503);

        assert!(machine.host.stop().success());
        machine.launch();
        machine.until_tpm_state("owner-auth");
        assert!(machine.token_error().contains("tpm2_changeauth"), "{}", machine.token_error());
        // The daemon connects again and again, and then flushes sessions: also that of the tool, after the change.
        let _ = machine.command("tpm2_changeauth", &["-c", letter, "-p", "secret"]).output().unwrap();
        machine.until_healthy();
    }
}

/// The host ID stays the same. Keys in memory are used until the daemon exits.
#[test]
fn after_a_cleared_tpm_a_restart_cannot_issue() {
    let mut machine = Machine::with_journal();
    machine.start();
    let host = machine.host.status()["host"]["id"].as_str().unwrap().to_owned();
    let before = machine.host.token();
    machine.tool("tpm2_clear", &["-c", "p"]);
    let status = machine.until_tpm_state("cleared");
    assert!(detail(&status).contains(&host) && detail(&status).contains("its SRK is new"), "{status}");
    assert_eq!(kid(&machine.host.token()), kid(&before));
    assert_eq!(machine.host.post("/v1/attest", json!({ "nonce": NONCE })).status, 503);
    assert_eq!(machine.host.admin().post("/v1/keys/rotate", &json!({ "now": true })).status, 503);

    assert!(machine.host.stop().success());
    machine.launch();
    machine.until_tpm_state("cleared");
    let why = machine.token_error();
    assert!(why.contains("which destroyed its keys") && why.contains(&host), "{why}");
    assert_eq!(machine.host.get("/.well-known/jwks.json").status, 503);

    // The fix that the message gives.
    assert!(machine.host.stop().success());
    fs::rename(machine.host.path("state"), machine.host.path("state.old")).unwrap();
    machine.start();
    assert_eq!(machine.host.status()["host"]["id"], host, "the EK is the same");
    assert_ne!(kid(&machine.host.token()), kid(&before));
}

/// The keys in memory belong to the host of the first TPM.
#[test]
fn a_replaced_tpm_stops_issuance_until_the_first_is_back() {
    let mut machine = Machine::with_journal();
    machine.start();
    let ours = machine.host.status()["host"]["id"].as_str().unwrap().to_owned();
    let before = machine.host.token();
    let other = Host::other();
    let mut other_tpm = SoftwareTpm::start(&other.path("tpm")).unwrap();
    machine.proxy.switch_to(port(&other_tpm));
    let status = machine.until_tpm_state("replaced");
    let theirs = detail(&status).split_whitespace().last().unwrap().to_owned();
    assert!(theirs.len() == 26 && theirs != ours && detail(&status).contains(&ours), "{status}");
    assert_serves_nothing(&machine, &ours, &theirs);
    machine.until_journaled(&format!("the stored keys belong to host {ours}"));

    // Also while the other TPM is dead.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(other_tpm.pid() as i32), nix::sys::signal::SIGKILL)
        .unwrap();
    machine.until_tpm_state("absent");
    assert_eq!(machine.host.get("/.well-known/jwks.json").status, 503);
    machine.token_error();
    until_true("the other TPM is restarted", || other_tpm.ensure_running().unwrap());
    machine.until_tpm_state("replaced");

    machine.proxy.switch_to(port(&machine.tpm));
    machine.until_healthy();
    assert_eq!(kid(&machine.host.token()), kid(&before));
    assert_eq!(machine.host.introspect(&before)["active"], true);
}

#[track_caller]
fn assert_serves_nothing(machine: &Machine, ours: &str, theirs: &str) {
    let why = machine.token_error();
    for said in [ours, theirs, "put the previous TPM back", "enroll"] {
        assert!(why.contains(said), "{said}: {why}");
    }
    assert_eq!(machine.host.post("/v1/attest", json!({ "nonce": NONCE })).status, 503);
    assert_eq!(machine.host.get("/.well-known/jwks.json").status, 503);
    assert_eq!(machine.host.admin().post("/v1/keys/rotate", &json!({ "now": true })).status, 503);
    let people = machine.host.hostbadge(&["status"]);
    let people = String::from_utf8_lossy(&people.stdout).into_owned();
    assert!(people.contains(ours) && people.contains(theirs) && people.contains("fix: "), "{people}");
}

/// A copied or moved disk.
#[test]
fn a_state_directory_of_another_tpm_is_refused_with_both_host_ids() {
    let [ours, theirs] = [Host::new(), Host::other()].map(|host| {
        let mut machine = Machine::with_host(host);
        machine.start();
        let id = machine.host.status()["host"]["id"].as_str().unwrap().to_owned();
        assert!(machine.host.stop().success());
        id
    });
    let copied = Host::new();
    let other = Host::other();
    fs::remove_dir_all(copied.path("tpm")).unwrap();
    common::template::copy(&other.path("tpm"), &copied.path("tpm"));
    let mut machine = Machine::with_host(copied);
    machine.launch();
    let status = machine.until_tpm_state("replaced");
    assert!(detail(&status).contains(&ours) && detail(&status).contains(&theirs), "{status}");
    assert_serves_nothing(&machine, &ours, &theirs);
}

/// As for a TPM that fails later: degraded, reported, and healthy when the cause ends.
#[test]
fn a_start_without_a_tpm_is_ready_and_degraded() {
    let mut machine = Machine::with_journal();
    machine.kill_tpm();
    machine.launch();
    machine.until_ready();
    machine.until_tpm_state("absent");
    assert!(machine.token_error().contains("the TPM is absent"), "{}", machine.token_error());
    machine.restart_tpm();
    machine.until_healthy();
    assert!(machine.host.stop().success());

    machine.pause_tpm();
    machine.launch();
    machine.until_ready();
    machine.until_tpm_state("busy");
    machine.resume_tpm();
    machine.until_healthy();
    assert!(machine.host.stop().success());

    // The state is unknown before the deadline.
    machine.set_deadline(Duration::from_secs(30));
    machine.pause_tpm();
    machine.launch();
    let status = machine.host.status();
    assert_eq!((&status["tpm"]["state"], &status["status"]), (&json!("starting"), &json!("degraded")));
    machine.resume_tpm();
    machine.until_healthy();
}

/// TPM_RC_*_MEMORY and TPM_RC_RETRY for longer than a call retries.
#[test]
fn a_tpm_without_memory_or_time_is_busy() {
    let mut machine = Machine::with_journal();
    machine.start();
    for code in [0x902, 0x903, 0x904, 0x922] {
        machine.proxy.inject(CC_LOAD, Fault::Answer(code), 10_000);
        let refused = machine.host.admin().post("/v1/keys/rotate", &json!({ "now": true }));
        assert_eq!(refused.status, 503, "{}", refused.text());
        let status = machine.until_tpm_state("busy");
        assert!(detail(&status).contains(&format!("{code:#x}")), "{status}");
        assert!(!machine.host.token().is_empty());
        machine.proxy.clear_faults();
        machine.until_healthy();
        assert_eq!(machine.host.admin().post("/v1/keys/rotate", &json!({ "now": true })).status, 200);
        until_true("no objects are left", || machine.loaded_handles() == [1, 1, 0]);
    }
}

/// Persistent handles belong to other programs. The daemon does not use the one where others keep an SRK.
#[test]
fn another_key_at_the_usual_srk_handle_is_ignored() {
    let mut machine = Machine::new();
    machine.start();
    let host = machine.host.status()["host"]["id"].clone();
    let before = machine.host.token();
    assert!(machine.host.stop().success());
    let key = machine.host.path("key.ctx");
    let key = key.to_str().unwrap();
    machine.tool(
        "tpm2_createprimary",
        &[
            "-C",
            "o",
            "-G",
            "ecc256:ecdsa",
            "-a",
            "sign|fixedtpm|fixedparent|sensitivedataorigin|userwithauth",
            "-c",
            key,
        ],
    );
    machine.tool("tpm2_evictcontrol", &["-C", "o", "-c", key, "0x81000001"]);
    machine.tool("tpm2_flushcontext", &["-t"]);
    let by_tools = machine.proxy.frames().len();
    machine.start();
    assert_eq!(machine.host.status()["host"]["id"], host);
    assert_eq!(machine.host.introspect(&before)["active"], true);
    let asks = |frame: &&Vec<u8>| frame.get(10..14) == Some(&[0x81, 0, 0, 1]);
    let mut commands = machine.proxy.frames();
    commands.drain(..by_tools);
    assert_eq!(commands.iter().step_by(2).filter(asks).count(), 0);
    assert!(machine.tool("tpm2_getcap", &["handles-persistent"]).contains("0x81000001"));
}

/// Single blobs of another host, and fields that name another host.
#[test]
fn blobs_of_another_host_are_refused_by_name() {
    let other = Host::other();
    let theirs: Value = serde_json::from_slice(&fs::read(other.path("state/tpm.json")).unwrap()).unwrap();
    let issuing: Value =
        serde_json::from_slice(&fs::read(other.path("state/issuing.json")).unwrap()).unwrap();
    let cases = [
        ("tpm.json", "/objects/ak", "the AK's signature over the host key is wrong"),
        ("tpm.json", "/objects/host_key", "the host key's certification is about another key"),
        ("tpm.json", "/objects/ak/private", "the TPM does not accept the AK"),
        ("tpm.json", "/objects/host_key/private", "the TPM does not accept the host key"),
        ("tpm.json", "/objects/kek", "the TPM does not accept the sealed data"),
        ("tpm.json", "/objects/ek_public", "the EK's public area does not fit its Name"),
        ("tpm.json", "/objects/certification", "the host key's certification is about another key"),
        ("tpm.json", "/objects/srk_name", "its SRK is new"),
        ("issuing.json", "/active/sealed", "does not open under this TPM's sealed key"),
        ("issuing.json", "/active/sealed/endorsement", "endorse"),
    ];
    for (file, pointer, reason) in cases {
        let mut machine = Machine::new();
        let path = machine.host.path("state").join(file);
        let whole = fs::read(&path).unwrap();
        let mut state: Value = serde_json::from_slice(&whole).unwrap();
        let source = if file == "tpm.json" { &theirs } else { &issuing };
        *state.pointer_mut(pointer).unwrap() = source.pointer(pointer).unwrap().clone();
        fs::write(&path, state.to_string()).unwrap();
        machine.launch();
        machine.until_ready();
        let blocked_reason = || machine.host.status()["issuer_blocked_reason"].as_str().map(str::to_owned);
        // A changed file is refused as not the latest. It is accepted, so that the blob itself is tried.
        let accept = |why: &str| {
            if !why.contains("hostbadge key accept") {
                return String::new();
            }
            String::from_utf8_lossy(&machine.host.hostbadge(&["key", "accept"]).stderr).into_owned()
        };
        let mut said = String::new();
        until_true(&format!("{file} {pointer} is refused with its reason"), || {
            let why = blocked_reason().unwrap_or_default();
            let answer = accept(&why);
            said = format!("{why} {answer}");
            if !said.contains(reason) {
                eprintln!("{file} {pointer}: {said}");
            }
            said.contains(reason)
        });
        machine.token_error();
    }
}
