//! Circumstances of grants: when they count, who answers for an agent, and agents that get nothing new.

use std::time::Duration;

use crate::common::fake_clock::FakeClock;
use crate::common::grpc::{Empty, Grpc, PERMISSION_DENIED, QUIET_PERIOD, X509Response};
use crate::common::http::claims;
use crate::common::{API, Host, audit_log, until_true};
use hostbadge::clock::{Clock, ClockSync, Timestamp};
use serde_json::{Value, json};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn now() -> Timestamp {
    Clock::System.now()
}

/// The agent `root`, whose grant for [`API`] has these lines too.
fn agent(host: &Host, lines: &str) {
    host.agents_file(
        "root",
        &format!(
            "name = \"root\"\n[match]\nuser = 0\n[[grant]]\naudience = \"{API}\"\nttl = \"1h\"\n{lines}\n"
        ),
    );
}

/// Status, error code and description of a token request.
fn request(host: &Host) -> (u16, String, String) {
    let answer = host.post("/v1/token", json!({ "audience": API }));
    match answer.status {
        200 => (200, String::new(), String::new()),
        status => (status, answer.error(), answer.json()["error_description"].as_str().unwrap().to_owned()),
    }
}

#[track_caller]
fn assert_refused(host: &Host, reason: &str) {
    let (status, error, description) = request(host);
    assert_eq!((status, error.as_str()), (403, "access_denied"), "{description}");
    assert!(description.contains(reason), "{description}");
}

#[test]
fn an_expired_grant_is_refused_and_a_token_does_not_outlast_its_grant() {
    let mut host = Host::new();
    let end = Timestamp::from_secs(now().as_secs() + 600);
    agent(&host, &format!("expires = {}", end.to_rfc3339_seconds()));
    host.start();
    let token = claims(&host.token());
    assert!(token["exp"].as_u64().unwrap() <= end.as_secs(), "{token} {end}");
    assert!(token["exp"].as_u64().unwrap() > now().as_secs() + 500, "{token}");
    let svid = Grpc::connect(&host.workload_socket()).jwt(&[API], "").unwrap();
    assert!(!svid.is_empty());

    agent(&host, "expires = 2026-01-31");
    host.reload();
    assert_refused(&host, "it expired at 2026-02-01T00:00:00Z");
    assert_eq!(Grpc::connect(&host.workload_socket()).jwt(&[API], "").unwrap_err().code, PERMISSION_DENIED);
    let record = host.audit().pop().unwrap();
    assert_eq!((&record["event"], &record["reason"]), (&json!("request-refused"), &json!("access_denied")));
    assert!(record["detail"].as_str().unwrap().contains("2026-02-01"), "{record}");
    // An identity needs no grant.
    assert_eq!(host.post("/v1/certificate", json!({})).status, 200);
}

#[test]
fn grants_that_end_within_a_week_are_named_by_status() {
    let mut host = Host::new();
    let at = |days: u32| now().after(DAY * days).to_rfc3339_seconds();
    agent(
        &host,
        &format!(
            "expires = {}\n[[grant]]\naudience = \"https://later\"\nexpires = {}\n[[grant]]\n\
             audience = \"https://past\"\nexpires = 2026-01-31\n[[credential]]\nname = \"key\"\nexpires = {}",
            at(6),
            at(9),
            at(3)
        ),
    );
    host.start();
    let status = host.status();
    let expiring: Vec<(&Value, &Value, &Value)> = status["agents"]["expiring"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (&one["audience"], &one["credential"], &one["expired"]))
        .collect();
    let (none, no) = (Value::Null, json!(false));
    let expected = [
        (&json!("https://past"), &none, &json!(true)),
        (&none, &json!("key"), &no),
        (&json!(API), &none, &no),
    ];
    assert_eq!(expiring, expected);
    assert_eq!(status["agents"]["expiring_count"], 3);
    let shown = String::from_utf8(host.hostbadge(&["status"]).stdout).unwrap();
    assert!(shown.contains("agent root, https://past: expired 2026-02-01T00:00:00Z"), "{shown}");
    assert!(
        shown.contains("agent root, credential key: expires ") && !shown.contains("https://later"),
        "{shown}"
    );
    let shown = String::from_utf8(host.hostbadge(&["agent", "show", "root"]).stdout).unwrap();
    assert!(shown.contains("https://past, at most 300 s, until 2026-02-01T00:00:00Z"), "{shown}");
}

