//! `GET /v1/metrics` and `hostbadge metrics`: values, formats, and who may read them.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::callers::{Credentials, NOBODY};
use crate::common::libraries::{promtool, python_with};
use crate::common::metrics::Metrics;
use crate::common::{API, Host, until_true};
use serde_json::{Value, json};

/// A group that each Debian has.
const GROUP: (&str, u32) = ("daemon", 1);

#[test]
fn requests_are_counted_by_their_outcome_and_reason() {
    let host = Host::started();
    let before = Metrics::of(&host, "");
    host.token();
    host.token();
    let refused = host.post("/v1/token", json!({ "audience": "https://other.example.com" }));
    assert_eq!(refused.status, 400);
    host.introspect("no token");
    let stranger = Credentials::user(NOBODY).token(&host);
    assert_eq!(stranger.status, 401);
    let after = Metrics::of(&host, "");
    let grown = |series: &str| after.get(series) - before.get(series);
    let requests = |request: &str, outcome: &str, reason: &str| {
        grown(&format!(
            "hostbadge_requests_total{{request=\"{request}\",outcome=\"{outcome}\",reason=\"{reason}\"}}"
        ))
    };
    assert_eq!(requests("access_token", "granted", ""), 2.0);
    assert_eq!(requests("access_token", "refused", "invalid_target"), 1.0);
    assert_eq!(requests("access_token", "refused", "invalid_client"), 1.0);
    assert_eq!(requests("introspection", "granted", ""), 1.0);
    assert_eq!(requests("jwt_svid", "granted", ""), 0.0);
    assert_eq!(grown("hostbadge_request_duration_seconds_count{request=\"access_token\"}"), 4.0);
    let all = "hostbadge_request_duration_seconds_bucket{le=\"+Inf\",request=\"access_token\"}";
    assert_eq!(grown(all), 4.0);
    assert!(grown("hostbadge_request_duration_seconds_sum{request=\"access_token\"}") > 0.0);
    assert_eq!(grown("hostbadge_audit_records_total{event=\"token-issued\"}"), 2.0);
    assert_eq!(grown("hostbadge_audit_records_total{event=\"request-refused\"}"), 2.0);
    assert_eq!(after.get("hostbadge_live_tokens"), 2.0);
}

#[test]
fn a_flood_of_refusals_is_counted_although_it_has_few_records() {
    let host = Host::started();
    let mut connection = host.connect();
    for _ in 0..400 {
        connection.post("/v1/token", &json!({ "audience": "https://other.example.com" }));
    }
    let metrics = Metrics::of(&host, "");
    let refused: f64 = metrics
        .starting_with("hostbadge_requests_total{request=\"access_token\",outcome=\"refused\"")
        .iter()
        .map(|series| metrics.get(series))
        .sum();
    assert_eq!(refused, 400.0);
    let recorded = metrics.get("hostbadge_audit_records_total{event=\"request-refused\"}");
    assert_eq!(metrics.get("hostbadge_unrecorded_refusals_total"), 400.0 - recorded);
}

