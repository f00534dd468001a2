//! Policies as administrators write them: faults, verdicts, slices and reloads.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use cedar_policy::{Authorizer, Decision, PolicySet as CedarSet};

use super::needs::Needs;
use super::policies::{Policies, PolicyConfig};
use super::policy_set::{Answer, PolicySet, Verdict};
use super::question::tests::{question, token};
use super::question::{Act, Principal, Question};
use super::unknown_names;
use crate::agents::AgentSet;
use crate::clock::{Clock, Timestamp, Zone};
use crate::config::Diagnostic;

fn write(dir: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        fs::write(dir.join(name), text).unwrap();
    }
}

fn lines(diagnostics: &[Diagnostic], dir: &Path) -> String {
    let lines: Vec<String> = diagnostics.iter().map(Diagnostic::to_string).collect();
    lines.join("\n").replace(dir.to_str().unwrap(), "")
}

/// Reads files as a directory of policies.
fn read(files: &[(&str, &str)]) -> Result<PolicySet, String> {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), files);
    PolicySet::read(dir.path()).map(Option::unwrap).map_err(|faults| lines(&faults, dir.path()))
}

fn set(text: &str) -> PolicySet {
    read(&[("a.cedar", text)]).unwrap()
}

fn faults(text: &str) -> String {
    read(&[("a.cedar", text)]).unwrap_err()
}

fn answer(text: &str) -> Verdict {
    set(text).evaluate(&question(token()))
}

const PERMIT: &str = "permit (principal, action, resource);\n";

#[test]
fn a_forbid_wins_and_silence_is_neither() {
    let at_night = "forbid (principal, action, resource) when { context.time.hour < 6 };\n";
    assert_eq!(answer(at_night).answer, Answer::Forbid, "the question is of 01:00");
    assert_eq!(answer(&at_night.replace('6', "1")).answer, Answer::Silent);
    assert_eq!(answer(PERMIT).answer, Answer::Permit);
    let both = answer(&format!("{PERMIT}@id(\"night\")\n{at_night}"));
    assert_eq!((both.answer, both.policies), (Answer::Forbid, vec!["\"night\" (a.cedar:2)".to_owned()]));
    assert_eq!(answer(PERMIT).policies, ["a.cedar:1"]);
}

#[test]
fn each_attribute_of_the_schema_can_decide() {
    let conditions = [
        "principal.name == \"researcher\" && principal.depth == 0 && principal.roles.contains(\"reader\")",
        "principal has tenant && principal.tenant == \"acme\"",
        "principal has owner && principal.owner like \"*@example.com\"",
        "principal in Tenant::\"acme\" && principal in Role::\"reader\"",
        "resource is Audience && resource.name like \"https://*.example.com\"",
        "context.peer.uid == 1000 && context.peer.pinned",
        "context.peer has unit && context.peer.unit == \"researcher.service\"",
        "context.peer has invocation && context.peer.invocation like \"0123*\"",
        "context.peer has exe_sha256 && context.peer.exe_sha256 like \"0000*\"",
        "context.posture == \"accepted\"",
        "context.time.instant < datetime(\"2026-10-25T01:00:01Z\")",
        "context.time.instant >= datetime(\"2026-10-25T01:00:00Z\")",
        "context.time.hour == 1 && context.time.minute == 0 && [\"Sat\", \"Sun\"].contains(context.time.weekday)",
        "context.scopes == [\"docs.read\"] && context.ttl <= 300",
        "context.assurance == \"sealed\" && context.binding == \"none\"",
    ];
    for condition in conditions {
        let rule = |when| {
            format!("permit (principal, action == Action::\"token\", resource) {when} {{ {condition} }};\n")
        };
        assert_eq!(answer(&rule("when")).answer, Answer::Permit, "{condition}");
        assert_eq!(answer(&rule("unless")).answer, Answer::Silent, "{condition}");
    }
    let credential = Act::Credential { name: "github", usage: "inject", request: Some(("GET", "/x")) };
    let rule = "permit (principal, action == Action::\"credential\", resource == Credential::\"github\")\n\
                when { context.usage == \"inject\" && context has method && context.method == \"GET\" && \
                context has path && context.path like \"/*\" };\n";
    assert_eq!(set(rule).evaluate(&question(credential)).answer, Answer::Permit);
    for (act, action) in [(Act::Certificate, "certificate"), (Act::Attest, "attest")] {
        let rule =
            format!("permit (principal, action == Action::\"{action}\", resource == Host::\"local\");\n");
        assert_eq!(set(&rule).evaluate(&question(act)).answer, Answer::Permit);
    }
}

