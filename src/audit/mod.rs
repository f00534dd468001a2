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
mod checkpoint_status;
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
mod layer;
mod line;
mod live_tokens;
mod metrics;
mod policy_member;
mod position;
mod query;
mod record;
mod recovery;
mod reload;
mod retention;
mod search;
mod searched_members;
mod suppressed;
mod sync_gate;
mod syncer;
mod text;
mod trail;
mod tree;
mod usage;
mod used_record;
mod watched;
mod writer;

use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::agents::{AgentChanges, AgentEntry, AgentSet, AuthenticatedAgent};
use crate::anomaly::{Alert, Anomalies};
use crate::clock::Clock;
use crate::config::{AuditSection, AuditSync};
use crate::credentials::ReleasedCredential;
use crate::issue::{AccessToken, EvidenceResponse, Introspection, JwtSvid, Nonce, WitSvid};
use crate::pki::IssuedX509Svid;
use crate::policy::{Policies, Refusal};
use crate::revocation::Revocations;

pub use activity::{Activity, AgentActivity, AgentCounts, UnknownUnit};
pub use activity_reader::ActivityReader;
pub use agent_usage::{
    AgentUsage, AudienceUsage, CredentialUsage, KnownPeriod, MIN_USAGE_PERIOD, read_usage,
};
pub use checkpoint_status::{CheckpointReport, CheckpointStatus};
pub use event::{Event, Outcome};
pub use filter::{AuditQuery, PageStart};
pub use health::{AuditHealth, WriteError};
pub use journal::Journal;
pub use layer::JournalLayer;
pub use metrics::AuditMetrics;
pub use query::{AuditPage, SeqRange, read_page};
pub use search::{FoundRecords, IndexUse, search_last};
pub use suppressed::Counted;
pub use trail::{IssuedId, Trail, read_refusals, read_trail};
pub use tree::{LogHead, append_checkpoint, append_earlier_checkpoint, append_keys};
pub use usage::{UsageReport, usage_lints};

