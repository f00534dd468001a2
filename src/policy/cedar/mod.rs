//! Policies in Cedar: rules about the circumstances of a request, decided after the grants.
//!
//! `policies/*.cedar` are read completely or not at all, checked strictly against the schema
//! ([`SCHEMA_TEXT`]), and activated together with the agents ([`Policies`]). A decision asks them by
//! `PolicySnapshot::allow`, the only way to get an [`Allowed`], without which no permit can be made. A
//! `forbid` always refuses; a policy that cannot be evaluated refuses, although Cedar would skip it; and
//! without either, the grant suffices unless `[policy] require_permit` requires a `permit`. Without policy
//! files there is no engine.

mod allowed;
mod compile;
mod diff;
mod error;
mod meaning;
mod needs;
mod nesting;
mod policies;
mod policy_set;
mod question;
mod schema;
mod scope;
mod set_id;
mod slices;
mod source;
#[cfg(test)]
mod tests;
mod unknown_names;

pub use allowed::Allowed;
pub use diff::PolicyChanges;
pub use error::QuestionError;
pub use policies::{Policies, PolicyConfig, PolicySnapshot, PolicyStatus, ReadPolicies};
pub use policy_set::{Answer, PolicyInfo, PolicySet, PolicySetBuildError, Verdict, counted_policies};
pub use question::{Act, Principal, Process, Question};
pub use schema::SCHEMA_TEXT;
pub use scope::Scope;
pub use set_id::PolicySetId;
pub use unknown_names::warnings;
