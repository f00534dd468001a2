//! A secret that was found: where it is, and of what kind.

use std::path::PathBuf;

use serde::Serialize;

/// Where a secret is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(super) enum Place {
    /// In a file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1; `None` in a file that is not text.
        #[serde(skip_serializing_if = "Option::is_none")]
        line: Option<usize>,
        /// The byte, from 0, in a file that is not text.
        #[serde(skip_serializing_if = "Option::is_none")]
        offset: Option<usize>,
    },
    /// In the environment of a process.
    Process {
        /// The process.
        pid: i32,
        /// Its name.
        command: String,
        /// Further processes with the same variable and value.
        #[serde(skip_serializing_if = "is_zero")]
        more: usize,
    },
}

/// What was found, without its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// Where it is.
    #[serde(flatten)]
    pub(super) place: Place,
    /// The variable that has it, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) variable: Option<String>,
    /// What it is.
    #[serde(flatten)]
    pub(super) what: What,
}

/// The kind of a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct What {
    /// Such as `github-token`.
    pub(super) kind: &'static str,
    /// Eight hexadecimal digits that tell two secrets apart; `None` where the value can be a person's password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) digest: Option<String>,
    /// The issuer that a token names, which is not verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) issuer: Option<String>,
    /// Whether a token has expired.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) expired: Option<bool>,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}
