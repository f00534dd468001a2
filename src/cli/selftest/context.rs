//! What the attacks have: the sockets, an unused uid, and the agent that this process is, if it is one.

use std::io;
use std::path::PathBuf;

use nix::unistd::{Uid, User};
use serde_json::Value;

use super::exchange::{Answer, ask};
use super::workdir::WorkDir;

/// Uids that systemd leaves unused (its UIDS-GIDS.md): no human user, service or container has one.
const UNUSED_UIDS: std::ops::RangeInclusive<u32> = 60_706..=61_183;

/// What the attacks have.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) agent_socket: PathBuf,
    pub(super) workload_socket: PathBuf,
    pub(super) credentials_socket: PathBuf,
    pub(super) admin_socket: PathBuf,
    /// The daemon's state and audit log.
    pub(super) state: PathBuf,
    pub(super) audit: PathBuf,
    /// Where the generation of the state is kept from run to run.
    pub(super) remember: Option<PathBuf>,
    /// For which audience this process requests a token.
    pub(super) audience: String,
    /// The uid of processes that are nobody's.
    pub(super) stranger: u32,
    /// The agent that this process is, or why it is none.
    pub(super) agent: Result<String, String>,
    pub(super) workdir: WorkDir,
}

impl Context {
    /// Asks the agent socket, as this process.
    pub(super) fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> io::Result<Answer> {
        ask(&self.agent_socket, method, path, body)
    }

    /// Asks something that an agent alone may.
    ///
    /// # Errors
    /// Why there is no answer to judge by.
    pub(super) fn ask_as_agent(&self, path: &str, body: &Value) -> Result<Value, String> {
        self.agent.clone()?;
        let answer = self.ask("POST", path, Some(body)).map_err(|e| format!("{path}: {e}"))?;
        match answer.status {
            200 => Ok(answer.body),
            _ => Err(format!("{path}: the daemon answered {}", answer.summary())),
        }
    }

    /// A token of the agent that this process is.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn token(&self) -> Result<String, String> {
        let body = serde_json::json!({ "audience": self.audience });
        let answer = self.ask_as_agent("/v1/token", &body);
        let answer = answer.map_err(|e| format!("no token for {}: {e}", self.audience))?;
        Ok(answer["access_token"].as_str().unwrap_or_default().to_owned())
    }
}

/// A uid that no user has.
pub(super) fn unused_uid() -> Option<u32> {
    UNUSED_UIDS.into_iter().find(|uid| matches!(User::from_uid(Uid::from_raw(*uid)), Ok(None)))
}

/// What the daemon sees at the other end of a connection, in an answer to `whoami`.
pub(super) fn peer(answer: &Answer) -> Option<&Value> {
    Some(&answer.body["peer"]).filter(|peer| !peer.is_null())
}
