//! Our decisions by policies beside those of another binding of Cedar, cedarpy for Python: a thousand generated
//! requests over generated policies, agents and circumstances.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use hostbadge::clock::{Timestamp, Zone};
use hostbadge::policy::cedar::{Act, Answer, PolicySet, Principal, Process, Question};
use serde_json::{Value, json};

use crate::common::libraries::python_with;

const SETS: usize = 50;
const REQUESTS_OF_SET: usize = 20;
/// 2026-11-26T00:00:00Z.
const START: u64 = 1_795_651_200;

/// Numbers that look random and are the same in each run (xorshift).
struct Generator(u64);

impl Generator {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end as u64).unwrap()
    }

    fn of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len())]
    }

    fn often(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

const AGENTS: [&str; 4] = ["researcher", "writer", "a\"b\\c", "über"];
const TENANTS: [&str; 3] = ["acme", "globex", "x"];
const ROLES: [&str; 3] = ["reader", "writer", "auditor"];
const AUDIENCES: [&str; 4] = ["https://api.example.com", "https://b.example", "urn:x", "a*b"];
const SCOPES: [&str; 4] = ["docs.read", "docs.write", "admin", "x"];
const UNITS: [&str; 3] = ["researcher.service", "cron.service", "a@b.service"];
/// From the first of January 1970 on.
const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const BOUNDARIES: [&str; 2] = ["kernel", "cooperative"];
const POSTURES: [&str; 5] = ["off", "accepted", "changed", "unaccepted", "stale"];

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn principal_scope(random: &mut Generator) -> String {
    let (agent, tenant, role) = (random.of(&AGENTS), random.of(&TENANTS), random.of(&ROLES));
    match random.below(8) {
        0 => format!("principal == Agent::{}", quoted(agent)),
        1 => format!("principal in Agent::{}", quoted(agent)),
        2 => format!("principal in Tenant::{}", quoted(tenant)),
        3 => format!("principal in Role::{}", quoted(role)),
        4 => format!("principal is Agent in Role::{}", quoted(role)),
        5 => "principal is Agent".to_owned(),
        _ => "principal".to_owned(),
    }
}

/// A condition on what every request has, and for tokens also on what only these have.
fn condition(random: &mut Generator, is_token: bool, depth: usize) -> String {
    let posture = random.of(&POSTURES);
    let (hour, uid) = (random.below(24), random.below(3) * 1000);
    let kinds = if is_token { 17 } else { 12 };
    match random.below(kinds + if depth > 0 { 4 } else { 0 }) {
        0 => format!("context.posture == \"{posture}\""),
        1 => format!("context.time.hour < {hour}"),
        2 => format!("context.time.minute >= {}", random.below(60)),
        3 => format!(
            "[\"Sat\", \"Sun\", \"{}\"].contains(context.time.weekday)",
            random.of(&["Mon", "Thu", "Fri"])
        ),
        4 => format!(
            "context.time.instant < datetime(\"2026-{:02}-{:02}T{hour:02}:00:00Z\")",
            11 + random.below(2),
            1 + random.below(28)
        ),
        5 => format!("context.peer.uid == {uid} && context.peer.pinned"),
        6 => format!(
            "context.peer has unit && context.peer.unit like \"{}\"",
            random.of(&["*.service", "cron*", "a@*"])
        ),
        7 if random.often(50) => {
            "context.peer has boundary && context.peer.boundary == \"kernel\"".to_owned()
        }
        7 => "context.peer has exe_sha256 && context.peer.exe_sha256 like \"0*\"".to_owned(),
        8 => format!("principal has tenant && principal.tenant == {}", quoted(random.of(&TENANTS))),
        9 => format!("principal.roles.contains({})", quoted(random.of(&ROLES))),
        10 => format!(
            "(principal in Tenant::{} || principal in Role::{})",
            quoted(random.of(&TENANTS)),
            quoted(random.of(&ROLES))
        ),
        // An overflow for agents with a depth.
        11 => "principal.depth + 9223372036854775807 > 0".to_owned(),
        12 if is_token => {
            format!("context.scopes.containsAny([\"{}\", \"{}\"])", random.of(&SCOPES), random.of(&SCOPES))
        }
        13 if is_token => format!("context.ttl > {}", random.below(3600)),
        14 if is_token => format!("context.assurance == \"{}\"", random.of(&["sealed", "tpm"])),
        15 if is_token => {
            format!("resource.name like \"{}\"", random.of(&["https://*", "*example*", "a\\**"]))
        }
        // An overflow for long lifetimes.
        16 if is_token => "context.ttl * 5000000000000000 > 0".to_owned(),
        other => {
            let (left, right) =
                (condition(random, is_token, depth - 1), condition(random, is_token, depth - 1));
            match other % 4 {
                0 => format!("({left}) && ({right})"),
                1 => format!("({left}) || ({right})"),
                2 => format!("!({left})"),
                _ => format!("if ({left}) then ({right}) else false"),
            }
        }
    }
}

/// One policy, in one line.
fn policy(random: &mut Generator) -> String {
    let effect = random.of(&["permit", "forbid"]);
    let scope = principal_scope(random);
    let is_token = random.often(60);
    let rest = match (is_token, random.below(3)) {
        (true, 0) => {
            format!("action == Action::\"token\", resource == Audience::{}", quoted(random.of(&AUDIENCES)))
        }
        (true, _) => "action == Action::\"token\", resource".to_owned(),
        (false, 0) => "action in [Action::\"certificate\", Action::\"attest\"], resource".to_owned(),
        (false, _) => "action, resource".to_owned(),
    };
    let keyword = random.of(&["when", "unless"]);
    format!("{effect} ({scope}, {rest}) {keyword} {{ {} }};\n", condition(random, is_token, 2))
}

/// A request, and the same for Cedar in JSON: request and entities.
fn question(random: &mut Generator) -> (Question<'static>, Value, Value) {
    let roles: BTreeSet<&str> = ROLES.into_iter().filter(|_| random.often(40)).collect();
    let principal = Principal {
        name: random.of(&AGENTS),
        tenant: random.often(60).then(|| random.of(&TENANTS)),
        owner: random.often(50).then_some("team@example.com"),
        roles: roles.into_iter().collect(),
        depth: u32::from(random.often(20)),
    };
    let process = Process {
        uid: u32::try_from(random.below(3) * 1000).unwrap(),
        unit: random.often(70).then(|| random.of(&UNITS)),
        invocation: random.often(50).then_some("0123456789abcdef0123456789abcdef"),
        exe_sha256: random.often(50).then(|| random.of(&["0", "f"]).repeat(64)),
        pinned: random.often(70),
        boundary: random.often(30).then(|| random.of(&BOUNDARIES)),
    };
    let act = match random.below(7) {
        6 => Act::Delegate {
            name: "researcher/sub/fetch",
            ttl: 1 + random.below(3600) as u64,
            boundary: random.of(&BOUNDARIES),
        },
        5 => Act::Prove {
            kind: random.of(&["dpop", "wpt"]),
            url: "https://api.example.com/v1/items",
            origin: "https://api.example.com",
            request: (random.of(&["GET", "DELETE"]), "/v1/items"),
            body_sha256: random.often(50).then_some("00"),
        },
        0 => Act::Certificate,
        1 => Act::Attest,
        2 => Act::Credential { name: "github", usage: "release", approved: random.often(50), request: None },
        _ => Act::Token {
            audience: random.of(&AUDIENCES),
            scopes: SCOPES.into_iter().filter(|_| random.often(40)).collect(),
            ttl: 1 + random.below(3600) as u64,
            assurance: random.of(&["sealed", "tpm"]),
            binding: "none",
            approved: random.often(50),
        },
    };
    let now = Timestamp::from_secs(START + random.below(14 * 24 * 3600) as u64);
    let local_time = Zone::utc().local_time(now);
    let question = Question { principal, act, process, posture: random.of(&POSTURES), now, local_time };
    let (request, entities) = to_json(&question);
    (question, request, entities)
}

fn insert_some(object: &mut Value, name: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        object[name] = value.into();
    }
}

