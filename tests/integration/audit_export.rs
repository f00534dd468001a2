//! `hostbadge audit export`: OCSF by its published schema, OTLP by its definition in protobuf, and a collector at a Unix
//! socket that stalls, refuses and comes back.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use serde_json::{Value, json};

use crate::common::libraries::python_with;
use crate::common::processes::Running;
use crate::common::{API, Host, audit_log, program, until_true};

/// The host's log by `hostbadge audit export` with these words.
fn export(host: &Host, words: &[&str]) -> String {
    let output = host.hostbadge(&[&["audit", "export"], words].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Gives text to a program of `tests/clients`.
fn judge(python: &Path, script: &str, args: &[&str], text: &str) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(script);
    let mut command = Command::new(python);
    command.arg(script).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let text = text.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output().unwrap();
    let _ = writer.join();
    output
}

/// A host whose log has a record of each kind that a test can make at once.
fn busy_host() -> Host {
    let mut host = Host::new();
    host.agents_file(
        "owned",
        &format!(
            "name = \"owned\"\nowner = \"team@example.com\"\ntenant = \"acme\"\n[match]\nuser = 0\n[[grant]]\n\
             audience = \"{API}\"\n[[credential]]\nname = \"key\"\nuse = \"release\"\n"
        ),
    );
    host.agents_file("other", "name = \"other\"\n[match]\nuser = 12345\n");
    host.start();
    let token = host.token();
    host.introspect(&token);
    host.post("/v1/token", json!({ "audience": "https://other.example" }));
    host.post("/v1/token", json!({ "audience": "\u{1b}[2J\"\n" }));
    host.post("/v1/certificate", json!({}));
    host.post("/v1/credential", json!({ "name": "none" }));
    host.post("/v1/revoke", json!({ "token": token }));
    host.post("/v1/attest", json!({ "nonce": "AAAAAAAAAAAAAAAAAAAAAA" }));
    host.admin().post("/v1/agents/reload", &json!({}));
    host.admin().post("/v1/revocations/revoke", &json!({ "agent": "other", "reason": "x" }));
    host
}

/// A record of every event, as a log could have them.
fn every_event() -> String {
    let source =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/audit/event.rs")).unwrap();
    let names: Vec<&str> = source
        .lines()
        .filter_map(|line| line.strip_prefix("    ")?.split(" \"").nth(1)?.strip_suffix('"'))
        .collect();
    assert!(names.len() > 50, "{names:?}");
    let mut text = String::new();
    let bare = |seq: usize, name: &str| {
        format!(
            "{{\"v\":1,\"seq\":{seq},\"prev\":\"{}\",\"time\":\"2026-11-26T10:00:00.000000Z\",\"event\":\"{name}\"",
            "0".repeat(64)
        )
    };
    let peer = ",\"agent\":\"a\",\"kid\":\"k\",\"exp\":1795700000,\"peer\":{\"pid\":1,\"uid\":2,\"gid\":3,\"unit\":null,\
                \"invocation\":null,\"exe\":\"/\",\"exe_sha256\":null,\"pinned\":false}";
    for (at, name) in names.iter().chain(&["an-event-of-a-later-version"]).enumerate() {
        text += &format!("{}}}\n", bare(2 * at + 1, name));
        text += &format!("{}{peer}}}\n", bare(2 * at + 2, name));
    }
    text
}

#[test]
fn ocsf_events_are_valid_by_the_published_schema() {
    let python = python_with("ocsf", &["ocsf-json-schema==1.2.0", "jsonschema==4.25.1"]);
    let host = busy_host();
    let events = export(&host, &["--format", "ocsf"]);
    let output = judge(&python, "ocsf.py", &["1.8.0"], &events);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let counts: Value = serde_json::from_slice(&output.stdout).unwrap();
    for class in ["authentication", "api_activity", "entity_management", "application_lifecycle"] {
        assert!(counts[class].as_u64().is_some_and(|count| count > 0), "{class}: {counts}");
    }
    // The judge does refuse: an event without an attribute that its class requires.
    let first: Value = serde_json::from_str(events.lines().next().unwrap()).unwrap();
    for name in ["metadata", "severity_id", "time"] {
        let mut without = first.clone();
        without.as_object_mut().unwrap().remove(name);
        assert!(!judge(&python, "ocsf.py", &["1.8.0"], &without.to_string()).status.success(), "{name}");
    }
    let log = audit_log::text(&host.path("audit"));
    for (event, line) in events.lines().zip(log.lines()) {
        let event: Value = serde_json::from_str(event).unwrap();
        assert_eq!(event["raw_data"], line, "the line is in the event");
    }

    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(format!("{:020}.jsonl", 1)), every_event()).unwrap();
    let mut command = Command::new(program("hostbadge"));
    command.args(["audit", "export", "--format", "ocsf", "--dir"]).arg(dir.path());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let events = String::from_utf8(output.stdout).unwrap();
    assert_eq!(events.lines().count(), every_event().lines().count());
    assert!(!events.contains("\"device\""), "the host of a copy is not known");
    let output = judge(&python, "ocsf.py", &["1.8.0"], &events);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn otlp_requests_are_valid_by_the_protocols_definition() {
    let python = python_with("otlp", &["opentelemetry-proto==1.45.2"]);
    let host = busy_host();
    let file = host.path("logs.json");
    export(&host, &["--format", "otlp", "--output", file.to_str().unwrap()]);
    let output = judge(&python, "otlp.py", &[], &fs::read_to_string(&file).unwrap());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Vec<Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let expected: Vec<Value> = host
        .audit()
        .iter()
        .map(|record| {
            let trace = record.get("correlation_id").cloned().unwrap_or_else(|| json!(""));
            let event = format!("hostbadge.{}", record["event"].as_str().unwrap());
            json!({"event": event, "trace": trace, "seq": record["seq"]})
        })
        .collect();
    assert_eq!(found, expected);
}

/// A collector that answers as it is told, and tells which records it has taken.
struct Collector {
    socket: PathBuf,
    answers: Sender<&'static str>,
    taken: Receiver<Vec<u64>>,
}

const ACCEPT: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
const BUSY: &str = "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n";
const HANG_UP: &str = "";

impl Collector {
    fn start(socket: PathBuf) -> Collector {
        let listener = UnixListener::bind(&socket).unwrap();
        let (answers, told) = channel();
        let (tell, taken) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let Some(seqs) = read_request(&mut stream) else { continue };
                // Without an answer to give, the client waits.
                let Ok(answer) = told.recv() else { return };
                // A client that has given up does not get the answer.
                let is_answered = stream.write_all(str::as_bytes(answer)).is_ok();
                if is_answered && answer == ACCEPT && tell.send(seqs).is_err() {
                    return;
                }
            }
        });
        Collector { socket, answers, taken }
    }
}

