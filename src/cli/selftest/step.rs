//! What a process does that an attack starts.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::exchange::Answer;

/// One step of a process. The connection is the last one that it opened, received or took over.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Step {
    /// Opens a connection.
    Connect(PathBuf),
    /// Sends a request and reports the answer.
    Request { method: String, path: String, body: Option<Value> },
    /// Sends bytes.
    Write(String),
    /// Reads an answer and reports it.
    Read,
    /// Changes to another user and group, for good.
    BecomeUser(u32),
    /// Executes another program, which has the connection as its standard input and takes the other steps.
    Execute(PathBuf),
    /// Starts a process of another user, which has the connection as its standard input and takes the other steps, and
    /// exits.
    LeaveTo(u32),
    /// Uses standard input as the connection.
    TakeConnection,
    /// Waits until the process with this pid is no longer the parent.
    AwaitExitOfParent(i32),
    /// Sends the connection over standard input, which is a socket.
    SendConnection,
    /// Receives the connection over standard input.
    ReceiveConnection,
    /// Waits for the end of standard input.
    AwaitEnd,
    /// Calls a method of the Workload API with this message, in hexadecimal, and reports the status.
    Call { socket: PathBuf, method: String, message: String },
    /// Asks as a service manager does for a credential of a unit, and reports what arrived.
    LoadCredential { socket: PathBuf, unit: String, name: String },
}

impl Step {
    pub(super) fn get(path: &str) -> Step {
        Step::Request { method: "GET".into(), path: path.into(), body: None }
    }

    pub(super) fn post(path: &str, body: Value) -> Step {
        Step::Request { method: "POST".into(), path: path.into(), body: Some(body) }
    }
}

/// What a process reports of a step, as one line on standard output.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Report {
    /// An answer over HTTP.
    Answer(Answer),
    /// The status of a gRPC call; `None` where there is none.
    GrpcStatus(Option<u16>),
    /// What arrived of a credential before the daemon closed the connection.
    Credential(Loaded),
    /// The step failed, and the process takes no other one: why, and whether the mode of the socket, or of a directory
    /// above it, does not let this user connect (EACCES of connect(2)).
    Failed { why: String, denied: bool },
}

/// What arrived of a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Loaded {
    /// No byte, which is what a process gets that is no service manager.
    Nothing,
    /// Zero bytes alone, by which the daemon has a service manager fail: it took the process for one, or could not
    /// decide.
    Failure,
    /// So many bytes of a value.
    Value(usize),
}
