//! Integration with systemd: readiness, watchdog, reload, and socket activation.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::http::Connection;
use crate::common::processes::Running;
use crate::common::{self, API, Host, connect_when_listening, until_true};
use nix::sys::signal::Signal;
use serde_json::json;

/// The receiver of sd_notify(3) messages.
struct Systemd(UnixDatagram);

impl Systemd {
    fn listen(host: &mut Host) -> Systemd {
        let path = host.path("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        host.start.env.push(("NOTIFY_SOCKET".into(), path.to_str().unwrap().into()));
        Systemd(socket)
    }

    /// Reads messages until one has the line `wanted`, or a line that starts with it if it ends in `=`.
    #[track_caller]
    fn expect(&self, wanted: &str) -> String {
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
fn readiness_status_reloads_and_stopping_are_notified() {
    let mut host = Host::new();
    host.agent("r", "user = 0");
    let systemd = Systemd::listen(&mut host);
    host.start.env.push(("WATCHDOG_USEC".into(), "900000".into()));
    host.start();
    let ready = systemd.expect("READY=1");
    assert!(ready.contains("STATUS="), "{ready}");
    systemd.expect("WATCHDOG=1");
    // A stalled TPM is in the status and does not stop watchdog notifications.
    let tpm = host.swtpm();
    nix::sys::signal::kill(tpm, Signal::SIGSTOP).unwrap();
    for _ in 0..4 {
        systemd.expect("WATCHDOG=1");
    }
    nix::sys::signal::kill(tpm, Signal::SIGCONT).unwrap();
    host.signal(Signal::SIGHUP);
    let reloading = systemd.expect("RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    systemd.expect("READY=1");
    host.signal(Signal::SIGTERM);
    systemd.expect("STOPPING=1");
    assert!(host.wait_for_exit().success());
}

#[test]
fn a_stopped_daemon_sends_no_watchdog_notification() {
    let mut host = Host::new();
    let systemd = Systemd::listen(&mut host);
    host.start.env.push(("WATCHDOG_USEC".into(), "900000".into()));
    host.start();
    systemd.expect("WATCHDOG=1");
    host.signal(Signal::SIGSTOP);
    systemd.0.set_read_timeout(Some(Duration::from_millis(1500))).unwrap();
    let mut buffer = [0; 4096];
    let silent = |_: u32| systemd.0.recv(&mut buffer).is_err();
    assert!((0..10).any(silent), "a stopped daemon sent notifications");
    host.signal(Signal::SIGCONT);
    systemd.expect("WATCHDOG=1");
}

/// Runs systemd-socket-activate(1), which creates the sockets, waits for a connection, and executes the
/// daemon.
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
    Running::start(command)
}

fn socket_of(host: &Host, name: &str) -> std::path::PathBuf {
    host.path(&format!("{name}.socket"))
}

#[test]
fn the_first_caller_on_activated_sockets_is_served() {
    let host = Host::new();
    host.agent("r", "user = 0");
    let mut daemon = activated(&host, "agent:workload:admin");
    let caller = connect_when_listening(&socket_of(&host, "agent"));
    let answer = Connection::new(caller).post("/v1/token", &json!({ "audience": API }));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let status = Connection::open(&socket_of(&host, "admin")).get("/v1/status");
    assert_eq!(status.json()["tpm"]["state"], "ready");
    let client = common::grpc::Grpc::connect(&socket_of(&host, "workload"));
    assert_eq!(client.jwt(&[API], "").unwrap().len(), 1);
    assert!(!Path::new(&host.agent_socket()).exists(), "no second set of sockets");
    assert!(!Path::new(&host.workload_socket()).exists(), "no second set of sockets");
    nix::sys::signal::kill(daemon.pid(), Signal::SIGTERM).unwrap();
    until_true("the daemon ends", || daemon.exited().is_some());
    assert!(socket_of(&host, "agent").exists(), "the daemon does not remove systemd's sockets");
}

#[test]
fn an_activated_socket_with_an_unknown_name_is_refused() {
    let host = Host::new();
    let mut daemon = activated(&host, "agent:stranger");
    let _caller = connect_when_listening(&socket_of(&host, "agent"));
    until_true("the daemon ends", || daemon.exited().is_some());
    assert!(host.log().contains("a socket with the unknown name \"stranger\""), "{}", host.log());
}

#[test]
fn units_that_connect_to_the_daemon_do_not_start_a_stopped_one() {
    for unit in ["hostbadge-metrics.service", "hostbadge-selftest.service"] {
        let text = fs::read_to_string(Path::new("systemd").join(unit)).unwrap();
        let starts = |line: &&str| {
            let relations = ["Requires=", "Wants=", "BindsTo=", "Requisite=", "Upholds="];
            relations.iter().any(|relation| line.starts_with(relation)) && line.contains("hostbadged.service")
        };
        assert_eq!(text.lines().find(starts), None, "{unit}");
        let condition = "ExecCondition=/usr/bin/systemctl --quiet is-active hostbadged.service";
        assert!(text.lines().any(|line| line == condition), "{unit}: a connection starts the daemon");
    }
}

/// The units of the packages with their text, without templates, which end with what started them.
fn packaged_units() -> Vec<(String, String)> {
    let entries = fs::read_dir("systemd").unwrap().map(|entry| entry.unwrap().path());
    let units = entries.filter(|path| {
        let ending = path.extension().unwrap_or_default();
        ["service", "socket", "timer"].iter().any(|one| ending == *one)
    });
    let named = units.map(|path| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        (name, fs::read_to_string(&path).unwrap())
    });
    named.filter(|(name, _)| !name.contains('@')).collect()
}

#[test]
fn the_removal_of_each_package_stops_each_unit() {
    let units = packaged_units();
    assert!(units.len() > 10, "{units:?}");
    for script in ["packaging/deb/prerm", "packaging/rpm/preun.sh"] {
        let text = fs::read_to_string(script).unwrap();
        let words: Vec<&str> = text.split([' ', '\n', ';']).collect();
        for (unit, _) in &units {
            assert!(words.contains(&unit.as_str()), "{script} does not stop {unit}");
        }
    }
}

#[test]
fn the_preset_of_the_rpm_names_each_unit_that_can_be_enabled() {
    let preset = fs::read_to_string("packaging/rpm/80-hostbadge.preset").unwrap();
    let (deb, rpm) = ("packaging/deb/postinst", "packaging/rpm/post.sh");
    for (unit, text) in packaged_units() {
        let can_be_enabled = text.lines().any(|line| line == "[Install]");
        let enabled = preset.lines().any(|line| line == format!("enable {unit}"));
        let disabled = preset.lines().any(|line| line == format!("disable {unit}"));
        assert_eq!(enabled || disabled, can_be_enabled, "{unit}");
        for script in [deb, rpm] {
            let script_text = fs::read_to_string(script).unwrap();
            let units = script_text.lines().find_map(|line| line.strip_prefix("units=")).unwrap();
            let is_listed = units.trim_matches('"').split(' ').any(|one| one == unit);
            assert_eq!(is_listed, enabled, "{script}: {unit}");
        }
    }
}

#[test]
fn the_unit_of_the_daemon_has_no_network() {
    let text = fs::read_to_string("systemd/hostbadged.service").unwrap();
    for setting in ["PrivateNetwork=yes", "IPAddressDeny=any", "RestrictAddressFamilies=AF_UNIX"] {
        let name = setting.split_once('=').unwrap().0;
        let values: Vec<&str> = text.lines().filter(|line| line.split('=').next() == Some(name)).collect();
        assert_eq!(values, [setting]);
    }
}