fn to_json(question: &Question<'_>) -> (Value, Value) {
    let Question { principal, process, local_time, .. } = question;
    let mut attributes =
        json!({ "name": principal.name, "roles": principal.roles, "depth": principal.depth });
    insert_some(&mut attributes, "tenant", principal.tenant);
    insert_some(&mut attributes, "owner", principal.owner);
    let uid = |kind: &str, id: &str| json!({ "type": kind, "id": id });
    let mut parents: Vec<Value> = principal.roles.iter().map(|role| uid("Role", role)).collect();
    parents.extend(principal.tenant.map(|tenant| uid("Tenant", tenant)));
    let mut peer = json!({ "uid": process.uid, "pinned": process.pinned });
    insert_some(&mut peer, "unit", process.unit);
    insert_some(&mut peer, "invocation", process.invocation);
    insert_some(&mut peer, "exe_sha256", process.exe_sha256.clone());
    insert_some(&mut peer, "boundary", process.boundary);
    let seconds = question.now.as_secs();
    let day = 26 + (seconds - START) / (24 * 3600);
    let (month, day) = if day <= 30 { (11, day) } else { (12, day - 30) };
    let instant = format!(
        "2026-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        local_time.hour,
        local_time.minute,
        seconds % 60
    );
    let time = json!({
        "instant": { "__extn": { "fn": "datetime", "arg": instant } },
        "hour": seconds / 3600 % 24,
        "minute": seconds / 60 % 60,
        "weekday": WEEKDAYS[usize::try_from(seconds / 86_400 % 7).unwrap()],
    });
    let mut context = json!({ "peer": peer, "posture": question.posture, "time": time });
    let (action, kind, id) = match &question.act {
        Act::Token { audience, scopes, ttl, assurance, binding, approved } => {
            context["scopes"] = json!(scopes);
            context["ttl"] = json!(ttl);
            context["assurance"] = json!(assurance);
            context["binding"] = json!(binding);
            context["approved"] = json!(approved);
            ("token", "Audience", *audience)
        }
        Act::Certificate => ("certificate", "Host", "local"),
        Act::Attest => ("attest", "Host", "local"),
        Act::Credential { name, usage, approved, .. } => {
            context["usage"] = json!(usage);
            context["approved"] = json!(approved);
            ("credential", "Credential", *name)
        }
        Act::Prove { kind, url, request: (method, path), body_sha256, .. } => {
            context["kind"] = json!(kind);
            context["method"] = json!(method);
            context["path"] = json!(path);
            insert_some(&mut context, "body_sha256", *body_sha256);
            ("prove", "Url", *url)
        }
        Act::Delegate { name, ttl, boundary } => {
            context["ttl"] = json!(ttl);
            context["boundary"] = json!(boundary);
            ("delegate", "Agent", *name)
        }
    };
    // A sub-agent has what its parent has.
    let mut attributes_of_sub_agent = attributes.clone();
    attributes_of_sub_agent["name"] = json!(id);
    attributes_of_sub_agent["depth"] = json!(principal.depth + 1);
    let is_sub_agent = matches!(question.act, Act::Delegate { .. });
    let parents_of_resource = if is_sub_agent { parents.clone() } else { Vec::new() };
    let attributes_of_resource = match &question.act {
        Act::Delegate { .. } => attributes_of_sub_agent,
        Act::Certificate | Act::Attest => json!({}),
        Act::Prove { url, origin, .. } => json!({ "url": url, "origin": origin }),
        Act::Token { .. } | Act::Credential { .. } => json!({ "name": id }),
    };
    let entities = json!([
        { "uid": uid("Agent", principal.name), "attrs": attributes, "parents": parents },
        { "uid": uid(kind, id), "attrs": attributes_of_resource, "parents": parents_of_resource },
    ]);
    let request = json!({
        "principal": format!("Agent::{}", quoted(principal.name)),
        "action": format!("Action::\"{action}\""),
        "resource": format!("{kind}::{}", quoted(id)),
        "context": context,
    });
    (request, entities)
}

