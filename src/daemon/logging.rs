//! Starts the journal's thread and leads everything that rooms say there.

use std::io;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::audit::{Journal, JournalLayer};
use crate::clock::Clock;
use crate::config::LogSection;

/// To be called once.
pub fn start_logging(log: &LogSection, clock: Clock) -> io::Result<Journal> {
    let journal = Journal::start(log.target, clock)?;
    tracing_subscriber::registry()
        .with(JournalLayer::new(journal.clone(), log.level))
        .try_init()
        .map_err(io::Error::other)?;
    Ok(journal)
}
