//! The Grafana dashboard and the alert rules of `packaging/monitoring`: checked by promtool, and compared with the
//! metrics of a running daemon.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::libraries::promtool;
use crate::common::metrics::{Labels, Metrics};
use crate::common::{Host, until_true};
use serde_json::Value;

const RULES: &str = "prometheus-alerts.yaml";

fn file(below: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(below)
}

fn rules() -> String {
    fs::read_to_string(file("packaging/monitoring").join(RULES)).unwrap()
}

fn dashboard() -> Value {
    serde_json::from_slice(&fs::read(file("packaging/monitoring/grafana-dashboard.json")).unwrap()).unwrap()
}

#[track_caller]
fn check(arguments: &[&str], dir: &Path) -> String {
    let output = Command::new(promtool()).args(arguments).current_dir(dir).output().unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "promtool {arguments:?}: {text}");
    text
}

#[test]
fn the_alert_rules_are_valid_and_fire_when_they_should() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(RULES), rules()).unwrap();
    let tests = fs::read_to_string(file("tests/monitoring/alerts-test.yaml")).unwrap();
    fs::write(dir.path().join("alerts-test.yaml"), &tests).unwrap();
    assert!(check(&["check", "rules", RULES], dir.path()).contains("SUCCESS"));
    assert!(check(&["test", "rules", "alerts-test.yaml"], dir.path()).contains("SUCCESS"));

    // Each alert has a test in which it fires, and is among those of the healthy host.
    let parsed: Value = serde_norway::from_str(&rules()).unwrap();
    let tests: Value = serde_norway::from_str(&tests).unwrap();
    let tests = tests["tests"].as_array().unwrap();
    let guide = fs::read_to_string(file("docs/guide/monitoring.md")).unwrap();
    for rule in parsed["groups"][0]["rules"].as_array().unwrap() {
        let name = &rule["alert"];
        let of_alert = |test: &&Value| {
            test["alert_rule_test"].as_array().unwrap().iter().any(|one| {
                one["alertname"] == *name
                    && one["exp_alerts"].as_array().is_some_and(|alerts| !alerts.is_empty())
            })
        };
        assert!(tests.iter().any(|test| of_alert(&test)), "no test in which {name} fires");
        let healthy = tests[0]["alert_rule_test"].as_array().unwrap();
        assert!(
            healthy.iter().any(|one| one["alertname"] == *name),
            "{name} is not tested on the healthy host"
        );
        let name = name.as_str().unwrap();
        assert!(guide.contains(&format!("`{name}`")), "{name} is not in the guide");
    }
}

#[test]
fn the_dashboard_and_the_rules_use_what_the_daemon_exports() {
    let mut host = Host::new();
    host.agent("root", "user = 0");
    host.configure("[audit]\ncheckpoint_every = \"1s\"\n");
    host.start();
    host.token();
    // Before the first checkpoint, its time is absent.
    until_true("there is a checkpoint", || {
        Metrics::of(&host, "").find("hostbadge_audit_checkpoint_timestamp_seconds").is_some()
    });
    let metrics = Metrics::of(&host, "agents=10");
    let parsed: Value = serde_norway::from_str(&rules()).unwrap();
    let mut expressions = BTreeSet::new();
    collect("expr", &parsed, &mut expressions);
    let of_rules = expressions.len();
    collect("expr", &dashboard(), &mut expressions);
    assert!(of_rules > 25 && expressions.len() > of_rules + 40, "{of_rules} of {}", expressions.len());
    let mut used = BTreeSet::new();
    for expression in &expressions {
        let selectors = selectors(expression);
        assert!(!selectors.is_empty(), "{expression}");
        for (name, labels) in selectors {
            // The host is not enrolled, so it has no certificate.
            let labels: Vec<_> =
                labels.into_iter().filter(|(_, values)| *values != ["host".to_owned()]).collect();
            assert!(metrics.has(&name, &labels), "{name} with {labels:?}, in {expression}");
            used.insert(name);
        }
    }
    // What nobody would look at need not be exported.
    let exported: BTreeSet<String> = metrics
        .starting_with("hostbadge_")
        .into_iter()
        .filter_map(|series| series.split('{').next())
        .filter(|name| !name.ends_with("_bucket") && !name.ends_with("_sum") && !name.ends_with("_count"))
        .map(str::to_owned)
        .collect();
    let unused: Vec<&str> =
        exported.iter().filter(|name| !used.contains(*name)).map(String::as_str).collect();
    assert_eq!(unused, ["hostbadge_audit_last_sequence", "hostbadge_process_virtual_memory_bytes"]);
}

/// The texts that are values of `key` anywhere in a document.
fn collect(key: &str, document: &Value, texts: &mut BTreeSet<String>) {
    match document {
        Value::Object(members) => {
            texts.extend(members.get(key).and_then(Value::as_str).map(str::to_owned));
            members.values().for_each(|value| collect(key, value, texts));
        }
        Value::Array(items) => items.iter().for_each(|value| collect(key, value, texts)),
        _ => {}
    }
}

/// The names of metrics in an expression, each with the values of labels that it selects.
fn selectors(expression: &str) -> Vec<(String, Labels)> {
    let mut found = Vec::new();
    for (start, _) in expression.match_indices("hostbadge_") {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let rest = &expression[start..];
        let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        let labels = match rest[end..].strip_prefix('{').and_then(|labels| labels.split_once('}')) {
            Some((labels, _)) => labels.split(',').filter_map(label).collect(),
            None => Vec::new(),
        };
        found.push((rest[..end].to_owned(), labels));
    }
    found
}

/// A label and the values that a selector names; `None` for variables and negations.
fn label(text: &str) -> Option<(String, Vec<String>)> {
    let (name, value) = text.split_once("=~").or_else(|| text.split_once('='))?;
    let value = value.trim_matches('"');
    (!value.contains('$') && !name.ends_with('!'))
        .then(|| (name.to_owned(), value.split('|').map(str::to_owned).collect()))
}

#[test]
fn panels_of_the_dashboard_do_not_overlap_and_have_titles() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut taken = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in panels {
        let at = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        assert!(
            !panel["title"].as_str().unwrap().is_empty() && ids.insert(panel["id"].as_u64().unwrap()),
            "{panel}"
        );
        assert!(at("x") + at("w") <= 24, "{panel}");
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(taken.insert((x, y)), "{} overlaps another panel", panel["title"]);
            }
        }
    }
    assert!(panels.len() > 25);
}
