//! Changes of rights that wait for a second administrator: `[change] require = "two"`.
//!
//! A reload that makes rights wider is not activated. It waits under the digest of the files, until another
//! administrator than the one who asked for it approves that digest. The digest of what is in force is in
//! `approved-agents.json` of the state directory, so that a restart activates nothing else.

use std::path::PathBuf;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::mutex::lock;
use crate::store;

use super::name::AgentName;
use super::rights_changes::RightsDiff;

const VERSION: u64 = 1;

/// Who asks for a reload or approves one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Administrator {
    /// The user of the process.
    pub uid: u32,
    /// The user that logged in (`/proc/PID/loginuid`), also after sudo; `None` if the kernel does not know.
    pub login_uid: Option<u32>,
    /// The process, for records: `uid N, pid N`.
    pub id: String,
}

/// Why files are read again.
#[derive(Clone, Debug)]
pub enum ReloadBy {
    /// The daemon's start, or SIGHUP: whose wish it is is not known.
    Unknown,
    /// An administrator asks for it.
    Administrator(Administrator),
    /// An administrator approves files with this digest, which another one asked for.
    Approval {
        /// The digest that the administrator examined.
        digest: String,
        /// The administrator.
        approver: Administrator,
    },
}

/// Files that wait for a second administrator.
#[derive(Clone, Debug)]
pub struct PendingChange {
    /// Digest of the names and contents of the files of agents, roles and policies, 64 hexadecimal digits.
    pub digest: String,
    /// Who asked for the reload; `None` after a start or SIGHUP, until an administrator does.
    pub requested_by: Option<Administrator>,
    /// Since when they wait.
    pub since: Timestamp,
    /// What they change.
    pub rights: RightsDiff,
}

impl PendingChange {
    /// Whether one of the listed changes is of this agent's own file.
    pub fn changes_agent(&self, name: &AgentName) -> bool {
        let begins = format!("agent {name}: ");
        self.rights.changes.iter().any(|change| change.description.starts_with(&begins))
    }
}

/// Why files were not activated.
#[derive(Clone, Debug)]
pub enum Held {
    /// They wait for a second administrator.
    Pending(Box<PendingChange>),
    /// An approval was not accepted.
    Refused(ChangeApprovalError),
}

/// Why an approval is not accepted. Displayed for the administrator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeApprovalError {
    /// There is nothing to approve.
    #[error("no change waits for an approval; another administrator may have approved it")]
    NothingPending,
    /// Another change waits.
    #[error("the change that waits has the digest {0}; examine it with \"hostbadge status\"")]
    OtherDigest(String),
    /// The files are not those that were examined.
    #[error("the files have changed since the reload was asked for; ask for a reload, and examine it again")]
    FilesChanged,
    /// The same person asked for the change.
    #[error("the same administrator asked for this change; another one has to approve it")]
    SameAdministrator,
    /// It is not known who asked for the change.
    #[error("no administrator has asked for this change yet; run \"hostbadge agent reload\" first")]
    NoRequester,
    /// The digest cannot be stored.
    #[error("{0}")]
    NotStored(String),
}

/// The content of the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ApprovedFile {
    digest: String,
}

/// Decides which files become active.
pub(super) struct ChangeGate {
    path: PathBuf,
    pending: Mutex<Option<PendingChange>>,
}

impl Administrator {
    /// Whether both are the same person, as far as the host knows: they logged in as the same user, or, where that
    /// is not known, have the same user now.
    fn is_same_person(&self, other: &Administrator) -> bool {
        match (self.login_uid, other.login_uid) {
            (Some(own), Some(others)) => own == others,
            _ => self.uid == other.uid,
        }
    }
}

impl ChangeGate {
    pub(super) fn new(path: PathBuf) -> ChangeGate {
        ChangeGate { path, pending: Mutex::new(None) }
    }

    /// The change that waits.
    pub(super) fn pending(&self) -> Option<PendingChange> {
        lock(&self.pending).clone()
    }

    /// Whether files with this digest may become active now, which is stored then. `was_loaded` says whether
    /// others are in force, with which `rights` compares them. Blocking; calls must not overlap.
    ///
    /// # Errors
    /// They wait, or the approval is refused.
    pub(super) fn admit(
        &self,
        by: &ReloadBy,
        digest: &str,
        was_loaded: bool,
        rights: &RightsDiff,
        now: Timestamp,
    ) -> Result<(), Held> {
        let mut pending = lock(&self.pending);
        match by {
            ReloadBy::Approval { digest: examined, approver } => {
                check_approval(pending.as_ref(), examined, approver).map_err(Held::Refused)?;
                if digest != examined {
                    return Err(Held::Refused(ChangeApprovalError::FilesChanged));
                }
            }
            ReloadBy::Unknown | ReloadBy::Administrator(_) => {
                if self.needs_approval(digest, was_loaded, rights) {
                    let known = pending.take().filter(|known| known.digest == digest);
                    let requester = match by {
                        ReloadBy::Administrator(administrator) => Some(administrator.clone()),
                        _ => None,
                    };
                    let (since, first) = known.map_or((now, None), |known| (known.since, known.requested_by));
                    let change = PendingChange {
                        digest: digest.to_owned(),
                        requested_by: first.or(requester),
                        since,
                        rights: rights.clone(),
                    };
                    *pending = Some(change.clone());
                    return Err(Held::Pending(Box::new(change)));
                }
            }
        }
        store::write(&self.path, VERSION, &ApprovedFile { digest: digest.to_owned() })
            .map_err(|e| Held::Refused(ChangeApprovalError::NotStored(e.to_string())))?;
        *pending = None;
        Ok(())
    }

