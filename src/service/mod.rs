//! The request path: identifies the caller, decides, issues, records, and returns what may be sent.
//!
//! ```text
//! Peer ── agents ──> AuthenticatedAgent ── posture, policy ──> Permit ── issue ──> AccessToken
//!           └── no agent: Refusal                    └── denied: Refusal             │
//!                         └──────────────────────────────────┴──────── audit ────────┘
//!                                                                        │
//!                                              Recorded<AccessToken> or Recorded<Refusal> ──> api
//! ```
//!
//! [`IdentityService`] has one method for each request of the three sockets. It is the only module that `api`
//! calls. Each step takes a type that only the step before it can make: [`Peer`] from the kernel, a permit
//! from `policy`, a [`Recorded`] from `audit`, or a [`Counted`] for a refusal without a record of its own. No
//! method blocks its thread: work on files runs on the runtime's blocking threads, and the TPM and the audit
//! log have threads of their own behind bounded queues.

mod admin;
mod admin_command;
mod anomalies;
mod approvals;
mod attest;
mod authenticate;
mod binding;
mod bundle_cache;
mod certificates;
mod clock;
mod command_budget;
mod convert;
mod convert_keys;
mod credentials;
mod delegate;
mod documents;
mod enrollment;
mod error;
mod expiring;
mod health;
mod identity_service;
mod keys;
mod leak;
mod leak_advice;
mod lifecycle;
mod load_credential;
mod measured;
mod metrics;
mod offboarding;
mod policies;
mod posture;
mod presented_proof;
mod prove;
mod rejection;
mod reload;
mod request_metrics;
mod requests;
mod reviews;
mod revocations;
mod revoked_keys;
mod signal_error;
mod signals;
mod single_use;
mod status;
mod status_list_cache;
mod status_lists;
mod streams;
mod tenants;
mod tokens;
mod warnings;
mod whoami;
mod why;
mod worker_health;

pub use admin::{Admin, Monitor, RootAdmin};
pub use admin_command::AdminCommand;
pub use command_budget::BudgetExceeded;
pub use error::{AdminError, InvalidRequest, NotReady, RequestError, RequestResult};
pub use health::ServiceHealth;
pub use identity_service::{IdentityService, ServiceDeps};
pub use lifecycle::AgentsQuery;
pub use load_credential::LoadRefused;
pub use metrics::{MetricsQuery, MetricsText};
pub use policies::PolicyWhyQuery;
pub use reload::log_faults;
pub use requests::JwtSvidParams;
pub use signal_error::SignalError;
pub use signals::read_signal_keys;
pub use status_lists::StatusListDocument;
pub use streams::{BundleVersion, CallerCheck, IdentityInputs};
pub use worker_health::WorkerHealth;

// What `api` needs of the modules below.
pub use crate::agents::{AuthenticatedAgent, MatchTag};
pub use crate::audit::{AuditQuery, Counted, Event, PageStart, Recorded};
pub use crate::clock::Timestamp;
pub(crate) use crate::clock::jitter;
pub use crate::credentials::ReleasedCredential;
pub use crate::delegation::{DelegatedCgroup, Delegations};
pub use crate::error_class::ErrorClass;
pub use crate::invocations::{HostFiles, Invocations};
pub use crate::issue::{EvidenceResponse, Introspection, IssuedProof, JwtSvid, WitSvid};
pub use crate::metrics::TextFormat;
pub use crate::peer::{InspectError, Peer, PeerLookup, PeerTracker, ServiceManager};
pub use crate::pki::IssuedX509Svid;
pub use crate::policy::{AdminPolicy, ErrorCode};
