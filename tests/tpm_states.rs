//! Every named state of the TPM, reached by its real cause under the whole daemon: in status, health and journal, with
//! tokens from memory where that is sound, and well again without a restart when the cause goes.

mod common;

use std::fs;
use std::time::Duration;

use common::http::part;
use common::machine::{Machine, port};
use common::proxy::Fault;
use common::{Host, until_true};
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
    machine.stall();
    let status = machine.until_named("busy");
    assert!(detail(&status).contains("no response for 1000 ms"), "{status}");
    assert!(!machine.host.token().is_empty());
    machine.go_on();
    machine.until_well();
    machine.until_journaled("the TPM is ready");
}

#[test]
fn a_dead_tpm_is_absent() {
    let mut machine = Machine::with_journal();
    machine.start();
    machine.kill_tpm();
    machine.until_named("absent");
    assert!(!machine.host.token().is_empty());
    machine.revive_tpm();
    machine.until_well();
    assert_eq!(machine.held()[0], 1, "the SRK");
}

#[test]
fn a_tpm_that_was_reset_is_connected_with_anew() {
    let mut machine = Machine::with_journal();
    machine.start();
    machine.power_cycle();
    machine.until_journaled("the TPM is reset");
    machine.until_well();
    // One that does not get through its startup for a while.
    machine.proxy.inject(CC_CREATE_PRIMARY, Fault::Answer(0x100), 1000);
    machine.power_cycle();
    machine.until_named("reset");
    assert!(!machine.host.token().is_empty());
    machine.proxy.forget_faults();
    machine.until_well();
}

/// Wrong passwords of somebody else's. Our keys have none, so that all goes on, also through a restart.
#[test]
fn too_many_wrong_passwords_are_a_lockout() {
    let mut machine = Machine::with_journal();
    machine.start();
    lock_out(&machine);
    let status = machine.until_named("lockout");
    assert!(detail(&status).contains("too many failed authorizations"), "{status}");
    let kid_before = kid(&machine.host.token());
    assert_eq!(machine.host.admin().post("/v1/keys/rotate", &json!({ "now": true })).status, 200);
    assert_ne!(kid(&machine.host.token()), kid_before);
    assert_eq!(machine.host.post("/v1/attest", json!({ "nonce": NONCE })).status, 200);

    assert!(machine.host.stop().success());
    machine.launch();
    until_true("it serves", || machine.host.status()["issuer_blocked_reason"].is_null());
    machine.until_named("lockout");
    assert!(!machine.host.token().is_empty());
    machine.tool("tpm2_dictionarylockout", &["-c"]);
    machine.until_well();
}

fn lock_out(machine: &Machine) {
    let index = "0x1500001";
    machine.tool("tpm2_nvdefine", &[index, "-C", "o", "-s", "8", "-p", "right", "-a", "authread|authwrite"]);
    for _ in 0..4 {
        assert!(!machine.command("tpm2_nvread", &[index, "-P", "wrong"]).output().unwrap().status.success());
    }
}

/// Told while all still works, since the next boot will not.
#[test]
fn a_password_of_the_owner_is_named_before_and_after_it_hurts() {
    for (hierarchy, letter) in [("owner", "o"), ("endorsement", "e")] {
        let mut machine = Machine::with_journal();
        machine.start();
        machine.tool("tpm2_changeauth", &["-c", letter, "secret"]);
        let status = machine.until_named("owner-auth");
        assert!(
            detail(&status).contains(&format!("a password was set for the {hierarchy} hierarchy")),
            "{status}"
        );
        assert!(!machine.host.token().is_empty());
        assert_eq!(machine.host.post("/v1/attest", json!({ "nonce": NONCE })).status, 200);

        machine.power_cycle();
        until_true("it is shut out", || {
            detail(&machine.host.status()).contains(&format!("in the {hierarchy} hierarchy"))
        });
        machine.until_named("owner-auth");
        assert!(!machine.host.token().is_empty(), "from memory");
        assert_eq!(machine.host.post("/v1/attest", json!({ "nonce": NONCE })).status, 503);

        assert!(machine.host.stop().success());
        machine.launch();
        machine.until_named("owner-auth");
        assert!(machine.refusal().contains("tpm2_changeauth"), "{}", machine.refusal());
        machine.tool("tpm2_changeauth", &["-c", letter, "-p", "secret"]);
        machine.until_well();
    }
}

