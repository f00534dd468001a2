//! Signatures of reviews: that someone has examined what agents may do and what they did.

use std::time::Duration;

use super::admin::Admin;
use super::error::{AdminError, InvalidRequest};
use super::identity_service::IdentityService;
use super::reload::administrator;
use super::revocations::checked_remark;
use crate::agents::Administrator;
use crate::audit::Event;
use crate::clock::Timestamp;
use crate::plural::counted;
use crate::wire::review::{SignReviewRequest, SignReviewResponse};

/// Length of the longest name of a reviewer, in bytes.
const MAX_REVIEWER_LEN: usize = 256;
/// Length of the longest name of a host, in bytes, as Linux has it and more.
const MAX_HOST_LEN: usize = 256;
/// A review may be made this much after the daemon's time: both round to a second.
const MAX_AHEAD: Duration = Duration::from_secs(60);
/// Hexadecimal digits of a SHA-256 digest.
const DIGEST_LEN: usize = 64;

impl IdentityService {
    /// Records that a reviewer has examined a review, by its digest. The daemon has not seen the review: the record
    /// says what the administrator states, and who that is by the kernel.
    ///
    /// # Errors
    /// [`AdminError::InvalidRequest`], [`AdminError::AuditUnavailable`].
    pub async fn sign_review(
        &self,
        admin: &Admin,
        request: SignReviewRequest,
    ) -> Result<SignReviewResponse, AdminError> {
        let request = checked(request, self.deps.clock.now())?;
        let comment = checked_remark("comment", request.comment.clone())?;
        // No request looks a name up, so the user is recorded by number.
        let Administrator { uid, login_uid, .. } = administrator(admin).await;
        let login = login_uid.map(|login| format!(", login uid {login}")).unwrap_or_default();
        let signed_by = format!("uid {uid}{login}, pid {}", admin.peer().pid);
        self.audit.record_event(Event::ReviewSigned, &message(&request, &comment, &signed_by)).await?;
        let SignReviewRequest { sha256, reviewer, .. } = request;
        Ok(SignReviewResponse { sha256, reviewer, signed_by, signed_at: self.deps.clock.now() })
    }
}

fn checked(request: SignReviewRequest, now: Timestamp) -> Result<SignReviewRequest, InvalidRequest> {
    let SignReviewRequest { sha256, reviewer, host, since, until, .. } = &request;
    if sha256.len() != DIGEST_LEN || !sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(InvalidRequest::new("sha256 must be 64 lower-case hexadecimal digits"));
    }
    if reviewer.trim().is_empty()
        || reviewer.len() > MAX_REVIEWER_LEN
        || reviewer.chars().any(char::is_control)
    {
        return Err(InvalidRequest::new(format!(
            "reviewer must have 1 to {MAX_REVIEWER_LEN} bytes and no control characters"
        )));
    }
    if host.len() > MAX_HOST_LEN || host.chars().any(char::is_control) {
        return Err(InvalidRequest::new(format!(
            "host must have at most {MAX_HOST_LEN} bytes and no control characters"
        )));
    }
    if *until > now.after(MAX_AHEAD) {
        return Err(InvalidRequest::new("until must not be in the future: a review ends when it was made"));
    }
    if since > until {
        return Err(InvalidRequest::new("since must not be later than until"));
    }
    Ok(request)
}

/// The names and the comment are quoted, so that they cannot look like other parts of the record.
fn message(request: &SignReviewRequest, comment: &str, signed_by: &str) -> String {
    let SignReviewRequest { sha256, reviewer, host, since, until, .. } = request;
    let comment = if comment.is_empty() { String::new() } else { format!("; comment: {}", quoted(comment)) };
    let coverage = match (request.complete, request.missing_records) {
        (true, 0) => "complete".to_owned(),
        (true, missing) => format!("{} missing", counted(missing, "record")),
        (false, 0) => "not complete".to_owned(),
        (false, missing) => format!("not complete, {} missing", counted(missing, "record")),
    };
    format!(
        "{signed_by} signed a review of {} as {}: SHA-256 {sha256}, {} to {}, {coverage}, {}, {} unused, {} not seen, \
         {}{comment}",
        quoted(host),
        quoted(reviewer),
        since.to_rfc3339_seconds(),
        until.to_rfc3339_seconds(),
        counted(request.agents, "agent"),
        request.unused_agents,
        request.not_seen,
        counted(request.unused_rights, "unused right")
    )
}

/// A text in quotes, with quotes in it escaped.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(86_400);

    fn request() -> SignReviewRequest {
        SignReviewRequest {
            sha256: "0a".repeat(32),
            reviewer: "Ada".to_owned(),
            comment: None,
            host: "host-1".to_owned(),
            complete: true,
            missing_records: 0,
            since: Timestamp::from_secs(0),
            until: Timestamp::from_secs(86_400),
            agents: 3,
            unused_agents: 1,
            not_seen: 1,
            unused_rights: 1,
        }
    }

    #[test]
    fn a_record_says_who_what_and_when() {
        assert_eq!(
            message(&checked(request(), NOW).unwrap(), "\"narrowed\"", "uid 0, login uid 1000, pid 7"),
            format!(
                "uid 0, login uid 1000, pid 7 signed a review of \"host-1\" as \"Ada\": SHA-256 {}, \
                 1970-01-01T00:00:00Z to 1970-01-02T00:00:00Z, complete, 3 agents, 1 unused, 1 not seen, 1 unused \
                 right; comment: \"\\\"narrowed\\\"\"",
                "0a".repeat(32)
            )
        );
        let gaps = SignReviewRequest { complete: false, missing_records: 2, ..request() };
        assert!(message(&gaps, "", "uid 0").contains(", not complete, 2 records missing, 3 agents"));
        let faulty = [
            SignReviewRequest { sha256: "0A".repeat(32), ..request() },
            SignReviewRequest { sha256: "0a".repeat(31), ..request() },
            SignReviewRequest { reviewer: " ".to_owned(), ..request() },
            SignReviewRequest { reviewer: "a\nb".to_owned(), ..request() },
            SignReviewRequest { reviewer: "x".repeat(257), ..request() },
            SignReviewRequest { since: Timestamp::from_secs(86_401), ..request() },
            SignReviewRequest { until: NOW.after(MAX_AHEAD * 2), ..request() },
            SignReviewRequest { host: "x".repeat(257), ..request() },
        ];
        for request in faulty {
            assert!(checked(request.clone(), NOW).is_err(), "{request:?}");
        }
    }
}
