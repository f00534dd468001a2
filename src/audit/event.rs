//! The kinds of events: names in the audit log and `MESSAGE_ID`s in the journal's catalog.

use serde::Serialize;
use tracing::Level;

macro_rules! events {
    ($($variant:ident $name:literal $id:literal $level:ident,)*) => {
        /// A kind of event. Each has a `MESSAGE_ID` that the journal's catalog explains (`journalctl -x`).
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Event {
            $(
                #[doc = concat!("`", $name, "`.")]
                $variant,
            )*
        }

        impl Event {
            /// All kinds of events.
            pub const ALL: &'static [Event] = &[$(Event::$variant,)*];

            /// Returns the name: `event` in the audit log, `HOSTBADGE_EVENT` in the journal.
            pub fn name(self) -> &'static str {
                match self { $(Event::$variant => $name,)* }
            }

            /// Returns the kind of event with this name.
            pub fn from_name(name: &str) -> Option<Event> {
                Event::ALL.iter().copied().find(|event| event.name() == name)
            }

            /// Returns the `MESSAGE_ID`: 128 bits as 32 lower-case hexadecimal digits, unique to this kind.
            pub fn message_id(self) -> &'static str {
                match self { $(Event::$variant => $id,)* }
            }

            /// Returns the severity of the journal entry.
            pub fn level(self) -> Level {
                match self { $(Event::$variant => Level::$level,)* }
            }
        }
    };
}