/// The chip is the same and so is the host's id: what was unsealed goes on until the daemon ends, and no longer.
#[test]
fn a_cleared_tpm_ends_with_the_daemon() {
    let mut machine = Machine::with_journal();
    machine.start();
    let host = machine.host.status()["host"]["id"].as_str().unwrap().to_owned();
    let before = machine.host.token();
    machine.tool("tpm2_clear", &["-c", "p"]);
    let status = machine.until_named("cleared");
    assert!(detail(&status).contains(&host) && detail(&status).contains("its SRK is new"), "{status}");
    assert_eq!(kid(&machine.host.token()), kid(&before));
    assert_eq!(machine.host.post("/v1/attest", json!({ "nonce": NONCE })).status, 503);
    assert_eq!(machine.host.admin().post("/v1/keys/rotate", &json!({ "now": true })).status, 503);

    assert!(machine.host.stop().success());
    machine.launch();
    machine.until_named("cleared");
    let why = machine.refusal();
    assert!(why.contains("which destroyed its keys") && why.contains(&host), "{why}");
    assert_eq!(machine.host.get("/.well-known/jwks.json").status, 503);

    // The way out that it names.
    assert!(machine.host.stop().success());
    fs::rename(machine.host.path("state"), machine.host.path("state.old")).unwrap();
    machine.start();
    assert_eq!(machine.host.status()["host"]["id"], host, "the EK is the same");
    assert_ne!(kid(&machine.host.token()), kid(&before));
}

/// Whoever swapped it: the keys in memory vouch for another host.
#[test]
fn another_tpm_in_its_place_stops_everything_until_the_first_is_back() {
    let mut machine = Machine::with_journal();
    machine.start();
    let ours = machine.host.status()["host"]["id"].as_str().unwrap().to_owned();
    let before = machine.host.token();
    let other = Host::other();
    let mut stranger = SoftwareTpm::start(&other.path("tpm")).unwrap();
    machine.proxy.turn_to(port(&stranger));
    let status = machine.until_named("replaced");
    let theirs = detail(&status).split_whitespace().last().unwrap().to_owned();
    assert!(theirs.len() == 26 && theirs != ours && detail(&status).contains(&ours), "{status}");
    assert_serves_nothing(&machine, &ours, &theirs);
    machine.until_journaled(&format!("the stored keys belong to host {ours}"));

    // Nor when the stranger dies.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(stranger.pid() as i32), nix::sys::signal::SIGKILL)
        .unwrap();
    machine.until_named("absent");
    assert_eq!(machine.host.get("/.well-known/jwks.json").status, 503);
    machine.refusal();
    until_true("it lives again", || stranger.ensure_running().unwrap());
    machine.until_named("replaced");

    machine.proxy.turn_to(port(&machine.tpm));
    machine.until_well();
    assert_eq!(kid(&machine.host.token()), kid(&before));
    assert_eq!(machine.host.introspect(&before)["active"], true);
}

#[track_caller]
fn assert_serves_nothing(machine: &Machine, ours: &str, theirs: &str) {
    let why = machine.refusal();
    for said in [ours, theirs, "put the previous TPM back", "enroll"] {
        assert!(why.contains(said), "{said}: {why}");
    }
    assert_eq!(machine.host.post("/v1/attest", json!({ "nonce": NONCE })).status, 503);
    assert_eq!(machine.host.get("/.well-known/jwks.json").status, 503);
    assert_eq!(machine.host.admin().post("/v1/keys/rotate", &json!({ "now": true })).status, 503);
    let people = machine.host.hostbadge(&["status"]);
    let people = String::from_utf8_lossy(&people.stdout).into_owned();
    assert!(people.contains(ours) && people.contains(theirs) && people.contains("mend: "), "{people}");
}