#[test]
fn the_state_of_the_host_is_shown() {
    let host = Host::started();
    let metrics = Metrics::of(&host, "");
    for (series, value) in [
        ("hostbadge_health{state=\"full\"}", 1.0),
        ("hostbadge_health{state=\"not_issuing\"}", 0.0),
        ("hostbadge_tpm_state{state=\"ready\"}", 1.0),
        ("hostbadge_tpm_state{state=\"owner-auth\"}", 0.0),
        ("hostbadge_agents", 1.0),
        ("hostbadge_keys{kind=\"issuing\",state=\"active\"}", 1.0),
        ("hostbadge_keys{kind=\"host_ca_root\",state=\"active\"}", 1.0),
        ("hostbadge_audit_writable", 1.0),
        ("hostbadge_frozen", 0.0),
        ("hostbadge_audit_disk_problem{problem=\"low_space\"}", 0.0),
        ("hostbadge_build_info{version=\"0.1.0\"}", 1.0),
    ] {
        assert_eq!(metrics.get(series), value, "{series}");
    }
    let now = metrics.get("hostbadge_exposition_timestamp_seconds");
    for series in [
        "hostbadge_key_created_timestamp_seconds{kind=\"issuing\"}",
        "hostbadge_certificate_not_before_timestamp_seconds{certificate=\"issuing_ca\"}",
        "hostbadge_start_time_seconds",
    ] {
        assert!((now - 30.0 * 86_400.0..=now).contains(&metrics.get(series)), "{series}");
    }
    for series in [
        "hostbadge_key_next_step_timestamp_seconds{kind=\"issuing\"}",
        "hostbadge_certificate_not_after_timestamp_seconds{certificate=\"issuing_ca\"}",
    ] {
        assert!(metrics.get(series) > now, "{series}");
    }
    // The kernel's numbers of the same process.
    let statm = fs::read_to_string(format!("/proc/{}/statm", host.pid())).unwrap();
    let pages: f64 = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
    let resident = metrics.get("hostbadge_process_resident_memory_bytes");
    assert!((0.5..2.0).contains(&(pages * 4096.0 / resident)), "{resident} and {pages} pages");
    assert!(metrics.get("hostbadge_tpm_request_duration_seconds_count") > 0.0);
    assert!(metrics.get("hostbadge_process_open_fds") > 5.0);

    assert_eq!(host.hostbadge(&["freeze", "--reason", "a test"]).status.code(), Some(0));
    let frozen = Metrics::of(&host, "");
    assert_eq!(
        (frozen.get("hostbadge_frozen"), frozen.get("hostbadge_health{state=\"not_issuing\"}")),
        (1.0, 1.0)
    );
}

#[test]
fn a_stalled_tpm_is_seen_in_the_metrics() {
    let host = Host::started();
    let tpm = host.swtpm();
    nix::sys::signal::kill(tpm, nix::sys::signal::Signal::SIGSTOP).unwrap();
    until_true("the state is busy", || {
        Metrics::of(&host, "").get("hostbadge_tpm_state{state=\"busy\"}") == 1.0
    });
    nix::sys::signal::kill(tpm, nix::sys::signal::Signal::SIGCONT).unwrap();
    until_true("the state is ready", || {
        Metrics::of(&host, "").get("hostbadge_tpm_state{state=\"ready\"}") == 1.0
    });
}

#[test]
fn written_records_reach_the_disk() {
    let host = Host::started();
    host.token();
    until_true("all records are synced", || {
        Metrics::of(&host, "").get("hostbadge_audit_unsynced_records") == 0.0
    });
    let metrics = Metrics::of(&host, "");
    assert_eq!(metrics.get("hostbadge_audit_last_sequence"), host.audit().len() as f64);
    assert!(metrics.get("hostbadge_audit_sync_duration_seconds_count") > 0.0);
    assert!(metrics.get("hostbadge_audit_write_duration_seconds_count") > 0.0);
}

#[test]
fn checkpoints_are_counted_from_the_last_one_on_and_absent_where_none_are_made() {
    let mut host = Host::new();
    host.agent("root", "user = 0");
    host.configure("[audit]\ncheckpoint_every = \"1s\"\n");
    host.start();
    host.token();
    until_true("all records are covered", || {
        let metrics = Metrics::of(&host, "");
        metrics.find("hostbadge_audit_checkpoint_timestamp_seconds").is_some()
            && metrics.get("hostbadge_audit_uncovered_records") == 0.0
    });
    let metrics = Metrics::of(&host, "");
    let at = metrics.get("hostbadge_audit_checkpoint_timestamp_seconds");
    assert!(at <= metrics.get("hostbadge_exposition_timestamp_seconds"), "{at}");
    assert!(at >= metrics.get("hostbadge_start_time_seconds"), "{at}");
    let failures = metrics.get("hostbadge_audit_checkpoint_failures_total");
    nix::sys::signal::kill(host.swtpm(), nix::sys::signal::Signal::SIGSTOP).unwrap();
    until_true("an attempt fails", || {
        host.token();
        Metrics::of(&host, "").get("hostbadge_audit_checkpoint_failures_total") > failures
    });
    assert!(Metrics::of(&host, "").get("hostbadge_audit_uncovered_records") > 0.0);
    nix::sys::signal::kill(host.swtpm(), nix::sys::signal::Signal::SIGCONT).unwrap();
    until_true("all records are covered", || {
        Metrics::of(&host, "").get("hostbadge_audit_uncovered_records") == 0.0
    });
    host.stop();
    host.configure("[audit]\ncheckpoints = false\n");
    host.start();
    let metrics = Metrics::of(&host, "");
    for name in ["checkpoint_timestamp_seconds", "uncovered_records", "checkpoint_failures_total"] {
        assert_eq!(metrics.find(&format!("hostbadge_audit_{name}")), None, "{name}");
    }
}

