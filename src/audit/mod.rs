//! The audit log and the journal.
//!
//! The audit log is a directory of JSON lines, each with the digest of the line before. [`Audit`] writes a
//! decision to it and returns a [`Recorded`], from which `api` makes the reply: no token, certificate or
//! evidence leaves the daemon without an audit record. Refusals of a flood are counted in the next record.
//! Then [`Journal`] gets an entry for administrators, through a bounded queue that never blocks a request and
//! counts the entries it drops.

mod activity;
mod activity_reader;
mod agent_usage;
mod backwards;
mod chain;
mod changes;
mod checkpoint_status;
mod compression;
mod daemon_events;
mod decisions;
mod event;
mod files;
mod filter;
mod fingerprint;
mod forecast;
mod forwards;
mod health;
mod history;
mod index;
mod index_filter;
mod index_row;
mod journal;
mod keys_file;
mod layer;
mod line;
mod live_tokens;
mod metrics;
mod opened;
mod policy_member;
mod position;
mod query;
mod record;
mod recovery;
mod reload;
mod retention;
mod room;
mod search;
mod searched_members;
mod suppressed;
mod sync_gate;
mod syncer;
mod text;
mod trail;
mod tree;
mod unanswered;
mod unreadable;
mod usage;
mod usage_reader;
mod used_record;
mod watched;
mod writer;

use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::agents::AgentSet;
use crate::anomaly::Anomalies;
use crate::clock::Clock;
use crate::config::{AuditSection, AuditSync};
use crate::policy::Policies;
use crate::revocation::Revocations;

pub use activity::{Activity, AgentActivity, AgentCounts, UnknownUnit};
pub use activity_reader::ActivityReader;
pub use agent_usage::{AgentUsage, AudienceUsage, CredentialUsage, MIN_USAGE_PERIOD, RefusedUsage};
pub use checkpoint_status::{CheckpointReport, CheckpointStatus};
pub use event::{Event, Outcome};
pub use filter::{AuditQuery, PageStart};
pub use health::{AuditHealth, WriteError};
pub use journal::Journal;
pub use keys_file::{append_keys, read_keys};
pub use layer::JournalLayer;
pub use metrics::AuditMetrics;
pub use query::{AuditPage, SeqRange, last_seq, read_page, sync_record};
pub use search::{FoundRecords, IndexUse, search_last};
pub use suppressed::Counted;
pub use trail::{IssuedId, Trail, read_refusals, read_trail};
pub use tree::{LogHead, append_checkpoint, append_earlier_checkpoint};
pub use unreadable::{UnreadableLines, line_of};
pub use usage::{UsageReport, usage_lints};
pub use usage_reader::{KnownBound, KnownPeriod, read_usage};

use record::Record;
use suppressed::{CarriedCount, SuppressedCounts};
use watched::Watched;
use writer::{LogWriter, Submitted, WriteMode};

/// A write that takes longer than this fails.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// A decision that is in the audit log. Only [`Audit`] constructs one.
#[derive(Debug)]
pub struct Recorded<T>(T);

impl<T> Recorded<T> {
    /// Returns the decision.
    pub fn get(&self) -> &T {
        &self.0
    }

    /// Consumes the wrapper and returns the decision.
    pub fn into_inner(self) -> T {
        self.0
    }
}

/// The audit log cannot be written, so the request fails. The caller receives the text.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the audit log cannot be written: {0}")]
pub struct AuditUnavailable(pub WriteError);

impl From<WriteError> for AuditUnavailable {
    fn from(error: WriteError) -> AuditUnavailable {
        AuditUnavailable(error)
    }
}

/// Stops the log's threads when the last [`Audit`] is dropped.
struct WriterGuard(Arc<LogWriter>);

impl Drop for WriterGuard {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Handle of the audit log and the journal. Clones share both.
#[derive(Clone)]
pub struct Audit {
    writer: Arc<WriterGuard>,
    write_mode: WriteMode,
    suppressed: Arc<SuppressedCounts>,
    activity: Activity,
    watched: Watched,
    /// Set once, at the start.
    policies: Arc<OnceLock<Policies>>,
    /// The number of the first record of this process.
    first_seq: u64,
    journal: Journal,
    checkpoints: CheckpointStatus,
    clock: Clock,
}

impl Audit {
    /// Opens the log in `dir`, moves what follows its last line to files `N.torn-K`, checks the chain of the
    /// latest lines, records what was found, and starts the log's threads, which remove old files and sync
    /// records as `section` says. Blocking.
    ///
    /// # Errors
    /// The log cannot be read or created, or a thread cannot be started.
    pub fn open(dir: &Path, section: AuditSection, journal: Journal, clock: Clock) -> io::Result<Audit> {
        let (writer, findings) = LogWriter::start(dir, section, clock.clone())?;
        let writer_seq = writer.health().last_seq();
        let audit = Audit {
            writer: Arc::new(WriterGuard(writer)),
            write_mode: WriteMode::Background,
            suppressed: Arc::default(),
            policies: Arc::default(),
            activity: Activity::new(clock.clone()),
            watched: Watched::default(),
            first_seq: writer_seq + 1,
            journal,
            checkpoints: CheckpointStatus::default(),
            clock,
        };
        // The record of skipped numbers is the line after them.
        if let Some(message) = findings.set_aside {
            audit.record_finding(Event::AuditTorn, &message);
        }
        if let Some(message) = findings.gaps {
            audit.record_finding(Event::AuditGap, &message);
        }
        if let Some(message) = findings.restarted {
            audit.record_finding(Event::AuditTreeRestarted, &message);
        }
        Ok(audit)
    }

