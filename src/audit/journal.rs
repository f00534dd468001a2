//! Log entries for administrators: journald, or standard error if journald is not available.
//!
//! One thread writes them from a bounded queue, and senders never wait. While journald does not read, entries
//! are dropped before they are made, and counted; the count is logged when journald reads again.

use std::borrow::Cow;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use tracing::level_filters::LevelFilter;
use tracing::{Dispatch, Level};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;

use crate::clock::Clock;
use crate::config::{LogTarget, escape_unprintable};
use crate::correlation::Correlation;
use crate::critical::spawn_critical;

use super::event::Event;
use super::text::cut_owned;

/// Entries in the queue; further ones are dropped.
const QUEUE_CAPACITY: usize = 4096;
/// Entries are collected for this long before they are written, so that a busy daemon wakes this thread at
/// most a hundred times a second and not for each decision.
const COALESCE_DELAY: Duration = Duration::from_millis(10);
/// Entries written without a pause. More than the queue of journald's socket holds (512 as systemd configures
/// it) would make this thread and journald wake each other for each entry.
const MAX_BATCH: usize = 256;
/// Longer messages are cut, in bytes of JSON.
const MAX_MESSAGE: usize = 8 * 1024;
const JOURNALD_SOCKET: &str = "/run/systemd/journal/socket";
const SYSLOG_IDENTIFIER: &str = "hostbadged";

/// One log entry. The fields become journal fields `HOSTBADGE_*`, see `hostbadged(8)`.
#[derive(Debug)]
pub(super) struct JournalEntry {
    /// Severity.
    pub(super) level: Level,
    /// Kind of event; it determines `MESSAGE_ID`.
    pub(super) event: Option<Event>,
    /// Text for administrators. Control characters are escaped when it is written.
    pub(super) message: String,
    /// Name of the agent.
    pub(super) agent: Option<Box<str>>,
    /// Requested audience.
    pub(super) audience: Option<Box<str>>,
    /// Token ID (RFC 7519 section 4.1.7).
    pub(super) jti: Option<Box<str>>,
    /// Error code of a refusal.
    pub(super) reason: Option<&'static str>,
    /// Process ID of the caller.
    pub(super) pid: Option<i32>,
    /// User ID of the caller.
    pub(super) uid: Option<u32>,
    /// systemd unit of the caller.
    pub(super) unit: Option<String>,
    /// Of the request, as in the audit log.
    pub(super) correlation: Option<Correlation>,
}

impl JournalEntry {
    /// Creates an entry without fields of a caller. A longer message than 8 KiB is cut.
    pub(super) fn new(level: Level, event: Option<Event>, message: String) -> Box<JournalEntry> {
        Box::new(JournalEntry {
            level,
            event,
            message: cut_owned(message, MAX_MESSAGE),
            agent: None,
            audience: None,
            jti: None,
            reason: None,
            pid: None,
            uid: None,
            unit: None,
            correlation: None,
        })
    }
}

/// Handle of the journal's thread. Clones share the queue.
#[derive(Clone, Debug)]
pub struct Journal {
    queue: SyncSender<JournalCommand>,
    counts: Arc<Counts>,
    sink_name: &'static str,
}

#[derive(Debug, Default)]
struct Counts {
    /// Entries in the queue.
    queued: AtomicUsize,
    /// Entries dropped since the start.
    dropped: AtomicU64,
}

#[derive(Debug)]
enum JournalCommand {
    Entry(Box<JournalEntry>),
    /// Answered when all earlier entries have been written.
    Flush(SyncSender<()>),
}

impl Journal {
    /// Starts the thread. [`LogTarget::Auto`] uses journald if its socket exists.
    ///
    /// # Errors
    /// The thread cannot be started, or journald is requested and not available.
    pub fn start(target: LogTarget, clock: Clock) -> io::Result<Journal> {
        let journald = match target {
            LogTarget::Stderr => None,
            LogTarget::Auto if !Path::new(JOURNALD_SOCKET).exists() => None,
            LogTarget::Auto => tracing_journald::layer().ok(),
            LogTarget::Journal => Some(tracing_journald::layer()?),
        };
        let sink_name = if journald.is_some() { "journald" } else { "standard error" };
        let counts: Arc<Counts> = Arc::default();
        let (queue, receiver) = sync_channel(QUEUE_CAPACITY);
        let thread_counts = counts.clone();
        let builder = std::thread::Builder::new().stack_size(256 * 1024);
        spawn_critical(builder, "journal", move || {
            match journald {
                Some(layer) => {
                    // The fields already have their journal names, so they need no prefix.
                    let layer = layer
                        .with_field_prefix(None)
                        .with_syslog_identifier(SYSLOG_IDENTIFIER.into())
                        .with_priority_mappings(priority_mappings());
                    // Without the filter, call sites of all other crates in all threads would query this
                    // subscriber.
                    let own_crate = Targets::new().with_target(env!("CARGO_CRATE_NAME"), LevelFilter::DEBUG);
                    let dispatch = Dispatch::new(tracing_subscriber::registry().with(own_crate).with(layer));
                    tracing::dispatcher::with_default(&dispatch, || {
                        run(&receiver, &thread_counts, &write_to_journald)
                    });
                }
                None => run(&receiver, &thread_counts, &|entry| write_to_stderr(entry, &clock)),
            }
        })?;
        Ok(Journal { queue, counts, sink_name })
    }

