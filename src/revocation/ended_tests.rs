//! Ended invocations and starts of the host.

use std::time::Duration;

use super::{EndedInvocation, MAX_ENDED, NewRevocation, Revocations, Target, TargetKind};
use crate::agents::AgentName;
use crate::clock::{Clock, Timestamp};

const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

fn of_kind(revocations: &Revocations, kind: TargetKind) -> usize {
    revocations.current().iter().filter(|one| one.target.kind() == kind).count()
}

#[test]
fn ended_invocations_lapse_when_their_tokens_have_expired() {
    let revocations = Revocations::of_test(Clock::manual(NOW));
    let until = NOW.after(Duration::from_secs(300));
    revocations.end_invocation(&EndedInvocation { id: "a", agents: &[], until, reason: "a unit stopped" });
    let set = revocations.current();
    let ended = set.get(&Target::new(TargetKind::Invocation, "a")).unwrap();
    assert!(!ended.is_blocking && !ended.is_guarded && ended.reason == "a unit stopped");
    let lapses = ended.lapses.unwrap();
    assert!(lapses > until && lapses < until.after(Duration::from_secs(100)), "{lapses}");
    // What was issued later in the same invocation does not shorten it.
    revocations.end_invocation(&EndedInvocation { id: "a", agents: &[], until: NOW, reason: "again" });
    let set = revocations.current();
    assert_eq!(set.get(&Target::new(TargetKind::Invocation, "a")).unwrap().lapses, Some(lapses));
}

#[test]
fn many_ended_invocations_are_bounded() {
    let revocations = Revocations::of_test(Clock::manual(NOW));
    let agents = [AgentName::parse("busy").unwrap()];
    let end = |id: &str| {
        revocations.end_invocation(&EndedInvocation { id, agents: &agents, until: NOW, reason: "" });
    };
    for n in 0..MAX_ENDED {
        end(&n.to_string());
    }
    assert_eq!(of_kind(&revocations, TargetKind::Agent), 0);
    let before = revocations.current().latest_epoch();
    for n in 0..10 {
        end(&format!("more {n}"));
    }
    assert_eq!(of_kind(&revocations, TargetKind::Invocation), MAX_ENDED);
    let set = revocations.current();
    let agent = set.get(&Target::new(TargetKind::Agent, "busy")).unwrap();
    assert!(!agent.is_blocking && agent.epoch == before + 10);
    // One that ends again needs no room.
    end("7");
    assert_eq!(of_kind(&revocations, TargetKind::Invocation), MAX_ENDED);
}

/// The database is not there, so that nothing is stored; it is in effect all the same.
#[tokio::test]
async fn a_revoked_invocation_blocks_until_it_ends_or_the_host_is_started_again() {
    let revocations = Revocations::of_test(Clock::manual(NOW));
    let revoke = |kind, value: &str| NewRevocation {
        target: Target::new(kind, value),
        is_blocking: true,
        revoked_by: "uid 0".to_owned(),
        reason: "leaked".to_owned(),
    };
    for id in ["a", "b"] {
        let _ = revocations.revoke(revoke(TargetKind::Invocation, id)).await;
    }
    revocations.end_invocation(&EndedInvocation { id: "a", agents: &[], until: NOW, reason: "stopped" });
    let blocking = |id: &str| {
        let set = revocations.current();
        let one = set.get(&Target::new(TargetKind::Invocation, id)).unwrap().clone();
        assert_eq!((one.reason.as_str(), one.revoked_by.as_str()), ("leaked", "uid 0"));
        one.is_blocking
    };
    assert_eq!((blocking("a"), blocking("b")), (false, true));
    let before = revocations.current().latest_epoch();
    let _ = revocations.end_earlier_boot().await;
    assert!(!blocking("b"));
    let set = revocations.current();
    let everything = set.get(&Target::everything()).unwrap();
    assert!(!everything.is_blocking && everything.epoch > before && set.freeze().is_none());
    assert!(everything.description().contains("everything was revoked"), "{}", everything.description());

    // A frozen host stays frozen.
    let _ = revocations.revoke(revoke(TargetKind::Everything, "")).await;
    let _ = revocations.end_earlier_boot().await;
    assert!(revocations.current().freeze().is_some());
}
