//! Who keeps the processes of a sub-agent in its cgroup.

use serde::{Deserialize, Serialize};

/// Who keeps the processes of a sub-agent in its cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Boundary {
    /// The kernel: only root can move them, and the agent is not every process of the user.
    Kernel,
    /// The processes themselves: their user can move them, or have another one started that is the agent.
    Cooperative,
}

impl Boundary {
    /// The value as it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Boundary::Kernel => "kernel",
            Boundary::Cooperative => "cooperative",
        }
    }
}
