//! `hostbadge agent lint`: what is valid in agents' files and weaker than it can be.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, UNIX_EPOCH};

use hostbadge::clock::Clock;
use serde_json::{Value, json};

use crate::common::{API, Host, audit_log, until_true};

const DAY: Duration = Duration::from_secs(86_400);

/// A unit file of this machine, removed on drop.
struct UnitFile(PathBuf);

impl UnitFile {
    fn new(stem: &str, service: &str) -> UnitFile {
        let dir = Path::new("/etc/systemd/system");
        fs::create_dir_all(dir).unwrap();
        let path = dir.join(format!("hostbadge-{stem}-{}.service", std::process::id()));
        fs::write(&path, format!("[Service]\nExecStart=/bin/true\n{service}\n")).unwrap();
        UnitFile(path)
    }

    fn name(&self) -> &str {
        self.0.file_name().unwrap().to_str().unwrap()
    }
}

impl Drop for UnitFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn lint(host: &Host, words: &[&str]) -> Output {
    let dir = host.path("etc/agents.d");
    host.hostbadge(&[&["agent", "lint", dir.to_str().unwrap()], words].concat())
}

/// The findings, as `STEM:LINE LINT`, in alphabetical order, and the exit status.
fn findings(host: &Host, words: &[&str]) -> (Vec<String>, Option<i32>) {
    let output = lint(host, &[words, &["--json"]].concat());
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let name = |one: &Value| {
        let file = Path::new(one["file"].as_str().unwrap());
        let stem = file.file_stem().unwrap().to_str().unwrap();
        assert!(!one["what"].as_str().unwrap().contains(" ["), "the name is a member of its own: {one}");
        format!("{stem}:{} {}", one["line"], one["lint"].as_str().unwrap())
    };
    let mut found: Vec<String> = json["findings"].as_array().unwrap().iter().map(name).collect();
    found.sort();
    (found, output.status.code())
}

/// An agent with nothing to find, except where `more` says so.
fn good_agent(host: &Host, name: &str, user: u32, unit: &UnitFile, more: &str) -> PathBuf {
    let text = format!(
        "name = \"{name}\"\nowner = \"team@example.com\"\n[match]\nuser = {user}\nunit = \"{}\"\n{more}",
        unit.name()
    );
    host.agents_file(name, &text)
}

#[test]
fn lints_of_files_and_host_have_names_and_an_exit_status() {
    let mut host = Host::new();
    let unit = UnitFile::new("lint", "");
    good_agent(&host, "good", 4711, &unit, "");
    host.start();
    assert_eq!(findings(&host, &[]), (vec!["agents:null no-recovery-key".to_owned()], Some(1)));
    assert_eq!(findings(&host, &["--allow", "no-recovery-key"]), (vec![], Some(0)));
    let recovery = host.path("recovery-key");
    assert!(host.hostbadge(&["key", "recovery", "--output", recovery.to_str().unwrap()]).status.success());
    assert_eq!(findings(&host, &[]), (vec![], Some(0)));
    let output = lint(&host, &[]);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim().rsplit('/').next(),
        Some("agents.d: 1 agent, 0 findings")
    );

    host.agents_file("bare", "name = \"bare\"\n[match]\nuser = 0\n");
    let python = "name = \"script\"\nowner = \"x\"\n[match]\nuser = 4712\nexe = \"/usr/bin/python3.99\"\n";
    host.agents_file("script", python);
    let twins = "[[grant]]\naudience = \"any\"\nscopes = [\"*\"]\n[[credential]]\nname = \"github\"\n";
    good_agent(&host, "twin", 4711, &unit, twins);
    host.agents_file(
        "lost",
        "name = \"lost\"\nowner = \"x\"\n[match]\nuser = 'no-such-user'\nunit = 'hostbadge-no-such.service'\n",
    );
    let (found, status) = findings(&host, &[]);
    let expected = [
        "bare:2 no-owner",
        "bare:2 no-unit",
        "bare:2 root-user",
        "good:3 same-processes",
        "good:3 shared-uid",
        "lost:3 unknown-unit",
        "lost:3 unknown-user",
        "script:3 interpreter-alone",
        "script:3 missing-executable",
        "twin:3 literal-pattern",
        "twin:3 unusable-credential",
        "twin:3 wildcard-audience",
    ];
    assert_eq!((found, status), (expected.map(str::to_owned).to_vec(), Some(1)));
    let text = String::from_utf8(lint(&host, &["--allow", "no-owner"]).stdout).unwrap();
    assert!(text.contains("/script.toml:3: /usr/bin/python3.99 is an interpreter"), "{text}");
    assert!(text.contains("5 agents, 11 findings: interpreter-alone 1, literal-pattern 1, "), "{text}");
    // A fault is not a lint.
    host.agents_file("bad", "name = \"bad\"\n");
    let faulty = lint(&host, &["--json"]);
    let error: Value = serde_json::from_slice(&faulty.stdout).unwrap();
    assert_eq!((faulty.status.code(), &error["error"]), (Some(1), &json!("invalid_request")));
}

