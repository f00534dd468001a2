//! The registered agents: reads `agents.d`, matches processes against it, and reloads it.
//!
//! Each `*.toml` file of the directory registers one agent with its selectors ([`Selectors`]) and its grants
//! ([`Grant`]). [`AgentSet`] is a whole directory, read either completely or not at all; [`AgentRegistry`]
//! holds the active set and keeps it if a reload finds a fault. [`AgentRegistry::identify`] matches a peer
//! against the active set. It is the only way to construct an [`AuthenticatedAgent`], the second step of the
//! request path.

mod agent_set;
mod entry;
mod file;
mod grant;
mod identify;
mod name;
mod nss;
mod registry;
mod selectors;

pub use agent_set::{AgentChanges, AgentSet};
pub use entry::AgentEntry;
pub(crate) use grant::is_scope;
pub use grant::{Algorithm, Assurance, Grant, MAX_TOKEN_TTL};
pub use identify::{AuthenticatedAgent, IdentifyError};
pub use name::{AgentName, InvalidAgentName};
pub use registry::{AgentRegistry, LoadStatus};
pub use selectors::{IdOrName, Selectors};