/// The indexes of policies that are named by the lines of `a.cedar`.
fn indexes<'a>(labels: impl Iterator<Item = &'a String>) -> Vec<usize> {
    let index = |label: &String| label.strip_prefix("a.cedar:").unwrap().parse::<usize>().unwrap() - 1;
    let mut indexes: Vec<usize> = labels.map(index).collect();
    indexes.sort_unstable();
    indexes
}

#[test]
fn a_thousand_requests_are_decided_as_by_another_binding_of_cedar() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = Generator(0x9e37_79b9_7f4a_7c15);
    let (mut input, mut ours) = (String::new(), Vec::new());
    for _ in 0..SETS {
        let text: String = (0..1 + random.below(12)).map(|_| policy(&mut random)).collect();
        fs::write(dir.path().join("a.cedar"), &text).unwrap();
        let set =
            PolicySet::read(dir.path()).unwrap_or_else(|faults| panic!("{}\n{text}", faults[0])).unwrap();
        for _ in 0..REQUESTS_OF_SET {
            let (question, request, entities) = question(&mut random);
            let verdict = set.evaluate(&question);
            let line = json!({ "policies": text, "request": request, "entities": entities });
            input += &format!("{line}\n");
            ours.push((verdict, line));
        }
    }
    let python = python_with("cedarpy", &["cedarpy==4.12.2"]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/cedar_decide.py");
    let mut child =
        Command::new(python).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());

    let theirs = String::from_utf8(output.stdout).unwrap();
    assert_eq!(theirs.lines().count(), SETS * REQUESTS_OF_SET);
    let mut seen = [0; 4];
    for (line, (verdict, asked)) in theirs.lines().zip(&ours) {
        let theirs: Value = serde_json::from_str(line).unwrap();
        let list = |name: &str| -> Vec<usize> { serde_json::from_value(theirs[name].clone()).unwrap() };
        assert_eq!(indexes(verdict.errors.iter().map(|(label, _)| label)), list("errors"), "{asked}");
        let has_reasons = !list("reasons").is_empty();
        let expected = match (theirs["decision"].as_str().unwrap(), list("errors").is_empty()) {
            (_, false) => Answer::Error,
            ("Allow", true) => Answer::Permit,
            ("Deny", true) if has_reasons => Answer::Forbid,
            ("Deny", true) => Answer::Silent,
            other => panic!("{other:?}: {asked}"),
        };
        assert_eq!(verdict.answer, expected, "{asked}");
        if expected != Answer::Error {
            assert_eq!(indexes(verdict.policies.iter()), list("reasons"), "{asked}");
        }
        seen[[Answer::Permit, Answer::Silent, Answer::Forbid, Answer::Error]
            .iter()
            .position(|one| *one == expected)
            .unwrap()] += 1;
    }
    assert!(seen.iter().all(|count| *count >= 20), "each answer is frequent: {seen:?}");
}
