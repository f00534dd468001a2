//! Sealed credentials: stored by root, released to agents, and unreadable anywhere else.

use std::fs;
use std::process::{Command, Output, Stdio};

use crate::common::{Host, until, until_true};
use serde_json::{Value, json};

const VALUE: &str = "sk-correct-horse-battery-staple";

fn hostbadge(host: &Host, words: &[&str], input: &str) -> Output {
    use std::io::Write;
    let mut child = Command::new(env!("CARGO_BIN_EXE_hostbadge"))
        .args(words)
        .env("HOSTBADGE_SOCKET", host.agent_socket())
        .env("HOSTBADGE_ADMIN_SOCKET", host.admin_socket())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that does not read its input may have exited already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

#[track_caller]
fn done(host: &Host, words: &[&str], input: &str) -> String {
    let output = hostbadge(host, words, input);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn refused(host: &Host, words: &[&str], input: &str) -> String {
    let output = hostbadge(host, words, input);
    assert_eq!(output.status.code(), Some(1), "{words:?}: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).unwrap()
}

/// A running host on which every process of uid 0 is an agent that may have `github` and use `stripe`.
fn host() -> Host {
    let mut host = Host::new();
    agent(&host, "root", "");
    host.start();
    host
}

fn agent(host: &Host, name: &str, more: &str) {
    let text = format!(
        "name = \"{name}\"\n{more}\n[match]\nuser = 0\n[[credential]]\nname = \"github\"\nuse = \"release\"\n\
         [[credential]]\nname = \"stripe\"\n"
    );
    host.agents_file(name, &text);
}

fn release(host: &Host, name: &str) -> Value {
    let response = host.post("/v1/credential", json!({ "name": name }));
    assert_eq!(response.status, 200, "{}", response.error());
    response.json()
}

fn restart(host: &mut Host) {
    host.stop();
    host.start();
}

fn blocked_reason(host: &Host) -> String {
    host.status()["credentials"]["blocked_reason"].as_str().unwrap_or_default().to_owned()
}

/// The files of the state directory and the audit log that contain `text`.
fn files_with(host: &Host, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut dirs = vec![host.path("state"), host.path("audit"), host.path("run")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                dirs.push(entry.path());
            } else if kind.is_file() {
                let content = fs::read(entry.path()).unwrap();
                if content.windows(text.len()).any(|window| window == text.as_bytes()) {
                    found.push(entry.path().display().to_string());
                }
            }
        }
    }
    found
}

#[test]
fn a_stored_credential_is_released_to_its_agent_also_after_a_restart() {
    let mut host = host();
    let unknown = host.post("/v1/credential", json!({ "name": "github" }));
    assert_eq!((unknown.status, unknown.error().as_str()), (400, "invalid_target"));
    assert!(done(&host, &["credential", "put", "github"], &format!("{VALUE}\n")).contains("version 1"));
    let released = release(&host, "github");
    assert_eq!((&released["value"], &released["version"]), (&json!(VALUE), &json!(1)));
    assert_eq!(done(&host, &["credential", "get", "github"], ""), VALUE);
    restart(&mut host);
    assert_eq!(release(&host, "github")["value"], VALUE);
    assert_eq!(files_with(&host, VALUE), Vec::<String>::new());

    let audit = host.audit();
    let with_event =
        |name: &str| -> Vec<&Value> { audit.iter().filter(|line| line["event"] == name).collect() };
    let released = with_event("credential-released");
    assert_eq!(released.len(), 3);
    assert_eq!((&released[0]["agent"], &released[0]["credential"]), (&json!("root"), &json!("github")));
    assert_eq!(released[0]["credential_version"], 1);
    let stored = with_event("credential-stored");
    assert!(stored[0]["detail"].as_str().unwrap().ends_with("stored version 1 of the credential github"));
    assert_eq!(stored.len(), 1);
    let refused = with_event("request-refused");
    assert_eq!(
        (&refused[0]["reason"], &refused[0]["credential"]),
        (&json!("invalid_target"), &json!("github"))
    );
}

#[test]
fn only_the_agents_own_tables_and_tenant_count() {
    let host = host();
    for name in ["github", "stripe", "other"] {
        done(&host, &["credential", "put", name], VALUE);
    }
    done(&host, &["credential", "put", "github", "--tenant", "acme"], "of-acme");
    assert_eq!(release(&host, "github")["value"], VALUE);
    let inject = host.post("/v1/credential", json!({ "name": "stripe" }));
    assert_eq!((inject.status, inject.error().as_str()), (403, "access_denied"));
    assert_eq!(host.post("/v1/credential", json!({ "name": "other" })).error(), "invalid_target");
    assert_eq!(host.post("/v1/credential", json!({ "name": "../x" })).error(), "invalid_request");

    agent(&host, "root", "tenant = \"acme\"");
    done(&host, &["agent", "reload"], "");
    assert_eq!(release(&host, "github")["value"], "of-acme");
    let listed: Value = serde_json::from_str(&done(&host, &["credential", "list", "--json"], "")).unwrap();
    let agents_of = |tenant: &Value| {
        let found =
            listed.as_array().unwrap().iter().find(|c| c["name"] == "github" && c["tenant"] == *tenant);
        found.unwrap()["agents"].clone()
    };
    assert_eq!(agents_of(&Value::Null), json!([]));
    assert_eq!(agents_of(&json!("acme")), json!([{ "agent": "root", "use": "release" }]));
    assert!(!listed.to_string().contains(VALUE));
}

#[test]
fn rotation_keeps_the_previous_version_for_the_overlap_and_removal_destroys_it() {
    let host = host();
    done(&host, &["credential", "put", "github"], "first-value");
    let exists = refused(&host, &["credential", "put", "github"], "x");
    assert!(exists.contains("hostbadge credential rotate"), "{exists}");
    done(&host, &["credential", "rotate", "github", "--overlap", "1h"], "second-value");
    assert_eq!(release(&host, "github")["value"], "second-value");
    let previous = host.post("/v1/credential", json!({ "name": "github", "version": 1 }));
    assert_eq!(previous.json()["value"], "first-value");
    done(&host, &["credential", "rotate", "github"], "third-value");
    assert_eq!(
        host.post("/v1/credential", json!({ "name": "github", "version": 2 })).error(),
        "invalid_target"
    );
    let shown = done(&host, &["credential", "show", "github"], "");
    assert!(shown.contains("3, 11 bytes") && shown.contains("root, gets the value"), "{shown}");
    done(&host, &["credential", "rm", "github"], "");
    assert_eq!(host.post("/v1/credential", json!({ "name": "github" })).error(), "invalid_target");
    assert!(refused(&host, &["credential", "rm", "github"], "").contains("no credential of this name"));
    done(&host, &["credential", "put", "github", "--expires", "1s"], "short-lived");
    until_true("the credential expires", || {
        host.post("/v1/credential", json!({ "name": "github" })).status == 403
    });
}

#[test]
fn bad_values_are_refused_and_nothing_is_stored() {
    let host = host();
    let large = "x".repeat(65_537);
    let cases = [("", "empty"), ("a\0b", "NUL"), (large.as_str(), "65537 bytes")];
    for (value, expected) in cases {
        let request = json!({ "name": "github", "value": value });
        let response = host.admin().post("/v1/credentials/put", &request);
        let description = response.json()["error_description"].to_string();
        assert!(response.status == 400 && description.contains(expected), "{description}");
    }
    let request = json!({ "name": "github", "value": "x".repeat(1_000_000) });
    assert_eq!(host.admin().post("/v1/credentials/put", &request).status, 413);
    let typo = host.admin().post("/v1/credentials/put", &json!({ "name": "github", "valeu": VALUE }));
    assert!(typo.status == 400 && !typo.json().to_string().contains(VALUE));
    assert_eq!(host.status()["credentials"]["stored"], 0);
    let largest = "\u{1}".repeat(65_536);
    let request = json!({ "name": "github", "value": largest });
    assert_eq!(host.admin().post("/v1/credentials/put", &request).status, 200);
    assert_eq!(release(&host, "github")["value"], json!(largest));
}

/// An older copy of the database is not used until root accepts it, and tokens do not depend on it.
#[test]
fn an_older_or_damaged_database_is_refused_until_it_is_accepted() {
    let mut host = host();
    done(&host, &["credential", "put", "github"], "first-value");
    let database = host.path("state/credentials.db");
    let older = fs::read(&database).unwrap();
    done(&host, &["credential", "rotate", "github"], "second-value");
    host.stop();
    let latest = fs::read(&database).unwrap();
    fs::write(&database, &older).unwrap();
    host.start();
    let reason = blocked_reason(&host);
    assert!(reason.contains("credentials.db is not what this host wrote last"), "{reason}");
    let status = host.status();
    assert_eq!((&status["status"], host.health()["status"].as_str()), (&json!("degraded"), Some("degraded")));
    assert_eq!(status["warnings"], json!([format!("requests for sealed credentials are refused: {reason}")]));
    assert_eq!(hostbadge(&host, &["status"], "").status.code(), Some(4));
    assert_eq!(host.post("/v1/credential", json!({ "name": "github" })).status, 503);
    assert!(refused_or_unavailable(&host, &["credential", "put", "stripe"]).contains("credential accept"));
    assert_eq!(host.get("/v1/whoami").status, 200);
    // The latest copy is put back, and found without a restart.
    fs::write(&database, &latest).unwrap();
    until_true("the latest database is open", || blocked_reason(&host).is_empty());
    let status = host.status();
    assert_eq!((&status["status"], &status["warnings"]), (&json!("ok"), &json!([])));
    assert_eq!(release(&host, "github")["value"], "second-value");

    host.stop();
    fs::write(&database, &older).unwrap();
    host.start();
    assert!(done(&host, &["credential", "accept"], "").contains("with 1 credential;"));
    assert_eq!(release(&host, "github")["value"], "first-value");
    restart(&mut host);
    assert_eq!(release(&host, "github")["value"], "first-value");

    host.stop();
    fs::write(&database, &older[..older.len() / 2]).unwrap();
    host.start();
    let reason = blocked_reason(&host);
    assert!(reason.contains("credentials.db") && reason.contains("backup"), "{reason}");
    fs::remove_file(&database).unwrap();
    until_true("the database is missing", || blocked_reason(&host).contains("is missing"));
    assert!(done(&host, &["credential", "accept"], "").contains("with 0 credentials;"));
    done(&host, &["credential", "put", "github"], "new-value");
    assert_eq!(release(&host, "github")["value"], "new-value");
}

fn refused_or_unavailable(host: &Host, words: &[&str]) -> String {
    let output = hostbadge(host, words, VALUE);
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

/// A recovery key makes a new key-encryption key, under which the compartments are encrypted again.
#[test]
fn credentials_survive_a_new_key_encryption_key() {
    let mut host = host();
    done(&host, &["credential", "put", "github"], VALUE);
    let before = fs::read(host.path("state/credentials.db")).unwrap();
    done(&host, &["key", "recovery"], "");
    until("the compartments are encrypted again", || {
        (fs::read(host.path("state/credentials.db")).unwrap() != before).then_some(())
    });
    done(&host, &["key", "recovery"], "");
    restart(&mut host);
    assert_eq!(release(&host, "github")["value"], VALUE);
}

#[test]
fn an_environment_file_is_imported_variable_by_variable() {
    let host = host();
    let file = host.path("agent.env");
    let path = file.to_str().unwrap();
    fs::write(&file, "# keys\nGITHUB=\"from the file\"\nSTRIPE=x\n").unwrap();
    let report = done(&host, &["credential", "import", "--env-file", path, "--remove"], "");
    assert!(report.contains("stored github, stripe"), "{report}");
    assert!(!file.exists());
    assert_eq!(release(&host, "github")["value"], "from the file");
    fs::write(&file, "OTHER=y\nSTRIPE=z\n").unwrap();
    let failure = refused(&host, &["credential", "import", "--env-file", path, "--remove"], "");
    assert!(failure.contains("nothing was stored") && failure.contains("stripe"), "{failure}");
    assert!(file.exists() && !done(&host, &["credential", "list"], "").contains("other"));
}

/// A change that cannot be written is not acknowledged, and the credential stays as it was.
#[test]
fn a_change_that_cannot_be_written_changes_nothing() {
    let mut host = host();
    done(&host, &["credential", "put", "github"], "first-value");
    // SQLite's journal cannot be created where a directory has its name.
    let journal = host.path("state/credentials.db-journal");
    fs::create_dir(&journal).unwrap();
    let refused = hostbadge(&host, &["credential", "rotate", "github"], "second-value");
    assert!(!refused.status.success());
    assert_eq!(release(&host, "github")["value"], "first-value");
    fs::remove_dir(&journal).unwrap();
    restart(&mut host);
    assert_eq!(release(&host, "github")["value"], "first-value");
    done(&host, &["credential", "rotate", "github"], "third-value");
    assert_eq!(release(&host, "github")["value"], "third-value");
}
