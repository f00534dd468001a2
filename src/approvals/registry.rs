//! The requests that wait, and the decisions about them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use data_encoding::HEXLOWER;
use ring::rand::{SecureRandom, SystemRandom};

use super::error::{DecisionError, NotApproved};
use super::request::ApprovalRequest;
use crate::agents::{ApprovalMode, root_agent};
use crate::clock::{BootTime, Clock, Timestamp};
use crate::config::ApprovalsSection;
use crate::mutex::lock;
use crate::revocation::RevocationSet;

/// Requests of one agent that wait.
const MAX_PENDING_OF_AGENT: usize = 8;
/// Requests of all agents that wait.
const MAX_PENDING: usize = 512;
/// Decided requests of one agent that are remembered; beyond, the oldest is forgotten.
const MAX_DECIDED_OF_AGENT: usize = 64;
/// Decided requests of all agents that are remembered.
const MAX_DECIDED: usize = 1024;
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
    requests: Mutex<Requests>,
}

type Requests = HashMap<String, Entry>;

struct Entry {
    id: String,
    request: ApprovalRequest,
    /// The process that asked first.
    pid: i32,
    requested: Timestamp,
    state: State,
    /// When it came into this state.
    since: BootTime,
    /// Until then the entry counts.
    ends: BootTime,
}

#[derive(Clone)]
enum State {
    /// It waits; whether it has a record.
    Pending {
        is_recorded: bool,
    },
    /// A decision about it is being recorded.
    Deciding,
    /// `epoch` is that of the revocations at the decision.
    Approved {
        by: String,
        epoch: u64,
    },
    Denied {
        reason: String,
    },
}

/// An approval that a request has used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsedApproval {
    /// The id of the request that was approved.
    pub id: String,
    /// Who approved it.
    pub approved_by: String,
}

/// What an administrator decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The request is permitted.
    Approve {
        /// The administrator.
        by: String,
        /// The epoch of the revocations: a later one ends the approval.
        epoch: u64,
    },
    /// It is refused, or its approval taken back.
    Deny {
        /// Why, for the agent; may be empty.
        reason: String,
    },
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

/// A request that is being decided. Without [`Reservation::commit`] it stands where it stood.
#[must_use]
pub struct Reservation {
    approvals: Approvals,
    digest: String,
    request: ApprovalRequest,
    /// The state before, and its end; `None` after the commit.
    before: Option<(State, BootTime)>,
    decision: Decision,
}

impl Approvals {
    /// No requests.
    pub fn new(settings: ApprovalsSection, clock: Clock) -> Approvals {
        Approvals(Arc::new(Shared { settings, clock, requests: Mutex::default() }))
    }

    /// Takes the approval of a request, or has the request wait for one. An approval of [`ApprovalMode::Each`] is used
    /// up by this.
    ///
    /// # Errors
    /// The request is not approved.
    pub fn take(
        &self,
        request: ApprovalRequest,
        pid: i32,
        revocations: &RevocationSet,
    ) -> Result<UsedApproval, NotApproved> {
        let measured = request.length_and_digest().ok().filter(|(length, _)| *length <= MAX_REQUEST_LEN);
        let (_, digest) = measured.ok_or(NotApproved::TooLong(MAX_REQUEST_LEN))?;
        let mut requests = self.current();
        requests.retain(|known, entry| *known != digest || !entry.is_revoked(revocations));
        let Some(entry) = requests.get(&digest) else {
            return Err(self.add(&mut requests, digest, request, pid));
        };
        let id = entry.id.clone();
        match entry.state.clone() {
            State::Pending { is_recorded } => Err(NotApproved::Pending { id, digest, is_recorded }),
            State::Deciding => Err(NotApproved::Pending { id, digest, is_recorded: true }),
            State::Denied { reason } => Err(NotApproved::Denied { id, reason }),
            State::Approved { by, .. } => {
                if entry.request.approval == ApprovalMode::Each {
                    requests.remove(&digest);
                }
                Ok(UsedApproval { id, approved_by: by })
            }
        }
    }

    /// Takes note that the request with this id has a record.
    pub fn set_recorded(&self, id: &str) {
        let mut requests = lock(&self.0.requests);
        if let Some(entry) = requests.values_mut().find(|entry| entry.id == id)
            && let State::Pending { is_recorded } = &mut entry.state
        {
            *is_recorded = true;
        }
    }

    /// Begins the decision of a request: of one that waits, and also the refusal of one that was approved. `examined`
    /// is the digest of what the administrator was shown. The caller records it before it commits.
    ///
    /// # Errors
    /// The decision is not accepted, and changes nothing.
    pub fn reserve(
        &self,
        id: &str,
        examined: &str,
        decision: Decision,
    ) -> Result<Reservation, DecisionError> {
        let mut requests = self.current();
        let found = requests.iter_mut().find(|(_, entry)| entry.id == id);
        let (digest, entry) = found.ok_or(DecisionError::Unknown)?;
        if digest != examined {
            return Err(DecisionError::OtherDigest);
        }
        match (&entry.state, &decision) {
            (State::Pending { .. }, _) | (State::Approved { .. }, Decision::Deny { .. }) => {}
            _ => return Err(DecisionError::Decided),
        }
        let state = std::mem::replace(&mut entry.state, State::Deciding);
        let (digest, request, ends) = (digest.clone(), entry.request.clone(), entry.ends);
        Ok(Reservation { approvals: self.clone(), digest, request, before: Some((state, ends)), decision })
    }

    /// The request with this id.
    pub fn report(&self, id: &str) -> Option<ApprovalReport> {
        self.reports().into_iter().find(|report| report.id == id)
    }