#[test]
fn series_of_single_agents_are_bounded() {
    let mut host = Host::new();
    host.configure("[metrics]\nagents = 2\n");
    for (name, uid) in [("first", NOBODY), ("second", NOBODY - 1), ("third", NOBODY - 2)] {
        host.agent(name, &format!("user = {uid}"));
    }
    host.start();
    for uid in [NOBODY, NOBODY - 1, NOBODY - 2, NOBODY - 2] {
        assert_eq!(Credentials::user(uid).token(&host).status, 200);
    }
    let metrics = Metrics::of(&host, "");
    let of = |agent: &str, what: &str| metrics.find(&format!("hostbadge_agent_{what}{{agent=\"{agent}\"}}"));
    assert_eq!(of("third", "granted_total"), Some(2.0));
    assert_eq!((of("third", "live_tokens"), of("second", "granted_total")), (Some(2.0), Some(1.0)));
    assert_eq!(of("first", "granted_total"), None);
    assert_eq!(metrics.starting_with("hostbadge_agent_").len(), 2 * 4);
    let count = |query: &str| Metrics::of(&host, query).starting_with("hostbadge_agent_granted_total").len();
    assert_eq!((count("agents=0"), count("agents=1"), count("agents=1000")), (0, 1, 3));
    let refused = host.admin().get("/v1/metrics?agents=1001");
    assert_eq!(refused.status, 400);
    assert!(refused.text().contains("from 0 to 1000"), "{}", refused.text());
    host.stop();
    host.configure("[metrics]\nagents = 1001\n");
    let check = host.command().arg("--check").output().unwrap();
    assert!(!check.status.success());
}

#[test]
fn the_metrics_group_reads_metrics_and_nothing_else() {
    let mut host = Host::new();
    host.configure(&format!("[metrics]\ngroup = \"{}\"\n", GROUP.0));
    host.agent("root", "user = 0");
    host.start();
    let socket = host.path("run/metrics.sock");
    let metadata = fs::metadata(&socket).unwrap();
    assert_eq!((metadata.mode() & 0o777, metadata.gid()), (0o660, GROUP.1));

    let monitor = Credentials::user(NOBODY).group(GROUP.1);
    let metrics = monitor.curl_at(&socket, "/v1/metrics", &[]);
    assert_eq!(metrics.status, 200, "{}", metrics.text());
    let media_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(metrics.header("content-type"), Some(media_type));
    for (target, arguments) in [
        ("/v1/status", &[][..]),
        ("/v1/agents", &[]),
        ("/v1/audit", &[]),
        ("/v1/freeze", &["-d", "{}"]),
        ("/v1/nothing", &[]),
    ] {
        let refused = monitor.curl_at(&socket, target, arguments);
        assert_eq!(refused.status, 403, "{target}: {}", refused.text());
    }
    // Administrators may use either socket.
    assert_eq!(Credentials::root().curl_at(&socket, "/v1/status", &[]).status, 200);

    // Others cannot connect; if they could, they would be refused and recorded.
    fs::set_permissions(&socket, Permissions::from_mode(0o666)).unwrap();
    let stranger = Credentials::user(NOBODY - 1).curl_at(&socket, "/v1/metrics", &[]);
    assert_eq!(stranger.status, 403);
    let record = host.audit().pop().unwrap();
    assert_eq!((&record["event"], &record["peer"]["uid"]), (&json!("request-refused"), &json!(NOBODY - 1)));
}