events! {
    AdminGroupUnavailable "admin-group-unavailable" "5f0cbd3e9a7d4a62b9d2c1e7486f30aa" WARN,
    AgentOffboarded "agent-offboarded" "5d64b329b162b7c68969bfe16d1e174b" WARN,
    AgentsReloaded "agents-reloaded" "9f0203b14aa8428193ef22a029711eae" INFO,
    AgentsRejected "agents-rejected" "10193dd4e32644e78c0c0d97b3846ef4" ERROR,
    ChangePending "change-pending" "b1d3f0a7c2e94d55a86e7f2c9b04d1e8" WARN,
    AgentResumed "agent-resumed" "133454dbee5a96ac03a449fe037fcc5f" WARN,
    AgentSuspended "agent-suspended" "9c97a6843a9494226ff08e74bcbb89c5" WARN,
    AnomalyDetected "anomaly-detected" "d631b99357f0997dd48fb8eba9ca5bf4" WARN,
    ApprovalDenied "approval-denied" "e1f4a86c0b9d4d2c87d35a7c16b2f904" WARN,
    ApprovalGiven "approval-given" "7b0c95e2f6314b8ea4dd02f1c8e65a37" INFO,
    ApprovalRequested "approval-requested" "c58f1d7e39a24c06b1e80f6ad47392bc" WARN,
    Attested "attested" "b4d4d94ec17b48b396be81aa8faa85ff" INFO,
    AuditFailed "audit-failed" "744a4c4c5d0743c88b66ee8015f61f51" ERROR,
    AuditRecovered "audit-recovered" "8f9c122ad6354bd2868ad5eb00962a07" WARN,
    AuditLowSpace "audit-low-space" "80ea1a0c0e9e4f42a594b1a6a6454523" WARN,
    AuditDegraded "audit-degraded" "c0d9a3a1b6f24d5e9f6a7b21e48c5d30" ERROR,
    AuditFileReplaced "audit-file-replaced" "8d81b3d0ab0e44bab448baa7163e9317" ERROR,
    AuditGap "audit-gap" "2d9af92fb8374877808efd1ab137a444" ERROR,
    AuditFilesRemoved "audit-files-removed" "b69a815bc8f965e15752797b26de0ba0" INFO,
    AuditFilling "audit-filling" "4343efd1557efcdd2e905c7f8398e5bd" WARN,
    AuditCheckpointsDelayed "audit-checkpoints-delayed" "e999f46f501f96cbc76a917346a48156" WARN,
    AuditCheckpointsResumed "audit-checkpoints-resumed" "84ad306c0b3c1a65614c1513ada0982f" INFO,
    AuditIndexChanged "audit-index-changed" "a76cfb25db10bf27bc625f490dc58677" ERROR,
    AuditIndexCreated "audit-index-created" "78370bfcac33e355d60716cc661251e6" INFO,
    AuditTreeRestarted "audit-tree-restarted" "94f9cc9b4b0dad8b9d788720424446f3" WARN,
    AuditTorn "audit-torn" "5b1c6f0e9d3a4c7fb2e84a61d07f93c8" WARN,
    CaCertified "ca-certified" "b5ad6b8a694f4d66b039090e5143a834" INFO,
    CaBlocked "ca-blocked" "792bc932fb7245279c7b87bb21f82e39" WARN,
    CertificateInstalled "certificate-installed" "53f9c1c22e46488a8ec93d879fac61ee" INFO,
    CertificateIssued "certificate-issued" "e6cb5e6b01ab41879f34277eb8301e27" INFO,
    CertificateRecordsLost "certificate-records-lost" "d0a4f3c19b7e4d25a86c5e37f1920b64" ERROR,
    CertificatesRevoked "certificates-revoked" "2f4daf50b33148feadf28b5e6b7c7daf" INFO,
    ClockAccepted "clock-accepted" "7be2c5d84f0a49d3b1967ac3e05f8d21" WARN,
    ClockChanged "clock-changed" "3c98e1f7d2b5460a9e4d7f60b8a1c352" WARN,
    CredentialReleased "credential-released" "c3a1e0d2b7464e3b9f20a9f0e2c7d511" INFO,
    CredentialStored "credential-stored" "8b0e6f7d54c94f1aa6f3d1c2b90e7742" INFO,
    CredentialDestroyed "credential-destroyed" "1d5f2a90c3e84b6d9a7be4f80c12d6a3" INFO,
    CredentialsAccepted "credentials-accepted" "e92b47ac0d1f4a58b3c6d7f1209e8b54" WARN,
    CredentialsBlocked "credentials-blocked" "47f6c0de81a24d93a5b0e37c96d2f118" WARN,
    DaemonStarted "daemon-started" "69977b7346124c03a14aa7d28480870b" INFO,
    DaemonStopping "daemon-stopping" "5c3293c475324b91a81e7bdecfd12ed7" INFO,
    EnrollmentAnswered "enrollment-answered" "e124e7e445324aa6894a9acc8360dc23" INFO,
    EnrollmentCredential "enrollment-credential" "741c2a2b149e454aabd2d9a99a58f663" INFO,
    EnrollmentRequested "enrollment-requested" "92252b93762d451493c98e242dccfc57" INFO,
    FederationRejected "federation-rejected" "f718faff4992f1c65473dc1871058700" ERROR,
    HostFrozen "host-frozen" "73d8f2a05c914e6bb1c7e0a94d2f6835" ERROR,
    HostThawed "host-thawed" "e8b4067d1f3c42a5907b5e2ca6d8f10b" WARN,
    HostProvisioned "host-provisioned" "68eb3207e52248e5b643af48e8c6a76b" INFO,
    Introspected "introspected" "a21ef7f2d657469f949b975f6b3d10b5" INFO,
    InvocationEnded "invocation-ended" "2da50d4e2f733169bb0fdf20caf8f30b" INFO,
    IssuerReady "issuer-ready" "1038d3bbaf7447c09446999ba39a4bcc" INFO,
    IssuerBlocked "issuer-blocked" "e473157663714fb09acab299147c0390" WARN,
    JournalDropped "journal-dropped" "84a765b193ea41a6b168afa41e1f12db" WARN,
    KekCreated "key-encryption-key-created" "41a9c81914297da2e72e195c1f31123f" INFO,
    KeyActivated "key-activated" "c14063847d774e9e98dc374d47f8c629" INFO,
    KeyCreated "key-created" "4fa42b70117741cd88164c76d1f91a9b" INFO,
    KeyDestroyed "key-destroyed" "7e314b54122d48ff9e2f790998d98e4e" INFO,
    KeyPublished "key-published" "72d91566560e45cf923867d8605a98e8" INFO,
    KeyRetired "key-retired" "1f304115aa2841a0b8473069ac5510c9" INFO,
    NameLookupFailed "name-lookup-failed" "c84e21b7f6d04e0f8b35d90a6e1f7752" WARN,
    NonceUsed "nonce-used" "81ddc3225cef42a289e8a8c508b1ab26" INFO,
    PoliciesRejected "policies-rejected" "6b1f0f6e8a0d4b7c9e7335c1d2a4f980" ERROR,
    PoliciesReloaded "policies-reloaded" "b0a4c9be2d5e4f13a1c86f5e70d9382b" INFO,
    PostureAccepted "posture-accepted" "013794af7a4c48cebe01a75425e0a108" INFO,
    PostureChanged "posture-changed" "a8eb0e2885db47aa806724f97bf84039" WARN,
    ProofIssued "proof-issued" "a5d3c8e17b904f26831dbe94c07f62a9" INFO,
    RecoveryKeyCreated "recovery-key-created" "cc1dba58bf0a0bb59b367b3755927dc3" WARN,
    ReviewSigned "review-signed" "e0ef552ea07a2fb19a686c241b1a9caf" INFO,
    RequestRefused "request-refused" "3ee38bd6d8b44a2abf71ad20c4594797" WARN,
    ReplyRefused "reply-refused" "aa1011791234227eb9e464f4428b2098" ERROR,
    RevocationLifted "revocation-lifted" "4d9a1c7e2b6f48d0a3e5f7089c1b2d64" WARN,
    RevocationsBlocked "revocations-blocked" "a6e2f19c0d4b4b7f8c3a5d21e9076f58" ERROR,
    RsaKeyCreated "rsa-key-created" "0e7eecd6e6c045b1934238742037b914" INFO,
    RevocationAdded "revocation-added" "0f7c3b8e5a1d4692b8e4c6d0f2a97153" WARN,
    StateAccepted "state-accepted" "9e2788c9f25b1c066879b08058281c51" WARN,
    StateRecovered "state-recovered" "6d48b0615827d3c9fe78411bcf4888b1" WARN,
    SubAgentDelegated "sub-agent-delegated" "d7d0c1f35a8e4b0f9a1c6e42b85f3d97" INFO,
    SubAgentEnded "sub-agent-ended" "86b4e05d9c2f4a71b3d8170ae6c95f24" INFO,
    SvidIssued "svid-issued" "f06aa0e33f52526df6c5bc90a9a12105" INFO,
    TenantRemoved "tenant-removed" "b1d07c5fe3a94c08a2f64d93587e10cb" WARN,
    TokenIssued "token-issued" "29544c423a4048ca923afe06ea1f52b6" INFO,
    TokenRevoked "token-revoked" "c27e50b1f4a84d3e96d1a8b30f5c7e29" INFO,
    TpmEkCertificate "tpm-ek-certificate" "6882afe9b7da488c8c895c4eb243d3c2" WARN,
    TpmConnectionLost "tpm-connection-lost" "453fea1f55e24b8397b76ae8cdbd5372" WARN,
    TpmReady "tpm-ready" "12c00d1440d9403c8cbe85fa8617dbc7" INFO,
    SwtpmExited "swtpm-exited" "109fd691efbf435f9ddf126f7e0e9fc0" WARN,
    SwtpmStopFailed "swtpm-stop-failed" "60cdd26e0da2482ea4cf1de638a6c30e" WARN,
    TpmState "tpm-state" "ee265f497cda410184debd93eefe72db" WARN,
    TpmFlushFailed "tpm-flush-failed" "f17db79272a0449f81ac38a4c2a33287" INFO,
    WitSvidIssued "wit-svid-issued" "476085f3dfa14d408053163dbe285830" INFO,
}

