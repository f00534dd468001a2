//! The errors of the IMA list and of the digests in it.

use std::io::ErrorKind;
use std::path::PathBuf;

use crate::verify;

/// Why a program is not known to be measured. The messages are for the audit log and for agents; those about
/// an executable begin with "its executable".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImaError {
    /// No list was read since the daemon started.
    #[error("no list of measured files was read yet; try again in a moment")]
    NotRead,
    /// The digest is not in the proven list.
    #[error(
        "its executable is none of the {entries} that IMA measured{}",
        not_measured_advice(*.non_sha256)
    )]
    NotMeasured {
        /// The number of proven entries.
        entries: usize,
        /// The number of proven entries without a SHA-256 of a file.
        non_sha256: usize,
    },
    /// IMA is not active.
    #[error("IMA measures nothing: PCR 10 is empty; boot with ima_policy=tcb")]
    Inactive,
    /// No part of the list replays to the quoted PCR 10.
    #[error(
        "the IMA list does not replay to the quoted PCR 10: something else extended it, or the kernel is \
         older than 5.8"
    )]
    NotReplayed,
    /// The list cannot be read.
    #[error(transparent)]
    List(#[from] ImaListError),
    /// The list is malformed.
    #[error(transparent)]
    Malformed(#[from] verify::Error),
}

fn not_measured_advice(non_sha256: usize) -> String {
    match non_sha256 {
        0 => "; a program that was just started is in the list in a moment".to_owned(),
        count => format!(", of {count} of which the kernel took no SHA-256: boot with ima_hash=sha256"),
    }
}

/// Why the list cannot be read. The messages are for administrators, and for agents that have to be measured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImaListError {
    /// The kernel has no list.
    #[error("{path} does not exist: boot with ima_policy=tcb on a kernel with IMA", path = path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The daemon may not read it.
    #[error(
        "{path} cannot be read: the service's unit gives the daemon's group access to it at its start",
        path = path.display()
    )]
    PermissionDenied {
        /// The file.
        path: PathBuf,
    },
    /// Another I/O error.
    #[error("{path}: {reason}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The message of the system.
        reason: String,
    },
}

/// Why the list is not in evidence. The messages are for verifiers, and contain no path of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImaListOmitted {
    /// The list is too long for the document.
    #[error("it is longer than {} MiB; measure less by an IMA policy", max_len >> 20)]
    TooLong {
        /// The longest list that is put into evidence, in bytes.
        max_len: u64,
    },
    /// The list exists and cannot be read.
    #[error("the host cannot read it: {0}")]
    Unreadable(ErrorKind),
}
