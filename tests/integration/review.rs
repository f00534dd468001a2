//! `hostbadge review`: what agents may do against what they did, the narrowed files, the page and the signature.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, UNIX_EPOCH};

use hostbadge::clock::Clock;
use serde_json::{Value, json};

use crate::common::fake_clock::FakeClock;
use crate::common::{API, Host, audit_log, program};

const DAY: Duration = Duration::from_secs(86_400);
/// An audience that is markup, in a file of an administrator who copied it from someone.
pub const HOSTILE: &str = "https://x/\"><script>alert(1)</script>";

/// The clock of the daemon and of the command is ahead by this, so that files which are made now are not new.
const AHEAD: Duration = Duration::from_secs(10 * 86_400);
/// A period that the log covers, and in which no file but one was changed.
pub const COVERED: &str = "9d";

/// A running host whose log began 20 days ago, with an agent that used a part of what it may do, one that used nothing,
/// and one whose file was changed today.
pub fn reviewed_host() -> Host {
    let mut host = Host::new();
    FakeClock::of(&mut host, "+10d");
    let grants = format!(
        "# What it reads.\n[[grant]]\naudience = \"{API}\" # the documents\n\
         scopes = [\n    \"docs.read\",\n    \"docs.write\", # for later\n]\nttl = \"1h\"\n\n\
         [[grant]]\naudience = \"https://unused.example.com\"\nscopes = [\"x\", \"y\"]\n\n\
         [[grant]]\naudience = '{HOSTILE}'\n\n\
         [[credential]]\nname = \"github\"\nuse = \"release\"\n"
    );
    let file = |name: &str, user: u32| {
        let text =
            format!("name = \"{name}\"\nowner = \"team@example.com\"\n[match]\nuser = {user}\n\n{grants}");
        host.agents_file(name, &text)
    };
    file("root", 0);
    file("idle", 4711);
    let changed = Clock::System.now().after(AHEAD).before(Duration::from_secs(3600));
    let changed = UNIX_EPOCH + Duration::from_secs(changed.as_secs());
    File::options().append(true).open(file("young", 4712)).unwrap().set_modified(changed).unwrap();
    audit_log::begin(&host.path("audit"), Clock::System.now().after(AHEAD).before(DAY * 20));
    host.start();
    for ttl in ["60s", "4m"] {
        let request = json!({ "audience": API, "scope": "docs.read", "ttl": ttl });
        assert_eq!(host.post("/v1/token", request).status, 200);
    }
    host
}

/// Runs the command with the clock of the host.
fn hostbadge(host: &Host, words: &[&str]) -> Output {
    let mut command = Command::new(program("hostbadge"));
    command.args(words).env("HOSTBADGE_ADMIN_SOCKET", host.admin_socket());
    // The times of files stay the right ones.
    command.envs(host.start.env.iter().cloned()).env("NO_FAKE_STAT", "1").output().unwrap()
}

/// Runs `hostbadge review` on the files of the host.
pub fn review(host: &Host, words: &[&str]) -> Output {
    let (agents, audit) = (host.path("etc/agents.d"), host.path("audit"));
    let of_host = ["review", "--agents", agents.to_str().unwrap(), "--audit", audit.to_str().unwrap()];
    let output = hostbadge(host, &[&of_host, words].concat());
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

fn review_json(host: &Host, words: &[&str]) -> Value {
    serde_json::from_slice(&review(host, &[&["--json"], words].concat()).stdout).unwrap()
}

fn agent<'a>(review: &'a Value, name: &str) -> &'a Value {
    review["agents"].as_array().unwrap().iter().find(|agent| agent["name"] == name).unwrap()
}

