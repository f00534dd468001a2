//! `hostbadge audit query`: its filters, by the daemon and by an index, which may be missing, damaged or wrong.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::common::{API, Host, audit_log, program};

/// `hostbadge audit query` of a running host.
fn query(host: &Host, words: &[&str]) -> Vec<Value> {
    records(host.hostbadge(&[&["audit", "query", "--json"], words].concat()))
}

/// The same of a directory, without a daemon.
fn query_dir(dir: &Path, words: &[&str]) -> Vec<Value> {
    let mut command = Command::new(program("hostbadge"));
    command
        .args(["audit", "query", "--json", "--admin-socket", "/nonexistent", "--dir"])
        .arg(dir)
        .args(words);
    records(command.output().unwrap())
}

fn records(output: Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn index(dir: &Path) -> PathBuf {
    audit_log::files(dir)[0].with_extension("index")
}

#[test]
fn every_filter_finds_its_records_by_the_daemon_and_by_the_files() {
    let mut host = Host::new();
    host.agents_file(
        "owned",
        &format!(
            "name = \"owned\"\nowner = \"team@example.com\"\ntenant = \"acme\"\n[match]\nuser = 0\n[[grant]]\n\
             audience = \"{API}\"\n"
        ),
    );
    host.start();
    for _ in 0..3 {
        host.token();
    }
    let response = host.post("/v1/token", json!({ "audience": "https://other.example" }));
    let correlation = response.header("traceresponse").unwrap()[3..35].to_owned();
    host.post("/v1/certificate", json!({}));
    let all = host.audit();
    let issued: Vec<&Value> = all.iter().filter(|line| line["event"] == "token-issued").collect();
    let last = issued.last().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let invocation = text(&last["peer"]["invocation"]);
    let serial = text(&all.iter().find(|line| line["serial"].is_string()).unwrap()["serial"]);
    let (jti, pid) = (text(&last["jti"]), std::process::id().to_string());
    let tokens = issued.len();
    let filters: [(&[&str], Option<usize>); 14] = [
        (&[], None),
        (&["--agent", "owned"], None),
        (&["--agent", "other"], Some(0)),
        (&["--owner", "team@example.com"], None),
        (&["--tenant", "acme", "--event", "token-issued"], Some(tokens)),
        (&["--instance", &invocation, "--event", "token-issued"], Some(tokens)),
        (&["--instance", &invocation, "--reason", "invalid_target"], Some(1)),
        (&["--instance", &pid, "--audience", API], Some(tokens)),
        (&["--audience", "https://other.example"], Some(1)),
        (&["--reason", "slow_down"], Some(0)),
        (&["--token-id", &jti], Some(1)),
        (&["--serial", &serial], Some(1)),
        (&["--correlation", &correlation], Some(1)),
        (&["--since", "1h", "--until", "2020-01-01T00:00:00Z"], Some(0)),
    ];
    let dir = host.path("audit");
    for (words, expected) in filters {
        let found = query(&host, words);
        assert_eq!(query_dir(&dir, words), found, "{words:?}");
        assert_eq!(query_dir(&dir, &[words, &["--no-index"]].concat()), found, "{words:?}");
        let tail = host.hostbadge(&[&["audit", "tail", "--json", "-n", "1000"], words].concat());
        assert_eq!(records(tail), found, "{words:?}");
        match expected {
            Some(expected) => assert_eq!(found.len(), expected, "{words:?}: {found:?}"),
            None => assert!(found.len() > tokens, "{words:?}"),
        }
    }
    let newest = query(&host, &["-n", "2"]);
    assert_eq!(newest, all[all.len() - 2..]);
    let unknown = host.hostbadge(&["audit", "query", "--event", "no-such\u{1b}event"]);
    assert!(!unknown.status.success());
    assert!(!unknown.stderr.contains(&0x1b));
}

#[test]
fn an_index_is_made_again_where_it_is_missing_damaged_or_older() {
    let mut host = Host::started();
    host.token();
    host.stop();
    let dir = host.path("audit");
    let all = query_dir(&dir, &[]);
    let good = fs::read(index(&dir)).unwrap();
    for damaged in [&b""[..], b"x", &good[..good.len() / 2], &[0xff; 4096]] {
        fs::write(index(&dir), damaged).unwrap();
        assert_eq!(query_dir(&dir, &[]), all);
        assert_eq!(fs::read(index(&dir)).unwrap(), good);
    }
    fs::remove_file(index(&dir)).unwrap();
    assert_eq!(query_dir(&dir, &["--no-index"]), all);
    assert!(!index(&dir).exists(), "made without being wanted");
    assert_eq!(query_dir(&dir, &[]), all);
    assert!(index(&dir).exists());

    // The log goes on, and the index with it.
    host.start();
    host.token();
    host.stop();
    let later = query_dir(&dir, &[]);
    assert!(later.len() > all.len() && later.starts_with(&all));
    // The daemon does not mind the index, and the log is whole with it.
    assert!(!audit_log::text(&dir).contains("audit-torn"));
    audit_log::files(&dir).iter().for_each(|file| fs::remove_file(file).unwrap());
    assert!(query_dir(&dir, &[]).is_empty());
    let is_index = |path: PathBuf| path.extension().is_some_and(|extension| extension == "index");
    let indices = fs::read_dir(&dir).unwrap().filter(|item| is_index(item.as_ref().unwrap().path())).count();
    assert_eq!(indices, 0, "an index without its file is removed");
}

#[test]
fn a_directory_that_does_not_exist_is_an_error() {
    let mut command = Command::new(program("hostbadge"));
    let output = command.args(["audit", "query", "--dir", "/nonexistent"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nonexistent"));
}
