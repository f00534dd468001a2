use std::fs;
use std::path::Path;

use super::*;
use crate::agents::MayBeEmpty;
use crate::audit::{AuditQuery, Journal, read_page};
use crate::clock::{Clock, Timestamp, Zone};
use crate::config::{AuditSection, LogTarget};
use crate::names::Names;

/// A handler with its files in `dir`, and where its alerts for the administrator's program go.
fn handler(dir: &Path, revocations: &Revocations) -> (AlertHandler, mpsc::Receiver<StoredAlert>) {
    let clock = Clock::System;
    for name in ["agents.d", "audit"] {
        fs::create_dir(dir.join(name)).unwrap();
    }
    let names = Names::start([]).unwrap();
    let journal = Journal::start(LogTarget::Stderr, clock.clone()).unwrap();
    let audit = Audit::open(&dir.join("audit"), AuditSection::default(), journal, clock.clone()).unwrap();
    let (to_socket, socket) = mpsc::channel(8);
    let agents = AgentRegistry::open(&dir.join("agents.d"), 35, names, clock.clone());
    let (now, boot_time) = (clock.now(), clock.boot_time());
    let targets = AlertTargets {
        anomalies: Anomalies::new(clock.clone(), Zone::utc(), Duration::from_secs(7 * 24 * 3600)),
        actions: AnomalyActions::default(),
        revocations: revocations.clone(),
        delegations: Delegations::open(dir, agents.clone(), now, boot_time),
        agents,
        audit,
        to_socket,
    };
    (AlertHandler::new(targets), socket)
}

fn alert(agent: &str, rule: AnomalyRule) -> Alert {
    Alert {
        time: Timestamp::from_secs(1_800_000_000),
        rule,
        agent: agent.to_owned(),
        tenant: None,
        detail: "it got the canary credential x".to_owned(),
        repeats: 0,
    }
}

/// The rule that suspended an agent.
fn suspended_by(revocations: &Revocations, agent: &str) -> Option<String> {
    let set = revocations.current();
    let revocation = set.get(&Target::new(TargetKind::Agent, agent))?;
    revocation.rule().filter(|_| revocation.is_blocking).map(str::to_owned)
}

#[tokio::test]
async fn a_suspension_waits_for_no_alert_that_is_being_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let revocations = Revocations::of_test(Clock::System);
    let (mut handler, _socket) = handler(dir.path(), &revocations);
    // Nothing is awaited here, so that no task goes on.
    for _ in 0..MAX_RECORDED + 10 {
        handler.begin(alert("busy", AnomalyRule::Hours));
    }
    assert_eq!(handler.targets.anomalies.dropped(), 10);
    for n in 0..300 {
        let agent = format!("a{n}");
        handler.begin(alert(&agent, AnomalyRule::Canary));
        assert_eq!(suspended_by(&revocations, &agent).as_deref(), Some("canary"), "{agent}");
    }
    assert_eq!(handler.targets.anomalies.dropped(), 10, "each suspension is recorded");
    assert_eq!(handler.tasks.len(), MAX_RECORDED + 300);
    handler.begin(alert("a0", AnomalyRule::Canary));
    assert_eq!(handler.tasks.len(), MAX_RECORDED + 300, "an agent is suspended once");
}

#[tokio::test]
async fn alerts_that_wait_when_the_daemon_stops_take_effect_and_are_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let revocations = Revocations::of_test(Clock::System);
    let (handler, mut socket) = handler(dir.path(), &revocations);
    let anomalies = handler.targets.anomalies.clone();
    let (sender, alerts) = mpsc::channel(8);
    sender.try_send(alert("busy", AnomalyRule::Hours)).unwrap();
    sender.try_send(alert("a", AnomalyRule::Canary)).unwrap();
    let stop = CancellationToken::new();
    stop.cancel();
    handler.run(alerts, stop).await;
    assert_eq!(suspended_by(&revocations, "a").as_deref(), Some("canary"));
    assert_eq!(suspended_by(&revocations, "busy"), None);
    let page = read_page(&dir.path().join("audit"), &AuditQuery::default(), 10).unwrap();
    let count = |event: &str| {
        let member = format!("\"event\":\"{event}\"");
        page.records.iter().filter(|record| record.get().contains(&member)).count()
    };
    assert_eq!((count("anomaly-detected"), count("agent-suspended")), (2, 1));
    let mut kept: Vec<(String, bool)> =
        anomalies.alerts().into_iter().map(|alert| (alert.agent, alert.suspended)).collect();
    kept.sort();
    assert_eq!(kept, [("a".to_owned(), true), ("busy".to_owned(), false)]);
    assert!(socket.try_recv().is_ok() && socket.try_recv().is_ok());
}

#[tokio::test]
async fn a_suspension_that_failed_is_tried_again_while_it_is_to_follow() {
    let dir = tempfile::tempdir().unwrap();
    let revocations = Revocations::new(dir.path(), Clock::System);
    let (mut handler, _socket) = handler(dir.path(), &revocations);
    for agent in ["a", "b"] {
        handler.begin(alert(agent, AnomalyRule::Canary));
    }
    handler.retry_failed();
    assert_eq!((handler.failed.len(), suspended_by(&revocations, "a")), (2, None));
    let text = "name = \"b\"\n[match]\nuser = 0\n[anomaly]\ncanary = \"alert\"\n";
    fs::write(dir.path().join("agents.d/b.toml"), text).unwrap();
    handler.targets.agents.reload(MayBeEmpty::default()).unwrap();
    revocations.open_of_test();
    handler.retry_failed();
    assert_eq!(suspended_by(&revocations, "a").as_deref(), Some("canary"));
    assert_eq!(suspended_by(&revocations, "b"), None, "an administrator has changed what follows");
    assert!(handler.failed.is_empty());
}
