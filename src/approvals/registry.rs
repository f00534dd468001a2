//! The requests that wait, and the decisions about them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use data_encoding::HEXLOWER;
use ring::rand::{SecureRandom, SystemRandom};

use super::error::{DecisionError, NotApproved};
use super::request::ApprovalRequest;
use crate::agents::{Administrator, ApprovalMode};
use crate::clock::{BootTime, Clock, Timestamp};
use crate::config::ApprovalsSection;
use crate::mutex::lock;

/// Requests of one agent that wait, or that were decided and not yet forgotten.
const MAX_OF_AGENT: usize = 8;
/// Requests of all agents.
const MAX_REQUESTS: usize = 512;
/// Bytes of one request as JSON, so that a person can read it.
const MAX_REQUEST_LEN: usize = 8 * 1024;
/// Random bytes of an id.
const ID_LEN: usize = 5;

/// The requests that wait for an approval. Cheap to clone; all clones share them.
#[derive(Clone)]
pub struct Approvals(Arc<Shared>);

struct Shared {
    settings: ApprovalsSection,
    clock: Clock,
    /// By the digest of the request.
    requests: Mutex<HashMap<String, Entry>>,
}

struct Entry {
    id: String,
    request: ApprovalRequest,
    /// The process that asked first.
    pid: i32,
    requested: Timestamp,
    state: State,
    /// Until then the entry counts.
    ends: BootTime,
}

#[derive(Clone)]
enum State {
    Pending,
    Approved { by: String },
    Denied { reason: String },
}

/// An approval that a request has used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsedApproval {
    /// The id of the request that was approved.
    pub id: String,
    /// Who approved it: `uid N, pid N`.
    pub approved_by: String,
}

/// What an administrator decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The request is permitted.
    Approve,
    /// It is refused, for this reason, which the agent reads; may be empty.
    Deny(String),
}

/// Where a request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApprovalState {
    /// It waits.
    Pending,
    /// It was approved, and can be used.
    Approved,
    /// It was refused.
    Denied,
}

/// A request as administrators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApprovalReport {
    /// What names it.
    pub id: String,
    /// SHA-256 of `request` as JSON, in hexadecimal digits.
    pub digest: String,
    /// What is approved.
    pub request: ApprovalRequest,
    /// The process that asked first.
    pub pid: i32,
    /// When it asked first.
    pub requested: Timestamp,
    /// Where it stands.
    pub state: ApprovalState,
    /// Seconds until it is forgotten.
    pub seconds_left: u64,
}

impl Approvals {
    /// No requests.
    pub fn new(settings: ApprovalsSection, clock: Clock) -> Approvals {
        Approvals(Arc::new(Shared { settings, clock, requests: Mutex::default() }))
    }

    /// Takes the approval of a request, or has the request wait for one. An approval of [`ApprovalMode::Each`] is used
    /// up by this. An edited request takes the place of the earlier one of the same invocation, which is void then.
    ///
    /// # Errors
    /// The request is not approved.
    pub fn take(&self, request: ApprovalRequest, pid: i32) -> Result<UsedApproval, NotApproved> {
        let measured = request.length_and_digest().ok().filter(|(length, _)| *length <= MAX_REQUEST_LEN);
        let (_, digest) = measured.ok_or(NotApproved::TooLong(MAX_REQUEST_LEN))?;
        let mut requests = self.current();
        let Some(entry) = requests.get(&digest) else {
            return Err(self.add(&mut requests, digest, request, pid));
        };
        let id = entry.id.clone();
        match entry.state.clone() {
            State::Pending => Err(NotApproved::Pending { id, is_new: false }),
            State::Denied { reason } => Err(NotApproved::Denied { id, reason }),
            State::Approved { by } => {
                if entry.request.approval == ApprovalMode::Each {
                    requests.remove(&digest);
                }
                Ok(UsedApproval { id, approved_by: by })
            }
        }
    }

    /// Decides a request that waits. `examined` is the digest of what the administrator was shown.
    ///
    /// # Errors
    /// The decision is not accepted, and changes nothing.
    pub fn decide(
        &self,
        id: &str,
        examined: &str,
        decision: Decision,
        by: &Administrator,
    ) -> Result<ApprovalReport, DecisionError> {
        let mut requests = self.current();
        let now = self.0.clock.boot_time();
        let found = requests.iter_mut().find(|(_, entry)| entry.id == id);
        let (digest, entry) = found.ok_or(DecisionError::Unknown)?;
        if digest != examined {
            return Err(DecisionError::OtherDigest);
        }
        if !matches!(entry.state, State::Pending) {
            return Err(DecisionError::Decided);
        }
        let settings = &self.0.settings;
        let (state, lasts) = match (decision, entry.request.approval) {
            (Decision::Deny(reason), _) => (State::Denied { reason }, settings.wait),
            (Decision::Approve, ApprovalMode::Each) => (approved(by), settings.use_within),
            (Decision::Approve, ApprovalMode::Task) => (approved(by), settings.task),
        };
        (entry.state, entry.ends) = (state, now.after(lasts));
        Ok(report(digest, entry, now))
    }

