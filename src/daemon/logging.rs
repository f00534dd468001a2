//! Starts the journal's thread and leads everything that rooms say there.

use std::io;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::audit::{Journal, Relay};
use crate::clock::Clock;
use crate::config::Log;

/// To be called once.
pub fn start_logging(log: &Log, clock: Clock) -> io::Result<Journal> {
    let journal = Journal::start(log.to, clock)?;
    tracing_subscriber::registry()
        .with(Relay::new(journal.clone(), log.level))
        .try_init()
        .map_err(io::Error::other)?;
    Ok(journal)
}
