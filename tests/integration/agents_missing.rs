//! Directories that are missing, empty or unreadable: what was read before stays active, unless an
//! administrator wants it removed.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Output, Stdio};

use crate::common::{API, Host, until_true, without_lints};
use serde_json::{Value, json};

const BUNDLE: &str = r#"{"keys":[]}"#;

fn active_agents(host: &Host) -> usize {
    host.admin().get("/v1/agents").json().as_array().unwrap().len()
}

fn reload(host: &Host, allow_empty: &[&str]) -> (u16, Value) {
    let answer = host.admin().post("/v1/agents/reload", &json!({ "allow_empty": allow_empty }));
    (answer.status, without_lints(answer.json()))
}

/// Runs `hostbadge agent reload`: exit status, and what it printed to standard error.
fn reload_by_command(host: &Host, words: &[&str]) -> (Option<i32>, String) {
    let output = host.hostbadge(&[&["agent", "reload"], words].concat());
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Asserts that a reload fails for this reason, by each way, and that the agents stay.
#[track_caller]
fn assert_refused(host: &Host, reason: &str) {
    let (status, body) = reload(host, &[]);
    assert_eq!((status, body["error"].as_str()), (422, Some("invalid_request")), "{body}");
    assert!(body["faults"][0]["what"].as_str().unwrap().contains(reason), "{body}");
    let (code, said) = reload_by_command(host, &[]);
    assert!(code == Some(1) && said.contains(reason), "{code:?} {said}");
    host.reload();
    assert_eq!(active_agents(host), 1);
    assert_eq!(host.status()["agents"]["faults"], body["faults"]);
    let status = host.status();
    assert_eq!(status["status"], "ok", "what is in force is served");
    let warning = status["warnings"][0].as_str().unwrap();
    assert!(
        warning.contains("agents.d has 1 fault: the last reload was refused, and the 1 agent of "),
        "{warning}"
    );
    assert!(
        warning.ends_with("Correct the files (hostbadge agent check), then hostbadge agent reload"),
        "{warning}"
    );
    let shown = host.hostbadge(&["status"]);
    assert_eq!(shown.status.code(), Some(0));
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.lines().any(|line| line.starts_with("warning ") && line.ends_with(warning)), "{shown}");
    host.token();
}

#[test]
fn agents_stay_while_their_directory_is_missing_empty_or_unreadable() {
    let host = Host::started();
    let (dir, elsewhere) = (host.path("etc/agents.d"), host.path("etc/elsewhere"));
    fs::rename(&dir, &elsewhere).unwrap();
    assert_refused(&host, "does not exist");
    assert_eq!(reload(&host, &["agents"]).0, 422, "an empty directory is meant, a missing one is not");
    // The mount point of a file system that is not mounted.
    fs::create_dir(&dir).unwrap();
    assert_refused(&host, "has no files *.toml, and the daemon keeps its 1 active agent.");
    fs::write(dir.join("root.toml.off"), "").unwrap();
    fs::write(dir.join(".root.toml"), "").unwrap();
    assert_refused(&host, "has no files *.toml, and the daemon keeps its 1 active agent.");
    fs::remove_dir_all(&dir).unwrap();
    fs::write(&dir, "").unwrap();
    assert_refused(&host, "is not a directory");
    fs::remove_file(&dir).unwrap();
    fs::rename(&elsewhere, &dir).unwrap();
    assert_eq!(reload(&host, &[]), (200, json!({ "added": [], "changed": [], "removed": [] })));
    let status = host.status();
    assert_eq!((&status["agents"]["faults"], &status["warnings"]), (&json!([]), &json!([])));
}

#[test]
fn all_agents_are_removed_when_that_is_meant() {
    let host = Host::started();
    fs::remove_file(host.path("etc/agents.d/root.toml")).unwrap();
    let (code, said) = reload_by_command(&host, &["--allow-empty=federation"]);
    assert!(code == Some(1) && said.contains("--allow-empty"), "another directory: {said}");
    let (code, said) = reload_by_command(&host, &["--allow-empty"]);
    assert_eq!((code, said.as_str()), (Some(0), ""), "no advice to do what was done");
    assert_eq!(active_agents(&host), 0);
    assert_eq!(host.post("/v1/token", json!({ "audience": API })).status, 401);
    let lines = host.audit();
    assert!(lines.iter().any(|line| {
        line["event"] == "agents-reloaded" && line["detail"].as_str().unwrap().contains("removed [root]")
    }));
    assert_eq!(reload(&host, &[]).0, 200, "it is empty already");
    let answer = host.admin().post("/v1/agents/reload", &json!({ "allow_empty": ["state"] }));
    assert_eq!((answer.status, answer.error().as_str()), (400, "invalid_request"), "{}", answer.text());
}

