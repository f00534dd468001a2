//! The key `approval` of a grant or credential: whether a person has to approve what an agent requests.

use serde::{Deserialize, Serialize};

/// How often a person has to approve. The order is that of strictness, and `None` is less than both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ApprovalMode {
    /// Once for equal requests of one invocation, until it ends or the time of `[approvals] task` has passed.
    Task,
    /// Each request.
    Each,
}

impl ApprovalMode {
    /// The values of the key, as written.
    pub(super) const VALUES: &'static [&'static str] = &["each", "task"];

    /// The value as written.
    pub const fn as_str(self) -> &'static str {
        match self {
            ApprovalMode::Task => "task",
            ApprovalMode::Each => "each",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_stricter_than_task_and_task_than_none() {
        assert!(Some(ApprovalMode::Each) > Some(ApprovalMode::Task) && Some(ApprovalMode::Task) > None);
        for mode in [ApprovalMode::Each, ApprovalMode::Task] {
            assert!(ApprovalMode::VALUES.contains(&mode.as_str()));
            assert_eq!(serde_json::to_value(mode).unwrap(), mode.as_str());
        }
    }
}