#[test]
fn a_policy_that_cannot_be_evaluated_is_named_and_never_allows() {
    let overflow = "@id(\"sum\")\npermit (principal, action == Action::\"token\", resource)\n\
                    when { context.ttl + 9223372036854775807 > 0 };\n";
    let missing = "forbid (principal, action, resource) when { Agent::\"other\".depth == 1 };\n";
    let verdict = answer(&format!("{PERMIT}{overflow}{missing}"));
    assert_eq!(verdict.answer, Answer::Error);
    let (names, reasons): (Vec<&str>, Vec<&str>) =
        verdict.errors.iter().map(|(name, reason)| (name.as_str(), reason.as_str())).unzip();
    assert_eq!(names, ["\"sum\" (a.cedar:2)", "a.cedar:5"]);
    assert!(reasons[0].contains("overflow"), "{reasons:?}");
    assert!(reasons[1].contains("Agent::\"other\"") && reasons[1].contains("does not exist"), "{reasons:?}");
}

#[test]
fn faults_have_file_line_and_cause() {
    let syntax =
        faults("// a comment\npermit (principal, action, resource);\nforbid (principal action, resource);\n");
    assert!(syntax.starts_with("/a.cedar:3: is not valid Cedar: unexpected token `action`"), "{syntax}");
    let rule = |condition: &str| {
        format!(
            "{PERMIT}\npermit (principal, action == Action::\"token\", resource)\nwhen {{\n  {condition}\n}};\n"
        )
    };
    for (condition, cause) in [
        ("context.hour > 3", "attribute `hour`"),
        ("principal.nmae == \"x\"", "attribute `nmae`"),
        ("context.ttl == \"300\"", "Long"),
        ("context.ttl", "Bool"),
        ("context.peer.unit == \"a.service\"", "`peer.unit`"),
        ("principal == Agnet::\"x\"", "Agnet"),
        ("frobnicate(context.ttl)", "frobnicate"),
    ] {
        let fault = faults(&rule(condition));
        assert!(fault.starts_with("/a.cedar:5: "), "{condition}: {fault}");
        assert!(fault.contains(cause) && fault.lines().count() == 1, "{condition}: {fault}");
    }
    let action = faults("permit (principal, action == Action::\"tokne\", resource);");
    assert!(action.starts_with("/a.cedar:1: ") && action.contains("tokne"), "{action}");
    let template = faults("permit (principal == ?principal, action, resource);");
    assert!(template.starts_with("/a.cedar:1: is a template"), "{template}");
    let all =
        read(&[("a.cedar", "permit"), ("b.cedar", PERMIT), ("c.cedar", &rule("context.x"))]).unwrap_err();
    let files: Vec<&str> = all.lines().map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(files, ["/a.cedar:1", "/c.cedar:5"]);
}

