//! The journal: what the daemon says to people.
//!
//! One thread owns the way to journald (or to standard error, where there is none). Everything reaches it through a
//! bounded queue that nobody waits for: while journald stalls, entries are dropped and counted, and the count is the
//! first thing said when it listens again.

use std::borrow::Cow;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use tracing::level_filters::LevelFilter;
use tracing::{Dispatch, Level};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;

use super::Event;
use crate::clock::Clock;
use crate::config::LogTarget;

const QUEUE: usize = 4096;
/// Entries are gathered for this long before they are said, so that a busy road wakes this thread a hundred times a
/// second and not at each decision.
const GATHER: Duration = Duration::from_millis(10);
/// Entries said in one go. More at once than journald's queue holds (512 where systemd has set it) would have this
/// thread and journald wake each other for every single one.
const GO: usize = 256;
const SOCKET: &str = "/run/systemd/journal/socket";
const IDENTIFIER: &str = "hostbadged";

/// One entry, with the fields of the contract.
#[derive(Debug)]
pub struct Note {
    pub level: Level,
    pub event: Option<Event>,
    pub message: String,
    pub agent: Option<Box<str>>,
    pub audience: Option<Box<str>>,
    pub jti: Option<Box<str>>,
    pub reason: Option<&'static str>,
    pub pid: Option<i32>,
    pub uid: Option<u32>,
    pub unit: Option<String>,
}

impl Note {
    /// An entry that is not about a caller.
    pub fn plain(level: Level, event: Option<Event>, message: String) -> Box<Note> {
        Box::new(Note {
            level,
            event,
            message,
            agent: None,
            audience: None,
            jti: None,
            reason: None,
            pid: None,
            uid: None,
            unit: None,
        })
    }
}

/// The way to the journal's thread. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Journal {
    queue: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
    to: &'static str,
}

#[derive(Debug)]
enum Message {
    Note(Box<Note>),
    /// Answered when everything before it has been said.
    Flush(SyncSender<()>),
}

impl Journal {
    /// Starts the thread. `Auto` takes journald where its socket is.
    pub fn start(target: LogTarget, clock: Clock) -> io::Result<Journal> {
        let journald = match target {
            LogTarget::Stderr => None,
            LogTarget::Auto if !Path::new(SOCKET).exists() => None,
            LogTarget::Auto => tracing_journald::layer().ok(),
            LogTarget::Journal => Some(tracing_journald::layer()?),
        };
        let to = if journald.is_some() { "journald" } else { "standard error" };
        let dropped = Arc::new(AtomicU64::new(0));
        let (queue, receiver) = sync_channel(QUEUE);
        let lost = dropped.clone();
        std::thread::Builder::new().name("journal".into()).stack_size(256 * 1024).spawn(move || {
            match journald {
                Some(layer) => {
                    // No prefix: the fields below carry the contract's names.
                    let layer = layer
                        .with_field_prefix(None)
                        .with_syslog_identifier(IDENTIFIER.into())
                        .with_priority_mappings(priorities());
                    // Without the filter, other crates would ask at each of their own call sites, wherever they run.
                    let ours = Targets::new().with_target(env!("CARGO_CRATE_NAME"), LevelFilter::DEBUG);
                    let dispatch = Dispatch::new(tracing_subscriber::registry().with(ours).with(layer));
                    tracing::dispatcher::with_default(&dispatch, || say_all(&receiver, &lost, &to_journald));
                }
                None => say_all(&receiver, &lost, &|note| to_stderr(note, &clock)),
            }
        })?;
        Ok(Journal { queue, dropped, to })
    }

    /// Says something, or counts it as dropped. Never waits.
    pub fn say(&self, note: Box<Note>) {
        if self.queue.try_send(Message::Note(note)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many entries were dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// `journald` or `standard error`.
    pub fn to(&self) -> &'static str {
        self.to
    }

    /// Waits until everything said so far is out, at most `patience`. For the end of the daemon only.
    pub fn flush(&self, patience: Duration) {
        let (sender, said) = sync_channel(1);
        match self.queue.try_send(Message::Flush(sender)) {
            Ok(()) => drop(said.recv_timeout(patience)),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }
}

fn say_all(queue: &Receiver<Message>, dropped: &AtomicU64, say: &dyn Fn(&Note)) {
    let mut told = 0;
    while let Ok(first) = queue.recv() {
        std::thread::park_timeout(GATHER);
        for message in std::iter::once(first).chain(queue.try_iter().take(GO)) {
            match message {
                Message::Note(note) => say(&note),
                Message::Flush(done) => drop(done.try_send(())),
            }
        }
        let lost = dropped.load(Ordering::Relaxed);
        if lost > told {
            let what = format!("{} entries were dropped while the journal did not listen", lost - told);
            say(&Note::plain(Level::WARN, Some(Event::JournalDropped), what));
            told = lost;
        }
    }
}

/// As syslog(3) names them: what is as it should be is informational.
fn priorities() -> PriorityMappings {
    PriorityMappings { info: Priority::Informational, ..PriorityMappings::new() }
}

fn to_stderr(note: &Note, clock: &Clock) {
    // Whoever closed standard error does not want to be told.
    let _ = writeln!(io::stderr(), "{} {:<5} {}", clock.now(), note.level, one_line(&note.message));
}

/// What callers wrote or named must not look like other lines, nor speak to a terminal.
fn one_line(text: &str) -> Cow<'_, str> {
    match text.contains(char::is_control) {
        false => Cow::Borrowed(text),
        true => Cow::Owned(text.escape_debug().to_string()),
    }
}

fn to_journald(note: &Note) {
    // A level is part of the call site, so there is one for each.
    macro_rules! say {
        ($level:expr) => {
            tracing::event!(
                $level,
                MESSAGE_ID = note.event.map(Event::message_id),
                HOSTBADGE_EVENT = note.event.map(Event::name),
                HOSTBADGE_AGENT = note.agent.as_deref(),
                HOSTBADGE_AUDIENCE = note.audience.as_deref(),
                HOSTBADGE_JTI = note.jti.as_deref(),
                HOSTBADGE_REASON = note.reason,
                HOSTBADGE_PEER_PID = note.pid,
                HOSTBADGE_PEER_UID = note.uid,
                HOSTBADGE_PEER_UNIT = note.unit.as_deref(),
                "{}",
                one_line(&note.message)
            )
        };
    }
    match note.level {
        Level::ERROR => say!(Level::ERROR),
        Level::WARN => say!(Level::WARN),
        Level::INFO => say!(Level::INFO),
        _ => say!(Level::DEBUG),
    }
}