#[test]
fn rights_are_compared_with_their_use() {
    let host = reviewed_host();
    let whole = review_json(&host, &["--since", COVERED]);
    assert_eq!(
        (&whole["period"]["complete"], &whole["period"]["missing_records"]),
        (&json!(true), &json!(0))
    );
    let states: Vec<&Value> =
        ["root", "idle", "young"].iter().map(|name| &agent(&whole, name)["state"]).collect();
    assert_eq!(states, [&json!("narrow"), &json!("unused"), &json!("unknown")]);
    let root = agent(&whole, "root");
    let count =
        |granted: u64, used: u64, unused: u64| json!({ "granted": granted, "used": used, "unused": unused });
    assert_eq!(root["counts"]["audiences"], count(3, 1, 2));
    assert_eq!(root["counts"]["scopes"], count(4, 1, 3));
    assert_eq!(root["counts"]["credentials"], count(1, 0, 1));
    assert_eq!(
        agent(&whole, "young")["counts"]["audiences"],
        count(3, 0, 0),
        "what is not known is not unused"
    );
    let grant = &root["grants"][0];
    assert_eq!((&grant["issued"], &grant["ttl"]), (&json!(2), &json!(3600)));
    let longest = grant["longest"].as_u64().unwrap();
    assert!((235..=240).contains(&longest), "{longest}");
    assert_eq!(grant["narrowing"], json!({ "remove_scopes": ["docs.write"], "ttl": 240 }));
    let totals = &whole["totals"];
    assert_eq!(
        (&totals["agents"], &totals["not_seen"], &totals["narrow"]),
        (&json!(3), &json!(1), &json!(1))
    );
    assert_eq!(totals["rights"]["audiences"], count(9, 1, 5));
    assert!(agent(&whole, "idle").get("diff").is_none(), "it keeps its file");

    // The log is younger than what was asked for.
    let longer = review_json(&host, &["--agent", "root"]);
    assert_eq!((&longer["period"]["complete"], &longer["totals"]["agents"]), (&json!(false), &json!(1)));
    assert_eq!(
        (&longer["period"]["bound"], &agent(&longer, "root")["state"]),
        (&json!("log"), &json!("unknown"))
    );
    assert_eq!(longer["totals"]["rights"]["audiences"], count(3, 1, 0), "what is not known is not unused");
    let table = text(review(&host, &[]).stdout);
    assert!(table.contains("So nothing is called unused.") && table.contains("a shorter time"), "{table}");
    assert!(!table.contains("remove ") && !table.contains("offboard"), "{table}");
    let table = text(review(&host, &["--incomplete"]).stdout);
    assert!(table.contains("The log does not reach back to "), "{table}");
    assert!(table.contains("\nidle, owner team@example.com,"), "{table}");
    assert!(table.contains("consider to offboard it") && table.contains("known since "), "{table}");
    for line in table.lines().filter(|line| !line.contains("/agents.d/")) {
        assert!(line.chars().count() <= 80, "{line}");
    }
    // What was used for less than a day is not called unused.
    let short = review_json(&host, &["--since", "1h"]);
    assert!(short["agents"].as_array().unwrap().iter().all(|agent| agent["state"] == "unknown"), "{short}");
    let unknown = host.hostbadge(&[
        "review",
        "--agents",
        host.path("etc/agents.d").to_str().unwrap(),
        "--audit",
        "/",
        "--agent",
        "none",
    ]);
    assert_eq!(unknown.status.code(), Some(1));
}

#[test]
fn the_narrowed_file_is_accepted_and_still_grants_what_was_used() {
    let host = reviewed_host();
    let path = host.path("etc/agents.d/root.toml");
    let before = fs::read_to_string(&path).unwrap();
    let printed = review(&host, &["--diff", "--incomplete"]);
    let (diff, said) = (text(printed.stdout), text(printed.stderr));
    assert!(
        said.contains("The log does not reach back") && said.contains("the use of root is known since"),
        "{said}"
    );
    let name = path.to_str().unwrap();
    assert!(diff.starts_with(&format!("--- {name}\n+++ {name}\n@@ ")), "{diff}");
    for line in
        ["-    \"docs.write\", # for later\n", "-ttl = \"1h\"\n", "+ttl = \"4m\"\n", "-name = \"github\"\n"]
    {
        assert!(diff.contains(line), "{line} not in\n{diff}");
    }
    assert!(!diff.contains("idle.toml") && fs::read_to_string(&path).unwrap() == before);

    // The log is younger than the 30 days that are asked for.
    let weak = review(&host, &["--apply"]);
    assert!(text(weak.stderr).contains("no file was narrowed"));
    assert_eq!(fs::read_to_string(&path).unwrap(), before);
    let page = host.path("review.html");
    let applied = review(&host, &["--json", "--apply", "--since", COVERED, "--html", page.to_str().unwrap()]);
    let said = text(applied.stderr);
    assert!(said.contains("then run: hostbadge agent reload"), "{said}");
    let json: Value = serde_json::from_slice(&applied.stdout).unwrap();
    assert_eq!(json["applied"].as_array().unwrap().len(), 1);
    assert_eq!(json["applied"][0]["file"], json!(path));
    assert!(
        fs::read_to_string(&page).unwrap().contains("&quot;applied&quot;:[{"),
        "the page has the same JSON"
    );
    let after = fs::read_to_string(&path).unwrap();
    let rest = format!(
        "name = \"root\"\nowner = \"team@example.com\"\n[match]\nuser = 0\n\n# What it reads.\n[[grant]]\n\
         audience = \"{API}\" # the documents\nscopes = [\n    \"docs.read\",\n]\nttl = \"4m\"\n"
    );
    assert_eq!(after, rest);
    let files = fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    let kept: Vec<PathBuf> =
        files.filter(|file| file.to_string_lossy().contains("root.toml.before-")).collect();
    assert_eq!(kept.len(), 1);
    assert_eq!(fs::read_to_string(&kept[0]).unwrap(), before);
    // The daemon has not read it.
    let request = json!({ "audience": API, "scope": "docs.write" });
    assert_eq!(host.post("/v1/token", request.clone()).status, 200);
    let dir = host.path("etc/agents.d");
    let check = host.hostbadge(&["agent", "check", dir.to_str().unwrap()]);
    assert!(text(check.stdout).ends_with("3 agents, no faults\n"));
    host.reload();
    let reloads = host.audit();
    let reloaded = audit_log::with_event(&reloads, "agents-reloaded");
    let detail = reloaded.last().unwrap()["detail"].as_str().unwrap();
    assert!(detail.contains("of rights, 0 of them wider"), "{detail}");
    assert_eq!(host.post("/v1/token", request).json()["error"], "invalid_scope");
    let used = json!({ "audience": API, "scope": "docs.read", "ttl": "4m" });
    let granted = host.post("/v1/token", used).json();
    assert!(granted["expires_in"].as_u64().is_some_and(|left| left > 200), "{granted}");
    // What is left was used.
    let again = review_json(&host, &["--since", COVERED]);
    assert_eq!(agent(&again, "root")["state"], "keep", "{again}");
}