#[test]
fn what_is_probably_not_meant_is_warned_of() {
    let dir = tempfile::tempdir().unwrap();
    let agent = "name = \"researcher\"\ntenant = \"acme\"\n[match]\nuser = 0\n[[grant]]\naudience = \"https://api\"\n\
                 [[credential]]\nname = \"github\"\n";
    write(dir.path(), &[("a.toml", agent)]);
    let agents = AgentSet::read(dir.path(), 35).unwrap();
    let warnings = |text: &str| {
        let set = set(text);
        let warnings = unknown_names::warnings(&set, &agents);
        lines(&warnings, set.dir())
    };
    let never = warnings(&format!("{PERMIT}permit (principal, action, resource) when {{ false }};\n"));
    assert!(never.starts_with("/a.cedar:2: ") && never.contains(": policy is impossible"), "{never}");
    let impossible = warnings("forbid (principal, action == Action::\"token\", resource is Credential);");
    assert!(
        impossible.starts_with("/a.cedar:1: ")
            && impossible.contains(": unable to find an applicable action"),
        "{impossible}"
    );
    let names = "forbid (principal == Agent::\"resaercher\", action, resource);\n\
                 forbid (principal in Tenant::\"amce\", action, resource == Audience::\"https://apo\");\n\
                 forbid (principal, action, resource == Credential::\"githbu\");\n";
    assert_eq!(
        warnings(names),
        "/a.cedar:1: no agent of this host is \"resaercher\", which the policy names\n\
         /a.cedar:2: no agent has a grant for \"https://apo\", which the policy names\n\
         /a.cedar:2: no agent has the tenant \"amce\", which the policy names\n\
         /a.cedar:3: no agent has the credential \"githbu\", which the policy names"
    );
    let right = names.replace("resaercher", "researcher").replace("amce", "acme");
    assert_eq!(warnings(&right.replace("//apo", "//api").replace("githbu", "github")), "");
}

#[test]
fn five_thousand_policies_in_one_file_are_read_and_only_those_of_the_agent_are_evaluated() {
    let mut text = String::new();
    for n in 0..5_000 {
        text += &format!(
            "forbid (principal == Agent::\"agent-{n}\", action, resource) when {{ context.time.hour >= {} }};\n",
            n % 24
        );
    }
    let set = set(&text);
    assert_eq!(set.policies().len(), 5_000);
    let ask = |name: &'static str| {
        let asked = question(Act::Attest);
        set.evaluate(&Question { principal: Principal { name, ..asked.principal.clone() }, ..asked })
    };
    assert_eq!(ask("agent-4968").policies, ["a.cedar:4969"], "its hour is 0");
    assert_eq!(ask("agent-4999").answer, Answer::Silent, "its hour is 7");
    assert_eq!(ask("agent-5000").answer, Answer::Silent);
}

#[test]
fn a_sliced_set_answers_as_the_whole_set() {
    let scopes = [
        "principal",
        "principal is Agent",
        "principal == Agent::\"researcher\"",
        "principal in Agent::\"researcher\"",
        "principal == Agent::\"other\"",
        "principal in Tenant::\"acme\"",
        "principal is Agent in Tenant::\"acme\"",
        "principal in Tenant::\"other\"",
        "principal in Role::\"reader\"",
        "principal is Agent in Role::\"writer\"",
    ];
    let conditions = [
        "true",
        "context.posture == \"stale\"",
        "principal.depth + 9223372036854775807 > 0 || 1 + 9223372036854775807 > 0",
    ];
    let mut texts = Vec::new();
    for scope in scopes {
        for effect in ["permit", "forbid"] {
            for condition in conditions {
                texts.push(format!("{effect} ({scope}, action, resource) when {{ {condition} }};\n"));
            }
        }
    }
    let names = super::question::SchemaNames::parse().unwrap();
    let principals = [
        ("researcher", Some("acme"), vec!["reader"]),
        ("other", Some("other"), vec!["writer", "reader"]),
        ("third", None, vec![]),
    ];
    for (name, tenant, roles) in principals {
        let asked = question(token());
        let principal = Principal { name, tenant, roles, ..asked.principal.clone() };
        let asked = Question { principal, ..asked };
        let cedar = asked.to_cedar(&names, Needs::ALL).unwrap();
        for (at, first) in texts.iter().enumerate() {
            let text = format!("{first}{}", texts[(at * 7 + 3) % texts.len()]);
            let whole: CedarSet = text.parse().unwrap();
            let response = Authorizer::new().is_authorized(&cedar.request, &whole, &cedar.entities);
            let expected = match (response.diagnostics().errors().count(), response.decision()) {
                (1.., _) => Answer::Error,
                (0, Decision::Allow) => Answer::Permit,
                (0, Decision::Deny) if response.diagnostics().reason().count() > 0 => Answer::Forbid,
                (0, Decision::Deny) => Answer::Silent,
            };
            assert_eq!(set(&text).evaluate(&asked).answer, expected, "{name}: {text}");
        }
    }
}

