//! The record: the sixth step of the road.
//!
//! A decision is written to the audit log, whose lines are chained by their digests, and only then becomes a
//! [`Recorded`], from which alone a reply is made. The journal gets an entry as well, through a queue of its own that
//! never holds anybody up and counts what it dropped.

mod chain;
mod event;
mod health;
mod journal;
mod record;
mod relay;
mod tail;
mod writer;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::agents::{Agent, Changes};
use crate::clock::Clock;
use crate::issue::{Introspection, JwtSvid, Nonce, Proof, Token, WitSvid};
use crate::pki::Certificate;
use crate::policy::Refusal;

pub use event::Event;
pub use health::{Health, Problem};
pub use journal::{Journal, Note};
pub use record::Record;
pub use relay::Relay;
pub use tail::{Line, tail};

use writer::{Hand, Writer};

/// A disk that takes longer than this is as good as full.
const PATIENCE: Duration = Duration::from_secs(5);

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
pub struct Unrecorded(pub String);

/// Ends the log's threads with the last way into it.
struct Closing(Arc<Writer>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The way into the record. Cheap to clone.
#[derive(Clone)]
pub struct Audit {
    writer: Arc<Closing>,
    hand: Hand,
    journal: Journal,
    clock: Clock,
}

impl Audit {
    /// Opens the log in `dir` and starts its threads. Blocking; a torn end is set aside and said.
    pub fn open(dir: &Path, journal: Journal, clock: Clock) -> io::Result<Audit> {
        let (writer, recovered) = Writer::start(dir)?;
        let audit = Audit { writer: Arc::new(Closing(writer)), hand: Hand::Thread, journal, clock };
        if let Some(what) = recovered {
            audit.note_event(Event::AuditRecovered, what);
        }
        Ok(audit)
    }

    /// The same for the lanes of the road, which write their own lines while the disk keeps up.
    pub fn for_lanes(&self) -> Audit {
        Audit { hand: Hand::Own, ..self.clone() }
    }

    /// Writes down a minted token.
    pub async fn token(&self, token: Token) -> Result<Recorded<Token>, Unrecorded> {
        self.write(&Record::of_token(&token, self.clock.now())).await?;
        Ok(Recorded(token))
    }

    /// Writes down a certificate that was signed.
    pub async fn certificate(&self, certificate: Certificate) -> Result<Recorded<Certificate>, Unrecorded> {
        self.write(&Record::of_certificate(&certificate, self.clock.now())).await?;
        Ok(Recorded(certificate))
    }

    /// Writes down minted SPIFFE tokens, a line for each.
    pub async fn svids(&self, svids: Vec<JwtSvid>) -> Result<Recorded<Vec<JwtSvid>>, Unrecorded> {
        for svid in &svids {
            let audience = svid.permit().audiences().join(" ");
            self.write(&Record::of_svid(svid, &audience, self.clock.now())).await?;
        }
        Ok(Recorded(svids))
    }

    /// Writes down a minted WIT-SVID.
    pub async fn wit_svid(&self, svid: WitSvid) -> Result<Recorded<WitSvid>, Unrecorded> {
        self.write(&Record::of_wit_svid(&svid, self.clock.now())).await?;
        Ok(Recorded(svid))
    }

    /// Writes down a refusal.
    pub async fn refusal(&self, refusal: Refusal) -> Result<Recorded<Refusal>, Unrecorded> {
        self.write(&Record::of_refusal(&refusal, self.clock.now())).await?;
        Ok(Recorded(refusal))
    }

    /// Lets a refusal leave uncounted lines behind: the next one of its kind that is written names how many.
    pub fn counted(&self, refusal: Refusal) -> Recorded<Refusal> {
        Recorded(refusal)
    }

    /// Writes down who asked about which token, and the answer.
    pub async fn introspection(
        &self,
        asker: &Agent,
        answer: Introspection,
    ) -> Result<Recorded<Introspection>, Unrecorded> {
        self.write(&Record::of_introspection(asker, &answer, self.clock.now())).await?;
        Ok(Recorded(answer))
    }

    /// Writes down who had which nonce attested.
    pub async fn proof(&self, proof: Proof, nonce: &Nonce) -> Result<Recorded<Proof>, Unrecorded> {
        let what = format!("nonce {}", nonce.text());
        self.write(&Record::of_proof(&proof, &what, self.clock.now())).await?;
        Ok(Recorded(proof))
    }

    /// Writes down what a reload of the registry changed.
    pub async fn reload(&self, changes: Changes, by: &str) -> Result<Recorded<Changes>, Unrecorded> {
        let what = format!(
            "{by} reloaded the agents: added [{}], changed [{}], removed [{}]",
            changes.added.join(", "),
            changes.changed.join(", "),
            changes.removed.join(", ")
        );
        self.write(&Record::of_event(Event::AgentsReloaded, &what, self.clock.now())).await?;
        Ok(Recorded(changes))
    }

    /// Writes down something that happened to the daemon.
    pub async fn event(&self, event: Event, what: &str) -> Result<(), Unrecorded> {
        self.write(&Record::of_event(event, what, self.clock.now())).await
    }

    /// Writes down what became of an issuing key.
    pub async fn key(&self, event: Event, kid: &str, what: &str) -> Result<(), Unrecorded> {
        self.write(&Record::of_key(event, kid, what, self.clock.now())).await
    }

    /// Whether the log can be written, and how far it has come.
    pub fn health(&self) -> &Health {
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
    async fn write(&self, record: &Record<'_>) -> Result<(), Unrecorded> {
        let body = record.body().map_err(|e| Unrecorded(e.to_string()))?;
        let written = self.writer.0.submit(body, self.hand).map_err(|e| Unrecorded(e.to_string()))?;
        match tokio::time::timeout(PATIENCE, written).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(problem))) => return Err(Unrecorded(problem.to_string())),
            Ok(Err(_)) => return Err(Unrecorded("its thread has ended".into())),
            Err(_) => return Err(Unrecorded("the disk does not answer".into())),
        }
        self.journal.say(record.note());
        Ok(())
    }

    /// Says something from where nobody can wait for the disk: at the very start.
    fn note_event(&self, event: Event, what: String) {
        let record = Record::of_event(event, &what, self.clock.now());
        if let Ok(body) = record.body() {
            // The queue is empty at this time, and nobody is there to be told.
            let _ = self.writer.0.submit(body, Hand::Thread);
        }
        self.journal.say(record.note());
    }
}