/// What became of an event's subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// A process got what it asked for.
    Granted,
    /// A process did not get what it asked for.
    Refused,
    /// The event took place.
    Done,
    /// The daemon could not do what it tried to.
    Failed,
}

impl Event {
    /// Returns the outcome that a record of this event has.
    pub fn outcome(self) -> Outcome {
        match self {
            Event::ApprovalRequested | Event::RequestRefused | Event::ReplyRefused => Outcome::Refused,
            Event::Attested
            | Event::CertificateIssued
            | Event::CredentialReleased
            | Event::Introspected
            | Event::NonceUsed
            | Event::ProofIssued
            | Event::SubAgentDelegated
            | Event::SvidIssued
            | Event::TokenIssued
            | Event::TokenRevoked
            | Event::WitSvidIssued => Outcome::Granted,
            Event::AdminGroupUnavailable
            | Event::AgentsRejected
            | Event::AuditDegraded
            | Event::AuditFailed
            | Event::CaBlocked
            | Event::CertificateRecordsLost
            | Event::CredentialsBlocked
            | Event::FederationRejected
            | Event::IssuerBlocked
            | Event::JournalDropped
            | Event::NameLookupFailed
            | Event::PoliciesRejected
            | Event::RevocationsBlocked
            | Event::SwtpmExited
            | Event::SwtpmStopFailed
            | Event::TpmConnectionLost
            | Event::TpmFlushFailed => Outcome::Failed,
            _ => Outcome::Done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// Checks that each `event = "…"` in the source is in the list, so that the catalog explains it.
    #[test]
    fn all_events_in_source_are_listed() {
        fn walk(dir: &std::path::Path, count: &mut usize) {
            for item in std::fs::read_dir(dir).unwrap() {
                let path = item.unwrap().path();
                if path.is_dir() {
                    walk(&path, count);
                    continue;
                }
                let text = std::fs::read_to_string(&path).unwrap();
                for part in text.split("event = \"").skip(1) {
                    let name = part.split('"').next().unwrap();
                    if name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-') && !name.is_empty() {
                        assert!(
                            Event::ALL.iter().any(|event| event.name() == name),
                            "{name} in {}",
                            path.display()
                        );
                        *count += 1;
                    }
                }
            }
        }
        let mut count = 0;
        walk(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut count);
        assert!(count > 5);
    }

    /// Checks that each entry has a subject and a text.
    #[test]
    fn catalog_lists_exactly_all_events() {
        let catalog = include_str!("../../systemd/hostbadge.catalog");
        let entries: Vec<_> = catalog.split("\n-- ").skip(1).collect();
        assert_eq!(entries.len(), Event::ALL.len());
        for event in Event::ALL {
            let entry = entries.iter().find(|entry| entry.starts_with(event.message_id()));
            let entry = entry.unwrap_or_else(|| panic!("{} is not in the catalog", event.name()));
            assert!(entry.contains("\nSubject: "), "{entry}");
            assert!(entry.split_once("\n\n").is_some_and(|(_, text)| text.trim().len() > 20), "{entry}");
        }
    }

    #[test]
    fn message_ids_are_unique_and_128_bits() {
        let ids: HashSet<_> = Event::ALL.iter().map(|event| event.message_id()).collect();
        assert_eq!(ids.len(), Event::ALL.len());
        assert!(ids.iter().all(|id| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())));
    }
}
