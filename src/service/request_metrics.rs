//! How many requests were granted and refused, and how long each took.

use std::time::Duration;

use crate::metrics::{Counter, Histogram, HistogramSnapshot};
use crate::policy::ErrorCode;

/// What was requested, on whatever socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// An access token.
    AccessToken,
    /// JWT-SVIDs.
    JwtSvid,
    /// Whether a JWT-SVID is valid.
    JwtSvidValidation,
    /// A WIT-SVID, for a stream.
    WitSvid,
    /// An X509-SVID, by a request or for a stream.
    X509Svid,
    /// A sealed credential, for an agent.
    Credential,
    /// A sealed credential, for a service manager.
    LoadedCredential,
    /// Whether a token is valid.
    Introspection,
    /// The revocation of a token.
    TokenRevocation,
    /// A proof of possession, or a client assertion.
    Proof,
    /// A sub-agent.
    Delegation,
    /// Evidence of the host's state.
    Evidence,
    /// A nonce, or its use.
    Nonce,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The caller gets what it asked for.
    Granted,
    /// It was refused.
    Refused {
        /// Why.
        code: ErrorCode,
        /// Whether the refusal has a record of its own.
        is_recorded: bool,
    },
    /// The decision could not be recorded, so the caller gets nothing.
    Unrecordable,
}

/// The requests since the start, of all threads.
#[derive(Debug, Default)]
pub struct RequestMetrics {
    kinds: [KindMetrics; RequestKind::ALL.len()],
    unrecorded_refusals: Counter,
}

#[derive(Debug, Default)]
struct KindMetrics {
    granted: Counter,
    /// In the order of [`ErrorCode::ALL`].
    refused: [Counter; ErrorCode::ALL.len()],
    unrecordable: Counter,
    duration: Histogram,
}

/// How many requests of a kind ended in one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestCount {
    /// `granted`, `refused` or `failed`.
    pub outcome: &'static str,
    /// Why it was refused or failed; empty if it was granted.
    pub reason: &'static str,
    /// The number.
    pub count: u64,
}

impl RequestKind {
    /// All kinds.
    pub const ALL: [RequestKind; 13] = [
        RequestKind::AccessToken,
        RequestKind::JwtSvid,
        RequestKind::JwtSvidValidation,
        RequestKind::WitSvid,
        RequestKind::X509Svid,
        RequestKind::Credential,
        RequestKind::LoadedCredential,
        RequestKind::Introspection,
        RequestKind::TokenRevocation,
        RequestKind::Proof,
        RequestKind::Delegation,
        RequestKind::Evidence,
        RequestKind::Nonce,
    ];

    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            RequestKind::AccessToken => "access_token",
            RequestKind::JwtSvid => "jwt_svid",
            RequestKind::JwtSvidValidation => "jwt_svid_validation",
            RequestKind::WitSvid => "wit_svid",
            RequestKind::X509Svid => "x509_svid",
            RequestKind::Credential => "credential",
            RequestKind::LoadedCredential => "loaded_credential",
            RequestKind::Introspection => "introspection",
            RequestKind::TokenRevocation => "token_revocation",
            RequestKind::Proof => "proof",
            RequestKind::Delegation => "delegation",
            RequestKind::Evidence => "evidence",
            RequestKind::Nonce => "nonce",
        }
    }
}

impl RequestMetrics {
    /// Counts a request that took so long. Three relaxed additions; one more for a refusal without a record.
    pub fn count(&self, kind: RequestKind, outcome: Outcome, elapsed: Duration) {
        // The discriminants are the places in the lists.
        let Some(metrics) = self.kinds.get(kind as usize) else { return };
        metrics.duration.observe(elapsed);
        match outcome {
            Outcome::Granted => metrics.granted.increment(),
            Outcome::Refused { code, is_recorded } => {
                if let Some(counter) = metrics.refused.get(code as usize) {
                    counter.increment();
                }
                if !is_recorded {
                    self.unrecorded_refusals.increment();
                }
            }
            Outcome::Unrecordable => metrics.unrecordable.increment(),
        }
    }

    /// Returns the requests of each kind by their outcome.
    pub fn counts(&self) -> impl Iterator<Item = (RequestKind, RequestCount)> {
        RequestKind::ALL.into_iter().zip(&self.kinds).flat_map(|(kind, metrics)| {
            let granted = RequestCount { outcome: "granted", reason: "", count: metrics.granted.get() };
            let refused = ErrorCode::ALL.iter().zip(&metrics.refused).map(|(code, counter)| RequestCount {
                outcome: "refused",
                reason: code.as_str(),
                count: counter.get(),
            });
            let count = metrics.unrecordable.get();
            let failed = RequestCount { outcome: "failed", reason: "audit_unavailable", count };
            std::iter::once(granted).chain(refused).chain([failed]).map(move |count| (kind, count))
        })
    }

    /// Returns how long the requests of each kind took.
    pub fn durations(&self) -> impl Iterator<Item = (RequestKind, HistogramSnapshot)> {
        RequestKind::ALL.into_iter().zip(&self.kinds).map(|(kind, of)| (kind, of.duration.snapshot()))
    }

    /// Returns how many refusals had no record of their own; a later record has their number.
    pub fn unrecorded_refusals(&self) -> u64 {
        self.unrecorded_refusals.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_and_outcome_has_a_count_of_its_own() {
        let metrics = RequestMetrics::default();
        for kind in RequestKind::ALL {
            metrics.count(kind, Outcome::Granted, Duration::from_micros(1));
            for code in ErrorCode::ALL {
                metrics.count(kind, Outcome::Refused { code, is_recorded: true }, Duration::ZERO);
            }
            metrics.count(kind, Outcome::Unrecordable, Duration::ZERO);
        }
        assert!(metrics.counts().all(|(_, of)| of.count == 1));
        let refused = Outcome::Refused { code: ErrorCode::SlowDown, is_recorded: false };
        metrics.count(RequestKind::Nonce, refused, Duration::ZERO);
        let twice: Vec<_> = metrics.counts().filter(|(_, of)| of.count == 2).collect();
        assert_eq!(twice.len(), 1);
        assert_eq!((twice[0].0, twice[0].1.reason), (RequestKind::Nonce, "slow_down"));
        assert_eq!(metrics.unrecorded_refusals(), 1);
        let total: u64 = metrics.durations().map(|(_, durations)| durations.count()).sum();
        let outcomes = ErrorCode::ALL.len() + 2;
        assert_eq!(total, (RequestKind::ALL.len() * outcomes + 1) as u64);
    }

    #[test]
    fn names_of_kinds_are_unique() {
        let names: std::collections::HashSet<_> = RequestKind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), RequestKind::ALL.len());
    }
}
