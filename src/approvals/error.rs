//! Why a request has no approval, and why an administrator's decision is not accepted.

use crate::error_class::ErrorClass;

/// Why a request is not permitted yet, or not at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotApproved {
    /// It waits for an administrator.
    #[error(
        "this request waits for the approval of an administrator (hostbadge approve show {id}), and is to be repeated \
         until then; its digest is {digest}"
    )]
    Pending {
        /// What names it for administrators.
        id: String,
        /// What is approved.
        digest: String,
        /// Whether it has a record.
        is_recorded: bool,
    },
    /// An administrator refused it, or one that asked for no more.
    #[error("an administrator refused this request ({id}){}", reason_text(.reason))]
    Denied {
        /// What names it for administrators.
        id: String,
        /// What the administrator gave as reason; may be empty.
        reason: String,
    },
    /// Too many requests of this agent wait.
    #[error(
        "{0} requests of this agent wait for an approval already; an administrator has to decide about them"
    )]
    TooManyOfAgent(usize),
    /// Too many requests of all agents wait.
    #[error(
        "{0} requests of all agents wait for an approval already; an administrator has to decide about them"
    )]
    TooMany(usize),
    /// `getrandom(2)` failed.
    #[error("the kernel has no random number for the id of this request; try again")]
    NoRandom,
    /// The request is too long to be shown to a person.
    #[error("the request is too long for an approval: at most {0} bytes can be shown")]
    TooLong(usize),
}

fn reason_text(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(": {reason}") }
}

/// Why an administrator's decision is not accepted. Displayed for the administrator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecisionError {
    /// No request has this id, or no longer.
    #[error(
        "no request has this id: it may have been used, or its time has passed; see \"hostbadge approve list\""
    )]
    Unknown,
    /// What was examined is not what waits.
    #[error("the request has another digest than the one that was examined; examine it again")]
    OtherDigest,
    /// It was decided before.
    #[error("the request is decided already")]
    Decided,
    /// The administrator is the process, or of the user, that asks.
    #[error("an agent cannot approve its own request: this process is of the same {0} as the agent")]
    OwnRequest(&'static str),
    /// The administrator is an agent.
    #[error("an agent cannot approve requests: this process is the agent \"{0}\"")]
    IsAgent(String),
}

impl DecisionError {
    /// What the failure means for the administrator.
    pub fn class(&self) -> ErrorClass {
        match self {
            DecisionError::Unknown | DecisionError::OwnRequest(_) | DecisionError::IsAgent(_) => {
                ErrorClass::BadRequest
            }
            DecisionError::OtherDigest | DecisionError::Decided => ErrorClass::Conflict,
        }
    }
}