use record::Record;
use suppressed::{CarriedCount, SuppressedCounts};
use watched::Watched;
use writer::{LogWriter, WriteMode};

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

    /// Records an access token.
    pub async fn record_token(&self, token: AccessToken) -> Result<Recorded<AccessToken>, AuditUnavailable> {
        self.write(&Record::for_token(&token, self.clock.now())).await?;
        Ok(Recorded(token))
    }

    /// Records an X509-SVID.
    pub async fn record_certificate(
        &self,
        certificate: IssuedX509Svid,
    ) -> Result<Recorded<IssuedX509Svid>, AuditUnavailable> {
        self.write(&Record::for_certificate(&certificate, self.clock.now())).await?;
        Ok(Recorded(certificate))
    }

    /// Records the release of a credential.
    pub async fn record_credential(
        &self,
        released: ReleasedCredential,
    ) -> Result<Recorded<ReleasedCredential>, AuditUnavailable> {
        self.write(&Record::for_credential(&released, self.clock.now())).await?;
        Ok(Recorded(released))
    }

    /// Records JWT-SVIDs, with one line each.
    pub async fn record_jwt_svids(
        &self,
        svids: Vec<JwtSvid>,
    ) -> Result<Recorded<Vec<JwtSvid>>, AuditUnavailable> {
        for svid in &svids {
            let audience = svid.permit().audiences().join(" ");
            self.write(&Record::for_jwt_svid(svid, &audience, self.clock.now())).await?;
        }
        Ok(Recorded(svids))
    }

    /// Records a WIT-SVID.
    pub async fn record_wit_svid(&self, svid: WitSvid) -> Result<Recorded<WitSvid>, AuditUnavailable> {
        self.write(&Record::for_wit_svid(&svid, self.clock.now())).await?;
        Ok(Recorded(svid))
    }

    /// Records a refusal, with the number of this caller's refusals that have no record. `entry` is its agent as it is
    /// registered.
    pub async fn record_refusal(
        &self,
        mut refusal: Refusal,
        entry: Option<&AgentEntry>,
    ) -> Result<Recorded<Refusal>, AuditUnavailable> {
        let carried = self.suppressed.take_into(&mut refusal);
        self.write_line(&Record::for_refusal(&refusal, entry, self.clock.now()), Some(carried)).await?;
        Ok(Recorded(refusal))
    }

    /// Counts a refusal, and those in its `suppressed`, in the next record of a refusal of the same caller.
    pub fn count_refusal(&self, refusal: Refusal) -> Counted<Refusal> {
        self.suppressed.add(&refusal, refusal.suppressed.saturating_add(1));
        self.activity.note_counted(&refusal);
        Counted::new(refusal)
    }

    /// As [`Audit::count_refusal`], for a refusal that the rate limiter has counted already: it is in the
    /// [`unlogged`](crate::policy::RateLimited::unlogged) of a later one.
    pub fn pass_counted_refusal(&self, refusal: Refusal) -> Counted<Refusal> {
        self.suppressed.add(&refusal, refusal.suppressed);
        Counted::new(refusal)
    }

    /// Records an introspection: the agent that requested it and the answer.
    pub async fn record_introspection(
        &self,
        requester: &AuthenticatedAgent,
        introspection: Introspection,
    ) -> Result<Recorded<Introspection>, AuditUnavailable> {
        self.write(&Record::for_introspection(requester, &introspection, self.clock.now())).await?;
        self.watched.note_introspection(&introspection);
        Ok(Recorded(introspection))
    }

    /// Records that an agent revoked a token, or tried to.
    pub async fn record_token_revocation(
        &self,
        requester: &AuthenticatedAgent,
        jti: Option<&str>,
        detail: &str,
    ) -> Result<Recorded<()>, AuditUnavailable> {
        self.write(&Record::for_token_revocation(requester, jti, detail, self.clock.now())).await?;
        Ok(Recorded(()))
    }

    /// Records that an agent used a nonce up; `reason` says why it is not valid, if it is not.
    pub async fn record_used_nonce(
        &self,
        requester: &AuthenticatedAgent,
        reason: Option<&str>,
    ) -> Result<Recorded<bool>, AuditUnavailable> {
        self.write(&Record::for_used_nonce(requester, reason, self.clock.now())).await?;
        Ok(Recorded(reason.is_none()))
    }

    /// Records that evidence was issued to an agent, with the nonce.
    pub async fn record_attestation(
        &self,
        attestation: EvidenceResponse,
        nonce: &Nonce,
    ) -> Result<Recorded<EvidenceResponse>, AuditUnavailable> {
        let detail = format!("nonce {}", nonce.to_base64url());
        self.write(&Record::for_attestation(&attestation, &detail, self.clock.now())).await?;
        Ok(Recorded(attestation))
    }

    /// Records the changes of a reload of the agents, of many agents the first names and their number.
    /// `requested_by` describes the administrator or signal.
    pub async fn record_reload(
        &self,
        changes: AgentChanges,
        requested_by: &str,
    ) -> Result<Recorded<AgentChanges>, AuditUnavailable> {
        let detail = reload::detail(&changes, requested_by);
        self.write(&Record::for_event(Event::AgentsReloaded, &detail, self.clock.now())).await?;
        Ok(Recorded(changes))
    }

    /// Refuses a change that could not be recorded, before it has an effect. Nothing is issued while the
    /// audit log cannot be written, so that keys, CAs and baselines do not change either.
    ///
    /// # Errors
    /// [`AuditUnavailable`] with the reason, while the audit log cannot be written.
    pub fn ensure_writable(&self) -> Result<(), AuditUnavailable> {
        match self.health().write_error() {
            None => Ok(()),
            Some(error) => Err(error.into()),
        }
    }

    /// Records an event of the daemon.
    pub async fn record_event(&self, event: Event, detail: &str) -> Result<(), AuditUnavailable> {
        self.write(&Record::for_event(event, detail, self.clock.now())).await
    }

    /// Records an event of the daemon that concerns one tenant; `None` where it concerns none.
    pub async fn record_tenant_event(
        &self,
        event: Event,
        tenant: Option<&str>,
        detail: &str,
    ) -> Result<(), AuditUnavailable> {
        self.write(&Record::for_tenant_event(event, tenant, detail, self.clock.now())).await
    }

    /// Records an event of the daemon that concerns one token.
    pub async fn record_token_event(
        &self,
        event: Event,
        jti: &str,
        detail: &str,
    ) -> Result<(), AuditUnavailable> {
        self.write(&Record::for_token_event(event, jti, detail, self.clock.now())).await
    }

    /// Records what a rule found about an agent, or what follows from it.
    pub async fn record_alert(
        &self,
        event: Event,
        alert: &Alert,
        detail: &str,
    ) -> Result<(), AuditUnavailable> {
        self.write(&Record::for_alert(event, alert, detail, self.clock.now())).await
    }

    /// Records an event of the daemon that concerns one agent.
    pub async fn record_agent_event(
        &self,
        event: Event,
        agent: &str,
        tenant: Option<&str>,
        detail: &str,
    ) -> Result<(), AuditUnavailable> {
        self.write(&Record::for_agent_event(event, agent, tenant, detail, self.clock.now())).await
    }

    /// Records a step in the life of an issuing key, of a tenant or of none.
    pub async fn record_key_event(
        &self,
        event: Event,
        kid: &str,
        tenant: Option<&str>,
        detail: &str,
    ) -> Result<(), AuditUnavailable> {
        self.write(&Record::for_key_event(event, kid, tenant, detail, self.clock.now())).await
    }

    /// Returns the state of the log and its disk.
    pub fn health(&self) -> &AuditHealth {
        self.writer.0.health()
    }

    /// The last record and the tree over the records; `None` while a line is being written.
    pub fn head(&self) -> Option<LogHead> {
        self.writer.0.head()
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
        self.write_line(record, None).await
    }

    /// As [`Audit::write`]. If the line is not written, also later, `carried` is counted again.
    async fn write_line(
        &self,
        record: &Record<'_>,
        carried: Option<CarriedCount>,
    ) -> Result<(), AuditUnavailable> {
        let mut body = record.to_json_members(&self.clock).map_err(WriteError::from)?;
        if !record.has_policy()
            && let Some(set) = self.policies.get().and_then(|policies| policies.snapshot().id())
        {
            policy_member::append(&mut body, set).map_err(WriteError::from)?;
        }
        if let Some(pending) = self.writer.0.submit(body, carried, self.write_mode)? {
            match tokio::time::timeout(WRITE_TIMEOUT, pending).await {
                Ok(Ok(result)) => result?,
                Ok(Err(_)) => return Err(WriteError::WriterExited.into()),
                Err(_) => return Err(WriteError::Timeout.into()),
            }
        }
        self.health().metrics().count_record(record.event());
        if self.writer.0.sync_mode() == AuditSync::Always {
            match tokio::time::timeout(WRITE_TIMEOUT, self.writer.0.wait_synced()).await {
                Ok(result) => result?,
                Err(_) => return Err(WriteError::Timeout.into()),
            }
        }
        if let Some(noted) = record.noted() {
            self.activity.note(&noted);
            self.watched.note(&noted);
        }
        self.journal.send(|| record.journal_entry());
        Ok(())
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
mod tests {
    use std::fs::File;

    use super::*;
    use crate::agents::AgentName;
    use crate::config::LogTarget;
    use crate::policy::ErrorCode;

    fn refusal() -> Refusal {
        let refusal = Refusal::new(ErrorCode::SlowDown, "too many requests");
        refusal.with_agent(&AgentName::parse("a").unwrap())
    }

    #[tokio::test]
    async fn refusals_that_were_not_recorded_are_counted_in_the_next_record() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::start(LogTarget::Stderr, Clock::System).unwrap();
        let audit = Audit::open(dir.path(), AuditSection::default(), journal, Clock::System).unwrap();
        let full_disk = Arc::new(File::options().append(true).open("/dev/full").unwrap());
        let working_file = audit.writer.0.replace_file(full_disk);
        let mut dropped = refusal();
        dropped.suppressed = 5;
        assert!(audit.record_refusal(dropped, None).await.is_err());
        assert!(audit.record_refusal(refusal(), None).await.is_err());
        assert_eq!(audit.count_refusal(refusal()).get().code, ErrorCode::SlowDown);
        audit.pass_counted_refusal(Refusal { suppressed: 3, ..refusal() });
        audit.writer.0.replace_file(working_file);

        assert_eq!(audit.record_refusal(refusal(), None).await.unwrap().get().suppressed, 5 + 1 + 1 + 1 + 3);
        assert_eq!(audit.record_refusal(refusal(), None).await.unwrap().get().suppressed, 0);
        let suppressed: Vec<serde_json::Value> = read_page(dir.path(), &AuditQuery::default(), 10)
            .unwrap()
            .records
            .iter()
            .map(|line| serde_json::from_str::<serde_json::Value>(line.get()).unwrap()["suppressed"].take())
            .collect();
        assert_eq!(suppressed, [serde_json::json!(11), serde_json::Value::Null]);
    }
}
