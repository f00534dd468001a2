//! The result of one check.

use serde::ser::{Serialize, SerializeStruct, Serializer};

use crate::verify::error::Error;

/// The result of one check of evidence.
///
/// In JSON it has the members `what` (the name), `outcome` ("pass", "fail" or "skipped"), `holds` (whether it
/// did not fail), `checked` (whether it was not skipped) and `detail`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckResult {
    /// What was checked, such as "quote's signature".
    pub name: &'static str,
    /// Whether the check succeeded.
    pub outcome: CheckOutcome,
    /// What was found, or why the check failed or was skipped. Untrusted text in it is escaped.
    pub detail: String,
}

/// The outcome of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckOutcome {
    /// What was checked is proven.
    Pass,
    /// It is not proven, or it is refuted.
    Fail,
    /// It could not be checked, which makes the evidence as a whole not invalid.
    Skipped,
}

impl CheckResult {
    /// Whether the check failed. A skipped check has not failed.
    pub fn failed(&self) -> bool {
        self.outcome == CheckOutcome::Fail
    }

    pub(in crate::verify) fn pass(name: &'static str, detail: impl Into<String>) -> CheckResult {
        CheckResult { name, outcome: CheckOutcome::Pass, detail: detail.into() }
    }

    pub(in crate::verify) fn fail(name: &'static str, reason: impl Into<String>) -> CheckResult {
        CheckResult { name, outcome: CheckOutcome::Fail, detail: reason.into() }
    }

    pub(in crate::verify) fn skipped(name: &'static str, reason: impl Into<String>) -> CheckResult {
        CheckResult { name, outcome: CheckOutcome::Skipped, detail: reason.into() }
    }

    /// A pass with what was found, or a failure with the error's message.
    pub(in crate::verify) fn from_result(name: &'static str, result: Result<String, Error>) -> CheckResult {
        match result {
            Ok(detail) => CheckResult::pass(name, detail),
            Err(error) => CheckResult::fail(name, error.to_string()),
        }
    }
}

impl CheckOutcome {
    /// The outcome as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            CheckOutcome::Pass => "pass",
            CheckOutcome::Fail => "fail",
            CheckOutcome::Skipped => "skipped",
        }
    }
}

impl Serialize for CheckResult {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut members = serializer.serialize_struct("CheckResult", 5)?;
        members.serialize_field("what", self.name)?;
        members.serialize_field("outcome", self.outcome.as_str())?;
        members.serialize_field("holds", &!self.failed())?;
        members.serialize_field("checked", &(self.outcome != CheckOutcome::Skipped))?;
        members.serialize_field("detail", &self.detail)?;
        members.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_outcome_and_its_two_older_forms() {
        for (result, outcome, holds, checked) in [
            (CheckResult::pass("nonce", "d"), "pass", true, true),
            (CheckResult::fail("nonce", "d"), "fail", false, true),
            (CheckResult::skipped("nonce", "d"), "skipped", true, false),
        ] {
            let expected = serde_json::json!({
                "what": "nonce", "outcome": outcome, "holds": holds, "checked": checked, "detail": "d"
            });
            assert_eq!(serde_json::to_value(result).unwrap(), expected);
        }
    }
}
