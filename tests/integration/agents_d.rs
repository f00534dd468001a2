//! Agent files: reloads, `--check`, permissions, and access to the admin socket.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use crate::common::callers::{Credentials, NOBODY, ScriptedClient};
use crate::common::{self, API, Host, until_true};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// Names of the active agents.
fn active_agents(host: &Host) -> Vec<String> {
    let agents = host.admin().get("/v1/agents").json();
    agents.as_array().unwrap().iter().map(|agent| agent["name"].as_str().unwrap().to_owned()).collect()
}

fn reload(host: &Host) -> (u16, Value) {
    let answer = host.admin().post("/v1/agents/reload", &json!({}));
    (answer.status, common::without_lints(answer.json()))
}

#[test]
fn an_invalid_file_leaves_the_previous_set_active() {
    let host = Host::started();
    host.agent("good", "user = 4711");
    let bad = host.agents_file("bad", "name = \"bad\"\n[match]\nuesr = 0\n");
    host.reload();
    assert_eq!(active_agents(&host), ["root"], "all or nothing");
    host.token();

    let status = host.status();
    let faults = &status["agents"]["faults"];
    assert_eq!(faults.as_array().unwrap().len(), 1, "{faults}");
    assert_eq!((&faults[0]["file"], &faults[0]["line"]), (&json!(bad), &json!(3)));
    assert!(faults[0]["what"].as_str().unwrap().contains("uesr"), "{faults}");
    let wanted = format!("{}:3: ", bad.display());
    until_true("the error is in the log", || host.log().contains(&wanted));

    fs::remove_file(bad).unwrap();
    host.reload();
    assert_eq!(active_agents(&host), ["good", "root"]);
    assert_eq!(host.status()["agents"]["faults"], json!([]));
}

#[test]
fn a_reload_over_the_admin_socket_lists_all_errors() {
    let host = Host::started();
    let one = host.agents_file("one", "name = \"One\"\n[match]\nexe = \"bin\"\n");
    let two = host.agents_file("two", "name = \"two\"\n[match]\n");
    let (status, body) = reload(&host);
    assert_eq!((status, body["error"].as_str()), (422, Some("invalid_request")), "{body}");
    let faults: Vec<(Value, Value)> =
        body["faults"].as_array().unwrap().iter().map(|f| (f["file"].clone(), f["line"].clone())).collect();
    assert_eq!(
        faults,
        [(json!(one), json!(1)), (json!(one), json!(2)), (json!(one), json!(3)), (json!(two), json!(2))],
        "{body}"
    );
    assert_eq!(active_agents(&host), ["root"]);
    host.token();
}

#[test]
fn a_fixed_file_takes_effect_on_open_connections() {
    let host = Host::started();
    let mut connection = host.connect();
    assert_eq!(connection.get("/v1/whoami").json()["agent"], "root");
    host.agents_file("root", "name = \"root\"\n[match]\n");
    assert_eq!(reload(&host).0, 422);
    assert_eq!(connection.get("/v1/whoami").json()["agent"], "root");

    host.agents_file("root", "name = \"renamed\"\n[match]\nuser = 0\n");
    host.agent("fresh", "user = 4711");
    let (status, changes) = reload(&host);
    assert_eq!(status, 200, "{changes}");
    assert_eq!(changes, json!({ "added": ["fresh", "renamed"], "changed": [], "removed": ["root"] }));
    assert_eq!(connection.get("/v1/whoami").json()["agent"], "renamed", "the same connection");
    assert_eq!(connection.post("/v1/token", &json!({ "audience": API })).error(), "invalid_target");
    assert_eq!(reload(&host).1, json!({ "added": [], "changed": [], "removed": [] }));
    host.agent("fresh", "user = 4712");
    assert_eq!(reload(&host).1["changed"], json!(["fresh"]));
}

#[test]
fn a_reload_is_in_the_audit_log() {
    let host = Host::started();
    host.agent("second", "user = 4711");
    host.reload();
    let lines = host.audit();
    let line = lines.iter().find(|line| line["event"] == "agents-reloaded").unwrap();
    assert!(
        line["detail"].as_str().unwrap().contains("SIGHUP reloaded the agents: added [second]"),
        "{line}"
    );
    host.agents_file("second", "nonsense");
    assert_eq!(reload(&host).0, 422);
    let line = host.audit().pop().unwrap();
    assert_eq!(line["event"], "agents-rejected");
    assert!(line["detail"].as_str().unwrap().contains("uid 0, pid "), "{line}");
}

