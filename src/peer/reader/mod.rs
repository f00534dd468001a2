//! Reads executables in a process of its own, so that a file system that does not answer holds up neither the
//! daemon's threads nor its end.
//!
//! The daemon opens `/proc/PID/exe` with O_PATH, which sends nothing to the file system, and passes the
//! descriptor to a reader together with the open mount table of the process. The reader finds the file system
//! in the table, opens the file if its content can be relied on, and answers with its digest. A reader serves
//! one request and exits.
//!
//! Installed hosts have the unit `hostbadge-reader@.service` for each reader, started by
//! `hostbadge-reader.socket`: a process that waits for a file system cannot be killed, and delays the end of
//! its unit. Without that socket the daemon starts readers as its children.

mod client;
mod mount;
mod program;
mod protocol;

pub use client::Readers;
pub use program::{READER_ARGUMENT, serve_reader};
pub(super) use protocol::Request;
