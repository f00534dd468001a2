//! The result of one check.

use std::str::FromStr;

use serde::ser::{Serialize, SerializeStruct, Serializer};

use crate::verify::error::Error;

/// The result of one check of evidence.
///
/// In JSON it has the members `what` (the name), `outcome` ("pass", "fail" or "skipped"), `required` (whether
/// the evidence is valid only if the check passes), `holds` (whether it passed), `checked` (whether it was
/// not skipped) and `detail`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckResult {
    /// What was checked, such as "quote's signature".
    pub name: &'static str,
    /// Whether the check succeeded.
    pub outcome: CheckOutcome,
    /// Whether the evidence is invalid if the check was skipped. A check that failed makes it invalid in
    /// either case.
    pub required: bool,
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
    /// It could not be checked, so nothing is known about it.
    Skipped,
}

/// A check that a verifier can do without: skipped, it does not make the evidence invalid unless
/// [`OptionalCheck::require`] says so. Every other check is required.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionalCheck {
    /// The replay of the boot event log. Hosts without measuring firmware have no log.
    BootEventLog,
    /// The replay of the IMA list, and its boot aggregate. Hosts whose kernel measures nothing have no list.
    Ima,
    /// The chain of an EK certificate. Some TPMs have no certificate, and verifiers that know the AK's Name
    /// need no manufacturer.
    EkCertificate,
}

impl CheckResult {
    /// Whether evidence with this result can be valid: the check passed, or was skipped and is optional.
    pub fn is_acceptable(&self) -> bool {
        match self.outcome {
            CheckOutcome::Pass => true,
            CheckOutcome::Skipped => !self.required,
            CheckOutcome::Fail => false,
        }
    }

    pub(in crate::verify) fn pass(name: &'static str, detail: impl Into<String>) -> CheckResult {
        CheckResult::new(name, CheckOutcome::Pass, detail.into())
    }

    pub(in crate::verify) fn fail(name: &'static str, reason: impl Into<String>) -> CheckResult {
        CheckResult::new(name, CheckOutcome::Fail, reason.into())
    }

    pub(in crate::verify) fn skipped(name: &'static str, reason: impl Into<String>) -> CheckResult {
        CheckResult::new(name, CheckOutcome::Skipped, reason.into())
    }

    fn new(name: &'static str, outcome: CheckOutcome, detail: String) -> CheckResult {
        let required = !OptionalCheck::ALL.iter().any(|optional| optional.names().contains(&name));
        CheckResult { name, outcome, required, detail }
    }

    /// Whether the check passed. A skipped check has not.
    fn passed(&self) -> bool {
        self.outcome == CheckOutcome::Pass
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

/// The names of checks that others refer to.
pub(super) const BOOT_EVENT_LOG: &str = "boot event log";
pub(super) const IMA_LIST: &str = "IMA list";
pub(super) const IMA_BOOT_AGGREGATE: &str = "IMA boot aggregate";
pub(super) const EK_CERTIFICATE: &str = "EK's certificate";

impl OptionalCheck {
    /// Every optional check.
    pub const ALL: [OptionalCheck; 3] =
        [OptionalCheck::BootEventLog, OptionalCheck::Ima, OptionalCheck::EkCertificate];

    /// The name in options of the command, such as `boot-event-log`.
    pub fn as_str(self) -> &'static str {
        match self {
            OptionalCheck::BootEventLog => "boot-event-log",
            OptionalCheck::Ima => "ima",
            OptionalCheck::EkCertificate => "ek-certificate",
        }
    }

    /// Makes the check required in these results.
    pub fn require(self, results: &mut [CheckResult]) {
        for result in results.iter_mut().filter(|result| self.names().contains(&result.name)) {
            result.required = true;
        }
    }

    fn names(self) -> &'static [&'static str] {
        match self {
            OptionalCheck::BootEventLog => &[BOOT_EVENT_LOG],
            OptionalCheck::Ima => &[IMA_LIST, IMA_BOOT_AGGREGATE],
            OptionalCheck::EkCertificate => &[EK_CERTIFICATE],
        }
    }
}

/// Parses the names of [`OptionalCheck::as_str`].
impl FromStr for OptionalCheck {
    type Err = Error;

    fn from_str(name: &str) -> Result<OptionalCheck, Error> {
        let found = OptionalCheck::ALL.into_iter().find(|check| check.as_str() == name);
        found.ok_or_else(|| Error::Evidence(format!("no optional check has the name {name:?}")))
    }
}

impl Serialize for CheckResult {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut members = serializer.serialize_struct("CheckResult", 6)?;
        members.serialize_field("what", self.name)?;
        members.serialize_field("outcome", self.outcome.as_str())?;
        members.serialize_field("required", &self.required)?;
        members.serialize_field("holds", &self.passed())?;
        members.serialize_field("checked", &(self.outcome != CheckOutcome::Skipped))?;
        members.serialize_field("detail", &self.detail)?;
        members.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skipped_check_does_not_hold() {
        for (result, outcome, holds, checked, acceptable) in [
            (CheckResult::pass("nonce", "d"), "pass", true, true, true),
            (CheckResult::fail("nonce", "d"), "fail", false, true, false),
            (CheckResult::skipped("nonce", "d"), "skipped", false, false, false),
        ] {
            assert_eq!(result.is_acceptable(), acceptable, "{outcome}");
            let expected = serde_json::json!({
                "what": "nonce", "outcome": outcome, "required": true, "holds": holds, "checked": checked,
                "detail": "d"
            });
            assert_eq!(serde_json::to_value(result).unwrap(), expected);
        }
    }

    #[test]
    fn optional_checks_may_be_skipped_until_they_are_required() {
        for (optional, names) in [
            (OptionalCheck::BootEventLog, &[BOOT_EVENT_LOG][..]),
            (OptionalCheck::Ima, &[IMA_LIST, IMA_BOOT_AGGREGATE]),
            (OptionalCheck::EkCertificate, &[EK_CERTIFICATE]),
        ] {
            for name in names {
                assert!(!CheckResult::fail(name, "d").is_acceptable(), "{name}");
                let mut results = [CheckResult::skipped(name, "d"), CheckResult::pass("nonce", "d")];
                assert!(results.iter().all(CheckResult::is_acceptable) && !results[0].passed(), "{name}");
                optional.require(&mut results);
                assert!(!results[0].is_acceptable() && results[1].is_acceptable(), "{name}");
            }
        }
    }
}