#[test]
fn tokens_that_outlive_a_status_list_and_have_no_status_are_found() {
    let mut host = Host::new();
    let unit = UnitFile::new("status", "");
    let grant = |lines: &str| format!("[[grant]]\naudience = \"{API}\"\nscopes = [\"r\"]\n{lines}\n");
    good_agent(&host, "long", 4711, &unit, &grant("ttl = \"30m\""));
    good_agent(&host, "short", 4712, &unit, &grant("ttl = \"5m\""));
    let allowed = ["--allow", "no-recovery-key"];
    // Which configuration a daemon would have is not known.
    assert_eq!(findings(&host, &allowed), (vec![], Some(0)));
    host.start();
    assert_eq!(findings(&host, &allowed), (vec!["agents:null no-status-list".to_owned()], Some(1)));
    let text = String::from_utf8(lint(&host, &[]).stdout).unwrap();
    assert!(text.contains("tokens of 1 grant of 1 agent live longer than 5m and have no status"), "{text}");
    assert_eq!(findings(&host, &[&allowed[..], &["--allow", "no-status-list"]].concat()), (vec![], Some(0)));
    good_agent(&host, "long", 4711, &unit, &grant("ttl = \"30m\"\nstatus_list = true"));
    assert_eq!(findings(&host, &allowed), (vec![], Some(0)));

    host.stop();
    host.configure("[tokens]\nstatus_list = true\nstatus_list_ttl = \"1m\"\n");
    host.start();
    good_agent(&host, "long", 4711, &unit, &grant("ttl = \"30m\"\nstatus_list = false"));
    assert_eq!(findings(&host, &allowed), (vec!["long:3 no-status-list".to_owned()], Some(1)));
    good_agent(&host, "long", 4711, &unit, &grant("ttl = \"1m\"\nstatus_list = false"));
    assert_eq!(findings(&host, &allowed), (vec![], Some(0)));
}

