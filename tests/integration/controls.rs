//! docs/controls.json and docs/threat-model.md name tests and commands: each test exists, and each command works on a
//! host. docs/controls.md has what docs/controls.json says.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde::Deserialize;

use crate::common::{Host, program, require_root};

const CONTROLS: &str = "docs/controls.json";
const CONTROLS_PAGE: &str = "docs/controls.md";
const THREAT_MODEL: &str = "docs/threat-model.md";
/// Write docs/controls.md in place of comparing it.
const WRITE: &str = "HOSTBADGE_WRITE_CONTROLS";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u64,
    about: String,
    frameworks: Vec<Framework>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Framework {
    id: String,
    name: String,
    version: String,
    about: String,
    controls: Vec<Control>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Control {
    id: String,
    title: String,
    /// `met`, `partly` or `not met`.
    state: String,
    /// What the product does for it.
    by: Option<String>,
    #[serde(default)]
    tests: Vec<String>,
    #[serde(default)]
    commands: Vec<String>,
    /// Why it is not met, or not completely.
    reason: Option<String>,
}

fn document() -> Document {
    serde_json::from_str(&fs::read_to_string(CONTROLS).unwrap()).unwrap()
}

fn controls(document: &Document) -> impl Iterator<Item = (&Framework, &Control)> {
    document
        .frameworks
        .iter()
        .flat_map(|framework| framework.controls.iter().map(move |one| (framework, one)))
}

/// Whether `PATH::NAME` is a test that `make test` or `make test-clients` runs: a function with an attribute that makes
/// it one, which is not ignored, or is in a module that `make test-clients` names.
fn is_run(name: &str) -> bool {
    let Some((path, function)) = name.split_once("::") else { return false };
    let Ok(text) = fs::read_to_string(path) else { return false };
    let signature = format!("fn {function}(");
    let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
    let Some(at) = lines.iter().position(|line| line.trim_start_matches("async ").starts_with(&signature))
    else {
        return false;
    };
    let attributes: Vec<&str> =
        lines[..at].iter().rev().copied().take_while(|line| line.starts_with("#[")).collect();
    let has = |wanted: &str| attributes.iter().any(|line| line.starts_with(wanted));
    (has("#[test]") || has("#[tokio::test")) && (!has("#[ignore") || is_run_with_clients(path))
}

/// Whether `make test-clients` runs the ignored tests of a file: its module is among the names of its filter.
fn is_run_with_clients(path: &str) -> bool {
    let Some(module) = path.strip_prefix("tests/integration/").and_then(|name| name.strip_suffix(".rs"))
    else {
        return false;
    };
    let makefile = fs::read_to_string("Makefile").unwrap();
    let recipe = makefile.split("\ntest-clients:").nth(1).and_then(|rest| rest.split("\n\n").next()).unwrap();
    let filter = recipe.split_once("--test integration -- --ignored ").unwrap().1;
    filter.split_whitespace().any(|one| one.strip_suffix("::") == Some(module))
}

#[test]
fn each_control_says_what_shows_it_or_why_it_is_not_met() {
    let document = document();
    assert_eq!(document.version, 1);
    let mut ids = BTreeSet::new();
    for (framework, one) in controls(&document) {
        let name = format!("{} {}", framework.id, one.id);
        assert!(ids.insert(name.clone()), "{name} is there twice");
        let has_evidence = !one.tests.is_empty() || !one.commands.is_empty();
        match one.state.as_str() {
            "met" => assert!(has_evidence && one.by.is_some() && one.reason.is_none(), "{name}"),
            "partly" => assert!(has_evidence && one.by.is_some() && one.reason.is_some(), "{name}"),
            "not met" => assert!(!has_evidence && one.reason.is_some(), "{name}"),
            other => panic!("{name}: the state {other}"),
        }
        for test in &one.tests {
            assert!(is_run(test), "{name}: neither make test nor make test-clients runs a test {test}");
        }
    }
}

#[test]
fn only_a_test_that_a_target_runs_shows_something() {
    assert!(is_run("tests/integration/controls.rs::only_a_test_that_a_target_runs_shows_something"));
    assert!(!is_run("tests/integration/controls.rs::is_run"), "a helper is no test");
    assert!(!is_run("tests/integration/controls.rs::no_such_test"));
    assert!(is_run(
        "tests/integration/relying_servers.rs::envoy_accepts_tokens_with_the_settings_of_the_guide"
    ));
    assert!(!is_run("tests/integration/rotation_load.rs::soak"), "make soak alone runs it");
    assert!(!is_run("tests/tpm/tpm_module.rs::ten_thousand_operations_leave_no_objects_in_the_tpm"));
}

#[test]
fn the_page_of_controls_has_what_the_document_says() {
    let page = rendered(&document());
    if std::env::var_os(WRITE).is_some() {
        fs::write(CONTROLS_PAGE, &page).unwrap();
    }
    let found = fs::read_to_string(CONTROLS_PAGE).unwrap_or_default();
    let differing = page.lines().zip(found.lines()).find(|(wanted, found)| wanted != found);
    assert!(found == page, "{CONTROLS_PAGE} differs: {differing:?}; write it with {WRITE}=1");
}

fn rendered(document: &Document) -> String {
    let mut page = format!(
        "# Controls\n\n<!-- Made from {CONTROLS} by tests/integration/controls.rs: change that file. -->\n\n{}\n\n\
         A control is `met`, `partly` met or `not met`, with the reason. Each test that is named is run by `make \
         test`, or by `make test-clients` where it needs programs of others, and each command by a test on a host \
         with a software TPM. Identifiers and short titles are those of the frameworks; what is said about them is \
         this project's. No auditor has confirmed it.\n\n",
        document.about
    );
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    page += "| framework | met | partly | not met |\n|---|---|---|---|\n";
    for framework in &document.frameworks {
        let count = |state: &str| framework.controls.iter().filter(|one| one.state == state).count();
        for state in ["met", "partly", "not met"] {
            *counts.entry(state).or_default() += count(state);
        }
        let (met, partly, not_met) = (count("met"), count("partly"), count("not met"));
        let _ = writeln!(page, "| {} | {met} | {partly} | {not_met} |", framework.name);
    }
    let _ = writeln!(page, "| all | {} | {} | {} |", counts["met"], counts["partly"], counts["not met"]);
    for framework in &document.frameworks {
        let Framework { name, version, about, .. } = framework;
        let _ = write!(page, "\n## {name}, {version}\n\n{about}\n\n");
        page += "| control | title | state | what is done, and what shows it |\n|---|---|---|---|\n";
        for one in &framework.controls {
            let _ = writeln!(page, "| {} | {} | {} | {} |", one.id, one.title, one.state, evidence(one));
        }
    }
    page
}

fn evidence(one: &Control) -> String {
    let mut text = one.by.clone().unwrap_or_default();
    let shown: Vec<String> = one.commands.iter().chain(&one.tests).map(|name| format!("`{name}`")).collect();
    if !shown.is_empty() {
        let _ = write!(text, " Shown by {}.", shown.join(", "));
    }
    if let Some(reason) = &one.reason {
        let _ = write!(text, " Not met: {reason}.");
    }
    text.trim_start().to_owned()
}

#[test]
fn each_command_of_a_control_works_on_a_host() {
    require_root();
    let document = document();
    let commands: BTreeSet<&str> =
        controls(&document).flat_map(|(_, one)| one.commands.iter().map(String::as_str)).collect();
    assert!(commands.len() > 10, "{commands:?}");
    let mut host = Host::new();
    host.configure("[limits]\nrate = 1000000\nburst = 1000000\n");
    let grant = "[[grant]]\naudience = \"urn:hostbadge:selftest\"\n";
    host.agents_file(
        "selftest",
        &format!("name = \"selftest\"\nowner = \"root\"\n[match]\nuser = 0\n{grant}"),
    );
    host.start();
    for command in commands {
        let mut words = command.split(' ');
        assert_eq!(words.next(), Some("hostbadge"), "{command}");
        let mut run = Command::new(program("hostbadge"));
        run.args(words).env("HOSTBADGE_SOCKET", host.agent_socket());
        run.env("HOSTBADGE_ADMIN_SOCKET", host.admin_socket());
        if command.starts_with("hostbadge selftest") {
            run.arg("--state").arg(host.path("state")).arg("--audit").arg(host.path("audit"));
        }
        let output = run.output().unwrap();
        let text = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{command}: {}: {text}", output.status);
    }
}

#[test]
fn each_claim_of_the_threat_model_names_tests_that_exist() {
    let text = fs::read_to_string(THREAT_MODEL).unwrap();
    let mut named = 0;
    let is_name = |quoted: &&str| quoted.contains(".rs::");
    for quoted in text.split('`').skip(1).step_by(2).filter(is_name) {
        assert!(is_run(quoted), "{THREAT_MODEL}: no target of make runs a test {quoted}");
        named += 1;
    }
    assert!(named > 40, "{named}");
    // Each row of the table of claims has a test, or says that there is none.
    let section = text.split("\n## ").find(|section| section.starts_with("Claims\n")).unwrap();
    let rows: Vec<&str> = section.lines().filter(|line| line.starts_with("| C")).collect();
    assert!(rows.len() > 20, "{}", rows.len());
    for row in rows {
        assert!(row.contains(".rs::"), "{THREAT_MODEL}: no test shows {row}");
    }
    assert!(Path::new(CONTROLS_PAGE).exists());
}
