//! The registered agents: reads `agents.d`, matches processes against it, and reloads it.
//!
//! Each `*.toml` file of the directory registers one agent with its selectors ([`Selectors`]) and its grants
//! ([`Grant`]); those of `roles.d` have grants that agents share ([`Role`]). [`AgentSet`] is a whole
//! directory, read either completely or not at all; [`AgentRegistry`] holds the active set and keeps it if a
//! reload finds a fault. [`AgentRegistry::candidates`] compares a peer with the active set by numbers,
//! [`AgentRegistry::identify`] by what takes time. It is the only way to construct an [`AuthenticatedAgent`],
//! the second step of the request path.

mod advice;
mod agent_set;
mod anomaly;
mod approval_mode;
mod attenuation;
mod authenticated_agent;
mod beside;
mod binding;
mod change_approval;
mod changes;
mod compared_agents;
mod comparison;
mod comparison_texts;
mod contents;
mod credential;
mod delegate;
mod delegation;
mod delegation_set;
mod entry;
mod expiry;
mod file;
mod findings;
mod grant;
mod host_warnings;
mod hours;
mod identify;
mod identify_error;
mod index;
#[cfg(test)]
mod index_simulation;
mod lint;
mod lint_name;
mod match_tag;
mod name;
mod overlap;
mod proofs;
mod raw_selectors;
mod read_files;
mod registrations;
mod registry;
mod rights_changes;
mod rights_diff;
mod role;
mod role_set;
mod run_grant;
mod runner;
mod script_warnings;
mod selectors;
mod source;
mod status_lints;
mod stored_credentials;
mod sub_agent_limits;
mod text_diff;
mod time_limits;
mod unit_agents;
mod unit_files;
mod unit_name;
mod user_unit_lints;

pub use agent_set::AgentSet;
pub use anomaly::AgentAnomaly;
pub use approval_mode::ApprovalMode;
pub use attenuation::NotDelegable;
pub use authenticated_agent::AuthenticatedAgent;
pub use beside::{EvaluatedAttributes, ReadBeside};
pub use binding::Binding;
pub use change_approval::{Administrator, ChangeApprovalError, Held, PendingChange, ReloadBy};
pub use changes::{AgentChanges, MAX_LISTED_NAMES};
pub use comparison::{AgentComparison, ComparedWith, Condition, Outcome, ProcessComparison};
pub use contents::Attested;
pub(crate) use credential::is_credential_name;
pub use credential::{CredentialGrant, CredentialUse, SigningGrant};
pub use delegate::DelegateGrant;
pub use delegation::{DelegatedGrant, DelegatedRight, DelegatedRights, Delegation};
pub use delegation_set::{DelegationSet, HeldDelegation};
pub use entry::{AgentEntry, Granted};
pub use expiry::{Expiry, ExpiryHolder, ExpiryOf};
pub use file::check_text;
pub(crate) use grant::is_scope;
pub use grant::{Algorithm, Assurance, Grant, MAX_TOKEN_TTL, TokenTyp};
pub use host_warnings::host_warnings;
pub use hours::Hours;
pub use identify::{Candidates, Identification};
pub use identify_error::IdentifyError;
pub(crate) use lint::is_multi_user_unit;
pub use lint_name::Lint;
pub use match_tag::{MatchTag, ParseMatchTagError};
pub(crate) use name::is_valid_name as is_tenant_name;
pub use name::{
    AgentName, InvalidAgentName, MAX_SPIFFE_ID_LEN, depth_of, lineage_of, root_agent, split_sub_agent,
};
pub use proofs::ProofGrant;
pub use registrations::Registrations;
pub use registry::{AgentRegistry, LoadStatus, MayBeEmpty, Reloaded};
pub use rights_changes::{RightsChange, RightsCollector, RightsDiff};
pub use role::Role;
pub use role_set::RoleSet;
pub use run_grant::RunGrant;
pub use runner::{Delegator, NotRunner, Runner};
pub use script_warnings::script_warnings;
pub use selectors::{IdOrName, Selectors, TagCheck};
pub use source::{AgentSource, FileRules};
pub use status_lints::StatusListDefault;
pub use time_limits::{NotNow, TimeLimits};
pub(crate) use unit_files::{environment_files, environment_secrets, unit_secrets};
