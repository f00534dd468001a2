//! Numbers of users and groups that files name. Requests compare numbers: no request looks a name up.
//!
//! The kernel reports callers by number; `agents.d` and the configuration may name users and groups. Only
//! those names are looked up, by [`Names`]: on threads of its own, in the background, at each reload, every
//! 30 s, and within a second of a change of `/etc/passwd` or `/etc/group`. A name service that is slow or
//! fails therefore delays no request, and callers cannot cause lookups, however many users or groups they
//! have. The result is a [`NameTable`], an immutable snapshot.
//!
//! A lookup that fails keeps the last known number. A name without one is [`Resolution::Unknown`],
//! which is different from [`Resolution::Missing`]: the name service answered that there is no such name.

mod lookup;
mod lookup_error;
mod resolver;
mod schedule;
#[cfg(test)]
mod schedule_simulation;
mod table;

pub use resolver::Names;
pub use table::{Name, NameTable, Numbers, Resolution};