#[test]
fn a_daemon_started_on_invalid_files_has_no_agents_and_logs_why() {
    let mut host = Host::new();
    host.agent("root", "user = 0");
    let bad = host.agents_file("bad", "name = \"bad\"\n");
    host.start();
    let answer = host.post("/v1/token", json!({ "audience": API }));
    assert_eq!((answer.status, answer.error().as_str()), (503, "temporarily_unavailable"));
    assert!(answer.text().contains("the registered agents are not known"), "{}", answer.text());
    assert_eq!(host.status()["agents"]["faults"][0]["file"], json!(bad));
    until_true("the faults are recorded", || {
        let lines = host.audit();
        let rejected = common::audit_log::with_event(&lines, "agents-rejected");
        rejected.iter().any(|line| line["detail"].as_str().unwrap().contains("at the start have 1 fault;"))
    });
    until_true("the fault is in the log", || host.log().contains(bad.to_str().unwrap()));
    fs::remove_file(bad).unwrap();
    host.reload();
    host.token();
}

#[test]
fn a_missing_directory_is_a_fault_and_removes_no_agent() {
    let host = Host::started();
    let (dir, elsewhere) = (host.path("etc/agents.d"), host.path("etc/elsewhere"));
    fs::rename(&dir, &elsewhere).unwrap();
    let (status, body) = reload(&host);
    assert_eq!(status, 422, "{body}");
    assert!(body["faults"][0]["what"].as_str().unwrap().contains("does not exist"), "{body}");
    assert_eq!(active_agents(&host), ["root"]);
    host.token();
    let check = host.hostbadge(&["agent", "check", dir.to_str().unwrap()]);
    assert!(!check.status.success(), "{check:?}");
    fs::rename(&elsewhere, &dir).unwrap();
    assert_eq!(reload(&host).1, json!({ "added": [], "changed": [], "removed": [] }));
}

#[test]
fn check_prints_each_error_with_file_and_line() {
    let host = Host::new();
    host.agent("good", "user = 0");
    let run = |host: &Host| {
        let output =
            host.command().arg("--check").stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, said, _) = run(&host);
    assert_eq!(code, Some(0));
    assert!(said.contains("1 agent, no faults"), "{said}");

    let one = host.agents_file("one", "name = \"One\"\n[match]\nunit = \"x\"\n");
    let two = host.agents_file("two", "name = \"two\"\n\n[match\n");
    let three = host.agents_file(
        "three",
        &format!("name = \"three\"\n[match]\nuser = 0\n[[grant]]\naudience = \"{API}\"\nttl = \"2h\"\n"),
    );
    let (code, _, faults) = run(&host);
    assert_eq!(code, Some(2));
    for (file, line) in [(&one, 1), (&one, 3), (&two, 3), (&three, 6)] {
        let start = format!("{}:{line}: ", file.display());
        assert!(faults.lines().any(|fault| fault.starts_with(&start)), "{start}\nnot in\n{faults}");
    }
    assert!(!host.path("run").exists(), "a check starts nothing");
}

#[test]
fn checks_and_reloads_warn_about_a_unit_alone() {
    let host = Host::started();
    host.agent("jobs", "unit = \"cron.service\"");
    let warning = "/jobs.toml:2: warning: users start processes in cron.service";
    let check = host.command().arg("--check").stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap();
    let agents = host.path("etc/agents.d");
    let agent_check = host.hostbadge(&["agent", "check", agents.to_str().unwrap()]);
    for output in [check, agent_check] {
        let (said, warned) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(0), "{warned}");
        assert!(said.contains("2 agents, no faults") && warned.contains(warning), "{said}{warned}");
    }
    let json = host.hostbadge(&["agent", "check", "--json", agents.to_str().unwrap()]);
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["warnings"][0]["line"], 2, "{json}");
    host.reload();
    until_true("the warning is in the log", || host.log().contains("users start processes in cron.service"));
    // Names of files are escaped.
    let escape = host.path("\u{1b}[31m");
    fs::create_dir(&escape).unwrap();
    fs::copy(agents.join("jobs.toml"), escape.join("jobs.toml")).unwrap();
    let escaped = host.hostbadge(&["agent", "check", escape.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&escaped.stderr).contains(warning), "{escaped:?}");
    assert!(![escaped.stdout, escaped.stderr].concat().contains(&0x1b));
    host.agent("jobs", "unit = \"cron.service\"\nuser = 4711");
    let fixed = host.hostbadge(&["agent", "check", agents.to_str().unwrap()]);
    assert!(fixed.status.success() && fixed.stderr.is_empty(), "{fixed:?}");
}

