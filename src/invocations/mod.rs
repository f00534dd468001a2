//! Notices the end of invocations in which something was issued.
//!
//! Nothing is polled, however many units there are:
//!
//! - One inotify watch on systemd's directory of links sees every system unit that ends or starts again: systemd
//!   removes the link of a unit that becomes inactive or failed, and replaces it at the next start.
//! - One inotify watch on `cgroup.events` of each cgroup that is an invocation sees that it becomes empty. The
//!   kernel reports no removal, but no cgroup is removed before it is empty.
//! - A pidfd of each session's leader becomes readable when the leader exits.
//!
//! [`Invocations`] is what the request path tells of each token, and asks for a token that is introspected; it
//! makes no system call for an invocation that is watched. [`InvocationWatcher`] adds the watches, in a task of its
//! own, and looks at each invocation once after that, so that one which ended before is noticed.

mod file;
mod host_files;
mod inotify;
mod table;
#[cfg(test)]
mod tests;
mod watcher;

use std::time::Duration;

pub use file::{InvocationsFile, StoredEnd};
pub use host_files::HostFiles;
pub use table::{Invocations, TokenInvocation};
pub use watcher::{EndedInvocation, InvocationWatcher};

/// Invocations that are watched at once. Beyond, the oldest of the agent with the most are given up: those of
/// units are looked at when a token is introspected, the others count as ended.
pub const MAX_WATCHED: usize = 16_384;
/// Sessions that are watched at once, each with a descriptor. Beyond, the oldest of the agent with the most count as
/// ended.
pub const MAX_SESSIONS: usize = 1024;
/// Agents of one invocation that are remembered.
pub const MAX_AGENTS: usize = 64;
/// A cgroup that is empty for this time has ended: it is empty for a moment between two commands of a unit.
const EMPTY_TIME: Duration = Duration::from_secs(1);
