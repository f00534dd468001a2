//! Starts, stops and crashes of the daemon and its TPM: issued tokens are in the audit log, and problems are
//! reported.

use std::collections::HashSet;
use std::fs;
use std::os::unix::net::UnixStream;

use crate::common::http::{Connection, jti};
use crate::common::{self, API, Host, until_true};
use hostbadge::tpm::SoftwareTpm;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

const TOKEN: &str = "/v1/token";

/// Requests tokens from four threads while `during` runs or until the daemon exits. Returns the jti of each
/// token.
fn load(host: &Host, during: impl FnOnce()) -> HashSet<String> {
    let socket = host.agent_socket();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (socket, stop) = (&socket, &stop);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(move || {
                    let mut answered = Vec::new();
                    let Ok(stream) = UnixStream::connect(socket) else { return answered };
                    let mut connection = Connection::new(stream);
                    let ask = common::http::request(
                        "POST",
                        TOKEN,
                        Some("application/json"),
                        json!({ "audience": API }).to_string().as_bytes(),
                    );
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        if connection.send(&ask).is_err() {
                            break;
                        }
                        let Some(answer) = connection.read_response() else { break };
                        assert_eq!(answer.status, 200, "{}", answer.text());
                        answered.push(jti(answer.json()["access_token"].as_str().unwrap()));
                    }
                    answered
                })
            })
            .collect();
        during();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    })
}

fn unbounded() -> Host {
    let host = Host::new();
    host.configure("[limits]\nrate = 1000000\nburst = 1000000\n");
    host.agent("r", "user = 0");
    host
}

fn recorded(host: &Host) -> HashSet<String> {
    host.audit().iter().filter_map(|line| line["jti"].as_str().map(str::to_owned)).collect()
}

#[test]
fn a_killed_daemon_has_a_record_of_each_token_it_issued() {
    let mut host = unbounded();
    host.start();
    let before = host.token();
    let lines = host.path("audit");
    let mut answered = HashSet::new();
    let pid = host.pid();
    answered.extend(load(&host, || {
        until_true("a few hundred tokens are issued", || {
            common::audit_log::text(&lines).lines().count() > 300
        });
        kill(pid, Signal::SIGKILL).unwrap();
    }));
    host.crash();
    assert!(answered.len() > 100, "{}", answered.len());
    host.start();
    let recorded = recorded(&host);
    assert!(answered.is_subset(&recorded), "{} answered, {} recorded", answered.len(), recorded.len());
    assert_eq!(host.introspect(&before)["active"], true, "the key survived");
}

#[test]
fn a_killed_tpm_stops_no_token_and_is_restarted() {
    let mut host = unbounded();
    host.start();
    let (tpm, lines) = (host.swtpm(), host.path("audit"));
    let answered = load(&host, || {
        until_true("tokens are issued", || common::audit_log::text(&lines).lines().count() > 100);
        kill(tpm, Signal::SIGKILL).unwrap();
        let so_far = common::audit_log::text(&lines).lines().count();
        until_true("more tokens are issued", || {
            common::audit_log::text(&lines).lines().count() > so_far + 200
        });
    });
    assert!(answered.is_subset(&recorded(&host)));
    until_true("the TPM is back", || host.health()["tpm"] == "ready" && host.swtpm() != tpm);
    until_true("the host is healthy", || host.health()["status"] == "ok");
}

#[test]
fn a_stalled_tpm_stops_no_token() {
    let host = Host::started();
    let tpm = host.swtpm();
    kill(tpm, Signal::SIGSTOP).unwrap();
    assert!(!host.token().is_empty());
    kill(tpm, Signal::SIGCONT).unwrap();
    until_true("the host is healthy", || host.health()["status"] == "ok");
}

/// An installed daemon, started by `--config`, with a TPM that it does not start itself.
#[test]
fn a_tpm_that_is_stalled_at_the_start_is_reported_and_used_when_it_responds() {
    let mut host = Host::new();
    host.agent("r", "user = 0");
    let tpm = SoftwareTpm::start(&host.path("tpm")).unwrap();
    let stalled = Pid::from_raw(tpm.pid() as i32);
    kill(stalled, Signal::SIGSTOP).unwrap();
    let tcti = tpm.tcti();
    host.install(&format!(
        "[log]\nto = \"stderr\"\n[tpm]\ntcti = \"{tcti}\"\nallow_emulator = true\ndeadline = \"2s\"\n"
    ));
    host.launch();
    until_true("status has the state", || host.status()["tpm"]["state"] == "busy");
    assert!(blocked_reason(&host).contains("the TPM is busy"), "{}", blocked_reason(&host));
    kill(stalled, Signal::SIGCONT).unwrap();
    until_true("tokens are issued", || host.post(TOKEN, json!({ "audience": API })).status == 200);
    // The CA and the credentials follow the issuing key.
    until_true("the host is healthy", || host.health()["status"] == "ok");
    assert!(host.stop().success());
}

