use std::path::Path;

use super::super::observation::Executable;
use super::*;

const NOW: Timestamp = Timestamp::from_secs(1_799_625_600);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn new(clock: &Clock) -> (Anomalies, mpsc::Receiver<Alert>) {
    let anomalies = Anomalies::new(clock.clone(), Zone::utc(), DAY * 7);
    let receiver = anomalies.take_receiver().unwrap();
    anomalies.restore(None);
    (anomalies, receiver)
}

fn observe(anomalies: &Anomalies, act: Act<'_>) {
    observe_program(anomalies, act, ("/usr/bin/agent", 1, 1));
}

fn observe_program(anomalies: &Anomalies, act: Act<'_>, (path, version, file): (&str, u8, u8)) {
    let (time, boot) = (anomalies.clock().now(), anomalies.clock().boot_time());
    let exe = Some(Executable { path: Path::new(path), version: [version; 8], file: [file; 8] });
    anomalies.observe(&Observation { time, boot, agent: "a", tenant: None, act, exe, stated_hours: None });
}

fn token(audiences: &str) -> Act<'_> {
    Act::Token { audiences, jti: "j", lifetime: Duration::from_secs(300), is_longest: Some(true) }
}

#[test]
fn a_canary_is_found_at_once_and_a_flood_is_one_alert() {
    let clock = Clock::manual(NOW);
    let (anomalies, mut alerts) = new(&clock);
    anomalies.set_canaries(Box::new(|tenant, agent, name| (tenant, agent, name) == ("", "a", "root-key")));
    observe(&anomalies, Act::Credential("other"));
    assert!(alerts.try_recv().is_err());
    for _ in 0..1000 {
        observe(&anomalies, Act::Refused { credential: Some("root-key"), count: 0 });
    }
    let alert = alerts.try_recv().unwrap();
    assert_eq!(
        (alert.rule, alert.detail.as_str()),
        (AnomalyRule::Canary, "it asked for the canary credential root-key")
    );
    assert!(alerts.try_recv().is_err());
    anomalies.resume("a");
    observe(&anomalies, Act::Credential("root-key"));
    assert_eq!(alerts.try_recv().unwrap().detail, "it got the canary credential root-key");
    clock.advance(Duration::from_secs(3601));
    observe(&anomalies, Act::Credential("root-key"));
    assert_eq!(alerts.try_recv().unwrap().repeats, 0);
}

#[test]
fn a_removed_executable_goes_on_and_a_file_that_is_only_named_so_is_another() {
    let clock = Clock::manual(NOW);
    let (anomalies, mut alerts) = new(&clock);
    for _ in 0..8 {
        observe(&anomalies, Act::Identity(None));
        clock.advance(DAY);
    }
    // Removing the name changed the ctime, and so the version.
    observe_program(&anomalies, Act::Identity(None), ("/usr/bin/agent (deleted)", 2, 1));
    observe(&anomalies, Act::Identity(None));
    assert!(alerts.try_recv().is_err());
    observe_program(&anomalies, Act::Identity(None), ("/usr/bin/agent (deleted)", 3, 3));
    let alert = alerts.try_recv().unwrap();
    assert_eq!(alert.rule, AnomalyRule::Executable);
    assert_eq!(alert.detail, "its executable /usr/bin/agent (deleted) is another one than before");
    // Also for a daemon that was started again meanwhile.
    let dir = tempfile::tempdir().unwrap();
    anomalies.to_file().unwrap().write(dir.path()).unwrap();
    let restarted = Anomalies::new(clock.clone(), Zone::utc(), DAY * 7);
    let mut alerts = restarted.take_receiver().unwrap();
    restarted.restore(AnomalyFile::read(dir.path()).unwrap());
    observe_program(&restarted, Act::Identity(None), ("/usr/bin/agent (deleted)", 4, 1));
    assert!(alerts.try_recv().is_err());
    observe_program(&restarted, Act::Identity(None), ("/usr/bin/other (deleted)", 4, 1));
    assert_eq!(alerts.try_recv().unwrap().rule, AnomalyRule::Executable);
}