    /// All requests, the oldest first.
    pub fn reports(&self) -> Vec<ApprovalReport> {
        let requests = self.current();
        let now = self.0.clock.boot_time();
        let mut reports: Vec<ApprovalReport> =
            requests.iter().map(|(digest, entry)| entry.report(digest, now)).collect();
        reports.sort_by(|a, b| (a.requested, &a.id).cmp(&(b.requested, &b.id)));
        reports
    }

    /// How many requests wait.
    pub fn pending_count(&self) -> usize {
        self.current().values().filter(|entry| entry.is_pending()).count()
    }

    /// Forgets approvals of what these revocations revoke. Called before a revocation is lifted, so that none counts
    /// again.
    pub fn forget_revoked(&self, revocations: &RevocationSet) {
        self.current().retain(|_, entry| !entry.is_revoked(revocations));
    }

    /// The requests whose time has not passed, and those whose decision is being recorded.
    fn current(&self) -> MutexGuard<'_, Requests> {
        let mut requests = lock(&self.0.requests);
        let now = self.0.clock.boot_time();
        requests.retain(|_, entry| now < entry.ends || matches!(entry.state, State::Deciding));
        requests
    }

    fn add(
        &self,
        requests: &mut Requests,
        digest: String,
        request: ApprovalRequest,
        pid: i32,
    ) -> NotApproved {
        for entry in requests.values() {
            if let State::Denied { reason } = &entry.state
                && entry.request.refusal_covers(&request)
            {
                return NotApproved::Denied { id: entry.id.clone(), reason: reason.clone() };
            }
        }
        let pending = requests.values().filter(|entry| entry.is_pending());
        let (of_agent, of_all) = pending.fold((0, 0), |(of_agent, of_all), entry| {
            (
                of_agent + usize::from(root_agent(&entry.request.agent) == root_agent(&request.agent)),
                of_all + 1,
            )
        });
        if of_agent >= MAX_PENDING_OF_AGENT {
            return NotApproved::TooManyOfAgent(MAX_PENDING_OF_AGENT);
        }
        if of_all >= MAX_PENDING {
            return NotApproved::TooMany(MAX_PENDING);
        }
        let mut random = [0; ID_LEN];
        if SystemRandom::new().fill(&mut random).is_err() {
            return NotApproved::NoRandom;
        }
        let (id, since) = (HEXLOWER.encode(&random), self.0.clock.boot_time());
        let entry = Entry {
            id: id.clone(),
            request,
            pid,
            requested: self.0.clock.now(),
            state: State::Pending { is_recorded: false },
            since,
            ends: since.after(self.0.settings.wait),
        };
        requests.insert(digest.clone(), entry);
        NotApproved::Pending { id, digest, is_recorded: false }
    }
}

impl Reservation {
    /// What is decided.
    pub fn request(&self) -> &ApprovalRequest {
        &self.request
    }

    /// Puts the decision into effect, also where the time of the request has passed meanwhile. `None` is not reached:
    /// what is being decided is not forgotten.
    pub fn commit(mut self) -> Option<ApprovalReport> {
        self.before = None;
        let settings = &self.approvals.0.settings;
        let (state, lasts) = match (self.decision.clone(), self.request.approval) {
            (Decision::Deny { reason }, _) => (State::Denied { reason }, settings.wait),
            (Decision::Approve { by, epoch }, ApprovalMode::Each) => {
                (State::Approved { by, epoch }, settings.use_within)
            }
            (Decision::Approve { by, epoch }, ApprovalMode::Task) => {
                (State::Approved { by, epoch }, settings.task)
            }
        };
        let now = self.approvals.0.clock.boot_time();
        let mut requests = self.approvals.current();
        let entry = requests.get_mut(&self.digest)?;
        (entry.state, entry.since, entry.ends) = (state, now, now.after(lasts));
        let report = entry.report(&self.digest, now);
        let root = root_agent(&self.request.agent);
        forget_oldest(&mut requests, MAX_DECIDED_OF_AGENT, |entry| root_agent(&entry.request.agent) == root);
        forget_oldest(&mut requests, MAX_DECIDED, |_| true);
        Some(report)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let Some((state, ends)) = self.before.take() else { return };
        if let Some(entry) = lock(&self.approvals.0.requests).get_mut(&self.digest) {
            (entry.state, entry.ends) = (state, ends);
        }
    }
}

impl Entry {
    fn is_pending(&self) -> bool {
        matches!(self.state, State::Pending { .. } | State::Deciding)
    }

    fn is_revoked(&self, revocations: &RevocationSet) -> bool {
        matches!(self.state, State::Approved { epoch, .. } if self.request.is_revoked_since(epoch, revocations))
    }

    fn report(&self, digest: &str, now: BootTime) -> ApprovalReport {
        ApprovalReport {
            id: self.id.clone(),
            digest: digest.to_owned(),
            request: self.request.clone(),
            pid: self.pid,
            requested: self.requested,
            state: match self.state {
                State::Pending { .. } | State::Deciding => ApprovalState::Pending,
                State::Approved { .. } => ApprovalState::Approved,
                State::Denied { .. } => ApprovalState::Denied,
            },
            seconds_left: self.ends.since(now).as_secs(),
        }
    }
}

/// Keeps at most `most` of the decided requests for which `counts` holds.
fn forget_oldest(requests: &mut Requests, most: usize, counts: impl Fn(&Entry) -> bool) {
    let decided = requests.iter().filter(|(_, entry)| !entry.is_pending() && counts(entry));
    let mut decided: Vec<(BootTime, String)> =
        decided.map(|(digest, entry)| (entry.since, digest.clone())).collect();
    let Some(excess) = decided.len().checked_sub(most).filter(|excess| *excess > 0) else { return };
    decided.sort();
    for (_, digest) in &decided[..excess] {
        requests.remove(digest);
    }
}

#[cfg(test)]
mod tests;