#[test]
fn a_number_in_quotes_is_refused_as_a_name() {
    let host = Host::started();
    host.agent("quoted", "user = \"0\"");
    let (status, answer) = reload(&host);
    assert_eq!(status, 422, "{answer}");
    let what = answer["faults"][0]["what"].as_str().unwrap();
    assert!(what.contains("write user = 0 for the number"), "{what}");
}

#[test]
fn an_unknown_configuration_key_is_an_error_with_its_line() {
    let mut host = Host::new();
    host.configure("[limits]\nrate = 10\nbrust = 20");
    let start = format!("{}:3: ", host.path("etc/hostbadged.toml").display());
    for check in [true, false] {
        let mut command = host.command();
        if check {
            command.arg("--check");
        }
        let output = command.stderr(Stdio::piped()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "systemd shall not try again: {said}");
        assert!(said.starts_with(&start) && said.contains("brust"), "{said}");
    }
    host.configure("");
    host.start();
}

#[test]
fn world_writable_agent_files_are_refused() {
    let host = Host::started();
    let dir = host.path("etc/agents.d");
    fs::set_permissions(&dir, Permissions::from_mode(0o777)).unwrap();
    let (status, body) = reload(&host);
    assert_eq!(status, 422);
    assert_eq!(body["faults"][0]["file"], json!(dir));
    assert!(body["faults"][0]["what"].as_str().unwrap().contains("chmod o-w"), "{body}");
    fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();

    let file = host.path("etc/agents.d/root.toml");
    fs::set_permissions(&file, Permissions::from_mode(0o646)).unwrap();
    assert_eq!(reload(&host).1["faults"][0]["file"], json!(file));
    fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    std::os::unix::fs::chown(&file, Some(NOBODY), None).unwrap();
    assert!(
        reload(&host).1["faults"][0]["what"].as_str().unwrap().contains("chown"),
        "a file of another user"
    );
    std::os::unix::fs::chown(&file, Some(0), None).unwrap();
    assert_eq!(reload(&host).0, 200);
    host.token();
}

#[test]
fn group_writable_agent_files_are_refused() {
    let host = Host::started();
    let file = host.agents_file("grouped", "name = \"grouped\"\n[match]\nuser = 1\n");
    std::os::unix::fs::chown(&file, None, Some(7777)).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o664)).unwrap();
    let (status, answer) = reload(&host);
    assert_eq!(status, 422, "{answer}");
    assert!(answer["faults"][0]["what"].as_str().unwrap().contains("group 7777"), "{answer}");
    fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    assert_eq!(reload(&host).0, 200);
}

#[test]
fn a_pipe_instead_of_a_file_does_not_block_a_reload() {
    let mut host = Host::started();
    nix::unistd::mkfifo(
        &host.path("etc/agents.d/pipe.toml"),
        nix::sys::stat::Mode::from_bits_truncate(0o600),
    )
    .unwrap();
    let (_, answer) = reload(&host);
    assert!(answer["faults"][0]["what"].as_str().unwrap().contains("not a regular file"), "{answer}");
    host.reload();
    host.token();
    assert!(host.stop().success());
}

#[test]
fn an_executable_alone_is_no_selector() {
    let host = Host::started();
    let digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    host.agent("anybody", &format!("exe = \"/usr/bin/curl\"\nexe_sha256 = \"{digest}\""));
    let (_, answer) = reload(&host);
    assert!(answer["faults"][0]["what"].as_str().unwrap().contains("no user, group or unit"), "{answer}");
}

#[test]
fn a_duplicate_name_and_a_duplicate_grant_are_errors() {
    let host = Host::started();
    let copy = host.agents_file("zzz", "name = \"root\"\n[match]\nuser = 1\n");
    let (status, body) = reload(&host);
    assert_eq!((status, &body["faults"][0]["file"]), (422, &json!(copy)));
    let grant = format!("[[grant]]\naudience = \"{API}\"\nscopes = [\"a\"]\n");
    host.agents_file("zzz", &format!("name = \"z\"\n[match]\nuser = 1\n{grant}{grant}"));
    let (_, body) = reload(&host);
    assert!(body["faults"][0]["what"].as_str().unwrap().contains("second grant"), "{body}");
}