/// The numbers of the records of one request.
fn read_request(stream: &mut UnixStream) -> Option<Vec<u64>> {
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut text = Vec::new();
    loop {
        let mut block = [0; 65536];
        let length = stream.read(&mut block).ok().filter(|length| *length > 0)?;
        text.extend_from_slice(&block[..length]);
        let Some(head) = text.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let lines = String::from_utf8_lossy(&text[..head]).to_ascii_lowercase();
        assert!(lines.starts_with("post /v1/logs http/1.1"), "{lines}");
        let body: usize =
            lines.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
        if text.len() >= head + 4 + body {
            let request: Value = serde_json::from_slice(&text[head + 4..]).unwrap();
            let logs = request["resourceLogs"][0]["scopeLogs"][0]["logRecords"].as_array().unwrap().clone();
            let seq = |log: &Value| {
                let attributes = log["attributes"].as_array().unwrap();
                let seq = attributes.iter().find(|found| found["key"] == "hostbadge.seq").unwrap();
                seq["value"]["intValue"].as_str().unwrap().parse().unwrap()
            };
            return Some(logs.iter().map(seq).collect());
        }
    }
}

#[test]
fn a_collector_that_refuses_and_hangs_up_gets_every_record_and_the_cursor_continues() {
    let host = busy_host();
    let collector = Collector::start(host.path("collector.sock"));
    for answer in [BUSY, HANG_UP, ACCEPT] {
        collector.answers.send(answer).unwrap();
    }
    let cursor = host.path("cursor");
    let words = |more: &[&str]| -> Vec<String> {
        let given = ["audit", "export", "--format", "otlp", "--to"].map(String::from).to_vec();
        let places =
            [collector.socket.display().to_string(), "--cursor".into(), cursor.display().to_string()];
        [given, places.to_vec(), more.iter().map(|word| (*word).to_owned()).collect()].concat()
    };
    let run = |words: &[String]| host.hostbadge(&words.iter().map(String::as_str).collect::<Vec<_>>());
    let output = run(&words(&[]));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("trying again"), "{said}");
    let all: Vec<u64> = host.audit().iter().map(|record| record["seq"].as_u64().unwrap()).collect();
    assert_eq!(collector.taken.recv().unwrap(), all);
    let noted: Value = serde_json::from_str(&fs::read_to_string(&cursor).unwrap()).unwrap();
    assert_eq!(noted, json!({"version": 1, "seq": all.last().unwrap()}));

    host.token();
    collector.answers.send(ACCEPT).unwrap();
    assert!(run(&words(&[])).status.success());
    let next = collector.taken.recv().unwrap();
    assert_eq!(next.first(), Some(&(all.last().unwrap() + 1)));

    // One that refuses for good is not asked again, and the cursor stays.
    host.token();
    let before = fs::read_to_string(&cursor).unwrap();
    collector.answers.send("HTTP/1.1 400 Bad Request\r\nContent-Length: 4\r\n\r\n\u{1b}[2J").unwrap();
    let output = run(&words(&[]));
    assert_eq!(output.status.code(), Some(1));
    assert!(!output.stderr.contains(&0x1b));
    assert_eq!(fs::read_to_string(&cursor).unwrap(), before);
}

