//! Signatures of reviews: that someone has examined what agents may do and what they did.

use super::admin::Admin;
use super::error::{AdminError, InvalidRequest};
use super::identity_service::IdentityService;
use super::reload::administrator;
use super::revocations::checked_reason;
use crate::agents::Administrator;
use crate::audit::Event;
use crate::plural::counted;
use crate::wire::review::{SignReviewRequest, SignReviewResponse};

/// Length of the longest name of a reviewer, in bytes.
const MAX_REVIEWER_LEN: usize = 256;
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
        let request = checked(request)?;
        let comment = checked_reason(request.comment.clone())?;
        // No request looks a name up, so the user is recorded by number.
        let Administrator { uid, login_uid, .. } = administrator(admin).await;
        let login = login_uid.map(|login| format!(", login uid {login}")).unwrap_or_default();
        let signed_by = format!("uid {uid}{login}, pid {}", admin.peer().pid);
        self.audit.record_event(Event::ReviewSigned, &message(&request, &comment, &signed_by)).await?;
        let SignReviewRequest { sha256, reviewer, .. } = request;
        Ok(SignReviewResponse { sha256, reviewer, signed_by, signed_at: self.deps.clock.now() })
    }
}

fn checked(request: SignReviewRequest) -> Result<SignReviewRequest, InvalidRequest> {
    let SignReviewRequest { sha256, reviewer, since, until, .. } = &request;
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
    if since > until {
        return Err(InvalidRequest::new("since must not be later than until"));
    }
    Ok(request)
}

fn message(request: &SignReviewRequest, comment: &str, signed_by: &str) -> String {
    let SignReviewRequest { sha256, reviewer, since, until, .. } = request;
    let comment = if comment.is_empty() { String::new() } else { format!("; comment: {comment}") };
    format!(
        "{signed_by} signed a review as {reviewer}: SHA-256 {sha256}, {} to {}, {}, {} unused, {} never seen, \
         {}{comment}",
        since.to_rfc3339_seconds(),
        until.to_rfc3339_seconds(),
        counted(request.agents, "agent"),
        request.unused_agents,
        request.never_seen,
        counted(request.unused_rights, "unused right")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    fn request() -> SignReviewRequest {
        SignReviewRequest {
            sha256: "0a".repeat(32),
            reviewer: "Ada".to_owned(),
            comment: None,
            since: Timestamp::from_secs(0),
            until: Timestamp::from_secs(86_400),
            agents: 3,
            unused_agents: 1,
            never_seen: 1,
            unused_rights: 1,
        }
    }

    #[test]
    fn a_record_says_who_what_and_when() {
        assert_eq!(
            message(&checked(request()).unwrap(), "narrowed", "uid 0, login uid 1000, pid 7"),
            format!(
                "uid 0, login uid 1000, pid 7 signed a review as Ada: SHA-256 {}, 1970-01-01T00:00:00Z to \
                 1970-01-02T00:00:00Z, 3 agents, 1 unused, 1 never seen, 1 unused right; comment: narrowed",
                "0a".repeat(32)
            )
        );
        let faulty = [
            SignReviewRequest { sha256: "0A".repeat(32), ..request() },
            SignReviewRequest { sha256: "0a".repeat(31), ..request() },
            SignReviewRequest { reviewer: " ".to_owned(), ..request() },
            SignReviewRequest { reviewer: "a\nb".to_owned(), ..request() },
            SignReviewRequest { reviewer: "x".repeat(257), ..request() },
            SignReviewRequest { since: Timestamp::from_secs(86_401), ..request() },
        ];
        for request in faulty {
            assert!(checked(request.clone()).is_err(), "{request:?}");
        }
    }
}
