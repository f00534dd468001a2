//! The member `policy` of records of what the policies do not decide: the set that is in force when the record is
//! written. A record of a decision has the set of the decision.

use crate::policy::PolicySetId;

/// Length of the member with its comma, at most: a version of 20 digits and a digest of 64.
#[cfg(test)]
pub(super) const MAX_LEN: usize = 128;

/// Appends the member to those of a record, which end with the closing brace.
///
/// # Errors
/// The set cannot be serialized, which is no case of its type.
pub(super) fn append(members: &mut Vec<u8>, set: PolicySetId) -> serde_json::Result<()> {
    members.pop();
    members.extend_from_slice(b",\"policy\":");
    serde_json::to_writer(&mut *members, &set)?;
    members.push(b'}');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_member_is_appended_and_bounded() {
        let set = PolicySetId { version: u64::MAX, sha256: [0xab; 32] };
        let mut members = b"\"time\":\"x\"}".to_vec();
        let before = members.len();
        append(&mut members, set).unwrap();
        assert!(members.len() - before <= MAX_LEN, "{}", members.len() - before);
        let text = format!("{{{}", String::from_utf8(members).unwrap());
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["time"], "x");
        assert_eq!(json["policy"], serde_json::json!({ "version": u64::MAX, "sha256": "ab".repeat(32) }));
    }
}
