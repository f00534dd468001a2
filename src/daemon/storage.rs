//! The daemon's directories: created, and locked against a second daemon.

use super::error::Error;
use crate::audit::{Audit, Journal};
use crate::clock::Clock;
use crate::config::{AuditSection, Paths};
use crate::store::{self, DirLock};

/// The locked directories and the open audit log.
pub(super) struct Storage {
    /// The audit log; opening it set an incomplete last record aside.
    pub audit: Audit,
    _state_lock: DirLock,
    _audit_lock: DirLock,
}

impl Storage {
    /// Creates the state and audit directories (mode 0700) and the run directory (0755), and opens the audit
    /// log.
    ///
    /// # Errors
    /// A directory cannot be created or is in use by another daemon, or the audit log cannot be opened.
    pub fn open(
        paths: &Paths,
        section: AuditSection,
        journal: Journal,
        clock: Clock,
    ) -> Result<Storage, Error> {
        store::ensure_dir(&paths.state, 0o700)?;
        let state_lock = DirLock::acquire(&paths.state)?;
        store::remove_temp_files(&paths.state)
            .map_err(|source| store::Error::Io { path: paths.state.clone(), source })?;
        store::ensure_dir(&paths.audit, 0o700)?;
        let audit_lock = DirLock::acquire(&paths.audit)?;
        store::ensure_dir(&paths.run, 0o755)?;
        let audit = Audit::open(&paths.audit, section, journal, clock)
            .map_err(|source| Error::AuditLog { path: paths.audit.clone(), source })?;
        Ok(Storage { audit, _state_lock: state_lock, _audit_lock: audit_lock })
    }
}