    fn needs_approval(&self, digest: &str, was_loaded: bool, rights: &RightsDiff) -> bool {
        if was_loaded {
            return rights.widening > 0;
        }
        match store::read::<ApprovedFile>(&self.path, VERSION) {
            Ok(Some(approved)) => approved.digest != digest,
            // The first start with this setting: what is there counts as approved.
            Ok(None) => false,
            Err(e) => {
                tracing::error!("{e}; the agents wait for two administrators");
                true
            }
        }
    }
}

fn check_approval(
    pending: Option<&PendingChange>,
    examined: &str,
    approver: &Administrator,
) -> Result<(), ChangeApprovalError> {
    let pending = pending.ok_or(ChangeApprovalError::NothingPending)?;
    if pending.digest != examined {
        return Err(ChangeApprovalError::OtherDigest(pending.digest.clone()));
    }
    let requester = pending.requested_by.as_ref().ok_or(ChangeApprovalError::NoRequester)?;
    match requester.is_same_person(approver) {
        true => Err(ChangeApprovalError::SameAdministrator),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn administrator(uid: u32, login_uid: Option<u32>) -> Administrator {
        Administrator { uid, login_uid, id: format!("uid {uid}") }
    }

    fn rights(widening: usize) -> RightsDiff {
        RightsDiff { widening, count: 1, ..RightsDiff::default() }
    }

    fn approval(digest: &str, approver: Administrator) -> ReloadBy {
        ReloadBy::Approval { digest: digest.into(), approver }
    }

    #[track_caller]
    fn assert_refused(result: Result<(), Held>, expected: &ChangeApprovalError) {
        match result {
            Err(Held::Refused(error)) => assert_eq!(error, *expected),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_wider_change_waits_for_another_administrator_and_a_narrower_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let gate = ChangeGate::new(dir.path().join("approved.json"));
        let (anna, bert) = (administrator(0, Some(1000)), administrator(0, Some(1001)));
        let by_anna = ReloadBy::Administrator(anna.clone());
        gate.admit(&ReloadBy::Unknown, "d0", false, &rights(1), NOW).unwrap();
        gate.admit(&by_anna, "d1", true, &rights(0), NOW).unwrap();
        assert_refused(
            gate.admit(&approval("d2", bert.clone()), "d2", true, &rights(1), NOW),
            &ChangeApprovalError::NothingPending,
        );
        assert!(matches!(gate.admit(&by_anna, "d2", true, &rights(1), NOW), Err(Held::Pending(_))));
        let try_as = |examined: &str, approver: &Administrator, found: &str| {
            gate.admit(&approval(examined, approver.clone()), found, true, &rights(1), NOW)
        };
        assert_refused(try_as("d2", &anna, "d2"), &ChangeApprovalError::SameAdministrator);
        // The same person as a member of the admin group.
        assert_refused(
            try_as("d2", &administrator(1000, Some(1000)), "d2"),
            &ChangeApprovalError::SameAdministrator,
        );
        assert_refused(try_as("d1", &bert, "d2"), &ChangeApprovalError::OtherDigest("d2".into()));
        assert_refused(try_as("d2", &bert, "d3"), &ChangeApprovalError::FilesChanged);
        // The second one asks too: the first stays the one who asked.
        let by_bert = ReloadBy::Administrator(bert.clone());
        assert!(matches!(gate.admit(&by_bert, "d2", true, &rights(1), NOW), Err(Held::Pending(_))));
        try_as("d2", &bert, "d2").unwrap();
        assert!(gate.pending().is_none());
        assert_refused(try_as("d2", &bert, "d2"), &ChangeApprovalError::NothingPending);
    }

    #[test]
    fn without_a_login_the_users_are_compared() {
        let [root, other] = [0, 1001].map(|uid| administrator(uid, None));
        assert!(root.is_same_person(&administrator(0, Some(1000))));
        assert!(!root.is_same_person(&other) && !other.is_same_person(&administrator(0, Some(1000))));
    }

    #[test]
    fn a_start_activates_only_what_was_in_force() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("approved.json");
        let start = |digest: &str| {
            let gate = ChangeGate::new(path.clone());
            let admitted = gate.admit(&ReloadBy::Unknown, digest, false, &rights(1), NOW).is_ok();
            (admitted, gate)
        };
        assert!(start("d1").0, "the first start");
        assert!(start("d1").0);
        let (admitted, gate) = start("d2");
        assert!(!admitted);
        let approver = administrator(1001, None);
        let refused = gate.admit(&approval("d2", approver.clone()), "d2", false, &rights(1), NOW);
        assert_refused(refused, &ChangeApprovalError::NoRequester);
        let by_root = ReloadBy::Administrator(administrator(0, None));
        assert!(gate.admit(&by_root, "d2", false, &rights(1), NOW).is_err());
        gate.admit(&approval("d2", approver), "d2", false, &rights(1), NOW).unwrap();
        assert!(start("d2").0 && !start("d1").0);
        std::fs::write(&path, "{\"version\": 1, \"dig").unwrap();
        assert!(!start("d2").0, "a damaged file approves nothing");
    }
}