#[test]
fn the_textfile_is_replaced_whole() {
    let host = Host::started();
    let file = host.path("hostbadge.prom");
    let path = file.to_str().unwrap();
    for _ in 0..2 {
        let output = host.hostbadge(&["metrics", "--textfile", path]);
        assert!(
            output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(),
            "{output:?}"
        );
    }
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("# TYPE hostbadge_requests_total counter\n"), "{text}");
    assert!(!text.contains("# EOF") && !text.contains("# UNIT"), "{text}");
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o644);
    let beside = fs::read_dir(file.parent().unwrap()).unwrap();
    assert_eq!(
        beside.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains("prom")).count(),
        1
    );

    let missing = host.hostbadge(&["metrics", "--textfile", "/does/not/exist.prom"]);
    assert_eq!(missing.status.code(), Some(1));
    for words in [&["--json"][..], &["--format", "openmetrics"]] {
        let both = host.hostbadge(&[&["metrics", "--textfile", path], words].concat());
        assert_eq!(both.status.code(), Some(2), "{words:?}");
    }
    let json: Value = serde_json::from_slice(&host.hostbadge(&["metrics", "--json"]).stdout).unwrap();
    let agents = json.as_array().unwrap().iter().find(|sample| sample["name"] == "hostbadge_agents").unwrap();
    assert_eq!(*agents, json!({ "name": "hostbadge_agents", "labels": {}, "value": 1.0 }));
}

/// The reference implementation of OpenMetrics, which is stricter than Prometheus.
const OPENMETRICS: &str = "import sys\n\
    from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse\n\
    families = list(parse(sys.stdin.read()))\n\
    print(len(families), sum(len(family.samples) for family in families))\n";

#[test]
fn both_formats_are_accepted_by_programs_of_the_prometheus_project() {
    let host = Host::started();
    host.token();
    let openmetrics = host.hostbadge(&["metrics", "--agents", "10"]).stdout;
    let python = python_with("openmetrics", &["prometheus-client==0.23.1"]);
    let judged = piped(&python, &["-c", OPENMETRICS], &openmetrics);
    let counts: Vec<usize> = judged.split_whitespace().map(|number| number.parse().unwrap()).collect();
    assert!(counts[0] > 45 && counts[1] > 300, "{judged}");

    let prometheus = host.hostbadge(&["metrics", "--format", "prometheus", "--agents", "10"]).stdout;
    // It also names what does not follow the rules for names.
    assert_eq!(piped(&promtool(), &["check", "metrics"], &prometheus), "");
}

/// The output of a program that reads `input`. Panics unless it succeeds.
#[track_caller]
fn piped(program: &Path, arguments: &[&str], input: &[u8]) -> String {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn a_grant_that_ends_soon_and_a_refused_reload_are_shown() {
    let host = Host::started();
    let reload = || host.admin().post("/v1/agents/reload", &json!({})).status;
    let text = |expires: &str| {
        format!(
            "name = \"root\"\n[match]\nuser = 0\n[[grant]]\naudience = \"{API}\"\nscopes = [\"a\"]\nttl = \"5m\"\n{expires}\n"
        )
    };
    host.agents_file("root", &text("expires = 2020-01-01"));
    assert_eq!(reload(), 200);
    assert_eq!(Metrics::of(&host, "").get("hostbadge_expiring_grants"), 1.0);
    host.agents_file("root", &text("ttll = 1"));
    assert_eq!(reload(), 422);
    let metrics = Metrics::of(&host, "");
    assert!(metrics.get("hostbadge_configuration_faults{source=\"agents\"}") >= 1.0);
    assert!(metrics.get("hostbadge_warnings") >= 1.0);
}
