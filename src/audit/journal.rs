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

const QUEUE_CAPACITY: usize = 4096;
/// Entries are gathered for this long before they are said, so that a busy road wakes this thread a hundred times a
/// second and not at each decision.
const COALESCE_DELAY: Duration = Duration::from_millis(10);
/// Entries said in one go. More at once than journald's queue holds (512 where systemd has set it) would have this
/// thread and journald wake each other for every single one.
const MAX_BATCH: usize = 256;
const JOURNALD_SOCKET: &str = "/run/systemd/journal/socket";
const SYSLOG_IDENTIFIER: &str = "hostbadged";

/// One entry, with the fields of the contract.
#[derive(Debug)]
pub struct JournalEntry {
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

impl JournalEntry {
    /// An entry that is not about a caller.
    pub fn new(level: Level, event: Option<Event>, message: String) -> Box<JournalEntry> {
        Box::new(JournalEntry {
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
    queue: SyncSender<JournalCommand>,
    dropped: Arc<AtomicU64>,
    sink_name: &'static str,
}

#[derive(Debug)]
enum JournalCommand {
    Entry(Box<JournalEntry>),
    /// Answered when everything before it has been said.
    Flush(SyncSender<()>),
}

impl Journal {
    /// Starts the thread. `Auto` takes journald where its socket is.
    pub fn start(target: LogTarget, clock: Clock) -> io::Result<Journal> {
        let journald = match target {
            LogTarget::Stderr => None,
            LogTarget::Auto if !Path::new(JOURNALD_SOCKET).exists() => None,
            LogTarget::Auto => tracing_journald::layer().ok(),
            LogTarget::Journal => Some(tracing_journald::layer()?),
        };
        let sink_name = if journald.is_some() { "journald" } else { "standard error" };
        let dropped = Arc::new(AtomicU64::new(0));
        let (queue, receiver) = sync_channel(QUEUE_CAPACITY);
        let thread_dropped = dropped.clone();
        std::thread::Builder::new().name("journal".into()).stack_size(256 * 1024).spawn(move || {
            match journald {
                Some(layer) => {
                    // No prefix: the fields below carry the contract's names.
                    let layer = layer
                        .with_field_prefix(None)
                        .with_syslog_identifier(SYSLOG_IDENTIFIER.into())
                        .with_priority_mappings(priority_mappings());
                    // Without the filter, other crates would ask at each of their own call sites, wherever they run.
                    let own_crate = Targets::new().with_target(env!("CARGO_CRATE_NAME"), LevelFilter::DEBUG);
                    let dispatch = Dispatch::new(tracing_subscriber::registry().with(own_crate).with(layer));
                    tracing::dispatcher::with_default(&dispatch, || {
                        run(&receiver, &thread_dropped, &write_to_journald)
                    });
                }
                None => run(&receiver, &thread_dropped, &|entry| write_to_stderr(entry, &clock)),
            }
        })?;
        Ok(Journal { queue, dropped, sink_name })
    }

    /// Says something, or counts it as dropped. Never waits.
    pub fn send(&self, entry: Box<JournalEntry>) {
        if self.queue.try_send(JournalCommand::Entry(entry)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many entries were dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// `journald` or `standard error`.
    pub fn sink_name(&self) -> &'static str {
        self.sink_name
    }

    /// Waits until everything said so far is out, at most `patience`. For the end of the daemon only.
    pub fn flush(&self, timeout: Duration) {
        let (sender, flushed) = sync_channel(1);
        match self.queue.try_send(JournalCommand::Flush(sender)) {
            Ok(()) => drop(flushed.recv_timeout(timeout)),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }
}

fn run(queue: &Receiver<JournalCommand>, dropped: &AtomicU64, write: &dyn Fn(&JournalEntry)) {
    let mut reported = 0;
    while let Ok(first) = queue.recv() {
        std::thread::park_timeout(COALESCE_DELAY);
        for command in std::iter::once(first).chain(queue.try_iter().take(MAX_BATCH)) {
            match command {
                JournalCommand::Entry(entry) => write(&entry),
                JournalCommand::Flush(done) => drop(done.try_send(())),
            }
        }
        let total = dropped.load(Ordering::Relaxed);
        if total > reported {
            let message =
                format!("{} entries were dropped while the journal did not listen", total - reported);
            write(&JournalEntry::new(Level::WARN, Some(Event::JournalDropped), message));
            reported = total;
        }
    }
}

/// As syslog(3) names them: what is as it should be is informational.
fn priority_mappings() -> PriorityMappings {
    PriorityMappings { info: Priority::Informational, ..PriorityMappings::new() }
}

fn write_to_stderr(entry: &JournalEntry, clock: &Clock) {
    // Whoever closed standard error does not want to be told.
    let _ =
        writeln!(io::stderr(), "{} {:<5} {}", clock.now(), entry.level, escape_control_chars(&entry.message));
}

/// What callers wrote or named must not look like other lines, nor speak to a terminal.
fn escape_control_chars(text: &str) -> Cow<'_, str> {
    match text.contains(char::is_control) {
        false => Cow::Borrowed(text),
        true => Cow::Owned(text.escape_debug().to_string()),
    }
}

fn write_to_journald(entry: &JournalEntry) {
    // A level is part of the call site, so there is one for each.
    macro_rules! emit {
        ($level:expr) => {
            tracing::event!(
                $level,
                MESSAGE_ID = entry.event.map(Event::message_id),
                HOSTBADGE_EVENT = entry.event.map(Event::name),
                HOSTBADGE_AGENT = entry.agent.as_deref(),
                HOSTBADGE_AUDIENCE = entry.audience.as_deref(),
                HOSTBADGE_JTI = entry.jti.as_deref(),
                HOSTBADGE_REASON = entry.reason,
                HOSTBADGE_PEER_PID = entry.pid,
                HOSTBADGE_PEER_UID = entry.uid,
                HOSTBADGE_PEER_UNIT = entry.unit.as_deref(),
                "{}",
                escape_control_chars(&entry.message)
            )
        };
    }
    match entry.level {
        Level::ERROR => emit!(Level::ERROR),
        Level::WARN => emit!(Level::WARN),
        Level::INFO => emit!(Level::INFO),
        _ => emit!(Level::DEBUG),
    }
}