/// A disk that was copied or moved.
#[test]
fn a_state_directory_on_another_tpm_is_worthless_and_names_both_hosts() {
    let [ours, theirs] = [Host::new(), Host::other()].map(|host| {
        let mut machine = Machine::of(host);
        machine.start();
        let id = machine.host.status()["host"]["id"].as_str().unwrap().to_owned();
        assert!(machine.host.stop().success());
        id
    });
    let copied = Host::new();
    let other = Host::other();
    fs::remove_dir_all(copied.path("tpm")).unwrap();
    common::template::copy(&other.path("tpm"), &copied.path("tpm"));
    let mut machine = Machine::of(copied);
    machine.launch();
    let status = machine.until_named("replaced");
    assert!(detail(&status).contains(&ours) && detail(&status).contains(&theirs), "{status}");
    assert_serves_nothing(&machine, &ours, &theirs);
}

/// At the start as later: degraded, named, and well when the cause goes.
#[test]
fn a_start_without_a_tpm_is_ready_and_degraded() {
    let mut machine = Machine::with_journal();
    machine.kill_tpm();
    machine.launch();
    machine.until_ready();
    machine.until_named("absent");
    assert!(machine.refusal().contains("the TPM is absent"), "{}", machine.refusal());
    machine.revive_tpm();
    machine.until_well();
    assert!(machine.host.stop().success());

    machine.stall();
    machine.launch();
    machine.until_ready();
    machine.until_named("busy");
    machine.go_on();
    machine.until_well();
    assert!(machine.host.stop().success());

    // Before the deadline nothing is known.
    machine.deadline(Duration::from_secs(30));
    machine.stall();
    machine.launch();
    let status = machine.host.status();
    assert_eq!((&status["tpm"]["state"], &status["status"]), (&json!("starting"), &json!("degraded")));
    machine.go_on();
    machine.until_well();
}

/// A TPM that others fill, or that has no time, for longer than a call waits.
#[test]
fn a_tpm_without_room_or_time_is_busy_while_that_lasts() {
    let mut machine = Machine::with_journal();
    machine.start();
    for code in [0x902, 0x903, 0x904, 0x922] {
        machine.proxy.inject(CC_LOAD, Fault::Answer(code), 10_000);
        let refused = machine.host.admin().post("/v1/keys/rotate", &json!({ "now": true }));
        assert_eq!(refused.status, 503, "{}", refused.text());
        let status = machine.until_named("busy");
        assert!(detail(&status).contains(&format!("{code:#x}")), "{status}");
        assert!(!machine.host.token().is_empty());
        machine.proxy.forget_faults();
        machine.until_well();
        assert_eq!(machine.host.admin().post("/v1/keys/rotate", &json!({ "now": true })).status, 200);
        until_true("nothing is left", || machine.held() == [1, 1, 0]);
    }
}

/// Persistent handles are other programs': whatever lies at the one that others keep an SRK at is not asked.
#[test]
fn a_key_at_the_handle_of_srks_that_is_none_changes_nothing() {
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
    let by_tools = machine.proxy.seen().len();
    machine.start();
    assert_eq!(machine.host.status()["host"]["id"], host);
    assert_eq!(machine.host.introspect(&before)["active"], true);
    let asks = |frame: &&Vec<u8>| frame.get(10..14) == Some(&[0x81, 0, 0, 1]);
    let mut commands = machine.proxy.seen();
    commands.drain(..by_tools);
    assert_eq!(commands.iter().step_by(2).filter(asks).count(), 0);
    assert!(machine.tool("tpm2_getcap", &["handles-persistent"]).contains("0x81000001"));
}

/// Single blobs of another host's, and fields that name another.
#[test]
fn a_blob_of_another_host_is_refused_with_its_name() {
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
        let trouble = || machine.host.status()["issuer_blocked_reason"].as_str().map(str::to_owned);
        // A changed file is not the latest of this host; that is taken as it is, so that the blob itself is tried.
        let accept = |why: &str| {
            if !why.contains("hostbadge key accept") {
                return String::new();
            }
            String::from_utf8_lossy(&machine.host.hostbadge(&["key", "accept"]).stderr).into_owned()
        };
        let mut said = String::new();
        until_true(&format!("{file} {pointer} is refused with its reason"), || {
            let why = trouble().unwrap_or_default();
            let answer = accept(&why);
            said = format!("{why} {answer}");
            if !said.contains(reason) {
                eprintln!("{file} {pointer}: {said}");
            }
            said.contains(reason)
        });
        machine.refusal();
    }
}
