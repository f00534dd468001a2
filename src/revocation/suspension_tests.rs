//! Suspensions by rules for anomalies, and revocations by people.

use super::{Error, NewRevocation, Outcome, Revocations, Target, TargetKind, revoked_by_rule};
use crate::clock::{Clock, Timestamp};

/// The database is not there, so that nothing is stored; it is in effect all the same.
fn revocations() -> Revocations {
    Revocations::of_test(Clock::manual(Timestamp::from_secs(1_700_000_000)))
}

fn agent() -> Target {
    Target::new(TargetKind::Agent, "a")
}

fn by(revoked_by: &str) -> NewRevocation {
    NewRevocation {
        target: agent(),
        is_blocking: true,
        revoked_by: revoked_by.to_owned(),
        reason: String::new(),
    }
}

#[test]
fn a_persons_revocation_takes_the_place_of_a_rules_and_no_other_way_round() {
    let revocations = revocations();
    let rule = revoked_by_rule("canary");
    let outcome = |who: &str| revocations.put_into_effect(by(who)).unwrap().outcome;
    assert_eq!(outcome(&rule), Outcome::Revoked);
    assert_eq!(outcome(&rule), Outcome::AlreadyRevoked);
    let suspended = revocations.current().get(&agent()).unwrap().clone();
    assert_eq!(outcome("uid 0, pid 7"), Outcome::Revoked);
    let set = revocations.current();
    let revoked = set.get(&agent()).unwrap();
    assert_eq!((revoked.rule(), revoked.revoked_by.as_str()), (None, "uid 0, pid 7"));
    assert!(revoked.epoch > suspended.epoch && revoked.is_blocking);
    assert_eq!(outcome("uid 0, pid 8"), Outcome::AlreadyRevoked);
    assert_eq!(outcome(&rule), Outcome::AlreadyRevoked);
    assert_eq!(revocations.current().get(&agent()).unwrap().revoked_by, "uid 0, pid 7");
}

#[tokio::test]
async fn ending_a_suspension_does_not_lift_a_revocation_that_came_meanwhile() {
    let revocations = revocations();
    revocations.put_into_effect(by(&revoked_by_rule("canary"))).unwrap();
    let epoch = revocations.current().get(&agent()).unwrap().epoch;
    // The administrator resumes the agent, and waits for its certificates.
    let resumed = tokio::spawn({
        let revocations = revocations.clone();
        async move { revocations.lift_epoch(&agent(), epoch).await }
    });
    tokio::task::yield_now().await;
    revocations.put_into_effect(by("uid 0, pid 7")).unwrap();
    revocations.certificates_revoked(revocations.current().latest_epoch());
    assert!(matches!(resumed.await.unwrap(), Err(Error::RevokedAgain(_))));
    assert!(revocations.current().get(&agent()).unwrap().is_blocking);
    assert!(matches!(revocations.lift_epoch(&agent(), epoch).await, Err(Error::RevokedAgain(_))));
    // What is asked for now is the revocation of now.
    let lifted = revocations.lift(&agent()).await;
    assert!(matches!(lifted, Err(Error::NotStored(_))), "{lifted:?}");
    assert!(!revocations.current().get(&agent()).unwrap().is_blocking);
    assert!(matches!(revocations.lift(&agent()).await, Err(Error::NotRevoked(_))));
}