#[test]
fn a_reload_counts_lints_in_one_warning() {
    let host = Host::started();
    host.agent("second", "user = 4711");
    let output = host.hostbadge(&["agent", "reload"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success());
    let expected = "warning: lints: no-owner 2, no-unit 2, root-user 1; hostbadge agent lint has the agents and \
                    what to do";
    assert!(said.contains(expected) && said.lines().count() == 1, "{said}");
    until_true("it is in the log", || host.log().contains(&expected["warning: ".len()..]));
    let warnings = host.admin().post("/v1/agents/reload", &json!({})).json()["warnings"].clone();
    assert_eq!(warnings.as_array().unwrap().len(), 1, "{warnings}");
    assert_eq!(warnings[0]["file"], json!(host.path("etc/agents.d")));
}

#[test]
fn secrets_in_units_and_files_that_others_can_read_are_found_and_not_printed() {
    let host = Host::new();
    let env = host.path("agent.env");
    fs::write(&env, "LEVEL=debug\nAPI_KEY=value-of-a-file\n").unwrap();
    fs::set_permissions(&env, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let service = format!("Environment=\"DB_PASSWORD=value-of-a-unit\"\nEnvironmentFile={}", env.display());
    let unit = UnitFile::new("secrets", &service);
    good_agent(&host, "agent", 4711, &unit, "");
    // No daemon runs: lint needs none.
    let expected = ["agent:3 readable-secret", "agent:3 secret-in-unit"].map(str::to_owned).to_vec();
    assert_eq!(findings(&host, &[]), (expected, Some(1)));
    let text = String::from_utf8(lint(&host, &[]).stdout).unwrap();
    assert!(
        text.contains(&format!("{}:3 has a secret in Environment=DB_PASSWORD", unit.0.display())),
        "{text}"
    );
    assert!(
        text.contains(&format!("hostbadge credential import --env-file {} --remove", env.display())),
        "{text}"
    );
    assert!(!text.contains("value-of"), "{text}");
    fs::set_permissions(&env, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(findings(&host, &["--allow", "secret-in-unit"]), (vec![], Some(0)));
}

#[test]
fn grants_that_are_wider_than_their_use_are_found_in_the_audit_log() {
    let mut host = Host::new();
    let grants = format!(
        "[[grant]]\naudience = \"{API}\"\nscopes = [\"docs.read\", \"docs.write\"]\nttl = \"1h\"\n\
         [[grant]]\naudience = \"https://unused.example.com\"\nscopes = [\"x\"]\n"
    );
    let old = |path: PathBuf| {
        let file = File::options().append(true).open(path).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_secs(Clock::System.now().before(DAY * 10).as_secs()))
            .unwrap();
    };
    old(host.agents_file("root", &format!("name = \"root\"\n[match]\nuser = 0\n{grants}")));
    old(host.agents_file("idle", &format!("name = \"idle\"\n[match]\nuser = 4711\n{grants}")));
    host.agents_file("young", &format!("name = \"young\"\n[match]\nuser = 4712\n{grants}"));
    let audit = host.path("audit");
    audit_log::begin(&audit, Clock::System.now().before(DAY * 20));
    host.start();
    for ttl in ["60s", "4m"] {
        let request = json!({ "audience": API, "scope": "docs.read", "ttl": ttl });
        assert_eq!(host.post("/v1/token", request).status, 200);
    }
    let words = ["--usage", "--audit", audit.to_str().unwrap(), "--json"];
    let output = lint(&host, &words);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("hostbadge: usage: left out 1 agent, whose"), "{said}");
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let of_usage = BTreeSet::from(["unused-agent", "unused-grant", "unused-scope", "long-lifetime"]);
    let found: Vec<(String, String)> = json["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|one| of_usage.contains(one["lint"].as_str().unwrap()))
        .map(|one| {
            let stem = Path::new(one["file"].as_str().unwrap()).file_stem().unwrap().to_str().unwrap();
            (format!("{stem} {}", one["lint"].as_str().unwrap()), one["what"].as_str().unwrap().to_owned())
        })
        .collect();
    let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["idle unused-agent", "root unused-scope", "root long-lifetime", "root unused-grant"]);
    let of = |name: &str| found.iter().find(|(found, _)| found == name).unwrap().1.as_str();
    assert!(
        of("root unused-scope").contains(&format!("no token for \"{API}\" had the scope docs.write since"))
    );
    assert!(
        of("root long-lifetime").contains("was requested for longer than 4m"),
        "{}",
        of("root long-lifetime")
    );
    assert!(of("root long-lifetime").ends_with("ttl = \"5m\" is enough"), "{}", of("root long-lifetime"));
    assert!(of("root unused-grant").contains("https://unused.example.com"));
    // A shorter period than a day says nothing.
    let (found, _) = findings(&host, &["--usage=1h", "--audit", audit.to_str().unwrap()]);
    assert!(!found.iter().any(|one| one.contains("unused")), "{found:?}");
}