    /// All requests, the oldest first.
    pub fn reports(&self) -> Vec<ApprovalReport> {
        let requests = self.current();
        let now = self.0.clock.boot_time();
        let mut reports: Vec<ApprovalReport> =
            requests.iter().map(|(digest, entry)| report(digest, entry, now)).collect();
        reports.sort_by(|a, b| (a.requested, &a.id).cmp(&(b.requested, &b.id)));
        reports
    }

    /// How many requests wait.
    pub fn pending_count(&self) -> usize {
        self.current().values().filter(|entry| matches!(entry.state, State::Pending)).count()
    }

    /// The requests whose time has not passed.
    fn current(&self) -> std::sync::MutexGuard<'_, HashMap<String, Entry>> {
        let mut requests = lock(&self.0.requests);
        let now = self.0.clock.boot_time();
        requests.retain(|_, entry| now < entry.ends);
        requests
    }

    fn add(
        &self,
        requests: &mut HashMap<String, Entry>,
        digest: String,
        request: ApprovalRequest,
        pid: i32,
    ) -> NotApproved {
        // What was decided stays, so that an edit is no way around a refusal that is remembered.
        requests.retain(|_, entry| {
            !(matches!(entry.state, State::Pending) && request.is_edited_form_of(&entry.request))
        });
        if requests.len() >= MAX_REQUESTS {
            return NotApproved::TooMany(MAX_REQUESTS);
        }
        if requests.values().filter(|entry| entry.request.agent == request.agent).count() >= MAX_OF_AGENT {
            return NotApproved::TooMany(MAX_OF_AGENT);
        }
        let mut random = [0; ID_LEN];
        if SystemRandom::new().fill(&mut random).is_err() {
            return NotApproved::NoRandom;
        }
        let id = HEXLOWER.encode(&random);
        let entry = Entry {
            id: id.clone(),
            request,
            pid,
            requested: self.0.clock.now(),
            state: State::Pending,
            ends: self.0.clock.boot_time().after(self.0.settings.wait),
        };
        requests.insert(digest, entry);
        NotApproved::Pending { id, is_new: true }
    }
}

fn approved(by: &Administrator) -> State {
    State::Approved { by: by.id.clone() }
}

