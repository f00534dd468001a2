//! Why a process is an agent or is not: `agent why`, `whoami --why`, warnings, and `agent new`.

use std::fs;
use std::process::{Child, Command, Stdio};

use crate::common::callers::{Credentials, NOBODY, Unit};
use crate::common::{self, API, Host};
use serde_json::{Value, json};

/// A process that does not connect.
struct Sleeper(Child);

impl Sleeper {
    fn start(who: &Credentials) -> Sleeper {
        let mut command = Command::new("sleep");
        command.arg("600").stdin(Stdio::null());
        who.apply_to(&mut command);
        Sleeper(command.spawn().unwrap())
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn why(host: &Host, target: &str) -> Value {
    let answer = host.admin().get(&format!("/v1/processes/{target}"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

/// The conditions of one agent, as `NAME OUTCOME`.
fn outcomes(why: &Value, agent: &str) -> Vec<String> {
    let compared = why["compared"].as_array().unwrap();
    let found = compared.iter().find(|one| one["agent"] == agent);
    let conditions = found.unwrap_or_else(|| panic!("{agent} in {why}"))["conditions"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    conditions.iter().map(|one| format!("{} {}", text(&one["condition"]), text(&one["outcome"]))).collect()
}

fn names(why: &Value) -> Vec<&str> {
    why["compared"].as_array().unwrap().iter().map(|one| one["agent"].as_str().unwrap()).collect()
}

#[test]
fn an_administrator_sees_each_condition_of_each_agent() {
    let host = Host::started();
    let unit = Unit::new("researcher");
    let digest = "00".repeat(32);
    host.agent("all", &format!("user = {NOBODY}\ngroup = 777\nunit = \"{}\"", unit.name));
    host.agent("user", &format!("user = {NOBODY}\nunit = \"other.service\"\nexe_sha256 = \"{digest}\""));
    host.agent("digest", &format!("user = {NOBODY}\nexe = \"/bin/x\"\nexe_sha256 = \"{digest}\""));
    host.agent("missing", "user = \"no-such-user\"\ngroup = \"root\"");
    host.reload();
    let process = Sleeper::start(&Credentials::user(NOBODY).group(777).in_unit(&unit));
    let seen = why(&host, &process.pid().to_string());
    assert_eq!((&seen["peer"]["uid"], &seen["peer"]["unit"]), (&json!(NOBODY), &json!(unit.name)), "{seen}");
    assert_eq!((&seen["agents"], &seen["refusal"]), (&json!(["all"]), &Value::Null), "{seen}");
    assert_eq!(names(&seen)[..2], ["all", "root"], "the nearest come first");
    assert_eq!(outcomes(&seen, "all"), ["user holds", "group holds", "unit holds"]);
    assert_eq!(outcomes(&seen, "user"), ["user holds", "unit fails", "exe_sha256 not-compared"]);
    assert_eq!(outcomes(&seen, "digest"), ["user holds", "exe fails", "exe_sha256 not-compared"]);
    assert_eq!(outcomes(&seen, "missing"), ["user fails", "group fails"]);
    assert_eq!(outcomes(&seen, "root"), ["user fails"]);
    let missing = seen["compared"].as_array().unwrap().iter().find(|one| one["agent"] == "missing").unwrap();
    assert_eq!(missing["conditions"][0]["expected"], "no-such-user (there is no such user)");
    assert_eq!(missing["conditions"][1]["expected"], "root (gid 0)");
    assert_eq!(missing["conditions"][1]["seen"], format!("gid {NOBODY}, groups 777"));

    let one = why(&host, &format!("{}?agent=user", process.pid()));
    assert_eq!(names(&one), ["user"]);
    let shown = host.hostbadge(&["agent", "why", &process.pid().to_string(), "--agent", "user"]);
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.status.success() && text.contains(&unit.name) && text.contains("other.service"), "{text}");
    let json = host.hostbadge(&["--json", "agent", "why", &process.pid().to_string()]);
    assert_eq!(serde_json::from_slice::<Value>(&json.stdout).unwrap()["agents"], json!(["all"]));
    let gone = process.pid().to_string();
    drop(process);
    let shown = host.hostbadge(&["agent", "why", &gone]);
    assert_eq!(shown.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&shown.stderr).contains("there is no process"), "{shown:?}");
}

#[test]
fn the_digest_is_compared_where_all_other_conditions_hold() {
    let host = Host::started();
    let digest = "00".repeat(32);
    host.agent("root", &format!("user = 0\nexe_sha256 = \"{digest}\""));
    host.reload();
    let process = Sleeper::start(&Credentials::root());
    let seen = why(&host, &process.pid().to_string());
    assert_eq!(outcomes(&seen, "root"), ["user holds", "exe_sha256 fails"]);
    let found = seen["compared"][0]["conditions"][1]["seen"].as_str().unwrap().to_owned();
    host.agent("root", &format!("user = 0\nexe_sha256 = \"{found}\""));
    host.reload();
    let seen = why(&host, &process.pid().to_string());
    assert_eq!(
        (&seen["agents"], outcomes(&seen, "root")),
        (&json!(["root"]), vec!["user holds".to_owned(), "exe_sha256 holds".to_owned(),])
    );
    assert_eq!(seen["peer"]["exe_sha256"], found);
}

/// As for the other routes that read.
#[test]
fn the_admin_group_may_ask_and_others_may_not() {
    let mut host = Host::new();
    host.configure("[admin]\ngroup = \"daemon\"\n");
    host.agent("root", "user = 0");
    host.start();
    fs::set_permissions(host.admin_socket(), std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let target = format!("/v1/processes/{}", std::process::id());
    let member = Credentials::user(NOBODY).group(1);
    assert_eq!(member.curl_at(&host.admin_socket(), &target, &[]).status, 200);
    let other = Credentials::user(NOBODY).curl_at(&host.admin_socket(), &target, &[]);
    assert_eq!((other.status, other.error().as_str()), (403, "access_denied"));
}

#[test]
fn a_process_sees_its_near_misses_without_what_they_require() {
    let host = Host::started();
    let unit = Unit::new("researcher");
    host.agent("near", &format!("user = {NOBODY}\nunit = \"secret.service\"\nexe = \"/opt/secret\""));
    host.agent("in-unit", &format!("user = 4200000001\nunit = \"{}\"", unit.name));
    host.agent("jobs", "user = 4200000001\nunit = \"cron.service\"");
    host.agent("far", "user = 4200000001\nunit = \"far.service\"");
    host.agent("grouped", "group = 777\nunit = \"far.service\"");
    host.reload();
    let caller = Credentials::user(NOBODY).group(777).in_unit(&unit);
    let answer = caller.curl(&host, "/v1/whoami/why", &[]);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = answer.json();
    assert_eq!((&seen["peer"]["uid"], &seen["agents"]), (&json!(NOBODY), &json!([])), "{seen}");
    assert_eq!(seen["refusal"], "no registered agent matches this process");
    assert_eq!(names(&seen), ["in-unit", "near"], "others are not disclosed");
    assert_eq!(outcomes(&seen, "near"), ["user holds", "unit fails", "exe fails"]);
    assert_eq!(outcomes(&seen, "in-unit"), ["user fails", "unit holds"]);
    for hidden in ["secret", "4200000001", "cron", "far", "expected"] {
        assert!(!answer.text().contains(hidden), "{hidden}: {}", answer.text());
    }
    assert_eq!(caller.curl(&host, "/v1/whoami", &[]).status, 401);

    let own = host.hostbadge(&["whoami", "--why"]);
    let text = String::from_utf8_lossy(&own.stdout).into_owned();
    assert!(own.status.success() && text.contains("agents") && text.contains("root"), "{text}");
    let json = host.hostbadge(&["--json", "whoami", "--why"]);
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((&json["agents"], &json["compared"][0]["matches"]), (&json!(["root"]), &json!(true)));
}

#[test]
fn an_unknown_caller_that_asks_why_is_within_its_rate() {
    let mut host = Host::new();
    host.configure("[limits]\nunknown_rate = 1\nunknown_burst = 3\n");
    host.agent("root", "user = 0");
    host.start();
    let caller = Credentials::user(NOBODY);
    let statuses: Vec<u16> = (0..6).map(|_| caller.curl(&host, "/v1/whoami/why", &[]).status).collect();
    assert_eq!(statuses[..3], [200, 200, 200]);
    assert!(statuses.contains(&429), "{statuses:?}");
    let lines = host.audit();
    assert!(!common::audit_log::with_event(&lines, "request-refused").is_empty());
}

#[test]
fn checks_and_reloads_warn_of_what_matches_nothing_or_too_much() {
    let host = Host::started();
    let script = host.path("agent.py");
    fs::write(&script, "#!/usr/bin/python3\n").unwrap();
    host.agent("ghost", "user = \"no-such-user\"");
    host.agent("twin", "user = \"root\"");
    host.agent("part", &format!("user = 0\nexe = {script:?}"));
    host.agents_file(
        "star",
        "name = \"star\"\n[match]\nuser = 4711\nexe = \"/opt/*\"\n\
         [[grant]]\naudience = \"https://*.example.com\"\n",
    );
    let dir = host.path("etc/agents.d");
    let check = host.hostbadge(&["agent", "check", dir.to_str().unwrap()]);
    assert!(check.status.success());
    let reload = host.hostbadge(&["agent", "reload"]);
    assert!(reload.status.success());
    for output in [&check, &reload] {
        let said = String::from_utf8_lossy(&output.stderr);
        for expected in [
            "/ghost.toml:2: warning: there is no user \"no-such-user\"",
            "/root.toml:2: warning: agents \"root\" and \"twin\" have the same conditions",
            "/part.toml:2: warning: every process that is agent \"part\" is agents \"root\" and \"twin\" too",
            "is a script; the kernel reports its interpreter",
            "exe: /opt/* does not exist",
            "/star.toml:2: warning: exe = \"/opt/*\" is compared as it is",
            "\"https://*.example.com\" is compared as it is",
        ] {
            assert!(said.contains(expected), "{expected}\nnot in\n{said}");
        }
    }
    let answer = host.admin().post("/v1/agents/reload", &json!({})).json();
    assert!(answer["warnings"].as_array().unwrap().iter().any(|one| one["line"] == 2), "{answer}");
    common::until_true("warnings are in the log", || host.log().contains("there is no user"));
}

#[test]
fn a_new_agent_is_written_from_options() {
    let host = Host::started();
    let dir = host.path("etc/agents.d");
    let new =
        |words: &[&str]| host.hostbadge(&[&["agent", "new", "--dir", dir.to_str().unwrap()], words].concat());
    let options =
        ["--user", "0", "--unit", r"a\x2db.service", "--audience", API, "--scope", "a", "--scope", "b"];
    let output = new(&[&["fresh"], options.as_slice()].concat());
    assert!(output.status.success(), "{output:?}");
    let text = fs::read_to_string(dir.join("fresh.toml")).unwrap();
    assert!(text.contains("# owner = ") && text.contains(r"a\x2db.service"), "{text}");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 2, "nothing else is left");
    assert_eq!(host.admin().post("/v1/agents/reload", &json!({})).json()["added"], json!(["fresh"]));
    let agent = host.admin().get("/v1/agents/fresh").json();
    assert_eq!(agent["match"], json!({ "user": 0, "unit": r"a\x2db.service" }));
    assert_eq!(
        agent["grants"],
        json!([{ "audience": API, "scopes": ["a", "b"], "ttl": 300, "assurance": "sealed", "alg": "ES256", "typ": "at+jwt" }])
    );

    // Nothing is overwritten, and nothing is written that has a fault.
    let again = new(&["fresh", "--user", "1"]);
    assert_eq!(again.status.code(), Some(1));
    fs::write(
        dir.join("other.toml"),
        text.replace("\"fresh\"", "\"elsewhere\"").replace("'fresh'", "'elsewhere'"),
    )
    .unwrap();
    assert_eq!(new(&["other", "--user", "1"]).status.code(), Some(1), "a file of this name exists");
    let fault = new(&["bad", "--unit", "agent@.service"]);
    assert_eq!(fault.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&fault.stderr).contains("is a template"), "{fault:?}");
    assert!(!dir.join("bad.toml").exists());
    assert_eq!(new(&["nobody"]).status.code(), Some(2), "a user, group or unit is needed");
    let printed = host.hostbadge(&["agent", "new", "printed", "--user", "researcher", "--print"]);
    assert!(String::from_utf8_lossy(&printed.stdout).contains("user = \"researcher\""), "{printed:?}");
}
