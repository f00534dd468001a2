//! What an audit record says: clock, request, instance, verdicts, fingerprint; and hostile texts in every output.

use std::fs;
use std::process::{Command, Stdio};

use data_encoding::HEXLOWER;
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

use crate::common::audit_log::{self, with_event};
use crate::common::grpc::Grpc;
use crate::common::http::{self, Response};
use crate::common::{API, Host, until_true};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// A request for a token with further headers.
fn token_with_headers(host: &Host, audience: &str, headers: &str) -> Response {
    let body = json!({ "audience": audience }).to_string();
    let request = http::request("POST", "/v1/token", Some("application/json"), body.as_bytes());
    let text = String::from_utf8(request).unwrap();
    let request = text.replacen("Host: localhost\r\n", &format!("Host: localhost\r\n{headers}"), 1);
    host.connect().exchange(request.as_bytes())
}

fn sha256(bytes: &[u8]) -> String {
    HEXLOWER.encode(digest(&SHA256, bytes).as_ref())
}

/// A host whose agent has an owner and a tenant.
fn owned_host() -> Host {
    let mut host = Host::new();
    host.agents_file(
        "owned",
        &format!(
            "name = \"owned\"\nowner = \"team@example.com\"\ntenant = \"acme\"\n[match]\nuser = 0\n[[grant]]\n\
             audience = \"{API}\"\nscopes = [\"read\"]\n"
        ),
    );
    host.start();
    host
}

#[test]
fn a_record_says_who_asked_for_what_when_and_what_was_handed_out() {
    let host = owned_host();
    let headers = format!("traceparent: 00-{TRACE}-b7ad6b7169203331-01\r\n");
    let response = token_with_headers(&host, API, &headers);
    assert_eq!(response.status, 200, "{}", response.text());
    let answered = response.header("traceresponse").unwrap().to_owned();
    assert!(answered.starts_with(&format!("00-{TRACE}-")), "{answered}");
    let token = response.json()["access_token"].as_str().unwrap().to_owned();
    let refused = token_with_headers(&host, "https://other.example", "");
    let made = refused.header("traceresponse").unwrap()[3..35].to_owned();

    let lines = host.audit();
    let issued = with_event(&lines, "token-issued").pop().unwrap();
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert_eq!(issued["boot_id"], boot_id.trim());
    assert_eq!(issued["correlation_id"], TRACE);
    assert_eq!(issued["span_id"], answered[36..52]);
    assert_eq!(issued["request"], "POST /v1/token");
    assert_eq!(issued["outcome"], "granted");
    assert_eq!((&issued["owner"], &issued["tenant"]), (&json!("team@example.com"), &json!("acme")));
    assert_eq!(issued["verdicts"], json!({"identity": "pass", "privilege": "pass", "context": "pass"}));
    assert_eq!(issued["fingerprint"], sha256(token.as_bytes()));
    assert_eq!(issued["jti"], http::jti(&token));
    assert_eq!(issued["peer"]["pid"], std::process::id());
    assert!(issued["peer"]["invocation"].as_str().is_some_and(|id| id.len() == 32), "{issued}");

    let refusal = with_event(&lines, "request-refused").pop().unwrap();
    assert_eq!((&refusal["correlation_id"], &refusal["outcome"]), (&json!(made), &json!("refused")));
    assert_eq!(refusal.get("span_id"), None);
    assert_eq!(refusal["owner"], "team@example.com");
    assert_eq!(refusal["verdicts"], json!({"identity": "pass", "privilege": "fail", "context": "none"}));

    let mut last = 0;
    for line in &lines {
        let monotonic = line["monotonic_us"].as_u64().unwrap();
        assert!(monotonic >= last, "{line}");
        last = monotonic;
        let is_synchronized = line.get("clock").is_none();
        assert_eq!(line.get("clock_error_us").is_some(), is_synchronized, "{line}");
        assert!(line["outcome"].is_string(), "{line}");
    }
    assert!(!audit_log::text(&host.path("audit")).contains(&token), "a token is in the log");
}