#[test]
fn the_page_has_the_figures_of_the_json_and_needs_nothing_else() {
    let host = reviewed_host();
    let file = host.path("review.html");
    let json: Value = review_json(&host, &["--since", COVERED, "--html", file.to_str().unwrap()]);
    let page = fs::read_to_string(&file).unwrap();
    let totals = &json["totals"];
    let rights = &totals["rights"];
    let unused: u64 = ["audiences", "scopes", "credentials"]
        .iter()
        .map(|kind| rights[kind]["unused"].as_u64().unwrap())
        .sum();
    for (figure, label) in [
        (totals["agents"].clone(), "agents"),
        (json!(unused), "unused rights"),
        (totals["narrow"].clone(), "files to narrow"),
        (totals["unused"].clone(), "unused agents"),
        (totals["not_seen"].clone(), "agents not seen in the period"),
        (totals["unknown"].clone(), "agents whose use is not known"),
    ] {
        assert!(page.contains(&format!("<b>{figure}</b><span>{label}</span>")), "{label}: {figure}");
    }
    for kind in ["audiences", "scopes", "credentials"] {
        let figures = format!("{} of {} used", rights[kind]["used"], rights[kind]["granted"]);
        assert!(page.contains(&figures), "{kind}: {figures}");
    }
    assert!(
        page.contains("&lt;script&gt;alert(1)&lt;/script&gt;") && !page.contains("<script"),
        "a hostile audience"
    );
    for reference in ["<link", "<img", "<iframe", " src=\"", " href=\"", "url("] {
        assert!(!page.contains(reference), "{reference}");
    }
    assert!(page.contains("content=\"default-src 'none'; style-src 'unsafe-inline'\""));
}

#[test]
fn a_signature_is_recorded_with_the_digest_and_the_administrator() {
    let host = reviewed_host();
    let (file, page) = (host.path("review.json"), host.path("review.html"));
    let (file, page) = (file.to_str().unwrap(), page.to_str().unwrap());
    fs::write(file, review(&host, &["--json", "--since", COVERED, "--html", page]).stdout).unwrap();
    let sum = std::process::Command::new("sha256sum").arg(file).output().unwrap();
    let digest = text(sum.stdout)[..64].to_owned();
    let sign = |file: &str| {
        hostbadge(&host, &["review", "sign", "--reviewer", "Ada", "--comment", "as narrowed", file])
    };
    for file in [file, page] {
        let signed = sign(file);
        assert!(signed.status.success(), "{}", String::from_utf8_lossy(&signed.stderr));
        let said = text(signed.stdout);
        assert!(said.contains(&digest) && said.contains("3 agents, 1 unused, 1 not seen, "), "{said}");
    }
    let lines = host.audit();
    let records = audit_log::with_event(&lines, "review-signed");
    assert_eq!(records.len(), 2);
    for record in records {
        let detail = record["detail"].as_str().unwrap();
        assert!(detail.starts_with("uid 0, ") && detail.contains(" as \"Ada\": SHA-256 "), "{detail}");
        assert!(
            detail.contains(&digest) && detail.contains("complete, 3 agents, 1 unused, 1 not seen, "),
            "{detail}"
        );
        assert!(detail.ends_with("; comment: \"as narrowed\""), "{detail}");
    }
    // That of another host, and one that is not made yet, are not signed.
    let whole = fs::read_to_string(file).unwrap();
    let mut other: Value = serde_json::from_str(&whole).unwrap();
    other["host"] = json!("elsewhere");
    fs::write(file, other.to_string()).unwrap();
    let refused = sign(file);
    let said = text(refused.stderr);
    assert!(
        refused.status.code() == Some(1) && said.contains("a review of the host \"elsewhere\""),
        "{said}"
    );
    fs::write(file, &whole).unwrap();
    let now = host.hostbadge(&["review", "sign", "--reviewer", "Ada", file]);
    assert!(text(now.stderr).contains("ends in the future"));
    // What was changed is not signed.
    for (path, from, to) in
        [(file, "\"not_seen\":1", "\"not_seen\":0"), (page, "<h2>idle</h2>", "<h2>good</h2>")]
    {
        let changed = fs::read_to_string(path).unwrap().replacen(from, to, 1);
        fs::write(path, changed).unwrap();
        let refused = sign(path);
        assert_eq!(refused.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&refused.stderr).contains("the file was changed"), "{path}");
    }
    assert_eq!(audit_log::with_event(&host.audit(), "review-signed").len(), 2);
}
