use std::time::Duration;

use super::super::request::tests::token;
use super::*;
use crate::revocation::{Revocation, Target, TargetKind};

const START: Timestamp = Timestamp::from_secs(1_800_000_000);

fn approvals() -> (Approvals, Clock) {
    let clock = Clock::manual(START);
    (Approvals::new(ApprovalsSection::default(), clock.clone()), clock)
}

fn take(approvals: &Approvals, request: &ApprovalRequest) -> Result<UsedApproval, NotApproved> {
    approvals.take(request.clone(), 1, &RevocationSet::default())
}

/// The id and digest of the only request that waits.
fn only(approvals: &Approvals) -> (String, String) {
    let reports = approvals.reports();
    let waiting: Vec<_> = reports.iter().filter(|one| one.state == ApprovalState::Pending).collect();
    assert_eq!(waiting.len(), 1, "{reports:?}");
    (waiting[0].id.clone(), waiting[0].digest.clone())
}

fn approval() -> Decision {
    Decision::Approve { by: "uid 0, pid 7".into(), epoch: 5 }
}

fn refusal(reason: &str) -> Decision {
    Decision::Deny { reason: reason.into() }
}

fn decide(approvals: &Approvals, decision: Decision) -> String {
    let (id, digest) = only(approvals);
    approvals.reserve(&id, &digest, decision).unwrap().commit().unwrap();
    id
}