#[test]
fn the_digest_is_that_of_names_and_contents() {
    let set = read(&[("b.cedar", PERMIT), ("a.cedar", "")]).unwrap();
    let length = (PERMIT.len() as u64).to_be_bytes();
    let bytes = [&b"a.cedar\0\0\0\0\0\0\0\0\0b.cedar\0"[..], &length, PERMIT.as_bytes()].concat();
    assert_eq!(*set.sha256(), crate::digest::sha256(&bytes));
}

fn policies(dir: &Path, must_exist: bool) -> Policies {
    let config = PolicyConfig { dir: dir.to_owned(), must_exist, require_permit: false, zone: Zone::utc() };
    Policies::new(config, Clock::manual(Timestamp::from_secs(1)))
}

#[test]
fn policies_that_vanish_stay_in_force_and_the_same_content_keeps_its_version() {
    let dir = tempfile::tempdir().unwrap();
    let policy_dir = dir.path().join("policies");
    let policies = policies(&policy_dir, false);
    let agents = Arc::new(AgentSet::default());
    let reload = |allow_empty| -> Result<(), String> {
        let read = policies.read(allow_empty).map_err(|faults| lines(&faults, dir.path()))?;
        policies.activate(read, agents.clone());
        Ok(())
    };
    let version = || policies.status().set.map(|set| set.version);
    assert!(!policies.status().is_loaded);
    reload(false).unwrap();
    assert!(policies.status().is_loaded && version().is_none());

    fs::create_dir(&policy_dir).unwrap();
    write(&policy_dir, &[("a.cedar", PERMIT)]);
    reload(false).unwrap();
    assert_eq!((version(), policies.status().policies), (Some(1), 1));
    reload(false).unwrap();
    assert_eq!(version(), Some(1));
    write(&policy_dir, &[("a.cedar", "permit (principal")]);
    let fault = reload(false).unwrap_err();
    assert!(fault.starts_with("/policies/a.cedar:1: "), "{fault}");
    assert_eq!((version(), policies.status().faults.len()), (Some(1), 1));
    write(&policy_dir, &[("a.cedar", &PERMIT.repeat(2))]);
    reload(false).unwrap();
    assert_eq!((version(), policies.status().faults.len()), (Some(2), 0));

    fs::remove_file(policy_dir.join("a.cedar")).unwrap();
    let fault = reload(false).unwrap_err();
    assert!(
        fault.starts_with("/policies: has no files *.cedar, and the daemon keeps the 2 policies in force"),
        "{fault}"
    );
    fs::remove_dir(&policy_dir).unwrap();
    assert!(reload(false).unwrap_err().contains("--allow-empty=policies"));
    assert_eq!(version(), Some(2));
    reload(true).unwrap();
    assert!(policies.status().is_loaded && version().is_none());
}

#[test]
fn a_directory_that_the_configuration_names_has_to_exist() {
    let dir = tempfile::tempdir().unwrap();
    let policies = policies(&dir.path().join("policies"), true);
    let faults = policies.read(false).map(drop).unwrap_err();
    assert!(lines(&faults, dir.path()).starts_with("/policies: does not exist; create it"));
    assert!(!policies.status().is_loaded && policies.status().faults.len() == 1);
}

#[test]
fn directories_and_files_are_bounded() {
    let large = "// comment\n".repeat(200_000);
    let fault = faults(&large);
    assert!(fault.starts_with("/a.cedar: is larger than 2048 KiB"), "{fault}");
    let names: Vec<String> = (0..5).map(|n| format!("{n}.cedar")).collect();
    let files: Vec<(&str, &str)> =
        names.iter().map(|name| (name.as_str(), &large[..2 * 1024 * 1024])).collect();
    let fault = read(&files).unwrap_err();
    assert!(fault.contains("has more than 8 MiB of policies"), "{fault}");
}