#[test]
fn a_certificate_has_its_usual_fingerprint_and_an_administrators_command_has_its_request() {
    let host = owned_host();
    let response = host.post("/v1/certificate", json!({}));
    assert_eq!(response.status, 200, "{}", response.text());
    let pem = response.json()["certificate_chain"].as_str().unwrap().to_owned();
    let base64: String = pem.lines().skip(1).take_while(|line| !line.starts_with("-----END")).collect();
    let der = data_encoding::BASE64.decode(base64.as_bytes()).unwrap();
    let reply = host.admin().post("/v1/agents/reload", &json!({}));
    assert_eq!(reply.status, 200);
    let correlation = &reply.header("traceresponse").unwrap()[3..35];
    let lines = host.audit();
    let issued = with_event(&lines, "certificate-issued").pop().unwrap();
    assert_eq!(issued["fingerprint"], sha256(&der));
    assert_eq!(issued["request"], "POST /v1/certificate");
    let reloads = with_event(&lines, "agents-reloaded");
    let reload = reloads.iter().find(|line| line["correlation_id"] == *correlation);
    assert_eq!(reload.expect("the reload has a record")["request"], "POST /v1/agents/reload");
}

#[test]
fn hostile_traceparents_give_a_new_id() {
    let host = Host::started();
    let valid = format!("00-{TRACE}-b7ad6b7169203331-01");
    let long = "0".repeat(4000);
    for header in [
        valid.to_uppercase(),
        valid.replace("00-0", "ff-0"),
        valid.replace(TRACE, &"0".repeat(32)),
        format!("{valid}-x"),
        format!("{valid}\",\"event\":\"x"),
        long,
    ] {
        let response = token_with_headers(&host, API, &format!("traceparent: {header}\r\n"));
        assert_eq!(response.status, 200, "{header}");
        let answered = response.header("traceresponse").unwrap();
        assert!(answered.len() == 55 && !answered.contains(TRACE), "{header}: {answered}");
    }
    let twice = format!("traceparent: {valid}\r\ntraceparent: {valid}\r\n");
    let response = token_with_headers(&host, API, &twice);
    assert!(!response.header("traceresponse").unwrap().contains(TRACE));
    let ids: std::collections::HashSet<String> = with_event(&host.audit(), "token-issued")
        .iter()
        .map(|line| line["correlation_id"].to_string())
        .collect();
    assert_eq!(ids.len(), 7, "{ids:?}");
}

/// A host whose log has records with terminal escapes, quotes and newlines wherever a caller can put them, and long
/// ones.
fn host_with_hostile_records() -> Host {
    let host = Host::started();
    let hostile =
        "\u{1b}[2J\u{1b}]0;pwned\u{7}\r\n\"},{\"seq\":1,\"event\":\"host-thawed\"}\u{202e}\u{9b}31m";
    host.post("/v1/token", json!({ "audience": hostile }));
    host.post("/v1/token", json!({ "audience": API, "agent": hostile.repeat(60) }));
    host.post("/v1/token", json!({ "audience": API, "scope": hostile }));
    host.post("/v1/token", json!({ "audience": format!("https://x/{}", "\"'\\<%s>".repeat(500)) }));
    host.introspect(&format!(
        "{}.e30.AA",
        data_encoding::BASE64URL_NOPAD
            .encode(json!({"alg": "ES256", "typ": "at+jwt", "kid": hostile}).to_string().as_bytes())
    ));
    // Audiences of JWT-SVIDs may have any character.
    let client = Grpc::connect(&host.workload_socket());
    assert!(client.jwt(&[hostile], "").is_err());
    assert!(client.jwt(&[&hostile.repeat(5), "\u{1f980}\u{2028}"], "").is_err());
    let large = host.post("/v1/token", json!({ "audience": "x".repeat(1024 * 1024) }));
    assert_eq!(large.status, 413);
    host
}

