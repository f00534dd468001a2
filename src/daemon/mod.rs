//! The parts of the daemon's life that are no room's: hardening, logging, sockets, the keeper of keys, signals.
//!
//! `src/bin/hostbadged.rs` tells the story; these are its sentences.

mod arguments;
mod certifier;
mod changes;
mod harden;
mod keeper;
mod logging;
mod memory;
mod news;
mod notify;
mod rotator;
mod rsa;
mod sockets;
mod watcher;

pub use arguments::Arguments;
pub use certifier::Certifier;
pub use harden::{connections_that_fit, harden};
pub use keeper::{Keeper, Tell, View};
pub use logging::start_logging;
pub use memory::release_start;
pub use notify::{Pulse, ready, reloading, stopping, tell};
pub use rotator::Rotator;
pub use rsa::RsaKeeper;
pub use sockets::{Sockets, open_sockets};
pub use watcher::Watcher;
