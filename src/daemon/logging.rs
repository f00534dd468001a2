//! Starts the journal thread and sends all `tracing` events to it.

use std::io;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::audit::{Journal, JournalLayer};
use crate::clock::Clock;
use crate::config::LogSection;

/// Starts logging with the configured target and level. Call it once per process.
///
/// # Errors
/// The journal thread cannot be started, or the process logs already.
pub(super) fn start_logging(log: &LogSection, clock: Clock) -> io::Result<Journal> {
    let journal = Journal::start(log.target, clock)?;
    tracing_subscriber::registry()
        .with(JournalLayer::new(journal.clone(), log.level))
        .try_init()
        .map_err(io::Error::other)?;
    Ok(journal)
}