    /// Says where the policies in force are, for the records of what they do not decide. The first call counts.
    pub fn state_policies(&self, policies: Policies) {
        let _ = self.policies.set(policies);
    }

    /// Returns a handle for worker threads, which write their lines themselves while the disk is fast.
    pub fn with_inline_writes(&self) -> Audit {
        Audit { write_mode: WriteMode::Inline, ..self.clone() }
    }

    /// Refuses a change that could not be recorded, before it has an effect. Nothing is issued while the
    /// audit log cannot be written, or with `[audit] sync = "always"` be synced, so that keys, CAs and baselines do
    /// not change either.
    ///
    /// # Errors
    /// [`AuditUnavailable`] with the reason, while the audit log cannot be written.
    pub fn ensure_writable(&self) -> Result<(), AuditUnavailable> {
        match self.health().write_error() {
            None => Ok(()),
            Some(error) => Err(error.into()),
        }
    }

    /// Returns the state of the log and its disk.
    pub fn health(&self) -> &AuditHealth {
        self.writer.0.health()
    }

    /// The last record and the tree over the records; `None` while a line is being written.
    pub fn head(&self) -> Option<LogHead> {
        self.writer.0.head()
    }

    /// The number of the last record of this process that says that old files were removed; 0 if there is none.
    pub fn last_removal(&self) -> u64 {
        self.writer.0.last_removal()
    }

    /// What is known of the checkpoints.
    pub fn checkpoints(&self) -> &CheckpointStatus {
        &self.checkpoints
    }

    /// How many lines wait to be written.
    pub fn queued_lines(&self) -> usize {
        self.writer.0.queued_lines()
    }

    /// What agents did, by the log.
    pub fn activity(&self) -> &Activity {
        &self.activity
    }

    /// Decisions are passed to these rules from now on.
    pub fn watch(&self, anomalies: Anomalies) {
        self.watched.set(anomalies);
    }

    /// Reads what earlier processes of the daemon recorded in `dir`. Tokens are counted that these revocations do not
    /// revoke.
    pub fn activity_reader(
        &self,
        dir: &Path,
        agents: Arc<AgentSet>,
        revocations: Revocations,
    ) -> ActivityReader {
        let (activity, clock) = (self.activity.clone(), self.clock.clone());
        ActivityReader::new(activity, dir.to_owned(), self.first_seq, agents, revocations, clock)
    }

    /// Syncs all lines to disk. Blocking; called when the daemon stops.
    pub fn sync(&self) {
        self.writer.0.sync();
    }

    /// Returns the journal's handle.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Writes one line, which the kernel has accepted when this returns, or the disk with
    /// `[audit] sync = "always"`, and then sends the journal entry.
    async fn write(&self, record: &Record<'_>) -> Result<(), AuditUnavailable> {
        self.write_line(record, None).await.map(drop)
    }

    /// As [`Audit::write`]. If the line is not written, also later, `carried` is counted again. Returns the line's
    /// number.
    async fn write_line(
        &self,
        record: &Record<'_>,
        carried: Option<CarriedCount>,
    ) -> Result<u64, AuditUnavailable> {
        // A record of what will be refused must not say that it was granted.
        if let Some(fault) = self.health().refusing_fault() {
            return Err(fault.into());
        }
        let mut body = record.to_json_members(&self.clock).map_err(WriteError::from)?;
        if !record.has_policy()
            && let Some(set) = self.policies.get().and_then(|policies| policies.snapshot().id())
        {
            policy_member::append(&mut body, set).map_err(WriteError::from)?;
        }
        let seq = match self.writer.0.submit(body, carried, self.write_mode)? {
            Submitted::Written(seq) => seq,
            Submitted::Queued(pending) => match tokio::time::timeout(WRITE_TIMEOUT, pending).await {
                Ok(Ok(result)) => result?,
                Ok(Err(_)) => return Err(WriteError::WriterExited.into()),
                Err(_) => return Err(WriteError::Timeout.into()),
            },
        };
        self.health().metrics().count_record(record.event());
        if self.writer.0.sync_mode() == AuditSync::Always {
            let synced = tokio::time::timeout(WRITE_TIMEOUT, self.writer.0.wait_synced(seq)).await;
            if let Err(fault) = synced.unwrap_or(Err(WriteError::Timeout)) {
                self.writer.0.note_unanswered(seq);
                return Err(fault.into());
            }
        }
        if let Some(noted) = record.noted() {
            self.activity.note(&noted);
            self.watched.note(&noted);
        }
        self.journal.send(|| record.journal_entry());
        Ok(seq)
    }

    /// Records what was found in the log, before an async runtime exists that could wait for the disk. On a
    /// disk that is full, the line is written before any other.
    fn record_finding(&self, event: Event, message: &str) {
        let record = Record::for_event(event, message, self.clock.now());
        if let Ok(body) = record.to_json_members(&self.clock) {
            self.writer.0.write_first(body);
            self.health().metrics().count_record(event);
        }
        self.journal.send(|| record.journal_entry());
    }
}

#[cfg(test)]
mod tests;