#[test]
fn bundles_stay_and_agents_change_while_federation_is_empty() {
    let host = Host::started();
    let dir = host.path("etc/federation");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("example.com.json"), BUNDLE).unwrap();
    assert_eq!(reload(&host, &[]).0, 200);
    for empty in
        [|dir: &Path| fs::remove_file(dir.join("example.com.json")), |dir: &Path| fs::remove_dir(dir)]
    {
        empty(&dir).unwrap();
        let (status, body) = reload(&host, &["agents"]);
        assert_eq!((status, &body["faults"][0]["file"]), (422, &json!(dir)), "{body}");
        let status = host.status();
        assert_eq!(status["federation"]["trust_domains"], json!(["example.com"]));
        let warning = status["warnings"][0].as_str().unwrap();
        assert!(warning.starts_with("federation has 1 fault: the 1 bundle read before stay"), "{warning}");
    }
    host.agent("second", "user = 4711");
    assert_eq!(reload(&host, &[]).0, 422);
    assert_eq!(active_agents(&host), 2, "the agents have no fault");
    let lines = host.audit();
    let added = |line: &Value| line["detail"].as_str().unwrap_or_default().contains("added [second]");
    assert!(lines.iter().any(added), "what became active is recorded: {lines:?}");
    assert_eq!(reload_by_command(&host, &["--allow-empty=federation"]).0, Some(0));
    assert_eq!(host.status()["federation"]["trust_domains"], json!([]));
}

#[test]
fn a_daemon_without_its_directory_starts_and_says_so() {
    let mut host = Host::new();
    // Not the directory of a development host, which --dev creates.
    let dir = host.path("etc/agents");
    host.configure(&format!("[paths]\nagents = {dir:?}"));
    host.start();
    let status = host.status();
    assert_eq!(
        (&status["status"], &status["agents"]["loaded"]),
        (&json!("degraded"), &json!(false)),
        "{status}"
    );
    assert!(status["agents"]["faults"][0]["what"].as_str().unwrap().contains("does not exist"), "{status}");
    let shown = host.hostbadge(&["status"]);
    assert_eq!(shown.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&shown.stdout).contains("does not exist"), "{shown:?}");
    until_true("the fault is in the log", || host.log().contains("does not exist"));
    assert_eq!(host.post("/v1/token", json!({ "audience": API })).status, 503);

    // A package that was just installed.
    fs::create_dir(&dir).unwrap();
    assert_eq!(reload(&host, &[]).0, 200);
    let status = host.status();
    assert_eq!((&status["status"], &status["agents"]["loaded"]), (&json!("ok"), &json!(true)), "{status}");
    assert_eq!(host.post("/v1/token", json!({ "audience": API })).status, 401);
}

/// The mount point of a file system that is not mounted is empty too.
#[test]
fn a_directory_that_is_empty_at_the_start_revokes_nothing_until_that_is_meant() {
    let mut host = Host::started();
    assert_eq!(host.post("/v1/certificate", json!({})).status, 200);
    host.stop();
    fs::remove_file(host.path("etc/agents.d/root.toml")).unwrap();
    host.start();
    assert_eq!(reload(&host, &[]).0, 200);
    let is_revoked = || host.audit().iter().any(|line| line["event"] == "certificates-revoked");
    assert!(!is_revoked());
    assert_eq!(reload(&host, &["agents"]).0, 200);
    until_true("the certificate is revoked", is_revoked);
}

#[test]
fn a_check_of_what_is_not_there_is_no_success() {
    let host = Host::new();
    let run = |words: &[&str]| -> Output { host.hostbadge(words) };
    let missing = host.path("etc/agent.d");
    let check = run(&["agent", "check", missing.to_str().unwrap()]);
    assert!(!check.status.success() && String::from_utf8_lossy(&check.stderr).contains("does not exist"));
    let json = run(&["--json", "agent", "check", missing.to_str().unwrap()]);
    assert!(!json.status.success());
    let body: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((&body["error"], &body["faults"][0]["file"]), (&json!("invalid_request"), &json!(missing)));
    fs::create_dir(&missing).unwrap();
    fs::set_permissions(&missing, Permissions::from_mode(0o755)).unwrap();
    let empty = run(&["agent", "check", missing.to_str().unwrap()]);
    assert!(empty.status.success(), "a package that was just installed: {empty:?}");
    assert!(String::from_utf8_lossy(&empty.stderr).contains("no files *.toml"), "{empty:?}");
}

#[test]
fn a_check_creates_nothing() {
    let host = Host::new();
    let (dir, dev) = (host.path(""), host.path("dev"));
    let check = |dir: &Path| {
        let mut command = std::process::Command::new(crate::common::program("hostbadged"));
        command.args(["--check", "--dev"]).arg(dir).stderr(Stdio::piped()).output().unwrap()
    };
    let output = check(&dev);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("is no development host"), "{output:?}");
    assert!(!dev.exists());
    assert!(fs::read_dir(&dir).unwrap().count() > 0);
    fs::create_dir(&dev).unwrap();
    assert_eq!(check(&dev).status.code(), Some(2));
    assert_eq!(fs::read_dir(&dev).unwrap().count(), 0);
}
