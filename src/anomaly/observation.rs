//! One decision on a request of an agent, as far as rules compare it.

use std::path::Path;
use std::time::Duration;

use crate::agents::Hours;
use crate::clock::{BootTime, Timestamp};
use crate::digest::sha256;

/// A decision on a request of an agent.
#[derive(Clone, Copy, Debug)]
pub struct Observation<'a> {
    /// The time of day.
    pub time: Timestamp,
    /// The time since the host started.
    pub boot: BootTime,
    /// The agent's name.
    pub agent: &'a str,
    /// Its tenant.
    pub tenant: Option<&'a str>,
    /// What was decided.
    pub act: Act<'a>,
    /// The executable.
    pub exe: Option<Executable<'a>>,
    /// The hours that the agent's file states.
    pub stated_hours: Option<&'a Hours>,
}

/// The executable of the process.
#[derive(Clone, Copy, Debug)]
pub struct Executable<'a> {
    /// Its path, as the kernel reports it.
    pub path: &'a Path,
    /// What distinguishes its file from others at this path, also after a start of the host.
    pub version: [u8; 8],
    /// What identifies its file until the host is started again, also after the file's name was removed.
    pub file: [u8; 8],
}

/// The key of a certificate.
#[derive(Clone, Copy, Debug)]
pub struct KeyUse<'a> {
    /// A digest of the public key.
    pub key: u64,
    /// The invocation of the process.
    pub invocation: &'a str,
}

/// What was decided.
#[derive(Clone, Copy, Debug)]
pub enum Act<'a> {
    /// An access token was issued.
    Token {
        /// Its audiences, separated by spaces.
        audiences: &'a str,
        /// Its identifier.
        jti: &'a str,
        /// How long it can be used.
        lifetime: Duration,
        /// Whether it has the longest lifetime of its grant; `None` where that is not asked for.
        is_longest: Option<bool>,
    },
    /// A JWT-SVID was issued, for these audiences, separated by spaces. It is not introspected.
    JwtSvid(&'a str),
    /// A certificate or WIT-SVID was issued, for this key if it is one of the agent's own.
    Identity(Option<KeyUse<'a>>),
    /// The value of a credential was released.
    Credential(&'a str),
    /// Requests were refused.
    Refused {
        /// The credential that was asked for.
        credential: Option<&'a str>,
        /// How many of them the agent's own requests caused; 0 for a refusal that others caused.
        count: u64,
    },
    /// Something that gives access to nothing: evidence, for example.
    Other,
}

impl Act<'_> {
    /// Whether the agent got something.
    pub(super) fn is_use(&self) -> bool {
        matches!(self, Act::Token { .. } | Act::JwtSvid(_) | Act::Identity(_) | Act::Credential(_))
    }
}

/// What stands for a name in a profile: the first 64 bits of its SHA-256 digest, the same after a restart.
pub(super) fn name_digest(kind: &str, name: &str) -> u64 {
    let mut text = [0; 128];
    let length = kind.len() + 1 + name.len();
    let digest = match text.get_mut(..length) {
        Some(room) => {
            room[..kind.len()].copy_from_slice(kind.as_bytes());
            room[kind.len() + 1..].copy_from_slice(name.as_bytes());
            sha256(room)
        }
        None => sha256(format!("{kind}\0{name}").as_bytes()),
    };
    u64::from_be_bytes(std::array::from_fn(|at| digest[at]))
}
