//! Sealed credentials: stored by root, released to agents, and unreadable anywhere else.

use std::fs;
use std::process::Command;

use crate::common::processes::output_with;
use crate::common::{Host, until, until_true};
use serde_json::{Value, json};

const VALUE: &str = "sk-correct-horse-battery-staple";

#[track_caller]
fn done(host: &Host, words: &[&str], input: &str) -> String {
    let output = host.hostbadge_with(words, input);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn refused(host: &Host, words: &[&str], input: &str) -> String {
    let output = host.hostbadge_with(words, input);
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
    assert_eq!(host.hostbadge_with(&["status"], "").status.code(), Some(4));
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
    let output = host.hostbadge_with(words, VALUE);
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
    let refused = host.hostbadge_with(&["credential", "rotate", "github"], "second-value");
    assert!(!refused.status.success());
    assert_eq!(release(&host, "github")["value"], "first-value");
    fs::remove_dir(&journal).unwrap();
    restart(&mut host);
    assert_eq!(release(&host, "github")["value"], "first-value");
    done(&host, &["credential", "rotate", "github"], "third-value");
    assert_eq!(release(&host, "github")["value"], "third-value");
}

/// Whatever a disk or a tool left of the database: it is used as it was written, or refused with its name.
#[test]
fn a_database_that_is_torn_at_any_byte_is_refused_or_whole_and_tokens_are_issued() {
    let mut host = Host::new();
    let tables =
        "[[credential]]\nname = \"github\"\nuse = \"release\"\n[[grant]]\naudience = \"https://a\"\n";
    host.agents_file("root", &format!("name = \"root\"\n[match]\nuser = 0\n{tables}"));
    host.start();
    done(&host, &["credential", "put", "github"], VALUE);
    done(&host, &["credential", "put", "other"], &"x".repeat(9000));
    host.stop();
    let database = host.path("state/credentials.db");
    let whole = fs::read(&database).unwrap();
    let length = whole.len();
    let truncated = [0, 1, 15, 16, 99, 100, 512, 1000, 4095, 4096, length / 2, length - 4096, length - 1];
    let cut = truncated.map(|length| (format!("cut to {length} bytes"), whole[..length].to_vec()));
    let changed = (0..12).map(|n| n * length / 12 + 7 * n).chain([16, 18, 28, 44, 96]).map(|at| {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x55;
        (format!("byte {at} changed"), bytes)
    });
    let zeroed = (0..length / 4096).map(|page| {
        let mut bytes = whole.clone();
        bytes[page * 4096..(page + 1) * 4096].fill(0);
        (format!("page {page} zeroed"), bytes)
    });
    let mut longer = whole.clone();
    longer.extend([0xaa; 4096]);
    let other = [("longer".to_owned(), longer), ("not a database".to_owned(), vec![b'x'; length])];
    let (mut refused, mut used) = (0, 0);
    for (what, bytes) in cut.into_iter().chain(changed).chain(zeroed).chain(other) {
        fs::write(&database, &bytes).unwrap();
        host.start();
        let response = host.post("/v1/credential", json!({ "name": "github" }));
        let reason = blocked_reason(&host);
        if response.status == 200 {
            assert!(response.json()["value"] == VALUE && reason.is_empty(), "{what}: {reason}");
            used += 1;
        } else {
            assert_eq!(response.error(), "temporarily_unavailable", "{what}");
            assert!(reason.contains("credentials.db"), "{what}: {reason}");
            refused += 1;
        }
        let token = host.post("/v1/token", json!({ "audience": "https://a" }));
        assert_eq!(token.status, 200, "{what}: {}", token.text());
        // An empty one is what a crash before the first transaction leaves, and gets its tables.
        assert!(bytes.is_empty() || fs::read(&database).unwrap() == bytes, "{what}: the daemon changed it");
        host.crash();
    }
    // Some bytes are not used by SQLite.
    assert!(refused > used && refused >= truncated.len(), "{refused} refused, {used} used");
    fs::write(&database, &whole).unwrap();
    host.start();
    assert_eq!(release(&host, "github")["value"], VALUE);
}

#[test]
fn of_two_administrators_at_once_each_gets_its_own_version_or_a_refusal() {
    let host = host();
    let change = |path: &str, value: String| {
        let response = host.admin().post(path, &json!({ "name": "github", "value": value }));
        (response.status, response.json()["version"].as_u64())
    };
    let at_once = |path: &str, what: &str| -> Vec<(u16, Option<u64>, String)> {
        std::thread::scope(|scope| {
            let change = &change;
            let started: Vec<_> = (0..6)
                .map(|n| {
                    let value = format!("{what} of {n}");
                    scope.spawn(move || {
                        let (status, version) = change(path, value.clone());
                        (status, version, value)
                    })
                })
                .collect();
            started.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    };
    let put = at_once("/v1/credentials/put", "first");
    let stored: Vec<_> = put.iter().filter(|(status, ..)| *status == 200).collect();
    assert!(stored.len() == 1 && put.iter().filter(|(status, ..)| *status == 409).count() == 5, "{put:?}");
    assert_eq!(release(&host, "github")["value"], json!(stored[0].2));
    let rotated = at_once("/v1/credentials/rotate", "second");
    let mut versions: Vec<u64> = rotated.iter().map(|(_, version, _)| version.unwrap()).collect();
    versions.sort_unstable();
    assert_eq!(versions, [2, 3, 4, 5, 6, 7], "each is one version");
    let last = rotated.iter().find(|(_, version, _)| *version == Some(7)).unwrap();
    let released = release(&host, "github");
    assert_eq!((&released["value"], &released["version"]), (&json!(last.2), &json!(7)));
    let changes = host.audit().iter().filter(|line| line["event"] == "credential-stored").count();
    assert_eq!(changes, 7);
}

#[test]
fn the_command_refuses_values_that_cannot_be_stored() {
    let host = host();
    let put = |bytes: &[u8]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hostbadge"));
        command.args(["credential", "put", "github"]).env("HOSTBADGE_ADMIN_SOCKET", host.admin_socket());
        let output = output_with(&mut command, bytes);
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    for (bytes, expected) in [
        (&b""[..], "empty"),
        (b"\n", "empty"),
        (b"a\0b", "NUL"),
        (b"sk-\xff\xfe", "UTF-8"),
        (&[b'x'; 1_000_000], "65536"),
    ] {
        let said = put(bytes);
        assert!(said.contains(expected) && !said.contains("sk-"), "{said}");
    }
    // The body itself is not UTF-8.
    let mut body = br#"{"name":"github","value":"sk-"#.to_vec();
    body.extend(b"\xff\"}");
    let request =
        crate::common::http::request("POST", "/v1/credentials/put", Some("application/json"), &body);
    let response = host.admin().exchange(&request);
    assert!(response.status == 400 && !response.text().contains("sk-"), "{}", response.text());
    assert_eq!(host.status()["credentials"]["stored"], 0);
}

#[test]
fn a_reload_warns_of_credentials_that_are_not_stored() {
    let host = host();
    done(&host, &["credential", "put", "github"], VALUE);
    let reload = || host.admin().post("/v1/agents/reload", &json!({})).json()["warnings"].clone();
    let missing = |warnings: &Value| {
        // Absent where there are none.
        let messages = warnings.as_array().into_iter().flatten();
        let of_credentials = messages.filter(|warning| warning["what"].to_string().contains("not stored"));
        of_credentials.cloned().collect::<Vec<Value>>()
    };
    let warnings = missing(&reload());
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    let message = warnings[0]["what"].as_str().unwrap();
    assert!(message.contains("\"stripe\"") && message.contains("credential put stripe\""), "{message}");
    assert!(warnings[0]["file"].as_str().unwrap().ends_with("root.toml"), "{warnings:?}");
    done(&host, &["credential", "put", "stripe"], VALUE);
    assert_eq!(missing(&reload()), Vec::<Value>::new());
    // Credentials of another tenant are others.
    agent(&host, "root", "tenant = \"acme\"");
    let warnings = missing(&reload());
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0]["what"].as_str().unwrap().contains("--tenant acme"), "{warnings:?}");
}
