//! `enrollment.json`: the requests that wait for a challenge, and the challenges that were answered.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

pub(super) const FILE_NAME: &str = "enrollment.json";
/// Version of this file and of `certificate.json`.
pub(super) const VERSION: u64 = 1;
/// Requests of each class that wait for a challenge; a further one replaces the oldest of the same.
const MAX_PENDING_REQUESTS: usize = 8;
/// Answered challenges that are remembered, to name the time of the answer. An older one is still rejected,
/// because its request is not pending any more.
const MAX_ANSWERED_CHALLENGES: usize = 100;

/// The administrators who share a bound. Each class has pending requests of its own, so that the admin group
/// cannot push out those of root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AdminClass {
    /// Root, or the user of a development host.
    Root,
    /// The members of the admin group together.
    Group,
}

/// `enrollment.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EnrollmentFile {
    /// Digests of root's requests, the oldest first.
    pending: Vec<String>,
    /// Digests of the admin group's requests, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    group_pending: Vec<String>,
    /// The oldest first.
    answered: Vec<AnsweredChallenge>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AnsweredChallenge {
    challenge: String,
    request: String,
    at: u64,
}

impl EnrollmentFile {
    /// Remembers a request by its digest.
    pub fn add_pending(&mut self, digest: String, class: AdminClass) {
        let pending = match class {
            AdminClass::Root => &mut self.pending,
            AdminClass::Group => &mut self.group_pending,
        };
        pending.push(digest);
        pending.drain(..pending.len().saturating_sub(MAX_PENDING_REQUESTS));
    }

    /// Whether the request with this digest waits for a challenge.
    pub fn is_pending(&self, digest: &str) -> bool {
        self.pending.iter().chain(&self.group_pending).any(|pending| pending == digest)
    }

    /// When this challenge was answered.
    pub fn challenge_answered_at(&self, challenge: &str) -> Option<Timestamp> {
        self.answered_at(|answered| answered.challenge == challenge)
    }

    /// When a challenge for the request with this digest was answered.
    pub fn request_answered_at(&self, digest: &str) -> Option<Timestamp> {
        self.answered_at(|answered| answered.request == digest)
    }

    /// Marks a challenge as answered. Its request is not pending any more.
    pub fn mark_answered(&mut self, challenge: &str, request: &str, now: Timestamp) {
        for pending in [&mut self.pending, &mut self.group_pending] {
            pending.retain(|digest| digest != request);
        }
        let (challenge, request) = (challenge.to_owned(), request.to_owned());
        self.answered.push(AnsweredChallenge { challenge, request, at: now.as_secs() });
        self.answered.drain(..self.answered.len().saturating_sub(MAX_ANSWERED_CHALLENGES));
    }

    fn answered_at(&self, is_sought: impl Fn(&AnsweredChallenge) -> bool) -> Option<Timestamp> {
        let answered = self.answered.iter().find(|answered| is_sought(answered))?;
        Some(Timestamp::from_secs(answered.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_the_admin_group_displace_none_of_root() {
        let mut file: EnrollmentFile =
            serde_json::from_str(r#"{ "pending": ["from before"], "answered": [] }"#).unwrap();
        file.add_pending("of root".into(), AdminClass::Root);
        for number in 0..20 {
            file.add_pending(format!("of the group {number}"), AdminClass::Group);
        }
        assert!(file.is_pending("of root") && file.is_pending("from before"));
        assert!(!file.is_pending("of the group 11") && file.is_pending("of the group 12"));
        let text = serde_json::to_string(&file).unwrap();
        let mut file: EnrollmentFile = serde_json::from_str(&text).unwrap();
        file.mark_answered("c", "of the group 12", Timestamp::from_secs(5));
        assert!(!file.is_pending("of the group 12"));
        assert_eq!(file.request_answered_at("of the group 12"), Some(Timestamp::from_secs(5)));
        assert_eq!(file.challenge_answered_at("c"), Some(Timestamp::from_secs(5)));
        for number in 0..8 {
            file.add_pending(format!("of root {number}"), AdminClass::Root);
        }
        assert!(!file.is_pending("of root") && file.is_pending("of the group 13"));
    }
}