#[test]
fn expressions_are_as_deep_as_the_stack_bears_and_deeper_ones_are_faults() {
    let rule = |condition: &str| format!("permit (principal, action, resource) when {{ {condition} }};\n");
    let nested = |depth: usize| rule(&format!("{}context.ttl > 0{}", "(".repeat(depth), ")".repeat(depth)));
    let chain = |length: usize| rule(&format!("true{}", " && context.posture != \"off\"".repeat(length)));
    let ifs = |count: usize| {
        rule(&format!("{}true", "if context.posture == \"off\" then false else ".repeat(count)))
    };
    let token_only = |text: String| text.replace("action,", "action == Action::\"token\",");
    for text in [token_only(nested(30)), chain(10), ifs(30)] {
        assert_eq!(answer(&text).answer, Answer::Permit, "{text:.100}");
    }
    // Indices, conditions, and closing brackets that the parser leaves out after a syntax error.
    let indices = |count: usize| rule(&format!("principal{} == 1", "[\"owner\"]".repeat(count)));
    let conditions =
        |count: usize| PERMIT.replace(';', &" when { context.posture != \"off\" }".repeat(count)) + ";";
    let lists = |depth: usize| rule(&format!("{}1{}", "[),".repeat(depth), "]".repeat(depth)));
    let records = |depth: usize| {
        let (open, close) = ("{a}:".repeat(depth), "}".repeat(depth));
        format!("permit (principal == {open}1{close}, action, resource);\n")
    };
    assert_eq!(answer(&conditions(30)).answer, Answer::Permit);
    // At the limit, the engine refuses what it cannot read or evaluate, and its stack suffices.
    for text in [lists(14), records(14), indices(1_990), conditions(490), chain(390)] {
        let _ = read(&[("a.cedar", &text)]).map(|set| set.evaluate(&question(token())));
    }
    let texts = [indices(20_000), conditions(20_000), lists(20_000), records(20_000)];
    for text in texts.into_iter().chain([nested(20_000), chain(20_000), ifs(20_000)]) {
        let fault = faults(&format!("{PERMIT}{text}"));
        assert!(fault.starts_with("/a.cedar:2: the policy is too complex"), "{fault:.200}");
    }
}

#[test]
fn what_hides_from_the_reader_is_a_fault() {
    let hidden = format!("{PERMIT}// harmless \rforbid (principal, action, resource);\n");
    assert!(
        faults(&hidden).starts_with("/a.cedar:2: has a carriage return that is not part of a line break")
    );
    assert!(faults(&format!("{PERMIT}\r")).starts_with("/a.cedar:2: has a carriage return"));
    let windows = format!("// comment\r\n{PERMIT}").replace(";\n", ";\r\n");
    assert_eq!(answer(&windows).answer, Answer::Permit);
    for (name, shown) in [("a\u{1b}.cedar", "a\\u{1b}.cedar"), ("a\u{202e}.cedar", "a\\u{202e}.cedar")] {
        let fault = read(&[(name, PERMIT)]).unwrap_err();
        assert_eq!(fault, format!(": has a file whose name cannot be displayed, {shown}; rename it"));
    }
    let id = |length: usize| format!("{PERMIT}@id(\"{}\")\n{PERMIT}", "i".repeat(length));
    assert_eq!(answer(&id(256)).answer, Answer::Permit);
    assert_eq!(faults(&id(257)), "/a.cedar:2: the @id of the policy is longer than 256 bytes; shorten it");
}

/// Each block marked `cedar` in the guide.
#[test]
fn the_examples_of_the_guide_are_valid() {
    const GUIDE: &str = include_str!("../../../docs/guide/policy.md");
    let examples: Vec<&str> =
        GUIDE.split("\n```cedar\n").skip(1).map(|rest| rest.split("\n```").next().unwrap()).collect();
    assert!(examples.len() >= 4);
    let shell = GUIDE.split("<<'CEDAR'\n").nth(1).unwrap().split("CEDAR\n").next().unwrap();
    for text in examples.into_iter().chain([shell]) {
        assert!(set(text).warnings().is_empty(), "{text}");
    }
}