fn report(digest: &str, entry: &Entry, now: BootTime) -> ApprovalReport {
    ApprovalReport {
        id: entry.id.clone(),
        digest: digest.to_owned(),
        request: entry.request.clone(),
        pid: entry.pid,
        requested: entry.requested,
        state: match entry.state {
            State::Pending => ApprovalState::Pending,
            State::Approved { .. } => ApprovalState::Approved,
            State::Denied { .. } => ApprovalState::Denied,
        },
        seconds_left: entry.ends.since(now).as_secs(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::request::tests::token;
    use super::*;

    const START: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn approvals() -> (Approvals, Clock) {
        let clock = Clock::manual(START);
        (Approvals::new(ApprovalsSection::default(), clock.clone()), clock)
    }

    fn anna() -> Administrator {
        Administrator { uid: 0, login_uid: Some(1000), id: "uid 0, pid 7".into() }
    }

    /// The id and digest of the only request that waits.
    fn only(approvals: &Approvals) -> (String, String) {
        let reports = approvals.reports();
        let waiting: Vec<_> = reports.iter().filter(|one| one.state == ApprovalState::Pending).collect();
        assert_eq!(waiting.len(), 1, "{reports:?}");
        (waiting[0].id.clone(), waiting[0].digest.clone())
    }

    fn approve(approvals: &Approvals) -> String {
        let (id, digest) = only(approvals);
        approvals.decide(&id, &digest, Decision::Approve, &anna()).unwrap();
        id
    }

    #[track_caller]
    fn assert_waits(approvals: &Approvals, request: &ApprovalRequest, is_new: bool) {
        match approvals.take(request.clone(), 1) {
            Err(NotApproved::Pending { is_new: found, .. }) => assert_eq!(found, is_new),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_approval_of_each_permits_one_request_and_no_other() {
        let (approvals, _) = approvals();
        let (asked, other) =
            (token("i", "read", ApprovalMode::Each), token("i", "write", ApprovalMode::Each));
        assert_waits(&approvals, &asked, true);
        assert_waits(&approvals, &asked, false);
        let id = approve(&approvals);
        assert_waits(&approvals, &other, true);
        assert_waits(&approvals, &token("j", "read", ApprovalMode::Each), true);
        let used = approvals.take(asked.clone(), 2).unwrap();
        assert_eq!(used, UsedApproval { id, approved_by: "uid 0, pid 7".into() });
        assert_waits(&approvals, &asked, true);
    }

    #[test]
    fn an_approval_of_a_task_counts_until_its_time_has_passed() {
        let (approvals, clock) = approvals();
        let asked = token("i", "read", ApprovalMode::Task);
        assert_waits(&approvals, &asked, true);
        approve(&approvals);
        for _ in 0..3 {
            approvals.take(asked.clone(), 1).unwrap();
        }
        clock.advance(ApprovalsSection::default().task - Duration::from_secs(1));
        approvals.take(asked.clone(), 1).unwrap();
        clock.advance(Duration::from_secs(1));
        assert_waits(&approvals, &asked, true);
    }

    #[test]
    fn an_edited_request_makes_the_earlier_one_void() {
        let (approvals, _) = approvals();
        let (first, edited) =
            (token("i", "read", ApprovalMode::Each), token("i", "read write", ApprovalMode::Each));
        assert_waits(&approvals, &first, true);
        let (id, digest) = only(&approvals);
        assert_waits(&approvals, &edited, true);
        let decided = approvals.decide(&id, &digest, Decision::Approve, &anna());
        assert_eq!(decided, Err(DecisionError::Unknown));
        assert_ne!(only(&approvals).0, id);
        assert_waits(&approvals, &first, true);
    }

    #[test]
    fn only_what_was_examined_is_decided_and_once() {
        let (approvals, _) = approvals();
        assert_waits(&approvals, &token("i", "read", ApprovalMode::Each), true);
        let (id, digest) = only(&approvals);
        let decide = |id: &str, digest: &str| approvals.decide(id, digest, Decision::Approve, &anna());
        assert_eq!(decide("0000000000", &digest), Err(DecisionError::Unknown));
        assert_eq!(decide(&id, &"0".repeat(64)), Err(DecisionError::OtherDigest));
        decide(&id, &digest).unwrap();
        assert_eq!(decide(&id, &digest), Err(DecisionError::Decided));
    }

    #[test]
    fn a_refusal_is_remembered_with_its_reason_and_then_forgotten() {
        let (approvals, clock) = approvals();
        let asked = token("i", "read", ApprovalMode::Each);
        assert_waits(&approvals, &asked, true);
        let (id, digest) = only(&approvals);
        approvals.decide(&id, &digest, Decision::Deny("not today".into()), &anna()).unwrap();
        let denied = NotApproved::Denied { id, reason: "not today".into() };
        assert_eq!(approvals.take(asked.clone(), 1), Err(denied));
        clock.advance(ApprovalsSection::default().wait);
        assert_waits(&approvals, &asked, true);
    }

    #[test]
    fn nothing_waits_for_ever_and_an_approval_is_to_be_used_soon() {
        let (approvals, clock) = approvals();
        let asked = token("i", "read", ApprovalMode::Each);
        assert_waits(&approvals, &asked, true);
        clock.advance(ApprovalsSection::default().wait);
        assert_eq!((approvals.pending_count(), approvals.reports().len()), (0, 0));
        assert_waits(&approvals, &asked, true);
        approve(&approvals);
        clock.advance(ApprovalsSection::default().use_within);
        assert_waits(&approvals, &asked, true);
    }

    #[test]
    fn the_number_and_length_of_requests_is_bounded() {
        let (approvals, _) = approvals();
        for invocation in 0..MAX_OF_AGENT {
            assert_waits(&approvals, &token(&invocation.to_string(), "read", ApprovalMode::Each), true);
        }
        let more = token("more", "read", ApprovalMode::Each);
        assert_eq!(approvals.take(more.clone(), 1), Err(NotApproved::TooMany(MAX_OF_AGENT)));
        for agent in 1..MAX_REQUESTS / MAX_OF_AGENT {
            for invocation in 0..MAX_OF_AGENT {
                let asked = token(&invocation.to_string(), "read", ApprovalMode::Each);
                let asked = ApprovalRequest { agent: format!("agent-{agent}"), ..asked };
                assert_waits(&approvals, &asked, true);
            }
        }
        let another = ApprovalRequest { agent: "another".into(), ..more };
        assert_eq!(approvals.take(another, 1), Err(NotApproved::TooMany(MAX_REQUESTS)));
        let long = token("i", &"s".repeat(MAX_REQUEST_LEN), ApprovalMode::Each);
        assert_eq!(approvals.take(long, 1), Err(NotApproved::TooLong(MAX_REQUEST_LEN)));
    }
}
