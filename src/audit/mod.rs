//! The record: the sixth step of the road.
//!
//! A decision is written to the audit log, whose lines are chained by their digests, and only then becomes a
//! [`Recorded`], from which alone a reply is made. The journal gets an entry as well, through a queue of its own that
//! never holds anybody up and counts what it dropped.

mod chain;
mod event;
mod health;
mod journal;
mod layer;
mod record;
mod tail;
mod writer;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::agents::{AgentChanges, AuthenticatedAgent};
use crate::clock::Clock;
use crate::issue::{AccessToken, EvidenceResponse, Introspection, JwtSvid, Nonce, WitSvid};
use crate::pki::IssuedX509Svid;
use crate::policy::Refusal;

pub use event::Event;
pub use health::{AuditHealth, WriteError};
pub use journal::{Journal, JournalEntry};
pub use layer::JournalLayer;
pub use record::Record;
pub use tail::{LogLine, tail};

use writer::{LogWriter, WriteMode};

/// A disk that takes longer than this is as good as full.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// Something that has been written down. Only [`Audit`] makes one.
#[derive(Debug)]
pub struct Recorded<T>(T);

impl<T> Recorded<T> {
    pub fn get(&self) -> &T {
        &self.0
    }

    pub fn into_inner(self) -> T {
        self.0
    }
}

/// The audit log cannot be written, so nothing may leave. The text goes to the caller.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the audit log cannot be written: {0}")]
pub struct AuditUnavailable(pub String);

/// Ends the log's threads with the last way into it.
struct WriterGuard(Arc<LogWriter>);

impl Drop for WriterGuard {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The way into the record. Cheap to clone.
#[derive(Clone)]
pub struct Audit {
    writer: Arc<WriterGuard>,
    write_mode: WriteMode,
    journal: Journal,
    clock: Clock,
}

impl Audit {
    /// Opens the log in `dir` and starts its threads. Blocking; a torn end is set aside and said.
    pub fn open(dir: &Path, journal: Journal, clock: Clock) -> io::Result<Audit> {
        let (writer, recovered) = LogWriter::start(dir)?;
        let audit = Audit {
            writer: Arc::new(WriterGuard(writer)),
            write_mode: WriteMode::Background,
            journal,
            clock,
        };
        if let Some(message) = recovered {
            audit.record_startup_event(Event::AuditRecovered, message);
        }
        Ok(audit)
    }

    /// The same for the lanes of the road, which write their own lines while the disk keeps up.
    pub fn with_inline_writes(&self) -> Audit {
        Audit { write_mode: WriteMode::Inline, ..self.clone() }
    }

    /// Writes down a minted token.
    pub async fn record_token(&self, token: AccessToken) -> Result<Recorded<AccessToken>, AuditUnavailable> {
        self.write(&Record::for_token(&token, self.clock.now())).await?;
        Ok(Recorded(token))
    }

    /// Writes down a certificate that was signed.
    pub async fn record_certificate(
        &self,
        certificate: IssuedX509Svid,
    ) -> Result<Recorded<IssuedX509Svid>, AuditUnavailable> {
        self.write(&Record::for_certificate(&certificate, self.clock.now())).await?;
        Ok(Recorded(certificate))
    }

    /// Writes down minted SPIFFE tokens, a line for each.
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

    /// Writes down a minted WIT-SVID.
    pub async fn record_wit_svid(&self, svid: WitSvid) -> Result<Recorded<WitSvid>, AuditUnavailable> {
        self.write(&Record::for_wit_svid(&svid, self.clock.now())).await?;
        Ok(Recorded(svid))
    }

    /// Writes down a refusal.
    pub async fn record_refusal(&self, refusal: Refusal) -> Result<Recorded<Refusal>, AuditUnavailable> {
        self.write(&Record::for_refusal(&refusal, self.clock.now())).await?;
        Ok(Recorded(refusal))
    }

    /// Lets a refusal leave uncounted lines behind: the next one of its kind that is written names how many.
    pub fn suppressed(&self, refusal: Refusal) -> Recorded<Refusal> {
        Recorded(refusal)
    }

    /// Writes down who asked about which token, and the answer.
    pub async fn record_introspection(
        &self,
        requester: &AuthenticatedAgent,
        introspection: Introspection,
    ) -> Result<Recorded<Introspection>, AuditUnavailable> {
        self.write(&Record::for_introspection(requester, &introspection, self.clock.now())).await?;
        Ok(Recorded(introspection))
    }

    /// Writes down who had which nonce attested.
    pub async fn record_attestation(
        &self,
        attestation: EvidenceResponse,
        nonce: &Nonce,
    ) -> Result<Recorded<EvidenceResponse>, AuditUnavailable> {
        let detail = format!("nonce {}", nonce.to_base64url());
        self.write(&Record::for_attestation(&attestation, &detail, self.clock.now())).await?;
        Ok(Recorded(attestation))
    }

    /// Writes down what a reload of the registry changed.
    pub async fn record_reload(
        &self,
        changes: AgentChanges,
        requested_by: &str,
    ) -> Result<Recorded<AgentChanges>, AuditUnavailable> {
        let detail = format!(
            "{requested_by} reloaded the agents: added [{}], changed [{}], removed [{}]",
            changes.added.join(", "),
            changes.changed.join(", "),
            changes.removed.join(", ")
        );
        self.write(&Record::for_event(Event::AgentsReloaded, &detail, self.clock.now())).await?;
        Ok(Recorded(changes))
    }

    /// Writes down something that happened to the daemon.
    pub async fn record_event(&self, event: Event, detail: &str) -> Result<(), AuditUnavailable> {
        self.write(&Record::for_event(event, detail, self.clock.now())).await
    }

    /// Writes down what became of an issuing key.
    pub async fn record_key_event(
        &self,
        event: Event,
        kid: &str,
        detail: &str,
    ) -> Result<(), AuditUnavailable> {
        self.write(&Record::for_key_event(event, kid, detail, self.clock.now())).await
    }

    /// Whether the log can be written, and how far it has come.
    pub fn health(&self) -> &AuditHealth {
        self.writer.0.health()
    }

    /// Puts on the disk what was written. Blocking; for the end of the daemon.
    pub fn sync(&self) {
        self.writer.0.sync();
    }

    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// One line of the log, on its way to the disk when this returns; then the journal.
    async fn write(&self, record: &Record<'_>) -> Result<(), AuditUnavailable> {
        let body = record.to_json_members().map_err(|e| AuditUnavailable(e.to_string()))?;
        let completion =
            self.writer.0.submit(body, self.write_mode).map_err(|e| AuditUnavailable(e.to_string()))?;
        match tokio::time::timeout(WRITE_TIMEOUT, completion).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => return Err(AuditUnavailable(error.to_string())),
            Ok(Err(_)) => return Err(AuditUnavailable("its thread has ended".into())),
            Err(_) => return Err(AuditUnavailable("the disk does not answer".into())),
        }
        self.journal.send(record.journal_entry());
        Ok(())
    }

    /// Says something from where nobody can wait for the disk: at the very start.
    fn record_startup_event(&self, event: Event, detail: String) {
        let record = Record::for_event(event, &detail, self.clock.now());
        if let Ok(body) = record.to_json_members() {
            // The queue is empty at this time, and nobody is there to be told.
            let _ = self.writer.0.submit(body, WriteMode::Background);
        }
        self.journal.send(record.journal_entry());
    }
}
