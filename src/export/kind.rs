//! Which class and activity of OCSF an event of the audit log is.

use crate::audit::Event;

/// What a record is in OCSF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Authentication (3002): a token or certificate by which an agent authenticates, or its refusal.
    Authentication(Ticket),
    /// API Activity (6003): another request of a process.
    Api(Access),
    /// Detection Finding (2004): a rule has found something about an agent.
    Detection,
    /// Entity Management (3004): a change of what the daemon manages.
    Entity(Change, &'static str),
    /// Application Lifecycle (6002) of the daemon.
    Lifecycle(Phase),
    /// Base Event (0): the state of the log, the TPM, the clock or the journal.
    Base,
}

/// Activities of Authentication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ticket {
    /// An identity, such as a certificate.
    Authentication = 3,
    /// A token for a service.
    Service = 4,
}

/// Activities of API Activity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read = 2,
    Update = 3,
    Delete = 4,
    Other = 99,
}

/// Activities of Entity Management.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Create = 1,
    Update = 3,
    Delete = 4,
    Enroll = 6,
    Enable = 8,
    Disable = 9,
    Activate = 10,
    Deactivate = 11,
    Suspend = 12,
    Resume = 13,
}

/// Activities of Application Lifecycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Start = 3,
    Stop = 4,
}

impl Ticket {
    pub(super) fn name(self) -> &'static str {
        match self {
            Ticket::Authentication => "Authentication Ticket",
            Ticket::Service => "Service Ticket Request",
        }
    }
}

impl Access {
    pub(super) fn name(self) -> &'static str {
        match self {
            Access::Read => "Read",
            Access::Update => "Update",
            Access::Delete => "Delete",
            Access::Other => "Other",
        }
    }
}

impl Change {
    pub(super) fn name(self) -> &'static str {
        match self {
            Change::Create => "Create",
            Change::Update => "Update",
            Change::Delete => "Delete",
            Change::Enroll => "Enroll",
            Change::Enable => "Enable",
            Change::Disable => "Disable",
            Change::Activate => "Activate",
            Change::Deactivate => "Deactivate",
            Change::Suspend => "Suspend",
            Change::Resume => "Resume",
        }
    }
}

impl Phase {
    pub(super) fn name(self) -> &'static str {
        match self {
            Phase::Start => "Start",
            Phase::Stop => "Stop",
        }
    }
}

impl Kind {
    /// The kind of a record. `has_peer` says whether it has a calling process; `request` is what was called.
    pub(super) fn of(
        event: Option<Event>,
        has_peer: bool,
        request: Option<&str>,
        has_audience: bool,
    ) -> Kind {
        let Some(event) = event else { return Kind::Base };
        match event {
            Event::TokenIssued | Event::SvidIssued => Kind::Authentication(Ticket::Service),
            Event::CertificateIssued | Event::WitSvidIssued => Kind::Authentication(Ticket::Authentication),
            Event::ApprovalRequested | Event::RequestRefused => of_refusal(has_peer, request, has_audience),
            Event::CredentialReleased | Event::Introspected | Event::Attested => Kind::Api(Access::Read),
            Event::AnomalyDetected => Kind::Detection,
            Event::ProofIssued => Kind::Api(Access::Other),
            Event::NonceUsed => Kind::Api(Access::Update),
            Event::TokenRevoked if has_peer => Kind::Api(Access::Delete),
            Event::TokenRevoked => Kind::Entity(Change::Delete, "token"),
            Event::DaemonStarted => Kind::Lifecycle(Phase::Start),
            Event::DaemonStopping => Kind::Lifecycle(Phase::Stop),
            event => of_change(event).map_or(Kind::Base, |(change, entity)| Kind::Entity(change, entity)),
        }
    }
}

fn of_refusal(has_peer: bool, request: Option<&str>, has_audience: bool) -> Kind {
    match request {
        Some("POST /v1/token" | "gRPC FetchJWTSVID") => Kind::Authentication(Ticket::Service),
        Some("POST /v1/certificate" | "gRPC FetchX509SVID" | "gRPC FetchWITSVID") => {
            Kind::Authentication(Ticket::Authentication)
        }
        // Records of earlier versions do not say what was called.
        None if has_audience => Kind::Authentication(Ticket::Service),
        _ if has_peer => Kind::Api(Access::Other),
        _ => Kind::Authentication(Ticket::Service),
    }
}

fn of_change(event: Event) -> Option<(Change, &'static str)> {
    Some(match event {
        Event::AgentOffboarded => (Change::Delete, "agent"),
        Event::AgentResumed => (Change::Resume, "agent"),
        Event::AgentSuspended => (Change::Suspend, "agent"),
        Event::AgentsReloaded | Event::AgentsRejected | Event::ChangePending => (Change::Update, "agents"),
        Event::CaCertified => (Change::Enable, "certificate authority"),
        Event::CaBlocked => (Change::Disable, "certificate authority"),
        Event::CertificateInstalled => (Change::Create, "host certificate"),
        Event::CertificatesRevoked => (Change::Deactivate, "certificates"),
        Event::ClockAccepted => (Change::Update, "clock"),
        Event::CredentialStored => (Change::Create, "credential"),
        Event::CredentialDestroyed => (Change::Delete, "credential"),
        Event::CredentialsAccepted => (Change::Update, "credentials"),
        Event::CredentialsBlocked => (Change::Disable, "credentials"),
        Event::EnrollmentAnswered | Event::EnrollmentCredential | Event::EnrollmentRequested => {
            (Change::Enroll, "host")
        }
        Event::FederationRejected => (Change::Update, "federation"),
        Event::HostFrozen => (Change::Suspend, "host"),
        Event::HostThawed => (Change::Resume, "host"),
        Event::HostProvisioned => (Change::Create, "host"),
        Event::InvocationEnded => (Change::Deactivate, "invocation"),
        Event::IssuerReady => (Change::Activate, "issuer"),
        Event::IssuerBlocked => (Change::Deactivate, "issuer"),
        Event::KekCreated | Event::KeyCreated | Event::RsaKeyCreated => (Change::Create, "key"),
        Event::KeyActivated => (Change::Activate, "key"),
        Event::KeyDestroyed => (Change::Delete, "key"),
        Event::KeyPublished => (Change::Update, "key"),
        Event::KeyRetired => (Change::Deactivate, "key"),
        Event::PoliciesReloaded | Event::PoliciesRejected => (Change::Update, "policies"),
        Event::PostureAccepted | Event::PostureChanged => (Change::Update, "posture"),
        Event::RecoveryKeyCreated => (Change::Create, "recovery key"),
        Event::ReviewSigned => (Change::Create, "review"),
        Event::RevocationAdded => (Change::Create, "revocation"),
        Event::RevocationLifted => (Change::Delete, "revocation"),
        Event::RevocationsBlocked => (Change::Disable, "revocations"),
        Event::StateAccepted | Event::StateRecovered => (Change::Update, "state"),
        Event::TenantRemoved => (Change::Delete, "tenant"),
        _ => return None,
    })
}
