//! The record: the sixth step of the road.
//!
//! A decision is written to the audit log, whose lines are chained by their digests, and only then becomes a
//! [`Recorded`], from which alone a reply is made. The journal gets an entry as well, through a queue of its own that
//! never holds anybody up and counts what it dropped.

mod chain;
mod event;
mod journal;
mod record;
mod relay;
mod tail;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::agents::{Agent, Changes};
use crate::clock::Clock;
use crate::issue::{Introspection, Token};
use crate::policy::Refusal;

pub use chain::{Health, Problem};
pub use event::Event;
pub use journal::{Journal, Note};
pub use record::Record;
pub use relay::Relay;
pub use tail::{Line, tail};

use chain::Job;

/// How many decisions may wait to be written; one more is refused.
const QUEUE: usize = 1024;
/// A disk that takes longer than this is as good as full.
const PATIENCE: Duration = Duration::from_secs(5);

/// Something that has been written down. Only [`Audit`] makes one.
#[derive(Debug)]
pub struct Recorded<T>(T);

impl<T> Recorded<T> {
    pub fn get(&self) -> &T {
        &self.0
    }
}

/// The audit log cannot be written, so nothing may leave. The text goes to the caller.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the audit log cannot be written: {0}")]
pub struct Unrecorded(pub String);

/// The way into the record. Cheap to clone.
#[derive(Clone)]
pub struct Audit {
    queue: SyncSender<Job>,
    health: Arc<Health>,
    journal: Journal,
    clock: Clock,
}

impl Audit {
    /// Opens the log in `dir` and starts its thread. Blocking; a torn end is set aside and said.
    pub fn open(dir: &Path, journal: Journal, clock: Clock) -> io::Result<Audit> {
        let (queue, health, recovered) = chain::start(dir, QUEUE)?;
        let audit = Audit { queue, health, journal, clock };
        if let Some(what) = recovered {
            audit.note_event(Event::AuditRecovered, what);
        }
        Ok(audit)
    }

    /// Writes down a minted token.
    pub async fn token(&self, token: Token) -> Result<Recorded<Token>, Unrecorded> {
        self.write(&Record::of_token(&token, self.clock.now())).await?;
        Ok(Recorded(token))
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

    /// Whether the log can be written, and how far it has come.
    pub fn health(&self) -> &Health {
        &self.health
    }

    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// One line of the log, on its way to the disk when this returns; then the journal.
    async fn write(&self, record: &Record<'_>) -> Result<(), Unrecorded> {
        let body = record.body().map_err(|e| Unrecorded(e.to_string()))?;
        let (done, written) = oneshot::channel();
        match self.queue.try_send(Job { body, done: Some(done) }) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                return Err(Unrecorded("too many decisions wait for the disk".into()));
            }
            Err(TrySendError::Disconnected(_)) => return Err(Unrecorded("its thread has ended".into())),
        }
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
            // The queue is empty at this time.
            let _ = self.queue.try_send(Job { body, done: None });
        }
        self.journal.say(record.note());
    }
}