    /// Queues an entry, or counts it as dropped if the queue is full; it is not even made then. Never waits.
    pub(super) fn send(&self, entry: impl FnOnce() -> Box<JournalEntry>) {
        let Counts { queued, dropped } = &*self.counts;
        if queued.fetch_add(1, Ordering::Relaxed) < QUEUE_CAPACITY
            && self.queue.try_send(JournalCommand::Entry(entry())).is_ok()
        {
            return;
        }
        queued.fetch_sub(1, Ordering::Relaxed);
        dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of entries dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.counts.dropped.load(Ordering::Relaxed)
    }

    /// Returns the name of the destination: `journald` or `standard error`.
    pub fn sink_name(&self) -> &'static str {
        self.sink_name
    }

    /// Waits until all queued entries are written, at most for `timeout`. Blocking; called when the daemon
    /// stops.
    pub fn flush(&self, timeout: Duration) {
        let (sender, flushed) = sync_channel(1);
        match self.queue.try_send(JournalCommand::Flush(sender)) {
            Ok(()) => drop(flushed.recv_timeout(timeout)),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }
}

fn run(queue: &Receiver<JournalCommand>, counts: &Counts, write: &dyn Fn(&JournalEntry)) {
    let mut reported = 0;
    while let Ok(first) = queue.recv() {
        std::thread::park_timeout(COALESCE_DELAY);
        for command in std::iter::once(first).chain(queue.try_iter().take(MAX_BATCH)) {
            match command {
                JournalCommand::Entry(entry) => {
                    counts.queued.fetch_sub(1, Ordering::Relaxed);
                    write(&entry);
                }
                JournalCommand::Flush(done) => drop(done.try_send(())),
            }
        }
        let total = counts.dropped.load(Ordering::Relaxed);
        if total > reported {
            let message =
                format!("{} entries were dropped while the journal was not reading", total - reported);
            write(&JournalEntry::new(Level::WARN, Some(Event::JournalDropped), message));
            reported = total;
        }
    }
}

/// Maps `INFO` to the syslog(3) priority `info`; the layer's default is `notice`.
fn priority_mappings() -> PriorityMappings {
    PriorityMappings { info: Priority::Informational, ..PriorityMappings::new() }
}

fn write_to_stderr(entry: &JournalEntry, clock: &Clock) {
    // One write for the line. If standard error is closed, there is no other place to report that.
    let line = format!("{} {:<5} {}\n", clock.now(), entry.level, printable(&entry.message));
    let _ = io::stderr().write_all(line.as_bytes());
}

/// The text with unprintable characters escaped. An escaped character takes up to ten bytes, so the result is
/// cut again.
fn printable(text: &str) -> Cow<'_, str> {
    match escape_unprintable(text) {
        Cow::Borrowed(text) => Cow::Borrowed(text),
        Cow::Owned(escaped) => Cow::Owned(cut_owned(escaped, MAX_MESSAGE)),
    }
}

fn write_to_journald(entry: &JournalEntry) {
    // tracing requires a constant level at each call site, so there is one call site for each level.
    macro_rules! emit {
        ($level:expr) => {
            tracing::event!(
                $level,
                MESSAGE_ID = entry.event.map(Event::message_id),
                HOSTBADGE_EVENT = entry.event.map(Event::name),
                HOSTBADGE_AGENT = entry.agent.as_deref(),
                HOSTBADGE_AUDIENCE = entry.audience.as_deref().map(printable).as_deref(),
                HOSTBADGE_JTI = entry.jti.as_deref().map(printable).as_deref(),
                HOSTBADGE_REASON = entry.reason,
                HOSTBADGE_PEER_PID = entry.pid,
                HOSTBADGE_PEER_UID = entry.uid,
                HOSTBADGE_CORRELATION_ID = entry
                    .correlation
                    .as_ref()
                    .map(|correlation| correlation.trace_id().to_string())
                    .as_deref(),
                HOSTBADGE_PEER_UNIT = entry.unit.as_deref().map(printable).as_deref(),
                "{}",
                printable(&entry.message)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_bounded_before_and_after_they_are_escaped() {
        for unit in ["x", "\u{7f}", "\u{1}", "\u{85}", "\""] {
            let entry = JournalEntry::new(Level::INFO, None, unit.repeat(200_000));
            assert!(entry.message.len() <= MAX_MESSAGE, "{unit:?}");
            assert!(entry.message.contains("… ("), "{unit:?}");
            let written = printable(&entry.message);
            assert!(written.len() <= MAX_MESSAGE && !written.contains(char::is_control), "{unit:?}");
        }
        let short = "x".repeat(1000);
        assert_eq!(printable(&JournalEntry::new(Level::INFO, None, short.clone()).message), short);
    }

    #[test]
    fn characters_that_reorder_or_hide_text_are_escaped() {
        let invisible = ['\u{61c}', '\u{200b}', '\u{200e}', '\u{200f}', '\u{202a}', '\u{202e}', '\u{2028}'];
        let invisible =
            invisible.into_iter().chain(['\u{2066}', '\u{2069}', '\u{feff}', '\u{e0041}', '\u{9b}']);
        for c in invisible {
            let written = printable(&format!("ä{c}b")).into_owned();
            assert_eq!(written, format!("ä{}b", c.escape_unicode()));
        }
        assert_eq!(printable("ä \"b\" 'c' \\ 🦀 … 漢"), "ä \"b\" 'c' \\ 🦀 … 漢");
    }
}