#[test]
fn a_grant_counts_at_its_hours_only() {
    let mut host = Host::new();
    // The whole week but a day that is not near.
    let far =
        ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"][(now().as_secs() / DAY.as_secs() + 3) as usize % 7];
    let day_after =
        ["Fri", "Sat", "Sun", "Mon", "Tue", "Wed", "Thu"][(now().as_secs() / DAY.as_secs() + 3) as usize % 7];
    let day_before =
        ["Wed", "Thu", "Fri", "Sat", "Sun", "Mon", "Tue"][(now().as_secs() / DAY.as_secs() + 3) as usize % 7];
    agent(&host, &format!("hours = \"{day_after}-{day_before} 00:00-24:00 UTC\""));
    host.start();
    assert_eq!(request(&host).0, 200);

    agent(&host, &format!("hours = \"{far} 08:00-18:00 Europe/Berlin\""));
    host.reload();
    assert_refused(&host, &format!("it counts at {far} 08:00-18:00 Europe/Berlin, next from 20"));
    // It begins in winter at 07:00 and in summer at 06:00 UTC, on that day.
    let (_, _, description) = request(&host);
    let next = description.split("next from ").nth(1).unwrap().split(" on").next().unwrap();
    assert!(next.ends_with("T07:00:00Z") || next.ends_with("T06:00:00Z"), "{next}");
    let next =
        humantime::parse_rfc3339(next).unwrap().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert_eq!(next / DAY.as_secs(), now().as_secs() / DAY.as_secs() + 3);

    agent(&host, "hours = \"Mon-Fri 08:00-18:00 Europe/Atlantis\"");
    let answer = host.admin().post("/v1/agents/reload", &json!({}));
    assert_eq!(answer.status, 422);
    let fault = &answer.json()["faults"][0];
    assert_eq!(fault["line"], 7, "{fault}");
    assert!(
        fault["what"].as_str().unwrap().contains("\"Europe/Atlantis\" is no time zone of this host"),
        "{fault}"
    );
}

#[test]
fn what_a_grant_cannot_have_is_a_fault() {
    let host = Host::started();
    for (lines, expected) in [
        ("proofs = [\"sign\"]", "unknown kind of proof; the kinds are dpop,"),
        ("client_id = \"x\"", "client_id is for client assertions and attestations"),
        ("actions = [\"GET https://x/\"]", "no proof of this grant is for a request"),
        ("expires = 2027-03-31T18:00:00", "with its offset"),
        ("expires = 18:00:00", "expires must be a date"),
        ("expires = \"2027-03-31\"", "must be a date without quotes"),
        ("hours = \"Mon-Fri\"", "hours are days, times and a zone"),
    ] {
        agent(&host, lines);
        let answer = host.admin().post("/v1/agents/reload", &json!({}));
        assert_eq!(answer.status, 422, "{lines}: {}", answer.text());
        let fault = &answer.json()["faults"][0];
        assert_eq!(fault["line"], 7, "{fault}");
        assert!(fault["what"].as_str().unwrap().contains(expected), "{lines}: {fault}");
    }
    agent(&host, "bind = \"none\"");
    host.reload();
    assert_eq!(request(&host).0, 200);
}

#[test]
fn a_clock_set_back_a_year_makes_no_expired_grant_count_also_after_a_restart() {
    let mut host = Host::new();
    let end = now().before(DAY * 30).to_rfc3339_seconds();
    let hours = "[[grant]]\naudience = \"https://hours\"\nhours = \"00:00-24:00 UTC\"";
    agent(&host, &format!("expires = {end}\n{hours}"));
    let clock = FakeClock::of(&mut host, "+0");
    host.start();
    assert_refused(&host, &format!("it expired at {end}"));
    let at_hours = |host: &Host| host.post("/v1/token", json!({ "audience": "https://hours" })).status;
    assert_eq!(at_hours(&host), 200);

    clock.set("-1y");
    assert_refused(&host, "the host's clock was set back");
    assert_eq!(at_hours(&host), 403, "the time of day is not known");
    until_true("the status names it", || host.status()["clock"]["behind"].is_string());
    // A crash: nothing is stored at the end.
    until_true("the latest time is stored", || host.path("state/latest-time.json").exists());
    host.crash();
    host.start();
    assert_refused(&host, "the host's clock was set back");
    assert_eq!(at_hours(&host), 403);
    let shown = String::from_utf8(host.hostbadge(&["clock", "show"]).stdout).unwrap();
    assert!(shown.contains("it is behind a time that it has had"), "{shown}");

    // The clock had been a year ahead.
    let accepted = host.hostbadge(&["clock", "accept"]);
    assert!(accepted.status.success(), "{accepted:?}");
    assert_eq!((request(&host).0, at_hours(&host)), (200, 200));
    until_true("the earlier time is stored", || {
        let text = std::fs::read_to_string(host.path("state/latest-time.json")).unwrap();
        text.contains(&clock_year(-1))
    });
    host.crash();
    host.start();
    assert_eq!(request(&host).0, 200);
}

