//! What the daemon and systemd say to each other: readiness, watchdog, reload, and sockets that systemd made.

mod common;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::http::Connection;
use common::processes::Running;
use common::{API, Host, until_true};
use nix::sys::signal::Signal;
use serde_json::json;

/// The other end of sd_notify(3).
struct Systemd(UnixDatagram);

impl Systemd {
    fn of(host: &mut Host) -> Systemd {
        let path = host.path("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        host.start.env.push(("NOTIFY_SOCKET".into(), path.to_str().unwrap().into()));
        Systemd(socket)
    }

    /// Reads on until a message has the line `wanted`, or one that begins with it where it ends in `=`.
    #[track_caller]
    fn hears(&self, wanted: &str) -> String {
        let mut buffer = [0; 4096];
        loop {
            let size = self.0.recv(&mut buffer).unwrap_or_else(|e| panic!("no {wanted}: {e}"));
            let text = String::from_utf8(buffer[..size].to_vec()).unwrap();
            let is_it = |line: &str| line == wanted || (wanted.ends_with('=') && line.starts_with(wanted));
            if text.lines().any(is_it) {
                return text;
            }
        }
    }
}

#[test]
fn systemd_is_told_of_readiness_progress_reloads_and_the_end() {
    let mut host = Host::new();
    host.agent("r", "user = 0");
    let systemd = Systemd::of(&mut host);
    host.start.env.push(("WATCHDOG_USEC".into(), "900000".into()));
    host.start();
    let ready = systemd.hears("READY=1");
    assert!(ready.contains("STATUS="), "{ready}");
    systemd.hears("WATCHDOG=1");
    // A stalled TPM is told by name and is no reason for a restart.
    let tpm = host.swtpm();
    nix::sys::signal::kill(tpm, Signal::SIGSTOP).unwrap();
    for _ in 0..4 {
        systemd.hears("WATCHDOG=1");
    }
    nix::sys::signal::kill(tpm, Signal::SIGCONT).unwrap();
    host.signal(Signal::SIGHUP);
    let reloading = systemd.hears("RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    systemd.hears("READY=1");
    host.signal(Signal::SIGTERM);
    systemd.hears("STOPPING=1");
    assert!(host.ended().success());
}

#[test]
fn a_daemon_that_stands_still_feeds_no_watchdog() {
    let mut host = Host::new();
    let systemd = Systemd::of(&mut host);
    host.start.env.push(("WATCHDOG_USEC".into(), "900000".into()));
    host.start();
    systemd.hears("WATCHDOG=1");
    host.signal(Signal::SIGSTOP);
    systemd.0.set_read_timeout(Some(Duration::from_millis(1500))).unwrap();
    let mut buffer = [0; 4096];
    let silent = |_: u32| systemd.0.recv(&mut buffer).is_err();
    assert!((0..10).any(silent), "it is heard though it stands");
    host.signal(Signal::SIGCONT);
    systemd.hears("WATCHDOG=1");
}

/// systemd-socket-activate(1): makes the sockets, waits for a caller, and becomes the daemon.
fn activated(host: &Host, names: &str) -> Running {
    let mut command = Command::new("systemd-socket-activate");
    for name in names.split(':') {
        command.arg("--listen").arg(host.path(&format!("{name}.socket")));
    }
    let log = fs::File::create(host.path("../log")).unwrap();
    command
        .arg(format!("--fdname={names}"))
        .arg(env!("CARGO_BIN_EXE_hostbadged"))
        .arg("--dev")
        .arg(host.path(""));
    command.process_group(0).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    let running = Running::start(command);
    until_true("the sockets are there", || names.split(':').all(|name| socket_of(host, name).exists()));
    running
}

fn socket_of(host: &Host, name: &str) -> std::path::PathBuf {
    host.path(&format!("{name}.socket"))
}

#[test]
fn the_first_caller_on_systemds_sockets_is_served() {
    let host = Host::new();
    host.agent("r", "user = 0");
    let mut daemon = activated(&host, "agent:workload:admin");
    let answer = Connection::open(&socket_of(&host, "agent")).post("/v1/token", &json!({ "audience": API }));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let status = Connection::open(&socket_of(&host, "admin")).get("/v1/status");
    assert_eq!(status.json()["tpm"]["state"], "ready");
    let client = common::grpc::Grpc::connect(&socket_of(&host, "workload"));
    assert_eq!(client.jwt(&[API], "").unwrap().len(), 1);
    assert!(!Path::new(&host.agent_socket()).exists(), "no second set of sockets");
    assert!(!Path::new(&host.workload_socket()).exists(), "no second set of sockets");
    nix::sys::signal::kill(daemon.pid(), Signal::SIGTERM).unwrap();
    until_true("the daemon ends", || daemon.exited().is_some());
    assert!(socket_of(&host, "agent").exists(), "systemd's sockets are systemd's to remove");
}

#[test]
fn a_socket_of_an_unknown_name_is_refused_by_name() {
    let host = Host::new();
    let mut daemon = activated(&host, "agent:stranger");
    let _caller = std::os::unix::net::UnixStream::connect(socket_of(&host, "agent")).unwrap();
    until_true("the daemon ends", || daemon.exited().is_some());
    assert!(host.log().contains("a socket with the unknown name \"stranger\""), "{}", host.log());
}