#[test]
fn the_admin_socket_is_closed_to_other_users() {
    let host = Host::started();
    let mode = fs::metadata(host.admin_socket()).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode & 0o007, 0, "{mode:o}");
    assert_eq!(fs::metadata(host.agent_socket()).unwrap().permissions().mode() & 0o777, 0o666);
    let connect = format!("import socket; socket.socket(socket.AF_UNIX).connect({:?})", host.admin_socket());
    let mut command = std::process::Command::new(common::callers::python());
    command.args(["-c", &connect]);
    Credentials::user(NOBODY).apply_to(&mut command);
    let output = command.output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("PermissionError"), "{output:?}");
}

#[test]
fn the_admin_socket_checks_its_caller_and_not_only_its_mode() {
    let host = Host::started();
    // As if an administrator had made the socket world-writable.
    fs::set_permissions(host.admin_socket(), Permissions::from_mode(0o666)).unwrap();
    let nobody = Credentials::user(NOBODY);
    for (target, arguments) in [
        ("/v1/status", &[][..]),
        ("/v1/agents", &[]),
        ("/v1/audit", &[]),
        ("/v1/agents/reload", &["-X", "POST"]),
        ("/anything", &[]),
    ] {
        let answer = nobody.curl_at(&host.admin_socket(), target, arguments);
        assert_eq!((answer.status, answer.error().as_str()), (403, "access_denied"), "{target}");
    }
    let refusals = host.audit();
    let refusals = common::audit_log::with_event(&refusals, "request-refused");
    assert_eq!(refusals.len(), 5);
    assert!(refusals.iter().all(|line| line["reason"] == "access_denied" && line["peer"]["uid"] == NOBODY));
}

/// The admin group manages agents; only root manages keys.
#[test]
fn key_operations_are_for_root_and_not_for_the_admin_group() {
    let mut host = Host::new();
    host.configure("[admin]\ngroup = \"daemon\"\n");
    host.start();
    fs::set_permissions(host.admin_socket(), Permissions::from_mode(0o666)).unwrap();
    let member = Credentials::user(NOBODY).group(1);
    let ask = |target: &str, arguments: &[&str]| member.curl_at(&host.admin_socket(), target, arguments);
    assert_eq!(ask("/v1/status", &[]).status, 200);
    assert_eq!(ask("/v1/agents/reload", &["-X", "POST"]).status, 200);
    let guarded = [
        "/v1/keys/recovery",
        "/v1/keys/recovery/confirm",
        "/v1/keys/recover",
        "/v1/keys/accept",
        "/v1/posture/accept",
        "/v1/enroll/credential",
        "/v1/enroll/install",
    ];
    for target in guarded {
        let answer = ask(target, &["-H", "Content-Type: application/json", "-d", "{}"]);
        assert_eq!((answer.status, answer.error().as_str()), (403, "access_denied"), "{target}");
        assert!(answer.text().contains("it is for root, and not for the admin group"), "{}", answer.text());
        let root = host.admin().post(target, &json!({}));
        assert_ne!(root.status, 403, "{}", root.text());
    }
    let record = host.audit();
    let refusals = common::audit_log::with_event(&record, "request-refused");
    let (denied, failed): (Vec<&Value>, Vec<&Value>) =
        refusals.into_iter().partition(|line| line["reason"] == "access_denied");
    assert_eq!(denied.len(), guarded.len());
    assert!(denied.iter().all(|line| line["peer"]["uid"] == NOBODY));
    // Of root's, only the recovery key was created.
    assert_eq!(failed.len(), guarded.len() - 1);
    assert!(failed.iter().all(|line| line["peer"]["uid"] == 0));
}

#[test]
fn an_admin_connection_is_refused_after_its_process_drops_root() {
    let host = Host::started();
    let mut client =
        ScriptedClient::connect_with(&host.admin_socket(), &Credentials::root(), &common::callers::python());
    assert_eq!(client.request("GET /v1/status", "").0, 200);
    client.execute(&format!("os.setresuid({NOBODY}, {NOBODY}, {NOBODY})"));
    assert_eq!(client.request("GET /v1/status", "").0, 401);
    client.close();
}

#[test]
fn a_reload_during_requests_drops_none() {
    let host = Host::started();
    std::thread::scope(|scope| {
        let asker = scope.spawn(|| {
            let mut connection = host.connect();
            (0..150).all(|_| connection.post("/v1/token", &json!({ "audience": API })).status == 200)
        });
        for at in 0..10 {
            host.agent("other", &format!("user = {}", 5000 + at));
            host.signal(Signal::SIGHUP);
            std::thread::park_timeout(std::time::Duration::from_millis(10));
        }
        assert!(asker.join().unwrap());
    });
}