/// The year that the clock shows, this many years from now, with the beginning of the member.
fn clock_year(years: i64) -> String {
    let year: i64 = now().to_rfc3339_seconds()[..4].parse().unwrap();
    format!("\"latest\": \"{}", year + years)
}

#[test]
fn a_clock_that_is_ahead_for_a_moment_leaves_grants_as_they_were() {
    if Clock::System.sync() == ClockSync::Synchronized {
        return;
    }
    let mut host = Host::new();
    let end = now().after(DAY * 30).to_rfc3339_seconds();
    agent(&host, &format!("expires = {end}"));
    let clock = FakeClock::of(&mut host, "+0");
    host.start();
    clock.set("+1y");
    assert_refused(&host, "it expired at ");
    until_true("the clock is known to be set", || {
        audit_log::text(&host.path("audit")).contains("the clock was set forward by ")
    });
    clock.set("+0");
    assert_eq!(request(&host).0, 200);
}

#[test]
fn a_drained_agent_keeps_what_it_has_and_gets_nothing_new() {
    let file = |drain: &str| {
        format!(
            "name = \"root\"\n{drain}\n[match]\nuser = 0\n[[grant]]\naudience = \"{API}\"\n\
             [[credential]]\nname = \"key\"\nuse = \"release\"\n"
        )
    };
    let mut host = Host::new();
    // The shortest lifetime of a certificate.
    host.configure("[certificates]\nttl = \"1m\"\n");
    host.agents_file("root", &file(""));
    host.start();
    let token = host.token();
    let grpc = Grpc::connect(&host.workload_socket());
    assert!(!grpc.jwt(&[API], "").unwrap().is_empty());
    let mut stream = grpc.stream("FetchX509SVID", &Empty {}).unwrap();
    let within = Duration::from_secs(100);
    let first: X509Response = grpc.next(&mut stream, within).unwrap().unwrap();
    assert_eq!(first.svids.len(), 1);
    host.agents_file("root", &file("drain = true"));
    host.reload();
    assert_eq!(host.introspect(&token)["active"], true);
    assert_refused(&host, "agent \"root\" is being drained");
    for (path, body) in [("/v1/certificate", json!({})), ("/v1/credential", json!({ "name": "key" }))] {
        let answer = host.post(path, body);
        assert_eq!(
            (answer.status, answer.error().as_str()),
            (403, "access_denied"),
            "{path}: {}",
            answer.text()
        );
        assert!(answer.text().contains("is being drained"), "{}", answer.text());
    }
    assert_eq!(grpc.jwt(&[API], "").unwrap_err().code, PERMISSION_DENIED);
    assert_eq!(host.get("/v1/whoami").json()["agent"], "root");
    let shown = String::from_utf8(host.hostbadge(&["agent", "show", "root"]).stdout).unwrap();
    assert!(shown.contains("gets nothing new"), "{shown}");
    // The stream keeps its SVID until that expires.
    assert!(grpc.next::<X509Response>(&mut stream, QUIET_PERIOD).is_none(), "nothing is withdrawn");
    let end = grpc.next::<X509Response>(&mut stream, within).expect("the SVID is not renewed");
    assert_eq!(end.unwrap_err().code, PERMISSION_DENIED);
}

#[test]
fn an_owner_can_be_required() {
    let host = Host::new();
    host.agent("ownerless", "user = 0");
    let dir = host.path("etc/agents.d");
    let lint = host.hostbadge(&["agent", "lint", dir.to_str().unwrap()]);
    let said = [lint.stdout, lint.stderr].concat();
    assert!(String::from_utf8_lossy(&said).contains("no-owner"), "{}", String::from_utf8_lossy(&said));

    host.configure("[agents]\nrequire_owner = true\n");
    let run_check = || host.command().arg("--check").stderr(std::process::Stdio::piped()).output().unwrap();
    let refused = run_check();
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        said.contains("ownerless.toml:1: the agent has no owner, which [agents] require_owner"),
        "{said}"
    );
    let text = std::fs::read_to_string(dir.join("ownerless.toml")).unwrap();
    host.agents_file("ownerless", &format!("owner = \"team@example.com\"\n{text}"));
    assert_eq!(run_check().status.code(), Some(0));
}