#[test]
fn a_clock_that_is_set_neither_ends_the_learning_time_nor_makes_an_hour_unusual() {
    let clock = Clock::manual(NOW);
    let (anomalies, mut alerts) = new(&clock);
    observe(&anomalies, token("x"));
    clock.set(NOW.after(DAY * 365));
    observe(&anomalies, token("y"));
    clock.set(NOW);
    observe(&anomalies, token("z"));
    assert!(alerts.try_recv().is_err(), "still learning");
    for hour in 0..24 * 30 {
        if (9..17).contains(&(hour % 24)) {
            observe(&anomalies, token("x"));
        }
        clock.advance(Duration::from_secs(3600));
    }
    // Midnight: the clock is set to 03:00.
    clock.set(clock.now().after(Duration::from_secs(3 * 3600)));
    observe(&anomalies, token("x"));
    assert!(alerts.try_recv().is_err());
    clock.advance(Duration::from_secs(3601));
    observe(&anomalies, token("x"));
    assert_eq!(alerts.try_recv().unwrap().rule, AnomalyRule::Hours);
}

#[test]
fn what_was_learnt_is_stored_and_agents_are_bounded() {
    let clock = Clock::manual(NOW);
    let (anomalies, _alerts) = new(&clock);
    for _ in 0..9 {
        observe(&anomalies, token("x"));
        clock.advance(DAY);
    }
    let dir = tempfile::tempdir().unwrap();
    anomalies.to_file().unwrap().write(dir.path()).unwrap();
    let (restarted, mut alerts) = {
        let anomalies = Anomalies::new(clock.clone(), Zone::utc(), DAY * 7);
        let receiver = anomalies.take_receiver().unwrap();
        assert!(anomalies.to_file().is_none(), "the file is not replaced before it was read");
        anomalies.restore(AnomalyFile::read(dir.path()).unwrap());
        (anomalies, receiver)
    };
    assert_eq!(restarted.since(), Some(NOW));
    observe(&restarted, token("x y"));
    assert_eq!(alerts.try_recv().unwrap().detail, "it uses the audience y for the first time");
    for n in 0..MAX_AGENTS + 10 {
        let agent = format!("agent-{n}");
        let (time, boot) = (clock.now().after(Duration::from_secs(n as u64)), clock.boot_time());
        let seen = Observation {
            time,
            boot,
            agent: &agent,
            tenant: None,
            act: Act::Identity(None),
            exe: None,
            stated_hours: None,
        };
        restarted.observe(&seen);
    }
    let file = restarted.to_file().unwrap();
    assert!(
        file.agents.len() <= MAX_AGENTS && file.agents.contains_key(&format!("agent-{}", MAX_AGENTS + 9))
    );
    file.write(dir.path()).unwrap();
    assert!(AnomalyFile::read(dir.path()).unwrap().is_some(), "within the size of a state file");
}

#[test]
fn a_rule_from_which_more_follows_has_an_alert_at_its_next_finding() {
    let clock = Clock::manual(NOW);
    let (anomalies, mut alerts) = new(&clock);
    anomalies.set_canaries(Box::new(|_, _, name| name == "root-key"));
    let canary = || observe(&anomalies, Act::Credential("root-key"));
    canary();
    canary();
    assert!(alerts.try_recv().is_ok() && alerts.try_recv().is_err());
    anomalies.rearm("a", AnomalyRule::Hours);
    canary();
    assert!(alerts.try_recv().is_err(), "another rule");
    anomalies.rearm("a", AnomalyRule::Canary);
    canary();
    assert_eq!(alerts.try_recv().unwrap().rule, AnomalyRule::Canary);
}

#[test]
fn jwt_svids_are_known_audiences_and_are_not_followed() {
    let clock = Clock::manual(NOW);
    let (anomalies, mut alerts) = new(&clock);
    for n in 0..30 {
        let jti = n.to_string();
        let lifetime = Duration::from_secs(300);
        observe(&anomalies, Act::Token { audiences: "x", jti: &jti, lifetime, is_longest: None });
        anomalies.note_token_use("a", "x", &jti);
        clock.advance(DAY / 2);
    }
    while alerts.try_recv().is_ok() {}
    for _ in 0..40 {
        observe(&anomalies, Act::JwtSvid("x"));
        clock.advance(DAY / 2);
    }
    observe(&anomalies, token("x"));
    assert!(alerts.try_recv().is_err(), "no token is unused");
    observe(&anomalies, Act::JwtSvid("x y"));
    assert_eq!(alerts.try_recv().unwrap().detail, "it uses the audience y for the first time");
}