#[test]
fn a_stalled_collector_is_given_up_without_loss_and_a_follower_waits_for_it() {
    let host = busy_host();
    let collector = Collector::start(host.path("collector.sock"));
    let mut command = Command::new(program("hostbadge"));
    command.args(["audit", "export", "--format", "otlp", "--follow", "--to"]).arg(&collector.socket);
    command.arg("--cursor").arg(host.path("cursor")).stdin(Stdio::null()).stdout(Stdio::null());
    command.env("HOSTBADGE_ADMIN_SOCKET", host.admin_socket());
    command.stderr(fs::File::create(host.path("said")).unwrap());
    let _follower = Running::start(command);
    // It accepts the connection and the request, and says nothing for longer than the 10 s that it gets.
    until_true("the follower has given up waiting for an answer", || {
        fs::read_to_string(host.path("said")).unwrap().contains("no answer within 10 s")
    });
    assert!(!host.path("cursor").exists(), "nothing was delivered");
    // The first answer goes to the connection that was given up.
    for _ in 0..20 {
        collector.answers.send(ACCEPT).unwrap();
    }
    host.token();
    let last = host.audit().last().unwrap()["seq"].as_u64().unwrap();
    let mut seen = std::collections::BTreeSet::new();
    while !seen.contains(&last) {
        seen.extend(collector.taken.recv_timeout(Duration::from_secs(60)).unwrap());
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), (1..=last).collect::<Vec<_>>());
}

#[test]
fn a_file_is_appended_and_a_link_is_not_followed() {
    let host = Host::started();
    let file = host.path("out.json");
    let cursor = host.path("cursor");
    let words =
        ["--format", "json", "--output", file.to_str().unwrap(), "--cursor", cursor.to_str().unwrap()];
    export(&host, &words);
    host.token();
    export(&host, &words);
    assert_eq!(fs::read_to_string(&file).unwrap(), audit_log::text(&host.path("audit")));
    let link = host.path("link");
    std::os::unix::fs::symlink(host.path("target"), &link).unwrap();
    let output = host.hostbadge(&["audit", "export", "--format", "json", "--output", link.to_str().unwrap()]);
    assert!(!output.status.success() && !host.path("target").exists());
    let output = host.hostbadge(&["audit", "export", "--format", "ocsf", "--to", "/nonexistent"]);
    assert_eq!(output.status.code(), Some(1));
}