#[test]
fn a_restart_keeps_the_issuing_key_and_the_audit_chain() {
    let mut host = Host::started();
    let token = host.token();
    let keys = host.get("/.well-known/jwks.json").json();
    assert!(host.stop().success());
    host.start();
    assert_eq!(host.get("/.well-known/jwks.json").json(), keys);
    assert_eq!(host.introspect(&token)["active"], true);
    let events: Vec<Value> = host.audit().iter().map(|line| line["event"].clone()).collect();
    assert_eq!(events.iter().filter(|event| *event == "daemon-started").count(), 2);
}

#[test]
fn two_daemons_do_not_share_a_state_directory() {
    let host = Host::started();
    let second = host.command().stderr(std::process::Stdio::piped()).output().unwrap();
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains(&format!("in use by another hostbadged (pid {})", host.pid())), "{said}");
    assert!(!host.token().is_empty(), "the first daemon still serves");
}

/// The error description of a token request while the host cannot issue.
fn blocked_reason(host: &Host) -> String {
    let answer = host.post(TOKEN, json!({ "audience": API }));
    assert_eq!((answer.status, answer.error().as_str()), (503, "temporarily_unavailable"));
    assert_eq!(host.health()["status"], "degraded");
    answer.json()["error_description"].as_str().unwrap().to_owned()
}

#[test]
fn a_corrupt_or_missing_state_file_is_reported_and_its_repair_needs_no_restart() {
    for file in ["state/tpm.json", "state/issuing.json"] {
        let mut host = Host::new();
        host.agent("r", "user = 0");
        let path = host.path(file);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        host.start();
        let said = blocked_reason(&host);
        assert!(said.contains(file) && said.contains("corrupt"), "{said}");
        fs::write(&path, &whole).unwrap();
        until_true("tokens are issued", || host.post(TOKEN, json!({ "audience": API })).status == 200);
    }
    let mut host = Host::new();
    host.agent("r", "user = 0");
    fs::remove_file(host.path("state/tpm.json")).unwrap();
    host.start();
    assert!(
        blocked_reason(&host).contains("tpm.json is missing")
            || blocked_reason(&host).contains("tpm.json: is missing")
    );
}

#[test]
fn state_files_of_another_host_are_refused() {
    let other = Host::other();
    let mut host = Host::new();
    host.agent("r", "user = 0");
    fs::copy(other.path("state/issuing.json"), host.path("state/issuing.json")).unwrap();
    host.start();
    assert!(
        blocked_reason(&host).contains("issuing.json is not what this host wrote last"),
        "{}",
        blocked_reason(&host)
    );
    // An administrator cannot accept them either.
    assert_eq!(host.admin().post("/v1/keys/accept", &json!({})).status, 200);
    until_true("the problem is reported", || {
        blocked_reason(&host).contains("does not open under this TPM's sealed key")
    });

    let mut host = Host::new();
    host.agent("r", "user = 0");
    for file in ["state/issuing.json", "state/tpm.json"] {
        fs::copy(other.path(file), host.path(file)).unwrap();
    }
    host.start();
    assert!(blocked_reason(&host).contains("the TPM is replaced"), "{}", blocked_reason(&host));
    assert_eq!(host.status()["tpm"]["state"], "replaced");
}

#[test]
fn sigterm_lets_a_request_that_waits_for_the_tpm_finish_before_swtpm_is_stopped() {
    stop_while_a_request_waits_for_the_tpm(|host| host.signal(Signal::SIGTERM));
}

/// Ctrl-C in a terminal signals the whole process group.
#[test]
fn ctrl_c_lets_a_request_that_waits_for_the_tpm_finish_before_swtpm_is_stopped() {
    stop_while_a_request_waits_for_the_tpm(|host| {
        kill(Pid::from_raw(-host.pid().as_raw()), Signal::SIGINT).unwrap();
    });
}

/// A token that the TPM signs, while the software TPM of a development instance is stopped by SIGSTOP.
fn stop_while_a_request_waits_for_the_tpm(stop: impl Fn(&Host)) {
    let mut host = Host::new();
    // The daemon has a process group of its own, as a command in a terminal does.
    host.start.wrapper.push("setsid".into());
    host.agents_file(
        "r",
        &format!("name = \"r\"\n[match]\nuser = 0\n[[grant]]\naudience = \"{API}\"\nassurance = \"tpm\"\n"),
    );
    host.start();
    let (tpm, mut connections) = (host.swtpm(), [host.connect(), host.connect()]);
    kill(tpm, Signal::SIGSTOP).unwrap();
    let body = json!({ "audience": API }).to_string();
    let request = common::http::request("POST", TOKEN, Some("application/json"), body.as_bytes());
    for connection in &mut connections {
        connection.send(&request).unwrap();
    }
    until_true("one is at the TPM and one waits", || host.status()["tpm"]["waiting_to_sign"] == 1);
    stop(&host);
    let lines = host.path("audit");
    until_true("the daemon stops", || common::audit_log::text(&lines).contains("\"daemon-stopping\""));
    kill(tpm, Signal::SIGCONT).unwrap();
    for connection in &mut connections {
        let answer = connection.read_response().unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert!(host.wait_for_exit().success());
    assert!(kill(tpm, None).is_err(), "swtpm was stopped");
}