#[test]
fn hostile_texts_are_bounded_and_escaped_in_every_output() {
    let host = host_with_hostile_records();
    let log = audit_log::text(&host.path("audit"));
    assert!(log.lines().all(|line| line.len() < 8192), "a line is long");
    assert!(!log.chars().any(|c| c.is_control() && c != '\n'), "the log has control characters");
    assert!(!log.contains('\u{202e}'), "the log has characters that reorder text");
    let outputs: [&[&str]; 6] = [
        &["audit", "tail", "-n", "1000"],
        &["audit", "tail", "-n", "1000", "--json"],
        &["audit", "query"],
        &["audit", "query", "--json"],
        &["audit", "export", "--format", "ocsf"],
        &["audit", "export", "--format", "otlp"],
    ];
    let records = host.audit().len();
    for words in outputs {
        let output = host.hostbadge(words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{words:?} has control characters");
        assert!(!text.contains(['\u{202e}', '\u{2028}']), "{words:?} has characters that reorder text");
        let lines = text.lines().count();
        assert!(words.contains(&"otlp") || lines >= records, "{words:?}: {lines} lines of {records} records");
    }
    let refused = host.audit();
    let refused = with_event(&refused, "request-refused");
    let of_audience =
        refused.iter().find(|line| line["audience"].as_str().is_some_and(|a| a.contains("pwned")));
    let audience = of_audience.expect("a refusal has its audience")["audience"].as_str().unwrap().to_owned();
    assert!(
        audience.contains('\n') && audience.contains('\u{1b}'),
        "a reader of the JSON gets the text: {audience:?}"
    );
    let found = host.hostbadge(&["audit", "query", "--json", "--audience", &audience]);
    assert_eq!(String::from_utf8(found.stdout).unwrap().lines().count(), 1);
    until_true("the journal's text has the refusals", || host.log().matches("refused").count() >= 4);
    assert!(!host.log().chars().any(|c| c.is_control() && c != '\n'), "the journal has control characters");
}

/// A log as the release before wrote it.
fn older_log(records: u64) -> String {
    let (mut text, mut prev) = (String::new(), "0".repeat(64));
    for seq in 1..=records {
        let line = format!(
            "{{\"v\":1,\"seq\":{seq},\"prev\":\"{prev}\",\"time\":\"2026-11-25T10:00:{:02}.000000Z\",\
             \"event\":\"token-issued\",\"agent\":\"older\",\"audience\":\"{API}\",\"jti\":\"old-{seq}\",\
             \"exp\":1795600000,\"posture\":\"off\",\"peer\":{{\"pid\":7,\"uid\":1000,\"gid\":1000,\
             \"unit\":\"older.service\",\"invocation\":null,\"exe\":\"/bin/older\",\"exe_sha256\":null,\
             \"pinned\":true}}}}",
            seq % 60
        );
        prev = sha256(line.as_bytes());
        text += &line;
        text.push('\n');
    }
    text
}

#[test]
fn a_log_of_the_release_before_is_continued_in_its_file_and_read() {
    let mut host = Host::new();
    let dir = host.path("audit");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join(format!("{:020}.jsonl", 1)), older_log(500)).unwrap();
    host.agent("root", "user = 0");
    host.start();
    host.token();
    assert_eq!(audit_log::files(&dir).len(), 1, "one file");
    let lines = host.audit();
    assert!(lines.len() > 501 && with_event(&lines, "audit-gap").is_empty());
    assert!(with_event(&lines, "audit-torn").is_empty());
    let older = ["--agent", "older", "--instance", "older.service", "--json", "-n", "1000"];
    for command in ["tail", "query"] {
        let output = host.hostbadge(&[&["audit", command], &older[..]].concat());
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.lines().count(), 500, "{command}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let output = host.hostbadge(&["audit", "export", "--format", "ocsf", "--agent", "older"]);
    let events = String::from_utf8(output.stdout).unwrap();
    let first: Value = serde_json::from_str(events.lines().next().unwrap()).unwrap();
    assert_eq!((&first["class_uid"], &first["status_id"]), (&json!(3002), &json!(1)));
    host.stop();
}

#[test]
fn a_reader_that_knows_no_new_member_reads_the_log() {
    let host = Host::started();
    host.token();
    // The documented form of the release before: version, number and digest first, and the members that it has.
    let dir = host.path("audit");
    let mut jq = Command::new("jq");
    jq.args(["-e", "-c", "select(.v == 1 and .seq > 0 and (.prev | length) == 64 and .time and .event)"]);
    let output = jq.args(audit_log::files(&dir)).stderr(Stdio::inherit()).output().unwrap();
    let lines = String::from_utf8(output.stdout).unwrap().lines().count();
    assert!(output.status.success() && lines > 1);
}
