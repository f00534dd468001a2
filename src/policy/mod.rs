//! Authorization: decides requests by grants, posture, policies and rate limits.
//!
//! [`decide`] is the third step of the request path: it takes an authenticated agent and returns a [`Permit`]
//! or a [`Refusal`]. Requests are refused unless a grant allows them, and a policy can still forbid them
//! ([`cedar`]). `issue` and `pki` sign only from a
//! permit ([`Permit`], [`JwtSvidPermit`], [`IdentityPermit`]), `credentials` releases only from a
//! [`CredentialPermit`], cgroups are delegated only from a [`DelegationPermit`], proofs are built only from a [`ProofPermit`], evidence needs an [`AttestationPermit`], and only this module constructs one.

mod admin;
mod attestation;
pub mod cedar;
mod circumstances;
mod credential;
mod decision;
mod delegation;
mod explain;
mod explain_proof;
mod jwt_svid;
mod layer;
mod mark_quota;
mod proof;
mod rate;
mod rate_limit;
mod refusal;
mod tenant_quota;

pub use admin::{AdminGroupProblem, AdminPolicy};
pub use attestation::{AttestationPermit, decide_attestation};
pub use cedar::{
    Allowed, Policies, PolicyChanges, PolicyConfig, PolicySetId, PolicySnapshot, PolicyStatus, ReadPolicies,
};
pub use circumstances::Circumstances;
pub use credential::{CredentialPermit, CredentialRequest, decide_credential};
pub use decision::{
    IdentityPermit, Permit, Signer, TokenRequest, decide, decide_identity, decide_kept_identity,
};
pub use delegation::{DelegationPermit, DelegationRequest, decide_delegation};
pub use explain::{ExplainedRequest, Explanation, explain, ttl_of_record};
pub use jwt_svid::{JwtSvidPermit, JwtSvidRequest, MAX_AUDIENCES, decide_jwt_svid};
pub use layer::{Layer, LayerOutcome, Rule};
pub use mark_quota::{MarkQuota, Marks, TooManyMarks};
pub use proof::{
    ProofPermission, ProofPermit, ProofRequest, ProofSource, ProofTarget, decide_proof, proof_permission,
};
pub use rate::Rate;
pub use rate_limit::{Limiter, RateLimitKey, RateLimited};
pub use refusal::{ErrorCode, Refusal, RefusalDetails, RequestedApproval, Stage, StageResult, Verdicts};
pub use tenant_quota::{TenantQuota, TenantQuotas, TooManyTokens};