#[track_caller]
fn assert_waits(approvals: &Approvals, request: &ApprovalRequest) -> String {
    match take(approvals, request) {
        Err(NotApproved::Pending { id, .. }) => id,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_approval_of_each_permits_one_request_and_no_other() {
    let (approvals, _) = approvals();
    let asked = token("i", "read", ApprovalMode::Each);
    let id = assert_waits(&approvals, &asked);
    assert_eq!(assert_waits(&approvals, &asked), id);
    decide(&approvals, approval());
    for other in [
        token("i", "write", ApprovalMode::Each),
        token("j", "read", ApprovalMode::Each),
        token("i", "read", ApprovalMode::Task),
    ] {
        assert_waits(&approvals, &other);
    }
    let used = take(&approvals, &asked).unwrap();
    assert_eq!(used, UsedApproval { id: id.clone(), approved_by: "uid 0, pid 7".into() });
    assert_ne!(assert_waits(&approvals, &asked), id);
}

#[test]
fn an_approval_of_a_task_counts_until_its_time_has_passed() {
    let (approvals, clock) = approvals();
    let asked = token("i", "read", ApprovalMode::Task);
    assert_waits(&approvals, &asked);
    decide(&approvals, approval());
    for _ in 0..3 {
        take(&approvals, &asked).unwrap();
    }
    clock.advance(ApprovalsSection::default().task - Duration::from_secs(1));
    take(&approvals, &asked).unwrap();
    clock.advance(Duration::from_secs(1));
    assert_waits(&approvals, &asked);
}

#[test]
fn different_requests_wait_beside_each_other() {
    let (approvals, _) = approvals();
    let [read, write] = ["read", "write"].map(|scope| token("i", scope, ApprovalMode::Each));
    let ids = [assert_waits(&approvals, &read), assert_waits(&approvals, &write)];
    for _ in 0..3 {
        assert_eq!([assert_waits(&approvals, &read), assert_waits(&approvals, &write)], ids);
    }
}

#[test]
fn only_what_was_examined_is_decided_and_once() {
    let (approvals, _) = approvals();
    assert_waits(&approvals, &token("i", "read", ApprovalMode::Each));
    let (id, digest) = only(&approvals);
    let reserve = |id: &str, digest: &str| approvals.reserve(id, digest, approval()).map(|one| one.commit());
    assert_eq!(reserve("0000000000", &digest), Err(DecisionError::Unknown));
    assert_eq!(reserve(&id, &"0".repeat(64)), Err(DecisionError::OtherDigest));
    assert!(reserve(&id, &digest).unwrap().is_some());
    assert_eq!(reserve(&id, &digest), Err(DecisionError::Decided));
}

#[test]
fn a_decision_that_is_not_committed_has_no_effect_and_a_second_one_does_not_overtake_it() {
    let (approvals, _) = approvals();
    let asked = token("i", "read", ApprovalMode::Each);
    assert_waits(&approvals, &asked);
    let (id, digest) = only(&approvals);
    let reserved = approvals.reserve(&id, &digest, approval()).unwrap();
    assert_eq!(approvals.reserve(&id, &digest, refusal("")).err(), Some(DecisionError::Decided));
    assert_eq!(assert_waits(&approvals, &asked), id, "not in effect before it is recorded");
    drop(reserved);
    assert_eq!(assert_waits(&approvals, &asked), id);
    decide(&approvals, approval());
    take(&approvals, &asked).unwrap();
}

#[test]
fn a_decision_whose_record_takes_long_is_in_effect_as_it_was_recorded() {
    let (approvals, clock) = approvals();
    let asked = token("i", "read", ApprovalMode::Each);
    assert_waits(&approvals, &asked);
    let (id, digest) = only(&approvals);
    let reserved = approvals.reserve(&id, &digest, approval()).unwrap();
    clock.advance(ApprovalsSection::default().wait);
    assert_eq!(approvals.reports().len(), 1);
    assert_eq!(reserved.commit().unwrap().state, ApprovalState::Approved);
    take(&approvals, &asked).unwrap();
    // One that is not recorded does not outlast its time.
    assert_waits(&approvals, &asked);
    let (id, digest) = only(&approvals);
    let reserved = approvals.reserve(&id, &digest, approval()).unwrap();
    clock.advance(ApprovalsSection::default().wait);
    drop(reserved);
    assert!(approvals.reports().is_empty());
}

#[test]
fn an_approval_can_be_taken_back() {
    let (approvals, _) = approvals();
    let asked = token("i", "read", ApprovalMode::Task);
    assert_waits(&approvals, &asked);
    let (id, digest) = only(&approvals);
    decide(&approvals, approval());
    take(&approvals, &asked).unwrap();
    approvals.reserve(&id, &digest, refusal("by mistake")).unwrap().commit().unwrap();
    assert_eq!(take(&approvals, &asked), Err(NotApproved::Denied { id, reason: "by mistake".into() }));
}

#[test]
fn a_refusal_counts_for_its_time_and_for_each_request_for_as_much() {
    let (approvals, clock) = approvals();
    let asked = token("i", "read", ApprovalMode::Each);
    assert_waits(&approvals, &asked);
    let id = decide(&approvals, refusal("not today"));
    let denied = Err(NotApproved::Denied { id, reason: "not today".into() });
    assert_eq!(take(&approvals, &asked), denied);
    assert_eq!(take(&approvals, &token("j", "read write", ApprovalMode::Each)), denied);
    assert_waits(&approvals, &token("j", "write", ApprovalMode::Each));
    clock.advance(ApprovalsSection::default().wait);
    assert_waits(&approvals, &asked);
}

#[test]
fn a_revocation_ends_an_approval_for_good() {
    let revoked = |kind, value: &str, epoch| {
        let revocation = Revocation {
            target: Target::new(kind, value),
            epoch,
            is_blocking: false,
            revoked_at: START,
            revoked_by: String::new(),
            reason: String::new(),
            lapses: None,
            is_guarded: true,
        };
        RevocationSet::of_test([revocation])
    };
    let (approvals, _) = approvals();
    let asked = token("i", "read", ApprovalMode::Task);
    for (kind, value) in [
        (TargetKind::Agent, "a"),
        (TargetKind::Owner, "anna@example.com"),
        (TargetKind::Invocation, "i"),
        (TargetKind::Everything, ""),
    ] {
        assert_waits(&approvals, &asked);
        decide(&approvals, approval());
        let earlier = revoked(kind, value, 5);
        approvals.take(asked.clone(), 1, &earlier).unwrap();
        let later = revoked(kind, value, 6);
        assert!(approvals.take(asked.clone(), 1, &later).is_err(), "{kind:?}");
        decide(&approvals, approval());
        approvals.forget_revoked(&later);
        assert_waits(&approvals, &asked);
        decide(&approvals, approval());
        approvals.forget_revoked(&revoked(TargetKind::Agent, "another", 6));
        take(&approvals, &asked).unwrap();
        approvals.forget_revoked(&later);
    }
}

#[test]
fn nothing_waits_for_ever_and_an_approval_is_to_be_used_soon() {
    let (approvals, clock) = approvals();
    let asked = token("i", "read", ApprovalMode::Each);
    assert_waits(&approvals, &asked);
    clock.advance(ApprovalsSection::default().wait);
    assert_eq!((approvals.pending_count(), approvals.reports().len()), (0, 0));
    assert_waits(&approvals, &asked);
    decide(&approvals, approval());
    clock.advance(ApprovalsSection::default().use_within);
    assert_waits(&approvals, &asked);
}

#[test]
fn a_request_has_a_record_once() {
    let (approvals, _) = approvals();
    let asked = token("i", "read", ApprovalMode::Each);
    let is_recorded = || match take(&approvals, &asked) {
        Err(NotApproved::Pending { is_recorded, .. }) => is_recorded,
        other => panic!("{other:?}"),
    };
    assert!(!is_recorded() && !is_recorded(), "as long as none is written");
    approvals.set_recorded(&only(&approvals).0);
    assert!(is_recorded());
}

#[test]
fn the_number_and_length_of_requests_is_bounded() {
    let (approvals, _) = approvals();
    for n in 0..MAX_PENDING_OF_AGENT {
        assert_waits(&approvals, &token(&n.to_string(), "read", ApprovalMode::Each));
    }
    let more = token("more", "read", ApprovalMode::Each);
    assert_eq!(take(&approvals, &more), Err(NotApproved::TooManyOfAgent(MAX_PENDING_OF_AGENT)));
    for agent in 1..MAX_PENDING / MAX_PENDING_OF_AGENT {
        for n in 0..MAX_PENDING_OF_AGENT {
            let asked = token(&n.to_string(), "read", ApprovalMode::Each);
            assert_waits(&approvals, &ApprovalRequest { agent: format!("agent-{agent}"), ..asked });
        }
    }
    let another = ApprovalRequest { agent: "another".into(), ..more };
    assert_eq!(take(&approvals, &another), Err(NotApproved::TooMany(MAX_PENDING)));
    let long = token("i", &"s".repeat(MAX_REQUEST_LEN), ApprovalMode::Each);
    assert_eq!(take(&approvals, &long), Err(NotApproved::TooLong(MAX_REQUEST_LEN)));
}

#[test]
fn tasks_that_run_no_more_keep_no_other_from_asking() {
    let (approvals, clock) = approvals();
    for n in 0..=MAX_DECIDED_OF_AGENT {
        assert_waits(&approvals, &token(&n.to_string(), "read", ApprovalMode::Task));
        decide(&approvals, approval());
        clock.advance(Duration::from_secs(1));
    }
    assert_eq!(approvals.reports().len(), MAX_DECIDED_OF_AGENT);
    assert_waits(&approvals, &token("0", "read", ApprovalMode::Task));
    take(&approvals, &token("1", "read", ApprovalMode::Task)).unwrap();
}
