//! PCR policies: TOML files that list the PCR values which a verifier accepts.
//!
//! ```toml
//! version = 1
//! quoted = [0, 1, 2, 3, 4, 7]   # PCRs that the quote must cover; 0 to 14 without this line
//!
//! [sha256]
//! 0 = "3d45…"              # 64 hexadecimal digits
//! 7 = ["65ca…", "ab12…"]   # one of these
//! ```

use std::collections::BTreeMap;

use serde::Deserialize;

use super::error::Error;
use super::evidence::{CheckResult, Evidence, REQUIRED_PCRS};

/// What a verifier requires of PCRs of the SHA-256 bank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PcrPolicy {
    /// PCRs that the quote must cover.
    quoted: Vec<u8>,
    /// PCRs with the values that are accepted, in lower-case hexadecimal.
    accepted: BTreeMap<u8, Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PcrPolicyFile {
    version: u64,
    quoted: Option<Vec<u8>>,
    sha256: BTreeMap<String, OneOrMany>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a value of 64 hexadecimal digits, or a list of such")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl PcrPolicy {
    /// Parses a policy in TOML.
    ///
    /// # Errors
    ///
    /// [`Error::Evidence`] if it is not of format 1, names no PCR, requires a quote of none, or has a
    /// malformed number or value.
    pub fn parse(text: &str) -> Result<PcrPolicy, Error> {
        let fault = |reason: String| Error::Evidence(format!("PCR policy: {reason}"));
        // The message repeats names of the file.
        let file: PcrPolicyFile =
            toml::from_str(text).map_err(|e| fault(e.message().escape_debug().to_string()))?;
        if file.version != 1 {
            return Err(fault(format!("format {} is unknown; this program supports format 1", file.version)));
        }
        let mut pcrs = BTreeMap::new();
        for (number, values) in file.sha256 {
            let number = number.parse().ok().filter(|number| *number < 24);
            let number: u8 = number.ok_or_else(|| fault("PCR numbers are 0 to 23".into()))?;
            let values = match values {
                OneOrMany::One(value) => vec![value],
                OneOrMany::Many(values) => values,
            };
            let is_value = |value: &String| value.len() == 64 && value.bytes().all(|b| b.is_ascii_hexdigit());
            if values.is_empty() || !values.iter().all(is_value) {
                return Err(fault(format!("a value of PCR {number} is not 64 hexadecimal digits")));
            }
            pcrs.insert(number, values.iter().map(|value| value.to_ascii_lowercase()).collect());
        }
        if pcrs.is_empty() {
            return Err(fault("it names no PCR, and would accept every host".into()));
        }
        let quoted = file.quoted.unwrap_or_else(|| REQUIRED_PCRS.collect());
        if quoted.is_empty() || quoted.iter().any(|number| *number >= 24) {
            return Err(fault("quoted is a list of at least one PCR number, each 0 to 23".into()));
        }
        Ok(PcrPolicy { quoted, accepted: pcrs })
    }

    /// The PCRs that the quote must cover, for [`Evidence::check_with_pcrs`].
    pub fn required_pcrs(&self) -> &[u8] {
        &self.quoted
    }

    /// Checks that the evidence has an accepted value for each PCR of the policy. It proves something only if
    /// the evidence's check "PCR values" passes.
    pub fn check(&self, evidence: &Evidence) -> CheckResult {
        const NAME: &str = "PCR policy";
        let is_mismatch = |(number, values): &(&u8, &Vec<String>)| {
            let value = evidence.pcrs.get(*number).map(|value| value.to_ascii_lowercase());
            value.is_none_or(|value| !values.contains(&value))
        };
        let mismatches: Vec<String> =
            self.accepted.iter().filter(is_mismatch).map(|(number, _)| number.to_string()).collect();
        if !mismatches.is_empty() {
            let detail = format!("PCR {}: not an accepted value, or not quoted", mismatches.join(", "));
            return CheckResult::fail(NAME, detail);
        }
        CheckResult::pass(NAME, format!("{} PCRs have accepted values", self.accepted.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_policy_is_rejected() {
        let zeros = "0".repeat(64);
        let good = format!("version = 1\n[sha256]\n0 = \"{zeros}\"\n7 = [\"{zeros}\", \"{zeros}\"]\n");
        let policy = PcrPolicy::parse(&good).unwrap();
        assert_eq!(policy.required_pcrs(), (0..=14).collect::<Vec<u8>>(), "unless the file says otherwise");
        let narrow = PcrPolicy::parse(&good.replace("[sha256]", "quoted = [0, 7]\n[sha256]")).unwrap();
        assert_eq!(narrow.required_pcrs(), [0, 7]);
        for (bad, expected) in [
            (good.replace("version = 1", "version = 2"), "format 2"),
            (good.replace("[sha256]", "quoted = []\n[sha256]"), "at least one PCR number"),
            (good.replace("[sha256]", "quoted = [24]\n[sha256]"), "0 to 23"),
            (good.replace("7 =", "24 ="), "0 to 23"),
            (good.replace("00\"", "0\""), "64 hexadecimal digits"),
            (good.replace("7 =", "seven ="), "0 to 23"),
            ("version = 1\n[sha256]\n".into(), "names no PCR"),
            ("version = 1\n[sha1]\n".into(), "unknown field"),
            ("\0".into(), "PCR policy"),
            (good.replace("version", "\"ver\u{85}sion\t\""), "`ver\\u{85}sion\\t`"),
        ] {
            let error = PcrPolicy::parse(&bad).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
